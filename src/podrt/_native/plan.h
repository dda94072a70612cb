/* A plan in memory: checked as a whole when it is loaded, then walked by whoever needs it. */
#pragma once
#include "base.h"
#include "wire.h"

struct reader {
	const uint8_t *at, *end;
};

/* `count` strings, numbers or bytes behind each other. */
struct list {
	uint32_t count;
	struct reader items;
};

union field {
	uint32_t u;
	uint64_t q;
	const char *s;
	struct list l;
};

#define MAX_FIELDS 8
struct op {
	uint16_t code, flags;
	uint32_t number; /* 1, 2, 3... */
	union field f[MAX_FIELDS];
};

struct plan {
	uint8_t *bytes;
	size_t size;
	uint32_t clone_flags;
	uint32_t joins;  /* CLONE_NEW* of SETNS */
	uint64_t seen;   /* a bit for each code of its operations */
	bool is_foreign; /* its process lacks rights over the host: it is in a user namespace */
	bool by_helper;  /* namespaces are entered on the way to the clone */
	int *trees;      /* by number of the operation: what was opened for it, or -1 */
	uint32_t op_count;
	const char *log_path; /* NULL: the output goes nowhere */
	uint64_t log_max_bytes;
	const char *filter_path; /* of SECCOMP, opened before the root changes */
	const char *notify_path, *notify_state;
	const char *new_cwd; /* of CWD, if it is to be made when missing */
	const char *uid_map, *gid_map;
	bool denies_setgroups;
	int32_t oom_score;
	uint32_t uid;
	uint32_t kept_fds;
	bool keeps_stdio;
	char **argv, **envp;
};

static inline bool plan_has(const struct plan *plan, enum op_code code)
{
	return plan->seen >> code & 1;
}

int plan_load(struct plan *plan, int fd);
void plan_free(struct plan *plan);
struct reader plan_ops(const struct plan *plan);
/* False at the end, and when what follows is no operation. */
bool next_op(struct reader *ops, struct op *op);
/* NULL at the end. */
const char *next_str(struct list *list);
