#include "plan.h"

#define ALLOWED_CLONE_FLAGS                                                                        \
	((uint32_t)(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWCGROUP | CLONE_NEWNET | CLONE_NEWIPC |   \
		    CLONE_NEWUTS | CLONE_NEWUSER | CLONE_NEWTIME))

static const char *const layouts[OP_COUNT] = {
#define OP(code, name, layout, ...) [code] = (layout),
#include "ops.h"
#undef OP
};

static bool skip(struct reader *from, uint64_t bytes)
{
	if (bytes > (size_t)(from->end - from->at))
		return false;
	from->at += bytes;
	return true;
}

static bool take(struct reader *from, void *to, size_t bytes)
{
	const uint8_t *at = from->at;

	if (!skip(from, bytes))
		return false;
	memcpy(to, at, bytes);
	return true;
}

static bool take_str(struct reader *from, const char **text)
{
	uint32_t length;

	if (!take(from, &length, sizeof(length)))
		return false;
	*text = (const char *)from->at;
	return skip(from, (uint64_t)length + 1) &&
	       memchr(*text, '\0', (size_t)length + 1) == *text + length;
}

static bool take_list(struct reader *from, struct list *list, char kind)
{
	const char *text;

	if (!take(from, &list->count, sizeof(list->count)))
		return false;
	list->items = *from;
	if (kind != 'l')
		return skip(from, (uint64_t)list->count * (kind == 'g' ? 4 : 1));
	for (uint32_t i = 0; i < list->count; i++)
		if (!take_str(from, &text))
			return false;
	return true;
}

static bool take_field(struct reader *from, union field *field, char kind)
{
	switch (kind) {
	case 'u':
		return take(from, &field->u, sizeof(field->u));
	case 'q':
		return take(from, &field->q, sizeof(field->q));
	case 's':
		return take_str(from, &field->s);
	default:
		return take_list(from, &field->l, kind);
	}
}

const char *next_str(struct list *list)
{
	const char *text = NULL;

	return list->count && list->count-- && take_str(&list->items, &text) ? text : NULL;
}

bool next_op(const struct plan *plan, struct op *op)
{
	struct reader payload;
	struct op_head head;

	if (op->number == 0)
		op->rest = (struct reader){plan->bytes + sizeof(struct plan_header),
					   plan->bytes + plan->size};
	payload = op->rest;
	if (!take(&payload, &head, sizeof(head)) || head.code >= OP_COUNT || !layouts[head.code])
		return false;
	if (head.bytes < sizeof(head) || head.bytes % 8 || !skip(&op->rest, head.bytes))
		return false;
	payload.end = op->rest.at;
	op->code = head.code;
	op->flags = head.flags;
	op->number++;
	for (int i = 0; layouts[head.code][i]; i++)
		if (!take_field(&payload, &op->f[i], layouts[head.code][i]))
			return false;
	if (payload.end - payload.at >= 8)
		return false;
	while (payload.at < payload.end)
		if (*payload.at++ != 0)
			return false;
	return true;
}

static int fill_strings(char ***strings, struct list list)
{
	*strings = calloc((size_t)list.count + 1, sizeof(char *));
	if (!*strings)
		return -ENOMEM;
	/* execve wants char *, and changes nothing. */
	for (char **at = *strings; list.count; at++)
		*at = (char *)(uintptr_t)next_str(&list);
	return 0;
}

static int check_ops(struct plan *plan)
{
	struct op op = {0};

	while (op.code != OP_EXEC && next_op(plan, &op)) {
		plan->last[op.code] = op;
		plan->joins |= op.code == OP_SETNS ? op.f[0].u : 0;
	}
	/* EXEC is the last one, has arguments, and there is nothing behind it. */
	if (op.rest.at != op.rest.end || op.number != plan->op_count || !plan_has(plan, OP_EXEC) ||
	    op.f[0].l.count == 0)
		return -EINVAL;
	TRY(fill_strings(&plan->argv, op.f[0].l));
	TRY(fill_strings(&plan->envp, op.f[1].l));
	plan->trees = malloc(((size_t)op.number + 1) * sizeof(int));
	if (!plan->trees)
		return -ENOMEM;
	memset(plan->trees, 0xff, ((size_t)op.number + 1) * sizeof(int));
	return 0;
}

static int check_spaces(struct plan *plan)
{
	const uint32_t all = plan->clone_flags | plan->joins;
	const uint32_t on_the_way = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWTIME;

	/* Without a mount namespace of its own the child would mount into the monitor's. */
	if (all & ~ALLOWED_CLONE_FLAGS || !(all & CLONE_NEWNS))
		return -EINVAL;
	if ((plan->clone_flags & CLONE_NEWUSER && !plan_has(plan, OP_IDMAP)) ||
	    plan->last[OP_STDIO].f[1].u > INT_MAX / 2)
		return -EINVAL;
	if (plan_has(plan, OP_TIMENS) && !(plan->clone_flags & CLONE_NEWTIME))
		return -EINVAL;
	plan->is_foreign = all & CLONE_NEWUSER;
	plan->by_helper = plan->joins & on_the_way || plan->clone_flags & CLONE_NEWTIME ||
			  (plan->is_foreign && plan->joins);
	return 0;
}

static int check_plan(struct plan *plan)
{
	struct plan_header header;

	memcpy(&header, plan->bytes, sizeof(header));
	if (memcmp(header.magic, PLAN_MAGIC, sizeof(header.magic)) != 0)
		return -EINVAL;
	/* Every later version only added to the first. */
	if (header.version < 1 || header.version > PLAN_VERSION)
		return -EPROTONOSUPPORT;
	if (header.total_bytes != plan->size || header.reserved != 0)
		return -EINVAL;
	if (header.flags & ~(uint32_t)PLAN_TERMINAL)
		return -EOPNOTSUPP;
	plan->op_count = header.op_count;
	plan->clone_flags = header.clone_flags;
	TRY(check_ops(plan));
	return check_spaces(plan);
}

int plan_load(struct plan *plan, int fd)
{
	struct stat st;

	*plan = (struct plan){0};
	TRY(checked(fstat(fd, &st)));
	if (!S_ISREG(st.st_mode) || st.st_size < (off_t)sizeof(struct plan_header) ||
	    st.st_size > PLAN_MAX_BYTES)
		return -EINVAL;
	plan->size = (size_t)st.st_size;
	plan->bytes = malloc(plan->size);
	if (!plan->bytes)
		return -ENOMEM;
	TRY(read_all(fd, plan->bytes, plan->size, 0));
	return check_plan(plan);
}

void plan_free(struct plan *plan)
{
	for (uint32_t i = 0; plan->trees && i <= plan->op_count; i++)
		close_fd(&plan->trees[i]);
	free(plan->trees);
	free(plan->argv);
	free(plan->envp);
	free(plan->bytes);
	*plan = (struct plan){0};
}
