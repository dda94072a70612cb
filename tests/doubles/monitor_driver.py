"""Drives a podrt-monitor by hand: no part of podrt is used, so that what the C side promises is
seen apart from what the Python side makes of it.

Plans, messages and journal records are packed here a second time, from the numbers in wire.h.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import signal
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

HEAD = struct.Struct("=HHIIiQQ32s")
RECORD = struct.Struct("=IHHQQ32sIiQiiQQ")
JOURNAL_HEADER = struct.Struct("=8sII16s32s")
OP_HEAD = struct.Struct("=HHIQ")

HELLO, SETUP, START, RELEASE, SIGNAL, STOP, WAIT, REMOVING, FORGET, RELEASE_NS, ADOPT = range(1, 12)
PAUSE, UNPAUSE, POLICY = 12, 13, 14
OK, FAILED, CREATED, STARTED, EXITED, TERMINAL_MESSAGE = range(64, 70)
HOLD, UNIFIED, LEADS, TIMES, RESTARTS, SETTLE, REMOVE = (1 << bit for bit in range(7))
NO, ON_FAILURE, ALWAYS, UNLESS_STOPPED = range(4)
BY_USER, OOM, UNKNOWN = 1, 2, 4

(SETNS, ROOT_OVERLAY, ROOT_BIND, MOUNT, BIND, POD_SHM, DEVICE, SYMLINK, MASK, READONLY) = range(
    1, 11
)
(PIVOT, HOSTNAME, DOMAINNAME, SYSCTL, RLIMIT, OOM_SCORE, SEAL, USER, CAPS) = range(11, 20)
(NO_NEW_PRIVS, SECCOMP, KEYRING, CWD, EXEC, LOG, PROPAGATION) = range(20, 27)
(TERMINAL, APPARMOR, SELINUX, IOPRIO, SCHED, AFFINITY, PERSONALITY, TIMENS) = range(27, 35)
(FIRST_AFFINITY, HOOKS, NOTIFY) = range(35, 38)
(STDIO, IDMAP, MOUNT_ATTR, HOLD_OP) = range(39, 43)

MONITOR_UP, NS_UP, REC_CREATED, REC_STARTED, REC_EXITED, REC_STOPPING = range(1, 7)
REC_START_FAILED, REC_PAUSED, REC_UNPAUSED, NS_DOWN, FORGOTTEN, RECEIPT, MONITOR_DOWN = range(7, 14)

NEWNS, NEWCGROUP, NEWUTS, NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
NEWPID, NEWNET, NEWUSER, NEWTIME = 0x20000000, 0x40000000, 0x10000000, 0x80
MS_UNBINDABLE, MS_PRIVATE, MS_SLAVE, MS_SHARED = (1 << bit for bit in range(17, 21))
MS_REC = 1 << 14
DEFAULT_FLAGS = NEWNS | NEWPID | NEWIPC | NEWUTS | NEWCGROUP

RDONLY, NOSUID, NODEV, NOEXEC, STRICTATIME = 1, 2, 4, 8, 0x20
HARD = NOSUID | NODEV | NOEXEC

DEFAULT_CAPS = sum(1 << cap for cap in (0, 1, 3, 4, 5, 6, 7, 8, 10, 18, 31))
PATIENCE_S = 20.0


class Field(NamedTuple):
    """A field: what stands in its place, and what follows behind all fields."""

    slots: bytes
    data: bytes = b""
    room: int = 0  # for the strings of a list, and its end


def u32(value: int) -> Field:
    return u64(value)


def u64(value: int) -> Field:
    return Field(struct.pack("=Q", value))


def text(value: str | bytes) -> Field:
    raw = value.encode() if isinstance(value, str) else value
    return Field(bytes(8), raw + b"\0")


def texts(values: Sequence[str | bytes]) -> Field:
    data = b"".join(text(value).data for value in values)
    return Field(struct.pack("=Q", len(values)), data, len(values) + 1)


def numbers(values: Sequence[int]) -> Field:
    return Field(struct.pack("=QQ", len(values), 0), struct.pack(f"={len(values)}I", *values))


def blob(value: bytes) -> Field:
    return Field(struct.pack("=QQ", len(value), 0), value)


class Operation(bytes):
    """The bytes of an operation, and how many strings its lists have, with an end for each."""

    room = 0


def op(code: int, *fields: Field, flags: int = 0) -> Operation:
    payload = b"".join((*(field.slots for field in fields), *(field.data for field in fields)))
    payload += bytes(-len(payload) % 8)
    made = Operation(OP_HEAD.pack(code, flags, OP_HEAD.size + len(payload), 0) + payload)
    made.room = sum(field.room for field in fields)
    return made


def mount(fstype: str, dest: str, attrs: int = HARD, options: Sequence[str] = ()) -> Operation:
    return op(MOUNT, text(fstype), text(fstype), text(dest), u64(attrs), texts(options))


def bind(
    source: str, dest: str, *, attrs: int = 0, flags: int = 7, maps: Sequence[str] = ("", "")
) -> Operation:
    return op(
        BIND, text(source), text(dest), u64(attrs), u64(0), u32(flags), *map(text, maps)
    )  # fmt: skip


def idmap(uids: str, gids: str) -> Operation:
    return op(IDMAP, text(uids), text(gids))


def with_flags(operation: Operation, flags: int) -> Operation:
    """The same operation with flags of its own."""
    code, _none, length, _reserved = OP_HEAD.unpack_from(operation)
    made = Operation(OP_HEAD.pack(code, flags, length, 0) + operation[OP_HEAD.size :])
    made.room = operation.room
    return made


def device(path: str, major: int, minor: int, mode: int = 0o666) -> Operation:
    return op(DEVICE, text(path), u32(ord("c")), u32(major), u32(minor), u32(mode), u32(0), u32(0))


def sysctl(key: str, value: str, path: str = "") -> Operation:
    return op(SYSCTL, text(key), text(path or key.replace(".", "/")), text(value))


def user(uid: int, gid: int, groups: Sequence[int] = ()) -> Operation:
    return op(USER, u32(uid), u32(gid), numbers(groups))


def caps(mask: int) -> Operation:
    return op(CAPS, u64(mask), u64(mask), u64(mask), u64(0), u64(0))


def overlay(
    lower: Sequence[str], upper: str = "", work: str = "", *, is_mapped: bool = False,
    more: Sequence[str] = (),
) -> Operation:  # fmt: skip
    """A root of layers, which are seen through the plan's IDMAP if `is_mapped`."""
    own = [*([f"upperdir={upper}", f"workdir={work}"] if upper else []), *more]
    layers = [] if is_mapped else [f"lowerdir+={path}" for path in lower]
    data = "" if is_mapped else ",".join([f"lowerdir={':'.join(lower)}", *own])
    mapped = lower if is_mapped else []
    place = upper or lower[0]
    return op(ROOT_OVERLAY, text(place), texts([*layers, *own]), text(data), texts(mapped))


