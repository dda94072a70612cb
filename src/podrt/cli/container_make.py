"""`podrt create` and `podrt run`."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys

import msgspec
import trio

from podrt.config import Settings
from podrt.errors import Ambiguous, InvalidConfig, InvalidState, NotFound, PodrtError, Removed
from podrt.linux import files
from podrt.model.container import ContainerConfig
from podrt.model.userns import HOST_USERS
from podrt.runtime.container import Container
from podrt.runtime.inherit import mounts_from
from podrt.runtime.logs import LogReader
from podrt.runtime.runtime import Runtime

from .container_flags import add_container_flags, container_config, new_pod_name
from .flags import Parser
from .run_async import run as run_verb

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)
_POLL_S = 0.02


def create_flags(parser: Parser) -> None:
    """Flags of `create`."""
    add_container_flags(parser)


def create(args: argparse.Namespace, settings: Settings) -> int:
    """Create a container and print its ID."""

    _check_id_file(args)

    async def verb(runtime: Runtime) -> str:
        return (await _make(runtime, args)).id

    print(run_verb(settings, verb))
    return 0


def run_flags(parser: Parser) -> None:
    """Flags of `run`."""
    add_container_flags(parser)
    parser.switch("--detach", "-d", help="print the ID and leave it running")
    parser.switch("--sig-proxy", default=True, help="pass signals on to the container")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Create and start a container; its exit code unless it is detached."""

    _check_id_file(args)

    async def verb(runtime: Runtime) -> int:
        container = await _make(runtime, args)
        try:
            await container.start()
        except BaseException:
            # podman keeps what could not be started, unless it was to be removed anyway.
            if args.rm:
                with trio.CancelScope(shield=True):
                    await container.remove(force=True)
            raise
        if args.detach:
            print(container.id)
            return 0
        code = await _follow(runtime, container, proxy=args.sig_proxy)
        if args.rm:
            # Somebody else may have been faster; the code is what the caller waits for.
            with contextlib.suppress(Removed):
                await container.remove(force=True)
        return code

    return run_verb(settings, verb)


def _check_id_file(args: argparse.Namespace) -> None:
    if args.cidfile and os.path.exists(args.cidfile):
        raise InvalidConfig("--cidfile", f"{args.cidfile} exists already")


async def _make(runtime: Runtime, args: argparse.Namespace) -> Container:
    config = _with_volumes(runtime, args, container_config(args))
    if args.replace:
        if not config.name:
            raise InvalidConfig(
                "", "cannot replace container without a name: --replace needs --name"
            )
        await _remove_named(runtime, config.name)
    pod_name = new_pod_name(args)
    if pod_name is None:
        container = await runtime.create_container(config)
    else:
        container = await _make_with_pod(runtime, args, pod_name)
    if args.cidfile:
        files.write_atomically(args.cidfile, container.id.encode(), 0o644)
    return container


def _with_volumes(
    runtime: Runtime, args: argparse.Namespace, config: ContainerConfig
) -> ContainerConfig:
    runtime.view.refresh()
    taken = mounts_from(runtime.view, args.volumes_from, config.mounts)
    return msgspec.structs.replace(config, mounts=(*config.mounts, *taken))


async def _make_with_pod(runtime: Runtime, args: argparse.Namespace, name: str) -> Container:
    """`--pod new:NAME`: pod and container in one transaction."""
    from podrt.model.pod import PodConfig

    config = _with_volumes(runtime, args, container_config(args, pod=""))
    # As podman: what is said about users is the pod's.
    users = config.userns
    config = msgspec.structs.replace(config, userns=HOST_USERS)
    pod = await runtime.create_pod(PodConfig(name=name, userns=users), [config])
    return pod.containers()[-1]


async def _remove_named(runtime: Runtime, name: str) -> None:
    try:
        found = runtime.container(name)
    except (NotFound, Ambiguous):
        return
    if found.name == name:
        with contextlib.suppress(Removed):
            await found.remove(force=True)


async def _follow(runtime: Runtime, container: Container, *, proxy: bool) -> int:
    """Copy the container's output to ours until it ended; its exit code."""
    reader = LogReader(runtime.settings.layout.log(container.id))
    async with trio.open_nursery() as nursery:
        if proxy:
            nursery.start_soon(_forward_signals, container)
        nursery.start_soon(_copy_output, reader)
        code = await container.wait()
        nursery.cancel_scope.cancel()
    _copy_once(reader)
    reader.close()
    return code


async def _forward_signals(container: Container) -> None:
    with trio.open_signal_receiver(*_FORWARDED) as received:
        async for number in received:
            try:
                await container.kill(number)
            except (InvalidState, Removed):
                return
            except PodrtError as exc:
                print(f"Error: {exc}", file=sys.stderr)


async def _copy_output(reader: LogReader) -> None:
    while True:
        _copy_once(reader)
        await trio.sleep(_POLL_S)


def _copy_once(reader: LogReader) -> None:
    for line in reader.read():
        stream = sys.stderr if line.stream == b"stderr" else sys.stdout
        stream.buffer.write(line.text)
    sys.stdout.flush()
    sys.stderr.flush()
