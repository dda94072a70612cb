/* What each event does in each state: the table at the end is the life of a container here. */
#include "monitor.h"

struct journal_record record_of(const struct container *c, enum record_kind kind)
{
	struct journal_record record = {
	    .kind = (uint16_t)kind,
	    .run = c->run,
	    .pid = c->pid,
	    .start_ticks = c->ticks,
	};

	memcpy(record.id, c->id, ID_BYTES);
	return record;
}

/* The pid of a child that nobody has reaped cannot be another's; for others there is a pidfd. */
int signal_container(const struct container *c, int sig)
{
	if (c->pid <= 0)
		return -ESRCH;
	if (c->pidfd.fd >= 0)
		return k_pidfd_signal(c->pidfd.fd, sig);
	return kill(c->pid, sig) < 0 ? -errno : 0;
}

static bool asks_to_end(int sig)
{
	return sig == SIGTERM || sig == SIGKILL || sig == SIGINT || sig == SIGQUIT;
}

void answer_about(struct monitor *m, const struct container *c, struct asker asker,
		  struct wire_head head)
{
	struct reply reply = {.head = head};

	reply.head.run = c->run;
	memcpy(reply.head.id, c->id, ID_BYTES);
	reply_to(m, asker, reply);
}

void answer_started(struct monitor *m, struct container *c, uint16_t type)
{
	answer_about(m, c, c->starter,
		     (struct wire_head){.type = type, .a = (uint64_t)c->pid, .b = c->ticks});
	c->starter = (struct asker){0};
}

/* It stands before exec (then there is a report) or has done it. A fact that cannot be journaled
 * is none: the process goes again. */
static int on_progress(struct monitor *m, struct container *c, const void *report)
{
	int result = journal_append(&m->journal, record_of(c, report ? REC_CREATED : REC_STARTED));

	if (result < 0) {
		fail_start(c, -result, STAGE_JOURNAL, NULL);
		return 0;
	}
	c->state = report ? STATE_HELD : STATE_RUNNING;
	answer_started(m, c, report ? MSG_CREATED : MSG_STARTED);
	return 0;
}

static int on_refused(struct monitor *m, struct container *c, const void *data)
{
	const struct report *report = data;

	(void)m;
	fail_start(c, report->error, report->stage, report->detail);
	return 0;
}

static int on_release(struct monitor *m, struct container *c, const void *data)
{
	const struct request *request = data;

	(void)m;
	c->starter = request->asker;
	c->state = STATE_STARTING;
	launch_go(c->slot);
	return 0;
}

static int on_signal(struct monitor *m, struct container *c, const void *data)
{
	const struct request *request = data;
	int sig = request->head.arg, result;

	if (sig < 0 || sig > SIGRTMAX)
		return -EINVAL;
	result = signal_container(c, sig);
	if (result < 0)
		return result;
	c->by_user = c->by_user || asks_to_end(sig);
	reply_ok(m, request);
	return 0;
}

/* Before exec there is no program to be asked: it is killed. */
static int on_cancel(struct monitor *m, struct container *c, const void *data)
{
	const struct request *request = data;
	int result;

	(void)m;
	result = add_waiter(c, request->asker, true);
	if (result < 0)
		return result;
	c->by_user = c->was_killed = true;
	fail_start(c, ECANCELED, STAGE_CANCEL, "stopped while it was starting");
	return 0;
}

static void kill_now(struct container *c)
{
	c->was_killed = true;
	c->kill_at_ms = 0;
	signal_container(c, SIGKILL);
}

static void set_deadline(struct monitor *m, struct container *c, uint64_t grace_ms)
{
	int64_t at_ms = now_ms() + (int64_t)(grace_ms > INT32_MAX ? INT32_MAX : grace_ms);

	if (!c->is_listed) {
		c->next_stopping = m->stopping;
		m->stopping = c;
		c->is_listed = true;
	}
	if (c->kill_at_ms == 0 || at_ms < c->kill_at_ms)
		c->kill_at_ms = at_ms;
}

/* A second STOP only makes it sooner. */
static int on_stop(struct monitor *m, struct container *c, const void *data)
{
	const struct request *request = data;
	struct journal_record record = record_of(c, REC_STOPPING);
	bool is_first = c->state != STATE_STOPPING;
	bool at_once = request->head.a == 0 || c->state == STATE_HELD;
	int result;

	record.code = request->head.arg;
	if (is_first && (record.code < 0 || record.code > SIGRTMAX))
		return -EINVAL;
	result = add_waiter(c, request->asker, true);
	if (result < 0 || c->was_killed)
		return result;
	if (is_first)
		journal_append(&m->journal, record);
	c->by_user = true;
	c->state = STATE_STOPPING;
	if (at_once)
		kill_now(c);
	else
		set_deadline(m, c, request->head.a);
	if (is_first && !at_once)
		signal_container(c, record.code);
	return 0;
}

