/* A plan in memory: checked as a whole when it is loaded, then walked by whoever needs it. */
#pragma once
#include "base.h"

/* Of a list of numbers or bytes: how many, and in the next field where. */
union field {
	uint32_t u;
	uint64_t q;
	const char *s;
	char **l; /* a NULL follows */
};

/* In the file, numbers and counts stand in the fields, and what they count behind those. */
#define MAX_FIELDS 8
struct op {
	uint16_t code, flags;
	uint32_t bytes; /* with all that belongs to it: the next follows */
	int32_t tree;   /* what was opened for it, or -1 */
	uint32_t reserved;
	union field f[MAX_FIELDS];
};

struct plan {
	uint8_t *bytes, *end; /* of what has been checked */
	uint32_t clone_flags;
	uint32_t joins;  /* CLONE_NEW* of SETNS */
	bool is_foreign; /* its process lacks rights over the host: it is in a user namespace */
	bool by_helper;  /* namespaces are entered on the way to the clone */
	char **lists;
	uint32_t list_room;
	/* The last of each code, for whoever needs it before its turn, or elsewhere; one of zeros
	 * if there is none. */
	const struct op *last[OP_COUNT];
};

extern const char *const op_layouts[OP_COUNT];

static inline bool plan_has(const struct plan *plan, enum op_code code)
{
	return plan->last[code]->code;
}

/* A string of the last operation of a code, NULL if there is none. */
static inline const char *plan_str(const struct plan *plan, enum op_code code, int field)
{
	return plan->last[code]->f[field].s;
}

int plan_load(struct plan *plan, int fd);
void plan_free(struct plan *plan);
/* From NULL to the first operation, from the last to NULL. */
struct op *next_op(const struct plan *plan, const struct op *op);