def log(path: str, most: int = 0, owner: int = 0) -> Operation:
    return op(LOG, text(path), u64(most), u32(owner))


def execute(argv: Sequence[str], env: Sequence[str] = ("PATH=/bin",)) -> Operation:
    name = argv[0] if argv else "/"
    return op(EXEC, texts(argv), texts(env), texts([name if "/" in name else f"/bin/{name}"]))


HOLDING = op(HOLD_OP)


def sealed(umask: int = 0o022) -> Operation:
    return op(SEAL, u32(umask))


def plan_of(ops: Sequence[Operation], flags: int = DEFAULT_FLAGS) -> bytes:
    body = b"".join(ops)
    room = sum(one.room for one in ops)
    head = struct.pack("=8s6I", b"podrtpl1", 3, 32 + len(body), len(ops), flags, 0, room)
    return head + body


STANDARD_MOUNTS = (
    mount("proc", "/proc"),
    mount("tmpfs", "/dev", NOSUID | STRICTATIME, ("mode=755", "size=65536k")),
    mount("devpts", "/dev/pts", NOSUID | NOEXEC, ("ptmxmode=0666", "mode=0620", "gid=5")),
    mount("mqueue", "/dev/mqueue"),
    mount("tmpfs", "/dev/shm", HARD, ("mode=1777", "size=64000k")),
    device("/dev/null", 1, 3),
    device("/dev/zero", 1, 5),
    device("/dev/full", 1, 7),
    device("/dev/random", 1, 8),
    device("/dev/urandom", 1, 9),
    device("/dev/tty", 5, 0),
    *(
        op(SYMLINK, text(target), text(path))
        for target, path in (
            ("/proc/self/fd", "/dev/fd"),
            ("/proc/self/fd/0", "/dev/stdin"),
            ("/proc/self/fd/1", "/dev/stdout"),
            ("/proc/self/fd/2", "/dev/stderr"),
            ("pts/ptmx", "/dev/ptmx"),
        )
    ),
)
MASKED = (
    "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
    "/sys/dev/block", "/sys/devices/virtual/powercap", "/sys/firmware", "/sys/fs/selinux",
)  # fmt: skip
READ_ONLY = tuple(f"/proc/{name}" for name in "asound bus fs irq sys sysrq-trigger".split())
HIDDEN = (
    *(op(MASK, text(path)) for path in MASKED),
    *(op(READONLY, text(path)) for path in READ_ONLY),
)
SYSFS = mount("sysfs", "/sys", HARD | RDONLY)


