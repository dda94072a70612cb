#include "plan.h"

#define ALLOWED_CLONE_FLAGS                                                                        \
	((uint32_t)(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWCGROUP | CLONE_NEWNET | CLONE_NEWIPC |   \
		    CLONE_NEWUTS))

/* The fields of each operation: u32 u, u64 q, string s, list of strings l, list of u32 g. */
static const char *const layouts[OP_COUNT] = {
    [OP_SETNS] = "us",       [OP_ROOT_OVERLAY] = "lssl",
    [OP_ROOT_BIND] = "s",    [OP_MOUNT] = "sssql",
    [OP_BIND] = "ssqqu",     [OP_POD_SHM] = "s",
    [OP_DEVICE] = "suuuuuu", [OP_SYMLINK] = "ss",
    [OP_MASK] = "s",         [OP_READONLY] = "s",
    [OP_PIVOT] = "",         [OP_HOSTNAME] = "s",
    [OP_DOMAINNAME] = "s",   [OP_SYSCTL] = "ss",
    [OP_RLIMIT] = "uqq",     [OP_OOM_SCORE] = "u",
    [OP_UMASK] = "u",        [OP_USER] = "uug",
    [OP_CAPS] = "qqqqq",     [OP_NO_NEW_PRIVS] = "",
    [OP_SECCOMP] = "us",     [OP_KEYRING] = "s",
    [OP_CWD] = "s",          [OP_EXEC] = "ll",
    [OP_LOG] = "sq",         [OP_PROPAGATION] = "q",
};

uint32_t take_u32(struct reader *from)
{
	uint32_t value;

	memcpy(&value, from->at, sizeof(value));
	from->at += sizeof(value);
	return value;
}

uint64_t take_u64(struct reader *from)
{
	uint64_t value;

	memcpy(&value, from->at, sizeof(value));
	from->at += sizeof(value);
	return value;
}

const char *take_str(struct reader *from)
{
	uint32_t length = take_u32(from);
	const char *text = (const char *)from->at;

	from->at += (size_t)length + 1;
	return text;
}

struct list take_list(struct reader *from)
{
	struct list list = {.count = take_u32(from), .items = *from};

	for (uint32_t i = 0; i < list.count; i++)
		take_str(from);
	list.items.end = from->at;
	return list;
}

static size_t left(const struct reader *from)
{
	return (size_t)(from->end - from->at);
}

static bool skip(struct reader *from, uint64_t bytes)
{
	if (bytes > left(from))
		return false;
	from->at += bytes;
	return true;
}

static bool check_u32(struct reader *from, uint32_t *value)
{
	if (left(from) < sizeof(*value))
		return false;
	*value = take_u32(from);
	return true;
}

static bool check_str(struct reader *from)
{
	uint32_t length;
	const uint8_t *text;

	if (!check_u32(from, &length))
		return false;
	text = from->at;
	if (!skip(from, (uint64_t)length + 1))
		return false;
	return memchr(text, '\0', (size_t)length + 1) == text + length;
}

static bool check_list(struct reader *from)
{
	uint32_t count;

	if (!check_u32(from, &count))
		return false;
	for (; count > 0; count--)
		if (!check_str(from))
			return false;
	return true;
}

static bool check_field(struct reader *from, char kind)
{
	uint32_t count;

	switch (kind) {
	case 'u':
		return skip(from, 4);
	case 'q':
		return skip(from, 8);
	case 's':
		return check_str(from);
	case 'l':
		return check_list(from);
	default: /* 'g' */
		return check_u32(from, &count) && skip(from, (uint64_t)count * 4);
	}
}

static bool check_payload(struct reader from, const char *layout)
{
	for (; *layout; layout++)
		if (!check_field(&from, *layout))
			return false;
	if (left(&from) >= 8)
		return false;
	for (; from.at < from.end; from.at++)
		if (*from.at != 0)
			return false;
	return true;
}

struct reader plan_ops(const struct plan *plan)
{
	struct plan_header header;
	const uint8_t *start = plan->bytes;

	memcpy(&header, start, sizeof(header));
	return (struct reader){start + sizeof(header), start + header.total_bytes};
}

bool take_op(struct reader *ops, struct op_head *head, struct reader *payload)
{
	if (ops->at >= ops->end)
		return false;
	memcpy(head, ops->at, sizeof(*head));
	payload->at = ops->at + sizeof(*head);
	payload->end = ops->at + head->bytes;
	ops->at = payload->end;
	return true;
}

