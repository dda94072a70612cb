/* The child: it executes its plan, one operation after the other, and becomes the program.
 * It allocates nothing; whatever goes wrong ends it over the report pipe. */
#include "launch.h"

#include <linux/futex.h>

#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC 4u
#endif
#ifndef CLOSE_RANGE_UNSHARE
#define CLOSE_RANGE_UNSHARE 2u
#endif
#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define DEFAULT_UMASK 022

static void set_stage(const struct child *child, uint32_t stage)
{
	__atomic_store_n(&child->launch->slot->stage, stage, __ATOMIC_RELEASE);
}

static _Noreturn void die(const struct child *child, uint32_t stage, int error)
{
	struct report report = {.stage = stage, .error = -error};

	if (child->detail)
		snprintf(report.detail, sizeof(report.detail), "%s", child->detail);
	/* A pipe write of this size is whole or not at all. */
	if (write(child->launch->report[1], &report, sizeof(report)) < 0)
		_exit(2);
	_exit(1);
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

/* The write end is opened anew for reading too: while a program holds it, a pipe whose monitor
 * died makes its writers wait; otherwise SIGPIPE would end them. */
static int open_output(int pipe_fd, int as)
{
	char path[32];
	cleanup_fd int fd = -1;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", pipe_fd);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0 || dup2(fd, as) < 0)
		return -errno;
	return 0;
}

static int open_stdio(const struct launch *launch)
{
	int result;

	if (!launch->plan.log_path)
		return 0;
	result = open_output(launch->out[1], STDOUT_FILENO);
	return result < 0 ? result : open_output(launch->err[1], STDERR_FILENO);
}

/* From here on a monitor that dies takes us with it. One that died before sends no signal: then
 * the parent is another by now. getppid() tells nothing across pid namespaces. */
static int follow_monitor(struct child *child)
{
	char text[256] = "";
	const char *at;

	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
		return -errno;
	if (pread(child->stat, text, sizeof(text) - 1, 0) < 0)
		return 0;
	at = strrchr(text, ')');
	return at && strtol(at + strlen(") S"), NULL, 10) != child->launch->monitor ? -ESRCH : 0;
}

static int prepare(struct child *child)
{
	const struct launch *launch = child->launch;
	int result;

	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ||
	    prctl(PR_SET_NAME, "podrt-launch", 0, 0, 0) < 0 || setsid() < 0)
		return -errno;
	child->detail = "monitor";
	child->stat = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
	result = child->stat < 0 ? -errno : follow_monitor(child);
	if (result < 0)
		return result;
	umask(0);
	if (setrlimit(RLIMIT_NOFILE, launch->files) < 0)
		return -errno;
	child->detail = "stdio";
	result = open_stdio(launch);
	if (result < 0)
		return result;
	child->detail = launch->plan.filter_path;
	if (child->detail) {
		child->filter = open(child->detail, O_RDONLY | O_CLOEXEC);
		if (child->filter < 0)
			return -errno;
	}
	child->detail = "cgroup";
	if (launch->joins) {
		result = wait_for_go(launch->slot);
		if (result < 0)
			return result;
	}
	if ((launch->joins || launch->unified) && launch->plan.clone_flags & CLONE_NEWCGROUP &&
	    unshare(CLONE_NEWCGROUP) < 0)
		return -errno;
	return 0;
}

static int enter_held(const struct launch *launch, uint32_t type)
{
	for (int i = 0; i < HELD_KINDS; i++)
		if (launch->held[i].type == type && launch->held[i].fd >= 0)
			return setns(launch->held[i].fd, (int)type) < 0 ? -errno : 0;
	return -ESRCH;
}

static int op_setns(struct child *child, struct reader payload)
{
	uint32_t type = take_u32(&payload);
	const char *path = take_str(&payload);
	cleanup_fd int fd = -1;

	child->detail = path;
	if (!*path)
		return enter_held(child->launch, type);
	if (type == CLONE_NEWPID) /* done before the clone */
		return 0;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	return setns(fd, (int)type) < 0 ? -errno : 0;
}

static int op_hostname(struct child *child, struct reader payload)
{
	child->detail = take_str(&payload);
	return sethostname(child->detail, strlen(child->detail)) < 0 ? -errno : 0;
}

static int op_domainname(struct child *child, struct reader payload)
{
	child->detail = take_str(&payload);
	return setdomainname(child->detail, strlen(child->detail)) < 0 ? -errno : 0;
}

/* What the program inherits is settled before a filter could forbid the calls for it: no
 * descriptor but 0-2, no blocked signal, its own umask and limits. The monitor has already
 * set every disposition to its default. */
int child_seal(struct child *child)
{
	if (child->is_sealed)
		return 0;
	child->is_sealed = true;
	umask(child->umask);
	if (k_close_range(STDERR_FILENO + 1, CLOSE_RANGE_CLOEXEC) < 0)
		return -errno;
	k_block_signals(0);
	return 0;
}

