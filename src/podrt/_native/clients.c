/* Connections: messages in, handed to whoever knows, and replies out. They wait in the kernel for
 * a client that does not read, up to a limit: then it is dropped. One that went away cancels
 * nothing that was begun; what it sent and nobody read yet is dropped with it, so that whoever is
 * greeted next knows from the journal all that will come of it. */
#include "monitor.h"

/* What may wait for one client before it counts as stuck. */
#define MAX_QUEUED (4 << 20)

static void client_close(struct monitor *m, struct client *client)
{
	if (client->source.fd < 0)
		return;
	unwatch(m, &client->source);
	UNCHAIN(&m->clients, client, next);
	bury(m, &client->grave);
}

void reply(struct monitor *m, struct asker asker, struct wire_head head, const void *body,
	   size_t body_bytes)
{
	struct client *client = m->clients;

	while (client && client->serial != asker.client)
		client = client->next;
	head.version = WIRE_VERSION;
	head.req = asker.req;
	if (client &&
	    send_message(client->source.fd, &head, sizeof(head), body, body_bytes, -1) < 0)
		client_close(m, client);
}

/* `error` is an errno, positive as in every reply. */
void reply_failed(struct monitor *m, struct asker asker, int error, uint32_t stage,
		  const char *text)
{
	struct wire_head head = {.type = MSG_FAILED, .arg = error, .a = stage};

	reply(m, asker, head, text, text ? strlen(text) : 0);
}

static int answer_hello(struct monitor *m, const struct request *request, int ignored)
{
	const uint64_t versions =
	    (uint64_t)WIRE_VERSION << 32 | JOURNAL_VERSION << 16 | PLAN_VERSION;
	struct wire_head head = {.type = MSG_OK, .a = versions, .b = (uint64_t)getpid()};

	(void)ignored;
	memcpy(head.id, m->id, ID_BYTES);
	reply(m, request->asker, head, &m->journal.seq, sizeof(m->journal.seq));
	return LATER;
}

/* A container is known from its first START or ADOPT on; forgetting it twice is forgetting. */
static int ask_container(struct monitor *m, const struct request *request, int event)
{
	struct container *c = table_find(&m->table, request->head.id);
	const bool makes = event == EVENT_START || event == EVENT_ADOPT;
	const uint32_t run = makes || event == EVENT_FORGET ? 0 : request->head.run;

	if (event == EVENT_START && request->fd < 0)
		return -EPROTO;
	if (!c && event == EVENT_FORGET)
		return 0;
	if (!c && makes)
		c = table_add(&m->table, request->head.id);
	if (!c)
		return makes ? -ENOMEM : -ESRCH;
	return run == 0 || run == c->run ? dispatch(m, c, (enum event)event, request) : -ESRCH;
}

static int note_fact(struct monitor *m, const struct request *request, int kind)
{
	const struct container *c = table_find(&m->table, request->head.id);
	struct journal_record record = c ? record_of(c, (enum record_kind)kind)
					 : record_for(request->head.id, (enum record_kind)kind);

	record.code = request->head.type;
	return journal_append(&m->journal, record);
}

/* The receipt comes before the effect: from then on nothing of it starts any more. */
static int note_removing(struct monitor *m, const struct request *request, int kind)
{
	struct container *c = table_find(&m->table, request->head.id);

	TRY(note_fact(m, request, kind));
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

static const struct {
	int (*answer)(struct monitor *m, const struct request *request, int what);
	int what;
} requests[] = {
    [MSG_HELLO] = {answer_hello, 0},
    [MSG_SETUP] = {spaces_setup, REC_NS_UP},
    [MSG_START] = {ask_container, EVENT_START},
    [MSG_RELEASE] = {ask_container, EVENT_RELEASE},
    [MSG_SIGNAL] = {ask_container, EVENT_SIGNAL},
    [MSG_STOP] = {ask_container, EVENT_STOP},
    [MSG_WAIT] = {ask_container, EVENT_WAIT},
    [MSG_REMOVING] = {note_removing, REC_RECEIPT},
    [MSG_FORGET] = {ask_container, EVENT_FORGET},
    [MSG_RELEASE_NS] = {spaces_release, REC_NS_DOWN},
    [MSG_ADOPT] = {ask_container, EVENT_ADOPT},
    [MSG_PAUSE] = {note_fact, REC_PAUSED},
    [MSG_UNPAUSE] = {note_fact, REC_UNPAUSED},
};

static int handle(struct monitor *m, const struct request *request)
{
	const uint16_t type = request->head.type;

	if (request->head.version != WIRE_VERSION ||
	    type >= sizeof(requests) / sizeof(requests[0]) || !requests[type].answer)
		return -EPROTO;
	return requests[type].answer(m, request, requests[type].what);
}

/* One message a turn: between two starts the monitor looks at everything else. */
static void client_read(struct monitor *m, void *owner, uint32_t events)
{
	struct client *client = owner;
	cleanup_fd int passed = -1;
	struct request request = {.asker.client = client->serial};
	const char *wrong = NULL;
	bool is_cut = false;
	ssize_t n = 0;
	int result = -EPROTO;

	if (!(events & (EPOLLHUP | EPOLLERR)))
		n = receive_message(client->source.fd, m->message, sizeof(m->message) - 1, &passed,
				    &is_cut);
	if (n == -EAGAIN || n == -EINTR)
		return;
	if (n <= 0) {
		client_close(m, client);
		return;
	}
	m->message[n] = '\0';
	if (n < (ssize_t)sizeof(request.head)) {
		wrong = "short message";
	} else {
		memcpy(&request.head, m->message, sizeof(request.head));
		request.asker.req = request.head.req;
		request.body = m->message + sizeof(request.head);
		request.body_bytes = (uint32_t)((size_t)n - sizeof(request.head));
		request.fd = passed;
		wrong = is_cut ? "message too long" : NULL;
	}
	if (!wrong)
		result = handle(m, &request);
	if (result < 0) {
		reply_failed(m, request.asker, -result, 0, wrong);
	} else if (result == 0) {
		struct wire_head head = {.type = MSG_OK};

		memcpy(head.id, request.head.id, ID_BYTES);
		reply(m, request.asker, head, NULL, 0);
	}
}

void client_accept(struct monitor *m, void *owner, uint32_t events)
{
	cleanup_fd int fd = accept4(m->listen.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct ucred peer;
	socklen_t bytes = sizeof(peer);
	const int room = MAX_QUEUED;
	struct client *client;

	(void)owner;
	(void)events;
	if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) < 0 ||
	    peer.uid != geteuid())
		return;
	client = calloc(1, sizeof(*client));
	if (!client)
		return;
	/* Without the right to more, what everybody may have. */
	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room)) < 0)
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
	client->source = (struct source){client_read, fd, client};
	client->serial = ++m->last_serial;
	if (watch(m, &client->source, EPOLLIN) < 0) {
		free(client);
		return;
	}
	take_fd(&fd);
	client->next = m->clients;
	m->clients = client;
	m->had_client = true;
}
