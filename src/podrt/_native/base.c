#include "base.h"

#define K_OPEN_TREE_CLONE 1u
#define K_MOVE_FROM_EMPTY 0x04u
#define K_MOVE_TO_EMPTY 0x40u
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif

#define LAST_SIGNAL 64

int checked(long result)
{
	return result < 0 ? -errno : (int)result;
}

int k_openat2(int dir, const char *path, uint64_t flags, uint64_t resolve)
{
	struct open_how how = {.flags = flags | O_CLOEXEC, .resolve = resolve};
	int fd;

	/* RESOLVE_IN_ROOT answers EAGAIN when a rename raced with a "..": ask again. */
	for (int tries = 0; tries < 32; tries++) {
		fd = K(openat2, dir, path, &how, sizeof(how));
		if (fd != -EAGAIN)
			break;
	}
	return fd;
}

int k_open_tree(int dir, const char *path, bool recursive)
{
	unsigned flags = K_OPEN_TREE_CLONE | O_CLOEXEC | (recursive ? AT_RECURSIVE : 0);

	return K(open_tree, dir, path, *path ? flags : flags | AT_EMPTY_PATH);
}

int k_move_mount(int from, int to)
{
	return K(move_mount, from, "", to, "", K_MOVE_FROM_EMPTY | K_MOVE_TO_EMPTY);
}

int k_mount_setattr(int fd, bool recursive, struct k_mount_attr attr)
{
	unsigned flags = AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0);

	return K(mount_setattr, fd, "", flags, &attr, sizeof(attr));
}

/* By the calls themselves: the libraries keep some signals for their threads and leave those as
 * they are, and a signal that an ancestor ignored would reach the programs ignored. */
void k_reset_signals(void)
{
	const uint64_t by_default[4] = {0}; /* struct sigaction as the kernel has it */

	for (int sig = 1; sig <= LAST_SIGNAL; sig++)
		syscall(SYS_rt_sigaction, sig, by_default, NULL, sizeof(uint64_t));
}

void k_block_signals(uint64_t mask)
{
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, sizeof(mask));
}

void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void free_mem(void *pointer)
{
	free(*(void **)pointer);
}

int take_fd(int *fd)
{
	int taken = *fd;

	*fd = -1;
	return taken;
}

/* To a regular file or one of the kernel's: what is short is refused. */
int write_all(int fd, const void *data, size_t bytes)
{
	ssize_t n = write(fd, data, bytes);

	return n < 0 ? -errno : n < (ssize_t)bytes ? -ENOSPC : 0;
}

/* Exactly `bytes` bytes of a regular file. The file position is left alone: whoever sent the
 * descriptor may send it again. */
int read_all(int fd, void *data, size_t bytes, off_t offset)
{
	ssize_t n = pread(fd, data, bytes, offset);

	return n < 0 ? -errno : n < (ssize_t)bytes ? -ENODATA : 0;
}

int open_path(int flags, const char *format, ...)
{
	char path[PATH_ROOM];
	va_list words;
	int length;

	va_start(words, format);
	length = vsnprintf(path, sizeof(path), format, words);
	va_end(words);
	return length < PATH_ROOM ? checked(open(path, flags | O_CLOEXEC)) : -ENAMETOOLONG;
}

/* To a file that was just opened, or was not. */
int write_text(int fd, const char *text)
{
	OPEN(file, fd);
	return write_all(file, text, strlen(text));
}

/* A small kernel file as a string: one read is enough for those. */
int read_text(int fd, char *text, size_t room)
{
	OPEN(file, fd);
	ssize_t n = read(file, text, room - 1);

	TRY(n < 0 ? -errno : 0);
	text[n] = '\0';
	return 0;
}

/* Source: proc(5), /proc/[pid]/stat; the name may hold spaces and brackets. */
int parse_stat(const char *text, uint64_t *fields)
{
	const char *at = strrchr(text, ')');

	for (int field = 0; field < STAT_FIELDS; field++) {
		at = at ? strchr(at + 1, ' ') : NULL;
		if (!at)
			return -ESRCH;
		fields[field] = field == STATE_FIELD ? (uint64_t)at[1] : strtoull(at + 1, NULL, 10);
	}
	return 0;
}

static int read_stat(pid_t pid, uint64_t *fields)
{
	char text[1024];

	TRY(read_text(open_path(O_RDONLY, "/proc/%d/stat", (int)pid), text, sizeof(text)));
	return parse_stat(text, fields);
}

