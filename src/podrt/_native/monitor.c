/* podrt-monitor <group id> [cgroup directory ...] [-- program that settles ...]
 *
 * Parent and subreaper of one group's processes; keeper of its journal, logs and namespaces.
 * Descriptors on entry: 3 the group's lock (held for life), 4 the listening socket, 5 the
 * journal, 6 the group's run directory. It ends when nothing is left to watch. */
#include "monitor.h"

#include <sys/signalfd.h>

enum inherited { FD_LOCK = 3, FD_LISTEN = 4, FD_JOURNAL = 5, FD_RUN_DIR = 6, FD_FIRST_FREE = 7 };

/* How long a monitor waits for its first client: the one that started it. */
#define FIRST_CLIENT_MS 5000
#define JOURNAL_RETRY_MS 1000
#define EVENTS_AT_ONCE 64

/* Of two times, -1 being none. */
int64_t sooner(int64_t one_ms, int64_t other_ms)
{
	return one_ms < 0 || (other_ms >= 0 && other_ms < one_ms) ? other_ms : one_ms;
}

int64_t now_ms(void)
{
	return (int64_t)(clock_ns(CLOCK_MONOTONIC) / 1000000u);
}

/* The descriptor is the source's then; one that cannot be watched stays the caller's. */
int watch(struct monitor *m, struct source *source, int *fd)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = source};

	TRY(checked(epoll_ctl(m->epoll, EPOLL_CTL_ADD, *fd, &event)));
	source->fd = take_fd(fd);
	return 0;
}

/* Taken out before it is closed: a child that was cloned meanwhile has a copy of the
 * descriptor, which would keep the registration alive. */
void unwatch(struct monitor *m, struct source *source)
{
	if (source->fd < 0)
		return;
	epoll_ctl(m->epoll, EPOLL_CTL_DEL, source->fd, NULL);
	close_fd(&source->fd);
}

void bury(struct monitor *m, struct grave *grave)
{
	grave->next = m->graves;
	m->graves = grave;
}

static int parse_id(const char *text, uint8_t *id)
{
	if (strlen(text) != 2 * ID_BYTES || strspn(text, "0123456789abcdef") != 2 * ID_BYTES)
		return -EINVAL;
	for (int i = 0; i < ID_BYTES; i++)
		sscanf(text + 2 * i, "%2hhx", &id[i]);
	return 0;
}

static void handle_signals(struct monitor *m, void *owner, uint32_t events)
{
	struct signalfd_siginfo info;

	while (read(m->signals.fd, &info, sizeof(info)) > 0)
		;
	collect_children(m);
}

/* Many containers mean many pipes: the limit is raised, and the children get the one back that
 * we came with. */
static int become_monitor(struct monitor *m, char *const *words)
{
	char path[PATH_ROOM];
	struct rlimit most;

	TRY(checked(setsid()));
	for (; *words && strcmp(*words, "--") != 0; words++)
		TRY(write_text(open_path(O_WRONLY, "%s/cgroup.procs", *words), "0"));
	m->settle = words[0] && words[1] ? words + 1 : NULL;
	TRY(k_close_range(FD_FIRST_FREE, 0));
	for (int fd = FD_LOCK; fd < FD_FIRST_FREE; fd++)
		TRY(checked(fcntl(fd, F_SETFD, FD_CLOEXEC)));
	TRY(checked(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)));
	TRY(checked(prctl(PR_SET_NAME, "podrt-monitor", 0, 0, 0)));
	TRY(checked(getrlimit(RLIMIT_NOFILE, &m->files)));
	most = m->files;
	most.rlim_cur = most.rlim_max;
	TRY(checked(setrlimit(RLIMIT_NOFILE, &most)));
	ssize_t n = readlink("/proc/self/fd/6", path, sizeof(path) - 1);
	TRY(checked(n));
	path[n] = '\0';
	TRY(asprintf(&m->shm_path, "%s/shm", path) < 0 ? -ENOMEM : 0);
	m->slots = launch_shared(SLOTS * sizeof(struct slot));
	return m->slots ? launch_isolate(&m->home) : -ENOMEM;
}