class Message(NamedTuple):
    """One message as it goes over the socket."""

    kind: int
    req: int = 0
    run: int = 0
    arg: int = 0
    a: int = 0
    b: int = 0
    id: bytes = bytes(32)
    body: bytes = b""

    def encode(self) -> bytes:
        head = HEAD.pack(
            self.kind, 1, self.req, self.run, self.arg, self.a, self.b, self.id
        )  # fmt: skip
        return head + self.body


def decode(data: bytes) -> Message:
    kind, _version, req, run, arg, a, b, raw = HEAD.unpack_from(data)
    return Message(kind, req, run, arg, a, b, raw, data[HEAD.size :])


class Record(NamedTuple):
    """One journal record; the checksum has been checked."""

    kind: int
    flags: int
    seq: int
    at_ns: int
    id: bytes
    run: int
    pid: int
    ticks: int
    code: int
    error: int
    a: int
    b: int


def read_journal(path: Path) -> list[Record]:
    import zlib

    data = path.read_bytes()[JOURNAL_HEADER.size :]
    assert len(data) % RECORD.size == 0
    records = []
    for at in range(0, len(data), RECORD.size):
        crc, *fields = RECORD.unpack_from(data, at)
        assert crc == zlib.crc32(data[at + 4 : at + RECORD.size])
        records.append(Record(*fields))
    return records


