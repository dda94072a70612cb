"""One worker of a storm: random verbs on pods that everybody else works on too.

It holds a runtime of its own open and runs some tasks in it; each writes into its own ledger
what it is about to do and what it was answered.
"""

from __future__ import annotations

import faulthandler
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import trio

from doubles.commands import command_environment
from doubles.storm_ledger import CRASHED, HUNG, OK, Ledger, Line, classes_of
from podrt.cli.shapes import container_row, pod_document, pod_row
from podrt.config import Settings
from podrt.errors import NotFound, PodrtError, Removed, WalkFailed
from podrt.model.container import ContainerConfig, Dependency
from podrt.model.pod import PodConfig
from podrt.runtime.container import Container
from podrt.runtime.pod import Pod
from podrt.runtime.runtime import Runtime, open_runtime
from podrt.runtime.view import open_view

PODS = 50
HOT_PODS = 8
LONE = 6
# Only a deadlock lasts longer, however busy the machine is.
BOUND_S = 60.0

_SLEEP = ("/bin/sleep", "1000")
_COMMANDS = (
    _SLEEP, _SLEEP, _SLEEP, ("/bin/true",), ("/bin/sleep", "0.2"),
    ("/bin/sh", "-c", "trap 'exit 0' TERM; echo up; sleep 1000 & wait"),
)  # fmt: skip
_WEIGHTS = {
    "make_pod": 16, "start_pod": 16, "stop_pod": 9, "kill_pod": 4, "remove_pod": 7,
    "force_remove_pod": 5, "make_member": 10, "start_member": 5, "stop_member": 4,
    "kill_member": 3, "restart_pod": 4, "pause_pod": 2, "unpause_pod": 4, "restart_member": 2,
    "pause_member": 1, "unpause_member": 2, "remove_member": 5, "make_lone": 3,
    "work_on_lone": 6, "look": 10, "look_anew": 3, "inspect": 6, "run_command": 1,
}  # fmt: skip
# What an error that a command printed was, by podrt's own words for it.
_PHRASES = {
    "is already in use": "AlreadyExists",
    "no such ": "NotFound",
    "has been removed": "Removed",
    " is busy": "Busy",
    "the monitor of": "MonitorGone",
    "no monitor serves": "MonitorGone",
    "a dependency of container": "DependencyFailed",
    "dependencies not running": "InvalidState",
    "it is being removed": "InvalidState",
    "is running: stop": "InvalidState",
    "it is paused": "InvalidState",
    "dependencies are not running": "InvalidState",
}


class Config(msgspec.Struct, frozen=True):
    """What a storm is told: where, from which seed on, how wide and for how long."""

    root: str
    runroot: str
    cgroup_parent: str
    folder: str
    seed: int
    workers: int
    tasks: int
    seconds: float
    worker_kills_s: float
    monitor_kills_s: float


class _Answer(msgspec.Struct):
    """What a verb that went well has to say."""

    made: dict[str, str] = {}
    group: str = ""
    classes: list[str] = []
    text: str = ""


Verb = Callable[[], Awaitable[_Answer | None]]


