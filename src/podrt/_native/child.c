/* The child: it executes its plan, one operation after the other, and becomes the program.
 * It allocates nothing; whatever goes wrong ends it with a report. */
#include "launch.h"

#include <poll.h>

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define DEFAULT_UMASK 022
#define PID_MARK "@PID@"
#define MAX_HOOK_WORDS 1024

const struct op_kind op_kinds[OP_COUNT] = {
#define OP(code, name, layout, source, act) [code] = {source, act, layout[0]},
#include "ops.h"
#undef OP
};

static void set_stage(struct child *child, uint32_t stage, const char *detail)
{
	child->detail = detail;
	__atomic_store_n(&child->launch->slot->stage, stage, __ATOMIC_RELEASE);
}

static int tell(const struct child *child, struct report report)
{
	return send_message(child->launch->report[1], &report, sizeof(report), NULL, 0, -1);
}

/* In the stage we are in. */
_Noreturn void child_die(const struct child *child, int error)
{
	const uint32_t stage = child->launch->slot->stage & ~STAGE_AT_EXEC;
	struct report report;
	const struct wire_head head = {
	    .type = MSG_FAILED, .version = WIRE_VERSION, .arg = -error, .a = stage};
	const char *detail = child->detail ? child->detail : "";

	set_report(&report, stage, -error, detail);
	if (child->peer >= 0)
		send_message(child->peer, &head, sizeof(head), detail, strlen(detail), -1);
	_exit(child->peer < 0 && tell(child, report) < 0 ? 2 : 1);
}

/* Operations of `code` whose turn is now and not where they stand. */
static bool is_out_of_turn(const struct op *op)
{
	return (op->code == OP_AFFINITY && op->flags & FLAG_INITIAL) ||
	       (op->code == OP_HOOKS && op->f[0].u == HOOK_START_CONTAINER);
}

static int run_out_of_turn(struct child *child, enum op_code code, operation *act)
{
	struct op op = {0};

	while (plan_has(child->plan, code) && next_op(child->plan, &op))
		if (op.code == code && is_out_of_turn(&op))
			TRY(act(child, &op));
	return 0;
}

/* Returns 0 when the monitor said go. A monitor that dies takes us with it (PDEATHSIG). */
static int wait_for_go(struct slot *slot)
{
	uint32_t seen = GO_NOT_YET;

	if (__atomic_compare_exchange_n(&slot->go, &seen, GO_AWAITED, false, __ATOMIC_ACQ_REL,
					__ATOMIC_ACQUIRE))
		seen = GO_AWAITED;
	while (seen != GO) {
		if (syscall(SYS_futex, &slot->go, FUTEX_WAIT, GO_AWAITED, NULL, NULL, 0) < 0 &&
		    errno != EAGAIN && errno != EINTR)
			return -errno;
		seen = __atomic_load_n(&slot->go, __ATOMIC_ACQUIRE);
	}
	return 0;
}

/* Our number and our parent's, as the monitor sees them. */
static pid_t read_stat(const struct child *child, pid_t *parent)
{
	char text[256] = "";
	const char *at;

	if (pread(child->stat, text, sizeof(text) - 1, 0) < 0)
		return -errno;
	at = strrchr(text, ')');
	*parent = at ? (pid_t)strtol(at + strlen(") S"), NULL, 10) : 0;
	return (pid_t)strtol(text, NULL, 10);
}

/* From here on a monitor that dies takes us with it. One that died before sends no signal: then
 * the parent is another by now. getppid() tells nothing across pid namespaces. */
static int follow_monitor(struct child *child)
{
	pid_t parent;

	TRY(checked(prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)));
	return read_stat(child, &parent) > 0 && parent != child->launch->monitor ? -ESRCH : 0;
}

