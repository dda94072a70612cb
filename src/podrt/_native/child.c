/* The child: it executes its plan, one operation after the other, and becomes the program.
 * It allocates nothing; whatever goes wrong ends it with a report. */
#include "launch.h"

#include <poll.h>

const struct op_kind op_kinds[OP_COUNT] = {
#define OP(code, name, layout, source, act) [code] = {source, act},
#include "ops.h"
#undef OP
};

static void set_stage(struct child *child, uint32_t stage, const char *detail)
{
	child->detail = detail;
	launch_stamp(child->launch, stage & ~STAGE_AT_EXEC);
	__atomic_store_n(&child->launch->slot->stage, stage, __ATOMIC_RELEASE);
}

static int tell(const struct child *child, uint16_t type)
{
	return say(child->launch->report[1], (struct wire_head){.type = type}, "", -1);
}

/* In the stage we are in. */
_Noreturn void child_die(const struct child *child, int error)
{
	const uint32_t stage = child->launch->slot->stage & ~STAGE_AT_EXEC;
	const struct message failure = failure_of(stage, -error, child->detail);
	const int whom = child->peer < 0 ? child->launch->report[1] : child->peer;

	_exit(say(whom, failure.head, failure.body, -1) < 0 ? 2 : 1);
}

/* Returns 0 when the monitor said go. A monitor that dies takes us with it (PDEATHSIG). */
int wait_for_go(struct slot *slot)
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
	uint64_t fields[STAT_FIELDS];
	char text[1024] = "";

	TRY(pread(child->stat, text, sizeof(text) - 1, 0) < 0 ? -errno : 0);
	TRY(parse_stat(text, fields));
	*parent = (pid_t)fields[PARENT_FIELD];
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
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	child->detail = plan_str(child->plan, OP_NOTIFY, 0);
	if (strlen(child->detail) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	strcpy(address.sun_path, child->detail);
	child->notify = checked(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	TRY(child->notify);
	return checked(connect(child->notify, (const struct sockaddr *)&address, sizeof(address)));
}

/* Root there; in the new user namespace nobody else is mapped to anything. One that was made by
 * others may forbid to change groups. */
static int become_root(struct child *child)
{
	int result;

	child->detail = "user namespace";
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
	if (plan_has(plan, OP_FIRST_AFFINITY))
		TRY(op_call(child, plan->last[OP_FIRST_AFFINITY]));
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
int op_seal(struct child *child, const struct op *op)
{
	umask(op->f[0].u & 0777);
	TRY(k_close_range(STDERR_FILENO + 1 + child->plan->last[OP_STDIO]->f[1].u,
			  CLOSE_RANGE_CLOEXEC));
	k_block_signals(0);
	return 0;
}

/* The texts with our number between them: only now is it known. */
int child_expand(const struct child *child, char *const *texts, char *room)
{
	pid_t parent, pid = read_stat(child, &parent);
	int used = 0;

	for (; *texts && used < STATE_ROOM; texts++) {
		used += snprintf(room + used, (size_t)(STATE_ROOM - used), "%s", *texts);
		if (texts[1] && used < STATE_ROOM)
			used += snprintf(room + used, (size_t)(STATE_ROOM - used), "%d", (int)pid);
	}
	return used < STATE_ROOM ? used : -E2BIG;
}

static _Noreturn void become_hook(const struct op *op, int state)
{
	if (dup2(state, STDIN_FILENO) >= 0 && k_close_range(3, CLOSE_RANGE_CLOEXEC) == 0 &&
	    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) == 0) {
		k_block_signals(0);
		execve(op->f[0].s, op->f[1].l, op->f[2].l);
	}
	_exit(errno == ENOENT ? 127 : 126);
}

/* Its state comes on stdin, which must not depend on its reading. Source: runtime-spec, "hooks". */
static int run_hook(struct child *child, const struct op *op)
{
	char room[STATE_ROOM];
	const int length = child_expand(child, op->f[4].l, room);
	const int limit_ms = op->f[3].u && op->f[3].u < 2000000 ? (int)op->f[3].u * 1000 : -1;
	int status = 0;

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
	snprintf(child->note, sizeof(child->note), "%.110s ended with %s %d", op->f[0].s,
		 WIFSIGNALED(status) ? "signal" : "code",
		 WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	child->detail = child->note;
	return is_late ? -ETIMEDOUT : status ? -ECANCELED : 0;
}

/* Those of the host are run there, while we wait (a monitor runs none). */
int op_hook(struct child *child, const struct op *op)
{
	struct slot *slot = child->launch->slot;

	if (!(op->flags & FLAG_OF_HOST))
		return run_hook(child, op);
	TRY(child->launch->held ? -EINVAL : wait_for_go(slot));
	__atomic_store_n(&slot->go, GO_NOT_YET, __ATOMIC_RELEASE);
	TRY(tell(child, MSG_OK));
	return wait_for_go(slot);
}

/* Nobody watches us: the next RELEASE on a connection is the start. Who may connect, the socket's
 * directory says. */
static int await_start(struct child *child)
{
	while (true) {
		cleanup_fd int peer = accept4(child->launch->start, NULL, NULL, SOCK_CLOEXEC);

		if (peer < 0 && errno != EINTR && errno != ECONNABORTED)
			return -errno;
		if (peer >= 0 && await_release(peer) == 0) {
			child->peer = take_fd(&peer);
			return 0;
		}
	}
}

int op_hold(struct child *child, const struct op *op)
{
	const struct launch *launch = child->launch;
	const bool is_alone = launch->start >= 0;

	/* Once more: a change of user has cleared the signal. */
	TRY(follow_monitor(child));
	/* Not before the receipt is written: from here on we outlive the monitor. */
	TRY(wait_for_go(launch->slot));
	if (!launch->hold)
		return 0;
	/* Whoever made us ends when it hears that we are ready. */
	if (is_alone)
		TRY(checked(prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0)));
	__atomic_store_n(&launch->slot->go, GO_NOT_YET, __ATOMIC_RELEASE);
	TRY(tell(child, MSG_CREATED));
	return is_alone ? await_start(child) : wait_for_go(launch->slot);
}

/* Arguments, environment, where the program may be.
 * Source: execvp(3): a directory that cannot be searched does not end the search. */
int op_exec(struct child *child, const struct op *op)
{
	int result = -ENOENT;

	child->detail = *op->f[0].l;
	if (child->peer < 0)
		TRY(checked(prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0)));
	if (child->launch->lean)
		TRY(tell(child, MSG_STARTED));
	set_stage(child, OP_EXEC | STAGE_AT_EXEC, child->detail);
	for (char **path = op->f[2].l; *path; path++) {
		execve(*path, op->f[0].l, op->f[1].l);
		if (errno == EACCES)
			result = -EACCES;
		else if (errno != ENOENT && errno != ENOTDIR)
			return -errno;
	}
	return result;
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
	};
}

static int execute(struct child *child, const struct op *op)
{
	const struct op_kind *kind = &op_kinds[op->code];
	int result = 0;

	set_stage(child, op->code, *op_layouts[op->code] == 's' ? op->f[0].s : NULL);
	child->tree = op->tree;
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
	const struct op *op = NULL;
	int result;

	launch_stamp(launch, STAGE_SETUP);
	result = prepare(&child);

	while (result >= 0 && (op = next_op(&launch->plan, op)))
		result = execute(&child, op);
	child_die(&child, result);
}
