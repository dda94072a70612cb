/* Making the child: the side of the monitor, or of `podrt-monitor launch`. */
#include "launch.h"

/* Wakes the child only if it sleeps already: mostly it is still at work and just goes on. */
void launch_go(struct slot *slot)
{
	if (__atomic_exchange_n(&slot->go, GO, __ATOMIC_ACQ_REL) == GO_AWAITED)
		syscall(SYS_futex, &slot->go, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

int launch_fail(struct launch *launch, uint32_t stage, int error, const char *detail)
{
	launch->failure = failure_of(stage, -error, detail);
	return error;
}

struct launch launch_of(struct rlimit files)
{
	return (struct launch){
	    .files = files,
	    .monitor = getpid(),
	    .start = -1,
	    .home = -1,
	    .cgroup = -1,
	    .out = {-1, -1},
	    .err = {-1, -1},
	    .report = {-1, -1},
	};
}

/* NULL without memory. */
void *launch_shared(size_t bytes)
{
	void *room = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	return room == MAP_FAILED ? NULL : room;
}

void launch_stamp(const struct launch *launch, uint32_t stage)
{
	struct times *times = launch->times;

	if (times && times->count < MAX_STAMPS)
		times->at[times->count++] = (struct stamp){clock_ns(CLOCK_REALTIME), stage, 0};
}

#define OWN_MOUNTS "/proc/self/ns/mnt"

/* Mounts of ours reach nobody, nobody looks into us. Every disposition at its default and every
 * signal blocked: the children find the first when they unblock, and nothing but SIGKILL ends us.
 */
int launch_isolate(int *home)
{
	k_reset_signals();
	k_block_signals(~0ull);
	TRY(checked(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)));
	*home = checked(open(OWN_MOUNTS, O_RDONLY | O_CLOEXEC));
	TRY(*home);
	TRY(checked(unshare(CLONE_NEWNS)));
	return checked(mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL));
}

void launch_clean(struct launch *launch)
{
	plan_free(&launch->plan);
	close_fd(&launch->cgroup);
	for (int i = 0; i < 2; i++) {
		close_fd(&launch->out[i]);
		close_fd(&launch->err[i]);
		close_fd(&launch->report[i]);
	}
}

/* The write ends are opened anew for reading too: while a program holds one, a pipe whose monitor
 * died makes its writers wait; otherwise SIGPIPE would end them. */
int launch_reopen(const struct launch *launch)
{
	const int ends[] = {launch->out[1], launch->err[1]};

	for (int i = 0; i < 2; i++) {
		OPEN(fd, open_path(O_RDWR, "/proc/self/fd/%d", ends[i]));
		TRY(checked(dup3(fd, ends[i], O_CLOEXEC)));
	}
	return 0;
}

int launch_pipes(struct launch *launch)
{
	const int flags = O_CLOEXEC | O_NONBLOCK;
	const struct op *log = launch->plan.last[OP_LOG];
	const uid_t owner = log->f[2].u;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, launch->report))
		return -errno;
	if (!log->code)
		return 0;
	TRY(checked(pipe2(launch->out, flags)));
	TRY(checked(pipe2(launch->err, flags)));
	if (launch->plan.is_foreign)
		TRY(launch_reopen(launch));
	if (owner == 0)
		return 0;
	/* Its own output is the user's: /dev/stdout is opened again by many programs. */
	TRY(checked(fchown(launch->out[1], owner, (gid_t)-1)));
	return checked(fchown(launch->err[1], owner, (gid_t)-1));
}

static int write_maps(pid_t pid, const char *uid_map, const char *gid_map)
{
	TRY(*uid_map ? write_text(open_path(O_WRONLY, "/proc/%d/uid_map", (int)pid), uid_map) : 0);
	return *gid_map ? write_text(open_path(O_WRONLY, "/proc/%d/gid_map", (int)pid), gid_map)
			: 0;
}

/* A process that only waits to be killed, in new namespaces: they are opened through /proc. */
pid_t launch_idle(uint64_t flags, const char *uid_map, const char *gid_map)
{
	struct k_clone_args args = {.flags = flags, .exit_signal = SIGCHLD};
	pid_t pid = k_clone3(&args);
	int result;

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
		while (true)
			pause();
	}
	TRY(pid);
	result = write_maps(pid, uid_map, gid_map);
	if (result < 0)
		end_idle(pid);
	return result < 0 ? result : pid;
}

