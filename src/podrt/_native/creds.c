/* What the program may do: identities, capabilities, limits, filter, and writes to procfs. */
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

	if (syscall(SYS_capget, &head, data) < 0)
		return -errno;
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

	return syscall(SYS_capset, &head, data) < 0 ? -errno : 0;
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

/* What cannot be granted is left out. Source: runtime-spec 1.1, "capabilities". */
static void raise_ambient(uint64_t ambient)
{
	for (int cap = 0; cap <= LAST_CAPABILITY; cap++)
		if (ambient >> cap & 1)
			prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0);
}

static int apply_caps(struct child *child)
{
	const struct op_caps *want = &child->caps;
	struct cap_sets now = {0}, next;
	int result = get_caps(&now);

	if (result < 0)
		return result;
	/* After a change of user the effective set is empty; dropping needs CAP_SETPCAP. */
	if (now.effective != now.permitted) {
		now.effective = now.permitted;
		result = set_caps(&now);
	}
	if (result == 0)
		result = drop_bounding(want->bounding);
	if (result < 0)
		return result;
	next.permitted = want->permitted & now.permitted;
	next.effective = want->effective & next.permitted;
	next.inheritable = want->inheritable & now.permitted;
	result = set_caps(&next);
	if (result < 0)
		return result;
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		return -errno;
	raise_ambient(want->ambient);
	return 0;
}

/* CAPS before USER waits for it: changing the user needs capabilities that CAPS may drop. */
int op_caps(struct child *child, struct reader payload)
{
	child->detail = "capabilities";
	child->caps.bounding = take_u64(&payload);
	child->caps.effective = take_u64(&payload);
	child->caps.permitted = take_u64(&payload);
	child->caps.inheritable = take_u64(&payload);
	child->caps.ambient = take_u64(&payload);
	child->has_caps_set = true;
	return child->has_user || !plan_has(&child->launch->plan, OP_USER) ? apply_caps(child) : 0;
}

static int change_user(const struct child *child, uid_t uid, gid_t gid)
{
	/* Its own output is the user's: /dev/stdout is opened again by many programs. */
	if (uid != 0 && child->launch->plan.log_path &&
	    (fchown(STDOUT_FILENO, uid, (gid_t)-1) < 0 ||
	     fchown(STDERR_FILENO, uid, (gid_t)-1) < 0))
		return -errno;
	if (plan_has(&child->launch->plan, OP_CAPS) && prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0)
		return -errno;
	if (syscall(SYS_setresgid, gid, gid, gid) < 0 || syscall(SYS_setresuid, uid, uid, uid) < 0)
		return -errno;
	return prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0) < 0 ? -errno : 0;
}

int op_user(struct child *child, struct reader payload)
{
	uid_t uid = take_u32(&payload);
	gid_t gid = take_u32(&payload);
	uint32_t count = take_u32(&payload);
	int result;

	child->detail = "user";
	if (count > MAX_GROUPS || syscall(SYS_setgroups, count, payload.at) < 0)
		return count > MAX_GROUPS ? -EINVAL : -errno;
	result = change_user(child, uid, gid);
	child->has_user = true;
	return result == 0 && child->has_caps_set ? apply_caps(child) : result;
}

int op_no_new_privs(struct child *child, struct reader payload)
{
	(void)payload;
	child->detail = "no_new_privs";
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? -errno : 0;
}

int op_seccomp(struct child *child, struct reader payload)
{
	struct sock_filter room[MAX_FILTER];
	uint32_t how = take_u32(&payload);
	struct sock_fprog program = {.filter = room};
	struct stat st;
	int result;

	child->detail = take_str(&payload);
	if (fstat(child->filter, &st) < 0)
		return -errno;
	if (st.st_size <= 0 || (size_t)st.st_size > sizeof(room) ||
	    (size_t)st.st_size % sizeof(room[0]))
		return -EINVAL;
	result = read_all(child->filter, room, (size_t)st.st_size, 0);
	if (result == 0)
		result = child_seal(child);
	if (result < 0)
		return result;
	program.len = (unsigned short)((size_t)st.st_size / sizeof(room[0]));
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, how, &program) < 0)
		return -errno;
	return 0;
}

/* A kernel without keyrings has nothing to keep apart. */
int op_keyring(struct child *child, struct reader payload)
{
	const char *name = take_str(&payload);

	child->detail = "session keyring";
	if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, *name ? name : NULL) < 0)
		return errno == ENOSYS ? 0 : -errno;
	return 0;
}

int op_rlimit(struct child *child, struct reader payload)
{
	uint32_t resource = take_u32(&payload);
	uint64_t soft = take_u64(&payload), hard = take_u64(&payload);
	const struct rlimit limit = {.rlim_cur = soft, .rlim_max = hard};

	snprintf(child->note, sizeof(child->note), "rlimit %u", resource);
	child->detail = child->note;
	return syscall(SYS_prlimit64, 0, resource, &limit, NULL) < 0 ? -errno : 0;
}

int op_umask(struct child *child, struct reader payload)
{
	child->umask = take_u32(&payload) & 0777;
	if (child->is_sealed)
		umask(child->umask);
	return 0;
}

/* Never above `below`: a key of a stranger must not reach the rest of procfs. */
static int write_proc(struct child *child, const char *below, const char *path, const char *text)
{
	int proc = verified_proc(child);
	cleanup_fd int dir = -1, fd = -1;

	if (proc < 0)
		return proc;
	dir = k_openat2(proc, below, O_PATH | O_DIRECTORY, BELOW);
	if (dir < 0)
		return dir;
	fd = k_openat2(dir, path, O_WRONLY | O_NOCTTY, BELOW);
	return fd < 0 ? fd : write_all(fd, text, strlen(text));
}

/* "net.ipv4.ip_forward"; with a slash as its first separator the key is a path already, for
 * interface names that hold dots. Source: sysctl.d(5). */
int op_sysctl(struct child *child, struct reader payload)
{
	const char *key = take_str(&payload), *value = take_str(&payload);
	const char *first = strpbrk(key, "./");
	bool by_dots = first && *first == '.';
	char path[256];

	child->detail = key;
	if (strlen(key) >= sizeof(path))
		return -ENAMETOOLONG;
	for (size_t i = 0; i <= strlen(key); i++) {
		path[i] = key[i];
		if (by_dots && (key[i] == '.' || key[i] == '/'))
			path[i] = key[i] == '.' ? '/' : '.';
	}
	return write_proc(child, "sys", path, value);
}

int op_oom_score(struct child *child, struct reader payload)
{
	int32_t score = (int32_t)take_u32(&payload);
	char own[16], text[16];

	child->detail = "oom_score_adj";
	snprintf(own, sizeof(own), "%d", (int)getpid());
	snprintf(text, sizeof(text), "%d", (int)score);
	return write_proc(child, own, "oom_score_adj", text);
}
