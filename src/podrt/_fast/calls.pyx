# cython: language_level=3, auto_pickle=False, autotestdict=False
"""System calls that Python 3.11 does not offer, each without the GIL.

Inside, a failure is -errno; outside, it is OSError with the path. Every descriptor that comes back
is close-on-exec. Numbers and structures are spelled out here because the headers a wheel is built
against are older than the calls (manylinux ships kernel 3.10's).
"""

import os

from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR, ENOENT, ESRCH, errno
from libc.stdint cimport uint64_t

cdef extern from *:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <sched.h>
    #include <stdint.h>
    #include <stdio.h>
    #include <string.h>
    #include <sys/prctl.h>
    #include <sys/syscall.h>
    #include <unistd.h>

    #ifndef __NR_open_tree
    #define __NR_open_tree 428
    #endif
    #ifndef __NR_move_mount
    #define __NR_move_mount 429
    #endif
    #ifndef __NR_openat2
    #define __NR_openat2 437
    #endif
    #ifndef __NR_mount_setattr
    #define __NR_mount_setattr 442
    #endif
    #ifndef PR_SET_CHILD_SUBREAPER
    #define PR_SET_CHILD_SUBREAPER 36
    #endif

    struct podrt_open_how { uint64_t flags, mode, resolve; };
    struct podrt_mount_attr { uint64_t attr_set, attr_clr, propagation, userns_fd; };

    static long podrt_openat2(int dirfd, const char *path, uint64_t flags, uint64_t mode,
                              uint64_t resolve) {
        struct podrt_open_how how = { flags | O_CLOEXEC, mode, resolve };
        return syscall(__NR_openat2, dirfd, path, &how, sizeof how);
    }

    static long podrt_open_tree(int dirfd, const char *path, unsigned flags) {
        return syscall(__NR_open_tree, dirfd, path, flags | O_CLOEXEC);
    }

    static long podrt_move_mount(int from_fd, const char *from, int to_fd, const char *to,
                                 unsigned flags) {
        return syscall(__NR_move_mount, from_fd, from, to_fd, to, flags);
    }

    static long podrt_mount_setattr(int fd, const char *path, unsigned flags, uint64_t set,
                                    uint64_t clr, uint64_t propagation) {
        struct podrt_mount_attr attr = { set, clr, propagation, 0 };
        return syscall(__NR_mount_setattr, fd, path, flags, &attr, sizeof attr);
    }

    static long podrt_unshare(int flags) { return syscall(__NR_unshare, flags); }

    static long podrt_setns(int fd, int kind) { return syscall(__NR_setns, fd, kind); }

    static long podrt_umount_lazily(const char *path) {
        return syscall(SYS_umount2, path, 2 /* MNT_DETACH */);
    }

    static int podrt_subreaper(int on) {
        return prctl(PR_SET_CHILD_SUBREAPER, (unsigned long)on, 0UL, 0UL, 0UL);
    }

    /* The whole of /proc/<pid>/stat fits: numbers only, and a name of at most 64 bytes. */
    static long podrt_read_stat(int pid, char *buffer, size_t room) {
        char path[32];
        snprintf(path, sizeof path, "/proc/%d/stat", pid);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            return -errno;
        ssize_t got;
        do
            got = read(fd, buffer, room - 1);
        while (got < 0 && errno == EINTR);
        long result = got < 0 ? -errno : got;
        close(fd);
        buffer[got < 0 ? 0 : got] = 0;
        return result;
    }

    /* Field 3 (state) and field 22 (start time). The name may hold spaces and parentheses, so
       counting begins behind the last closing one. */
    static int podrt_parse_stat(const char *text, char *state, uint64_t *ticks) {
        const char *at = strrchr(text, ')');
        if (!at || at[1] != ' ' || !at[2])
            return -EPROTO;
        *state = at[2];
        at += 2;
        for (int field = 3; field < 22; field++) {
            at = strchr(at, ' ');
            if (!at)
                return -EPROTO;
            at++;
        }
        uint64_t value = 0;
        for (; *at >= '0' && *at <= '9'; at++)
            value = value * 10 + (uint64_t)(*at - '0');
        *ticks = value;
        return 0;
    }
    """
    long podrt_openat2(int, const char *, uint64_t, uint64_t, uint64_t) noexcept nogil
    long podrt_open_tree(int, const char *, unsigned) noexcept nogil
    long podrt_move_mount(int, const char *, int, const char *, unsigned) noexcept nogil
    long podrt_mount_setattr(
        int, const char *, unsigned, uint64_t, uint64_t, uint64_t
    ) noexcept nogil
    long podrt_unshare(int) noexcept nogil
    long podrt_setns(int, int) noexcept nogil
    int podrt_subreaper(int) noexcept nogil
    long podrt_umount_lazily(const char *) noexcept nogil
    long podrt_read_stat(int, char *, size_t) noexcept nogil
    int podrt_parse_stat(const char *, char *, uint64_t *) noexcept nogil


AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_SYMLINK_NOFOLLOW = 0x100
AT_RECURSIVE = 0x8000
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
OPEN_TREE_CLONE = 1
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_EMPTY_PATH = 0x40
MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_NOEXEC = 0x08
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

# openat2 answers EAGAIN when a rename anywhere on the host raced the walk below a root; the manual
# page asks for a retry. A bound keeps a hostile renamer from holding the caller for ever.
cdef enum:
    RACE_RETRIES = 128
    STAT_BYTES = 2048


cdef bytes _path(object path):
    cdef bytes raw = os.fsencode(path)
    if b"\0" in raw:
        raise ValueError("embedded null byte in a path")
    return raw


cdef object _failed(int number, object path):
    return OSError(number, os.strerror(number), path)


def openat2(int dirfd, path, uint64_t flags, uint64_t mode=0, uint64_t resolve=0):
    """Open `path` below `dirfd` under the RESOLVE_* rules. Raises OSError. Source: openat2(2)."""
    cdef bytes raw = _path(path)
    cdef const char *text = raw
    cdef long fd
    cdef int number = 0
    cdef int tries = 0
    while True:
        with nogil:
            fd = podrt_openat2(dirfd, text, flags, mode, resolve)
            number = errno if fd < 0 else 0
        if number == EINTR:
            PyErr_CheckSignals()
        elif number == EAGAIN and tries < RACE_RETRIES:
            tries += 1
        else:
            break
    if number:
        raise _failed(number, path)
    return fd


def open_tree(int dirfd, path, unsigned int flags):
    """A mount (or, with OPEN_TREE_CLONE, a detached copy of it) as a descriptor. Raises OSError."""
    cdef bytes raw = _path(path)
    cdef const char *text = raw
    cdef long fd
    cdef int number
    with nogil:
        fd = podrt_open_tree(dirfd, text, flags)
        number = errno if fd < 0 else 0
    if number:
        raise _failed(number, path)
    return fd


def move_mount(int from_fd, from_path, int to_fd, to_path, unsigned int flags):
    """Attach a mount at another place. Raises OSError with the target. Source: move_mount(2)."""
    cdef bytes raw_from = _path(from_path)
    cdef bytes raw_to = _path(to_path)
    cdef const char *text_from = raw_from
    cdef const char *text_to = raw_to
    cdef int number
    with nogil:
        number = errno if podrt_move_mount(from_fd, text_from, to_fd, text_to, flags) < 0 else 0
    if number:
        raise _failed(number, to_path)


def mount_setattr(
    int fd, path, unsigned int flags, uint64_t attr_set, uint64_t attr_clr,
    *, uint64_t propagation=0
):
    """Change a mount's MOUNT_ATTR_* and propagation. Raises OSError. Source: mount_setattr(2)."""
    cdef bytes raw = _path(path)
    cdef const char *text = raw
    cdef int number
    with nogil:
        number = (
            errno
            if podrt_mount_setattr(fd, text, flags, attr_set, attr_clr, propagation) < 0
            else 0
        )
    if number:
        raise _failed(number, path)


