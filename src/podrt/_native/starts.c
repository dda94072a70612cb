/* Starting a container: everything between the START message and the news that exec succeeded
 * or did not. */
#include "monitor.h"

/* From so many processes on, what a copied descriptor table costs is worth two messages. */
#define LEAN_FROM 200

static struct slot *take_slot(struct monitor *m)
{
	for (uint32_t i = 0; i < SLOTS; i++) {
		struct slot *slot = &m->slots[i]; /* low ones first: few pages are touched */

		if (slot->stage != 0)
			continue;
		*slot = (struct slot){.stage = STAGE_SETUP};
		return slot;
	}
	return NULL;
}

/* They must go, or the pipes would never end; but not while the child still needs them. */
static void close_ends(struct container *c)
{
	for (int i = 0; i < 3; i++)
		close_fd(&c->ends[i]);
}

void close_report(struct monitor *m, struct container *c)
{
	close_ends(c);
	close_fd(&c->driver);
	unwatch(m, &c->report);
	if (c->slot)
		*c->slot = (struct slot){0};
	c->slot = NULL;
}

/* The process, if there is one, only has to end: then the failure is told. The first counts. */
void fail_start(struct container *c, uint32_t stage, int error, const char *detail)
{
	if (!c->failure.head.arg)
		c->failure = failure_of(stage, error, detail);
	c->state = STATE_FAILING;
	if (c->pid > 0)
		signal_container(c, SIGKILL);
}

/* Journaled, then told. A journal that is full cannot keep a failure: it is told all the same. */
void finish_failed_start(struct monitor *m, struct container *c)
{
	struct journal_record record = record_of(c, REC_START_FAILED);

	if (end_failed_restart(m, c))
		return;
	record.error = c->failure.head.arg;
	record.a = c->failure.head.a;
	journal_append(&m->journal, record);
	c->state = STATE_IDLE;
	reply(m, take_asker(&c->starter), c->failure.head, c->failure.body,
	      strlen(c->failure.body));
	c->failure = (struct message){0};
	end_times(c);
}

/* The directories to join, behind each other; returns how many, or that they are none. The one
 * that counts OOM kills is the memory hierarchy's on v1, the only one on v2. */
static int read_dirs(const struct request *request, const char **memory)
{
	const char *at = request->body, *end = at + request->body_bytes;
	int count = 0;

	*memory = NULL;
	if (at < end && end[-1] != '\0')
		return -EPROTO;
	for (; at < end; at += strlen(at) + 1, count++) {
		if (*at != '/')
			return -EPROTO;
		if (!*memory || strstr(at, "/memory/"))
			*memory = at;
	}
	return count;
}

