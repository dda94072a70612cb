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
		slot->go = 0;
		slot->stage = STAGE_SETUP;
		return slot;
	}
	return NULL;
}

static void free_slot(struct container *c)
{
	if (c->slot)
		*c->slot = (struct slot){0};
	c->slot = NULL;
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
	unwatch(m, &c->report);
	free_slot(c);
}

/* The process, if there is one, only has to end: then the failure is told. The first counts. */
void fail_start(struct container *c, int error, uint32_t stage, const char *text)
{
	if (!c->failure.error)
		c->failure = (struct failure){error, stage, text ? strdup(text) : NULL};
	c->state = STATE_FAILING;
	if (c->pid > 0)
		signal_container(c, SIGKILL);
}

/* Journaled, then told. A journal that is full cannot keep a failure: it is told all the same. */
void finish_failed_start(struct monitor *m, struct container *c)
{
	struct journal_record record = record_of(c, REC_START_FAILED);

	record.error = c->failure.error;
	record.a = c->failure.stage;
	journal_append(&m->journal, record);
	c->state = STATE_IDLE;
	reply_failed(m, c->starter, c->failure.error, c->failure.stage, c->failure.text);
	c->starter = (struct asker){0};
	free(c->failure.text);
	c->failure = (struct failure){0};
}

static void launch_clean(struct launch *launch)
{
	plan_free(&launch->plan);
	close_fd(&launch->cgroup);
	for (int i = 0; i < 2; i++) {
		close_fd(&launch->out[i]);
		close_fd(&launch->err[i]);
		close_fd(&launch->report[i]);
	}
}

static int open_pipes(struct launch *launch)
{
	const int flags = O_CLOEXEC | O_NONBLOCK;

	if (pipe2(launch->report, O_CLOEXEC | O_NONBLOCK) < 0)
		return -errno;
	if (!launch->plan.log_path)
		return 0;
	return pipe2(launch->out, flags) < 0 || pipe2(launch->err, flags) < 0 ? -errno : 0;
}

/* The directories to join, behind each other; returns how many, or that they are none. */
static int count_dirs(const struct request *request)
{
	const char *at = request->body, *end = at + request->body_bytes;
	int count = 0;

	if (at < end && end[-1] != '\0')
		return -EPROTO;
	for (; at < end; at += strlen(at) + 1, count++)
		if (*at != '/')
			return -EPROTO;
	return count;
}

