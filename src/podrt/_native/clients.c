/* Connections: messages in, replies out. A client that does not read is dropped. One that went
 * away cancels nothing that was begun; what it sent and nobody read yet is dropped with it, so
 * that whoever is greeted next knows from the journal all that will come of it. */
#include "monitor.h"

#include <sys/socket.h>
#include <sys/uio.h>

/* What may wait for one client before it counts as stuck. */
#define MAX_QUEUED (1u << 20)
#define MAX_PASSED_FDS 253 /* SCM_MAX_FD */

struct packet {
	struct packet *next;
	size_t bytes;
	char data[];
};

static bool is_ours(int fd)
{
	struct ucred peer;
	socklen_t bytes = sizeof(peer);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) == 0 && peer.uid == geteuid();
}

static void client_close(struct monitor *m, struct client *client)
{
	struct client **at = &m->clients;

	if (client->source.fd < 0)
		return;
	unwatch(m, &client->source);
	while (client->first) {
		struct packet *packet = client->first;

		client->first = packet->next;
		free(packet);
	}
	while (*at && *at != client)
		at = &(*at)->next;
	if (*at)
		*at = client->next;
	bury(m, &client->grave);
}

/* Keeps the first descriptor, if there is one, and closes every other. */
static int first_fd(struct msghdr *msg)
{
	int kept = -1;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (kept < 0)
				kept = fd;
			else
				close(fd);
		}
	}
	return kept;
}

static void handle_message(struct monitor *m, struct client *client, struct msghdr *msg, size_t n)
{
	cleanup_fd int fd = first_fd(msg);
	struct request request = {.asker.client = client->serial, .fd = fd};

	if (n < sizeof(request.head)) {
		reply_failed(m, request.asker, EPROTO, 0, "short message");
		return;
	}
	memcpy(&request.head, m->message, sizeof(request.head));
	request.asker.req = request.head.req;
	if (msg->msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
		reply_failed(m, request.asker, EPROTO, 0, "message too long");
		return;
	}
	m->message[n] = '\0';
	request.body = m->message + sizeof(request.head);
	request.body_bytes = (uint32_t)(n - sizeof(request.head));
	handle_request(m, &request);
}

/* One message a turn: between two starts the monitor looks at everything else. */
static void client_read(struct monitor *m, struct client *client)
{
	union {
		char room[CMSG_SPACE(MAX_PASSED_FDS * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = {m->message, sizeof(m->message) - 1};
	struct msghdr msg = {
	    .msg_iov = &iov,
	    .msg_iovlen = 1,
	    .msg_control = control.room,
	    .msg_controllen = sizeof(control.room),
	};
	ssize_t n = recvmsg(client->source.fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);

	if (n > 0) {
		handle_message(m, client, &msg, (size_t)n);
	} else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
		cleanup_fd int passed = n == 0 ? first_fd(&msg) : -1;

		(void)passed;
		client_close(m, client);
	}
}

static struct client *find_client(const struct monitor *m, uint64_t serial)
{
	struct client *client = m->clients;

	while (client && client->serial != serial)
		client = client->next;
	return client;
}

static void queue(struct monitor *m, struct client *client, const struct iovec *iov)
{
	size_t bytes = iov[0].iov_len + iov[1].iov_len;
	struct packet *packet = NULL;
	struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = &client->source};

	if (client->queued + bytes <= MAX_QUEUED)
		packet = malloc(sizeof(*packet) + bytes);
	if (!packet) {
		client_close(m, client);
		return;
	}
	packet->next = NULL;
	packet->bytes = bytes;
	memcpy(packet->data, iov[0].iov_base, iov[0].iov_len);
	if (iov[1].iov_len)
		memcpy(packet->data + iov[0].iov_len, iov[1].iov_base, iov[1].iov_len);
	*client->last = packet;
	client->last = &packet->next;
	client->queued += bytes;
	epoll_ctl(m->epoll, EPOLL_CTL_MOD, client->source.fd, &event);
}

void reply_to(struct monitor *m, struct asker asker, struct reply reply)
{
	struct client *client = find_client(m, asker.client);
	struct iovec iov[2] = {
	    {&reply.head, sizeof(reply.head)},
	    {(void *)(uintptr_t)reply.body, reply.body_bytes},
	};
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = reply.body_bytes ? 2 : 1};

	if (!client)
		return;
	reply.head.version = WIRE_VERSION;
	reply.head.req = asker.req;
	if (client->first) {
		queue(m, client, iov);
		return;
	}
	if (sendmsg(client->source.fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
		return;
	if (errno == EAGAIN)
		queue(m, client, iov);
	else
		client_close(m, client);
}

void reply_ok(struct monitor *m, const struct request *request)
{
	struct reply reply = {.head.type = MSG_OK};

	memcpy(reply.head.id, request->head.id, ID_BYTES);
	reply_to(m, request->asker, reply);
}

/* `error` is an errno, positive as in every reply. */
void reply_failed(struct monitor *m, struct asker asker, int error, uint32_t stage,
		  const char *text)
{
	struct reply reply = {
	    .head = {.type = MSG_FAILED, .arg = error, .a = stage},
	    .body = text,
	    .body_bytes = text ? strlen(text) : 0,
	};

	reply_to(m, asker, reply);
}

static void client_flush(struct monitor *m, struct client *client)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = &client->source};

	while (client->first) {
		struct packet *packet = client->first;

		if (send(client->source.fd, packet->data, packet->bytes,
			 MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
			if (errno != EAGAIN)
				client_close(m, client);
			return;
		}
		client->first = packet->next;
		client->queued -= packet->bytes;
		free(packet);
	}
	client->last = &client->first;
	epoll_ctl(m->epoll, EPOLL_CTL_MOD, client->source.fd, &event);
}

static void client_event(struct monitor *m, void *owner, uint32_t events)
{
	struct client *client = owner;

	if (events & EPOLLOUT)
		client_flush(m, client);
	if (events & (EPOLLHUP | EPOLLERR))
		client_close(m, client);
	else if (client->source.fd >= 0 && events & EPOLLIN)
		client_read(m, client);
}

void client_accept(struct monitor *m, void *owner, uint32_t events)
{
	cleanup_fd int fd = accept4(m->listen.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct client *client;

	(void)owner;
	(void)events;
	if (fd < 0 || !is_ours(fd))
		return;
	client = calloc(1, sizeof(*client));
	if (!client)
		return;
	client->source = (struct source){client_event, fd, client};
	client->serial = ++m->last_serial;
	client->last = &client->first;
	if (watch(m, &client->source, EPOLLIN) < 0) {
		free(client);
		return;
	}
	take_fd(&fd);
	client->next = m->clients;
	m->clients = client;
	m->had_client = true;
}