void end_idle(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/* What is mounted in it on either side appears on the other: it comes from where the host's
 * mounts are, not copies of them. There is no going on where we do not belong. */
static int source_shared(struct child *child, const struct op *op)
{
	OPEN(own, checked(open(OWN_MOUNTS, O_RDONLY | O_CLOEXEC)));
	TRY(checked(setns(child->launch->home, CLONE_NEWNS)));
	const int tree = source_bind(child, op);
	if (setns(own, CLONE_NEWNS) < 0)
		_exit(1);
	return tree;
}

/* What the child could not open itself: the host's files, from a user namespace; what needs a
 * user namespace, whose maps only its parent can write; and what is shared with the host. */
static int open_sources(struct launch *launch)
{
	struct child child = child_of(launch);
	struct op *op = NULL;

	while ((op = next_op(&launch->plan, op))) {
		operation *source = op_kinds[op->code].source;
		const bool is_mapped = (op->code == OP_BIND && *op->f[5].s) ||
				       (op->code == OP_ROOT_OVERLAY && *op->f[3].l);
		const bool is_shared = op->code == OP_BIND && op->f[4].u & BIND_SHARED_WITH_HOST;

		if (!source || op->code == OP_MOUNT ||
		    !(launch->plan.is_foreign || is_mapped || is_shared))
			continue;
		source = is_shared ? source_shared : source;
		child.detail = op->f[0].s;
		op->tree = source(&child, op);
		if (op->tree < 0)
			return launch_fail(launch, op->code, op->tree, child.detail);
	}
	return 0;
}

/* A process enters the cgroup namespace of its cgroup, not of its parent's: when it is moved,
 * or born elsewhere, it unshares afterwards. A new time namespace is for the next clone. */
static pid_t clone_child(struct launch *launch)
{
	struct k_clone_args args = {.flags = launch->plan.clone_flags & ~(uint64_t)CLONE_NEWTIME};
	pid_t pid;

	if (launch->joins || launch->unified)
		args.flags &= ~(uint64_t)CLONE_NEWCGROUP;
	if (launch->lean)
		args.flags |= CLONE_FILES;
	if (launch->plan.by_helper)
		args.flags |= CLONE_PARENT;
	else
		args.exit_signal = SIGCHLD;
	if (launch->unified) {
		args.flags |= K_CLONE_INTO_CGROUP;
		args.cgroup = (uint64_t)launch->cgroup;
		pid = k_clone3(&args);
		if (pid != -EINVAL && pid != -ENOSYS && pid != -EOPNOTSUPP && pid != -EBUSY)
			return pid;
		/* Such a cgroup can only be entered later, if at all: the write will tell. */
		launch->unified = false;
		launch->joins = true;
		args.flags &= ~K_CLONE_INTO_CGROUP;
	}
	return k_clone3(&args);
}

/* Some namespaces are only entered by the processes made afterwards, and from a user namespace
 * there is no way back: a process between us makes a sibling of its own. */
static _Noreturn void help(struct launch *launch)
{
	struct child child = child_of(launch);
	const struct op *op = NULL;
	int result = 0;
	pid_t pid;

	if (launch->plan.clone_flags & CLONE_NEWTIME)
		result = checked(unshare(CLONE_NEWTIME));
	while (result >= 0 && (op = next_op(&launch->plan, op))) {
		launch->slot->stage = op->code;
		/* Before the first process is in. Source: time_namespaces(7). */
		if (op->code == OP_TIMENS)
			result = write_text(open_path(O_WRONLY, "/proc/self/timens_offsets"),
					    op->f[0].s);
		else if (op->code == OP_SETNS && !(op->f[0].u & (CLONE_NEWNS | CLONE_NEWCGROUP)))
			result = child_enter(&child, op);
	}
	if (result < 0)
		child_die(&child, result);
	launch->slot->stage = STAGE_SETUP;
	pid = clone_child(launch);
	if (pid == 0)
		child_main(launch);
	launch->slot->pid = pid;
	/* Whether the child must be moved into its cgroup after all. */
	_exit(launch->joins);
}

static pid_t clone_by_helper(struct launch *launch)
{
	struct k_clone_args args = {.exit_signal = SIGCHLD};
	pid_t helper = k_clone3(&args);
	cleanup_fd int passed = -1;
	int status = 0;

	if (helper == 0)
		help(launch);
	TRY(helper);
	waitpid(helper, &status, 0);
	if (launch->slot->pid != 0) {
		launch->joins = WEXITSTATUS(status);
		launch->unified = !launch->joins && launch->unified;
		return launch->slot->pid;
	}
	if (hear(launch->report[0], &launch->failure, &passed) > 0 && launch->failure.head.arg > 0)
		return -launch->failure.head.arg;
	return -EIO;
}

/* The kernel stamps the child during the call: when both clocks around it show the same tick,
 * that is its start time, and /proc need not be read. */
int launch_clone(struct launch *launch)
{
	const uint64_t tick_ns = 1000000000u / (uint64_t)sysconf(_SC_CLK_TCK);
	uint64_t before_ns;

	launch_stamp(launch, STAGE_CLONE);
	TRY(open_sources(launch));
	before_ns = clock_ns(CLOCK_BOOTTIME);
	launch->pid = launch->plan.by_helper ? clone_by_helper(launch) : clone_child(launch);
	if (launch->pid == 0)
		child_main(launch);
	if (launch->pid < 0 && !launch->failure.head.arg)
		launch_fail(launch, STAGE_CLONE, launch->pid, NULL);
	TRY(launch->pid);
	launch->ticks = before_ns / tick_ns;
	if (launch->ticks != clock_ns(CLOCK_BOOTTIME) / tick_ns)
		start_ticks(launch->pid, &launch->ticks);
	return 0;
}

/* What only the parent may do for the child, before it goes on: cgroups, maps, OOM score. */
int launch_settle(struct launch *launch)
{
	const struct plan *plan = &launch->plan;
	const char *end = launch->dirs + launch->dirs_bytes;
	const char *score = plan_str(plan, OP_OOM_SCORE, 0);
	char text[16];
	int result = 0;

	snprintf(text, sizeof(text), "%d", (int)launch->pid);
	for (const char *at = launch->dirs; launch->joins && at < end; at += strlen(at) + 1) {
		result = write_text(open_path(O_WRONLY, "%s/cgroup.procs", at), text);
		if (result < 0)
			return launch_fail(launch, STAGE_CGROUP, result, at);
	}
	if (plan->clone_flags & CLONE_NEWUSER)
		result = write_maps(launch->pid, plan_str(plan, OP_IDMAP, 0),
				    plan_str(plan, OP_IDMAP, 1));
	if (result < 0)
		return launch_fail(launch, OP_IDMAP, result, plan_str(plan, OP_IDMAP, 0));
	if (score)
		result = write_text(open_path(O_WRONLY, "/proc/%d/oom_score_adj", (int)launch->pid),
				    score);
	return result < 0 ? launch_fail(launch, OP_OOM_SCORE, result, "oom_score_adj") : 0;
}
