/* floor: the physical limit of starting N containers.
 *
 * One plain, single-threaded C process that does for N containers the kernel work of podrt's
 * default profile and nothing else: no store, no policy, no logs read. What must be done before a
 * start (rootfs, overlay directories) stands already, as after `create`; the clock runs from the
 * first pod's namespaces until exec is confirmed for every container.
 *
 * "serial" waits for each exec before the next clone, "pipelined" confirms all at the end, so that
 * children set themselves up on every core. See usage() for the options; prints one JSON line.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "floor_groups.h"

enum { MAX_CONTAINERS = 4096, MAX_FILTER = 4096, NAME_BYTES = 96, OPTION_BYTES = 4096 };

struct container {
	pid_t pid;
	int channel; /* go goes in, an error comes out, end of file is a confirmed exec */
	int out, err;
};

struct floor {
	const char *rootfs, *work, *filter, *cgroup;
	char **command;
	int count, per_pod;
	bool pipelined, hold;
	struct sock_filter instructions[MAX_FILTER];
	struct sock_fprog program;
	struct groups groups;
	struct container containers[MAX_CONTAINERS];
};

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "floor: cannot %s: %s\n", what, strerror(errno));
	exit(1);
}

/* ---- in the child: everything up to exec; relative paths start at the container's root ---- */

static const char *stage = "clone";

static _Noreturn void report(int channel)
{
	char words[160];
	int size = snprintf(words, sizeof words, "%s: %s", stage, strerror(errno));
	if (write(channel, words, (size_t)size) < 0)
		_exit(126);
	_exit(127);
}

#define TRY(name, call)                                                                            \
	do {                                                                                       \
		stage = (name);                                                                    \
		if ((call) < 0)                                                                    \
			report(channel);                                                           \
	} while (0)

static void mount_root(const struct floor *floor, int index, int channel)
{
	char options[OPTION_BYTES], merged[OPTION_BYTES];
	snprintf(options, sizeof options,
		 "lowerdir=%s/points:%s,upperdir=%s/%d/upper,workdir=%s/%d/work", floor->work,
		 floor->rootfs, floor->work, index, floor->work, index);
	snprintf(merged, sizeof merged, "%s/merged", floor->work);
	TRY("overlay", mount("overlay", merged, "overlay", 0, options));
	TRY("chdir to the root", chdir(merged));
}

static void mount_dev(const struct floor *floor, int pod, int channel)
{
	static const struct {
		const char *path;
		unsigned major, minor;
	} nodes[] = {
	    {"dev/null", 1, 3},   {"dev/zero", 1, 5},    {"dev/full", 1, 7},
	    {"dev/random", 1, 8}, {"dev/urandom", 1, 9}, {"dev/tty", 5, 0},
	};
	static const char *const links[][2] = {
	    {"/proc/self/fd", "dev/fd"},       {"/proc/self/fd/0", "dev/stdin"},
	    {"/proc/self/fd/1", "dev/stdout"}, {"/proc/self/fd/2", "dev/stderr"},
	    {"/proc/kcore", "dev/core"},       {"pts/ptmx", "dev/ptmx"},
	};
	const unsigned long quiet = MS_NOSUID | MS_NOEXEC;
	char shm[OPTION_BYTES];

	TRY("/dev", mount("tmpfs", "dev", "tmpfs", quiet | MS_STRICTATIME, "mode=755,size=65536k"));
	TRY("/dev/pts", mkdir("dev/pts", 0755));
	TRY("/dev/mqueue", mkdir("dev/mqueue", 0755));
	TRY("/dev/shm", mkdir("dev/shm", 0755));
	TRY("devpts", mount("devpts", "dev/pts", "devpts", quiet,
			    "newinstance,ptmxmode=0666,mode=0620,gid=5"));
	TRY("mqueue", mount("mqueue", "dev/mqueue", "mqueue", quiet | MS_NODEV, NULL));
	snprintf(shm, sizeof shm, "%s/shm%d", floor->work, pod);
	TRY("shm", mount(shm, "dev/shm", NULL, MS_BIND, NULL));
	for (size_t i = 0; i < sizeof nodes / sizeof *nodes; i++)
		TRY("device",
		    mknod(nodes[i].path, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)));
	for (size_t i = 0; i < sizeof links / sizeof *links; i++)
		TRY("link", symlink(links[i][0], links[i][1]));
}

