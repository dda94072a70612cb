/* A plan in memory. plan_load checks every length once, so the takers that the child uses
 * afterwards cannot fail. */
#pragma once
#include "base.h"
#include "wire.h"

struct reader {
	const uint8_t *at;
	const uint8_t *end;
};

/* `count` strings behind each other. */
struct list {
	uint32_t count;
	struct reader items;
};

struct plan {
	uint8_t *bytes;
	uint32_t op_count;
	uint32_t clone_flags;
	const char *log_path; /* NULL: the output goes nowhere */
	uint64_t log_max_bytes;
	const char *filter_path; /* of SECCOMP, opened before the root changes */
	const char *new_cwd;     /* of CWD, if it is to be made when missing */
	const char *pid_ns;      /* of SETNS: must be entered before the clone */
	uint32_t seen;           /* a bit for each code of its operations */
	uint32_t held_ns;        /* CLONE_NEW* that the plan takes from the monitor */
	char **argv;
	char **envp;
};

static inline bool plan_has(const struct plan *plan, enum op_code code)
{
	return plan->seen >> code & 1;
}

int plan_load(struct plan *plan, int fd);
void plan_free(struct plan *plan);
struct reader plan_ops(const struct plan *plan);
bool take_op(struct reader *ops, struct op_head *head, struct reader *payload);

uint32_t take_u32(struct reader *from);
uint64_t take_u64(struct reader *from);
const char *take_str(struct reader *from);
struct list take_list(struct reader *from);