static int on_wait(struct monitor *m, struct container *c, const void *data)
{
	const struct request *request = data;
	int result;

	result = add_waiter(c, request->asker, request->head.type == MSG_STOP);
	if (result == 0 && c->state == STATE_EXITED)
		answer_waiters(m, c);
	return result;
}

/* Killed by somebody else while it was set up: its report has ended, or will not come. */
static int on_gone_early(struct monitor *m, struct container *c, const void *data)
{
	fail_start(c, EIO, STAGE_SETUP, "the process was killed while it was set up");
	return record_exit(m, c, data);
}

static void unlist(struct monitor *m, struct container *c)
{
	struct container **at = &m->stopping;

	while (*at && *at != c)
		at = &(*at)->next_stopping;
	if (*at)
		*at = c->next_stopping;
	c->is_listed = false;
}

static int on_forget(struct monitor *m, struct container *c, const void *data)
{
	int result = journal_append(&m->journal, record_of(c, REC_FORGOTTEN));

	if (result < 0)
		return result;
	reply_ok(m, data);
	unlist(m, c);
	log_close(&c->log);
	table_remove(&m->table, c);
	bury(m, &c->grave);
	return 0;
}

/* Also takes those off the list that have ended meanwhile. */
void kill_overdue(struct monitor *m)
{
	struct container **at = &m->stopping;
	int64_t now = m->stopping ? now_ms() : 0;

	while (*at) {
		struct container *c = *at;

		if (c->kill_at_ms > now) {
			at = &c->next_stopping;
			continue;
		}
		*at = c->next_stopping;
		c->is_listed = false;
		if (c->kill_at_ms != 0)
			kill_now(c);
	}
}

/* -1: none. */
int64_t next_kill_ms(const struct monitor *m)
{
	int64_t next = -1;

	for (const struct container *c = m->stopping; c; c = c->next_stopping)
		if (c->kill_at_ms && (next < 0 || c->kill_at_ms < next))
			next = c->kill_at_ms;
	return next;
}

static handler *const table[STATE_COUNT][EVENT_COUNT] = {
    [STATE_IDLE] = {[EVENT_START] = start_container,
		    [EVENT_ADOPT] = adopt_container,
		    [EVENT_FORGET] = on_forget},
    [STATE_STARTING] = {[EVENT_STOP] = on_cancel,
			[EVENT_WAIT] = on_wait,
			[EVENT_READY] = on_progress,
			[EVENT_REFUSED] = on_refused,
			[EVENT_EXECED] = on_progress,
			[EVENT_GONE] = on_gone_early},
    [STATE_HELD] = {[EVENT_RELEASE] = on_release,
		    [EVENT_SIGNAL] = on_signal,
		    [EVENT_STOP] = on_stop,
		    [EVENT_WAIT] = on_wait,
		    [EVENT_REFUSED] = on_refused,
		    [EVENT_GONE] = record_exit},
    [STATE_RUNNING] = {[EVENT_SIGNAL] = on_signal,
		       [EVENT_STOP] = on_stop,
		       [EVENT_WAIT] = on_wait,
		       [EVENT_GONE] = record_exit},
    [STATE_STOPPING] = {[EVENT_SIGNAL] = on_signal,
			[EVENT_STOP] = on_stop,
			[EVENT_WAIT] = on_wait,
			[EVENT_GONE] = record_exit},
    [STATE_FAILING] = {[EVENT_STOP] = on_wait, [EVENT_WAIT] = on_wait, [EVENT_GONE] = record_exit},
    [STATE_EXITED] = {[EVENT_START] = start_container,
		      [EVENT_ADOPT] = adopt_container,
		      [EVENT_WAIT] = on_wait,
		      [EVENT_FORGET] = on_forget},
};

/* What an event that a state has no use for is told. */
static const int refusals[EVENT_COUNT] = {
    [EVENT_START] = -EEXIST, [EVENT_RELEASE] = -ESRCH, [EVENT_SIGNAL] = -ESRCH,
    [EVENT_STOP] = -ESRCH,   [EVENT_WAIT] = -ESRCH,    [EVENT_FORGET] = -EBUSY,
    [EVENT_ADOPT] = -EEXIST,
};

int dispatch(struct monitor *m, struct container *c, enum event event, const void *data)
{
	handler *act = table[c->state][event];

	return act ? act(m, c, data) : refusals[event];
}
