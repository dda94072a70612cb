/* What a container sees, one fact a line: "section<TAB>name<TAB>value". Static, for any image.
 * usage: probe [-q]    -q leaves the system calls out */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/major.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define LAST_CALL 470
#define UNKNOWN (-1000)

extern char **environ;

static void fact(const char *section, const char *name, const char *value)
{
	printf("%s\t%s\t%s\n", section, name, value);
}

/* The lines of a file, each as a fact whose name ends before `separator`. */
static void lines_of(const char *section, const char *path, const char *separator)
{
	char line[8192];
	FILE *file = fopen(path, "re");

	if (!file) {
		fact(section, path, strerror(errno));
		return;
	}
	while (fgets(line, sizeof(line), file)) {
		char *value;

		line[strcspn(line, "\n")] = '\0';
		for (char *at = line; *at; at++)
			if (*at == '\t')
				*at = ' ';
		value = separator ? strstr(line, separator) : NULL;
		if (value)
			*value++ = '\0';
		fact(section, separator ? line : path, value ? value : line);
	}
	fclose(file);
}

static void show_path(const char *section, const char *path)
{
	char value[PATH_MAX + 64], target[PATH_MAX] = "", byte;
	struct stat st;
	int fd = -1, children = 0;
	bool is_console;

	if (lstat(path, &st) < 0) {
		fact(section, path, strerror(errno));
		return;
	}
	/* Opening one for the first time makes devices on the host, which the next container sees. */
	is_console = S_ISCHR(st.st_mode) && major(st.st_rdev) == TTY_MAJOR;
	if (S_ISLNK(st.st_mode) && readlink(path, target, sizeof(target) - 1) < 0)
		target[0] = '\0';
	if (!is_console)
		fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
	if (S_ISDIR(st.st_mode) && fd >= 0) {
		DIR *dir = fdopendir(fd);

		while (dir && readdir(dir))
			children++;
		if (dir)
			closedir(dir);
		fd = -2;
	}
	snprintf(value, sizeof(value), "%o %u:%u uid=%u gid=%u open=%s write=%s%s%s", st.st_mode,
		 major(st.st_rdev), minor(st.st_rdev), st.st_uid, st.st_gid,
		 fd == -2                  ? (children > 2 ? "full" : "empty")
		 : is_console              ? "not tried"
		 : fd < 0                  ? strerror(errno)
		 : S_ISREG(st.st_mode)     ? (read(fd, &byte, 1) > 0 ? "bytes" : "none")
					   : "yes",
		 access(path, W_OK) < 0 ? strerror(errno) : "yes", *target ? " -> " : "", target);
	if (fd >= 0)
		close(fd);
	fact(section, path, value);
}

static void show_folder(const char *section, const char *path)
{
	char below[PATH_MAX];
	DIR *dir = opendir(path);

	for (struct dirent *entry; dir && (entry = readdir(dir));) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(below, sizeof(below), "%s/%s", path, entry->d_name);
		show_path(section, below);
	}
	if (dir)
		closedir(dir);
}

/* Whether a device of these numbers can be made and opened. */
static void try_device(const char *name, mode_t type, unsigned int numbers[2])
{
	char value[128], path[64];
	int made, fd;

	snprintf(path, sizeof(path), "/tmp/probe-%s", name);
	made = mknod(path, type | 0600, makedev(numbers[0], numbers[1])) < 0 ? errno : 0;
	fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
	snprintf(value, sizeof(value), "%s, %s", strerror(made), fd < 0 ? strerror(errno) : "open");
	if (fd >= 0)
		close(fd);
	unlink(path);
	fact("node", name, value);
}

static void show_limits(void)
{
	char name[16], value[64];

	for (int which = 0; which < 16; which++) {
		struct rlimit limit;

		if (getrlimit(which, &limit) < 0)
			continue;
		snprintf(name, sizeof(name), "%d", which);
		snprintf(value, sizeof(value), "%lld %lld", (long long)limit.rlim_cur,
			 (long long)limit.rlim_max);
		fact("limit", name, value);
	}
}

