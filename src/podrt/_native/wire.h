/* The numbers podrt and its monitor agree on: messages, journal records and plans.
 * The Python twins are engines/wire.py and engines/plan.py; a test compares them with these. */
#pragma once

#include <stdint.h>

#define WIRE_VERSION 1
#define JOURNAL_VERSION 1
#define PLAN_VERSION 3

#define ID_BYTES 32
#define MAX_STAMPS 500
#define WIRE_MAX_BODY (64u << 10)
#define PLAN_MAX_BYTES (4u << 20)

struct stamp {
	uint64_t at_ns; /* CLOCK_REALTIME: the one clock that no namespace moves */
	uint32_t stage, reserved;
};

/* Every message: this head, then a body of at most WIRE_MAX_BODY bytes. */
struct wire_head {
	uint16_t type;
	uint16_t version;
	uint32_t req;
	uint32_t run;
	int32_t arg;
	uint64_t a;
	uint64_t b;
	uint8_t id[ID_BYTES];
};
_Static_assert(sizeof(struct wire_head) == 64, "a message head has 64 bytes");

enum message_type {
	MSG_HELLO = 1,
	MSG_SETUP = 2,
	MSG_START = 3,
	MSG_RELEASE = 4,
	MSG_SIGNAL = 5,
	MSG_STOP = 6,
	MSG_WAIT = 7,
	MSG_REMOVING = 8,
	MSG_FORGET = 9,
	MSG_RELEASE_NS = 10,
	MSG_ADOPT = 11,
	MSG_PAUSE = 12,
	MSG_UNPAUSE = 13,
	MSG_POLICY = 14,
	MSG_REQUESTS, /* how many of them, and none */
	MSG_OK = 64,
	MSG_FAILED = 65,
	MSG_CREATED = 66,
	MSG_STARTED = 67,
	MSG_EXITED = 68,
	MSG_TERMINAL = 69 /* of the launcher: a terminal's master comes with it */
};

enum start_flag {
	START_HOLD = 1,      /* stop right before exec */
	START_UNIFIED = 2,   /* the one directory to join is of cgroup v2 */
	START_LEADS = 4,     /* also of ADOPT: the others may join its pid and cgroup namespaces */
	START_TIMES = 8,     /* STARTED tells when each stage began: struct stamp, in order */
	START_RESTARTS = 16, /* the policy that was told stays; else there is none any more */
	START_SETTLE = 32,   /* its end for good may be that of its pod: see `system settle` */
	START_REMOVE = 64,   /* ... and it is to be removed then */
	START_SETTLES = START_SETTLE | START_REMOVE,
	START_ALL =
	    START_HOLD | START_UNIFIED | START_LEADS | START_TIMES | START_RESTARTS | START_SETTLES,
};

enum restart_kind { RESTART_NO, RESTART_ON_FAILURE, RESTART_ALWAYS, RESTART_UNLESS_STOPPED };

/* The body of POLICY; behind it the IDs of the containers it needs, the path of its plan and the
 * directories to join, these each ended by a NUL. */
struct policy_head {
	uint32_t kind, most; /* most restarts after failures; 0: any number */
	/* For a monitor that is new to the container: */
	uint32_t count, delay_ms;
	int32_t code;
	uint32_t exit_flags;
	uint64_t ended_at_ns; /* 0: it has not ended, or that was acted on */
	uint64_t need_count;
};
_Static_assert(sizeof(struct policy_head) == 40, "a policy's head has 40 bytes");

/* The journal: a header that podrt writes, then records that only the monitor writes. */
#define JOURNAL_HEADER_BYTES 64

struct journal_record {
	uint32_t crc; /* zlib's crc32 of everything behind it */
	uint16_t kind;
	uint16_t flags;
	uint64_t seq;
	uint64_t at_ns;
	uint8_t id[ID_BYTES];
	uint32_t run;
	int32_t pid;
	uint64_t start_ticks;
	int32_t code;
	int32_t error;
	uint64_t a;
	uint64_t b;
};
_Static_assert(sizeof(struct journal_record) == 96, "a journal record has 96 bytes");

enum record_kind {
	REC_MONITOR_UP = 1,
	REC_NS_UP = 2,
	REC_CREATED = 3,
	REC_STARTED = 4,
	REC_EXITED = 5,
	REC_STOPPING = 6,
	REC_START_FAILED = 7,
	REC_PAUSED = 8,
	REC_UNPAUSED = 9,
	REC_NS_DOWN = 10,
	REC_FORGOTTEN = 11,
	REC_RECEIPT = 12,
	REC_MONITOR_DOWN = 13
};

enum exit_flag { EXIT_BY_USER = 1, EXIT_OOM = 2, EXIT_UNKNOWN = 4 };
#define UNKNOWN_EXIT_CODE 255

/* A plan: this header, then op_count operations (plan.h), each a multiple of 8 bytes. */
#define PLAN_MAGIC "podrtpl1"

struct plan_header {
	char magic[8];
	uint32_t version;
	uint32_t total_bytes;
	uint32_t op_count;
	uint32_t clone_flags;
	uint32_t flags;
	uint32_t list_room; /* strings of all lists, and one more for each list */
};
_Static_assert(sizeof(struct plan_header) == 32, "a plan header has 32 bytes");

enum op_code {
#define OP(code, name, ...) OP_##name = (code),
#include "ops.h"
#undef OP
	OP_COUNT = 44
};

/* Stages of a start that are no operation of the plan; a failure names one or the other. */
enum start_stage {
	STAGE_PLAN = 100,    /* the plan cannot be read or is malformed */
	STAGE_STDIO = 101,   /* pipes */
	STAGE_CLONE = 102,   /* clone3 */
	STAGE_CGROUP = 103,  /* joining a cgroup */
	STAGE_JOURNAL = 104, /* the journal refused the record */
	STAGE_SETUP = 105,   /* the child before its first operation */
	STAGE_CANCEL = 106,  /* stopped while it was starting */
};

/* Fields and flags of operations. A bind may also hold MS_SHARED and the like, and MS_REC. */
enum bind_flag {
	BIND_RECURSIVE = 1,
	BIND_MAKE_FILE = 2,
	BIND_MAKE_DIRECTORY = 4,
	BIND_ATTRS_RECURSIVE = 8,
	BIND_MAP_RECURSIVE = 16,
	BIND_SHARED_WITH_HOST = 32
};
#define FLAG_READONLY_IN_PLACE 1 /* READONLY: a mount of the plan; what lies below it stays */
#define FLAG_READONLY_ROOT 1     /* PIVOT */
#define FLAG_CALLERS_MOUNTS 2    /* PIVOT: in the caller's mount namespace, whose root stays */
#define FLAG_COPY_UP 1           /* MOUNT: starts with what the directory holds */
#define FLAG_OWN_MODE 2          /* MOUNT: but with the owner and mode its options name */
#define FLAG_MAKE 1              /* CWD: made if it is missing */
#define FLAG_OF_HOST 1           /* HOOKS: the caller runs some, meanwhile we wait */
#define STDIO_KEEP 1
#define MOUNT_ATTR_BELOW 1 /* and on all mounts below it */
#define PLAN_TERMINAL 1    /* a flag of the header: there is a terminal */
