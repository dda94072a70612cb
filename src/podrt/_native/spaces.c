/* The namespaces that the containers of a pod share: held as descriptors, without a process. */
#include "monitor.h"

#include <inttypes.h>
#include <net/if.h>
#include <sys/socket.h>

#define HOSTNAME_ROOM 65

/* Below the run directory: a link for nsenter and OCI runtimes, and a mark that tells the next
 * monitor the inode. */
static const struct {
	uint32_t type;
	const char *name, *link, *mark;
} kinds[HELD_KINDS] = {
    {CLONE_NEWNET, "net", "ns/net", "ns/.net"},
    {CLONE_NEWIPC, "ipc", "ns/ipc", "ns/.ipc"},
    {CLONE_NEWUTS, "uts", "ns/uts", "ns/.uts"},
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
	for (int i = 0; i < HELD_KINDS; i++)
		held[i] = (struct held_ns){.type = kinds[i].type, .fd = -1};
	for (int i = 0; i < HELD_KINDS; i++) {
		char path[48], who[16] = "self";
		struct stat st;

		if (!(flags & kinds[i].type))
			continue;
		if (pid)
			snprintf(who, sizeof(who), "%d", (int)pid);
		snprintf(path, sizeof(path), "/proc/%s/ns/%s", who, kinds[i].name);
		held[i].fd = open(path, O_RDONLY | O_CLOEXEC);
		if (held[i].fd < 0 || fstat(held[i].fd, &st) < 0)
			return -errno;
		held[i].inode = st.st_ino;
	}
	return 0;
}

static int enter(const struct held_ns *held)
{
	for (int i = 0; i < HELD_KINDS; i++)
		if (held[i].fd >= 0 && setns(held[i].fd, (int)held[i].type) < 0)
			return -errno;
	return 0;
}

static int raise_loopback(void)
{
	cleanup_fd int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};

	if (fd < 0)
		return -errno;
	return ioctl(fd, SIOCSIFFLAGS, &request) < 0 ? -errno : 0;
}

static int make_spaces(uint32_t flags, const char *hostname, uint32_t hostname_bytes)
{
	int result = 0;

	if (unshare((int)flags) < 0)
		return -errno;
	if (flags & CLONE_NEWUTS && hostname_bytes && sethostname(hostname, hostname_bytes) < 0)
		return -errno;
	if (flags & CLONE_NEWNET)
		result = raise_loopback();
	return result;
}

/* Makes new ones and comes back; a monitor that cannot must not go on in the pod's. */
static int make_held(struct monitor *m, uint32_t flags, const struct request *request)
{
	struct held_ns home[HELD_KINDS];
	int result = open_spaces(home, 0, flags);

	if (result == 0)
		result = make_spaces(flags, request->body, request->body_bytes);
	if (result == 0)
		result = open_spaces(m->held, 0, flags);
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
	if (mount("shm", m->shm_path, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options) < 0)
		return -errno;
	m->has_shm = true;
	return 0;
}

static void replace_link(const struct monitor *m, const char *target, const char *name)
{
	unlinkat(m->dir, name, 0);
	if (symlinkat(target, m->dir, name) < 0)
		return;
}

static void link_spaces(const struct monitor *m)
{
	char target[48];

	mkdirat(m->dir, "ns", 0700);
	for (int i = 0; i < HELD_KINDS; i++) {
		if (m->held[i].fd < 0)
			continue;
		snprintf(target, sizeof(target), "/proc/%d/fd/%d", (int)getpid(), m->held[i].fd);
		replace_link(m, target, kinds[i].link);
		snprintf(target, sizeof(target), "%" PRIu64, m->held[i].inode);
		replace_link(m, target, kinds[i].mark);
	}
}

/* A dead monitor's links lead to whatever process has its number now; its marks are kept until
 * the namespaces are given up. */
void spaces_unlink(const struct monitor *m, bool with_marks)
{
	for (int i = 0; i < HELD_KINDS; i++) {
		unlinkat(m->dir, kinds[i].link, 0);
		if (with_marks)
			unlinkat(m->dir, kinds[i].mark, 0);
	}
}

static void release_all(struct monitor *m)
{
	drop(m->held);
	m->held_flags = 0;
	if (m->has_shm)
		umount2(m->shm_path, MNT_DETACH);
	m->has_shm = false;
}

static bool is_marked(const struct monitor *m)
{
	for (int i = 0; i < HELD_KINDS; i++) {
		char text[48] = "";

		if (m->held[i].fd < 0)
			continue;
		if (readlinkat(m->dir, kinds[i].mark, text, sizeof(text) - 1) < 0 ||
		    strtoull(text, NULL, 10) != m->held[i].inode)
			return false;
	}
	return true;
}