static void show_process(char **argv)
{
	static const char *const spaces[] = {"cgroup", "ipc", "mnt", "net", "pid", "user", "uts",
					     "time"};
	char path[64], value[PATH_MAX];
	DIR *dir;

	for (int i = 0; argv[i]; i++) {
		snprintf(path, sizeof(path), "%d", i);
		fact("argument", path, argv[i]);
	}
	for (char **one = environ; *one; one++) {
		char *copy = strdup(*one), *equals = copy ? strchr(copy, '=') : NULL;

		if (equals)
			*equals++ = '\0';
		fact("environment", copy, equals ? equals : "");
		free(copy);
	}
	for (size_t i = 0; i < sizeof(spaces) / sizeof(*spaces); i++) {
		ssize_t n;

		snprintf(path, sizeof(path), "/proc/self/ns/%s", spaces[i]);
		n = readlink(path, value, sizeof(value) - 1);
		value[n < 0 ? 0 : n] = '\0';
		fact("namespace", spaces[i], value);
	}
	fact("process", "directory", getcwd(value, sizeof(value)) ? value : strerror(errno));
	snprintf(value, sizeof(value), "%d", (int)getpid());
	fact("process", "pid", value);
	dir = opendir("/proc/self/fd");
	for (struct dirent *entry; dir && (entry = readdir(dir));)
		if (entry->d_name[0] != '.' && atoi(entry->d_name) != dirfd(dir))
			fact("descriptor", entry->d_name, "open");
	if (dir)
		closedir(dir);
	lines_of("status", "/proc/self/status", ":");
	lines_of("process", "/proc/self/oom_score_adj", NULL);
	lines_of("mount", "/proc/self/mountinfo", " - ");
	lines_of("cgroup", "/proc/self/cgroup", "\n");
}

static void show_files(void)
{
	static const char *const hidden[] = {
	    "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
	    "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
	    "/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys",
	    "/proc/sysrq-trigger", "/proc/kmsg", "/proc/sys/kernel/core_pattern",
	    "/proc/sys/kernel/shm_rmid_forced", "/proc/sys/net/ipv4/ip_forward",
	    "/sys/dev/block", "/sys/devices/virtual/powercap", "/sys/firmware",
	    "/sys/fs/selinux", "/sys/fs/cgroup", "/sys/kernel", "/sys/power/state", "/", "/etc",
	    "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc/mtab", "/run",
	    "/run/.containerenv", "/dev/shm", "/tmp", "/data", "/made"};
	static const char *const sysctls[] = {
	    "kernel/hostname", "kernel/domainname", "kernel/shmmax", "kernel/shm_rmid_forced",
	    "kernel/msgmax", "kernel/sem", "fs/mqueue/msg_max", "net/ipv4/ping_group_range",
	    "net/ipv4/ip_forward", "net/ipv4/ip_unprivileged_port_start",
	    "net/core/somaxconn"};
	static const char *const limits[] = {
	    "pids/pids.max", "memory/memory.limit_in_bytes",
	    "memory/memory.soft_limit_in_bytes", "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us",
	    "cpu/cpu.shares", "cpuset/cpuset.cpus", "cpuset/cpuset.mems", "devices/devices.list",
	    "blkio/blkio.weight"};
	char path[128];

	for (size_t i = 0; i < sizeof(hidden) / sizeof(*hidden); i++)
		show_path("path", hidden[i]);
	for (size_t i = 0; i < sizeof(sysctls) / sizeof(*sysctls); i++) {
		snprintf(path, sizeof(path), "/proc/sys/%s", sysctls[i]);
		lines_of("sysctl", path, NULL);
	}
	for (size_t i = 0; i < sizeof(limits) / sizeof(*limits); i++) {
		snprintf(path, sizeof(path), "/sys/fs/cgroup/%s", limits[i]);
		lines_of("control", path, NULL);
	}
	show_folder("device", "/dev");
	try_device("null", S_IFCHR, (unsigned int[]){1, 3});
	try_device("mem", S_IFCHR, (unsigned int[]){1, 1});
	try_device("kmsg", S_IFCHR, (unsigned int[]){1, 11});
	try_device("fuse", S_IFCHR, (unsigned int[]){10, 229});
	try_device("tun", S_IFCHR, (unsigned int[]){10, 200});
	try_device("disk", S_IFBLK, (unsigned int[]){254, 0});
	try_device("loop", S_IFBLK, (unsigned int[]){7, 0});
}

