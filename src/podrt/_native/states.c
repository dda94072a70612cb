/* The containers of the group, and what each request does in each state: the table at the end. */
#include "monitor.h"

/* IDs are random: any byte of one is a hash of it. */
struct container *table_find(const struct table *table, const uint8_t *id)
{
	struct container *c = table->by_id[id[0] % BUCKETS];

	while (c && memcmp(c->id, id, ID_BYTES) != 0)
		c = c->next_by_id;
	return c;
}

struct container *table_find_pid(const struct table *table, pid_t pid)
{
	struct container *c = table->by_pid[(uint32_t)pid % BUCKETS];

	while (c && c->pid != pid)
		c = c->next_by_pid;
	return c;
}

struct container *table_add(struct table *table, const uint8_t *id)
{
	struct container **bucket = &table->by_id[id[0] % BUCKETS];
	struct container *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	memcpy(c->id, id, ID_BYTES);
	c->log.fd = c->driver = -1;
	for (int i = 0; i < 3; i++)
		c->ends[i] = -1;
	c->report = (struct source){read_report, -1, c};
	c->pidfd = (struct source){pidfd_event, -1, c};
	c->out = (struct stream){{stream_event, -1, &c->out}, &c->log, "stdout", NULL, 0};
	c->err = (struct stream){{stream_event, -1, &c->err}, &c->log, "stderr", NULL, 0};
	c->next_by_id = *bucket;
	*bucket = c;
	return c;
}

/* 0: no process any more. */
void table_set_pid(struct table *table, struct container *c, pid_t pid)
{
	struct container **at = &table->by_pid[(uint32_t)pid % BUCKETS];

	UNCHAIN(&table->by_pid[(uint32_t)c->pid % BUCKETS], c, next_by_pid);
	c->pid = pid;
	if (pid == 0)
		return;
	c->next_by_pid = *at;
	*at = c;
}

void table_remove(struct table *table, struct container *c)
{
	table_set_pid(table, c, 0);
	UNCHAIN(&table->by_id[c->id[0] % BUCKETS], c, next_by_id);
	free(c->policy);
	free(c->memory_dir);
	end_times(c);
}

struct journal_record record_for(const uint8_t *id, enum record_kind kind)
{
	struct journal_record record = {.kind = (uint16_t)kind};

	memcpy(record.id, id, ID_BYTES);
	return record;
}

struct journal_record record_of(const struct container *c, enum record_kind kind)
{
	struct journal_record record = record_for(c->id, kind);

	record.run = c->run;
	record.pid = c->pid;
	record.start_ticks = c->ticks;
	record.b = c->policy ? c->policy->count : 0;
	return record;
}

/* The pid of a child that nobody has reaped cannot be another's; for others there is a pidfd. */
int signal_container(const struct container *c, int sig)
{
	if (c->pid <= 0)
		return -ESRCH;
	if (sig == SIGKILL && c->driver >= 0)
		K(pidfd_send_signal, c->driver, sig, NULL, 0);
	if (c->pidfd.fd >= 0)
		return K(pidfd_send_signal, c->pidfd.fd, sig, NULL, 0);
	return checked(kill(c->pid, sig));
}

void answer_about(struct monitor *m, const struct container *c, struct asker asker,
		  struct wire_head head)
{
	head.run = c->run;
	memcpy(head.id, c->id, ID_BYTES);
	reply(m, asker, head, NULL, 0);
}

/* Who is answered once. */
struct asker take_asker(struct asker *asker)
{
	const struct asker taken = *asker;

	*asker = (struct asker){0};
	return taken;
}

void end_times(struct container *c)
{
	if (c->times)
		munmap(c->times, sizeof(*c->times));
	c->times = NULL;
}

void answer_started(struct monitor *m, struct container *c, uint16_t type)
{
	struct wire_head head = {.type = type, .run = c->run, .a = (uint64_t)c->pid, .b = c->ticks};
	/* The child may still write: only what it has counted is told. */
	uint32_t count = c->times && c->times->count < MAX_STAMPS ? c->times->count : 0;

	memcpy(head.id, c->id, ID_BYTES);
	reply(m, take_asker(&c->starter), head, count ? c->times->at : NULL,
	      count * sizeof(struct stamp));
	end_times(c);
}

/* What is known of the last run is forgotten. */
void process_begins(struct container *c, const struct request *request)
{
	c->run = request->head.run;
	c->starter = request->asker;
	c->leads = request->head.arg & START_LEADS;
	c->by_user = c->was_killed = false;
	c->exit_flags = 0;
	c->code = 0;
	c->ticks = 0;
	c->kill_at_ms = 0;
	c->settle_flags = request->head.arg & START_SETTLES;
	if (c->policy)
		c->policy->began_ms = now_ms();
}

/* One of those that ask a program to end. */
bool asks_to_end(int sig)
{
	return sig == SIGTERM || sig == SIGKILL || sig == SIGINT || sig == SIGQUIT;
}

