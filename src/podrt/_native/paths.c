/* Paths inside a rootfs. The rootfs is a stranger's: every path is resolved by openat2 below
 * the new root, and what is missing is made under the directory that was opened, never by a
 * path that the kernel would walk again. */
#include "launch.h"

#include <sys/sendfile.h>

#define MAX_DEPTH 64

int open_in_root(const struct child *child, const char *path, uint64_t flags)
{
	if (child->root < 0)
		return -EINVAL;
	return k_openat2(child->root, *path ? path : ".", O_PATH | flags, IN_ROOT);
}

/* One missing component: made under `parent`, then opened there and nowhere else. A ".." that
 * seems to be missing is one whose directory was just moved away: it would lead out. */
static int make_component(int parent, const char *name)
{
	if (!strcmp(name, ".") || !strcmp(name, ".."))
		return -EINVAL;
	if (mkdirat(parent, name, 0755) < 0 && errno != EEXIST)
		return -errno;
	return checked(openat(parent, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
}

/* The directory `path`, with every component made that is not there. */
int make_in_root(const struct child *child, const char *path)
{
	char walked[PATH_ROOM];
	size_t length = strlen(path);
	cleanup_fd int here = open_in_root(child, path, O_DIRECTORY);

	if (here != -ENOENT)
		return take_fd(&here);
	if (length >= sizeof(walked))
		return -ENAMETOOLONG;
	memcpy(walked, path, length + 1);
	/* Mostly only the last one is missing. */
	char *name = strrchr(walked, '/');
	if (name && name > walked) {
		*name = '\0';
		here = open_in_root(child, walked, O_DIRECTORY);
		*name = '/';
	}
	if (here == -ENOENT) {
		name = walked;
		here = open_in_root(child, "/", O_DIRECTORY);
	}
	for (char *end; here >= 0; name = end) {
		char kept;
		int next;

		name += strspn(name, "/");
		if (!*name)
			break;
		end = name + strcspn(name, "/");
		kept = *end;
		*end = '\0';
		next = open_in_root(child, walked, O_DIRECTORY);
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
	int n = snprintf(parent, sizeof(parent), "/%.*s", slash ? (int)(slash - path) : 0, path);

	*name = slash ? slash + 1 : path;
	if (n >= (int)sizeof(parent))
		return -ENAMETOOLONG;
	if (!**name || !strcmp(*name, ".") || !strcmp(*name, ".."))
		return -EINVAL;
	return make_in_root(child, parent);
}

/* Mounts over the file `path`, which is made if it is missing. */
int place_file(const struct child *child, int tree, const char *path)
{
	const char *name;
	int found = open_in_root(child, path, 0);

	if (found == -ENOENT) {
		OPEN(parent, make_parent(child, path, &name));
		cleanup_fd int made = openat(
		    parent, name, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0644);
		if (made < 0 && errno != EEXIST)
			return -errno;
		found = open_in_root(child, path, 0);
	}
	OPEN(place, found);
	return k_move_mount(tree, place);
}

/* A clone of the host's node of this path, which is what it should be. CVE-2025-31133: a mask
 * is only as good as its source. */
int verified_node(const char *path, mode_t type, dev_t device)
{
	struct stat st;

	OPEN(fd, checked(open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC)));
	TRY(checked(fstat(fd, &st)));
	if ((st.st_mode & S_IFMT) != type || st.st_rdev != device)
		return -ENODEV;
	return k_open_tree(fd, "", false);
}

/* path, kind, major, minor, mode, uid, gid */
int op_device(struct child *child, const struct op *op)
{
	const union field *f = op->f;
	const char *path = child->detail = f[0].s, *name;
	const uint32_t kind = f[1].u, uid = f[5].u, gid = f[6].u;
	dev_t device = kind == 'p' ? 0 : makedev(f[2].u, f[3].u);
	mode_t type = kind == 'c' ? S_IFCHR : kind == 'b' ? S_IFBLK : S_IFIFO;
	struct stat st;

	if (kind != 'c' && kind != 'b' && kind != 'p')
		return -EINVAL;
	OPEN(parent, make_parent(child, path, &name));
	if (mknodat(parent, name, type | (f[4].u & 07777), device) == 0)
		return uid == 0 && gid == 0
			   ? 0
			   : checked(fchownat(parent, name, uid, gid, AT_SYMLINK_NOFOLLOW));
	if (errno == EPERM && child->plan->is_foreign) {
		OPEN(tree, verified_node(path, type, device));
		return place_file(child, tree, path);
	}
	/* What is there already may be the host's own node: use it, never change it. */
	if (errno != EEXIST)
		return -errno;
	TRY(checked(fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW)));
	return (st.st_mode & S_IFMT) == type && st.st_rdev == device ? 0 : -EEXIST;
}

int op_symlink(struct child *child, const struct op *op)
{
	const char *path = child->detail = op->f[1].s, *name;

	OPEN(parent, make_parent(child, path, &name));
	/* An image may bring its own /etc/mtab: that one stays. */
	return symlinkat(op->f[0].s, parent, name) < 0 && errno != EEXIST ? -errno : 0;
}

/* CVE-2024-21626: a working directory outside the root would be a way out of it. */
int op_cwd(struct child *child, const struct op *op)
{
	const char *path = op->f[0].s;
	char room[PATH_ROOM];

	OPEN(fd, op->flags & FLAG_MAKE ? make_in_root(child, path)
				       : open_in_root(child, path, O_DIRECTORY));
	TRY(checked(fchdir(fd)));
	TRY(K(getcwd, room, sizeof(room)));
	return room[0] == '/' ? 0 : -ENOENT;
}

struct entry { /* as getdents64 has it */
	uint64_t inode, offset;
	unsigned short bytes;
	unsigned char type;
	char name[];
};

static int copy_open(int from, int to, int depth);

/* Directories, files and links; whatever else there is stays behind. */
static int copy_entry(int from, int to, const char *name, int depth)
{
	const int flags = O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK;
	char target[PATH_ROOM] = "";
	struct stat st;

	TRY(checked(fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW)));
	if (S_ISLNK(st.st_mode)) {
		TRY(checked(readlinkat(from, name, target, sizeof(target) - 1)));
		TRY(checked(symlinkat(target, to, name)));
		return checked(fchownat(to, name, st.st_uid, st.st_gid, AT_SYMLINK_NOFOLLOW));
	}
	if (S_ISDIR(st.st_mode))
		TRY(checked(mkdirat(to, name, 0700)));
	else if (!S_ISREG(st.st_mode))
		return 0;
	OPEN(source, checked(openat(from, name, O_RDONLY | flags)));
	OPEN(made,
	     checked(openat(to, name, flags | (S_ISDIR(st.st_mode) ? O_RDONLY : O_WRONLY | O_CREAT),
			    0600)));
	return copy_open(source, made, depth + 1);
}

