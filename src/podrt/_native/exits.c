/* Ends of processes: found, journaled, reaped and told, in this order; and processes that a dead
 * monitor left behind. Those are not our children: a pidfd tells their end, and since Linux 6.15
 * their exit status, once their parent has reaped them. */
#include "monitor.h"

#define K_PIDFD_INFO_EXIT (1u << 3)
#define STATUS_UNKNOWN -1

/* The first published layout. Source: include/uapi/linux/pidfd.h. */
struct k_pidfd_info {
	uint64_t mask;
	uint64_t cgroupid;
	uint32_t ids[11];
	int32_t exit_code;
};
#define K_PIDFD_GET_INFO _IOWR(0xFF, 11, struct k_pidfd_info)

/* Only asked about a SIGKILL that nobody here sent. */
static bool was_oom_killed(struct container *c)
{
	static const char *const files[] = {"memory.events", "memory.oom_control"};
	char text[1024];
	uint64_t seen = c->oom_kills;

	for (int i = 0; c->memory_dir && i < 2; i++) {
		if (read_text(open_path(O_RDONLY, "%s/%s", c->memory_dir, files[i]), text,
			      sizeof(text)) < 0)
			continue;
		const char *line = strstr(text, "oom_kill ");
		c->oom_kills = line ? strtoull(line + strlen("oom_kill "), NULL, 10) : 0;
		/* A lower count is that of a new cgroup of the same name. */
		return c->oom_kills != 0 && c->oom_kills != seen;
	}
	return false;
}

/* `status` is as waitpid gives it. */
static void note_end(struct container *c, int status)
{
	c->exit_flags = c->by_user ? EXIT_BY_USER : 0;
	c->ended_at_ns = clock_ns(CLOCK_REALTIME);
	if (status == STATUS_UNKNOWN) {
		c->exit_flags |= EXIT_UNKNOWN;
		c->code = UNKNOWN_EXIT_CODE;
		return;
	}
	c->code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && !c->by_user && was_oom_killed(c))
		c->exit_flags |= EXIT_OOM;
}

void answer_waiters(struct monitor *m, struct container *c)
{
	const struct wire_head ended = {
	    .type = MSG_EXITED, .arg = c->code, .a = c->ended_at_ns, .b = c->was_killed};

	while (c->waiters) {
		struct waiter *waiter = c->waiters;

		c->waiters = waiter->next;
		if (c->state == STATE_EXITED || waiter->is_stop)
			answer_about(m, c, waiter->asker, ended);
		else
			reply_failed(m, waiter->asker, ESRCH, 0, "it did not start");
		free(waiter);
	}
}

int add_waiter(struct container *c, struct asker asker, bool is_stop)
{
	struct waiter *waiter = malloc(sizeof(*waiter));

	if (!waiter)
		return -ENOMEM;
	*waiter = (struct waiter){.next = c->waiters, .asker = asker, .is_stop = is_stop};
	c->waiters = waiter;
	return 0;
}

static void record_exit(struct monitor *m, struct container *c, int status)
{
	struct stream *const streams[] = {&c->out, &c->err};
	bool is_failed_start;

	if (c->state == STATE_STARTING) /* its report has ended, or will not come */
		fail_start(c, STAGE_SETUP, EIO, KILLED_EARLY);
	is_failed_start = c->state == STATE_FAILING;
	note_end(c, status);
	close_report(m, c);
	/* The last output is in the log before anybody hears of the end. */
	for (int i = 0; i < 2; i++) {
		stream_drain(&m->scratch, streams[i]);
		unwatch(m, &streams[i]->source);
	}
	log_close(&c->log);
	if (!is_failed_start)
		journal_end(m, c, c->ended_at_ns);
	if (c->pidfd.fd < 0)
		waitid(P_PID, (id_t)c->pid, NULL, WEXITED | WNOHANG);
	unwatch(m, &c->pidfd);
	spaces_lead(m, c, false);
	table_set_pid(&m->table, c, 0);
	m->live--;
	if (is_failed_start) {
		finish_failed_start(m, c);
		if (c->state == STATE_IDLE)
			answer_waiters(m, c);
		return;
	}
	/* Whoever asked for a RELEASE that came too late. */
	reply_failed(m, take_asker(&c->starter), ESRCH, 0, "the process has ended");
	run_ended(m, c);
}

/* Looks before it reaps: a monitor that dies in between leaves the zombie, and with it the
 * code, to whoever is next. Orphans that fall to us as subreaper are only reaped. */
