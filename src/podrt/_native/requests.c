/* Requests of clients, checked and handed to whoever knows. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "monitor.h"

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
static int dispatch_new(struct monitor *m, const struct request *request, enum event event)
{
	struct container *c = table_find(&m->table, request->head.id);

	if (!c)
		c = table_add(&m->table, request->head.id);
	return c ? dispatch(m, c, event, request) : -ENOMEM;
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

static int handle(struct monitor *m, const struct request *request)
{
	static const enum event events[] = {
	    [MSG_RELEASE] = EVENT_RELEASE,
	    [MSG_SIGNAL] = EVENT_SIGNAL,
	    [MSG_STOP] = EVENT_STOP,
	    [MSG_WAIT] = EVENT_WAIT,
	};
	struct container *c;

	switch (request->head.type) {
	case MSG_HELLO:
		return answer_hello(m, request);
	case MSG_SETUP:
		return spaces_setup(m, request);
	case MSG_START:
		return request->fd < 0 ? -EPROTO : dispatch_new(m, request, EVENT_START);
	case MSG_ADOPT:
		return dispatch_new(m, request, EVENT_ADOPT);
	case MSG_RELEASE:
	case MSG_SIGNAL:
	case MSG_STOP:
	case MSG_WAIT:
		c = table_find(&m->table, request->head.id);
		return c ? dispatch(m, c, events[request->head.type], request) : -ESRCH;
	case MSG_REMOVING:
		return note_removing(m, request);
	case MSG_FORGET:
		return ask_forget(m, request);
	case MSG_RELEASE_NS:
		return spaces_release(m, request);
	case MSG_PAUSE:
		return note_fact(m, request, REC_PAUSED);
	case MSG_UNPAUSE:
		return note_fact(m, request, REC_UNPAUSED);
	default:
		return -EPROTO;
	}
}

void handle_request(struct monitor *m, struct request *request)
{
	int result = request->head.version == WIRE_VERSION ? handle(m, request) : -EPROTO;

	if (result < 0)
		reply_failed(m, request->asker, -result, 0, NULL);
}
