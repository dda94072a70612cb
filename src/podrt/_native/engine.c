/* A container that another OCI runtime makes. The child is then a driver: it mounts the root, runs
 * `RUNTIME create`, and once the monitor knows the container's process `RUNTIME start`. As
 * subreaper it keeps that process from ending before its start is known; when the driver ends,
 * the process is the monitor's. Should either be killed, so is whatever runtime command is under
 * way; what it has made by then has no started record, and the next command deletes it. */
#include "monitor.h"

#define RUNTIME_UMASK 022

static _Noreturn void become_runtime(const struct child *child, char **words, pid_t driver)
{
	umask(RUNTIME_UMASK);
	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0 || getppid() != driver ||
	    k_close_range(STDERR_FILENO + 1, CLOSE_RANGE_CLOEXEC) < 0)
		_exit(126);
	k_block_signals(0);
	execve(*words, words, child->plan->last[OP_EXEC]->f[1].l);
	_exit(127);
}

static int run_runtime(struct child *child, char **words)
{
	const pid_t driver = getpid(), pid = fork();
	int status = 0;

	if (pid == 0)
		become_runtime(child, words, driver);
	TRY(checked(pid));
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	snprintf(child->note, sizeof(child->note), "%.110s ended with %s %d", *words,
		 WIFSIGNALED(status) ? "signal" : "code",
		 WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	child->detail = child->note;
	return status ? -ECANCELED : 0;
}

/* Where the root goes, the pid file, the container's directory in the runtime's state, what is
 * unmounted for the runtime, the words of `delete`, those of `create`; EXEC has those of `start`.
 */
int op_engine(struct child *child, const struct op *op)
{
	struct slot *slot = child->launch->slot;
	struct wire_head made = {.type = MSG_OK};
	char text[32] = "";

	if (!child->launch->held)
		return -EINVAL; /* there is no monitor */
	/* Not before the receipt is written. */
	TRY(wait_for_go(slot));
	TRY(checked(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)));
	for (char **path = op->f[3].l; *path; path++)
		if (umount2(*path, MNT_DETACH) < 0 && errno != EINVAL && errno != ENOENT)
			return -errno;
	OPEN(place, checked(open(op->f[0].s, O_PATH | O_DIRECTORY | O_CLOEXEC)));
	TRY(k_move_mount(child->root, place));
	if (access(op->f[2].s, F_OK) == 0)
		run_runtime(child, op->f[4].l);
	unlink(op->f[1].s);
	TRY(run_runtime(child, op->f[5].l));
	child->detail = op->f[1].s;
	TRY(read_text(open_path(O_RDONLY, "%s", op->f[1].s), text, sizeof(text)));
	made.a = strtoull(text, NULL, 10);
	__atomic_store_n(&slot->go, GO_NOT_YET, __ATOMIC_RELEASE);
	TRY(say(child->launch->report[1], made, "", -1));
	TRY(wait_for_go(slot));
	TRY(op_hold(child, op));
	TRY(run_runtime(child, child->plan->last[OP_EXEC]->f[0].l));
	slot->stage = OP_ENGINE | STAGE_AT_EXEC;
	_exit(0);
}

/* From here on the container's process is the one that `create` left. Nobody reaps it while the
 * driver lives, so its number is not another's. */
void know_process(struct monitor *m, struct container *c, pid_t pid)
{
	uint64_t ticks;

	c->driver = k_pidfd_open(c->pid);
	if (c->driver < 0 || pid <= 1 || table_find_pid(&m->table, pid) ||
	    start_ticks(pid, &ticks) < 0) {
		fail_start(c, OP_ENGINE, ESRCH, "the container's process");
		return;
	}
	c->ticks = ticks;
	table_set_pid(&m->table, c, pid);
	launch_go(c->slot);
}
