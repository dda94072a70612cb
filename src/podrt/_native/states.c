/* What each event does in each state: the table at the end is the life of a container here. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base.h"
#include "monitor.h"

typedef int handler(struct monitor *m, struct container *c, const void *data);

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

static bool is_other_run(const struct container *c, const struct request *request)
{
	return request->head.run != 0 && request->head.run != c->run;
}

static void answer_started(struct monitor *m, struct container *c, uint16_t type)
{
	struct reply reply = {
	    .head = {.type = type, .run = c->run, .a = (uint64_t)c->pid, .b = c->ticks},
	};

	memcpy(reply.head.id, c->id, ID_BYTES);
	reply_to(m, c->starter, reply);
	c->starter = (struct asker){0};
}

static int on_start(struct monitor *m, struct container *c, const void *data)
{
	return start_container(m, c, data);
}

static int on_adopt(struct monitor *m, struct container *c, const void *data)
{
	int result = adopt_container(m, c, data);

	if (result == 0)
		answer_started(m, c, MSG_STARTED);
	return result;
}

/* A fact that cannot be journaled is none: the process goes again. */
static void confirm(struct monitor *m, struct container *c, enum record_kind kind)
{
	int result = journal_append(&m->journal, record_of(c, kind));

	if (result < 0) {
		fail_start(c, -result, STAGE_JOURNAL, NULL);
		return;
	}
	c->state = kind == REC_CREATED ? STATE_HELD : STATE_RUNNING;
	answer_started(m, c, kind == REC_CREATED ? MSG_CREATED : MSG_STARTED);
}

static int on_ready(struct monitor *m, struct container *c, const void *data)
{
	(void)data;
	confirm(m, c, REC_CREATED);
	return 0;
}

static int on_execed(struct monitor *m, struct container *c, const void *data)
{
	(void)data;
	confirm(m, c, REC_STARTED);
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
	if (is_other_run(c, request))
		return -ESRCH;
	c->starter = request->asker;
	c->state = STATE_STARTING;
	launch_go(c->slot);
	return 0;
}

static int on_signal(struct monitor *m, struct container *c, const void *data)
{
	const struct request *request = data;
	int sig = request->head.arg, result;

	if (is_other_run(c, request))
		return -ESRCH;
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
	if (is_other_run(c, request))
		return -ESRCH;
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

static int on_stop(struct monitor *m, struct container *c, const void *data)
{
	const struct request *request = data;
	struct journal_record record = record_of(c, REC_STOPPING);
	int sig = request->head.arg, result;
	bool is_held = c->state == STATE_HELD;

	if (is_other_run(c, request))
		return -ESRCH;
	if (sig < 0 || sig > SIGRTMAX)
		return -EINVAL;
	result = add_waiter(c, request->asker, true);
	if (result < 0)
		return result;
	record.code = sig;
	journal_append(&m->journal, record);
	c->by_user = true;
	c->state = STATE_STOPPING;
	if (request->head.a == 0 || is_held) {
		kill_now(c);
		return 0;
	}
	set_deadline(m, c, request->head.a);
	signal_container(c, sig);
	return 0;
}

/* A second STOP only makes it sooner. */
static int on_stop_again(struct monitor *m, struct container *c, const void *data)
{
	const struct request *request = data;
	int result;

	if (is_other_run(c, request))
		return -ESRCH;
	result = add_waiter(c, request->asker, true);
	if (result < 0)
		return result;
	if (c->was_killed)
		return 0;
	if (request->head.a == 0)
		kill_now(c);
	else
		set_deadline(m, c, request->head.a);
	return 0;
}

static int on_wait(struct monitor *m, struct container *c, const void *data)
{
	const struct request *request = data;
	int result;

	if (is_other_run(c, request))
		return -ESRCH;
	result = add_waiter(c, request->asker, request->head.type == MSG_STOP);
	if (result == 0 && c->state == STATE_EXITED)
		answer_waiters(m, c);
	return result;
}

static int on_gone(struct monitor *m, struct container *c, const void *data)
{
	record_exit(m, c, data);
	return 0;
}

/* Killed by somebody else while it was set up: its report has ended, or will not come. */
static int on_gone_early(struct monitor *m, struct container *c, const void *data)
{
	fail_start(c, EIO, STAGE_SETUP, "the process was killed while it was set up");
	record_exit(m, c, data);
	return 0;
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
	free(c->memory_dir);
	free(c->failure);
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
    [STATE_IDLE] = {[EVENT_START] = on_start, [EVENT_ADOPT] = on_adopt, [EVENT_FORGET] = on_forget},
    [STATE_STARTING] = {[EVENT_STOP] = on_cancel,
			[EVENT_WAIT] = on_wait,
			[EVENT_READY] = on_ready,
			[EVENT_REFUSED] = on_refused,
			[EVENT_EXECED] = on_execed,
			[EVENT_GONE] = on_gone_early},
    [STATE_HELD] = {[EVENT_RELEASE] = on_release,
		    [EVENT_SIGNAL] = on_signal,
		    [EVENT_STOP] = on_stop,
		    [EVENT_WAIT] = on_wait,
		    [EVENT_REFUSED] = on_refused,
		    [EVENT_GONE] = on_gone},
    [STATE_RUNNING] = {[EVENT_SIGNAL] = on_signal,
		       [EVENT_STOP] = on_stop,
		       [EVENT_WAIT] = on_wait,
		       [EVENT_GONE] = on_gone},
    [STATE_STOPPING] = {[EVENT_SIGNAL] = on_signal,
			[EVENT_STOP] = on_stop_again,
			[EVENT_WAIT] = on_wait,
			[EVENT_GONE] = on_gone},
    [STATE_FAILING] = {[EVENT_STOP] = on_wait, [EVENT_WAIT] = on_wait, [EVENT_GONE] = on_gone},
    [STATE_EXITED] = {[EVENT_START] = on_start,
		      [EVENT_ADOPT] = on_adopt,
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
