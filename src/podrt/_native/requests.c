/* Requests of clients, checked and handed to whoever knows. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "monitor.h"

typedef int request_handler(struct monitor *m, const struct request *request);

static int answer_hello(struct monitor *m, const struct request *request)
{
	const uint64_t versions =
	    (uint64_t)WIRE_VERSION << 32 | JOURNAL_VERSION << 16 | PLAN_VERSION;
	struct reply reply = {
	    .head = {.type = MSG_OK, .a = versions, .b = (uint64_t)getpid()},
	    .body = &m->journal.seq,
	    .body_bytes = sizeof(m->journal.seq),
	};

	memcpy(reply.head.id, m->id, ID_BYTES);
	reply_to(m, request->asker, reply);
	return 0;
}

/* A container is known from its first START or ADOPT on. */
static int for_new(struct monitor *m, const struct request *request, enum event event)
{
	struct container *c = table_find(&m->table, request->head.id);

	if (!c)
		c = table_add(&m->table, request->head.id);
	return c ? dispatch(m, c, event, request) : -ENOMEM;
}

static int for_known(struct monitor *m, const struct request *request, enum event event)
{
	struct container *c = table_find(&m->table, request->head.id);

	return c ? dispatch(m, c, event, request) : -ESRCH;
}

static int ask_start(struct monitor *m, const struct request *request)
{
	return request->fd < 0 ? -EPROTO : for_new(m, request, EVENT_START);
}

static int ask_adopt(struct monitor *m, const struct request *request)
{
	return for_new(m, request, EVENT_ADOPT);
}

static int ask_release(struct monitor *m, const struct request *request)
{
	return for_known(m, request, EVENT_RELEASE);
}

static int ask_signal(struct monitor *m, const struct request *request)
{
	return for_known(m, request, EVENT_SIGNAL);
}

static int ask_stop(struct monitor *m, const struct request *request)
{
	struct container *c = table_find(&m->table, request->head.id);

	return c ? dispatch(m, c, EVENT_STOP, request) : -ESRCH;
}

static int ask_wait(struct monitor *m, const struct request *request)
{
	return for_known(m, request, EVENT_WAIT);
}

/* Forgetting twice is forgetting. */
static int ask_forget(struct monitor *m, const struct request *request)
{
	struct container *c = table_find(&m->table, request->head.id);

	if (c)
		return dispatch(m, c, EVENT_FORGET, request);
	reply_ok(m, request);
	return 0;
}

static int note_fact(struct monitor *m, const struct request *request, enum record_kind kind)
{
	const struct container *c = table_find(&m->table, request->head.id);
	struct journal_record record = {.kind = (uint16_t)kind};
	int result;

	memcpy(record.id, request->head.id, ID_BYTES);
	if (c)
		record = record_of(c, kind);
	record.code = request->head.type;
	result = journal_append(&m->journal, record);
	if (result == 0)
		reply_ok(m, request);
	return result;
}

static int note_pause(struct monitor *m, const struct request *request)
{
	return note_fact(m, request, REC_PAUSED);
}

static int note_unpause(struct monitor *m, const struct request *request)
{
	return note_fact(m, request, REC_UNPAUSED);
}

/* The receipt comes before the effect: from then on nothing of it starts any more. */
static int note_removing(struct monitor *m, const struct request *request)
{
	struct container *c = table_find(&m->table, request->head.id);
	int result = note_fact(m, request, REC_RECEIPT);

	if (result < 0)
		return result;
	if (!memcmp(request->head.id, m->id, ID_BYTES)) {
		m->is_removing = true;
		return 0;
	}
	if (!c)
		c = table_add(&m->table, request->head.id);
	if (c)
		c->is_removing = true;
	return 0;
}

static request_handler *const handlers[] = {
    [MSG_HELLO] = answer_hello,         [MSG_SETUP] = spaces_setup,
    [MSG_START] = ask_start,            [MSG_RELEASE] = ask_release,
    [MSG_SIGNAL] = ask_signal,          [MSG_STOP] = ask_stop,
    [MSG_WAIT] = ask_wait,              [MSG_REMOVING] = note_removing,
    [MSG_FORGET] = ask_forget,          [MSG_RELEASE_NS] = spaces_release,
    [MSG_ADOPT] = ask_adopt,            [MSG_PAUSE] = note_pause,
    [MSG_UNPAUSE] = note_unpause,
};

void handle_request(struct monitor *m, struct request *request)
{
	const uint16_t type = request->head.type;
	int result;

	if (request->head.version != WIRE_VERSION) {
		reply_failed(m, request->asker, EPROTO, 0, "wire version");
		return;
	}
	if (type >= sizeof(handlers) / sizeof(handlers[0]) || !handlers[type]) {
		reply_failed(m, request->asker, EPROTO, 0, "unknown message type");
		return;
	}
	result = handlers[type](m, request);
	if (result < 0)
		reply_failed(m, request->asker, -result, 0, NULL);
}