static void mount_files(const struct floor *floor, int channel)
{
	static const char *const files[][2] = {
	    {"hosts", "etc/hosts"},
	    {"hostname", "etc/hostname"},
	    {"resolv.conf", "etc/resolv.conf"},
	};
	char source[OPTION_BYTES];
	for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
		snprintf(source, sizeof source, "%s/%s", floor->work, files[i][0]);
		TRY(files[i][1], mount(source, files[i][1], NULL, MS_BIND, NULL));
	}
}

static void hide_paths(int channel)
{
	static const char *const masks[] = {
	    "proc/acpi",
	    "proc/interrupts",
	    "proc/kcore",
	    "proc/keys",
	    "proc/latency_stats",
	    "proc/sched_debug",
	    "proc/scsi",
	    "proc/timer_list",
	    "proc/timer_stats",
	    "sys/dev/block",
	    "sys/devices/virtual/powercap",
	    "sys/firmware",
	    "sys/fs/selinux",
	};
	static const char *const read_only[] = {
	    "proc/asound", "proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger",
	};
	const unsigned long proc_flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
	const struct {
		uint64_t set, clear, propagation, user_namespace;
	} attributes = {.set = MS_RDONLY};
	const char *blank = NULL, *null = NULL;
	struct stat info;

	for (size_t i = 0; i < sizeof masks / sizeof *masks; i++) {
		if (stat(masks[i], &info) < 0)
			continue;
		if (!S_ISDIR(info.st_mode) && null) {
			TRY(masks[i], mount(null, masks[i], NULL, MS_BIND, NULL));
		} else if (!S_ISDIR(info.st_mode)) {
			null = masks[i]; /* and one read-only /dev/null every masked file */
			TRY(null, mount("/dev/null", null, NULL, MS_BIND, NULL));
			TRY(null, syscall(SYS_mount_setattr, AT_FDCWD, null, 0, &attributes,
					  sizeof attributes));
		} else if (blank) {
			TRY(masks[i], mount(blank, masks[i], NULL, MS_BIND, NULL));
		} else {
			blank = masks[i]; /* one empty directory serves every masked one */
			TRY(blank,
			    mount("tmpfs", blank, "tmpfs", MS_RDONLY | proc_flags, "nr_inodes=1"));
		}
	}
	for (size_t i = 0; i < sizeof read_only / sizeof *read_only; i++) {
		if (mount(read_only[i], read_only[i], NULL, MS_BIND | MS_REC, NULL) < 0 &&
		    errno == ENOENT)
			continue;
		TRY(read_only[i], mount(NULL, read_only[i], NULL,
					MS_BIND | MS_REMOUNT | MS_RDONLY | proc_flags, NULL));
	}
}

static void drop_privileges(const struct floor *floor, int channel)
{
	static const int kept[] = {
	    CAP_CHOWN,   CAP_DAC_OVERRIDE,     CAP_FOWNER,     CAP_FSETID,
	    CAP_KILL,    CAP_NET_BIND_SERVICE, CAP_SETFCAP,    CAP_SETGID,
	    CAP_SETPCAP, CAP_SETUID,           CAP_SYS_CHROOT,
	};
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2] = {0};
	uint64_t keep = 0;

	for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
		keep |= 1ULL << kept[i];
	/* Without no_new_privs the filter needs CAP_SYS_ADMIN, so it comes before the drop. */
	TRY("seccomp", syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &floor->program));
	for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		if (!(keep & 1ULL << cap))
			TRY("bounding set", prctl(PR_CAPBSET_DROP, cap, 0, 0, 0));
	TRY("user", syscall(SYS_setresgid, 0, 0, 0));
	TRY("user", syscall(SYS_setresuid, 0, 0, 0));
	data[0].effective = data[0].permitted = (uint32_t)keep;
	data[1].effective = data[1].permitted = (uint32_t)(keep >> 32);
	TRY("capabilities", syscall(SYS_capset, &head, data));
	TRY("ambient set", prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0));
}

static void set_stdio(int out, int err, int channel)
{
	char path[32];
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	TRY("stdin", dup2(null, 0));
	/* Read-write ends, as podrt's: a writer then blocks instead of dying with its reader. */
	snprintf(path, sizeof path, "/proc/self/fd/%d", out);
	TRY("stdout", dup2(open(path, O_RDWR | O_CLOEXEC), 1));
	snprintf(path, sizeof path, "/proc/self/fd/%d", err);
	TRY("stderr", dup2(open(path, O_RDWR | O_CLOEXEC), 2));
}

