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
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct sets[2];

	TRY(K(capget, &head, sets));
	/* After a change of user the effective set is empty; dropping needs CAP_SETPCAP. */
	sets[0].effective = sets[0].permitted;
	sets[1].effective = sets[1].permitted;
	TRY(K(capset, &head, sets));
	TRY(drop_bounding(want[0].q));
	for (int i = 0; i < 2; i++) {
		sets[i].inheritable = (uint32_t)(want[3].q >> 32 * i) & sets[i].permitted;
		sets[i].permitted &= (uint32_t)(want[2].q >> 32 * i);
		sets[i].effective = (uint32_t)(want[1].q >> 32 * i) & sets[i].permitted;
	}
	TRY(K(capset, &head, sets));
	TRY(checked(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)));
	for (int cap = 0; cap <= LAST_CAPABILITY; cap++)
		if (want[4].q >> cap & 1)
			prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0);
	return 0;
}

/* CAPS before USER waits for it: changing the user needs capabilities that CAPS may drop. */
int op_caps(struct child *child, const struct op *op)
{
	child->has_caps = true;
	memcpy(child->caps, op->f, sizeof(child->caps));
	return child->has_user || !plan_has(child->plan, OP_USER) ? apply_caps(op->f) : 0;
}

/* uid, gid, groups */
int op_user(struct child *child, const struct op *op)
{
	const uint32_t uid = op->f[0].u, gid = op->f[1].u;
	const struct list groups = op->f[2].l;

	if (groups.count > MAX_GROUPS)
		return -EINVAL;
	if (groups.count || !child->keeps_groups)
		TRY(K(setgroups, groups.count, groups.items.at));
	TRY(checked(prctl(PR_SET_KEEPCAPS, plan_has(child->plan, OP_CAPS), 0, 0, 0)));
	TRY(K(setresgid, gid, gid, gid));
	TRY(K(setresuid, uid, uid, uid));
	TRY(checked(prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0)));
	child->has_user = true;
	return child->has_caps ? apply_caps(child->caps) : 0;
}

/* flags, path of the filter; its listener goes to whoever decides about the calls.
 * Source: runtime-spec, "containerProcessState". */
int op_seccomp(struct child *child, const struct op *op)
{
	const struct plan *plan = child->plan;
	struct sock_filter room[MAX_FILTER];
	struct sock_fprog program = {.filter = room};
	char state[STATE_ROOM];
	struct stat st;

	child->detail = op->f[1].s;
	TRY(checked(fstat(child->filter, &st)));
	if (st.st_size <= 0 || (size_t)st.st_size > sizeof(room) ||
	    (size_t)st.st_size % sizeof(room[0]) ||
	    !(op->f[0].u & SECCOMP_FILTER_FLAG_NEW_LISTENER) != !plan_has(plan, OP_NOTIFY))
		return -EINVAL;
	TRY(read_all(child->filter, room, (size_t)st.st_size, 0));
	TRY(child_seal(child));
	if (child->launch->start >= 0)
		TRY(child_hold(child));
	program.len = (unsigned short)((size_t)st.st_size / sizeof(room[0]));
	if (!plan_has(plan, OP_NOTIFY))
		return K(seccomp, SECCOMP_SET_MODE_FILTER, op->f[0].u, &program);
	int length = child_expand(child, plan_str(plan, OP_NOTIFY, 1), state);
	TRY(length);
	OPEN(listener, K(seccomp, SECCOMP_SET_MODE_FILTER, op->f[0].u, &program));
	child->detail = plan_str(plan, OP_NOTIFY, 0);
	return send_message(child->notify, state, (size_t)length, NULL, 0, listener);
}

/* policy, nice, priority, flags, runtime, deadline, period */
static int set_scheduler(const union field *f)
{
	const struct {
		uint32_t size, policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime, deadline, period;
	} attr = {sizeof(attr), f[0].u, f[3].q, (int32_t)f[1].u, f[2].u, f[4].q, f[5].q, f[6].q};

	return K(sched_setattr, 0, &attr, 0);
}

