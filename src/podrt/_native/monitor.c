/* podrt-monitor <group id> [cgroup directory ...]
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

int64_t now_ms(void)
{
	return (int64_t)(clock_ns(CLOCK_MONOTONIC) / 1000000u);
}

int watch(struct monitor *m, struct source *source, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = source};

	return checked(epoll_ctl(m->epoll, EPOLL_CTL_ADD, source->fd, &event));
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

static void empty_graves(struct monitor *m)
{
	while (m->graves) {
		struct grave *grave = m->graves;

		m->graves = grave->next;
		free(grave);
	}
}

static int parse_id(const char *text, uint8_t *id)
{
	if (strlen(text) != 2 * ID_BYTES || strspn(text, "0123456789abcdef") != 2 * ID_BYTES)
		return -EINVAL;
	for (int i = 0; i < ID_BYTES; i++) {
		const char digits[3] = {text[2 * i], text[2 * i + 1], '\0'};

		id[i] = (uint8_t)strtoul(digits, NULL, 16);
	}
	return 0;
}

static void handle_signals(struct monitor *m, void *owner, uint32_t events)
{
	struct signalfd_siginfo info;

	(void)owner;
	(void)events;
	while (read(m->signals.fd, &info, sizeof(info)) > 0)
		;
	collect_children(m);
}

/* Every disposition at its default and every signal blocked: the children find the first when
 * they unblock, and nothing but SIGKILL can end the monitor. */
static int set_signals(struct monitor *m)
{
	sigset_t child;

	k_reset_signals();
	k_block_signals(~0ull);
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	m->signals = (struct source){.on_event = handle_signals};
	m->signals.fd = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
	return checked(m->signals.fd);
}

static int become_monitor(char *const *cgroups)
{
	char path[PATH_ROOM];

	TRY(checked(setsid()));
	for (; *cgroups; cgroups++) {
		int n = snprintf(path, sizeof(path), "%s/cgroup.procs", *cgroups);

		TRY(n < (int)sizeof(path) ? write_file(path, "0") : -ENAMETOOLONG);
	}
	TRY(checked(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)));
	TRY(checked(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)));
	TRY(checked(prctl(PR_SET_NAME, "podrt-monitor", 0, 0, 0)));
	TRY(k_close_range(FD_FIRST_FREE, 0));
	for (int fd = FD_LOCK; fd < FD_FIRST_FREE; fd++)
		TRY(checked(fcntl(fd, F_SETFD, FD_CLOEXEC)));
	TRY(checked(unshare(CLONE_NEWNS)));
	return checked(mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL));
}

/* Many containers mean many pipes; the children get the limit back that we came with. */
static int raise_limits(struct monitor *m)
{
	struct rlimit most;

	TRY(checked(getrlimit(RLIMIT_NOFILE, &m->files)));
	most = m->files;
	most.rlim_cur = most.rlim_max;
	return checked(setrlimit(RLIMIT_NOFILE, &most));
}

static int find_run_dir(struct monitor *m)
{
	char link[32], path[PATH_ROOM];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", FD_RUN_DIR);
	n = readlink(link, path, sizeof(path) - 1);
	if (n < 0)
		return -errno;
	path[n] = '\0';
	return asprintf(&m->shm_path, "%s/shm", path) < 0 ? -ENOMEM : 0;
}

static int open_parts(struct monitor *m)
{
	const int both = PROT_READ | PROT_WRITE;

	m->epoll = epoll_create1(EPOLL_CLOEXEC);
	TRY(checked(m->epoll));
	m->slots = mmap(NULL, SLOTS * sizeof(struct slot), both, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (m->slots == MAP_FAILED)
		return -errno;
	m->listen = (struct source){.on_event = client_accept, .fd = FD_LISTEN};
	m->lock = FD_LOCK;
	m->dir = FD_RUN_DIR;
	m->started_ms = now_ms();
	for (int i = 0; i < HELD_KINDS; i++)
		m->held[i].fd = -1;
	TRY(start_ticks(getpid(), &m->ticks));
	TRY(checked(fcntl(FD_LISTEN, F_SETFL, O_NONBLOCK)));
	TRY(journal_open(&m->journal, FD_JOURNAL));
	TRY(set_signals(m));
	TRY(watch(m, &m->listen, EPOLLIN));
	return watch(m, &m->signals, EPOLLIN);
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

static void at_latest(int64_t *until, bool counts, int64_t at)
{
	if (counts && (*until < 0 || at < *until))
		*until = at;
}

/* How long nothing has to be done unless something happens; -1: for ever. */
static int patience_ms(const struct monitor *m)
{
	int64_t until = next_kill_ms(m), now = now_ms();

	at_latest(&until, !m->had_client, m->started_ms + FIRST_CLIENT_MS);
	at_latest(&until, m->journal.first, now + JOURNAL_RETRY_MS);
	if (until < 0)
		return -1;
	return until <= now ? 0 : (int)(until - now);
}

static bool is_needed(const struct monitor *m)
{
	if (m->live > 0 || m->held_flags || m->clients || m->journal.first)
		return true;
	return !m->had_client && now_ms() < m->started_ms + FIRST_CLIENT_MS;
}

/* One that was closed by an earlier event of the same batch is not told. */
static void tell(struct monitor *m, const struct source *source, uint32_t events)
{
	if (source->fd >= 0)
		source->on_event(m, source->owner, events);
}

static void serve(struct monitor *m)
{
	while (true) {
		struct epoll_event events[EVENTS_AT_ONCE];
		int n;

		if (!is_needed(m)) {
			/* Somebody may be at the door already. */
			client_accept(m, NULL, 0);
			if (!is_needed(m))
				return;
		}
		n = epoll_wait(m->epoll, events, EVENTS_AT_ONCE, patience_ms(m));
		for (int i = 0; i < n; i++)
			tell(m, events[i].data.ptr, events[i].events);
		kill_overdue(m);
		if (m->journal.first)
			journal_retry(&m->journal);
		empty_graves(m);
	}
}

static int run(const char *id, char *const *cgroups)
{
	cleanup_mem struct monitor *m = calloc(1, sizeof(*m));

	if (!m)
		return -ENOMEM;
	TRY(parse_id(id, m->id));
	TRY(become_monitor(cgroups));
	TRY(raise_limits(m));
	TRY(open_parts(m));
	TRY(find_run_dir(m));
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
		    "usage: podrt-monitor GROUP-ID [CGROUP-DIRECTORY ...]\n"
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