static _Noreturn void contain(const struct floor *floor, int index, int channel)
{
	char *const env[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
			     "HOME=/root", NULL};
	const unsigned long safe = MS_NOSUID | MS_NODEV | MS_NOEXEC;
	char go;

	umask(0);
	TRY("session", setsid());
	mount_root(floor, index, channel);
	TRY("/proc", mount("proc", "proc", "proc", safe, NULL));
	mount_dev(floor, index / floor->per_pod, channel);
	TRY("/sys", mount("sysfs", "sys", "sysfs", MS_RDONLY | safe, NULL));
	mount_files(floor, channel);
	/* The cgroup namespace is rooted where the process is, so it must wait to be put there. */
	TRY("wait", read(channel, &go, 1));
	TRY("cgroup namespace", unshare(CLONE_NEWCGROUP));
	TRY("/sys/fs/cgroup", groups_mount(&floor->groups, "sys/fs/cgroup"));
	hide_paths(channel);
	TRY("pivot_root", syscall(SYS_pivot_root, ".", "."));
	TRY("old root", umount2(".", MNT_DETACH));
	TRY("chdir", chdir("/"));
	TRY("keyring", syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, "floor"));
	umask(022);
	drop_privileges(floor, channel);
	TRY("descriptors", syscall(SYS_close_range, 3, ~0U, CLOSE_RANGE_CLOEXEC));
	execve(floor->command[0], floor->command, env);
	stage = "exec";
	report(channel);
}

/* ---- the creator ---- */

static void begin_pod(const struct floor *floor, int pod)
{
	struct ifreq request = {.ifr_name = "lo"};
	char name[NAME_BYTES], shm[OPTION_BYTES];
	int fd;

	if (unshare(CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET) < 0)
		die("unshare the pod's namespaces");
	snprintf(name, sizeof name, "floor%d", pod);
	if (sethostname(name, strlen(name)) < 0)
		die("set the host name");
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, &request) < 0)
		die("look at lo");
	request.ifr_flags |= IFF_UP | IFF_RUNNING;
	if (ioctl(fd, SIOCSIFFLAGS, &request) < 0)
		die("bring lo up");
	close(fd);
	fd = open("/proc/sys/net/ipv4/ping_group_range", O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "0 0", 3) < 0)
		die("set ping_group_range");
	close(fd);
	snprintf(shm, sizeof shm, "%s/shm%d", floor->work, pod);
	if (mount("shm", shm, "tmpfs", MS_NOSUID | MS_NOEXEC | MS_NODEV, "mode=1777,size=64000k") <
	    0)
		die("mount the pod's shm");
	if (groups_begin_pod(&floor->groups, pod) < 0)
		die("make the pod's cgroup");
}

static void start(struct floor *floor, int index)
{
	struct clone_args args = {.flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_CLEAR_SIGHAND,
				  .exit_signal = SIGCHLD};
	struct container *box = &floor->containers[index];
	int channel[2], out[2], err[2], group, pod = index / floor->per_pod;

	if (index % floor->per_pod == 0)
		begin_pod(floor, pod);
	group = groups_make(&floor->groups, pod, index);
	if (group < 0)
		die("make a container's cgroup");
	if (floor->groups.unified) {
		args.flags |= CLONE_INTO_CGROUP;
		args.cgroup = (uint64_t)group;
	}
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel) < 0 ||
	    pipe2(out, O_CLOEXEC) < 0 || pipe2(err, O_CLOEXEC) < 0)
		die("open pipes");
	box->pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);
	if (box->pid < 0)
		die("clone");
	if (box->pid == 0) {
		set_stdio(out[1], err[1], channel[1]);
		contain(floor, index, channel[1]);
	}
	close(channel[1]);
	close(out[1]);
	close(err[1]);
	*box = (struct container){box->pid, channel[0], out[0], err[0]};
	if (groups_attach(&floor->groups, pod, index, box->pid) < 0)
		die("attach a container to its cgroup");
	if (group > 0)
		close(group);
	if (send(box->channel, "", 1, MSG_NOSIGNAL) < 0 && errno != EPIPE)
		die("let a container go");
}

static bool confirm(struct container *box)
{
	char words[160];
	ssize_t size;

	do
		size = read(box->channel, words, sizeof words - 1);
	while (size < 0 && errno == EINTR);
	close(box->channel);
	if (size == 0)
		return true;
	words[size < 0 ? 0 : size] = '\0';
	fprintf(stderr, "floor: container %d: %s\n", box->pid, size < 0 ? strerror(errno) : words);
	return false;
}

