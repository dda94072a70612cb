"""The first process of a plan: limits, priorities, labels, credentials, filter, program.

Source: runtime-spec config.md ("Process"), setrlimit(2), sched_setattr(2), ioprio_set(2),
personality(2).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping

from podrt.errors import InvalidConfig
from podrt.linux import caps
from podrt.model import runtimespec as oci
from podrt.model.unsupported import unsupported

from .plan_ops import Op, OpCode, unsigned_32

MAKE_DIRECTORY = 1
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_UMASK = 0o022
MAX_ID = (1 << 32) - 2
OOM_SCORES = range(-1000, 1001)
U64_END = 1 << 64
# A terminal's size has 16 bits. Source: ioctl_tty(2).
MAX_SIDE = (1 << 16) - 1
# The kernel's own limit on what it is built for (CONFIG_NR_CPUS).
MAX_CPUS = 8192
NICES = range(-20, 20)
CONSOLE = "/dev/console"

# Source: asm-generic/resource.h; the same on x86 and arm.
_RLIMITS: Mapping[str, int] = {
    f"RLIMIT_{name}": number
    for number, name in enumerate(
        (
            "CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE "
            "RTPRIO RTTIME"
        ).split()
    )
}
_IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
_POLICIES = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
_REALTIME = {"SCHED_FIFO", "SCHED_RR"}
# Source: linux/sched.h.
_SCHED_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
_DOMAINS = {"LINUX": 0x0000, "LINUX32": 0x0008}
FILTER_NEW_LISTENER = 8
_SECCOMP_FLAGS = {
    # The container has one thread when its filter is loaded.
    "SECCOMP_FILTER_FLAG_TSYNC": 0,
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 0x20,
}


def terminal(process: oci.Process) -> Iterator[Op]:
    """The terminal, if there is to be one. Raises: InvalidConfig."""
    if not process.terminal:
        return
    size = process.console_size or oci.Box()
    for name, value in (("height", size.height), ("width", size.width)):
        if not 0 <= value <= MAX_SIDE:
            raise InvalidConfig(f"process.consoleSize.{name}", f"{value} is not 0 to {MAX_SIDE}")
    yield Op(OpCode.TERMINAL, (size.height, size.width, CONSOLE))


def limits(process: oci.Process, personality: oci.Personality | None) -> Iterator[Op]:
    """What is set while the process still may. Raises: InvalidConfig, Unsupported."""
    score = process.oom_score_adj
    if score is not None:
        if score not in OOM_SCORES:
            raise InvalidConfig("process.oomScoreAdj", f"{score} is not -1000 to 1000")
        yield Op(OpCode.OOM_SCORE, (str(score),))
    if process.io_priority is not None:
        yield _io_priority(process.io_priority)
    if process.scheduler is not None:
        yield _scheduler(process.scheduler)
    if personality is not None:
        yield _personality(personality)
    yield Op(OpCode.KEYRING)
    cwd = process.cwd
    if not cwd.startswith("/"):
        raise InvalidConfig("process.cwd", f"{cwd!r} is not an absolute path")
    yield Op(OpCode.CWD, (cwd,), MAKE_DIRECTORY if cwd != "/" else 0)
    # Until it execs it holds the descriptors of the monitor: a small RLIMIT_NOFILE would end here
    # what opens a file.
    if process.rlimits:
        yield from _rlimits(process.rlimits)


def _rlimits(rlimits: tuple[oci.Rlimit, ...]) -> Iterator[Op]:
    seen = set()
    for index, rlimit in enumerate(rlimits):
        field = f"process.rlimits[{index}]"
        if rlimit.type not in _RLIMITS:
            raise InvalidConfig(f"{field}.type", f"{rlimit.type!r} is no limit")
        if rlimit.type in seen:
            raise InvalidConfig(f"{field}.type", f"{rlimit.type} is listed twice")
        seen.add(rlimit.type)
        for name, value in (("soft", rlimit.soft), ("hard", rlimit.hard)):
            if not 0 <= value < U64_END:
                raise InvalidConfig(f"{field}.{name}", f"{value} is not an unsigned 64-bit number")
        if rlimit.soft > rlimit.hard:
            raise InvalidConfig(f"{field}.soft", f"{rlimit.soft} is above hard {rlimit.hard}")
        fields = (rlimit.type, _RLIMITS[rlimit.type], rlimit.soft, rlimit.hard)
        yield Op(OpCode.RLIMIT, fields)


def _io_priority(wanted: oci.IoPriority) -> Op:
    field = "process.ioPriority"
    if wanted.class_ not in _IO_CLASSES:
        raise InvalidConfig(f"{field}.class", f"{wanted.class_!r} is no class")
    if not 0 <= wanted.priority <= 7:
        raise InvalidConfig(f"{field}.priority", f"{wanted.priority} is not 0 to 7")
    return Op(OpCode.IOPRIO, (_IO_CLASSES[wanted.class_], wanted.priority))


def _scheduler(wanted: oci.Scheduler) -> Op:
    field = "process.scheduler"
    if wanted.policy == "SCHED_ISO":
        raise unsupported(f"{field}.policy", wanted.policy)
    if wanted.policy not in _POLICIES:
        raise InvalidConfig(f"{field}.policy", f"{wanted.policy!r} is no policy")
    if wanted.nice not in NICES:
        raise InvalidConfig(f"{field}.nice", f"{wanted.nice} is not -20 to 19")
    most = 99 if wanted.policy in _REALTIME else 0
    if not min(most, 1) <= wanted.priority <= most:
        raise InvalidConfig(
            f"{field}.priority", f"{wanted.priority} is none of {wanted.policy}'s priorities"
        )
    bits = 0
    for index, flag in enumerate(wanted.flags):
        if flag not in _SCHED_FLAGS:
            raise InvalidConfig(f"{field}.flags[{index}]", f"{flag!r} is no flag")
        bits |= _SCHED_FLAGS[flag]
    times = (wanted.runtime, wanted.deadline, wanted.period)
    for name, value in zip(("runtime", "deadline", "period"), times, strict=True):
        if not 0 <= value < U64_END:
            raise InvalidConfig(f"{field}.{name}", f"{value} is not an unsigned 64-bit number")
        if value and wanted.policy != "SCHED_DEADLINE":
            raise InvalidConfig(f"{field}.{name}", "is for SCHED_DEADLINE")
    policy, nice = _POLICIES[wanted.policy], unsigned_32(wanted.nice)
    return Op(OpCode.SCHED, (policy, nice, wanted.priority, bits, *times))


def _personality(wanted: oci.Personality) -> Op:
    if wanted.flags:
        raise unsupported("linux.personality.flags", wanted.flags[0])
    if wanted.domain not in _DOMAINS:
        raise InvalidConfig("linux.personality.domain", f"{wanted.domain!r} is no domain")
    return Op(OpCode.PERSONALITY, (_DOMAINS[wanted.domain],))


def affinity(wanted: oci.CpuAffinity | None, *, initial: bool) -> Iterator[Op]:
    """Where a process that is exec'd runs, before or after it is in its cgroup.

    Raises: InvalidConfig.
    """
    if wanted is None:
        return
    field = f"process.execCPUAffinity.{'initial' if initial else 'final'}"
    words = wanted.initial if initial else wanted.final
    if words.strip():
        code = OpCode.FIRST_AFFINITY if initial else OpCode.AFFINITY
        yield Op(code, (cpu_mask(words, field),))


def cpu_mask(words: str, field: str) -> bytes:
    """A list of CPUs ("0-3,7") as bits, the lowest first. Raises: InvalidConfig."""
    mask = 0
    for part in words.split(","):
        first, dash, last = (text.strip() for text in part.partition("-"))
        ends = (first, last if dash else first)
        if not all(end.isascii() and end.isdecimal() and len(end) <= 6 for end in ends):
            raise InvalidConfig(field, f"{words[:80]!r} is no list of CPUs such as 0-3,7")
        low, high = map(int, ends)
        if not low <= high < MAX_CPUS:
            raise InvalidConfig(field, f"{part!r} is no range of CPUs below {MAX_CPUS}")
        mask |= (1 << high + 1) - (1 << low)
    return mask.to_bytes(-(-mask.bit_length() // 64) * 8, "little")


def credentials(
    process: oci.Process,
    seccomp: oci.Seccomp | None,
    filter_path: str,
    notify_state: tuple[str, ...] = (),
    *,
    is_alone: bool = False,
) -> Iterator[Op]:
    """Labels, user, capabilities and filter; and where the process waits for its start.

    Loading a filter needs CAP_SYS_ADMIN or no_new_privs: without the latter it comes before the
    capabilities are dropped, with it as late as possible. `is_alone` says that no monitor
    watches: then waiting takes calls that the filter may forbid.
    """
    if process.apparmor_profile not in ("", "unconfined"):
        label = process.apparmor_profile
        # Two modules share the second file in older kernels.
        yield Op(OpCode.APPARMOR, (label, ("apparmor/exec", "exec"), f"exec {label}"))
    if process.selinux_label:
        yield Op(OpCode.SELINUX, (process.selinux_label, ("exec",), process.selinux_label))
    filters = () if seccomp is None else _filter(seccomp, filter_path, notify_state)
    waits_early = is_alone and bool(filters)
    if waits_early:
        filters = (Op(OpCode.HOLD), *filters)
    # A filter could forbid the calls for it.
    yield Op(OpCode.SEAL, (_umask(process.user),))
    if not process.no_new_privileges:
        yield from filters
    # The user first: changing it needs capabilities that may be dropped.
    yield _user(process.user)
    yield Op(OpCode.CAPS, _capability_sets(process.capabilities))
    if process.no_new_privileges:
        yield Op(OpCode.NO_NEW_PRIVS)
        yield from filters
    if not waits_early:
        yield Op(OpCode.HOLD)


def _umask(user: oci.User) -> int:
    if user.umask is None:
        return DEFAULT_UMASK
    if not 0 <= user.umask <= 0o777:
        raise InvalidConfig("process.user.umask", f"{user.umask:#o} is not 0 to 0777")
    return user.umask


def _user(user: oci.User) -> Op:
    for name, number in (("uid", user.uid), ("gid", user.gid)):
        if not 0 <= number <= MAX_ID:
            raise InvalidConfig(f"process.user.{name}", f"{number} is no ID")
    for index, number in enumerate(user.additional_gids):
        if not 0 <= number <= MAX_ID:
            raise InvalidConfig(f"process.user.additionalGids[{index}]", f"{number} is no ID")
    return Op(OpCode.USER, (user.uid, user.gid, user.additional_gids))


def _filter(seccomp: oci.Seccomp, path: str, notify_state: tuple[str, ...]) -> tuple[Op, ...]:
    if not path:
        raise InvalidConfig("linux.seccomp", "no compiled filter was given")
    flags = 0
    for word in seccomp.flags:
        if word not in _SECCOMP_FLAGS:
            raise unsupported("linux.seccomp.flags", word)
        flags |= _SECCOMP_FLAGS[word]
    # A filter that notifies nobody cannot be compiled, so most rules need not be looked at.
    if not seccomp.listener_path or not seccomp.notifies:
        return (Op(OpCode.SECCOMP, (flags, path)),)
    if not notify_state:
        raise unsupported("linux.seccomp.syscalls[].action", "SCMP_ACT_NOTIFY")
    return (
        Op(OpCode.NOTIFY, (seccomp.listener_path, notify_state)),
        Op(OpCode.SECCOMP, (flags | FILTER_NEW_LISTENER, path)),
    )


@functools.lru_cache(maxsize=64)
def _capability_sets(sets: oci.Capabilities | None) -> tuple[int, ...]:
    """The five sets as masks, each without what cannot be granted.

    Source: runtime-spec config.md, "capabilities": that is worth a warning, not an error;
    `ungranted` has its words.
    """
    found = sets or oci.Capabilities()
    permitted, inheritable = _bits(found.permitted), _bits(found.inheritable)
    return (
        _bits(found.bounding),
        _bits(found.effective) & permitted,
        permitted,
        inheritable,
        _bits(found.ambient) & permitted & inheritable,
    )


def _bits(names: tuple[str, ...]) -> int:
    return caps.mask([name for name in names if name in caps.NUMBERS])


def ungranted(sets: oci.Capabilities | None) -> list[str]:
    """A warning for each capability that is asked for and cannot be granted."""
    found = sets or oci.Capabilities()
    said = []
    for kind in ("bounding", "effective", "permitted", "inheritable", "ambient"):
        said += [
            f"process.capabilities.{kind}: {name!r} is unknown and not granted"
            for name in getattr(found, kind)
            if name not in caps.NUMBERS
        ]
    known = [name for name in found.effective if name in caps.NUMBERS]
    said += [
        f"process.capabilities.effective: {name} is not in permitted and not granted"
        for name in known
        if name not in found.permitted
    ]
    known = [name for name in found.ambient if name in caps.NUMBERS]
    said += [
        f"process.capabilities.ambient: {name} is not permitted and inheritable, so not granted"
        for name in known
        if name not in found.permitted or name not in found.inheritable
    ]
    return said


def program(process: oci.Process) -> Op:
    """The last operation. Raises: InvalidConfig."""
    if not process.args:
        raise InvalidConfig("process.args", "is empty")
    return Op(OpCode.EXEC, (process.args, process.env, _places(process.args[0], process.env)))


def _places(name: str, env: tuple[str, ...]) -> tuple[str, ...]:
    """Where the program may be. Source: execvp(3)."""
    if "/" in name or not name:
        return (name,) if name else ()
    path = next((word[5:] for word in env if word.startswith("PATH=")), DEFAULT_PATH)
    return tuple(f"{directory or '.'}/{name}" for directory in path.split(":"))
