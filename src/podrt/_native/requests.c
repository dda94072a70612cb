/* Requests of clients, checked and handed to whoever knows. */
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

/* A container is known from its first START or ADOPT on; forgetting it twice is forgetting. */
static int ask_container(struct monitor *m, const struct request *request, enum event event)
{
	struct container *c = table_find(&m->table, request->head.id);
	const bool makes = event == EVENT_START || event == EVENT_ADOPT;
	const uint32_t run = makes || event == EVENT_FORGET ? 0 : request->head.run;

	if (!c && event == EVENT_FORGET) {
		reply_ok(m, request);
		return 0;
	}
	if (!c && makes)
		c = table_add(&m->table, request->head.id);
	if (!c)
		return makes ? -ENOMEM : -ESRCH;
	return run == 0 || run == c->run ? dispatch(m, c, event, request) : -ESRCH;
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
	switch (request->head.type) {
	case MSG_HELLO:
		return answer_hello(m, request);
	case MSG_SETUP:
		return spaces_setup(m, request);
	case MSG_START:
		return request->fd < 0 ? -EPROTO : ask_container(m, request, EVENT_START);
	case MSG_ADOPT:
		return ask_container(m, request, EVENT_ADOPT);
	case MSG_RELEASE:
		return ask_container(m, request, EVENT_RELEASE);
	case MSG_SIGNAL:
		return ask_container(m, request, EVENT_SIGNAL);
	case MSG_STOP:
		return ask_container(m, request, EVENT_STOP);
	case MSG_WAIT:
		return ask_container(m, request, EVENT_WAIT);
	case MSG_REMOVING:
		return note_removing(m, request);
	case MSG_FORGET:
		return ask_container(m, request, EVENT_FORGET);
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
