/* The namespaces that the containers of a pod share: held as descriptors, without a process. */
#include "monitor.h"

#include <inttypes.h>
#include <net/if.h>

#define HOSTNAME_ROOM 65

/* Below the run directory: a link for nsenter and OCI runtimes, and a mark that tells the next
 * monitor the inode. */
static const struct {
	uint32_t type;
	const char *name, *link, *mark;
} kinds[ALL_KINDS] = {
    {CLONE_NEWNET, "net", "ns/net", "ns/.net"},
    {CLONE_NEWIPC, "ipc", "ns/ipc", "ns/.ipc"},
    {CLONE_NEWUTS, "uts", "ns/uts", "ns/.uts"},
    {CLONE_NEWUSER, "user", "ns/user", "ns/.user"},
    {CLONE_NEWPID, "pid", "ns/pid", "ns/.pid"},
    {CLONE_NEWCGROUP, "cgroup", "ns/cgroup", "ns/.cgroup"},
};

static void drop(struct held_ns *held)
{
	for (int i = 0; i < HELD_KINDS; i++) {
		close_fd(&held[i].fd);
		held[i].inode = 0;
	}
}

/* The namespaces `pid` is in (0: ours), as far as `flags` asks for them. */
static int open_spaces(struct held_ns *held, pid_t pid, uint32_t flags)
{
	struct stat st;

	for (int i = 0; i < HELD_KINDS; i++)
		held[i] = (struct held_ns){.type = kinds[i].type, .fd = -1};
	for (int i = 0; i < HELD_KINDS; i++) {
		if (!(flags & kinds[i].type))
			continue;
		held[i].fd = open_path(O_RDONLY, "/proc/%d/ns/%s", (int)(pid ? pid : getpid()),
				       kinds[i].name);
		TRY(held[i].fd);
		TRY(checked(fstat(held[i].fd, &st)));
		held[i].inode = st.st_ino;
	}
	return 0;
}

/* Never a user namespace: there is no way back from one. */
static int enter(const struct held_ns *held)
{
	for (int i = 0; i < HELD_KINDS; i++)
		if (held[i].fd >= 0 && held[i].type != CLONE_NEWUSER)
			TRY(checked(setns(held[i].fd, (int)held[i].type)));
	return 0;
}

/* Those of a pod with a user namespace belong to that. The maps follow the hostname. */
static int open_user_spaces(struct monitor *m, uint32_t flags, const char *hostname)
{
	const char *uid_map = hostname + strlen(hostname) + 1;
	pid_t pid = launch_idle(flags, uid_map, uid_map + strlen(uid_map) + 1);
	int result = pid < 0 ? pid : open_spaces(m->held, pid, flags);

	if (pid > 0)
		end_idle(pid);
	return result < 0 ? result : enter(m->held);
}

static int make_spaces(struct monitor *m, uint32_t flags, const char *hostname)
{
	const bool has_user = flags & CLONE_NEWUSER;
	struct ifreq loopback = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};

	TRY(has_user ? open_user_spaces(m, flags, hostname) : checked(unshare((int)flags)));
	if (flags & CLONE_NEWUTS && *hostname)
		TRY(checked(sethostname(hostname, strlen(hostname))));
	if (flags & CLONE_NEWNET) {
		OPEN(sock, checked(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)));
		TRY(checked(ioctl(sock, SIOCSIFFLAGS, &loopback)));
	}
	return has_user ? 0 : open_spaces(m->held, 0, flags);
}

/* Makes new ones and comes back; a monitor that cannot must not go on in the pod's. */
static int make_held(struct monitor *m, uint32_t flags, const struct request *request)
{
	struct held_ns home[HELD_KINDS];
	int result = open_spaces(home, 0, flags);

	if (result == 0)
		result = make_spaces(m, flags, request->body);
	if (enter(home) < 0)
		give_up(m);
	drop(home);
	return result;
}

/* The pod's /dev/shm, in the monitor's mount namespace only; every container takes a clone. */
static int mount_shm(struct monitor *m, uint64_t bytes)
{
	char options[48];

	snprintf(options, sizeof(options), "mode=1777,size=%llu", (unsigned long long)bytes);
	TRY(checked(mount("shm", m->shm_path, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options)));
	m->has_shm = true;
	return 0;
}

/* A dead monitor's links lead to whatever process has its number now; its marks are kept until
 * the namespaces are given up. */
void spaces_unlink(const struct monitor *m, bool with_marks)
{
	for (int i = 0; i < ALL_KINDS; i++) {
		unlinkat(m->dir, kinds[i].link, 0);
		if (with_marks)
			unlinkat(m->dir, kinds[i].mark, 0);
	}
}

static void link_spaces(const struct monitor *m, int from, int end)
{
	char text[48];

	mkdirat(m->dir, "ns", 0700);
	for (int i = from; i < end; i++) {
		unlinkat(m->dir, kinds[i].link, 0);
		unlinkat(m->dir, kinds[i].mark, 0);
		if (m->held[i].fd < 0)
			continue;
		snprintf(text, sizeof(text), "/proc/%d/fd/%d", (int)getpid(), m->held[i].fd);
		checked(symlinkat(text, m->dir, kinds[i].link));
		snprintf(text, sizeof(text), "%" PRIu64, m->held[i].inode);
		checked(symlinkat(text, m->dir, kinds[i].mark));
	}
}

/* While a process that leads lives, the others join what only a process can bring. Nothing of a
 * dead one is kept: no process could be made in its pid namespace. */
