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
	client_left(m);
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

void reply_ok(struct monitor *m, const struct request *request, const void *body, size_t body_bytes)
{
	struct wire_head head = {.type = MSG_OK};

	memcpy(head.id, request->head.id, ID_BYTES);
	reply(m, request->asker, head, body, body_bytes);
}

static int answer_hello(struct monitor *m, const struct request *request)
{
	const uint64_t versions =
	    (uint64_t)WIRE_VERSION << 32 | JOURNAL_VERSION << 16 | PLAN_VERSION;
	struct wire_head head = {.type = MSG_OK, .a = versions, .b = (uint64_t)getpid()};

	memcpy(head.id, m->id, ID_BYTES);
	reply(m, request->asker, head, &m->journal.seq, sizeof(m->journal.seq));
	return LATER;
}

static int note_fact(struct monitor *m, const struct request *request, enum record_kind kind)
{
	const struct container *c = table_find(&m->table, request->head.id);
	struct journal_record record = c ? record_of(c, kind) : record_for(request->head.id, kind);

	record.code = request->head.type;
	return journal_append(&m->journal, record);
}

/* The receipt comes before the effect: from then on nothing of it starts any more. */
static int note_removing(struct monitor *m, const struct request *request)
{
	struct container *c = table_find(&m->table, request->head.id);

	TRY(note_fact(m, request, REC_RECEIPT));
	if (!memcmp(request->head.id, m->id, ID_BYTES))
		m->is_removing = true;
	else if (c || (c = table_add(&m->table, request->head.id)))
		c->is_removing = true;
	return 0;
}

static int handle(struct monitor *m, const struct request *request)
{
	if (request->head.version != WIRE_VERSION)
		return -EPROTO;
	switch (request->head.type) {
	case MSG_HELLO:
		return answer_hello(m, request);
	case MSG_SETUP:
		return spaces_setup(m, request);
	case MSG_RELEASE_NS:
		return spaces_release(m, request);
	case MSG_REMOVING:
		return note_removing(m, request);
	case MSG_PAUSE:
		return note_fact(m, request, REC_PAUSED);
	case MSG_UNPAUSE:
		return note_fact(m, request, REC_UNPAUSED);
	default:
		return ask_container(m, request);
	}
}

/* One message a turn: between two starts the monitor looks at everything else. */
static void client_read(struct monitor *m, void *owner, uint32_t events)
{
	struct client *client = owner;
	cleanup_fd int passed = -1;
	struct request request = {.asker.client = client->serial};
	ssize_t n = 0;
	int result;

	if (!(events & (EPOLLHUP | EPOLLERR)))
		n = receive_message(client->source.fd, m->message, sizeof(m->message) - 1, &passed);
	if (n == -EAGAIN || n == -EINTR)
		return;
	if (n > 0) {
		m->message[n] = '\0';
		memcpy(&request.head, m->message, sizeof(request.head));
		request.asker.req = request.head.req;
		request.body = m->message + sizeof(request.head);
		request.body_bytes = (uint32_t)((size_t)n - sizeof(request.head));
		request.fd = passed;
		result = handle(m, &request);
	} else if (n == -EPROTO || n == -EMSGSIZE) {
		result = (int)n;
	} else {
		client_close(m, client);
		return;
	}
	if (result < 0)
		reply_failed(m, request.asker, -result, 0, NULL);
	else if (result != LATER)
		reply_ok(m, &request, NULL, 0);
}

void client_accept(struct monitor *m, void *owner, uint32_t events)
{
	cleanup_fd int fd = accept4(m->listen.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct ucred peer;
	socklen_t bytes = sizeof(peer);
	const int room = MAX_QUEUED;
	struct client *client;

	if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) < 0 ||
	    peer.uid != geteuid())
		return;
	client = calloc(1, sizeof(*client));
	if (!client)
		return;
	/* Without the right to more, what everybody may have. */
	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room)) < 0)
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
	client->source = (struct source){client_read, -1, client};
	client->serial = ++m->last_serial;
	if (watch(m, &client->source, &fd) < 0) {
		free(client);
		return;
	}
	client->next = m->clients;
	m->clients = client;
	m->had_client = true;
}
