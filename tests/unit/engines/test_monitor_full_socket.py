"""Many requests at once to a monitor that is slow to read them."""

from __future__ import annotations

import socket

import trio
import trio.testing

from podrt.engines import wire
from podrt.engines.monitor import Monitor

# More than a socket holds: the kernel counts far more for a message than its own bytes.
REQUESTS = 2000


async def answer_all(peer: socket.socket) -> None:
    """Read every request, answer it with OK."""
    for _ in range(REQUESTS):
        message = wire.decode(await trio.to_thread.run_sync(peer.recv, wire.MAX_MESSAGE))
        reply = wire.Message(wire.Kind.OK, req=message.req)
        await trio.to_thread.run_sync(peer.send, wire.encode(reply))


async def test_ask_many_at_once_waits_while_the_socket_is_full() -> None:
    ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, peer:
        ours.setblocking(False)
        monitor = Monitor(ours, "a" * 64)
        async with trio.open_nursery() as background:
            background.start_soon(monitor.read_replies)
            async with trio.open_nursery() as nursery:
                for _ in range(REQUESTS):
                    nursery.start_soon(monitor.hello)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(answer_all, peer)
            background.cancel_scope.cancel()
