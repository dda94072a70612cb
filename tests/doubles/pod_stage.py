"""A pod that is brought from state to state by commands that cost little."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from doubles.agreement import cgroups_below, check_kernel
from doubles.command_server import CommandServer
from doubles.commands import Podrt, monitors_of
from podrt.config import Settings
from podrt.runtime.view import open_view

SLEEP = ("base", "/bin/sleep", "1000")


class Stage:
    """Pod `shop` of two containers, b of which needs a, and commands on it."""

    def __init__(self, podrt: Podrt, server: CommandServer) -> None:
        self.podrt = podrt
        self.run = server
        self.settings = Settings(root=str(podrt.root), runroot=str(podrt.runroot))

    @property
    def create_words(self) -> tuple[str, ...]:
        """The command that makes the pod, without its two containers."""
        return ("pod", "create", "--name", "shop", "--cgroup-parent", self.podrt.cgroup_parent)

    def state(self) -> str:
        """The pod's state, "" when there is none."""
        with open_view(self.settings) as view:
            return "".join(str(view.pod_state(pod)) for pod in view.pods())

    def bring_to(self, wanted: str) -> None:
        """Bring the pod to a state, from whatever it is in."""
        state = self.state()
        if state == wanted:
            return
        if not state:
            self._make_pod()
        elif not wanted:
            self.run("pod", "rm", "--force", "--time", "0", "shop")
            return
        elif state == "Paused":
            self.run("pod", "unpause", "shop")
        self.run("pod", "start", "shop")
        verb = {"Exited": ("stop", "--time", "0"), "Paused": ("pause",)}.get(wanted)
        if verb:
            self.run("pod", *verb, "shop")
        assert self.state() == wanted

    def _make_pod(self) -> None:
        self.run(*self.create_words)
        for name, *needs in (("a",), ("b", "--requires", "a")):
            self.run(
                "create", "--pod", "shop", "--name", name, *needs, "--stop-timeout", "0", *SLEEP
            )

    def monitor(self) -> int:
        """The pod's monitor, 0 when there is none yet."""
        return next(iter(monitors_of(str(self.podrt.runroot))), 0)

    def has_container(self, name: str) -> bool:
        """Whether a container of that name is there."""
        with open_view(self.settings) as view:
            return name in [record.config.name for record in view.containers()]

    def check_kernel(self) -> None:
        """State and kernel agree, with nothing repaired."""
        check_kernel(self.settings, self.podrt.cgroup_parent)
        assert self.run("system", "check") == ""

    def check_empty(self) -> None:
        """Nothing is left of any pod on the disk and in the kernel."""
        assert self.podrt.files() == []
        assert [*cgroups_below(self.podrt.cgroup_parent)] == []


@contextmanager
def open_stage(folder: Path, cgroup_parent: str) -> Iterator[Stage]:
    """A stage below `folder`; everything is removed and checked afterwards."""
    podrt = Podrt(folder, cgroup_parent)
    podrt.import_busybox(folder)
    try:
        with CommandServer(podrt) as server:
            yield Stage(podrt, server)
    finally:
        podrt.remove_all()
    assert podrt.is_clean()
