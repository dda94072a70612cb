/* Kernel calls the C libraries lack or disagree on, and clean-up by scope.
 * Everything here returns -errno on failure. Our own names for the constants of the mount
 * interface: glibc and musl define different halves of them. */
#ifndef PODRT_BASE_H
#define PODRT_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PATH_ROOM 4096

struct k_open_how {
	uint64_t flags;
	uint64_t mode;
	uint64_t resolve;
};
#define K_RESOLVE_NO_XDEV 0x01
#define K_RESOLVE_NO_MAGICLINKS 0x02
#define K_RESOLVE_NO_SYMLINKS 0x04
#define K_RESOLVE_BENEATH 0x08
#define K_RESOLVE_IN_ROOT 0x10

struct k_mount_attr {
	uint64_t attr_set;
	uint64_t attr_clr;
	uint64_t propagation;
	uint64_t userns_fd;
};
#define K_ATTR_RDONLY 0x01
#define K_ATTR_NOSUID 0x02
#define K_ATTR_NODEV 0x04
#define K_ATTR_NOEXEC 0x08
#define K_ATTR_ATIME_MASK 0x70

#define K_SET_FLAG 0
#define K_SET_STRING 1
#define K_CMD_CREATE 6

struct k_clone_args {
	uint64_t flags, pidfd, child_tid, parent_tid, exit_signal;
	uint64_t stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};
#define K_CLONE_INTO_CGROUP 0x200000000ULL

int k_openat2(int dir, const char *path, uint64_t flags, uint64_t resolve);
int k_fsopen(const char *type);
int k_fsconfig(int fs, unsigned command, const char *key, const char *value);
int k_fsmount(int fs, uint64_t attrs);
int k_open_tree(int dir, const char *path, bool recursive);
int k_move_mount(int from, int to);
int k_mount_setattr(int fd, bool recursive, const struct k_mount_attr *attr);
int k_pivot_root_here(void);
int k_close_range(unsigned first, unsigned last, unsigned flags);
int k_pidfd_open(pid_t pid);
int k_pidfd_signal(int pidfd, int sig);
pid_t k_clone3(const struct k_clone_args *args);
void k_reset_signals(void);
void k_block_signals(uint64_t mask);

#define cleanup_fd __attribute__((cleanup(close_fd)))
#define cleanup_mem __attribute__((cleanup(free_mem)))
void close_fd(int *fd);
void free_mem(void *pointer);
int take_fd(int *fd);

int write_all(int fd, const void *data, size_t bytes);
int read_all(int fd, void *data, size_t bytes, off_t offset);
int write_file(const char *path, const char *text);
int read_text(int dir, const char *path, char *text, size_t room);
int start_ticks(int proc, pid_t pid, uint64_t *ticks);
uint32_t crc32_of(const void *data, size_t bytes);
uint64_t clock_ns(int clock);

#endif