void spaces_lead(struct monitor *m, const struct container *c, bool lives)
{
	if (!c->leads)
		return;
	for (int i = HELD_KINDS; i < ALL_KINDS; i++) {
		struct held_ns *held = &m->held[i];
		struct stat st = {0};

		close_fd(&held->fd);
		held->type = kinds[i].type;
		if (lives)
			held->fd =
			    open_path(O_RDONLY, "/proc/%d/ns/%s", (int)c->pid, kinds[i].name);
		/* Still ours to reap, or to signal: then the number was not another's. */
		if (held->fd >= 0 && (signal_container(c, 0) < 0 || fstat(held->fd, &st) < 0))
			close_fd(&held->fd);
		held->inode = st.st_ino;
	}
	link_spaces(m, HELD_KINDS, ALL_KINDS);
}

static void release_all(struct monitor *m)
{
	drop(m->held);
	m->held_flags = 0;
	if (m->has_shm)
		umount2(m->shm_path, MNT_DETACH);
	m->has_shm = false;
}

/* After a monitor's death: a member that still runs is in the pod's namespaces, unless it was
 * allowed to leave them. What it went to must not become the pod's. */
static bool take_from(struct monitor *m, pid_t pid, uint32_t flags)
{
	bool is_marked = open_spaces(m->held, pid, flags) == 0;

	for (int i = 0; is_marked && i < HELD_KINDS; i++) {
		char text[48] = "";

		if (m->held[i].fd >= 0)
			is_marked = readlinkat(m->dir, kinds[i].mark, text, sizeof(text) - 1) > 0 &&
				    strtoull(text, NULL, 10) == m->held[i].inode;
	}
	if (!is_marked)
		drop(m->held);
	return is_marked;
}

static pid_t take_from_member(struct monitor *m, uint32_t flags)
{
	for (uint32_t i = 0; i < BUCKETS; i++)
		for (struct container *c = m->table.by_pid[i]; c; c = c->next_by_pid)
			if (c->pidfd.fd >= 0 && take_from(m, c->pid, flags))
				return c->pid;
	return 0;
}

/* The mount at /dev/shm of a member, as a clone that belongs to nobody yet. */
static int clone_shm(int mount_ns)
{
	struct statfs fs;

	TRY(checked(setns(mount_ns, CLONE_NEWNS)));
	OPEN(place, k_openat2(AT_FDCWD, "/dev/shm", O_PATH | O_DIRECTORY, RESOLVE_NO_SYMLINKS));
	if (fstatfs(place, &fs) < 0 || fs.f_type != TMPFS_MAGIC)
		return -ENOENT;
	return k_open_tree(place, "", false);
}

/* The pod's shared memory lives on in its members: newcomers shall see what is in it. */
static int take_shm(struct monitor *m, pid_t member)
{
	int tree;

	OPEN(home, open_path(O_RDONLY, "/proc/self/ns/mnt"));
	OPEN(there, open_path(O_RDONLY, "/proc/%d/ns/mnt", (int)member));
	tree = clone_shm(there);
	if (setns(home, CLONE_NEWNS) < 0)
		give_up(m);
	OPEN(taken, tree);
	OPEN(place, checked(open(m->shm_path, O_PATH | O_CLOEXEC)));
	TRY(k_move_mount(taken, place));
	m->has_shm = true;
	return 0;
}

static int journal_spaces(struct monitor *m, const struct request *request, enum record_kind kind)
{
	struct journal_record record = record_for(request->head.id, kind);

	record.pid = getpid();
	record.code = (int32_t)m->held_flags;
	record.a = m->held[0].inode;
	record.b = m->held[1].inode;
	return journal_append(&m->journal, record);
}

/* The body: the hostname; with a user namespace a NUL, the uid map, a NUL, and the gid map. */
static int check_setup(const struct monitor *m, const struct request *request)
{
	const uint32_t flags = (uint32_t)request->head.arg;
	const uint32_t known = CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWUSER;
	uint32_t parts = 0;

	for (uint32_t i = 0; i < request->body_bytes; i++)
		parts += request->body[i] == '\0';
	if (flags & ~known || strlen(request->body) >= HOSTNAME_ROOM ||
	    parts != (flags & CLONE_NEWUSER ? 2 : 0))
		return -EPROTO;
	if (m->is_removing)
		return -ECANCELED;
	return m->held_flags != 0 && flags != m->held_flags ? -EBUSY : 0;
}

static int hold_spaces(struct monitor *m, const struct request *request)
{
	const uint32_t flags = (uint32_t)request->head.arg;
	const pid_t member = take_from_member(m, flags);

	m->held_flags = flags;
	if (!member)
		TRY(make_held(m, flags, request));
	if (flags & CLONE_NEWIPC && request->head.a > 0 && (!member || take_shm(m, member) < 0))
		TRY(mount_shm(m, request->head.a));
	return journal_spaces(m, request, REC_NS_UP);
}

int spaces_setup(struct monitor *m, const struct request *request)
{
	const uint32_t flags = (uint32_t)request->head.arg;
	uint64_t inodes[3];
	int result;

	TRY(check_setup(m, request));
	if (flags != 0 && flags != m->held_flags) {
		result = hold_spaces(m, request);
		if (result < 0) {
			release_all(m);
			return result;
		}
		link_spaces(m, 0, HELD_KINDS);
	}
	for (int i = 0; i < 3; i++)
		inodes[i] = m->held[i].inode;
	reply_ok(m, request, inodes, sizeof(inodes));
	return LATER;
}

int spaces_release(struct monitor *m, const struct request *request)
{
	if (m->live > 0 || m->waiting)
		return -EBUSY;
	/* Who gives them up has stopped the pod. */
	m->settle_flags &= ~START_SETTLE;
	if (m->held_flags)
		TRY(journal_spaces(m, request, REC_NS_DOWN));
	release_all(m);
	spaces_unlink(m, true);
	return 0;
}
