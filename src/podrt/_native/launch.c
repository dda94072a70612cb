/* Making the child: the side of the monitor, or of `podrt-monitor launch`. */
#include "launch.h"

/* Wakes the child only if it sleeps already: mostly it is still at work and just goes on. */
void launch_go(struct slot *slot)
{
	if (__atomic_exchange_n(&slot->go, GO, __ATOMIC_ACQ_REL) == GO_AWAITED)
		syscall(SYS_futex, &slot->go, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

void set_report(struct report *report, uint32_t stage, int error, const char *detail)
{
	*report = (struct report){.stage = stage, .error = error};
	snprintf(report->detail, sizeof(report->detail), "%s", detail ? detail : "");
}

int launch_fail(struct launch *launch, uint32_t stage, int error, const char *detail)
{
	set_report(&launch->failure, stage, -error, detail);
	return error;
}

struct launch launch_of(struct rlimit files)
{
	return (struct launch){
	    .files = files,
	    .monitor = getpid(),
	    .start = -1,
	    .cgroup = -1,
	    .out = {-1, -1},
	    .err = {-1, -1},
	    .report = {-1, -1},
	};
}

/* NULL without memory. */
struct slot *launch_slots(size_t count)
{
	void *slots = mmap(NULL, count * sizeof(struct slot), PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	return slots == MAP_FAILED ? NULL : slots;
}

/* Mounts of ours reach nobody, nobody looks into us. Every disposition at its default and every
 * signal blocked: the children find the first when they unblock, and nothing but SIGKILL ends us.
 */
int launch_isolate(void)
{
	k_reset_signals();
	k_block_signals(~0ull);
	TRY(checked(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)));
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

/* The number outside of `id` inside; one that is not mapped stays. */
uint32_t map_id(const char *map, uint32_t id)
{
	char *end = (char *)(uintptr_t)map;

	while (end && *end) {
		uint64_t inner = strtoull(end, &end, 10), outer = strtoull(end, &end, 10);
		uint64_t count = strtoull(end, &end, 10);

		if (id >= inner && id - inner < count)
			return (uint32_t)(outer + id - inner);
		end = strchr(end, '\n');
		end = end ? end + 1 : NULL;
	}
	return id;
}

/* The write ends are opened anew for reading too: while a program holds one, a pipe whose monitor
 * died makes its writers wait; otherwise SIGPIPE would end them. */
int launch_reopen(const struct launch *launch)
{
	const int ends[] = {launch->out[1], launch->err[1]};
	char path[32];

	for (int i = 0; i < 2; i++) {
		cleanup_fd int fd = -1;

		snprintf(path, sizeof(path), "/proc/self/fd/%d", ends[i]);
		fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd < 0 || dup3(fd, ends[i], O_CLOEXEC) < 0)
			return -errno;
	}
	return 0;
}

int launch_pipes(struct launch *launch)
{
	const int flags = O_CLOEXEC | O_NONBLOCK;
	const struct plan *plan = &launch->plan;
	uint32_t owner = map_id(plan_str(plan, OP_IDMAP, 0), plan->last[OP_USER].f[0].u);

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, launch->report))
		return -errno;
	if (!plan_has(plan, OP_LOG))
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

/* uid map, gid map, whether setgroups is denied */
static int write_maps(pid_t pid, const union field *maps)
{
	const char *const texts[] = {maps[2].u ? "deny" : "", maps[0].s, maps[1].s};
	const char *const names[] = {"setgroups", "uid_map", "gid_map"};
	char path[48];

	for (int i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, names[i]);
		if (*texts[i])
			TRY(write_file(path, texts[i]));
	}
	return 0;
}

/* A process that only waits to be killed, in new namespaces: they are opened through /proc. */
pid_t launch_idle(uint64_t flags, const char *uid_map, const char *gid_map)
{
	struct k_clone_args args = {.flags = flags, .exit_signal = SIGCHLD};
	const union field maps[] = {{.s = uid_map}, {.s = gid_map}, {.u = 0}};
	pid_t pid = k_clone3(&args);
	int result;

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
		while (true)
			pause();
	}
	TRY(pid);
	result = write_maps(pid, maps);
	if (result < 0)
		end_idle(pid);
	return result < 0 ? result : pid;
}

