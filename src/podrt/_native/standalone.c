/* podrt-monitor launch PLAN_FD SYNC_FD START_FD [cgroup directory ...]
 *
 * Makes the process of a plan without a monitor: a child of whoever is the caller's subreaper,
 * for this process ends. SYNC_FD is a connected SEQPACKET socket of the caller; on it go, each
 * as a wire head with its body:
 *   TERMINAL  the terminal's master comes with it, if the plan has a terminal;
 *   OK        a = pid: the caller's turn to run hooks (FLAG_OF_HOST), until it says RELEASE;
 *   CREATED   a = pid, b = start ticks: the process stands before exec; exit status 0;
 *   STARTED   the same, without START_FD: it has become its program; exit status 0;
 *   FAILED    arg = errno, a = stage, body = detail; exit status 1.
 * START_FD is a listening SEQPACKET socket, or "-". The held process accepts connections of its
 * own user there; on a RELEASE it goes on, and that connection hears FAILED, or ends when exec
 * has succeeded. Descriptors 0 to 2 become the program's if the plan has STDIO, others from 3
 * on as it says. */
#include "launch.h"

/* Blocks: nothing else is to be done. */
static int follow(struct launch *launch, int sync)
{
	while (true) {
		struct message said;
		cleanup_fd int passed = -1;
		ssize_t n = hear(launch->report[0], &said, &passed);

		if (n <= 0 && !(launch->slot->stage & STAGE_AT_EXEC))
			return launch_fail(launch, launch->slot->stage, -EIO, KILLED_EARLY);
		if (n <= 0)
			said.head.type = MSG_STARTED;
		if (said.head.type == MSG_FAILED) {
			launch->failure = said;
			return -said.head.arg;
		}
		said.head.a = (uint64_t)launch->pid;
		said.head.b = launch->ticks;
		TRY(say(sync, said.head, "", passed));
		if (said.head.type == MSG_CREATED || said.head.type == MSG_STARTED)
			return 0;
		if (said.head.type != MSG_OK)
			continue;
		/* The caller's hooks have run. */
		if (await_release(sync) < 0)
			return launch_fail(launch, STAGE_CANCEL, -ECANCELED, "");
		launch_go(launch->slot);
	}
}

/* Each step says where it failed before it is tried. */
static int run(struct launch *launch, char **args, int sync)
{
	const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	static char dirs[16 * PATH_ROOM];
	int result;

	launch_fail(launch, STAGE_SETUP, -EINVAL, "launcher");
	launch->start = strcmp(args[2], "-") == 0 ? -1 : atoi(args[2]);
	launch->hold = launch->start >= 0;
	launch->dirs = dirs;
	launch->joins = args[3];
	for (char **dir = args + 3; *dir; dir++) {
		if (launch->dirs_bytes + strlen(*dir) >= sizeof(dirs))
			return -E2BIG;
		strcpy(dirs + launch->dirs_bytes, *dir);
		launch->dirs_bytes += (uint32_t)strlen(*dir) + 1;
	}
	launch->slot = launch_shared(sizeof(struct slot));
	if (!launch->slot)
		return -ENOMEM;
	launch->slot->stage = STAGE_SETUP;
	TRY(checked(getrlimit(RLIMIT_NOFILE, &launch->files)));
	TRY(launch_isolate(&launch->home));
	launch_fail(launch, STAGE_PLAN, -EINVAL, NULL);
	TRY(plan_load(&launch->plan, atoi(args[0])));
	launch_fail(launch, STAGE_STDIO, -EINVAL, NULL);
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (!(launch->plan.last[OP_STDIO]->f[0].u & STDIO_KEEP))
			TRY(checked(dup2(null, fd)));
	TRY(launch_pipes(launch));
	TRY(checked(fcntl(launch->report[0], F_SETFL, 0)));
	launch->failure = (struct message){0};
	TRY(launch_clone(launch));
	close_fd(&launch->report[1]);
	result = launch_settle(launch);
	if (result == 0) {
		launch_go(launch->slot);
		result = follow(launch, sync);
	}
	if (result < 0)
		kill(launch->pid, SIGKILL);
	return result;
}

int launch_main(char **args)
{
	struct launch launch = launch_of((struct rlimit){0});
	int sync, result;

	for (int i = 0; i < 3; i++)
		if (!args[i])
			return 2;
	sync = atoi(args[1]);
	for (int i = 0; i < 3; i++)
		if (atoi(args[i]) > STDERR_FILENO)
			fcntl(atoi(args[i]), F_SETFD, FD_CLOEXEC);
	result = run(&launch, args, sync);
	if (result == 0)
		return 0;
	launch.failure.head.arg = -result;
	say(sync, launch.failure.head, launch.failure.body, -1);
	return 1;
}
