/* Processes that a dead monitor left behind. They are not our children: a pidfd tells their
 * end, and since Linux 6.15 their exit status, once their parent has reaped them. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base.h"
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
	cleanup_fd int proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	uint64_t found;

	return proc >= 0 && start_ticks(proc, pid, &found) == 0 && found == ticks;
}

/* Its output goes on into the log if it still is a pipe; what filled up meanwhile is there. */
static void reopen_output(struct monitor *m, struct stream *stream, pid_t pid, int number)
{
	char path[48], target[16] = "";

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)pid, number);
	if (readlink(path, target, sizeof(target) - 1) < 0 || strncmp(target, "pipe:", 5) != 0)
		return;
	stream->source.fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (stream->source.fd >= 0)
		watch(m, &stream->source, EPOLLIN);
}

static int check_adopt(const struct request *request)
{
	const uint64_t pid = request->head.a;

	if (pid == 0 || pid > INT32_MAX || memchr(request->body, '\0', request->body_bytes))
		return -EPROTO;
	return 0;
}

int adopt_container(struct monitor *m, struct container *c, const struct request *request)
{
	const pid_t pid = (pid_t)request->head.a;
	cleanup_fd int pidfd = -1;
	int result = check_adopt(request);

	if (result < 0)
		return result;
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
	return 0;
}

/* Before 6.13 nobody but the parent ever learns the status. */
static bool can_tell_exit(int pidfd)
{
	struct k_pidfd_info info = {0};

	return ioctl(pidfd, K_PIDFD_GET_INFO, &info) == 0;
}

static bool read_exit(int pidfd, struct ending *ending)
{
	struct k_pidfd_info info = {.mask = K_PIDFD_INFO_EXIT};

	if (ioctl(pidfd, K_PIDFD_GET_INFO, &info) < 0)
		return false;
	ending->status = info.exit_code;
	return info.mask & K_PIDFD_INFO_EXIT;
}

/* Readable at the end, hung up when it is reaped: only then is the status there. */
void pidfd_event(struct monitor *m, struct container *c, uint32_t events)
{
	struct epoll_event hangup_only = {.data.ptr = &c->pidfd};
	struct ending ending = {0};

	if (!read_exit(c->pidfd.fd, &ending)) {
		ending.is_unknown = true;
		if (can_tell_exit(c->pidfd.fd) && !(events & EPOLLHUP)) {
			epoll_ctl(m->epoll, EPOLL_CTL_MOD, c->pidfd.fd, &hangup_only);
			return;
		}
	}
	dispatch(m, c, EVENT_GONE, &ending);
}
