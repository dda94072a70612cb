/* Restart policies: who is started again after an end, when, and the program that settles what
 * needs the library. A run that nobody asked for has the next number, and its count is that of the
 * runs since somebody started the container by hand. */
#include "monitor.h"

#define FIRST_DELAY_MS 100u
#define LONGEST_DELAY_MS 300000u
#define STEADY_MS 10000 /* who ran for so long is as good as new */
/* Containers that end together are settled together; a client that is there may be about to do it
 * itself, and whoever stops one is done when it leaves. */
#define SETTLE_MS 50
#define SETTLE_BESIDE_CLIENT_MS 500
#define SETTLE_BEHIND_STOP_MS 10000
#define SETTLE_TRIES 6

static uint32_t delay_after(uint32_t delay_ms, int64_t up_ms)
{
	if (delay_ms == 0 || up_ms >= STEADY_MS)
		return FIRST_DELAY_MS;
	return delay_ms < LONGEST_DELAY_MS / 2 ? delay_ms * 2 : LONGEST_DELAY_MS;
}

/* A code that nobody saw counts as a failure. */
static bool is_followed(const struct monitor *m, const struct container *c)
{
	const struct policy *policy = c->policy;

	if (!policy || c->by_user || c->is_removing || m->is_removing)
		return false;
	if (policy->kind == RESTART_ON_FAILURE)
		return c->code != 0 && (policy->most == 0 || policy->count < policy->most);
	return policy->kind != RESTART_NO;
}

/* One record tells the end and whether, and when, another run follows it. */
void journal_end(struct monitor *m, struct container *c, uint64_t from_ns)
{
	struct journal_record record = record_of(c, REC_EXITED);
	struct policy *policy = c->policy;

	record.flags = c->exit_flags;
	record.code = c->code;
	record.at_ns = c->ended_at_ns;
	record.error = c->failure.head.arg;
	record.b |= c->failure.head.a << 32;
	if (policy)
		policy->due_ms = 0;
	if (is_followed(m, c)) {
		policy->delay_ms = delay_after(policy->delay_ms, now_ms() - policy->began_ms);
		policy->due_ms = now_ms() + policy->delay_ms;
		record.a = from_ns + policy->delay_ms * 1000000ull;
	}
	journal_keep(&m->journal, record);
}

static void settle_soon(struct monitor *m, int64_t delay_ms)
{
	const int64_t at_ms = now_ms() + delay_ms;

	if (!m->settle_at_ms || at_ms < m->settle_at_ms)
		m->settle_at_ms = at_ms;
}

void run_ended(struct monitor *m, struct container *c)
{
	c->kill_at_ms = 0;
	if (c->policy && c->policy->due_ms) {
		c->state = STATE_WAITING;
		c->next_waiting = m->waiting;
		m->waiting = c;
		return;
	}
	c->state = STATE_EXITED;
	answer_waiters(m, c);
	m->settle_flags |= c->settle_flags;
	if (c->settle_flags)
		settle_soon(m, !m->clients  ? SETTLE_MS
			       : c->by_user ? SETTLE_BEHIND_STOP_MS
					    : SETTLE_BESIDE_CLIENT_MS);
}

/* It was not asked for, so nobody is told: it counts as a run that failed. */
bool end_failed_restart(struct monitor *m, struct container *c)
{
	const int error = c->failure.head.arg;

	if (!c->policy || !c->policy->count)
		return false;
	c->code = error == ENOENT ? 127 : error == ECANCELED ? 128 + SIGKILL : 126;
	c->exit_flags = c->by_user ? EXIT_BY_USER : 0;
	c->ended_at_ns = clock_ns(CLOCK_REALTIME);
	journal_end(m, c, c->ended_at_ns);
	c->failure = (struct message){0};
	run_ended(m, c);
	return true;
}

/* The end of the waiting is journaled as the end of the run, without one that follows. */
void call_off(struct monitor *m, struct container *c)
{
	UNCHAIN(&m->waiting, c, next_waiting);
	c->exit_flags |= c->by_user ? EXIT_BY_USER : 0;
	if (c->policy && is_followed(m, c))
		c->policy->kind = RESTART_NO;
	journal_end(m, c, 0);
	run_ended(m, c);
}

/* A STOP, or a signal that asks a program to end. */
int end_waiting(struct monitor *m, struct container *c, const struct request *request)
{
	const bool is_stop = request->head.type == MSG_STOP;

	if (!is_stop && !asks_to_end(request->head.arg))
		return -ESRCH;
	TRY(is_stop ? add_waiter(c, request->asker, true) : 0);
	c->by_user = true;
	call_off(m, c);
	return is_stop ? LATER : 0;
}

/* By hand: a series of runs begins. */
void begin_series(struct monitor *m, struct container *c, const struct request *request)
{
	UNCHAIN(&m->waiting, c, next_waiting);
	if (c->policy && request->head.arg & START_RESTARTS) {
		c->policy->count = c->policy->delay_ms = 0;
		return;
	}
	free(c->policy);
	c->policy = NULL;
}

/* Whether a request about a run is about the container as it is: its series counts. */
bool is_meant(const struct container *c, uint32_t run)
{
	const uint32_t count = c->policy ? c->policy->count : 0;

	return run == 0 || (run <= c->run && c->run - run <= count);
}