/* Each step says where it failed before it is tried. */
static int prepare_launch(struct monitor *m, struct container *c, struct launch *launch,
			  const struct request *request)
{
	const struct plan *plan = &launch->plan;
	bool has_dirs;

	end_times(c);
	if (request->head.arg & START_TIMES)
		launch->times = c->times = launch_shared(sizeof(*c->times));
	launch->slot = c->slot = take_slot(m);
	if (!c->slot)
		return launch_fail(launch, STAGE_CLONE, -EAGAIN, NULL);
	launch_fail(launch, STAGE_PLAN, -EINVAL, NULL);
	TRY(plan_load(&launch->plan, request->fd));
	/* Another runtime moves the process there itself. */
	has_dirs = request->body_bytes > 0 && !plan_has(plan, OP_ENGINE);
	launch_fail(launch, STAGE_CGROUP, -ENOENT, request->body);
	launch->unified = request->head.arg & START_UNIFIED && has_dirs;
	launch->joins = has_dirs && !launch->unified;
	if (launch->unified) {
		launch->cgroup = open(request->body, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		TRY(checked(launch->cgroup));
	}
	launch_fail(launch, OP_LOG, -ENOENT, plan_str(plan, OP_LOG, 0));
	if (plan_has(plan, OP_LOG))
		TRY(log_open(&c->log, plan_str(plan, OP_LOG, 0), plan->last[OP_LOG]->f[1].q));
	launch_fail(launch, STAGE_STDIO, -EMFILE, NULL);
	TRY(launch_pipes(launch));
	launch->failure = (struct message){0};
	launch->lean = m->live >= LEAN_FROM && !plan->by_helper && launch->out[1] < KEEP_FDS &&
		       launch->err[1] < KEEP_FDS && launch->report[1] < KEEP_FDS;
	return launch_clone(launch);
}

static void move_up(int *fd)
{
	int moved = fcntl(*fd, F_DUPFD_CLOEXEC, KEEP_FDS);

	if (moved < 0)
		return;
	close(*fd);
	*fd = moved;
}

static int watch_child(struct monitor *m, struct container *c, struct launch *launch)
{
	struct source *const sources[] = {&c->report, &c->out.source, &c->err.source};
	int *const ends[] = {launch->report, launch->out, launch->err};

	if (launch->lean)
		move_up(&c->log.fd);
	for (int i = 0; i < 3; i++) {
		if (launch->lean && i > 0)
			move_up(&ends[i][0]);
		c->ends[i] = take_fd(&ends[i][1]);
		if (ends[i][0] >= 0)
			TRY(watch(m, sources[i], &ends[i][0]));
	}
	if (!launch->lean)
		close_ends(c);
	return 0;
}

/* The child is there: from here on a failure waits for its end. The receipt names the process
 * before it can become the program: should the monitor die in between, whoever comes next finds
 * it there. */
static void follow_child(struct monitor *m, struct container *c, struct launch *launch)
{
	struct journal_record record;
	int result;

	table_set_pid(&m->table, c, launch->pid);
	c->ticks = launch->ticks;
	c->state = STATE_STARTING;
	m->live++;
	record = record_of(c, REC_RECEIPT);
	record.code = MSG_START;
	result = journal_append(&m->journal, record);
	if (result < 0)
		fail_start(c, STAGE_JOURNAL, -result, NULL);
	result = watch_child(m, c, launch);
	if (result < 0)
		fail_start(c, STAGE_STDIO, -result, NULL);
	if (c->state == STATE_STARTING && launch_settle(launch) == 0)
		launch_go(c->slot);
	else
		fail_start(c, (uint32_t)launch->failure.head.a, launch->failure.head.arg,
			   launch->failure.body);
}

int start_container(struct monitor *m, struct container *c, const struct request *request)
{
	struct launch launch __attribute__((cleanup(launch_clean))) = launch_of(m->files);
	const char *memory;
	int dirs = read_dirs(request, &memory), result;

	const bool by_hand = request->asker.client != 0;

	if ((by_hand && request->fd < 0) || request->head.arg & ~START_ALL || dirs < 0 ||
	    (request->head.arg & START_UNIFIED && dirs > 1))
		return -EPROTO;
	if (m->is_removing || c->is_removing)
		return -ECANCELED;
	/* We may have used that number ourselves meanwhile. */
	if (c->run && request->head.run <= c->run)
		return -ESTALE;
	if (by_hand)
		begin_series(m, c, request);
	process_begins(c, request);
	c->state = STATE_IDLE;
	free(c->memory_dir);
	c->memory_dir = memory ? strdup(memory) : NULL;
	launch.home = m->home;
	launch.held = m->held;
	launch.shm_path = m->shm_path;
	launch.dirs = request->body;
	launch.dirs_bytes = request->body_bytes;
	launch.hold = request->head.arg & START_HOLD;
	result = prepare_launch(m, c, &launch, request);
	if (result == 0) {
		follow_child(m, c, &launch);
		return LATER;
	}
	close_report(m, c);
	log_close(&c->log);
	fail_start(c, (uint32_t)launch.failure.head.a, -result, launch.failure.body);
	finish_failed_start(m, c);
	return LATER;
}

/* It stands before exec or has done it. A fact that cannot be journaled is none: the process goes
 * again. */
static void progress(struct monitor *m, struct container *c, bool is_held)
{
	int result = journal_append(&m->journal, record_of(c, is_held ? REC_CREATED : REC_STARTED));

	if (result < 0) {
		fail_start(c, STAGE_JOURNAL, -result, NULL);
		return;
	}
	c->state = is_held ? STATE_HELD : STATE_RUNNING;
	spaces_lead(m, c, !is_held);
	answer_started(m, c, is_held ? MSG_CREATED : MSG_STARTED);
}

/* The end of the report: exec succeeded if only exec was left, else the child was killed. */
static void report_ended(struct monitor *m, struct container *c)
{
	uint32_t stage = c->slot ? __atomic_load_n(&c->slot->stage, __ATOMIC_ACQUIRE) : 0;

	close_report(m, c);
	if (c->state == STATE_HELD) /* nobody is left to start it */
		signal_container(c, SIGKILL);
	if (c->state != STATE_STARTING)
		return;
	if (stage & STAGE_AT_EXEC)
		progress(m, c, false);
	else
		fail_start(c, stage, EIO, KILLED_EARLY);
}

/* Its output goes the way of a pipe's. */
static void take_terminal(struct monitor *m, struct container *c, int *master)
{
	unwatch(m, &c->out.source);
	fcntl(*master, F_SETFL, O_RDWR | O_NONBLOCK);
	watch(m, &c->out.source, master);
}

void read_report(struct monitor *m, void *owner, uint32_t events)
{
	struct container *c = owner;

	while (c->report.fd >= 0) {
		struct message said;
		cleanup_fd int passed = -1;
		ssize_t n = hear(c->report.fd, &said, &passed);

		if (n == -EAGAIN || n == -EINTR)
			return;
		if (n <= 0) {
			report_ended(m, c);
			return;
		}
		/* It has a table of its own now. */
		close_ends(c);
		if (said.head.type == MSG_FAILED &&
		    (c->state == STATE_STARTING || c->state == STATE_HELD))
			fail_start(c, (uint32_t)said.head.a, said.head.arg, said.body);
		else if (said.head.type == MSG_TERMINAL && passed >= 0)
			take_terminal(m, c, &passed);
		else if (said.head.type == MSG_OK && c->state == STATE_STARTING)
			know_process(m, c, (pid_t)said.head.a);
		else if (said.head.type == MSG_CREATED && c->state == STATE_STARTING)
			progress(m, c, true);
	}
}