/* After a monitor's death: a member that still runs is in the pod's namespaces, unless it was
 * allowed to leave them. What it went to must not become the pod's. */
static pid_t take_from_member(struct monitor *m, uint32_t flags)
{
	for (uint32_t i = 0; i < BUCKETS; i++) {
		for (struct container *c = m->table.by_pid[i]; c; c = c->next_by_pid) {
			if (c->pidfd.fd < 0)
				continue;
			if (open_spaces(m->held, c->pid, flags) == 0 && is_marked(m))
				return c->pid;
			drop(m->held);
		}
	}
	return 0;
}

/* The mount at /dev/shm of a member, as a clone that belongs to nobody yet. */
static int clone_shm(int mount_ns)
{
	cleanup_fd int place = -1;
	struct statfs fs;

	if (setns(mount_ns, CLONE_NEWNS) < 0)
		return -errno;
	place = k_openat2(AT_FDCWD, "/dev/shm", O_PATH | O_DIRECTORY, RESOLVE_NO_SYMLINKS);
	if (place < 0)
		return place;
	if (fstatfs(place, &fs) < 0 || fs.f_type != TMPFS_MAGIC)
		return -ENOENT;
	return k_open_tree(place, "", false);
}

/* The pod's shared memory lives on in its members: newcomers shall see what is in it. */
static int take_shm(struct monitor *m, pid_t member)
{
	cleanup_fd int home = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
	cleanup_fd int there = -1, tree = -1, place = -1;
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d/ns/mnt", (int)member);
	there = open(path, O_RDONLY | O_CLOEXEC);
	if (home < 0 || there < 0)
		return -errno;
	tree = clone_shm(there);
	if (setns(home, CLONE_NEWNS) < 0)
		give_up(m);
	place = open(m->shm_path, O_PATH | O_CLOEXEC);
	if (tree < 0 || place < 0)
		return tree < 0 ? tree : -errno;
	m->has_shm = k_move_mount(tree, place) == 0;
	return m->has_shm ? 0 : -EINVAL;
}

static int journal_spaces(struct monitor *m, const struct request *request, enum record_kind kind)
{
	struct journal_record record = {
	    .kind = (uint16_t)kind,
	    .pid = getpid(),
	    .code = (int32_t)m->held_flags,
	    .a = m->held[0].inode,
	    .b = m->held[1].inode,
	};

	memcpy(record.id, request->head.id, ID_BYTES);
	return journal_append(&m->journal, record);
}

static void answer_spaces(struct monitor *m, const struct request *request)
{
	uint64_t inodes[HELD_KINDS];
	struct reply reply = {.head.type = MSG_OK, .body = inodes, .body_bytes = sizeof(inodes)};

	for (int i = 0; i < HELD_KINDS; i++)
		inodes[i] = m->held[i].inode;
	memcpy(reply.head.id, request->head.id, ID_BYTES);
	reply_to(m, request->asker, reply);
}

static int check_setup(const struct monitor *m, const struct request *request)
{
	const uint32_t flags = (uint32_t)request->head.arg;

	if (flags & ~(uint32_t)(CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS))
		return -EPROTO;
	if (request->body_bytes >= HOSTNAME_ROOM ||
	    memchr(request->body, '\0', request->body_bytes))
		return -EPROTO;
	if (m->is_removing)
		return -ECANCELED;
	return m->held_flags != 0 && flags != m->held_flags ? -EBUSY : 0;
}

int spaces_setup(struct monitor *m, const struct request *request)
{
	const uint32_t flags = (uint32_t)request->head.arg;
	int result = check_setup(m, request);
	pid_t member;

	if (result < 0)
		return result;
	if (flags == 0 || flags == m->held_flags) {
		answer_spaces(m, request);
		return 0;
	}
	member = take_from_member(m, flags);
	if (!member)
		result = make_held(m, flags, request);
	m->held_flags = flags;
	if (result == 0 && flags & CLONE_NEWIPC && request->head.a > 0 &&
	    (!member || take_shm(m, member) < 0))
		result = mount_shm(m, request->head.a);
	if (result == 0)
		result = journal_spaces(m, request, REC_NS_UP);
	if (result < 0) {
		release_all(m);
		return result;
	}
	link_spaces(m);
	answer_spaces(m, request);
	return 0;
}

int spaces_release(struct monitor *m, const struct request *request)
{
	int result = 0;

	if (m->live > 0)
		return -EBUSY;
	if (m->held_flags)
		result = journal_spaces(m, request, REC_NS_DOWN);
	if (result < 0)
		return result;
	release_all(m);
	spaces_unlink(m, true);
	reply_ok(m, request);
	return 0;
}