void collect_children(struct monitor *m)
{
	while (true) {
		siginfo_t info = {0};
		struct container *c;
		int status;

		if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || !info.si_pid)
			return;
		c = table_find_pid(&m->table, info.si_pid);
		status = info.si_code == CLD_EXITED ? (info.si_status & 0xff) << 8
						    : info.si_status & 0x7f;
		if (c && c->pidfd.fd < 0) {
			read_report(m, c, 0);
			record_exit(m, c, status);
		} else {
			waitid(P_PID, (id_t)info.si_pid, NULL, WEXITED | WNOHANG);
			settle_ended(m, info.si_pid, status);
		}
	}
}

/* Its output goes on into the log if it still is our pipe; what filled up meanwhile is there.
 * A program may put there what it likes, when it likes: what is opened is held first, without
 * effect on it, and looked at. Ours is a pipe that the container's first process holds for
 * reading too; a shell holds an inner one (`exec > >(tee)`) for writing only, and what is in
 * that is for another reader. A program that holds a pipe of its own in our manner gets that
 * one logged: it could as well have copied it. */
static void reopen_output(struct monitor *m, struct stream *stream, pid_t pid, int number)
{
	cleanup_fd int place = open_path(O_PATH, "/proc/%d/fd/%d", (int)pid, number), ours = -1;
	char text[128], *flags;
	struct statfs fs;

	if (place < 0 || fstatfs(place, &fs) < 0 || fs.f_type != PIPEFS_MAGIC ||
	    read_text(open_path(O_RDONLY, "/proc/%d/fdinfo/%d", (int)pid, number), text,
		      sizeof(text)) < 0)
		return;
	flags = strstr(text, "flags:");
	if (!flags || (strtoul(flags + strlen("flags:"), NULL, 8) & O_ACCMODE) != O_RDWR)
		return;
	ours = open_path(O_RDONLY | O_NONBLOCK, "/proc/self/fd/%d", place);
	if (ours >= 0)
		watch(m, &stream->source, &ours);
}

int adopt_container(struct monitor *m, struct container *c, const struct request *request)
{
	const pid_t pid = (pid_t)request->head.a;
	cleanup_fd int pidfd = -1;
	uint64_t ticks;

	if (pid <= 0 || request->head.a > INT32_MAX ||
	    memchr(request->body, '\0', request->body_bytes))
		return -EPROTO;
	pidfd = k_pidfd_open(pid);
	if (pidfd < 0)
		return -ESRCH;
	/* Looked at after the pidfd is there: from now on the number cannot change hands. */
	if (start_ticks(pid, &ticks) < 0 || ticks != request->head.b)
		return -ESRCH;
	TRY(watch(m, &c->pidfd, &pidfd));
	process_begins(c, request);
	c->ticks = ticks;
	c->state = STATE_RUNNING;
	m->live++;
	table_set_pid(&m->table, c, pid);
	spaces_lead(m, c, true);
	/* Without its log the output is lost, the process is not. */
	if (request->body_bytes && log_open(&c->log, request->body, 0) == 0) {
		reopen_output(m, &c->out, pid, STDOUT_FILENO);
		reopen_output(m, &c->err, pid, STDERR_FILENO);
	}
	/* For a process that only has a receipt this is the news that it runs. */
	journal_keep(&m->journal, record_of(c, REC_STARTED));
	answer_started(m, c, MSG_STARTED);
	return LATER;
}

/* Readable at the end, hung up when it is reaped. Until then the zombie tells the status, and
 * from 6.15 on the pidfd afterwards; else nobody but the parent ever learns it. */
void pidfd_event(struct monitor *m, void *owner, uint32_t events)
{
	struct container *c = owner;
	struct epoll_event hangup_only = {.data.ptr = &c->pidfd};
	struct k_pidfd_info info = {.mask = K_PIDFD_INFO_EXIT};
	const bool is_told = ioctl(c->pidfd.fd, K_PIDFD_GET_INFO, &info) == 0;
	int status = info.exit_code;

	if ((!is_told || !(info.mask & K_PIDFD_INFO_EXIT)) &&
	    zombie_status(c->pid, c->ticks, &status) < 0)
		status = STATUS_UNKNOWN;
	if (is_told && status == STATUS_UNKNOWN && !(events & EPOLLHUP))
		epoll_ctl(m->epoll, EPOLL_CTL_MOD, c->pidfd.fd, &hangup_only);
	else
		record_exit(m, c, status);
}