/* Connected while its path can be seen. */
static int open_notify(struct child *child)
{
	struct sockaddr_un {
		sa_family_t family;
		char path[108];
	} address = {.family = AF_UNIX};

	child->detail = plan_str(child->plan, OP_NOTIFY, 0);
	if (strlen(child->detail) >= sizeof(address.path))
		return -ENAMETOOLONG;
	strcpy(address.path, child->detail);
	child->notify = checked(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	TRY(child->notify);
	return checked(connect(child->notify, (const struct sockaddr *)&address, sizeof(address)));
}

/* Root there; in the new user namespace nobody else is mapped to anything. One that was made by
 * others may forbid to change groups. */
static int become_root(struct child *child)
{
	int result = 0;

	child->detail = "user namespace";
	child->keeps_groups = child->plan->last[OP_IDMAP].f[2].u;
	if (!child->keeps_groups)
		result = K(setgroups, 0, NULL);
	if (result == -EPERM && !(child->plan->clone_flags & CLONE_NEWUSER))
		child->keeps_groups = true;
	else
		TRY(result);
	TRY(K(setresgid, 0, 0, 0));
	TRY(K(setresuid, 0, 0, 0));
	/* A change of user clears the signal. */
	return follow_monitor(child);
}

static int prepare(struct child *child)
{
	const struct launch *launch = child->launch;
	const struct plan *plan = child->plan;

	/* Before anything is opened or closed: until here the descriptors are the monitor's own. */
	if (launch->lean)
		TRY(k_close_range(KEEP_FDS, CLOSE_RANGE_UNSHARE));
	TRY(checked(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)));
	TRY(checked(prctl(PR_SET_NAME, "podrt-launch", 0, 0, 0)));
	TRY(checked(setsid()));
	child->detail = "monitor";
	child->stat = checked(open("/proc/self/stat", O_RDONLY | O_CLOEXEC));
	TRY(child->stat);
	TRY(follow_monitor(child));
	umask(0);
	TRY(checked(setrlimit(RLIMIT_NOFILE, &launch->files)));
	child->detail = "stdio";
	if (launch->out[1] >= 0) {
		if (!plan->is_foreign)
			TRY(launch_reopen(launch));
		TRY(checked(dup2(launch->out[1], STDOUT_FILENO)));
		TRY(checked(dup2(launch->err[1], STDERR_FILENO)));
	}
	child->detail = plan_str(plan, OP_SECCOMP, 1);
	if (child->detail) {
		child->filter = open(child->detail, O_RDONLY | O_CLOEXEC);
		TRY(checked(child->filter));
	}
	if (plan_has(plan, OP_NOTIFY))
		TRY(open_notify(child));
	child->detail = "CPU affinity";
	TRY(run_out_of_turn(child, OP_AFFINITY, op_call));
	child->detail = "cgroup";
	if (launch->joins || plan->is_foreign)
		TRY(wait_for_go(launch->slot));
	if ((launch->joins || launch->unified) && plan->clone_flags & CLONE_NEWCGROUP)
		TRY(checked(unshare(CLONE_NEWCGROUP)));
	return plan->is_foreign ? become_root(child) : 0;
}

int child_enter(struct child *child, const struct op *op)
{
	const struct held_ns *held = child->launch->held;
	cleanup_fd int fd = -1;

	child->detail = op->f[1].s;
	if (*op->f[1].s) {
		fd = open(op->f[1].s, O_RDONLY | O_CLOEXEC);
		return fd < 0 ? -errno : checked(setns(fd, (int)op->f[0].u));
	}
	for (int i = 0; held && i < ALL_KINDS; i++)
		if (held[i].type == op->f[0].u && held[i].fd >= 0)
			return checked(setns(held[i].fd, (int)held[i].type));
	return -ESRCH;
}