def unshare(int flags):
    """Leave the namespaces `flags` names, for the calling thread only. Raises OSError."""
    cdef int number
    with nogil:
        number = errno if podrt_unshare(flags) < 0 else 0
    if number:
        raise OSError(number, os.strerror(number))


def setns(int fd, int kind=0):
    """Join the namespace behind `fd`, for the calling thread only. Raises OSError."""
    cdef int number
    with nogil:
        number = errno if podrt_setns(fd, kind) < 0 else 0
    if number:
        raise OSError(number, os.strerror(number))


def umount_lazily(path):
    """Detach what is mounted on `path`, with all below it, like umount -l. Raises OSError."""
    cdef bytes raw = _path(path)
    cdef const char *text = raw
    cdef int number
    with nogil:
        number = errno if podrt_umount_lazily(text) < 0 else 0
    if number:
        raise _failed(number, path)


def set_child_subreaper(bint on=True):
    """Whether orphans below this process become its children. Raises OSError."""
    cdef int number
    with nogil:
        number = errno if podrt_subreaper(on) < 0 else 0
    if number:
        raise OSError(number, os.strerror(number))


cdef int _look(int pid, char *state, uint64_t *ticks) noexcept nogil:
    cdef char text[STAT_BYTES]
    cdef long got = podrt_read_stat(pid, text, STAT_BYTES)
    if got < 0:
        return <int>got
    return podrt_parse_stat(text, state, ticks)


def process_stat(int pid):
    """(state letter, start time in ticks since boot) of a process; ("", 0) when it is gone."""
    cdef char state = 0
    cdef uint64_t ticks = 0
    cdef int status
    with nogil:
        status = _look(pid, &state, &ticks)
    # ESRCH: the process went between open and read.
    if status == -ENOENT or status == -ESRCH:
        return "", 0
    if status:
        raise _failed(-status, f"/proc/{pid}/stat")
    return chr(<unsigned char>state), ticks


def start_ticks(int pid):
    """When a process started, in ticks since boot; 0 when it is gone. Raises OSError."""
    return process_stat(pid)[1]