void end_idle(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/* What the child could not open itself: the host's files, from a user namespace; and what needs
 * a user namespace, whose maps only its parent can write. */
static int open_sources(struct launch *launch)
{
	const struct plan *plan = &launch->plan;
	struct child child = child_of(launch);
	struct op op = {0};

	while (next_op(plan, &op)) {
		const bool is_root = op.code == OP_ROOT_OVERLAY || op.code == OP_ROOT_BIND;
		const bool is_mapped =
		    op.code == OP_IDMAP_BIND || (is_root && op.flags & FLAG_MAPPED);
		int *tree = &plan->trees[op.number];

		if (!op_kinds[op.code].source || op.code == OP_MOUNT ||
		    !(plan->is_foreign || is_mapped))
			continue;
		child.detail = op_kinds[op.code].first == 's' ? op.f[0].s : NULL;
		*tree = op_kinds[op.code].source(&child, &op);
		if (*tree < 0)
			return launch_fail(launch, op.code, *tree, child.detail);
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

/* Offsets must be written before the first process is in. Source: time_namespaces(7). */
static int add_offset(const struct op *op)
{
	char text[80];

	snprintf(text, sizeof(text), "%u %lld %u\n", op->f[0].u, (long long)op->f[1].q, op->f[2].u);
	return write_file("/proc/self/timens_offsets", text);
}

/* Some namespaces are only entered by the processes made afterwards, and from a user namespace
 * there is no way back: a process between us makes a sibling of its own. */
static _Noreturn void help(struct launch *launch)
{
	struct child child = child_of(launch);
	struct op op = {0};
	int result = 0;
	pid_t pid;

	if (launch->plan.clone_flags & CLONE_NEWTIME)
		result = checked(unshare(CLONE_NEWTIME));
	while (result >= 0 && next_op(&launch->plan, &op)) {
		launch->slot->stage = op.code;
		if (op.code == OP_TIMENS)
			result = add_offset(&op);
		else if (op.code == OP_SETNS && !(op.f[0].u & (CLONE_NEWNS | CLONE_NEWCGROUP)))
			result = child_enter(&child, &op);
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
	struct report report;
	bool is_cut;
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
	if (receive_message(launch->report[0], &report, sizeof(report), NULL, &is_cut) !=
	    sizeof(report))
		return -EIO;
	return launch_fail(launch, report.stage, -report.error, report.detail);
}

/* The kernel stamps the child during the call: when both clocks around it show the same tick,
 * that is its start time, and /proc need not be read. */
int launch_clone(struct launch *launch)
{
	const uint64_t tick_ns = 1000000000u / (uint64_t)sysconf(_SC_CLK_TCK);
	uint64_t before_ns;

	TRY(open_sources(launch));
	before_ns = clock_ns(CLOCK_BOOTTIME);
	launch->pid = launch->plan.by_helper ? clone_by_helper(launch) : clone_child(launch);
	if (launch->pid == 0)
		child_main(launch);
	if (launch->pid < 0 && !launch->failure.error)
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
	char path[PATH_ROOM], text[16];
	int result = 0;

	snprintf(text, sizeof(text), "%d", (int)launch->pid);
	for (const char *at = launch->dirs; launch->joins && at < end; at += strlen(at) + 1) {
		int n = snprintf(path, sizeof(path), "%s/cgroup.procs", at);

		result = n < (int)sizeof(path) ? write_file(path, text) : -ENAMETOOLONG;
		if (result < 0)
			return launch_fail(launch, STAGE_CGROUP, result, at);
	}
	if (plan->clone_flags & CLONE_NEWUSER)
		result = write_maps(launch->pid, plan->last[OP_IDMAP].f);
	if (result < 0)
		return launch_fail(launch, OP_IDMAP, result, plan_str(plan, OP_IDMAP, 0));
	if (plan_has(plan, OP_OOM_SCORE)) {
		snprintf(path, sizeof(path), "/proc/%d/oom_score_adj", (int)launch->pid);
		snprintf(text, sizeof(text), "%d", (int)plan->last[OP_OOM_SCORE].f[0].u);
		result = write_file(path, text);
	}
	return result < 0 ? launch_fail(launch, OP_OOM_SCORE, result, "oom_score_adj") : 0;
}