int op_setns(struct child *child, const struct op *op)
{
	/* Those were entered on the way here. */
	if (child->plan->by_helper && !(op->f[0].u & (CLONE_NEWNS | CLONE_NEWCGROUP)))
		return 0;
	TRY(child_enter(child, op));
	if (op->f[0].u != CLONE_NEWNS)
		return 0;
	child->root = checked(open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
	return child->root;
}

/* What the program inherits is settled before a filter could forbid the calls for it: no
 * descriptor but 0-2 and those of the plan, no blocked signal, its own umask and limits. The
 * monitor has already set every disposition to its default. */
int child_seal(struct child *child)
{
	if (child->is_sealed)
		return 0;
	child->is_sealed = true;
	umask(child->umask);
	TRY(k_close_range(STDERR_FILENO + 1 + child->plan->last[OP_STDIO].f[1].u,
			  CLOSE_RANGE_CLOEXEC));
	k_block_signals(0);
	return 0;
}

/* `text` with our number put in: only now is it known. */
int child_expand(const struct child *child, const char *text, char *room)
{
	pid_t parent, pid = read_stat(child, &parent);
	const char *mark;
	size_t used = 0;

	do {
		mark = strstr(text, PID_MARK);
		used += (size_t)snprintf(room + used, STATE_ROOM - used, "%.*s",
					 mark ? (int)(mark - text) : INT_MAX, text);
		if (mark && used < STATE_ROOM)
			used += (size_t)snprintf(room + used, STATE_ROOM - used, "%d", (int)pid);
		if (used >= STATE_ROOM)
			return -E2BIG;
		text = mark + strlen(PID_MARK);
	} while (mark);
	return (int)used;
}

static _Noreturn void become_hook(const struct op *op, int state)
{
	char *words[2][MAX_HOOK_WORDS];

	for (int i = 0; i < 2; i++) {
		struct list list = op->f[2 + i].l;

		if (list.count >= MAX_HOOK_WORDS)
			_exit(126);
		for (uint32_t n = 0; n <= op->f[2 + i].l.count; n++)
			words[i][n] = (char *)(uintptr_t)next_str(&list);
	}
	if (dup2(state, STDIN_FILENO) >= 0 && k_close_range(3, CLOSE_RANGE_CLOEXEC) == 0 &&
	    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) == 0) {
		k_block_signals(0);
		execve(op->f[1].s, words[0], words[1]);
	}
	_exit(errno == ENOENT ? 127 : 126);
}

