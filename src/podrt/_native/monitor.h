/* The monitor of one group: what it keeps, and the parts it consists of.
 * One thread, no globals; every part gets the struct monitor passed. */
#pragma once
#include "launch.h"

/* A descriptor that is watched, and who is told of its events. */
struct monitor;
typedef void listener(struct monitor *m, void *owner, uint32_t events);
struct source {
	listener *on_event;
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
	uint64_t bytes, max_bytes;
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
listener stream_event;
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
struct client {
	struct grave grave;
	struct client *next;
	struct source source;
	uint64_t serial;
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

listener client_accept;
void reply(struct monitor *m, struct asker asker, struct wire_head head, const void *body,
	   size_t body_bytes);
void reply_failed(struct monitor *m, struct asker asker, int error, uint32_t stage,
		  const char *text);
void reply_ok(struct monitor *m, const struct request *request, const void *body,
	      size_t body_bytes);

/* ---- states.c ---- */
enum state {
	STATE_IDLE,     /* known, no process; its last start failed or there was none */
	STATE_STARTING, /* sets itself up */
	STATE_HELD,     /* stands before exec */
	STATE_RUNNING,
	STATE_STOPPING, /* signalled by STOP; killed at kill_at_ms */
	STATE_FAILING,  /* its start failed; only its end is waited for */
	STATE_EXITED,
	STATE_WAITING, /* has ended, is started again when it is due */
	STATE_COUNT,
};

struct waiter {
	struct waiter *next;
	struct asker asker;
	bool is_stop;
};

struct policy {
	uint32_t kind, most, count, delay_ms;
	int64_t began_ms, due_ms; /* 0: no run follows */
	int32_t flags;            /* of the starts to come */
	uint32_t path_bytes;
	uint64_t need_count;
	char body[]; /* needs and paths, as in the message */
};

struct container {
	struct grave grave;
	struct container *next_by_id, *next_by_pid, *next_stopping, *next_waiting;
	struct policy *policy; /* NULL: none was told */
	int32_t settle_flags;
	uint8_t id[ID_BYTES];
	enum state state;
	uint32_t run;
	pid_t pid;
	uint64_t ticks;
	struct source report;
	int driver;  /* pidfd of what starts a process of another runtime */
	int ends[3]; /* the child's ends of its pipes, while it may share our descriptor table */
	struct source pidfd; /* of an adopted process only: our own children need none */
	struct stream out, err;
	struct log log;
	struct slot *slot;
	struct times *times; /* START_TIMES; told with STARTED */
	struct asker starter;
	struct message failure;
	struct waiter *waiters;
	char *memory_dir;
	int64_t kill_at_ms; /* 0: none */
	bool is_listed;     /* among those that are stopping */
	bool is_removing;
	bool leads;         /* START_LEADS */
	uint64_t oom_kills; /* of its cgroup, as last seen */
	bool by_user, was_killed;
	uint16_t exit_flags;
	int32_t code;
	uint64_t ended_at_ns;
};

#define BUCKETS 256
struct table {
	struct container *by_id[BUCKETS], *by_pid[BUCKETS];
};

#define SLOTS 4096
struct monitor {
	int epoll;
	struct source listen, signals;
	int dir;
	uint8_t id[ID_BYTES];
	struct journal journal;
	struct table table;
	struct client *clients;
	uint64_t last_serial;
	bool had_client;
	int64_t started_ms;
	uint64_t ticks; /* when the monitor itself started */
	struct slot *slots;
	struct held_ns held[ALL_KINDS];
	uint32_t held_flags;
	bool has_shm;
	bool is_removing;
	uint32_t live; /* containers with a process */
	struct container *stopping, *waiting;
	char *const *settle;  /* the program that settles, with its arguments; NULL: none */
	int64_t settle_at_ms; /* 0: nothing to settle */
	int32_t settle_flags;
	pid_t settle_pid;
	int settle_tries;
	int home; /* the mount namespace we come from */
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

int watch(struct monitor *m, struct source *source, int *fd);
void unwatch(struct monitor *m, struct source *source);
void bury(struct monitor *m, struct grave *grave);
int64_t now_ms(void);
int64_t sooner(int64_t one_ms, int64_t other_ms);
_Noreturn void give_up(struct monitor *m);

/* Fields of a record that the container knows; callers add what is special. */
struct journal_record record_of(const struct container *c, enum record_kind kind);
struct journal_record record_for(const uint8_t *id, enum record_kind kind);

void answer_about(struct monitor *m, const struct container *c, struct asker asker,
		  struct wire_head head);
void end_times(struct container *c);
void answer_started(struct monitor *m, struct container *c, uint16_t type);
struct asker take_asker(struct asker *asker);
void process_begins(struct container *c, const struct request *request);

/* What a request does to a container. It is answered by the result: OK, why it failed, or LATER. */
#define LATER 1
typedef int handler(struct monitor *m, struct container *c, const struct request *request);
int ask_container(struct monitor *m, const struct request *request);
int64_t kill_overdue(struct monitor *m);
int signal_container(const struct container *c, int sig);
bool asks_to_end(int sig);

/* ---- starts.c ---- */
handler start_container;
listener read_report;
void fail_start(struct container *c, uint32_t stage, int error, const char *detail);
void close_report(struct monitor *m, struct container *c);
void finish_failed_start(struct monitor *m, struct container *c);

/* ---- engine.c ---- */
void know_process(struct monitor *m, struct container *c, pid_t pid);

/* ---- exits.c ---- */
void collect_children(struct monitor *m);
void answer_waiters(struct monitor *m, struct container *c);
int add_waiter(struct container *c, struct asker asker, bool is_stop);

handler adopt_container;
listener pidfd_event;

/* ---- restarts.c ---- */
handler tell_policy;
handler end_waiting;
void begin_series(struct monitor *m, struct container *c, const struct request *request);
bool is_meant(const struct container *c, uint32_t run);
void journal_end(struct monitor *m, struct container *c, uint64_t from_ns);
void run_ended(struct monitor *m, struct container *c);
bool end_failed_restart(struct monitor *m, struct container *c);
void call_off(struct monitor *m, struct container *c);
int64_t restart_due(struct monitor *m);
int64_t settle_due(struct monitor *m);
void settle_ended(struct monitor *m, pid_t pid, int status);
void client_left(struct monitor *m);

/* ---- spaces.c ---- */
int spaces_setup(struct monitor *m, const struct request *request);
int spaces_release(struct monitor *m, const struct request *request);
void spaces_unlink(const struct monitor *m, bool with_marks);
void spaces_lead(struct monitor *m, const struct container *c, bool lives);
