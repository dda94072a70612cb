/* podrt-pause: PID 1 of a pod that shares its pid namespace. It sleeps, reaps whatever becomes
 * its child, and ends when asked. */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void reap_all(void)
{
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
}

int main(void)
{
	sigset_t wanted;
	int sig = 0;

	sigemptyset(&wanted);
	sigaddset(&wanted, SIGCHLD);
	sigaddset(&wanted, SIGTERM);
	sigaddset(&wanted, SIGINT);
	/* Blocked first: a process 1 without a handler would never see a TERM. */
	if (sigprocmask(SIG_BLOCK, &wanted, NULL) < 0)
		return 1;
	while (sigwait(&wanted, &sig) == 0) {
		if (sig != SIGCHLD)
			return 0;
		reap_all();
	}
	return 1;
}