int start_ticks(pid_t pid, uint64_t *ticks)
{
	uint64_t fields[STAT_FIELDS];

	TRY(read_stat(pid, fields));
	*ticks = fields[START_TIME_FIELD];
	return 0;
}

/* How a process ended that nobody has reaped yet; -ESRCH when it has not, or was. To who may not
 * trace it the kernel shows a zero in that place, so whether we may is asked first. */
int zombie_status(pid_t pid, uint64_t ticks, int *status)
{
	char text[32];
	uint64_t fields[STAT_FIELDS];

	TRY(read_text(open_path(O_RDONLY, "/proc/%d/personality", (int)pid), text, sizeof(text)));
	TRY(read_stat(pid, fields));
	if (fields[STATE_FIELD] != 'Z' || fields[START_TIME_FIELD] != ticks)
		return -ESRCH;
	*status = (int)fields[EXIT_CODE_FIELD];
	return 0;
}

/* zlib's CRC-32, four bits at a time: records are 92 bytes, a big table would cost more memory
 * than it saves time. */
uint32_t crc32_of(const void *data, size_t bytes)
{
	static const uint32_t table[16] = {
	    0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4,
	    0x4db26158, 0x5005713c, 0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
	    0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
	};
	const uint8_t *at = data;
	uint32_t crc = 0xffffffffu;

	for (; bytes > 0; bytes--, at++) {
		crc = table[(crc ^ *at) & 15] ^ (crc >> 4);
		crc = table[(crc ^ (uint32_t)(*at >> 4)) & 15] ^ (crc >> 4);
	}
	return ~crc;
}

uint64_t clock_ns(int clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Keeps the first descriptor that was passed and closes every other. */
static int first_fd(struct msghdr *msg)
{
	int kept = -1;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (kept < 0)
				kept = fd;
			else
				close(fd);
		}
	}
	return kept;
}

union control {
	char room[CMSG_SPACE(MAX_PASSED_FDS * sizeof(int))];
	struct cmsghdr head;
};

/* The bytes of a message, 0 at the end; `passed` is the first descriptor that comes with it. */
ssize_t receive_message(int sock, void *message, size_t room, int *passed)
{
	union control control;
	struct iovec iov = {message, room};
	struct msghdr msg = {
	    .msg_iov = &iov,
	    .msg_iovlen = 1,
	    .msg_control = control.room,
	    .msg_controllen = sizeof(control.room),
	};
	ssize_t n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);

	*passed = n < 0 ? -1 : first_fd(&msg);
	if (n < 0)
		return -errno;
	if (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
		return -EMSGSIZE;
	return n > 0 && n < (ssize_t)sizeof(struct wire_head) ? -EPROTO : n;
}

int send_message(int sock, const void *head, size_t head_bytes, const void *body, size_t body_bytes,
		 int passed)
{
	union control control = {.head = {.cmsg_len = CMSG_LEN(sizeof(int)),
					  .cmsg_level = SOL_SOCKET,
					  .cmsg_type = SCM_RIGHTS}};
	struct iovec iov[2] = {{(void *)(uintptr_t)head, head_bytes},
			       {(void *)(uintptr_t)body, body_bytes}};
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = body_bytes ? 2 : 1};

	if (passed >= 0) {
		memcpy(CMSG_DATA(&control.head), &passed, sizeof(passed));
		msg.msg_control = control.room;
		msg.msg_controllen = CMSG_SPACE(sizeof(int));
	}
	return sendmsg(sock, &msg, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

int say(int sock, struct wire_head head, const char *text, int passed)
{
	head.version = WIRE_VERSION;
	return send_message(sock, &head, sizeof(head), text, strlen(text), passed);
}

struct message failure_of(uint32_t stage, int error, const char *detail)
{
	struct message message = {.head = {.type = MSG_FAILED, .arg = error, .a = stage}};

	snprintf(message.body, sizeof(message.body), "%s", detail ? detail : "");
	return message;
}

/* Of our own: what is longer than we ever say is refused. */
ssize_t hear(int sock, struct message *message, int *passed)
{
	*message = (struct message){0};
	return receive_message(sock, message, sizeof(*message) - 1, passed);
}

int await_release(int sock)
{
	struct message message;
	cleanup_fd int passed = -1;

	return hear(sock, &message, &passed) > 0 && message.head.type == MSG_RELEASE &&
		       message.head.version == WIRE_VERSION
		   ? 0
		   : -ECANCELED;
}