static int copy_open(int from, int to, int depth)
{
	char room[2048] __attribute__((aligned(8)));
	struct stat st;
	long n = 1;

	TRY(depth < MAX_DEPTH ? checked(fstat(from, &st)) : -ELOOP);
	while (n > 0 && S_ISREG(st.st_mode))
		n = sendfile(to, from, NULL, 1 << 20);
	while (n > 0 && (n = syscall(SYS_getdents64, from, room, sizeof(room))) > 0)
		for (char *at = room; at < room + n; at += ((struct entry *)at)->bytes) {
			const char *name = ((struct entry *)at)->name;

			if (strcmp(name, ".") && strcmp(name, ".."))
				TRY(copy_entry(from, to, name, depth));
		}
	TRY(checked(n));
	TRY(checked(fchown(to, st.st_uid, st.st_gid)));
	return checked(fchmod(to, st.st_mode & 07777));
}

/* With owners and modes, from one directory to another; its own only if `is_whole`. */
int copy_tree(int from, int to, bool is_whole)
{
	struct stat st;

	OPEN(source, checked(openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)));
	OPEN(target, checked(openat(to, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)));
	TRY(checked(fstat(target, &st)));
	TRY(copy_open(source, target, 0));
	if (is_whole)
		return 0;
	TRY(checked(fchown(target, st.st_uid, st.st_gid)));
	return checked(fchmod(target, st.st_mode & 07777));
}
