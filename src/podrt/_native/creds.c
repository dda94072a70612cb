/* What the program is and may do: identities, capabilities, limits, filter, scheduling, terminal,
 * and writes to procfs. */
#include "launch.h"

#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/seccomp.h>

#define LAST_CAPABILITY 63
#define MAX_FILTER 4096 /* BPF_MAXINSNS */
#define MAX_GROUPS 65536
#define BELOW (RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV)

struct cap_sets {
	uint64_t effective, permitted, inheritable;
};

static int get_caps(struct cap_sets *sets)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2];

	TRY(K(capget, &head, data));
	sets->effective = data[0].effective | (uint64_t)data[1].effective << 32;
	sets->permitted = data[0].permitted | (uint64_t)data[1].permitted << 32;
	sets->inheritable = data[0].inheritable | (uint64_t)data[1].inheritable << 32;
	return 0;
}

static int set_caps(const struct cap_sets *sets)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2] = {
	    {(uint32_t)sets->effective, (uint32_t)sets->permitted, (uint32_t)sets->inheritable},
	    {(uint32_t)(sets->effective >> 32), (uint32_t)(sets->permitted >> 32),
	     (uint32_t)(sets->inheritable >> 32)},
	};

	return K(capset, &head, data);
}

static int drop_bounding(uint64_t keep)
{
	for (int cap = 0; cap <= LAST_CAPABILITY; cap++) {
		if (keep >> cap & 1 || prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) == 0)
			continue;
		/* EINVAL: this kernel knows no such capability, nor any above it. */
		return errno == EINVAL ? 0 : -errno;
	}
	return 0;
}

/* Bounding, effective, permitted, inheritable, ambient. What cannot be granted is left out.
 * Source: runtime-spec 1.1, "capabilities". */
static int apply_caps(const union field *want)
{
	struct cap_sets now = {0}, next;

	TRY(get_caps(&now));
	/* After a change of user the effective set is empty; dropping needs CAP_SETPCAP. */
	if (now.effective != now.permitted) {
		now.effective = now.permitted;
		TRY(set_caps(&now));
	}
	TRY(drop_bounding(want[0].q));
	next.permitted = want[2].q & now.permitted;
	next.effective = want[1].q & next.permitted;
	next.inheritable = want[3].q & now.permitted;
	TRY(set_caps(&next));
	TRY(checked(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)));
	for (int cap = 0; cap <= LAST_CAPABILITY; cap++)
		if (want[4].q >> cap & 1)
			prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0);
	return 0;
}

/* CAPS before USER waits for it: changing the user needs capabilities that CAPS may drop. */
int op_caps(struct child *child, const struct op *op)
{
	child->detail = "capabilities";
	child->has_caps = true;
	memcpy(child->caps, op->f, sizeof(child->caps));
	return child->has_user || !plan_has(child->plan, OP_USER) ? apply_caps(op->f) : 0;
}

/* uid, gid, groups */
int op_user(struct child *child, const struct op *op)
{
	const uid_t uid = op->f[0].u;
	const gid_t gid = op->f[1].u;
	const struct list groups = op->f[2].l;

	child->detail = "user";
	if (groups.count > MAX_GROUPS)
		return -EINVAL;
	if (groups.count || !child->plan->denies_setgroups)
		TRY(K(setgroups, groups.count, groups.items.at));
	TRY(checked(prctl(PR_SET_KEEPCAPS, plan_has(child->plan, OP_CAPS), 0, 0, 0)));
	TRY(K(setresgid, gid, gid, gid));
	TRY(K(setresuid, uid, uid, uid));
	TRY(checked(prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0)));
	child->has_user = true;
	return child->has_caps ? apply_caps(child->caps) : 0;
}

