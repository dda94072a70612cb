/* Paths inside a rootfs. The rootfs is a stranger's: every path is resolved by openat2 below
 * the new root, and what is missing is made under the directory that was opened, never by a
 * path that the kernel would walk again. */
#include "launch.h"

#include <sys/sysmacros.h>

#define IN_ROOT (RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)

int open_in_root(const struct child *child, const char *path)
{
	if (child->root < 0)
		return -EINVAL;
	return k_openat2(child->root, path, O_PATH, IN_ROOT);
}

static int open_directory(const struct child *child, const char *path)
{
	return k_openat2(child->root, *path ? path : ".", O_PATH | O_DIRECTORY, IN_ROOT);
}

/* One missing component: made under `parent`, then opened there and nowhere else. A ".." that
 * seems to be missing is one whose directory was just moved away: it would lead out. */
static int make_component(int parent, const char *name)
{
	int fd;

	if (!strcmp(name, ".") || !strcmp(name, ".."))
		return -EINVAL;
	if (mkdirat(parent, name, 0755) < 0 && errno != EEXIST)
		return -errno;
	fd = openat(parent, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* The directory `path`, with every component made that is not there. */
int make_in_root(const struct child *child, const char *path)
{
	char walked[PATH_ROOM];
	size_t length = strlen(path);
	cleanup_fd int here = open_directory(child, path);

	if (here >= 0 || here != -ENOENT)
		return take_fd(&here);
	if (length >= sizeof(walked))
		return -ENAMETOOLONG;
	memcpy(walked, path, length + 1);
	here = open_directory(child, "/");
	for (char *name = walked, *end; here >= 0 && *name; name = end) {
		char kept;
		int next;

		name += strspn(name, "/");
		end = name + strcspn(name, "/");
		if (end == name)
			break;
		kept = *end;
		*end = '\0';
		next = open_directory(child, walked);
		if (next == -ENOENT)
			next = make_component(here, name);
		*end = kept;
		close_fd(&here);
		here = next;
	}
	return take_fd(&here);
}

/* The directory that holds the last component of `path`; `name` becomes that component. */
static int make_parent(const struct child *child, const char *path, const char **name)
{
	char parent[PATH_ROOM];
	const char *slash = strrchr(path, '/');
	size_t length = slash ? (size_t)(slash - path) : 0;

	*name = slash ? slash + 1 : path;
	if (length >= sizeof(parent))
		return -ENAMETOOLONG;
	if (!**name || !strcmp(*name, ".") || !strcmp(*name, ".."))
		return -EINVAL;
	memcpy(parent, path, length);
	parent[length] = '\0';
	return make_in_root(child, length ? parent : "/");
}

int make_file_in_root(const struct child *child, const char *path)
{
	const char *name;
	cleanup_fd int parent = make_parent(child, path, &name);
	cleanup_fd int made = -1;

	if (parent < 0)
		return parent;
	made = openat(parent, name, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (made < 0 && errno != EEXIST)
		return -errno;
	return open_in_root(child, path);
}

int op_device(struct child *child, struct reader payload)
{
	const char *path = take_str(&payload), *name;
	uint32_t kind = take_u32(&payload), major = take_u32(&payload);
	uint32_t minor = take_u32(&payload), mode = take_u32(&payload) & 07777;
	uint32_t uid = take_u32(&payload), gid = take_u32(&payload);
	dev_t device = kind == 'p' ? 0 : makedev(major, minor);
	mode_t type = kind == 'c' ? S_IFCHR : kind == 'b' ? S_IFBLK : S_IFIFO;
	cleanup_fd int parent = -1;
	struct stat st;

	child->detail = path;
	if (kind != 'c' && kind != 'b' && kind != 'p')
		return -EINVAL;
	parent = make_parent(child, path, &name);
	if (parent < 0)
		return parent;
	if (mknodat(parent, name, type | mode, device) == 0) {
		if (uid == 0 && gid == 0)
			return 0;
		return fchownat(parent, name, uid, gid, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
	}
	/* What is there already may be the host's own node: use it, never change it. */
	if (errno != EEXIST)
		return -errno;
	if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	return (st.st_mode & S_IFMT) == type && st.st_rdev == device ? 0 : -EEXIST;
}

int op_symlink(struct child *child, struct reader payload)
{
	const char *target = take_str(&payload), *path = take_str(&payload), *name;
	cleanup_fd int parent = -1;

	child->detail = path;
	parent = make_parent(child, path, &name);
	if (parent < 0)
		return parent;
	/* An image may bring its own /etc/mtab: that one stays. */
	return symlinkat(target, parent, name) < 0 && errno != EEXIST ? -errno : 0;
}

/* CVE-2024-21626: a working directory outside the root would be a way out of it. */
int op_cwd(struct child *child, struct reader payload)
{
	const char *path = take_str(&payload);
	char room[PATH_ROOM];
	cleanup_fd int fd = -1;

	child->detail = path;
	if (child->root < 0)
		return -EINVAL;
	fd = child->flags & 1 ? make_in_root(child, path) : open_directory(child, path);
	if (fd < 0)
		return fd;
	if (fchdir(fd) < 0)
		return -errno;
	if (syscall(SYS_getcwd, room, sizeof(room)) < 0)
		return -errno;
	return room[0] == '/' ? 0 : -ENOENT;
}
