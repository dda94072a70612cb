/* Processes that a dead monitor left behind. They are not our children: a pidfd tells their
 * end, and since Linux 6.15 their exit status, once their parent has reaped them. */
#include "monitor.h"

#define K_PIDFD_INFO_EXIT (1u << 3)

/* The first published layout. Source: include/uapi/linux/pidfd.h. */
struct k_pidfd_info {
	uint64_t mask;
	uint64_t cgroupid;
	uint32_t ids[11];
	int32_t exit_code;
};
#define K_PIDFD_GET_INFO _IOWR(0xFF, 11, struct k_pidfd_info)

static bool is_same_process(pid_t pid, uint64_t ticks)
{
	uint64_t found;

	return start_ticks(pid, &found) == 0 && found == ticks;
}

static bool is_held_both_ways(pid_t pid, int number)
{
	char path[48], text[128], *flags;

	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", (int)pid, number);
	if (read_text(path, text, sizeof(text)) < 0)
		return false;
	flags = strstr(text, "flags:");
	return flags && (strtoul(flags + strlen("flags:"), NULL, 8) & O_ACCMODE) == O_RDWR;
}

/* Its output goes on into the log if it still is our pipe; what filled up meanwhile is there.
 * A program may put there what it likes, when it likes: what is opened is held first, without
 * effect on it, and looked at. Ours is a pipe that the container's first process holds for
 * reading too; a shell holds an inner one (`exec > >(tee)`) for writing only, and what is in
 * that is for another reader. A program that holds a pipe of its own in our manner gets that
 * one logged: it could as well have copied it. */
static void reopen_output(struct monitor *m, struct stream *stream, pid_t pid, int number)
{
	char path[48];
	struct statfs fs;
	cleanup_fd int place = -1;

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)pid, number);
	place = open(path, O_PATH | O_CLOEXEC);
	if (place < 0 || fstatfs(place, &fs) < 0 || fs.f_type != PIPEFS_MAGIC ||
	    !is_held_both_ways(pid, number))
		return;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", place);
	stream->source.fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (stream->source.fd >= 0)
		watch(m, &stream->source, EPOLLIN);
}

int adopt_container(struct monitor *m, struct container *c, const void *data)
{
	const struct request *request = data;
	const pid_t pid = (pid_t)request->head.a;
	cleanup_fd int pidfd = -1;
	int result;

	if (pid <= 0 || request->head.a > INT32_MAX ||
	    memchr(request->body, '\0', request->body_bytes))
		return -EPROTO;
	pidfd = k_pidfd_open(pid);
	if (pidfd < 0)
		return -ESRCH;
	/* Looked at after the pidfd is there: from now on the number cannot change hands. */
	if (!is_same_process(pid, request->head.b))
		return -ESRCH;
	c->pidfd.fd = pidfd;
	result = watch(m, &c->pidfd, EPOLLIN);
	if (result < 0) {
		c->pidfd.fd = -1;
		return result;
	}
	take_fd(&pidfd);
	c->run = request->head.run;
	c->ticks = request->head.b;
	c->starter = request->asker;
	c->by_user = c->was_killed = false;
	c->exit_flags = 0;
	c->state = STATE_RUNNING;
	m->live++;
	table_set_pid(&m->table, c, pid);
	/* Without its log the output is lost, the process is not. */
	if (request->body_bytes && log_open(&c->log, request->body, 0) == 0) {
		reopen_output(m, &c->out, pid, STDOUT_FILENO);
		reopen_output(m, &c->err, pid, STDERR_FILENO);
	}
	/* For a process that only has a receipt this is the news that it runs. */
	journal_keep(&m->journal, record_of(c, REC_STARTED));
	answer_started(m, c, MSG_STARTED);
	return 0;
}

/* What the kernel tells; false before 6.13, when nobody but the parent ever learns the status. */
static bool read_info(int pidfd, struct k_pidfd_info *info)
{
	*info = (struct k_pidfd_info){.mask = K_PIDFD_INFO_EXIT};
	return ioctl(pidfd, K_PIDFD_GET_INFO, info) == 0;
}

/* Readable at the end, hung up when it is reaped: only then is the status there. */
void pidfd_event(struct monitor *m, void *owner, uint32_t events)
{
	struct container *c = owner;
	struct epoll_event hangup_only = {.data.ptr = &c->pidfd};
	struct k_pidfd_info info;
	const bool is_told = read_info(c->pidfd.fd, &info);
	struct ending ending = {.status = info.exit_code};

	ending.is_unknown = !is_told || !(info.mask & K_PIDFD_INFO_EXIT);
	if (is_told && ending.is_unknown && !(events & EPOLLHUP)) {
		epoll_ctl(m->epoll, EPOLL_CTL_MOD, c->pidfd.fd, &hangup_only);
		return;
	}
	dispatch(m, c, EVENT_GONE, &ending);
}