int op_no_new_privs(struct child *child, const struct op *op)
{
	(void)op;
	child->detail = "no_new_privs";
	return checked(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

/* To whoever decides about the calls. Source: runtime-spec, "containerProcessState". */
static int send_listener(struct child *child, int listener)
{
	char room[64 << 10];
	int length = child_expand(child, child->plan->notify_state, room, sizeof(room));

	child->detail = child->plan->notify_path;
	TRY(length);
	return send_message(child->notify, room, (size_t)length, NULL, 0, listener);
}

/* flags, path of the filter */
int op_seccomp(struct child *child, const struct op *op)
{
	struct sock_filter room[MAX_FILTER];
	struct sock_fprog program = {.filter = room};
	cleanup_fd int listener = -1;
	struct stat st;

	child->detail = op->f[1].s;
	TRY(checked(fstat(child->filter, &st)));
	if (st.st_size <= 0 || (size_t)st.st_size > sizeof(room) ||
	    (size_t)st.st_size % sizeof(room[0]))
		return -EINVAL;
	TRY(read_all(child->filter, room, (size_t)st.st_size, 0));
	TRY(child_seal(child));
	program.len = (unsigned short)((size_t)st.st_size / sizeof(room[0]));
	if (!(op->f[0].u & SECCOMP_FILTER_FLAG_NEW_LISTENER) != !child->plan->notify_path)
		return -EINVAL;
	if (!child->plan->notify_path)
		return K(seccomp, SECCOMP_SET_MODE_FILTER, op->f[0].u, &program);
	listener = K(seccomp, SECCOMP_SET_MODE_FILTER, op->f[0].u, &program);
	TRY(listener);
	return send_listener(child, listener);
}

/* A kernel without keyrings has nothing to keep apart. */
int op_keyring(struct child *child, const struct op *op)
{
	const char *name = *op->f[0].s ? op->f[0].s : NULL;
	int result = K(keyctl, KEYCTL_JOIN_SESSION_KEYRING, name);

	child->detail = "session keyring";
	return result == -ENOSYS ? 0 : result;
}

/* resource, soft, hard */
int op_rlimit(struct child *child, const struct op *op)
{
	const uint64_t limit[] = {op->f[1].q, op->f[2].q}; /* struct rlimit64 */

	snprintf(child->note, sizeof(child->note), "rlimit %u", op->f[0].u);
	child->detail = child->note;
	return K(prlimit64, 0, op->f[0].u, limit, NULL);
}

int op_umask(struct child *child, const struct op *op)
{
	child->umask = op->f[0].u & 0777;
	if (child->is_sealed)
		umask(child->umask);
	return 0;
}

/* class, priority. Source: ioprio_set(2) */
int op_ioprio(struct child *child, const struct op *op)
{
	child->detail = "I/O priority";
	return K(ioprio_set, 1 /* a process */, 0, op->f[0].u << 13 | op->f[1].u);
}

/* policy, nice, priority, flags, runtime, deadline, period */
int op_sched(struct child *child, const struct op *op)
{
	const struct {
		uint32_t size, policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime, deadline, period;
	} attr = {
	    sizeof(attr), op->f[0].u, op->f[3].q, (int32_t)op->f[1].u,
	    op->f[2].u,   op->f[4].q, op->f[5].q, op->f[6].q,
	};

	child->detail = "scheduler";
	return K(sched_setattr, 0, &attr, 0);
}

int op_affinity(struct child *child, const struct op *op)
{
	unsigned long mask[128] = {0};

	child->detail = "CPU affinity";
	if (op->f[0].l.count > sizeof(mask))
		return -EINVAL;
	memcpy(mask, op->f[0].l.items.at, op->f[0].l.count);
	return K(sched_setaffinity, 0, sizeof(mask), mask);
}

int op_personality(struct child *child, const struct op *op)
{
	child->detail = "personality";
	return K(personality, op->f[0].q);
}

/* Never above `below`: a key of a stranger must not reach the rest of procfs. */
static int write_proc(struct child *child, const char *below, const char *path, const char *text)
{
	int proc = verified_proc(child);
	cleanup_fd int dir = proc < 0 ? proc : k_openat2(proc, below, O_PATH | O_DIRECTORY, BELOW);
	cleanup_fd int fd = dir < 0 ? dir : k_openat2(dir, path, O_WRONLY | O_NOCTTY, BELOW);

	return fd < 0 ? fd : write_all(fd, text, strlen(text));
}

/* "net.ipv4.ip_forward"; with a slash as its first separator the key is a path already, for
 * interface names that hold dots. Source: sysctl.d(5). */
int op_sysctl(struct child *child, const struct op *op)
{
	const char *key = child->detail = op->f[0].s, *first = strpbrk(key, "./");
	bool by_dots = first && *first == '.';
	char path[256];

	if (strlen(key) >= sizeof(path))
		return -ENAMETOOLONG;
	for (size_t i = 0; i <= strlen(key); i++) {
		path[i] = key[i];
		if (by_dots && (key[i] == '.' || key[i] == '/'))
			path[i] = key[i] == '.' ? '/' : '.';
	}
	return write_proc(child, "sys", path, op->f[1].s);
}

/* For the program to come. Two modules share a file in older kernels. */
int op_label(struct child *child, const struct op *op)
{
	char own[32], text[PATH_ROOM];
	int result;

	child->detail = op->f[0].s;
	snprintf(own, sizeof(own), "%d/attr", (int)getpid());
	if (op->code == OP_SELINUX)
		return write_proc(child, own, "exec", op->f[0].s);
	if (snprintf(text, sizeof(text), "exec %s", op->f[0].s) >= (int)sizeof(text))
		return -ENAMETOOLONG;
	result = write_proc(child, own, "apparmor/exec", text);
	return result == -ENOENT ? write_proc(child, own, "exec", text) : result;
}

#define K_TIOCGPTPEER _IO('T', 0x41)

/* rows, columns, console: the other end goes to whoever made us. Everything by descriptor: what
 * lies at /dev/ptmx or /dev/console may be a trap (CVE-2025-52565). */
int op_terminal(struct child *child, const struct op *op)
{
	const struct winsize size = {.ws_row = (unsigned short)op->f[0].u,
				     .ws_col = (unsigned short)op->f[1].u};
	const struct report report = {.stage = OP_TERMINAL};
	cleanup_fd int master = -1, slave = -1, tree = -1;
	struct statfs fs;
	int unlock = 0;

	child->detail = "/dev/pts/ptmx";
	if (child->root < 0)
		return -EINVAL;
	master = k_openat2(child->root, child->detail, O_RDWR | O_NOCTTY,
			   RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS);
	TRY(master);
	if (fstatfs(master, &fs) < 0 || fs.f_type != DEVPTS_SUPER_MAGIC)
		return -ENODEV;
	TRY(checked(ioctl(master, TIOCSPTLCK, &unlock)));
	slave = checked(ioctl(master, K_TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
	TRY(slave);
	if (size.ws_row)
		TRY(checked(ioctl(slave, TIOCSWINSZ, &size)));
	TRY(checked(fchown(slave, child->plan->uid, (gid_t)-1)));
	if (*op->f[2].s) {
		child->detail = op->f[2].s;
		tree = k_open_tree(slave, "", false);
		TRY(tree);
		TRY(place_file(child, tree, op->f[2].s));
	}
	TRY(checked(ioctl(slave, TIOCSCTTY, 0)));
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		TRY(checked(dup2(slave, fd)));
	return send_message(child->launch->report[1], &report, sizeof(report), NULL, 0, master);
}