/* Operations that are a call. */
int op_call(struct child *child, const struct op *op)
{
	const union field *f = op->f;
	unsigned long cpus[128] = {0};
	uint64_t limit[] = {f[1].q, f[2].q}; /* struct rlimit64 */
	int result;

	switch (op->code) {
	case OP_HOSTNAME:
		return checked(sethostname(f[0].s, strlen(f[0].s)));
	case OP_DOMAINNAME:
		return checked(setdomainname(f[0].s, strlen(f[0].s)));
	case OP_NO_NEW_PRIVS:
		return checked(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	case OP_RLIMIT:
		snprintf(child->note, sizeof(child->note), "rlimit %u", f[0].u);
		child->detail = child->note;
		return K(prlimit64, 0, f[0].u, limit, NULL);
	case OP_KEYRING:
		/* A kernel without keyrings has nothing to keep apart. */
		result = K(keyctl, KEYCTL_JOIN_SESSION_KEYRING, *f[0].s ? f[0].s : NULL);
		return result == -ENOSYS ? 0 : result;
	case OP_IOPRIO: /* class, priority. Source: ioprio_set(2) */
		return K(ioprio_set, 1 /* a process */, 0, f[0].u << 13 | f[1].u);
	case OP_SCHED:
		return set_scheduler(f);
	case OP_AFFINITY:
		if (f[0].l.count > sizeof(cpus))
			return -EINVAL;
		memcpy(cpus, f[0].l.items.at, f[0].l.count);
		return K(sched_setaffinity, 0, sizeof(cpus), cpus);
	case OP_PERSONALITY:
		return K(personality, f[0].q);
	default: /* UMASK */
		child->umask = f[0].u & 0777;
		if (child->is_sealed)
			umask(child->umask);
		return 0;
	}
}

/* Never above `below`: a key of a stranger must not reach the rest of procfs. */
static int write_proc(struct child *child, const char *below, const char *path, const char *text)
{
	int proc = verified_proc(child);

	TRY(proc);
	OPEN(dir, k_openat2(proc, below, O_PATH | O_DIRECTORY, BELOW));
	OPEN(fd, k_openat2(dir, path, O_WRONLY | O_NOCTTY, BELOW));
	return write_all(fd, text, strlen(text));
}

/* "net.ipv4.ip_forward"; with a slash as its first separator the key is a path already, for
 * interface names that hold dots. Source: sysctl.d(5). */
int op_sysctl(struct child *child, const struct op *op)
{
	const char *key = op->f[0].s, *first = strpbrk(key, "./");
	bool by_dots = first && *first == '.';
	char path[256];

	if (strlen(key) >= sizeof(path))
		return -ENAMETOOLONG;
	strcpy(path, key);
	for (char *at = path; by_dots && *at; at++)
		if (*at == '.' || *at == '/')
			*at = *at == '.' ? '/' : '.';
	return write_proc(child, "sys", path, op->f[1].s);
}

/* For the program to come. Two modules share a file in older kernels. */
int op_label(struct child *child, const struct op *op)
{
	char own[32], text[PATH_ROOM];
	const bool is_selinux = op->code == OP_SELINUX;
	int result = -ENOENT;

	snprintf(own, sizeof(own), "%d/attr", (int)getpid());
	if (snprintf(text, sizeof(text), "%s%s", is_selinux ? "" : "exec ", op->f[0].s) >=
	    (int)sizeof(text))
		return -ENAMETOOLONG;
	if (!is_selinux)
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
	struct statfs fs;
	int unlock = 0;

	child->detail = "/dev/pts/ptmx";
	if (child->root < 0)
		return -EINVAL;
	OPEN(master, k_openat2(child->root, child->detail, O_RDWR | O_NOCTTY,
			       RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS));
	if (fstatfs(master, &fs) < 0 || fs.f_type != DEVPTS_SUPER_MAGIC)
		return -ENODEV;
	TRY(checked(ioctl(master, TIOCSPTLCK, &unlock)));
	OPEN(slave, checked(ioctl(master, K_TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC)));
	if (size.ws_row)
		TRY(checked(ioctl(slave, TIOCSWINSZ, &size)));
	TRY(checked(fchown(slave, child->plan->last[OP_USER].f[0].u, (gid_t)-1)));
	if (*op->f[2].s) {
		child->detail = op->f[2].s;
		OPEN(tree, k_open_tree(slave, "", false));
		TRY(place_file(child, tree, op->f[2].s));
	}
	TRY(checked(ioctl(slave, TIOCSCTTY, 0)));
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		TRY(checked(dup2(slave, fd)));
	return send_message(child->launch->report[1], &report, sizeof(report), NULL, 0, master);
}
