# cython: language_level=3, auto_pickle=False, autotestdict=False
"""Cgroup files in batches: many mkdir, write, read and rmdir without the GIL, in one call.

A step is (operation, directory descriptor, relative path, data to write). No file is ever created:
only directories are, and only by MKDIR. The device filter of cgroup v2 is attached here as well,
because bpf(2) has no other door from Python.
"""

import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EEXIST
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free

cdef extern from *:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <stdint.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/stat.h>
    #include <sys/syscall.h>
    #include <unistd.h>

    /* The list of processes of one cgroup is the longest file; this is some millions of them. */
    #define PODRT_MOST_BYTES (32u << 20)
    #define PODRT_FIRST_BYTES 4096u

    struct podrt_step {
        int op, fd, result;
        const char *path;
        const char *data;
        size_t data_bytes;
        char *read_data;
        size_t read_bytes;
    };

    static int podrt_write_file(int dir, const char *path, const char *data, size_t bytes) {
        int fd = openat(dir, path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
            return -errno;
        ssize_t put;
        do
            put = write(fd, data, bytes);
        while (put < 0 && errno == EINTR);
        int result = put < 0 ? -errno : (size_t)put == bytes ? 0 : -EIO;
        close(fd);
        return result;
    }

    static int podrt_read_on(int fd, struct podrt_step *step) {
        size_t room = PODRT_FIRST_BYTES;
        step->read_data = malloc(room);
        if (!step->read_data)
            return -ENOMEM;
        for (;;) {
            ssize_t got = read(fd, step->read_data + step->read_bytes, room - step->read_bytes);
            if (got < 0 && errno == EINTR)
                continue;
            if (got < 0)
                return -errno;
            if (got == 0)
                return 0;
            step->read_bytes += (size_t)got;
            if (step->read_bytes < room)
                continue;
            if (room >= PODRT_MOST_BYTES)
                return -EFBIG;
            char *more = realloc(step->read_data, room * 2);
            if (!more)
                return -ENOMEM;
            step->read_data = more;
            room *= 2;
        }
    }

    static int podrt_read_file(struct podrt_step *step) {
        int fd = openat(step->fd, step->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
            return -errno;
        int result = podrt_read_on(fd, step);
        close(fd);
        return result;
    }

    enum { PODRT_MKDIR = 1, PODRT_WRITE, PODRT_READ, PODRT_RMDIR, PODRT_OP = 0xff,
           PODRT_OPTIONAL = 0x100 };

    static int podrt_step_do(struct podrt_step *step) {
        switch (step->op & PODRT_OP) {
        case PODRT_MKDIR:
            return mkdirat(step->fd, step->path, 0755) ? -errno : 0;
        case PODRT_WRITE:
            return podrt_write_file(step->fd, step->path, step->data, step->data_bytes);
        case PODRT_READ:
            return podrt_read_file(step);
        case PODRT_RMDIR:
            return unlinkat(step->fd, step->path, AT_REMOVEDIR) ? -errno : 0;
        }
        return -EINVAL;
    }

    #ifndef __NR_bpf
    #if defined(__x86_64__)
    #define __NR_bpf 321
    #else
    #define __NR_bpf 280
    #endif
    #endif

    /* The parts of union bpf_attr used here; the kernel takes what is missing as zero. */
    struct podrt_bpf_load {
        uint32_t type, count;
        uint64_t instructions, license;
        uint32_t log_level, log_size;
        uint64_t log;
        uint32_t kernel_version, flags;
    };
    struct podrt_bpf_attach { uint32_t target_fd, program_fd, kind, flags; };
    struct podrt_bpf_query {
        uint32_t target_fd, kind, query_flags, attach_flags;
        uint64_t ids;
        uint32_t count, pad;
    };
    struct podrt_bpf_by_id { uint32_t id, next_id, open_flags; };

    enum { PODRT_BPF_LOAD = 5, PODRT_BPF_ATTACH = 8, PODRT_BPF_DETACH = 9, PODRT_BPF_BY_ID = 13,
           PODRT_BPF_QUERY = 16, PODRT_BPF_DEVICE_PROGRAM = 15, PODRT_BPF_DEVICE_HOOK = 6,
           PODRT_BPF_MULTI = 2, PODRT_BPF_MOST = 64 };

    static long podrt_bpf(int command, void *attr, unsigned bytes) {
        return syscall(__NR_bpf, command, attr, bytes);
    }

    static int podrt_bpf_list(int dir, uint32_t *ids) {
        struct podrt_bpf_query query = { (uint32_t)dir, PODRT_BPF_DEVICE_HOOK, 0, 0,
                                         (uint64_t)(uintptr_t)ids, PODRT_BPF_MOST, 0 };
        if (podrt_bpf(PODRT_BPF_QUERY, &query, sizeof query) < 0)
            return -errno;
        return (int)query.count;
    }

    /* What was attached earlier goes once the new one stands: no moment is without a filter. */
    static int podrt_bpf_drop(int dir, const uint32_t *ids, int count) {
        for (int i = 0; i < count; i++) {
            struct podrt_bpf_by_id by_id = { ids[i], 0, 0 };
            long fd = podrt_bpf(PODRT_BPF_BY_ID, &by_id, sizeof by_id);
            if (fd < 0 && errno == ENOENT)
                continue;
            if (fd < 0)
                return -errno;
            struct podrt_bpf_attach detach = { (uint32_t)dir, (uint32_t)fd,
                                               PODRT_BPF_DEVICE_HOOK, 0 };
            int result = podrt_bpf(PODRT_BPF_DETACH, &detach, sizeof detach) ? -errno : 0;
            close((int)fd);
            if (result < 0 && result != -ENOENT)
                return result;
        }
        return 0;
    }

    static int podrt_bpf_filter(int dir, const char *program, uint32_t count) {
        uint32_t ids[PODRT_BPF_MOST] = { 0 };
        int before = podrt_bpf_list(dir, ids);
        if (before < 0)
            return before;
        struct podrt_bpf_load load = { .type = PODRT_BPF_DEVICE_PROGRAM, .count = count,
                                       .instructions = (uint64_t)(uintptr_t)program,
                                       .license = (uint64_t)(uintptr_t)"Apache-2.0" };
        long fd = -1;
        /* The verifier answers EAGAIN when a signal came; five tries are libbpf's habit too. */
        for (int tries = 0; tries < 5; tries++) {
            fd = podrt_bpf(PODRT_BPF_LOAD, &load, sizeof load);
            if (fd >= 0 || errno != EAGAIN)
                break;
        }
        if (fd < 0)
            return -errno;
        struct podrt_bpf_attach attach = { (uint32_t)dir, (uint32_t)fd, PODRT_BPF_DEVICE_HOOK,
                                           PODRT_BPF_MULTI };
        int result = podrt_bpf(PODRT_BPF_ATTACH, &attach, sizeof attach) ? -errno : 0;
        close((int)fd);
        return result < 0 ? result : podrt_bpf_drop(dir, ids, before);
    }
    """
    struct podrt_step:
        int op
        int fd
        int result
        const char *path
        const char *data
        size_t data_bytes
        char *read_data
        size_t read_bytes
    int podrt_step_do(podrt_step *) noexcept nogil
    int podrt_bpf_filter(int, const char *, uint32_t) noexcept nogil
    int PODRT_MKDIR, PODRT_WRITE, PODRT_READ, PODRT_RMDIR, PODRT_OP, PODRT_OPTIONAL


MKDIR = PODRT_MKDIR
WRITE = PODRT_WRITE
READ = PODRT_READ
RMDIR = PODRT_RMDIR
OPTIONAL = PODRT_OPTIONAL

cdef enum:
    NOT_RUN = 1
    INSTRUCTION_BYTES = 8
    MOST_INSTRUCTIONS = 4096


cdef int _run(podrt_step *steps, Py_ssize_t count) noexcept nogil:
    """Do the steps in order; the index of the one that failed, or -1."""
    cdef Py_ssize_t at
    for at in range(count):
        steps[at].result = podrt_step_do(&steps[at])
        if steps[at].result == 0 or steps[at].op & PODRT_OPTIONAL:
            continue
        # A cgroup that exists is as good as one just made; the caller can tell by the result.
        if steps[at].op == PODRT_MKDIR and steps[at].result == -EEXIST:
            continue
        return <int>at
    return -1


cdef object _result(podrt_step *step):
    if step.result == NOT_RUN:
        return None
    if step.result == 0 and (step.op & PODRT_OP) == PODRT_READ:
        return PyBytes_FromStringAndSize(step.read_data, <Py_ssize_t>step.read_bytes)
    return step.result


cdef int _prepare(tuple held, podrt_step *steps) except -1:
    cdef Py_ssize_t at
    cdef bytes path, data
    for at in range(len(held)):
        op, fd, path, data = held[at]
        if path is None or data is None or b"\0" in path:
            raise ValueError("a step needs a path without null bytes, and data")
        steps[at].op = op
        steps[at].fd = fd
        steps[at].path = PyBytes_AS_STRING(path)
        steps[at].data = PyBytes_AS_STRING(data)
        steps[at].data_bytes = <size_t>PyBytes_GET_SIZE(data)
        steps[at].result = NOT_RUN
    return 0


def run(steps):
    """Do every step (op, dirfd, path, data) in order, up to the first that fails.

    Shape: (index of the failed step or -1, its errno or 0, one result per step): bytes for what
    READ read, 0, -errno of a step that failed, or None for one never tried. An OPTIONAL step's
    failure, and MKDIR of what exists, do not stop the rest.
    """
    # Copies of the containers: what the C side points to stays, whatever other threads do.
    cdef tuple held = tuple([tuple(step) for step in steps])
    cdef Py_ssize_t count = len(held)
    cdef Py_ssize_t at
    cdef int failed
    cdef podrt_step *table = <podrt_step *>calloc(count or 1, sizeof(podrt_step))
    if table == NULL:
        raise MemoryError
    try:
        _prepare(held, table)
        with nogil:
            failed = _run(table, count)
        results = [_result(&table[at]) for at in range(count)]
        return failed, -table[failed].result if failed >= 0 else 0, results
    finally:
        for at in range(count):
            free(table[at].read_data)
        free(table)


def set_device_filter(int dirfd, bytes program not None):
    """Make `program` (eBPF instructions) the only device filter of a v2 cgroup. Raises OSError.

    Source: bpf(2), BPF_PROG_TYPE_CGROUP_DEVICE in the kernel's cgroup-v2 documentation.
    """
    cdef Py_ssize_t size = PyBytes_GET_SIZE(program)
    cdef const char *text = PyBytes_AS_STRING(program)
    cdef int status
    if size == 0 or size % INSTRUCTION_BYTES or size > INSTRUCTION_BYTES * MOST_INSTRUCTIONS:
        raise ValueError("not a whole number of instructions, or too many")
    with nogil:
        status = podrt_bpf_filter(dirfd, text, <uint32_t>(size // INSTRUCTION_BYTES))
    if status:
        raise OSError(-status, os.strerror(-status), "bpf")