static int open_parts(struct monitor *m)
{
	sigset_t child;
	int signals, served = FD_LISTEN;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	m->epoll = epoll_create1(EPOLL_CLOEXEC);
	TRY(checked(m->epoll));
	signals = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
	TRY(checked(signals));
	m->signals.on_event = handle_signals;
	m->listen.on_event = client_accept;
	m->dir = FD_RUN_DIR;
	m->started_ms = now_ms();
	for (int i = 0; i < ALL_KINDS; i++)
		m->held[i].fd = -1;
	TRY(start_ticks(getpid(), &m->ticks));
	TRY(checked(fcntl(FD_LISTEN, F_SETFL, O_NONBLOCK)));
	TRY(journal_open(&m->journal, FD_JOURNAL));
	TRY(watch(m, &m->listen, &served));
	return watch(m, &m->signals, &signals);
}

static int journal_self(struct monitor *m, enum record_kind kind)
{
	struct journal_record record = record_for(m->id, kind);

	record.pid = getpid();
	record.start_ticks = m->ticks;
	return journal_append(&m->journal, record);
}

/* For a monitor that is where it must not serve from. Its containers go on. */
_Noreturn void give_up(struct monitor *m)
{
	journal_self(m, REC_MONITOR_DOWN);
	_exit(1);
}

/* Whether anything is left to watch, and how long nothing has to be done unless something happens;
 * -1: for ever. */
static bool is_needed(const struct monitor *m, int64_t until, int *wait_ms)
{
	const int64_t now = now_ms(), end = m->started_ms + FIRST_CLIENT_MS;

	if (!m->had_client && (until < 0 || end < until))
		until = end;
	if (m->journal.first && (until < 0 || now + JOURNAL_RETRY_MS < until))
		until = now + JOURNAL_RETRY_MS;
	*wait_ms = until < 0 ? -1 : until <= now ? 0 : (int)(until - now);
	return m->live > 0 || m->held_flags || m->clients || m->journal.first || m->waiting ||
	       ((m->settle_at_ms || m->settle_pid) && !m->is_removing) ||
	       (!m->had_client && now < end);
}

static void serve(struct monitor *m)
{
	while (true) {
		struct epoll_event events[EVENTS_AT_ONCE];
		const int64_t until =
		    sooner(kill_overdue(m), sooner(restart_due(m), settle_due(m)));
		int wait_ms, n;

		if (!is_needed(m, until, &wait_ms)) {
			/* Somebody may be at the door already. */
			client_accept(m, NULL, 0);
			if (!is_needed(m, until, &wait_ms))
				return;
		}
		n = epoll_wait(m->epoll, events, EVENTS_AT_ONCE, wait_ms);
		for (int i = 0; i < n; i++) {
			const struct source *source = events[i].data.ptr;

			/* One that was closed by an earlier event is not told. */
			if (source->fd >= 0)
				source->on_event(m, source->owner, events[i].events);
		}
		if (m->journal.first)
			journal_retry(&m->journal);
		while (m->graves) {
			struct grave *grave = m->graves;

			m->graves = grave->next;
			free(grave);
		}
	}
}

static int run(const char *id, char *const *words)
{
	cleanup_mem struct monitor *m = calloc(1, sizeof(*m));

	if (!m)
		return -ENOMEM;
	TRY(parse_id(id, m->id));
	TRY(become_monitor(m, words));
	TRY(open_parts(m));
	TRY(journal_self(m, REC_MONITOR_UP));
	spaces_unlink(m, false);
	serve(m);
	return journal_self(m, REC_MONITOR_DOWN);
}

int main(int argc, char **argv)
{
	pid_t pid;

	if (argc >= 5 && strcmp(argv[1], "launch") == 0)
		return launch_main(argv + 2);
	if (argc < 2) {
		fputs(
		    "usage: podrt-monitor GROUP-ID [CGROUP-DIRECTORY ...] [-- PROGRAM ...]\n"
		    "       podrt-monitor launch PLAN-FD SYNC-FD START-FD [CGROUP-DIRECTORY ...]\n",
		    stderr);
		return 2;
	}
	/* Whoever starts us can reap this process at once; the monitor is nobody's child. */
	pid = fork();
	if (pid < 0)
		return 1;
	if (pid > 0)
		_exit(0);
	return run(argv[1], argv + 2) < 0 ? 1 : 0;
}