class Worker:
    """One task's choices."""

    def __init__(self, runtime: Runtime, config: Config, ledger: Ledger, seed: int) -> None:
        self._runtime = runtime
        self._config = config
        self._ledger = ledger
        self._chance = random.Random(seed)
        self._choices = [(getattr(self, f"_{name}"), weight) for name, weight in _WEIGHTS.items()]

    async def act(self) -> None:
        """Choose a verb and its object, and do it."""
        choices, weights = zip(*self._choices, strict=True)
        choice = self._chance.choices(choices, weights)[0]
        try:
            await choice()
        except (NotFound, Removed):
            # Looked for before anything was written down: not there is an answer, too.
            await trio.lowlevel.checkpoint()

    async def _do(self, line: Line, verb: Verb) -> None:
        self._ledger.write(line)
        end = Line(line.op, 0.0, OK)
        try:
            with trio.fail_after(BOUND_S):
                answer = await verb()
            if answer is not None:
                end.made, end.group = answer.made, answer.group
                end.classes, end.text = answer.classes, answer.text
                end.outcome = "error" if answer.classes else OK
        except PodrtError as error:
            end.outcome, end.classes, end.text = "error", classes_of(error), explained(error)
        except trio.TooSlowError:
            end.outcome, end.text = HUNG, self._standing()
        except Exception:
            end.outcome, end.text = CRASHED, traceback.format_exc()
        end.at_s = time.monotonic()
        self._ledger.write(end)

    def _standing(self) -> str:
        """What everybody holds: the word to look at when something hangs."""
        held = [
            str(entry)
            for entry in self._runtime._ctx.locks.table.entries()
            if entry.holder is not None or entry.claim is not None
        ]
        return "held and claimed:\n" + "\n".join(held)

    def _line(self, op: str, name: str = "", key: str = "", group: str = "") -> Line:
        return Line(op, time.monotonic(), name=name, id=key, group=group)

    # -- choices -------------------------------------------------------------------------------

    def _pod_name(self) -> str:
        """A few pods are everybody's darlings."""
        count = HOT_PODS if self._chance.random() < 0.5 else PODS
        return f"pod{self._chance.randrange(count)}"

    def _some_pod(self) -> Pod:
        return self._runtime.pod(self._pod_name())

    def _some_member(self) -> tuple[Pod, Container]:
        pod = self._some_pod()
        members = [one for one in pod.containers() if not one.name.endswith("-infra")]
        if not members:
            raise NotFound("container", pod.name)
        return pod, self._chance.choice(members)

    def _container_config(self, name: str, needs: tuple[str, ...], pod: str) -> ContainerConfig:
        return ContainerConfig(
            name=name,
            image="base",
            pod=pod,
            command=self._chance.choice(_COMMANDS),
            stop_timeout_s=0,
            requires=tuple(Dependency(need) for need in needs),
            cgroup_parent="" if pod else self._config.cgroup_parent,
        )

    def _grace_s(self) -> int:
        return int(self._chance.random() < 0.1)

    # -- pods ----------------------------------------------------------------------------------

    async def _make_pod(self) -> None:
        name = self._pod_name()
        count = self._chance.choice((0, 2, 2, 3))
        members = []
        for number in range(count):
            earlier = [f"{name}-{other}" for other in range(number) if self._chance.random() < 0.5]
            config = self._container_config(f"{name}-{number}", tuple(earlier), "x")
            members.append(msgspec.structs.replace(config, pod=""))
        config = PodConfig(name=name, cgroup_parent=self._config.cgroup_parent)

        async def verb() -> _Answer:
            pod = await self._runtime.create_pod(config, members)
            return _Answer({pod.id: name, **self._seen_members(pod)}, pod.id)

        line = self._line("pod create", name)
        line.made = {str(number): one.name for number, one in enumerate(members)}
        await self._do(line, verb)

    def _seen_members(self, pod: Pod) -> dict[str, str]:
        try:
            return {one.id: one.name for one in pod.containers()}
        except PodrtError:  # removed again already
            return {}

    async def _start_pod(self) -> None:
        pod = self._some_pod()
        await self._do(self._line("pod start", pod.name, pod.id), lambda: ended(pod.start()))

    async def _stop_pod(self) -> None:
        pod, grace_s = self._some_pod(), self._grace_s()
        verb = lambda: ended(pod.stop(timeout_s=grace_s))  # noqa: E731
        await self._do(self._line("pod stop", pod.name, pod.id), verb)

    async def _kill_pod(self) -> None:
        pod = self._some_pod()
        number = self._chance.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGHUP))
        await self._do(self._line("pod kill", pod.name, pod.id), lambda: ended(pod.kill(number)))

    async def _restart_pod(self) -> None:
        pod, grace_s = self._some_pod(), self._grace_s()
        verb = lambda: ended(pod.restart(timeout_s=grace_s))  # noqa: E731
        await self._do(self._line("pod restart", pod.name, pod.id), verb)

    async def _pause_pod(self) -> None:
        pod = self._some_pod()
        await self._do(self._line("pod pause", pod.name, pod.id), lambda: ended(pod.pause()))

    async def _unpause_pod(self) -> None:
        pod = self._some_pod()
        await self._do(self._line("pod unpause", pod.name, pod.id), lambda: ended(pod.unpause()))

    async def _remove_pod(self) -> None:
        pod = self._some_pod()
        await self._do(self._line("pod rm", pod.name, pod.id), lambda: ended(pod.remove()))

    async def _force_remove_pod(self) -> None:
        pod = self._some_pod()
        verb = lambda: ended(pod.remove(force=True, timeout_s=self._grace_s()))  # noqa: E731
        await self._do(self._line("pod rm --force", pod.name, pod.id), verb)

    # -- containers ----------------------------------------------------------------------------

    async def _make_member(self) -> None:
        pod = self._some_pod()
        name = f"{pod.name}-{self._chance.randrange(4)}"
        others = [one.name for one in pod.containers() if not one.name.endswith("-infra")]
        needs = (self._chance.choice(others),) if others and self._chance.random() < 0.4 else ()
        config = self._container_config(name, tuple(need for need in needs if need != name), pod.id)
        await self._make(self._line("create", name, group=pod.id), config)

    async def _make_lone(self) -> None:
        name = f"lone{self._chance.randrange(LONE)}"
        await self._make(self._line("create alone", name), self._container_config(name, (), ""))

    async def _make(self, line: Line, config: ContainerConfig) -> None:
        async def verb() -> _Answer:
            made = await self._runtime.create_container(config)
            return _Answer({made.id: made.name}, config.pod)

        await self._do(line, verb)

    async def _start_member(self) -> None:
        pod, one = self._some_member()
        await self._do(self._line("start", one.name, one.id, pod.id), lambda: ended(one.start()))

    async def _stop_member(self) -> None:
        pod, one = self._some_member()
        verb = lambda: ended(one.stop(timeout_s=self._grace_s()))  # noqa: E731
        await self._do(self._line("stop", one.name, one.id, pod.id), verb)

    async def _kill_member(self) -> None:
        pod, one = self._some_member()
        verb = lambda: ended(one.kill(signal.SIGKILL))  # noqa: E731
        await self._do(self._line("kill", one.name, one.id, pod.id), verb)

    async def _restart_member(self) -> None:
        pod, one = self._some_member()
        verb = lambda: ended(one.restart(timeout_s=self._grace_s()))  # noqa: E731
        await self._do(self._line("restart", one.name, one.id, pod.id), verb)

    async def _pause_member(self) -> None:
        pod, one = self._some_member()
        await self._do(self._line("pause", one.name, one.id, pod.id), lambda: ended(one.pause()))

    async def _unpause_member(self) -> None:
        pod, one = self._some_member()
        await self._do(
            self._line("unpause", one.name, one.id, pod.id), lambda: ended(one.unpause())
        )

    async def _remove_member(self) -> None:
        pod, one = self._some_member()
        force = self._chance.random() < 0.5
        line = self._line("rm --force" if force else "rm", one.name, one.id, pod.id)
        await self._do(line, lambda: ended(one.remove(force=force, timeout_s=None)))

    async def _work_on_lone(self) -> None:
        one = self._runtime.container(f"lone{self._chance.randrange(LONE)}")
        op, verb = self._chance.choice(
            (
                ("start", lambda: ended(one.start())),
                ("start", lambda: ended(one.start())),
                ("stop", lambda: ended(one.stop(timeout_s=self._grace_s()))),
                ("kill", lambda: ended(one.kill(signal.SIGTERM))),
                ("rm", lambda: ended(one.remove())),
                ("rm --force", lambda: ended(one.remove(force=True, timeout_s=0))),
            )
        )
        await self._do(self._line(op, one.name, one.id, one.id), verb)

    # -- looking -------------------------------------------------------------------------------

    async def _look(self) -> None:
        async def verb() -> None:
            self._runtime.pods()
            view = self._runtime.view
            for pod in view.pods():
                pod_row(view, pod)
            for record in view.containers():
                container_row(view, record)

        await self._do(self._line("list"), verb)

    async def _look_anew(self) -> None:
        """As `pod ps` does, which opens the state read-only."""

        async def verb() -> None:
            with open_view(self._runtime.settings) as view:
                for pod in view.pods():
                    pod_row(view, pod)

        await self._do(self._line("list"), verb)

    async def _inspect(self) -> None:
        pod = self._some_pod()

        async def verb() -> None:
            document = pod_document(self._runtime.view, pod.record())
            assert document["Id"] == pod.id
            pod.status()

        await self._do(self._line("inspect", pod.name, pod.id), verb)

    # -- plain commands ------------------------------------------------------------------------

    async def _run_command(self) -> None:
        pod = self._some_pod()
        op, words = self._chance.choice(
            (
                ("command list", ["pod", "ps", "--format", "json"]),
                ("command list", ["ps", "-a", "--format", "json"]),
                ("command inspect", ["pod", "inspect", pod.id]),
                ("pod start", ["pod", "start", pod.id]),
                ("pod stop", ["pod", "stop", "-t", "0", pod.id]),
                ("pod rm --force", ["pod", "rm", "--force", "-t", "0", pod.id]),
            )
        )
        await self._do(self._line(op, pod.name, pod.id), lambda: self._command(words))

    async def _command(self, words: list[str]) -> _Answer:
        places = ["--root", self._config.root, "--runroot", self._config.runroot]
        done = await trio.run_process(
            [sys.executable, "-m", "podrt", *places, *words],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=command_environment(),
        )
        text = done.stderr.decode()
        if done.returncode == 0:
            assert not text, text
            return _Answer()
        lines = text.splitlines()
        assert done.returncode in (1, 2, 125), (done.returncode, text)
        assert lines and all(line.startswith("Error: ") for line in lines), text
        return _Answer(classes=sorted({class_of(line) for line in lines}), text=text)


