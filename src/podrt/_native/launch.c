/* Making the child: the monitor's side of a start. */
#include "launch.h"

#include <linux/futex.h>

/* Wakes the child only if it sleeps already: mostly it is still at work and just goes on. */
void launch_go(struct slot *slot)
{
	if (__atomic_exchange_n(&slot->go, GO, __ATOMIC_ACQ_REL) == GO_AWAITED)
		syscall(SYS_futex, &slot->go, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* A process enters the cgroup namespace of its cgroup, not of its parent's: when it is moved,
 * or born elsewhere, it unshares afterwards. */
static uint64_t clone_flags(const struct launch *launch)
{
	uint64_t flags = launch->plan.clone_flags;

	if (launch->joins || launch->unified)
		flags &= ~(uint64_t)CLONE_NEWCGROUP;
	if (launch->lean)
		flags |= CLONE_FILES;
	return flags;
}

static pid_t clone_child(struct launch *launch)
{
	struct k_clone_args args = {.flags = clone_flags(launch), .exit_signal = SIGCHLD};
	pid_t pid;

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

/* setns to a pid namespace counts for the children made afterwards. */
static int enter_pid_ns(const char *path, int *back)
{
	cleanup_fd int there = -1;

	if (!path)
		return 0;
	*back = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
	there = open(path, O_RDONLY | O_CLOEXEC);
	if (*back < 0 || there < 0)
		return -errno;
	return setns(there, CLONE_NEWPID) < 0 ? -errno : 0;
}

/* The kernel stamps the child during the call: when both clocks around it show the same tick,
 * that is its start time, and /proc need not be read. */
static void note_start(struct launch *launch, uint64_t before_ns)
{
	const uint64_t tick_ns = 1000000000u / (uint64_t)sysconf(_SC_CLK_TCK);
	uint64_t after_ns = clock_ns(CLOCK_BOOTTIME);

	launch->ticks = before_ns / tick_ns;
	if (launch->ticks != after_ns / tick_ns)
		start_ticks(launch->pid, &launch->ticks);
}

int launch_clone(struct launch *launch)
{
	cleanup_fd int back = -1;
	uint64_t before_ns;
	int result = enter_pid_ns(launch->plan.pid_ns, &back);

	if (result < 0)
		return result;
	before_ns = clock_ns(CLOCK_BOOTTIME);
	launch->pid = clone_child(launch);
	if (launch->pid == 0)
		child_main(launch);
	if (launch->pid > 0)
		note_start(launch, before_ns);
	/* A way back that was open cannot be refused. */
	if (launch->plan.pid_ns)
		setns(back, CLONE_NEWPID);
	return launch->pid < 0 ? launch->pid : 0;
}