static int fill_strings(char ***strings, struct list list)
{
	*strings = calloc((size_t)list.count + 1, sizeof(char *));
	if (!*strings)
		return -ENOMEM;
	/* execve wants char *, and changes nothing. */
	for (uint32_t i = 0; i < list.count; i++)
		(*strings)[i] = (char *)(uintptr_t)take_str(&list.items);
	return 0;
}

static int note_exec(struct plan *plan, struct reader payload)
{
	struct list argv = take_list(&payload);
	struct list envp = take_list(&payload);
	int result;

	if (argv.count == 0)
		return -EINVAL;
	result = fill_strings(&plan->argv, argv);
	return result < 0 ? result : fill_strings(&plan->envp, envp);
}

static void note_setns(struct plan *plan, struct reader payload)
{
	uint32_t type = take_u32(&payload);
	const char *path = take_str(&payload);

	if (!*path)
		plan->held_ns |= type;
	else if (type == CLONE_NEWPID)
		plan->pid_ns = path;
}

/* What the monitor itself has to know of an operation. */
static int note_op(struct plan *plan, const struct op_head *head, struct reader payload)
{
	plan->seen |= 1u << head->code;
	switch (head->code) {
	case OP_LOG:
		plan->log_path = take_str(&payload);
		plan->log_max_bytes = take_u64(&payload);
		return 0;
	case OP_SECCOMP:
		take_u32(&payload);
		plan->filter_path = take_str(&payload);
		return 0;
	case OP_SETNS:
		note_setns(plan, payload);
		return 0;
	case OP_CWD:
		plan->new_cwd = head->flags & 1 ? take_str(&payload) : NULL;
		return 0;
	case OP_EXEC:
		return note_exec(plan, payload);
	default:
		return 0;
	}
}

static int check_ops(struct plan *plan, struct reader ops)
{
	struct op_head head = {0};
	struct reader payload;
	int result;

	for (uint32_t i = 0; i < plan->op_count; i++) {
		if (left(&ops) < sizeof(head))
			return -EINVAL;
		memcpy(&head, ops.at, sizeof(head));
		if (head.bytes < sizeof(head) || head.bytes % 8 || head.bytes > left(&ops))
			return -EINVAL;
		if (head.code == 0 || head.code >= OP_COUNT || plan->argv)
			return -EINVAL;
		take_op(&ops, &head, &payload);
		if (!check_payload(payload, layouts[head.code]))
			return -EINVAL;
		result = note_op(plan, &head, payload);
		if (result < 0)
			return result;
	}
	/* EXEC is the last one, and there is nothing behind it. */
	return plan->argv && left(&ops) == 0 ? 0 : -EINVAL;
}

static int check_plan(struct plan *plan, size_t bytes)
{
	struct plan_header header;

	memcpy(&header, plan->bytes, sizeof(header));
	if (memcmp(header.magic, PLAN_MAGIC, sizeof(header.magic)) != 0)
		return -EINVAL;
	if (header.version != PLAN_VERSION)
		return -EPROTONOSUPPORT;
	if (header.total_bytes != bytes || header.reserved != 0)
		return -EINVAL;
	if (header.clone_flags & ~ALLOWED_CLONE_FLAGS)
		return -EINVAL;
	/* Without a mount namespace of its own the child would mount into the monitor's. */
	if (!(header.clone_flags & CLONE_NEWNS))
		return -EINVAL;
	if (header.flags != 0)
		return -EOPNOTSUPP;
	plan->op_count = header.op_count;
	plan->clone_flags = header.clone_flags;
	return check_ops(plan, plan_ops(plan));
}

int plan_load(struct plan *plan, int fd)
{
	struct stat st;
	int result;

	*plan = (struct plan){0};
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	if (st.st_size < (off_t)sizeof(struct plan_header) || st.st_size > PLAN_MAX_BYTES)
		return -EINVAL;
	plan->bytes = malloc((size_t)st.st_size);
	if (!plan->bytes)
		return -ENOMEM;
	result = read_all(fd, plan->bytes, (size_t)st.st_size, 0);
	return result < 0 ? result : check_plan(plan, (size_t)st.st_size);
}

void plan_free(struct plan *plan)
{
	free(plan->argv);
	free(plan->envp);
	free(plan->bytes);
	*plan = (struct plan){0};
}