def class_of(line: str) -> str:
    """The class of the error that a command printed."""
    return next((name for words, name in _PHRASES.items() if words in line), line)


def explained(error: PodrtError) -> str:
    """An error's text with where it came from, for whom it should not have come to."""
    errors = [error]
    if isinstance(error, WalkFailed):
        errors += [one for one in error.outcomes.values() if one is not None]
    return "".join("".join(traceback.format_exception(one)) for one in errors)[-3000:]


async def ended(verb: Awaitable[object]) -> None:
    """A verb of which only the end counts."""
    await verb


async def _work(config: Config, number: int, until_s: float, asked: list[int]) -> None:
    settings = Settings(root=config.root, runroot=config.runroot)
    async with open_runtime(settings) as runtime, trio.open_nursery() as nursery:

        async def task(place: int) -> None:
            ledger = Ledger(Path(config.folder, f"{number:05d}-{place}.ledger"))
            seed = config.seed * 1_000_003 + number * 101 + place
            worker = Worker(runtime, config, ledger, seed)
            while time.monotonic() < until_s and not asked:
                await worker.act()
            ledger.close()

        for place in range(config.tasks):
            nursery.start_soon(task, place)


def work(config: Config, number: int, until_s: float) -> None:
    """Work until `until_s` or SIGTERM; what is under way is finished. Never returns."""
    code = 1
    try:
        asked: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
        stacks = open(Path(config.folder, f"{number:05d}.stacks"), "w")  # noqa: SIM115
        os.dup2(stacks.fileno(), sys.stderr.fileno())
        faulthandler.register(signal.SIGUSR1, stacks, all_threads=True)
        trio.run(_work, config, number, until_s, asked)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