/* Calls that end the caller's share of this program or wait for ever, or that cost the host something. */
static int is_left_out(long number)
{
	return number == SYS_exit || number == SYS_exit_group || number == SYS_rt_sigreturn ||
	       number == SYS_sync || number == SYS_munmap
#ifdef SYS_vfork
	       || number == SYS_vfork || number == SYS_pause
#endif
	    ;
}

/* One call in a child of its own: most arguments are wrong for every call, so that what is
 * allowed fails for another reason, or does nothing. */
static void try_call(int *verdict, const long call[7])
{
	static const struct itimerval soon = {.it_value.tv_sec = 10};
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		pid_t me = getpid();

		setitimer(ITIMER_REAL, &soon, NULL);
		errno = 0;
		if (syscall(call[0], call[1], call[2], call[3], call[4], call[5], call[6]) >= 0)
			errno = 0;
		if (syscall(SYS_getpid) == me)
			*verdict = errno;
		syscall(SYS_exit_group, 0);
	}
	waitpid(pid, &status, 0);
	if (WIFSIGNALED(status))
		*verdict = 1000 + WTERMSIG(status);
}

static void show_call(int *verdict, const char *name, const long call[7])
{
	char value[64];

	*verdict = UNKNOWN;
	try_call(verdict, call);
	snprintf(value, sizeof(value), "%d", *verdict);
	fact("call", name, value);
}

static void show_calls(void)
{
	static const long personalities[] = {0, 8, 0x20000, 0x20008, 0xffffffff, 1, 0x0040000};
	static const long flags[] = {CLONE_NEWNS,  CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC,
				     CLONE_NEWUSER, CLONE_NEWPID,    CLONE_NEWNET};
	int *verdict = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	char name[64];

	for (long number = 0; number <= LAST_CALL; number++) {
		snprintf(name, sizeof(name), "%ld", number);
		if (is_left_out(number))
			continue;
		if (number == SYS_msgget)
			show_call(verdict, name, (long[7]){number, 0x7fabc, 0});
		else
			show_call(verdict, name, (long[7]){number, -1, -1, -1, -1, -1, -1});
	}
	for (size_t i = 0; i < sizeof(personalities) / sizeof(*personalities); i++) {
		snprintf(name, sizeof(name), "personality %lx", personalities[i]);
		show_call(verdict, name, (long[7]){SYS_personality, personalities[i]});
	}
	for (long family = 0; family < 46; family++) {
		snprintf(name, sizeof(name), "socket %ld", family);
		show_call(verdict, name, (long[7]){SYS_socket, family, SOCK_STREAM, 0});
	}
	for (long protocol = 0; protocol < 23; protocol++) {
		snprintf(name, sizeof(name), "netlink %ld", protocol);
		show_call(verdict, name, (long[7]){SYS_socket, AF_NETLINK, SOCK_RAW, protocol});
	}
	for (size_t i = 0; i < sizeof(flags) / sizeof(*flags); i++) {
		snprintf(name, sizeof(name), "clone %lx", flags[i]);
		show_call(verdict, name, (long[7]){SYS_clone, flags[i] | SIGCHLD, 0});
		snprintf(name, sizeof(name), "unshare %lx", flags[i]);
		show_call(verdict, name, (long[7]){SYS_unshare, flags[i]});
	}
}

int main(int argc, char **argv)
{
	static char room[1 << 20]; /* nothing is written before the end: children share it */

	setvbuf(stdout, room, _IOFBF, sizeof(room));
	show_process(argv);
	show_limits();
	show_files();
	if (argc < 2 || strcmp(argv[1], "-q"))
		show_calls();
	fflush(stdout);
	return 0;
}
