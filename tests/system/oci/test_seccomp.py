from __future__ import annotations

import platform

import pytest

from doubles.oci_runtime import Bundle, OciRuntime

# What a static busybox calls, and a change of user and capabilities; nothing of podrt's own.
NEEDED = (
    "execve brk arch_prctl exit exit_group read write readv writev open openat close fstat "
    "newfstatat mmap mprotect munmap mremap getuid geteuid futex set_tid_address ioctl fcntl "
    "capset capget setgroups setuid setgid setresuid setresgid chdir rt_sigaction rt_sigprocmask "
    "prctl clock_nanosleep nanosleep set_robust_list prlimit64 readlink readlinkat getrandom rseq"
).split()


@pytest.mark.parametrize("no_new_privileges", [False, True])
def test_filter_that_allows_only_what_the_program_needs_does_not_stop_podrt(
    oci: OciRuntime, bundle: Bundle, no_new_privileges: bool
) -> None:
    """Profiles are often recorded from a program: they hold none of the calls of a runtime that
    waits for its start, or tells of it."""
    bundle.process["noNewPrivileges"] = no_new_privileges
    bundle.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "architectures": [f"SCMP_ARCH_{platform.machine().upper()}"],
        "syscalls": [{"names": NEEDED, "action": "SCMP_ACT_ALLOW"}],
    }
    done = oci.run("run", "-b", bundle.args("echo", "ran").written(), "one")
    assert (done.returncode, done.stdout) == (0, "ran\n"), done.stderr
    bundle.args("sleep", "100")
    oci.detached("run", "-d", "-b", bundle.written(), "one")
    assert oci("exec", "one", "echo", "entered") == "entered\n"


def test_profile_is_compiled_once_and_shared(oci: OciRuntime, bundle: Bundle) -> None:
    bundle.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
    }
    path = bundle.sh("grep Seccomp: /proc/self/status; mkdir /tmp/x").written()
    for _ in range(2):
        done = oci.run("run", "-b", path, "one")
        assert done.stdout.split() == ["Seccomp:", "2"]
        assert "not supported" in done.stderr
        (file,) = (oci.root / "@seccomp").iterdir()
        assert file.suffix == ".bpf"


def test_profile_that_cannot_be_compiled_is_refused(oci: OciRuntime, bundle: Bundle) -> None:
    bundle.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NONSENSE"}],
    }
    assert "linux.seccomp" in oci.fails("create", "-b", bundle.args("true").written(), "one")
    assert oci("list", "-q") == ""