static bool start_all(struct floor *floor)
{
	bool all = true;
	for (int i = 0; i < floor->count; i++) {
		start(floor, i);
		if (!floor->pipelined)
			all &= confirm(&floor->containers[i]);
	}
	for (int i = 0; floor->pipelined && i < floor->count; i++)
		all &= confirm(&floor->containers[i]);
	return all;
}

static void end_all(struct floor *floor)
{
	for (int i = 0; i < floor->count; i++)
		kill(floor->containers[i].pid, SIGKILL);
	for (int i = 0; i < floor->count; i++)
		waitpid(floor->containers[i].pid, NULL, 0);
	groups_remove(&floor->groups, floor->count, floor->per_pod);
}

static void read_filter(struct floor *floor)
{
	int fd = open(floor->filter, O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? -1 : read(fd, floor->instructions, sizeof floor->instructions);
	if (size <= 0 || size % (ssize_t)sizeof(struct sock_filter))
		die("read the filter");
	close(fd);
	floor->program.len = (unsigned short)((size_t)size / sizeof(struct sock_filter));
	floor->program.filter = floor->instructions;
}

static void prepare(struct floor *floor)
{
	read_filter(floor);
	if (groups_open(&floor->groups, floor->cgroup) < 0)
		die("make the parent cgroup");
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		die("make mounts private");
}

static double now_ms(void)
{
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	return (double)at.tv_sec * 1e3 + (double)at.tv_nsec / 1e6;
}

static void print(const struct floor *floor, double total_ms)
{
	printf("{\"mode\": \"%s\", \"count\": %d, \"per_pod\": %d, \"cgroup\": \"%s\", "
	       "\"filter_instructions\": %d, \"total_ms\": %.3f, \"per_container_ms\": %.4f, "
	       "\"pids\": [",
	       floor->pipelined ? "pipelined" : "serial", floor->count, floor->per_pod,
	       floor->groups.unified ? "v2" : "v1", floor->program.len, total_ms,
	       total_ms / floor->count);
	for (int i = 0; floor->hold && i < floor->count; i++)
		printf("%s%d", i ? ", " : "", floor->containers[i].pid);
	puts("]}");
	fflush(stdout);
}

static _Noreturn void usage(void)
{
	fputs("usage: floor --rootfs DIR --work DIR --filter FILE --cgroup NAME [--count N]\n"
	      "             [--per-pod N] [--serial] [--hold] -- COMMAND [ARGUMENT ...]\n"
	      "  work holds: points/ (a lower layer with every mount point), merged/, shm0/ ...,\n"
	      "  0/upper 0/work ..., hosts hostname resolv.conf\n"
	      "  --hold prints the pids and keeps the containers until standard input ends\n",
	      stderr);
	exit(2);
}

static void parse(struct floor *floor, int argc, char **argv)
{
	static const struct option options[] = {
	    {"rootfs", 1, 0, 'r'}, {"work", 1, 0, 'w'},  {"filter", 1, 0, 'f'},
	    {"cgroup", 1, 0, 'c'}, {"count", 1, 0, 'n'}, {"per-pod", 1, 0, 'p'},
	    {"serial", 0, 0, 's'}, {"hold", 0, 0, 'h'},  {0, 0, 0, 0},
	};
	for (int code; (code = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		switch (code) {
		case 'r':
			floor->rootfs = optarg;
			break;
		case 'w':
			floor->work = optarg;
			break;
		case 'f':
			floor->filter = optarg;
			break;
		case 'c':
			floor->cgroup = optarg;
			break;
		case 'n':
			floor->count = atoi(optarg);
			break;
		case 'p':
			floor->per_pod = atoi(optarg);
			break;
		case 's':
			floor->pipelined = false;
			break;
		case 'h':
			floor->hold = true;
			break;
		default:
			usage();
		}
	}
	floor->command = argv + optind;
	floor->per_pod = floor->per_pod ? floor->per_pod : floor->count;
	if (!floor->rootfs || !floor->work || !floor->filter || !floor->cgroup || optind == argc ||
	    floor->count < 1 || floor->count > MAX_CONTAINERS || floor->per_pod < 1)
		usage();
}

int main(int argc, char **argv)
{
	static struct floor floor = {.count = 1, .pipelined = true};
	double before, after;
	bool all;
	char byte;

	parse(&floor, argc, argv);
	prepare(&floor);
	before = now_ms();
	all = start_all(&floor);
	after = now_ms();
	if (all)
		print(&floor, after - before);
	while (floor.hold && read(0, &byte, 1) > 0)
		;
	end_all(&floor);
	return all ? 0 : 1;
}