class Client:
    """A connection; replies may be asked for by request number in any order."""

    def __init__(self, run_dir: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(PATIENCE_S)
        dir_fd = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self.socket.connect(f"/proc/self/fd/{dir_fd}/m")
        except BaseException:
            self.socket.close()
            raise
        finally:
            os.close(dir_fd)
        self.last_req = 0
        self.early: dict[int, Message] = {}

    def send(self, message: Message, fds: Sequence[int] = ()) -> int:
        self.last_req += 1
        data = message._replace(req=self.last_req).encode()
        socket.send_fds(self.socket, [data], list(fds))
        return self.last_req

    def receive(self, req: int) -> Message:
        while req not in self.early:
            data = self.socket.recv(1 << 17)
            if not data:
                raise EOFError("the monitor closed the connection")
            message = decode(data)
            self.early.setdefault(message.req, message)
        return self.early.pop(req)

    def ask(self, message: Message, fds: Sequence[int] = ()) -> Message:
        return self.receive(self.send(message, fds))

    def close(self) -> None:
        self.socket.close()


class Group:
    """One monitor with its directories, below `folder`."""

    def __init__(self, folder: Path, binary: Path, cgroups: Sequence[str] = ()) -> None:
        self.id = secrets.token_bytes(32)
        self.binary = binary
        self.cgroups = cgroups
        self.run_dir = folder / "run" / self.id.hex()
        (self.run_dir / "shm").mkdir(parents=True)
        (self.run_dir / "ns").mkdir()
        self.root = folder
        self.epoch = 0
        self.clients: list[Client] = []
        self.pid = 0
        self.settle: Sequence[str] = ()
        # What the next monitor finds as its journal instead of a fresh one.
        self.torn_journal = b""

    @property
    def journal(self) -> Path:
        return self.root / f"{self.id.hex()}.{self.epoch}"

    def spawn(self, cgroups: Sequence[str] = (), env: dict[str, str] | None = None) -> None:
        self.epoch += 1
        header = JOURNAL_HEADER.pack(b"podrtjn1", 1, RECORD.size, bytes(16), self.id)
        self.journal.write_bytes(self.torn_journal or header)
        with contextlib.ExitStack() as stack:

            def keep(fd: int) -> int:
                moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 50)
                stack.callback(os.close, moved)
                os.close(fd)
                return moved

            lock = keep(os.open(self.run_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600))
            fcntl.flock(lock, fcntl.LOCK_EX)
            directory = keep(os.open(self.run_dir, os.O_RDONLY | os.O_DIRECTORY))
            journal = keep(os.open(self.journal, os.O_RDWR | os.O_APPEND))
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.run_dir / "m")
            listener.bind(f"/proc/self/fd/{directory}/m")
            listener.listen(16)
            sock = keep(listener.detach())
            actions = [
                (os.POSIX_SPAWN_DUP2, source, target)
                for source, target in ((lock, 3), (sock, 4), (journal, 5), (directory, 6))
            ]
            argv = [str(self.binary), self.id.hex(), *(cgroups or self.cgroups)]
            argv += ["--", *self.settle] if self.settle else []
            pid = os.posix_spawn(self.binary, argv, env or dict(os.environ), file_actions=actions)
            _, status = os.waitpid(pid, 0)
            assert status == 0

    def connect(self) -> Client:
        client = Client(self.run_dir)
        self.clients.append(client)
        hello = client.ask(Message(HELLO))
        self.pid = hello.b
        return client

    def close(self) -> None:
        for client in self.clients:
            client.close()

    def let_go(self) -> None:
        """Whatever a test left undone: namespaces are dropped, connections closed."""
        deadline = time.monotonic() + PATIENCE_S
        with contextlib.suppress(OSError, EOFError):
            client = self.connect()
            # Busy until the last process has been reaped, by whoever does that.
            while client.ask(Message(RELEASE_NS)).kind == FAILED and time.monotonic() < deadline:
                time.sleep(0.01)
        self.close()

    def processes(self) -> list[int]:
        """The containers that the journals say still run."""
        running: dict[tuple[bytes, int], int] = {}
        for epoch in range(1, self.epoch + 1):
            for record in read_journal(self.root / f"{self.id.hex()}.{epoch}"):
                if record.kind in (REC_CREATED, REC_STARTED):
                    running[record.id, record.run] = record.pid
                elif record.kind == REC_EXITED:
                    running.pop((record.id, record.run), None)
        return list(running.values())

    def wait_end(self) -> None:
        """Until the monitor has let go of its lock: its process is gone."""
        with open(self.run_dir / "lock") as lock:
            deadline = time.monotonic() + PATIENCE_S
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.002)


