/* The monitor of one group: what it keeps, and the parts it consists of.
 * One thread, no globals; every part gets the struct monitor passed. */
#ifndef PODRT_MONITOR_H
#define PODRT_MONITOR_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "launch.h"
#include "wire.h"

/* What an epoll event belongs to. */
enum source_kind {
	SOURCE_LISTEN,
	SOURCE_SIGNAL,
	SOURCE_CLIENT,
	SOURCE_REPORT,
	SOURCE_OUTPUT,
	SOURCE_PIDFD,
};

struct source {
	enum source_kind kind;
	int fd;
	void *owner;
};

/* Memory that events of the running batch may still point to. */
struct grave {
	struct grave *next;
};

/* ---- logs.c ---- */
struct log {
	int fd;
	char *path;
	uint64_t bytes;
	uint64_t max_bytes;
};

struct stream {
	struct source source;
	struct log *log;
	const char *name;
	char *partial; /* a line that has not ended yet; NULL most of the time */
	uint32_t partial_bytes;
};

struct scratch;
int log_open(struct log *log, const char *path, uint64_t max_bytes);
void log_close(struct log *log);
bool stream_read(struct scratch *scratch, struct stream *stream);
void stream_drain(struct scratch *scratch, struct stream *stream);

/* Buffers that serve one event at a time, and the time stamp's cached seconds. */
#define READ_ROOM (32u << 10)
#define FRAME_ROOM (64u << 10)
struct scratch {
	char read[READ_ROOM];
	char frame[FRAME_ROOM];
	size_t framed;
	int64_t second;
	char stamp[40];
	char prefix[64];
	size_t prefix_bytes;
};

/* ---- journal.c ---- */
struct pending_record {
	struct pending_record *next;
	struct journal_record record;
};

struct journal {
	int fd;
	uint64_t seq;
	struct pending_record *first, **last; /* exits that the disk refused */
};

int journal_open(struct journal *journal, int fd);
int journal_append(struct journal *journal, struct journal_record record);
void journal_keep(struct journal *journal, struct journal_record record);
bool journal_retry(struct journal *journal);

/* ---- clients.c ---- */
struct packet;
struct client {
	struct grave grave;
	struct client *next;
	struct source source;
	uint64_t serial;
	struct packet *first, **last;
	size_t queued;
};

/* Who asked, by serial number: clients come and go. */
struct asker {
	uint64_t client;
	uint32_t req;
};

struct request {
	struct asker asker;
	struct wire_head head;
	const char *body; /* a NUL follows */
	uint32_t body_bytes;
	int fd;
};

struct reply {
	struct wire_head head;
	const void *body;
	size_t body_bytes;
};

struct monitor;
void client_accept(struct monitor *m);
void client_read(struct monitor *m, struct client *client);
void client_flush(struct monitor *m, struct client *client);
void client_close(struct monitor *m, struct client *client);
void reply_to(struct monitor *m, struct asker asker, struct reply reply);
void reply_ok(struct monitor *m, const struct request *request);
void reply_failed(struct monitor *m, struct asker asker, int error, uint32_t stage,
		  const char *text);

/* ---- table.c, states.c ---- */
enum state {
	STATE_IDLE,     /* known, no process; its last start failed or there was none */
	STATE_STARTING, /* sets itself up */
	STATE_HELD,     /* stands before exec */
	STATE_RUNNING,
	STATE_STOPPING, /* signalled by STOP; killed at kill_at_ms */
	STATE_FAILING,  /* its start failed; only its end is waited for */
	STATE_EXITED,
	STATE_COUNT,
};

enum event {
	EVENT_START,
	EVENT_RELEASE,
	EVENT_SIGNAL,
	EVENT_STOP,
	EVENT_WAIT,
	EVENT_FORGET,
	EVENT_ADOPT,
	EVENT_READY,
	EVENT_REFUSED,
	EVENT_EXECED,
	EVENT_GONE,
	EVENT_COUNT,
};