static int on_release(struct monitor *m, struct container *c, const struct request *request)
{
	if (!c->slot)
		return -ESRCH;
	c->starter = request->asker;
	c->state = STATE_STARTING;
	launch_go(c->slot);
	return LATER;
}

static int on_signal(struct monitor *m, struct container *c, const struct request *request)
{
	const int sig = request->head.arg;

	if (sig < 0 || sig > SIGRTMAX)
		return -EINVAL;
	TRY(signal_container(c, sig));
	c->by_user |= asks_to_end(sig);
	return 0;
}

/* Before exec there is no program to be asked: it is killed. */
static int on_cancel(struct monitor *m, struct container *c, const struct request *request)
{
	TRY(add_waiter(c, request->asker, true));
	c->by_user = c->was_killed = true;
	fail_start(c, STAGE_CANCEL, ECANCELED, "stopped while it was starting");
	return LATER;
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
static int on_stop(struct monitor *m, struct container *c, const struct request *request)
{
	struct journal_record record = record_of(c, REC_STOPPING);
	bool is_first = c->state != STATE_STOPPING;
	bool at_once = request->head.a == 0 || c->state == STATE_HELD;

	record.code = request->head.arg;
	if (is_first && (record.code < 0 || record.code > SIGRTMAX))
		return -EINVAL;
	TRY(add_waiter(c, request->asker, true));
	if (c->was_killed)
		return LATER;
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
	return LATER;
}

static int on_wait(struct monitor *m, struct container *c, const struct request *request)
{
	TRY(add_waiter(c, request->asker, request->head.type == MSG_STOP));
	if (c->state == STATE_EXITED)
		answer_waiters(m, c);
	return LATER;
}

static int on_forget(struct monitor *m, struct container *c, const struct request *request)
{
	TRY(journal_append(&m->journal, record_of(c, REC_FORGOTTEN)));
	if (c->state == STATE_WAITING)
		call_off(m, c);
	UNCHAIN(&m->stopping, c, next_stopping);
	log_close(&c->log);
	table_remove(&m->table, c);
	bury(m, &c->grave);
	return 0;
}

/* Also takes those off the list that have ended meanwhile. Returns when the next is due; -1: none.
 */
int64_t kill_overdue(struct monitor *m)
{
	const int64_t now = m->stopping ? now_ms() : 0;
	struct container **at = &m->stopping;
	int64_t next = -1;

	while (*at) {
		struct container *c = *at;

		if (c->kill_at_ms > now) {
			next = next < 0 || c->kill_at_ms < next ? c->kill_at_ms : next;
			at = &c->next_stopping;
			continue;
		}
		*at = c->next_stopping;
		c->is_listed = false;
		if (c->kill_at_ms != 0)
			kill_now(c);
	}
	return next;
}

/* In the order of the states; what is missing is refused. */
static const struct {
	handler *in[STATE_COUNT];
	int refusal; /* what the request is told in a state that has no use for it */
} requests[MSG_REQUESTS] = {
    [MSG_START] = {{start_container, [STATE_EXITED... STATE_WAITING] = start_container}, -EEXIST},
    [MSG_ADOPT] = {{[STATE_IDLE] = adopt_container, [STATE_EXITED] = adopt_container}, -EEXIST},
    [MSG_FORGET] = {{on_forget, [STATE_EXITED... STATE_WAITING] = on_forget}, -EBUSY},
    [MSG_RELEASE] = {{[STATE_HELD] = on_release}, -ESRCH},
    [MSG_SIGNAL] = {{NULL, NULL, on_signal, on_signal, on_signal, NULL, NULL, end_waiting}, -ESRCH},
    [MSG_STOP] = {{NULL, on_cancel, on_stop, on_stop, on_stop, on_wait, NULL, end_waiting}, -ESRCH},
    [MSG_WAIT] = {{[STATE_STARTING... STATE_WAITING] = on_wait}, -ESRCH},
    [MSG_POLICY] = {{[STATE_IDLE... STATE_WAITING] = tell_policy}, -EPROTO},
};

/* A container is known from its first START, ADOPT or POLICY on; forgetting it twice is forgetting.
 */
int ask_container(struct monitor *m, const struct request *request)
{
	const uint16_t type = request->head.type;
	const bool makes = type == MSG_START || type == MSG_ADOPT || type == MSG_POLICY;
	const bool forgets = type == MSG_FORGET;
	struct container *c = table_find(&m->table, request->head.id);

	if (type >= MSG_REQUESTS || !requests[type].refusal)
		return -EPROTO;
	if (!c && makes)
		c = table_add(&m->table, request->head.id);
	if (!c)
		return forgets ? 0 : makes ? -ENOMEM : -ESRCH;
	if (!makes && !forgets && !is_meant(c, request->head.run))
		return -ESRCH;
	return requests[type].in[c->state] ? requests[type].in[c->state](m, c, request)
					   : requests[type].refusal;
}