static int tell(const struct child *child, uint32_t stage)
{
	const struct report report = {.stage = stage};

	return write(child->launch->report[1], &report, sizeof(report)) < 0 ? -errno : 0;
}

static int hold(struct child *child)
{
	int result;

	__atomic_store_n(&child->launch->slot->go, GO_NOT_YET, __ATOMIC_RELEASE);
	result = tell(child, 0);
	return result < 0 ? result : wait_for_go(child->launch->slot);
}

static const char *find_path(char *const *envp)
{
	for (; *envp; envp++)
		if (!strncmp(*envp, "PATH=", 5))
			return *envp + 5;
	return DEFAULT_PATH;
}

static int exec_at(const struct plan *plan, const char *path)
{
	execve(path, plan->argv, plan->envp);
	return -errno;
}

/* Source: execvp(3): a directory that cannot be searched does not end the search. */
static int exec_by_path(const struct plan *plan)
{
	const char *name = plan->argv[0], *at = find_path(plan->envp);
	int result = -ENOENT;

	if (!*name)
		return -ENOENT;
	while (true) {
		char path[PATH_ROOM];
		size_t length = strcspn(at, ":");
		int tried = -ENAMETOOLONG;

		if (length + strlen(name) + 2 <= sizeof(path)) {
			snprintf(path, sizeof(path), "%.*s/%s", length ? (int)length : 1,
				 length ? at : ".", name);
			tried = exec_at(plan, path);
		}
		if (tried == -EACCES)
			result = tried;
		else if (tried != -ENOENT && tried != -ENOTDIR)
			return tried;
		if (!at[length])
			return result;
		at += length + 1;
	}
}

static int op_exec(struct child *child, struct reader payload)
{
	const struct plan *plan = &child->launch->plan;
	int result;

	(void)payload;
	child->detail = plan->argv[0];
	result = child_seal(child);
	/* Once more: a change of user has cleared the signal. */
	if (result == 0)
		result = follow_monitor(child);
	/* Not before the receipt is written: from here on we outlive the monitor. */
	if (result == 0)
		result = wait_for_go(child->launch->slot);
	if (result == 0 && child->launch->hold)
		result = hold(child);
	if (result < 0)
		return result;
	if (prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0) < 0)
		return -errno;
	result = child->launch->lean ? tell(child, STAGE_AT_EXEC) : 0;
	if (result < 0)
		return result;
	set_stage(child, OP_EXEC | STAGE_AT_EXEC);
	return strchr(plan->argv[0], '/') ? exec_at(plan, plan->argv[0]) : exec_by_path(plan);
}

/* LOG is the monitor's. */
static operation *const operations[OP_COUNT] = {
    [OP_SETNS] = op_setns,
    [OP_ROOT_OVERLAY] = op_root_overlay,
    [OP_ROOT_BIND] = op_root_bind,
    [OP_MOUNT] = op_mount,
    [OP_BIND] = op_bind,
    [OP_POD_SHM] = op_pod_shm,
    [OP_DEVICE] = op_device,
    [OP_SYMLINK] = op_symlink,
    [OP_MASK] = op_mask,
    [OP_READONLY] = op_readonly,
    [OP_PIVOT] = op_pivot,
    [OP_HOSTNAME] = op_hostname,
    [OP_DOMAINNAME] = op_domainname,
    [OP_SYSCTL] = op_sysctl,
    [OP_RLIMIT] = op_rlimit,
    [OP_OOM_SCORE] = op_oom_score,
    [OP_UMASK] = op_umask,
    [OP_USER] = op_user,
    [OP_CAPS] = op_caps,
    [OP_NO_NEW_PRIVS] = op_no_new_privs,
    [OP_SECCOMP] = op_seccomp,
    [OP_KEYRING] = op_keyring,
    [OP_CWD] = op_cwd,
    [OP_EXEC] = op_exec,
    [OP_PROPAGATION] = op_propagation,
};

_Noreturn void child_main(const struct launch *launch)
{
	struct child child = {
	    .launch = launch,
	    .root = -1,
	    .proc = -1,
	    .null = -1,
	    .blank = -1,
	    .filter = -1,
	    .stat = -1,
	    .umask = DEFAULT_UMASK,
	};
	struct reader ops = plan_ops(&launch->plan), payload;
	struct op_head head;
	int result = 0;

	/* Before anything is opened or closed: until here the descriptors are the monitor's own. */
	if (launch->lean)
		result = k_close_range(KEEP_FDS, CLOSE_RANGE_UNSHARE);
	if (result == 0)
		result = prepare(&child);
	if (result < 0)
		die(&child, STAGE_SETUP, result);
	while (take_op(&ops, &head, &payload)) {
		child.detail = NULL;
		child.flags = head.flags;
		set_stage(&child, head.code);
		if (head.code != OP_LOG)
			result = operations[head.code](&child, payload);
		if (result < 0)
			die(&child, head.code, result);
	}
	die(&child, OP_EXEC, -EINVAL);
}