static bool has_needs(const struct monitor *m, const struct policy *policy)
{
	for (uint64_t i = 0; i < policy->need_count; i++) {
		const uint8_t *id = (const uint8_t *)policy->body + i * ID_BYTES;
		const struct container *need = table_find(&m->table, id);

		if (!need || need->state != STATE_RUNNING)
			return false;
	}
	return true;
}

static void start_again(struct monitor *m, struct container *c)
{
	const char *paths = c->policy->body + c->policy->need_count * ID_BYTES;
	const uint32_t plan_bytes = (uint32_t)strlen(paths) + 1;
	cleanup_fd int plan = open(paths, O_RDONLY | O_CLOEXEC);
	const struct request request = {
	    .head = {.type = MSG_START, .run = c->run + 1, .arg = c->policy->flags},
	    .body = paths + plan_bytes,
	    .body_bytes = c->policy->path_bytes - plan_bytes,
	    .fd = plan,
	};

	UNCHAIN(&m->waiting, c, next_waiting);
	c->policy->count++;
	if (start_container(m, c, &request) < 0)
		call_off(m, c);
}

/* Who waits for something it needs is looked at after every event. Returns when the next is due;
 * -1: none. */
int64_t restart_due(struct monitor *m)
{
	const int64_t now = m->waiting ? now_ms() : 0;
	struct container *next_waiting;
	int64_t next = -1;

	for (struct container *c = m->waiting; c; c = next_waiting) {
		next_waiting = c->next_waiting;
		if (!is_followed(m, c))
			call_off(m, c);
		else if (c->policy->due_ms > now)
			next = sooner(next, c->policy->due_ms);
		else if (has_needs(m, c->policy)) {
			start_again(m, c);
			next = now; /* one whose start failed at once waits again */
		}
	}
	return next;
}

/* A policy counts from now on. Of a container that is new here it is also told what was before: the
 * count, the delay, and an end that nobody acted on yet. */
int tell_policy(struct monitor *m, struct container *c, const struct request *request)
{
	const struct policy *old = c->policy;
	struct policy_head head;
	struct policy *policy;
	uint64_t rest;

	if (request->body_bytes <= sizeof(head) || request->head.arg & ~START_ALL ||
	    request->body[request->body_bytes - 1] != '\0')
		return -EPROTO;
	memcpy(&head, request->body, sizeof(head));
	rest = request->body_bytes - sizeof(head);
	if (head.need_count >= rest / ID_BYTES + 1 || rest <= head.need_count * ID_BYTES)
		return -EPROTO;
	policy = calloc(1, sizeof(*policy) + rest + 1); /* a NUL follows, as in a request */
	if (!policy)
		return -ENOMEM;
	*policy = (struct policy){.began_ms = now_ms()};
	if (old)
		*policy = *old;
	else if (!c->run)
		*policy = (struct policy){
		    .count = head.count, .delay_ms = head.delay_ms, .began_ms = now_ms()};
	policy->kind = head.kind;
	policy->most = head.most;
	policy->flags = request->head.arg & ~(START_HOLD | START_TIMES);
	policy->need_count = head.need_count;
	policy->path_bytes = (uint32_t)(rest - head.need_count * ID_BYTES);
	memcpy(policy->body, request->body + sizeof(head), rest);
	free(c->policy);
	c->policy = policy;
	if (c->run || !head.ended_at_ns)
		return 0;
	c->run = request->head.run;
	c->code = head.code;
	c->exit_flags = (uint16_t)head.exit_flags;
	c->ended_at_ns = head.ended_at_ns;
	c->settle_flags = request->head.arg & START_SETTLES;
	journal_end(m, c, clock_ns(CLOCK_REALTIME));
	run_ended(m, c);
	return 0;
}

/* In the mount namespace that podrt is in, with nothing of ours but the three /dev/null. */
_Noreturn static void run_settle(const struct monitor *m)
{
	char path[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
	char *const env[] = {path, NULL};

	k_block_signals(0);
	if (setns(m->home, CLONE_NEWNS) == 0 && setrlimit(RLIMIT_NOFILE, &m->files) == 0 &&
	    k_close_range(STDERR_FILENO + 1, 0) == 0)
		execve(m->settle[0], m->settle, env);
	_exit(127);
}

/* Runs the program that settles if it is time. Returns when it will be; -1: nothing is waited for.
 */
int64_t settle_due(struct monitor *m)
{
	if (!m->settle_flags || m->is_removing || !m->settle)
		m->settle_at_ms = 0;
	if (!m->settle_at_ms || m->settle_pid)
		return -1;
	if (m->settle_at_ms > now_ms())
		return m->settle_at_ms;
	m->settle_at_ms = 0;
	m->settle_flags = 0;
	m->settle_pid = fork();
	if (m->settle_pid == 0)
		run_settle(m);
	if (m->settle_pid < 0)
		m->settle_pid = 0;
	return -1;
}

/* What it did not finish it is started for again, each time later. */
void settle_ended(struct monitor *m, pid_t pid, int status)
{
	if (pid != m->settle_pid)
		return;
	m->settle_pid = 0;
	if (status != 0 && m->settle_tries < SETTLE_TRIES) {
		m->settle_flags = START_SETTLES;
		settle_soon(m, 1000 << m->settle_tries++);
	} else {
		m->settle_tries = 0;
	}
}

void client_left(struct monitor *m)
{
	if (m->settle_at_ms && !m->clients)
		settle_soon(m, SETTLE_MS);
}
