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

/* Bounding, effective, permitted, inheritable, ambient; after USER, which needs what they drop.
 * What cannot be granted is left out. Source: runtime-spec 1.1, "capabilities". */
int op_caps(struct child *child, const struct op *op)
{
	const union field *want = op->f;
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

/* uid, gid, groups */
int op_user(struct child *child, const struct op *op)
{
	const uint32_t uid = op->f[0].u, gid = op->f[1].u;
	const uint64_t groups = op->f[2].q;

	if (groups > MAX_GROUPS)
		return -EINVAL;
	if (groups || !child->keeps_groups)
		TRY(K(setgroups, groups, op->f[3].s));
	TRY(checked(prctl(PR_SET_KEEPCAPS, plan_has(child->plan, OP_CAPS), 0, 0, 0)));
	TRY(K(setresgid, gid, gid, gid));
	TRY(K(setresuid, uid, uid, uid));
	return checked(prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0));
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
	program.len = (unsigned short)((size_t)st.st_size / sizeof(room[0]));
	if (!plan_has(plan, OP_NOTIFY))
		return K(seccomp, SECCOMP_SET_MODE_FILTER, op->f[0].u, &program);
	int length = child_expand(child, plan->last[OP_NOTIFY]->f[1].l, state);
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
	int result;

	switch (op->code) {
	case OP_HOSTNAME:
		return checked(sethostname(f[0].s, strlen(f[0].s)));
	case OP_DOMAINNAME:
		return checked(setdomainname(f[0].s, strlen(f[0].s)));
	case OP_NO_NEW_PRIVS:
		return checked(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	case OP_RLIMIT: /* name, number, struct rlimit64 */
		return K(prlimit64, 0, f[1].u, f + 2, NULL);
	case OP_KEYRING:
		/* A kernel without keyrings has nothing to keep apart. */
		result = K(keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL);
		return result == -ENOSYS ? 0 : result;
	case OP_IOPRIO: /* class, priority. Source: ioprio_set(2) */
		return K(ioprio_set, 1 /* a process */, 0, f[0].u << 13 | f[1].u);
	case OP_SCHED:
		return set_scheduler(f);
	case OP_AFFINITY:
	case OP_FIRST_AFFINITY:
		if (f[0].q > sizeof(cpus))
			return -EINVAL;
		memcpy(cpus, f[1].s, f[0].q);
		return K(sched_setaffinity, 0, sizeof(cpus), cpus);
	case OP_PERSONALITY:
		return K(personality, f[0].q);
	default: /* PROPAGATION */
		child->detail = "/";
		if (f[0].q & ~(uint64_t)(PROPAGATIONS | MS_REC))
			return -EINVAL;
		return checked(mount(NULL, "/", NULL, (unsigned long)f[0].q, NULL));
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

/* key, its path, value */
int op_sysctl(struct child *child, const struct op *op)
{
	return write_proc(child, "sys", op->f[1].s, op->f[2].s);
}

/* For the program to come. label, files that take it if they are there, what to write */
int op_label(struct child *child, const struct op *op)
{
	char own[32];
	int result = -ENOENT;

	snprintf(own, sizeof(own), "%d/attr", (int)getpid());
	for (char **file = op->f[1].l; *file && result == -ENOENT; file++)
		result = write_proc(child, own, *file, op->f[2].s);
	return result;
}

#define K_TIOCGPTPEER _IO('T', 0x41)

/* rows, columns, console: the other end goes to whoever made us. Everything by descriptor: what
 * lies at /dev/ptmx or /dev/console may be a trap (CVE-2025-52565). */
int op_terminal(struct child *child, const struct op *op)
{
	const struct winsize size = {.ws_row = (unsigned short)op->f[0].u,
				     .ws_col = (unsigned short)op->f[1].u};
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
	TRY(checked(fchown(slave, child->plan->last[OP_USER]->f[0].u, (gid_t)-1)));
	if (*op->f[2].s) {
		child->detail = op->f[2].s;
		OPEN(tree, k_open_tree(slave, "", false));
		TRY(place_file(child, tree, op->f[2].s));
	}
	TRY(checked(ioctl(slave, TIOCSCTTY, 0)));
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		TRY(checked(dup2(slave, fd)));
	return say(child->launch->report[1], (struct wire_head){.type = MSG_TERMINAL}, "", master);
}