static int prepare_launch(struct launch *launch, struct container *c, const struct request *request,
			  uint32_t *stage)
{
	int dirs = count_dirs(request), result;

	*stage = STAGE_PLAN;
	result = plan_load(&launch->plan, request->fd);
	if (result < 0)
		return result;
	*stage = STAGE_CGROUP;
	launch->hold = request->head.arg & START_HOLD;
	launch->unified = request->head.arg & START_UNIFIED && dirs > 0;
	launch->joins = dirs > 0 && !launch->unified;
	if (launch->unified) {
		launch->cgroup = open(request->body, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (launch->cgroup < 0)
			return -errno;
	}
	*stage = OP_LOG;
	if (launch->plan.log_path)
		result = log_open(&c->log, launch->plan.log_path, launch->plan.log_max_bytes);
	if (result < 0)
		return result;
	*stage = STAGE_STDIO;
	return open_pipes(launch);
}

/* Returns the directory that refused. */
static const char *join_cgroups(const struct request *request, pid_t pid, int *result)
{
	const char *at = request->body, *end = at + request->body_bytes;
	char path[PATH_ROOM], text[16];

	snprintf(text, sizeof(text), "%d", (int)pid);
	for (; at < end; at += strlen(at) + 1) {
		if (snprintf(path, sizeof(path), "%s/cgroup.procs", at) >= (int)sizeof(path))
			*result = -ENAMETOOLONG;
		else
			*result = write_file(path, text);
		if (*result < 0)
			return at;
	}
	return NULL;
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
	int result;

	c->ends[0] = take_fd(&launch->report[1]);
	c->ends[1] = take_fd(&launch->out[1]);
	c->ends[2] = take_fd(&launch->err[1]);
	if (!launch->lean)
		close_ends(c);
	c->report.fd = take_fd(&launch->report[0]);
	result = watch(m, &c->report, EPOLLIN);
	if (result < 0 || launch->out[0] < 0)
		return result;
	c->out.source.fd = take_fd(&launch->out[0]);
	c->err.source.fd = take_fd(&launch->err[0]);
	if (launch->lean) {
		move_up(&c->out.source.fd);
		move_up(&c->err.source.fd);
		move_up(&c->log.fd);
	}
	result = watch(m, &c->out.source, EPOLLIN);
	return result < 0 ? result : watch(m, &c->err.source, EPOLLIN);
}

/* The receipt names the process before it can become the program: should the monitor die in
 * between, whoever comes next finds it there. */
static int write_receipt(struct monitor *m, const struct container *c)
{
	struct journal_record record = record_of(c, REC_RECEIPT);

	record.code = MSG_START;
	return journal_append(&m->journal, record);
}

/* The child is there: from here on a failure waits for its end. */
static void follow_child(struct monitor *m, struct container *c, struct launch *launch,
			 const struct request *request)
{
	const char *refused = NULL;
	int receipt, result;

	table_set_pid(&m->table, c, launch->pid);
	c->ticks = launch->ticks;
	c->state = STATE_STARTING;
	m->live++;
	receipt = write_receipt(m, c);
	result = watch_child(m, c, launch);
	if (receipt < 0 || result < 0) {
		fail_start(c, receipt < 0 ? -receipt : -result,
			   receipt < 0 ? STAGE_JOURNAL : STAGE_STDIO, NULL);
		return;
	}
	if (launch->joins)
		refused = join_cgroups(request, launch->pid, &result);
	if (refused)
		fail_start(c, -result, STAGE_CGROUP, refused);
	else
		launch_go(c->slot);
}

static void reset_run(struct container *c, const struct request *request)
{
	c->run = request->head.run;
	c->starter = request->asker;
	c->by_user = c->was_killed = false;
	c->exit_flags = 0;
	c->code = 0;
	c->ticks = 0;
	c->kill_at_ms = 0;
	c->state = STATE_IDLE;
	free(c->memory_dir);
	c->memory_dir = find_memory_dir(request->body, request->body_bytes);
}

int start_container(struct monitor *m, struct container *c, const void *data)
{
	const struct request *request = data;
	struct launch launch __attribute__((cleanup(launch_clean))) = {
	    .held = m->held,
	    .shm_path = m->shm_path,
	    .files = &m->files,
	    .monitor = getpid(),
	    .cgroup = -1,
	    .out = {-1, -1},
	    .err = {-1, -1},
	    .report = {-1, -1},
	};
	uint32_t stage = STAGE_CLONE;
	int dirs = count_dirs(request), result;

	if (request->fd < 0 || request->head.arg & ~START_ALL || dirs < 0 ||
	    (request->head.arg & START_UNIFIED && dirs > 1))
		return -EPROTO;
	if (m->is_removing || c->is_removing)
		return -ECANCELED;
	reset_run(c, request);
	c->slot = launch.slot = take_slot(m);
	result = c->slot ? prepare_launch(&launch, c, request, &stage) : -EAGAIN;
	if (result == 0) {
		stage = STAGE_CLONE;
		launch.lean = m->live >= LEAN_FROM && launch.out[1] < KEEP_FDS &&
			      launch.err[1] < KEEP_FDS && launch.report[1] < KEEP_FDS;
		result = launch_clone(&launch);
	}
	if (result == 0) {
		follow_child(m, c, &launch, request);
		return 0;
	}
	free_slot(c);
	log_close(&c->log);
	fail_start(c, -result, stage, stage == OP_LOG ? launch.plan.log_path : NULL);
	finish_failed_start(m, c);
	return 0;
}

/* The end of the report: exec succeeded if only exec was left, else the child was killed. */
static void report_ended(struct monitor *m, struct container *c)
{
	uint32_t stage = c->slot ? __atomic_load_n(&c->slot->stage, __ATOMIC_ACQUIRE) : 0;

	close_report(m, c);
	if (c->state != STATE_STARTING && c->state != STATE_HELD)
		return;
	if (stage & STAGE_AT_EXEC)
		dispatch(m, c, EVENT_EXECED, NULL);
	else if (c->state == STATE_STARTING)
		fail_start(c, EIO, stage, "the process was killed while it was set up");
}

void read_report(struct monitor *m, void *owner, uint32_t events)
{
	struct container *c = owner;

	(void)events;
	while (c->report.fd >= 0) {
		struct report report;
		ssize_t n = read(c->report.fd, &report, sizeof(report));

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n != (ssize_t)sizeof(report)) {
			report_ended(m, c);
			return;
		}
		report.detail[sizeof(report.detail) - 1] = '\0';
		/* It has a table of its own now. */
		close_ends(c);
		if (report.stage == STAGE_AT_EXEC)
			continue;
		dispatch(m, c, report.stage ? EVENT_REFUSED : EVENT_READY, &report);
	}
}
