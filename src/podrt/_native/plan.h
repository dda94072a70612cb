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
	struct reader rest; /* the operations behind it */
	uint16_t code, flags;
	uint32_t number; /* 1, 2, 3... */
	union field f[MAX_FIELDS];
};

struct plan {
	uint8_t *bytes;
	size_t size;
	uint32_t clone_flags, op_count;
	uint32_t joins;  /* CLONE_NEW* of SETNS */
	bool is_foreign; /* its process lacks rights over the host: it is in a user namespace */
	bool by_helper;  /* namespaces are entered on the way to the clone */
	int *trees;      /* by number of the operation: what was opened for it, or -1 */
	char **argv, **envp;
	/* The last of each code, for whoever needs it before its turn, or elsewhere. */
	struct op last[OP_COUNT];
};

static inline bool plan_has(const struct plan *plan, enum op_code code)
{
	return plan->last[code].number;
}

/* A string of the last operation of a code, NULL if there is none. */
static inline const char *plan_str(const struct plan *plan, enum op_code code, int field)
{
	return plan->last[code].f[field].s;
}

int plan_load(struct plan *plan, int fd);
void plan_free(struct plan *plan);
/* From one operation to the next, from all zeros to the first. False at the end, and when what
 * follows is no operation. */
bool next_op(const struct plan *plan, struct op *op);
/* NULL at the end. */
const char *next_str(struct list *list);
