"""Scripts of pod commands that podman and podrt both play, and in what they may differ.

A line is a command without the program's name. {id} and {short} are the ID that the script's
first `pod create` printed, whole and cut; {file} is a path where nothing is. What both need to
work on the same host (a cgroup parent, no network) is added by the player.
"""

from __future__ import annotations

from typing import NamedTuple

POD = "pod create --name shop"
SLEEPER = "create --pod shop --name {} base /bin/sleep 1000"
A, B = SLEEPER.format("a"), SLEEPER.format("b")
START, STOP, RM = "pod start shop", "pod stop -t 0 shop", "pod rm -f -t 0 shop"

SCRIPTS: dict[str, tuple[str, ...]] = {
    # --- create ---------------------------------------------------------------------------------
    "create": (POD, "pod exists shop", "pod ps"),
    "create with a positional name": ("pod create shop", "pod inspect shop --format {{.Name}}"),
    "create without a name": ("pod create", "pod ps -q", "pod rm --all"),
    "create twice": (POD, POD),
    "create with the name of a container": ("create --name shop base /bin/true", POD),
    "create with a slash in the name": ("pod create --name a/b",),
    "create with a leading underscore": ("pod create --name _a",),
    "create with two names": ("pod create --name shop stall",),
    "create with an unknown flag": ("pod create --nonsense",),
    "create and replace": (POD, A, f"{POD} --replace",
                           "pod inspect shop --format {{.NumContainers}}"),
    "create and replace what runs": (POD, A, START, f"{POD} --replace"),
    "replace without a name": ("pod create --replace",),
    "replace nothing": (f"{POD} --replace", "pod ps -q"),
    "no infra": (f"{POD} --infra=false", "pod ps",
                 "pod inspect shop --format {{.InfraContainerID}}"),
    "no infra but sharing": (f"{POD} --infra=false --share net", "pod exists shop"),
    "share an unknown namespace": (f"{POD} --share nonsense", "pod exists shop"),
    "share none": (f"{POD} --share none", "pod inspect shop --format {{.SharedNamespaces}}"),
    "infra with a name": (f"{POD} --infra-name keeper", "rm keeper", "pod exists shop"),
    "hostname": (f"{POD} --hostname till", "pod inspect shop --format {{.Hostname}}"),
    "a slice as cgroup parent": (f"{POD} --cgroup-parent a.slice", "pod exists shop"),
    "id file": (f"{POD} --pod-id-file {{file}}", "pod create --name stall --pod-id-file {file}",
                "pod exists stall"),
    "labels": (f"{POD} --label a=b", "pod ps -q --filter label=a=b", "pod ps -q --filter label=a=c",
               "pod inspect shop --format {{.Labels}}"),
    "memory limit": (f"{POD} --memory 64m", "pod inspect shop --format {{.MemoryLimit}}"),
    "memory limit that is none": (f"{POD} --memory nonsense", "pod exists shop"),
    # --- start ----------------------------------------------------------------------------------
    "start": (POD, A, B, START),
    "start an empty pod": (POD, START),
    "start a pod without infra and containers": (f"{POD} --infra=false", START),
    "start twice": (POD, A, START, START),
    "start by ID": (POD, A, "pod start {id}"),
    "start by a part of the ID": (POD, A, "pod start {short}"),
    "start what is not there": ("pod start shop",),
    "start nothing": ("pod start",),
    "start two, one of which is not there": (POD, A, "pod start shop stall"),
    "start all": (POD, A, "pod create --name stall", "pod start --all"),
    "start all and one": (POD, A, "pod start --all shop"),
    "start all of none": ("pod start --all",),
    "start the latest": ("pod create --name stall", POD, A, "pod start --latest"),
    "start with a program that is not there": (POD, A, "create --pod shop --name b base /bin/none",
                                               START),
    "start what depends": (POD, A, "create --pod shop --name b --requires a base /bin/sleep 1000",
                           START),
    "start one member": (POD, A, B, "start b"),
    "create in a pod that is not there": ("create --pod shop --name a base /bin/true",),
    "require what is not there": (POD, "create --pod shop --name b --requires x base /bin/true"),
    "init container": (POD, "create --pod shop --name i --init-ctr always base /bin/true", A,
                       START),
    "init container for once": (POD, "create --pod shop --name i --init-ctr once base /bin/true", A,
                                START),
    # --- stop, kill, restart ----------------------------------------------------------------------
    "stop": (POD, A, B, START, STOP),
    "stop twice": (POD, A, START, STOP, STOP),
    "stop what never ran": (POD, A, STOP),
    "stop what is not there": (STOP,),
    "stop what is not there and ignore that": (f"{STOP} --ignore",),
    "stop with words for a time": (POD, "pod stop -t soon shop"),
    "stop and start": (POD, A, START, STOP, START),
    "stop all": (POD, A, "pod create --name stall", "pod start --all", "pod stop --all -t 0"),
    "kill": (POD, A, B, START, "pod kill shop"),
    "kill what has exited": (POD, A, START, STOP, "pod kill shop"),
    "kill what never ran": (POD, A, "pod kill shop"),
    "kill with a signal that is none": (POD, A, START, "pod kill -s NONSENSE shop"),
    "kill with a signal it is deaf to": (POD, A, START, "pod kill -s HUP shop"),
    "kill what is not there": ("pod kill shop",),
    "restart": (POD, A, START, "pod restart shop"),
    "restart what never ran": (POD, A, "pod restart shop"),
    "restart what is not there": ("pod restart shop",),
    # --- pause ------------------------------------------------------------------------------------
    "pause and unpause": (POD, A, START, "pod pause shop", "pod ps -q --filter status=paused",
                          "pod unpause shop"),
    "pause twice": (POD, A, START, "pod pause shop", "pod pause shop"),
    "pause what is stopped": (POD, A, START, STOP, "pod pause shop"),
    "unpause what runs": (POD, A, START, "pod unpause shop"),
    "remove what is paused": (POD, A, START, "pod pause shop", "pod rm shop", RM),
    "start what is paused": (POD, A, START, "pod pause shop", START, "pod unpause shop"),
    # --- rm -------------------------------------------------------------------------------------
    "rm": (POD, A, "pod rm shop", "pod exists shop"),
    "rm what runs": (POD, A, START, "pod rm shop"),
    "rm what runs by force": (POD, A, START, RM),
    "rm what is stopped": (POD, A, START, STOP, "pod rm shop"),
    "rm a pod of nothing but its infra": (POD, START, "pod rm shop"),
    "rm what is not there": ("pod rm shop",),
    "rm what is not there by force": (RM,),
    "rm what is not there and ignore that": ("pod rm --ignore shop",),
    "rm with a time but no force": (POD, "pod rm -t 3 shop"),
    "rm all": (POD, A, "pod create --name stall", "pod rm --all", "pod ps -q"),
    "rm a member": (POD, A, B, START, "stop -t 0 b", "rm b"),
    "rm twice": (POD, "pod rm shop", "pod rm shop"),
    # --- reading --------------------------------------------------------------------------------
    "exists": ("pod exists shop", POD, "pod exists shop", "pod exists {short}"),
    "inspect what is not there": ("pod inspect shop",),
    "inspect": (POD, A, "pod inspect shop"),
    "inspect with a template": (
        POD, A, "pod inspect shop --format {{.Name}}:{{.State}}:{{.NumContainers}}"),
    "inspect with a broken template": (POD, "pod inspect shop --format {{.Name"),
    "inspect with a field that is none": (POD, "pod inspect shop --format {{.Nonsense}}"),
    "ps of nothing": ("pod ps", "pod ps -q", "pod ps --format json"),
    "ps as JSON": (POD, A, START, "pod ps --format json"),
    "ps as a table": (POD, A, "pod ps --format 'table {{.Name}} {{.Status}}'",
                      "pod ps --format {{.Name}}={{.Status}}"),
    "ps without heading": (POD, "pod ps --noheading"),
    "ps with containers": (POD, A, "pod ps --ctr-names --ctr-status --ctr-ids"),
    "ps with whole IDs": (POD, "pod ps -q --no-trunc"),
    "ps by filters": (POD, A, START, "pod ps -q --filter name=shop",
                      "pod ps -q --filter name=stall",
                      "pod ps -q --filter status=running", "pod ps -q --filter status=exited",
                      "pod ps -q --filter ctr-names=a", "pod ps -q --filter ctr-status=running",
                      "pod ps -q --filter ctr-number=2"),
    "ps by a filter that is none": ("pod ps --filter nonsense=1",),
    "ps by a status that is none": ("pod ps --filter status=nonsense",),
    "ps sorted by name": (POD, "pod create --name stall", "pod ps --sort name --format {{.Name}}"),
    "ps sorted by nonsense": ("pod ps --sort nonsense",),
    "top": (POD, A, START, "pod top shop pid"),
    "top of what does not run": (POD, A, "pod top shop pid"),
    "stats of nothing": ("pod stats --no-stream shop",),
    # --- how they end -----------------------------------------------------------------------------
    "one of two has ended": (POD, A, B, START, "stop -t 0 b", "pod ps --format {{.Status}}"),
    "all have ended": (POD, A, START, "stop -t 0 a", "pod ps --format {{.Status}}"),
    "prune": (POD, A, START, STOP, "pod create --name stall", "pod prune --force",
              "pod ps --format {{.Name}}"),
    "prune nothing": ("pod prune --force",),
    "prune what runs": (POD, A, START, "pod prune --force", "pod exists shop"),
    "a verb that is none": ("pod nonsense",),
}  # fmt: skip