struct waiter {
	struct waiter *next;
	struct asker asker;
	bool is_stop;
};

struct failure {
	int error;
	uint32_t stage;
	char text[];
};

struct container {
	struct grave grave;
	struct container *next_by_id;
	struct container *next_by_pid;
	struct container *next_stopping;
	uint8_t id[ID_BYTES];
	enum state state;
	uint32_t run;
	pid_t pid;
	uint64_t ticks;
	struct source report;
	int ends[3]; /* the child's ends of its pipes, while it may share our descriptor table */
	struct source pidfd; /* of an adopted process only: our own children need none */
	struct stream out, err;
	struct log log;
	struct slot *slot;
	struct asker starter;
	struct failure *failure;
	struct waiter *waiters;
	char *memory_dir;
	int64_t kill_at_ms; /* 0: none */
	bool is_listed;     /* among those that are stopping */
	bool is_removing;
	uint64_t oom_kills; /* of its cgroup, as last seen */
	bool by_user;
	bool was_killed;
	uint16_t exit_flags;
	int32_t code;
	uint64_t ended_at_ns;
};

struct table {
	struct container **by_id, **by_pid;
	uint32_t room, count;
};

#define SLOTS 4096
struct monitor {
	int epoll;
	struct source listen, signals;
	int lock, dir;
	uint8_t id[ID_BYTES];
	struct journal journal;
	struct table table;
	struct client *clients;
	uint64_t last_serial;
	bool had_client;
	int64_t started_ms;
	struct slot *slots;
	struct held_ns held[HELD_KINDS];
	uint32_t held_flags;
	bool has_shm;
	bool is_removing;
	uint32_t live; /* containers with a process */
	struct container *stopping;
	struct grave *graves;
	char *shm_path;
	struct rlimit files;
	struct scratch scratch;
	char message[sizeof(struct wire_head) + WIRE_MAX_BODY + 1];
};

struct container *table_find(const struct table *table, const uint8_t *id);
struct container *table_find_pid(const struct table *table, pid_t pid);
struct container *table_add(struct table *table, const uint8_t *id);
void table_set_pid(struct table *table, struct container *c, pid_t pid);
void table_remove(struct table *table, struct container *c);

int watch(struct monitor *m, struct source *source, uint32_t events);
void unwatch(struct monitor *m, struct source *source);
void bury(struct monitor *m, struct grave *grave);
int64_t now_ms(void);

/* Fields of a record that the container knows; callers add what is special. */
struct journal_record record_of(const struct container *c, enum record_kind kind);

int dispatch(struct monitor *m, struct container *c, enum event event, const void *data);
void handle_request(struct monitor *m, struct request *request);
void kill_overdue(struct monitor *m);
int64_t next_kill_ms(const struct monitor *m);
int signal_container(const struct container *c, int sig);

/* ---- starts.c ---- */
int start_container(struct monitor *m, struct container *c, const struct request *request);
void read_report(struct monitor *m, struct container *c);
void fail_start(struct container *c, int error, uint32_t stage, const char *text);
void close_report(struct monitor *m, struct container *c);
void finish_failed_start(struct monitor *m, struct container *c);

/* ---- exits.c ---- */
struct ending {
	int status; /* as waitpid gives it */
	bool is_unknown;
};
void collect_children(struct monitor *m);
void record_exit(struct monitor *m, struct container *c, const struct ending *ending);
void answer_waiters(struct monitor *m, struct container *c);
int add_waiter(struct container *c, struct asker asker, bool is_stop);
char *find_memory_dir(const char *dirs, uint32_t bytes);

/* ---- adopt.c ---- */
int adopt_container(struct monitor *m, struct container *c, const struct request *request);
void pidfd_event(struct monitor *m, struct container *c, uint32_t events);

/* ---- spaces.c ---- */
int spaces_setup(struct monitor *m, const struct request *request);
int spaces_release(struct monitor *m, const struct request *request);

#endif
