"""Every verb of the command line: where it is and what it does in a line."""

from __future__ import annotations

from typing import NamedTuple

from .errors import UsageError


class Verb(NamedTuple):
    """A verb's module below podrt.cli, its function (and `<function>_flags`), its summary."""

    module: str
    function: str
    summary: str


VERBS: dict[str, Verb] = {
    "pod create": Verb("pod", "create", "Create a new empty pod"),
    "pod start": Verb("pod", "start", "Start one or more pods"),
    "pod stop": Verb("pod", "stop", "Stop one or more pods"),
    "pod kill": Verb("pod", "kill", "Send a signal to the running containers of pods"),
    "pod restart": Verb("restart", "restart_pods", "Restart one or more pods"),
    "pod pause": Verb("pause", "pause_pods", "Pause one or more pods"),
    "pod unpause": Verb("pause", "unpause_pods", "Unpause one or more pods"),
    "pod prune": Verb("prune", "prune_pods", "Remove all pods that have ended"),
    "pod top": Verb("top", "top_pod", "Display the running processes of a pod"),
    "pod stats": Verb("stats", "stats_pods", "Display what pods and their containers use"),
    "pod graph": Verb("graph", "graph", "Display what a pod's containers wait for"),
    "pod update": Verb(
        "update", "update_pod", "Change limits and restart policy of an existing pod"
    ),
    "pod clone": Verb("clone", "clone_pod", "Clone an existing pod"),
    "pod logs": Verb("container_logs", "pod_logs", "Fetch the logs of a pod's containers"),
    "pod rm": Verb("pod", "remove", "Remove one or more pods"),
    "pod ps": Verb("pod_read", "ps", "List pods"),
    "pod inspect": Verb("pod_read", "inspect", "Display a pod's configuration and state"),
    "pod exists": Verb("pod_read", "exists", "Check if a pod exists"),
    "create": Verb("container_make", "create", "Create but do not start a container"),
    "run": Verb("container_make", "run", "Run a command in a new container"),
    "start": Verb("container", "start", "Start one or more containers"),
    "stop": Verb("container", "stop", "Stop one or more containers"),
    "kill": Verb("container", "kill", "Kill running containers with a signal"),
    "restart": Verb("restart", "restart", "Restart one or more containers"),
    "pause": Verb("pause", "pause", "Pause one or more running containers"),
    "unpause": Verb("pause", "unpause", "Unpause one or more paused containers"),
    "update": Verb("update", "update", "Change limits and restart policy of an existing container"),
    "container clone": Verb("clone", "clone_container", "Clone an existing container"),
    "rename": Verb("container", "rename", "Rename an existing container"),
    "container exists": Verb("container_read", "exists", "Check if a container exists"),
    "container prune": Verb("prune", "prune_containers", "Remove all containers that do not run"),
    "top": Verb("top", "top", "Display the running processes of a container"),
    "stats": Verb("stats", "stats", "Display what containers use"),
    "rm": Verb("container", "remove", "Remove one or more containers"),
    "wait": Verb("container", "wait", "Block until containers stop, then print their exit codes"),
    "events": Verb("events", "events", "Show what happened to pods and containers"),
    "logs": Verb("container_logs", "logs", "Fetch the logs of one or more containers"),
    "ps": Verb("container_read", "ps", "List containers"),
    "inspect": Verb("container_read", "inspect", "Display a container's, pod's or image's data"),
    "kube play": Verb("kube", "play", "Play pods from Kubernetes YAML files"),
    "kube down": Verb("kube", "down", "Remove the pods that YAML files made"),
    "image import": Verb("image", "import_", "Import an archive as a root file system image"),
    "image ls": Verb("image_read", "ls", "List images"),
    "image rm": Verb("image", "remove", "Remove one or more images"),
    "system check": Verb("system", "check", "Find and repair what does not fit together"),
    "system locks": Verb("system", "locks", "List locks: holders, waiters, what looks abandoned"),
    "system settle": Verb("system", "settle", "Do what is due after containers have ended"),
    "debug plan": Verb("system", "plan", "Print a container's compiled plan"),
    "info": Verb("system", "info", "Display what podrt works with on this host"),
    "version": Verb("system", "version", "Display the version"),
}

ALIASES = {
    "pod ls": "pod ps",
    "pod list": "pod ps",
    "container create": "create",
    "container run": "run",
    "container start": "start",
    "container stop": "stop",
    "container kill": "kill",
    "container restart": "restart",
    "container pause": "pause",
    "container unpause": "unpause",
    "container top": "top",
    "container stats": "stats",
    "container update": "update",
    "container rename": "rename",
    "container rm": "rm",
    "container wait": "wait",
    "container logs": "logs",
    "container ps": "ps",
    "container ls": "ps",
    "container inspect": "inspect",
    "image list": "image ls",
    "images": "image ls",
    "import": "image import",
    "rmi": "image rm",
    "play kube": "kube play",
    "system info": "info",
    "system events": "events",
}

GROUPS = frozenset(path.split()[0] for path in (*VERBS, *ALIASES) if " " in path)
GLOBAL_FLAGS = frozenset(
    {"--root", "--runroot", "--cgroup-manager", "--engine", "--runtime", "--namespace"}
)


def find(words: list[str]) -> tuple[str, list[str]]:
    """The verb that `words` begin with, as a key of VERBS or one of GROUPS, and the rest.

    Raises: UsageError.
    """
    for length in (2, 1):
        path = " ".join(words[:length])
        path = ALIASES.get(path, path)
        if len(words) >= length and path in VERBS:
            return path, words[length:]
    if words[0] in GROUPS:
        return words[0], words[1:]
    raise UsageError(f"unrecognized command `podrt {words[0]}`", "podrt")


def overview(group: str = "") -> str:
    """The help text that lists all verbs, or those of a group."""
    shown = {
        path: verb for path, verb in VERBS.items() if not group or path.startswith(f"{group} ")
    }
    width = max(len(path) for path in shown)
    lines = [f"  {path:<{width}}  {verb.summary}" for path, verb in shown.items()]
    if not group:
        # It has a command line of its own (oci.py): runc's.
        lines.append(f"  {'oci':<{width}}  Be an OCI runtime for other container managers")
    flags = (
        "  --root DIR  --runroot DIR  --cgroup-manager cgroupfs|disabled  --engine native|crun|runc"
    )
    return "\n".join(
        ["Run pods: groups of containers that live together.", "", "Commands:", *lines, "",
         "Global flags:", flags]
    )  # fmt: skip