class Box:
    """One container: a root of layers over a busybox tree, its plan and its log."""

    def __init__(self, group: Group, client: Client, lower: Path) -> None:
        self.id = secrets.token_bytes(32)
        self.group = group
        self.client = client
        self.run = 0
        self.lower = str(lower)
        self.folder = group.root / self.id.hex()[:12]
        for name in ("upper", "work"):
            (self.folder / name).mkdir(parents=True)
        self.log = self.folder / "log"
        self.root_op = overlay([self.lower], *self.own_layers)

    @property
    def own_layers(self) -> tuple[str, str]:
        return str(self.folder / "upper"), str(self.folder / "work")

    def ops(
        self, argv: Sequence[str], *, early: Sequence[Operation] = (),
        late: Sequence[Operation] = (), mounts: Sequence[Operation] = STANDARD_MOUNTS,
        after: Sequence[Operation] = (), cwd: str = "/", env: Sequence[str] = ("PATH=/bin",),
        log_max: int = 0, owner: int = 0, hooks: Sequence[Operation] = (), umask: int = 0o022,
    ) -> list[Operation]:  # fmt: skip
        """The usual order of operations; `early` comes before the mounts, `after` behind them,
        `late` before the process waits for its start and `hooks` afterwards."""
        return [
            log(str(self.log), log_max, owner),
            *early,
            self.root_op,
            *mounts,
            *after,
            op(PIVOT),
            op(CWD, text(cwd)),
            sealed(umask),
            *late,
            HOLDING,
            *hooks,
            execute(argv, env),
        ]

    def send_start(
        self, plan: bytes, *, flags: int = 0, join: Sequence[str] = (), client: Client | None = None
    ) -> int:
        self.run += 1
        body = b"".join(path.encode() + b"\0" for path in join)
        fd = os.memfd_create("plan")
        try:
            os.write(fd, plan)
            return (client or self.client).send(
                Message(START, run=self.run, arg=flags, id=self.id, body=body), (fd,)
            )
        finally:
            os.close(fd)

    def start(
        self, plan: bytes, *, flags: int = 0, join: Sequence[str] = (), client: Client | None = None
    ) -> Message:
        req = self.send_start(plan, flags=flags, join=join, client=client)
        return (client or self.client).receive(req)

    def ask(self, kind: int, *, arg: int = 0, a: int = 0, b: int = 0, body: bytes = b"") -> Message:
        return self.client.ask(
            Message(kind, run=self.run, arg=arg, a=a, b=b, id=self.id, body=body)
        )  # fmt: skip

    def wait(self) -> Message:
        return self.ask(WAIT)

    def tell_policy(
        self, kind: int, most: int = 0, *, needs: Sequence[bytes] = (), plan: bytes = b"",
        flags: int = RESTARTS, run: int = 0, count: int = 0, delay_ms: int = 0, code: int = 0,
        ended_at_ns: int = 0,
    ) -> Message:  # fmt: skip
        """Tell a policy; `plan` is what it is started from again."""
        path = self.folder / "plan"
        if plan:
            path.write_bytes(plan)
        head = struct.pack(
            "=IIIIiIQQ", kind, most, count, delay_ms, code, 0, ended_at_ns, len(needs)
        )
        body = head + b"".join(needs) + bytes(path) + b"\0"
        return self.client.ask(Message(POLICY, run=run, arg=flags, id=self.id, body=body))

    def ends(self) -> list[Record]:
        """How its runs have ended, as the group's journal has it."""
        records = read_journal(self.group.journal)
        return [one for one in records if one.id == self.id and one.kind == REC_EXITED]

    def lines(self) -> list[tuple[str, str, str]]:
        """The log as (stream, F or P, text)."""
        found = []
        for line in self.log.read_text(errors="replace").splitlines():
            _stamp, stream, mark, content = line.split(" ", 3)
            found.append((stream, mark, content))
        return found

    def output(self) -> str:
        return "\n".join(line for stream, _mark, line in self.lines() if stream == "stdout")


def make_busybox_root(folder: Path) -> Path:
    """A tree with a static busybox and links for its commands."""
    root = folder / "busybox"
    for name in ("bin", "proc", "sys", "dev", "tmp", "etc", "root"):
        (root / name).mkdir(parents=True)
    (root / "bin/busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (root / "bin/busybox").chmod(0o755)
    names = (
        "sh cat echo ls sleep true false mount id hostname readlink stat head seq kill ps env pwd "
        "printf yes dd wc grep touch mkdir mknod sync chmod date tr"
    )
    for name in names.split():
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    return root


@contextlib.contextmanager
def killed_at_end(pids: list[int]) -> Iterator[None]:
    """Whatever is still there of `pids` afterwards gets a SIGKILL."""
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
