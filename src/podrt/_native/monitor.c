/* podrt-monitor <group id> [cgroup directory ...]
 *
 * Parent and subreaper of one group's processes; keeper of its journal, logs and namespaces.
 * Descriptors on entry: 3 the group's lock (held for life), 4 the listening socket, 5 the
 * journal, 6 the group's run directory. It ends when nothing is left to watch. */
#include "monitor.h"

#include <sys/mman.h>
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

	return epoll_ctl(m->epoll, EPOLL_CTL_ADD, source->fd, &event) < 0 ? -errno : 0;
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
	return m->signals.fd < 0 ? -errno : 0;
}

static int become_monitor(char *const *cgroups)
{
	char path[PATH_ROOM];

	if (setsid() < 0)
		return -errno;
	for (; *cgroups; cgroups++) {
		int n = snprintf(path, sizeof(path), "%s/cgroup.procs", *cgroups);
		int result = n < (int)sizeof(path) ? write_file(path, "0") : -ENAMETOOLONG;

		if (result < 0)
			return result;
	}
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ||
	    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0 ||
	    prctl(PR_SET_NAME, "podrt-monitor", 0, 0, 0) < 0)
		return -errno;
	if (k_close_range(FD_FIRST_FREE, 0) < 0)
		return -errno;
	for (int fd = FD_LOCK; fd < FD_FIRST_FREE; fd++)
		if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
			return -errno;
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL) < 0)
		return -errno;
	return 0;
}

/* Many containers mean many pipes; the children get the limit back that we came with. */
static int raise_limits(struct monitor *m)
{
	struct rlimit most;

	if (getrlimit(RLIMIT_NOFILE, &m->files) < 0)
		return -errno;
	most = m->files;
	most.rlim_cur = most.rlim_max;
	return setrlimit(RLIMIT_NOFILE, &most) < 0 ? -errno : 0;
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
	int result;

	m->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (m->epoll < 0)
		return -errno;
	m->slots = mmap(NULL, SLOTS * sizeof(struct slot), both, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (m->slots == MAP_FAILED)
		return -errno;
	m->listen = (struct source){.on_event = client_accept, .fd = FD_LISTEN};
	m->lock = FD_LOCK;
	m->dir = FD_RUN_DIR;
	m->started_ms = now_ms();
	for (int i = 0; i < HELD_KINDS; i++)
		m->held[i].fd = -1;
	result = start_ticks(getpid(), &m->ticks);
	if (result == 0)
		result = fcntl(FD_LISTEN, F_SETFL, O_NONBLOCK) < 0 ? -errno : 0;
	if (result == 0)
		result = journal_open(&m->journal, FD_JOURNAL);
	if (result == 0)
		result = set_signals(m);
	if (result == 0)
		result = watch(m, &m->listen, EPOLLIN);
	return result < 0 ? result : watch(m, &m->signals, EPOLLIN);
}

static int journal_self(struct monitor *m, enum record_kind kind)
{
	struct journal_record record = {.kind = (uint16_t)kind, .pid = getpid()};

	memcpy(record.id, m->id, ID_BYTES);
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
	int result = m ? parse_id(id, m->id) : -ENOMEM;

	if (result == 0)
		result = become_monitor(cgroups);
	if (result == 0)
		result = raise_limits(m);
	if (result == 0)
		result = open_parts(m);
	if (result == 0)
		result = find_run_dir(m);
	if (result == 0)
		result = journal_self(m, REC_MONITOR_UP);
	if (result < 0)
		return result;
	spaces_unlink(m, false);
	serve(m);
	result = journal_self(m, REC_MONITOR_DOWN);
	table_free(&m->table);
	free(m->shm_path);
	return result;
}

int main(int argc, char **argv)
{
	pid_t pid;

	if (argc < 2) {
		fputs("usage: podrt-monitor GROUP-ID [CGROUP-DIRECTORY ...]\n", stderr);
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
