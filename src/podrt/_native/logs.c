/* Output of containers, framed as k8s-file lines: time stamp, stream, F or P, text.
 * One write to the log for each burst that is read. */
#include "monitor.h"

/* A longer line is cut in pieces. */
#define PIECE_BYTES (8u << 10)
/* What a program that still writes may add while its pipe is drained. */
#define DRAIN_READS 64
#define LOG_FLAGS (O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY | O_NOFOLLOW)

int log_open(struct log *log, const char *path, uint64_t max_bytes)
{
	cleanup_fd int fd = open(path, LOG_FLAGS | O_NONBLOCK, 0600);
	struct stat st;

	TRY(checked(fd));
	TRY(checked(fstat(fd, &st)));
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	log->path = strdup(path);
	if (!log->path)
		return -ENOMEM;
	log->bytes = (uint64_t)st.st_size;
	log->max_bytes = max_bytes;
	log->fd = take_fd(&fd);
	return 0;
}

void log_close(struct log *log)
{
	close_fd(&log->fd);
	free(log->path);
	log->path = NULL;
}

/* Over its size, a log becomes `path`.1 and a new one begins; readers follow by inode. */
static void rotate(struct log *log)
{
	char old[PATH_ROOM];
	int fd;

	if (snprintf(old, sizeof(old), "%s.1", log->path) >= (int)sizeof(old) ||
	    rename(log->path, old) < 0)
		return;
	fd = open(log->path, LOG_FLAGS, 0600);
	if (fd < 0)
		return;
	close(log->fd);
	log->fd = fd;
	log->bytes = 0;
}

/* A full disk loses output, never the program's progress. */
static void flush(struct scratch *scratch, struct log *log)
{
	size_t bytes = scratch->framed;

	scratch->framed = 0;
	if (bytes == 0 || log->fd < 0)
		return;
	if (log->max_bytes && log->bytes > 0 && log->bytes + bytes > log->max_bytes)
		rotate(log);
	if (write_all(log->fd, scratch->frame, bytes) == 0)
		log->bytes += bytes;
}

static void set_prefix(struct scratch *scratch, const char *name)
{
	struct timespec now;
	struct tm utc;

	clock_gettime(CLOCK_REALTIME, &now);
	if (now.tv_sec != scratch->second || !scratch->stamp[0]) {
		scratch->second = now.tv_sec;
		gmtime_r(&now.tv_sec, &utc);
		strftime(scratch->stamp, sizeof(scratch->stamp), "%Y-%m-%dT%H:%M:%S", &utc);
	}
	scratch->prefix_bytes =
	    (size_t)snprintf(scratch->prefix, sizeof(scratch->prefix), "%s.%09ld+00:00 %s ",
			     scratch->stamp, (long)now.tv_nsec, name);
}

static void put(struct scratch *scratch, const char *text, size_t bytes)
{
	if (bytes)
		memcpy(scratch->frame + scratch->framed, text, bytes);
	scratch->framed += bytes;
}

/* One line, or piece of a line: what was kept of it and what came now. */
static void put_line(struct scratch *scratch, struct stream *stream, const char *text, size_t bytes,
		     bool is_whole)
{
	size_t need = scratch->prefix_bytes + 2 + stream->partial_bytes + bytes + 1;

	if (scratch->framed + need > FRAME_ROOM)
		flush(scratch, stream->log);
	put(scratch, scratch->prefix, scratch->prefix_bytes);
	put(scratch, is_whole ? "F " : "P ", 2);
	put(scratch, stream->partial, stream->partial_bytes);
	put(scratch, text, bytes);
	put(scratch, "\n", 1);
	free(stream->partial);
	stream->partial = NULL;
	stream->partial_bytes = 0;
}

/* What has no end yet is kept. Without memory for it the piece is written now, as a piece. */
static void frame(struct scratch *scratch, struct stream *stream, const char *text, size_t bytes)
{
	while (bytes > 0) {
		const char *newline = memchr(text, '\n', bytes);
		size_t length = newline ? (size_t)(newline - text) : bytes;
		size_t room = PIECE_BYTES - stream->partial_bytes;
		const bool is_cut = length > room;
		char *grown = NULL;

		if (!newline && !is_cut)
			grown = realloc(stream->partial, stream->partial_bytes + length);
		if (grown) {
			memcpy(grown + stream->partial_bytes, text, length);
			stream->partial = grown;
			stream->partial_bytes += (uint32_t)length;
			return;
		}
		length = is_cut ? room : length;
		put_line(scratch, stream, text, length, newline && !is_cut);
		length += newline && !is_cut;
		text += length;
		bytes -= length;
	}
}

/* False when the pipe has ended. */
static bool stream_read(struct scratch *scratch, struct stream *stream)
{
	ssize_t n = read(stream->source.fd, scratch->read, READ_ROOM);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	if (n == 0)
		return false;
	set_prefix(scratch, stream->name);
	frame(scratch, stream, scratch->read, (size_t)n);
	flush(scratch, stream->log);
	return true;
}

/* What is in the pipe now, and the line that never ended. Others may hold the pipe open and go
 * on writing: that must not keep us. */
void stream_drain(struct scratch *scratch, struct stream *stream)
{
	int waiting = 0;

	for (int i = 0; stream->source.fd >= 0 && i < DRAIN_READS; i++) {
		if (ioctl(stream->source.fd, FIONREAD, &waiting) < 0 || waiting <= 0)
			break;
		if (!stream_read(scratch, stream))
			break;
	}
	if (stream->partial_bytes == 0)
		return;
	set_prefix(scratch, stream->name);
	put_line(scratch, stream, NULL, 0, false);
	flush(scratch, stream->log);
}

void stream_event(struct monitor *m, void *owner, uint32_t events)
{
	struct stream *stream = owner;

	if (!stream_read(&m->scratch, stream))
		unwatch(m, &stream->source);
}
