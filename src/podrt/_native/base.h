/* What every file here needs: the usual headers, kernel calls the C libraries lack or disagree on,
 * and clean-up by scope. Everything here returns -errno on failure. Our own names for the constants
 * of the mount interface: glibc and musl define different halves of them. */
#pragma once

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/types.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "wire.h"

#define PATH_ROOM 4096
#define MAX_PASSED_FDS 253 /* SCM_MAX_FD */
#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif
#ifndef CLOSE_RANGE_UNSHARE
#define CLOSE_RANGE_UNSHARE 2u
#endif
#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC 4u
#endif

struct k_mount_attr {
	uint64_t attr_set, attr_clr, propagation, userns_fd;
};
#define K_ATTR_RDONLY 0x01
#define K_ATTR_NOSUID 0x02
#define K_ATTR_NODEV 0x04
#define K_ATTR_NOEXEC 0x08
#define K_ATTR_ATIME_MASK 0x70
#define K_ATTR_IDMAP 0x100000

#define K_SET_FLAG 0
#define K_SET_STRING 1
#define K_SET_FD 5
#define K_CMD_CREATE 6

struct k_clone_args {
	uint64_t flags, pidfd, child_tid, parent_tid, exit_signal;
	uint64_t stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};
#define K_CLONE_INTO_CGROUP 0x200000000ULL

/* Ends the function with what failed. */
#define TRY(call)                                                                                  \
	do {                                                                                       \
		int result_of_try = (call);                                                        \
		if (result_of_try < 0)                                                             \
			return result_of_try;                                                      \
	} while (0)

/* A descriptor for the rest of the block, or the end of the function with what failed. */
#define OPEN(fd, call)                                                                             \
	cleanup_fd int fd = (call);                                                                \
	TRY(fd)

/* Each call's result, or -errno. */
#define K(name, ...) checked(syscall(SYS_##name, __VA_ARGS__))
#define k_fsopen(type) K(fsopen, type, 1u)
#define k_fsconfig(fs, command, key, value) K(fsconfig, fs, command, key, value, 0)
#define k_fsmount(fs, attrs) K(fsmount, fs, 1u, (unsigned)(attrs))
#define k_close_range(first, flags) K(close_range, first, ~0u, flags)
#define k_pidfd_open(pid) K(pidfd_open, pid, 0)
#define k_clone3(args) K(clone3, args, sizeof(*(args)))

int checked(long result);
int k_openat2(int dir, const char *path, uint64_t flags, uint64_t resolve);
int k_open_tree(int dir, const char *path, bool recursive);
int k_move_mount(int from, int to);
int k_mount_setattr(int fd, bool recursive, struct k_mount_attr attr);
void k_reset_signals(void);
void k_block_signals(uint64_t mask);

#define cleanup_fd __attribute__((cleanup(close_fd)))
#define cleanup_mem __attribute__((cleanup(free_mem)))
void close_fd(int *fd);
void free_mem(void *pointer);
int take_fd(int *fd);

/* Takes `item` out of a list of its kind. */
#define UNCHAIN(head, item, next)                                                                  \
	do {                                                                                       \
		__typeof__(item) *at_ = (head);                                                    \
		while (*at_ && *at_ != (item))                                                     \
			at_ = &(*at_)->next;                                                       \
		if (*at_)                                                                          \
			*at_ = (item)->next;                                                       \
	} while (0)

int write_all(int fd, const void *data, size_t bytes);
int read_all(int fd, void *data, size_t bytes, off_t offset);
/* The path as printf makes it. */
int open_path(int flags, const char *format, ...) __attribute__((format(printf, 2, 3)));
int write_text(int fd, const char *text);
int read_text(int fd, char *text, size_t room);
/* Fields of /proc/<pid>/stat, counted from the first behind the name. */
enum { STATE_FIELD, PARENT_FIELD, START_TIME_FIELD = 19, EXIT_CODE_FIELD = 49, STAT_FIELDS };
int parse_stat(const char *text, uint64_t *fields);
int start_ticks(pid_t pid, uint64_t *ticks);
int zombie_status(pid_t pid, uint64_t ticks, int *status);
uint32_t crc32_of(const void *data, size_t bytes);
uint64_t clock_ns(int clock);

/* What is said between us, and kept of it: a body here is a string. */
struct message {
	struct wire_head head;
	char body[240];
};

ssize_t receive_message(int sock, void *message, size_t room, int *passed);
int send_message(int sock, const void *head, size_t head_bytes, const void *body, size_t body_bytes,
		 int passed);
int say(int sock, struct wire_head head, const char *text, int passed);
struct message failure_of(uint32_t stage, int error, const char *detail);
ssize_t hear(int sock, struct message *message, int *passed);
int await_release(int sock);
