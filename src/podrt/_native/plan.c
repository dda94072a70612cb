#include "plan.h"

#define ALLOWED_CLONE_FLAGS                                                                        \
	((uint32_t)(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWCGROUP | CLONE_NEWNET | CLONE_NEWIPC |   \
		    CLONE_NEWUTS | CLONE_NEWUSER | CLONE_NEWTIME))
#define OP_HEAD_BYTES offsetof(struct op, f)

const char *const op_layouts[OP_COUNT] = {
#define OP(code, name, layout, ...) [code] = (layout),
#include "ops.h"
#undef OP
};

static const struct op no_op;

struct op *next_op(const struct plan *plan, const struct op *op)
{
	uint8_t *at = op ? (uint8_t *)op + op->bytes : plan->bytes + sizeof(struct plan_header);

	return at < plan->end ? (struct op *)at : NULL;
}

/* The string at `at`, which moves behind it; NULL if it does not end before `end`. */
static char *take_str(char **at, const char *end)
{
	char *text = *at, *nul = memchr(text, '\0', (size_t)(end - text));

	*at = nul ? nul + 1 : text;
	return nul ? text : NULL;
}

static int take_list(struct plan *plan, union field *field, char **at, const char *end)
{
	const uint64_t count = field->q;

	if (count >= plan->list_room)
		return -EINVAL;
	field->l = plan->lists;
	plan->lists += count + 1; /* there is a NULL at the end of each */
	plan->list_room -= (uint32_t)count + 1;
	for (uint64_t i = 0; i < count; i++)
		if (!(field->l[i] = take_str(at, end)))
			return -EINVAL;
	return 0;
}

/* From what the file has to what the users of an operation take. */
static int take_field(struct plan *plan, union field *field, char kind, char **at, const char *end)
{
	const uint64_t number = field->q, unit = kind == 'g' ? sizeof(uint32_t) : 1;

	switch (kind) {
	case 'q':
		return 0;
	case 'u':
		field->u = (uint32_t)number;
		return number > UINT32_MAX ? -EINVAL : 0;
	case 's':
		field->s = take_str(at, end);
		return number || !field->s ? -EINVAL : 0;
	case 'l':
		return take_list(plan, field, at, end);
	default:
		if (number > (size_t)(end - *at) / unit || field[1].q)
			return -EINVAL;
		field[1].s = *at;
		*at += number * unit;
		return 0;
	}
}

static int take_op(struct plan *plan, struct op *op, size_t rest)
{
	const char *layout, *end = (char *)op + op->bytes;
	union field *field = op->f;
	char *at;

	if (rest < OP_HEAD_BYTES || op->bytes < OP_HEAD_BYTES || op->bytes > rest ||
	    op->bytes % 8 || op->tree || op->reserved || op->code >= OP_COUNT ||
	    !op_layouts[op->code])
		return -EINVAL;
	layout = op_layouts[op->code];
	/* A list of numbers, always the last, has two. */
	at = (char *)(op->f + strlen(layout) + (strpbrk(layout, "gb") != NULL));
	if (at > end)
		return -EINVAL;
	op->tree = -1;
	for (; *layout; layout++)
		TRY(take_field(plan, field++, *layout, &at, end));
	if (end - at >= 8)
		return -EINVAL;
	while (at < end)
		if (*at++)
			return -EINVAL;
	return 0;
}

/* EXEC is the last one, has arguments, and comes after what guards the program's start. */
static int check_ops(struct plan *plan, size_t size, uint32_t count)
{
	const uint8_t *end = plan->bytes + size;

	for (int code = 0; code < OP_COUNT; code++)
		plan->last[code] = &no_op;
	plan->end = plan->bytes + sizeof(struct plan_header);
	for (; plan->end < end; count--) {
		struct op *op = (struct op *)plan->end;

		TRY(plan_has(plan, OP_EXEC) ? -EINVAL
					    : take_op(plan, op, (size_t)(end - plan->end)));
		plan->end += op->bytes;
		plan->last[op->code] = op;
		plan->joins |= op->code == OP_SETNS ? op->f[0].u : 0;
	}
	return count || !plan_has(plan, OP_EXEC) || !*plan->last[OP_EXEC]->f[0].l ||
		       !plan_has(plan, OP_SEAL) || !plan_has(plan, OP_HOLD) || plan->list_room
		   ? -EINVAL
		   : 0;
}

static int check_spaces(struct plan *plan)
{
	const uint32_t all = plan->clone_flags | plan->joins;
	const uint32_t on_the_way = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWTIME;

	/* Without a mount namespace of its own the child would mount into the monitor's. */
	if (all & ~ALLOWED_CLONE_FLAGS || !(all & CLONE_NEWNS) ||
	    (plan->clone_flags & CLONE_NEWUSER && !plan_has(plan, OP_IDMAP)) ||
	    (plan_has(plan, OP_TIMENS) && !(plan->clone_flags & CLONE_NEWTIME)) ||
	    plan->last[OP_STDIO]->f[1].u > INT_MAX / 2)
		return -EINVAL;
	plan->is_foreign = all & CLONE_NEWUSER;
	plan->by_helper = plan->joins & on_the_way || plan->clone_flags & CLONE_NEWTIME ||
			  (plan->is_foreign && plan->joins);
	return 0;
}

int plan_load(struct plan *plan, int fd)
{
	struct plan_header header;
	struct stat st;

	*plan = (struct plan){0};
	TRY(checked(fstat(fd, &st)));
	if (!S_ISREG(st.st_mode) || st.st_size < (off_t)sizeof(header) ||
	    st.st_size > PLAN_MAX_BYTES)
		return -EINVAL;
	TRY(read_all(fd, &header, sizeof(header), 0));
	if (memcmp(header.magic, PLAN_MAGIC, sizeof(header.magic)) != 0)
		return -EINVAL;
	if (header.version != PLAN_VERSION)
		return -EPROTONOSUPPORT;
	if (header.total_bytes != st.st_size || header.list_room > header.total_bytes)
		return -EINVAL;
	if (header.flags & ~(uint32_t)PLAN_TERMINAL)
		return -EOPNOTSUPP;
	plan->clone_flags = header.clone_flags;
	plan->list_room = header.list_room;
	/* The lists of the operations stand behind them. */
	plan->bytes = calloc(1, header.total_bytes + (header.list_room + 1) * sizeof(char *));
	if (!plan->bytes)
		return -ENOMEM;
	plan->lists = (char **)(plan->bytes + (header.total_bytes | 7) + 1);
	TRY(read_all(fd, plan->bytes, header.total_bytes, 0));
	TRY(check_ops(plan, header.total_bytes, header.op_count));
	return check_spaces(plan);
}

void plan_free(struct plan *plan)
{
	struct op *op = NULL;

	while (plan->end && (op = next_op(plan, op)))
		close_fd(&op->tree);
	free(plan->bytes);
	*plan = (struct plan){0};
}
