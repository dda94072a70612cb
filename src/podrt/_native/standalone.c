/* podrt-monitor launch PLAN_FD SYNC_FD START_FD [cgroup directory ...]
 *
 * Makes the process of a plan without a monitor: a child of whoever is the caller's subreaper,
 * for this process ends. SYNC_FD is a connected SEQPACKET socket of the caller; on it go, each
 * as a wire head with its body:
 *   TERMINAL  the terminal's master comes with it, if the plan has a terminal;
 *   OK        a = pid: the caller's turn to run hooks (HOOK_RUNTIME), until it says RELEASE;
 *   CREATED   a = pid, b = start ticks: the process stands before exec; exit status 0;
 *   STARTED   the same, without START_FD: it has become its program; exit status 0;
 *   FAILED    arg = errno, a = stage, body = detail; exit status 1.
 * START_FD is a listening SEQPACKET socket, or "-". The held process accepts connections of its
 * own user there; on a RELEASE it goes on, and that connection hears FAILED, or ends when exec
 * has succeeded. Descriptors 0 to 2 become the program's if the plan has STDIO, others from 3
 * on as it says. */
#include "launch.h"

static int say(int sync, struct wire_head head, const char *body, int passed)
{
	head.version = WIRE_VERSION;
	return send_message(sync, &head, sizeof(head), body, strlen(body), passed);
}

/* The caller's hooks have run. */
static int await_release(struct launch *launch, int sync)
{
	struct wire_head head;
	bool is_cut;

	if (receive_message(sync, &head, sizeof(head), NULL, &is_cut) != sizeof(head) ||
	    head.type != MSG_RELEASE || head.version != WIRE_VERSION)
		return launch_fail(launch, STAGE_CANCEL, -ECANCELED, "");
	launch_go(launch->slot);
	return 0;
}

/* Blocks: nothing else is to be done. */
static int follow(struct launch *launch, int sync)
{
	struct wire_head head = {.a = (uint64_t)launch->pid, .b = launch->ticks};

	while (true) {
		struct report report = {0};
		cleanup_fd int passed = -1;
		bool is_cut;

		ssize_t n =
		    receive_message(launch->report[0], &report, sizeof(report), &passed, &is_cut);
		if (n <= 0 && !(launch->slot->stage & STAGE_AT_EXEC))
			return launch_fail(launch, launch->slot->stage, -EIO, KILLED_EARLY);
		head.type = n <= 0 ? MSG_STARTED : report.stage ? MSG_TERMINAL : MSG_CREATED;
		if (report.error)
			return launch_fail(launch, report.stage, -report.error, report.detail);
		if (report.stage == OP_HOOKS)
			head.type = MSG_OK;
		TRY(say(sync, head, "", passed));
		if (head.type == MSG_OK)
			TRY(await_release(launch, sync));
		else if (head.type != MSG_TERMINAL)
			return 0;
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
	launch->slot = launch_slots(1);
	if (!launch->slot)
		return -ENOMEM;
	launch->slot->stage = STAGE_SETUP;
	TRY(checked(getrlimit(RLIMIT_NOFILE, &launch->files)));
	TRY(launch_isolate());
	launch_fail(launch, STAGE_PLAN, -EINVAL, NULL);
	TRY(plan_load(&launch->plan, atoi(args[0])));
	launch_fail(launch, STAGE_STDIO, -EINVAL, NULL);
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (!(launch->plan.last[OP_STDIO].f[0].u & STDIO_KEEP))
			TRY(checked(dup2(null, fd)));
	TRY(launch_pipes(launch));
	TRY(checked(fcntl(launch->report[0], F_SETFL, 0)));
	launch->failure = (struct report){0};
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
	struct wire_head head = {.type = MSG_FAILED};
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
	head.arg = -result;
	head.a = launch.failure.stage;
	say(sync, head, launch.failure.detail, -1);
	return 1;
}