SAMPLE = (
    "create twice", "no infra but sharing", "start by a part of the ID", "kill what has exited",
    "pause and unpause", "rm what runs", "inspect", "prune",
)  # fmt: skip
"""What `make test` plays."""


class Difference(NamedTuple):
    """Answers that differ on purpose: in which scripts and lines, what of them, and why.

    `scripts`, `line`, `ours` and `theirs` are patterns of the whole; `what` is "code", "out" or
    "states".
    """

    scripts: str
    line: str
    what: str
    ours: str
    theirs: str
    reason: str


TYPED = "semantics.md 11: what was typed; today's podman start and stop print the name as well"
CLEANED = "semantics.md 12: no process for each end; the next verb cleans up after it"
DIFFERENCES = (
    Difference(
        ".*", "pod (start|stop|kill|restart|pause|unpause|rm) .*shop.*", "out", "shop", "ID", TYPED
    ),
    Difference("start by a part of the ID", ".*", "out", "id", "ID", TYPED),
    Difference("start two, one of which is not there", ".*", "out", ".*", ".*", TYPED),
    Difference("memory limit", ".*inspect.*", "out", "67108864", "0", "4.3.1 does not show it"),
    Difference(
        "kill",
        "infra",
        "states",
        "running",
        "exited",
        "semantics.md 7: the infra container has no process that could be killed",
    ),
    Difference(
        "unpause what runs",
        "pod unpause shop",
        "out",
        "shop",
        "",
        "semantics.md 11: what was typed, also if there was nothing to do",
    ),
    Difference(
        "inspect",
        "pod inspect shop",
        "out",
        r"\[.*",
        r"\{.*",
        "a list since 5.0; more keys, and none of networks and of the command that made it",
    ),
    Difference(
        "ps as JSON", ".*json", "out", ".*RestartCount.*", ".*", "RestartCount came with 5.0"
    ),
    Difference("init container", "i", "states", "stopped", "exited", CLEANED),
    Difference("kill", "[ab]", "states", "stopped", "exited", CLEANED),
    Difference(
        "ps with containers",
        ".*",
        "out",
        ".*id-infra,a .*",
        ".*(a,id-infra|id-infra,a) .*",
        "semantics.md 10: in order of creation; podman's is that of its data base",
    ),
    Difference(
        "top of what does not run",
        "pod top shop pid",
        "out",
        "PID",
        "",
        "a listing has its heading also if it lists nothing",
    ),
    Difference(
        "all have ended",
        "pod ps .*|pod shop",
        "(out|states)",
        "Exited",
        "Degraded",
        "semantics.md 2: an infra container without a process is not counted",
    ),
    Difference(
        "top",
        "pod top shop pid",
        "out",
        "PID\n1",
        "PID\n1\n1",
        "semantics.md 7: the infra container has no process",
    ),
)