/* Its state comes on stdin, which must not depend on its reading. Source: runtime-spec, "hooks". */
static int run_hook(struct child *child, const struct op *op)
{
	char room[STATE_ROOM];
	const int length = child_expand(child, op->f[5].s, room);
	const int limit_ms = op->f[4].u && op->f[4].u < 2000000 ? (int)op->f[4].u * 1000 : -1;
	int status = 0;

	child->detail = op->f[1].s;
	TRY(length);
	OPEN(state, checked(memfd_create("state", MFD_CLOEXEC)));
	TRY(write_all(state, room, (size_t)length));
	TRY(checked(lseek(state, 0, SEEK_SET)));
	pid_t pid = fork();
	if (pid == 0)
		become_hook(op, state);
	TRY(checked(pid));
	OPEN(watched, k_pidfd_open(pid));
	bool is_late = poll(&(struct pollfd){.fd = watched, .events = POLLIN}, 1, limit_ms) == 0;
	if (is_late)
		kill(pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	snprintf(child->note, sizeof(child->note), "%.110s ended with %s %d", op->f[1].s,
		 WIFSIGNALED(status) ? "signal" : "code",
		 WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	child->detail = child->note;
	return is_late ? -ETIMEDOUT : status ? -ECANCELED : 0;
}

/* Those of the host are run there, while we wait (a monitor runs none). */
int op_hook(struct child *child, const struct op *op)
{
	struct slot *slot = child->launch->slot;

	if (op->f[0].u == HOOK_RUNTIME && !child->launch->held) {
		TRY(wait_for_go(slot));
		__atomic_store_n(&slot->go, GO_NOT_YET, __ATOMIC_RELEASE);
		TRY(tell(child, (struct report){.stage = OP_HOOKS}));
		return wait_for_go(slot);
	}
	return op->f[0].u == HOOK_CREATE_CONTAINER ? run_hook(child, op) : -EINVAL;
}

/* Nobody watches us: the next RELEASE on a connection is the start. Who may connect, the socket's
 * directory says. */
static int await_start(struct child *child)
{
	while (true) {
		cleanup_fd int peer = accept4(child->launch->start, NULL, NULL, SOCK_CLOEXEC);
		struct wire_head head;
		bool is_cut;

		if (peer < 0 && errno != EINTR && errno != ECONNABORTED)
			return -errno;
		if (peer < 0 ||
		    receive_message(peer, &head, sizeof(head), NULL, &is_cut) != sizeof(head))
			continue;
		if (head.type == MSG_RELEASE && head.version == WIRE_VERSION) {
			child->peer = take_fd(&peer);
			return 0;
		}
	}
}

static int hold(struct child *child)
{
	struct slot *slot = child->launch->slot;
	const bool is_alone = child->launch->start >= 0;

	/* Whoever made us ends when it hears that we are ready. */
	if (is_alone)
		TRY(checked(prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0)));
	__atomic_store_n(&slot->go, GO_NOT_YET, __ATOMIC_RELEASE);
	TRY(tell(child, (struct report){0}));
	return is_alone ? await_start(child) : wait_for_go(slot);
}

/* Once, whoever comes first: the filter, which may forbid all this, or exec. */
int child_hold(struct child *child)
{
	if (child->peer >= 0)
		return 0;
	/* Once more: a change of user has cleared the signal. */
	TRY(follow_monitor(child));
	/* Not before the receipt is written: from here on we outlive the monitor. */
	TRY(wait_for_go(child->launch->slot));
	return child->launch->hold ? hold(child) : 0;
}

/* Source: execvp(3): a directory that cannot be searched does not end the search. */
static int exec_program(const struct plan *plan)
{
	const char *name = plan->argv[0], *at = DEFAULT_PATH;
	const bool searches = !strchr(name, '/');
	int result = -ENOENT;

	for (char **env = plan->envp; *env; env++) {
		if (strncmp(*env, "PATH=", 5) == 0) {
			at = *env + 5;
			break;
		}
	}
	while (*name) {
		char path[PATH_ROOM];
		size_t length = strcspn(at, ":");
		int n = snprintf(path, sizeof(path), "%.*s/%s", length ? (int)length : 1,
				 length ? at : ".", name);

		if (n < (int)sizeof(path) || !searches)
			execve(searches ? path : name, plan->argv, plan->envp);
		if (n >= (int)sizeof(path) && searches)
			return -ENAMETOOLONG;
		if (!searches || (errno != EACCES && errno != ENOENT && errno != ENOTDIR))
			return -errno;
		result = errno == EACCES ? -EACCES : result;
		if (!at[length])
			break;
		at += length + 1;
	}
	return result;
}

int op_exec(struct child *child, const struct op *op)
{
	const struct plan *plan = child->plan;

	(void)op;
	child->detail = plan->argv[0];
	TRY(child_seal(child));
	TRY(child_hold(child));
	set_stage(child, OP_HOOKS, NULL);
	TRY(run_out_of_turn(child, OP_HOOKS, run_hook));
	if (child->peer < 0)
		TRY(checked(prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0)));
	if (child->launch->lean)
		TRY(tell(child, (struct report){.stage = STAGE_AT_EXEC}));
	set_stage(child, OP_EXEC | STAGE_AT_EXEC, plan->argv[0]);
	return exec_program(plan);
}

struct child child_of(const struct launch *launch)
{
	return (struct child){
	    .launch = launch,
	    .plan = &launch->plan,
	    .tree = -1,
	    .root = -1,
	    .proc = -1,
	    .null = -1,
	    .blank = -1,
	    .filter = -1,
	    .notify = -1,
	    .stat = -1,
	    .peer = -1,
	    .umask = DEFAULT_UMASK,
	};
}

static int execute(struct child *child, const struct op *op)
{
	const struct op_kind *kind = &op_kinds[op->code];
	int result = 0;

	if (is_out_of_turn(op))
		return 0;
	set_stage(child, op->code, kind->first == 's' ? op->f[0].s : NULL);
	child->tree = child->plan->trees[op->number];
	if (kind->source && child->tree < 0)
		result = child->tree = kind->source(child, op);
	if (result >= 0 && kind->act)
		result = kind->act(child, op);
	close_fd(&child->tree);
	return result;
}

_Noreturn void child_main(const struct launch *launch)
{
	struct child child = child_of(launch);
	struct op op = {0};
	int result = prepare(&child);

	while (result >= 0)
		result = next_op(&launch->plan, &op) ? execute(&child, &op) : -EINVAL;
	child_die(&child, result);
}
