/* Mounts, masks and read-only paths of a container, all made and placed by descriptor. */
#include "launch.h"

#include <sys/sysmacros.h>

static bool is_procfs(int fd)
{
	struct statfs fs;

	return fstatfs(fd, &fs) == 0 && fs.f_type == PROC_SUPER_MAGIC;
}

int fs_options(int fs, struct list options)
{
	for (uint32_t i = 0; i < options.count; i++) {
		const char *option = take_str(&options.items);
		const char *value = strchr(option, '=');
		char key[64];
		size_t length = value ? (size_t)(value - option) : strlen(option);
		int result;

		if (length >= sizeof(key))
			return -EINVAL;
		memcpy(key, option, length);
		key[length] = '\0';
		result = value ? k_fsconfig(fs, K_SET_STRING, key, value + 1)
			       : k_fsconfig(fs, K_SET_FLAG, key, NULL);
		if (result < 0)
			return result;
	}
	return 0;
}

/* What the kernel says about a refused file system goes into the detail. */
static int explain(struct child *child, int fs, const char *dest, int result)
{
	char said[sizeof(child->note) / 2];
	ssize_t n = read(fs, said, sizeof(said) - 1);

	if (n <= 2)
		return result;
	said[n] = '\0';
	said[strcspn(said, "\n")] = '\0';
	snprintf(child->note, sizeof(child->note), "%.60s (%s)", dest, said + 2);
	child->detail = child->note;
	return result;
}

struct filesystem {
	const char *type;
	const char *source;
	const char *dest;
	uint64_t attrs;
	struct list options;
};

static int make_filesystem(struct child *child, const struct filesystem *what)
{
	cleanup_fd int fs = k_fsopen(what->type);
	int result = fs;

	if (result >= 0 && *what->source)
		result = k_fsconfig(fs, K_SET_STRING, "source", what->source);
	if (result >= 0)
		result = fs_options(fs, what->options);
	if (result >= 0)
		result = k_fsconfig(fs, K_CMD_CREATE, NULL, NULL);
	if (result < 0)
		return fs < 0 ? result : explain(child, fs, what->dest, result);
	return k_fsmount(fs, what->attrs);
}

/* CVE-2019-16884: /proc and /sys that are symlinks in the image would put the mount, and with
 * it every mask, where the image wants them. */
static int open_kernel_place(struct child *child, const char *dest)
{
	int fd = k_openat2(child->root, dest, O_PATH | O_DIRECTORY,
			   RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS);

	return fd == -ENOENT ? make_in_root(child, dest) : fd;
}

int op_mount(struct child *child, struct reader payload)
{
	struct filesystem what;
	cleanup_fd int tree = -1, place = -1;
	bool is_proc, is_kernel;
	int result;

	what.type = take_str(&payload);
	what.source = take_str(&payload);
	what.dest = take_str(&payload);
	what.attrs = take_u64(&payload);
	what.options = take_list(&payload);
	child->detail = what.dest;
	if (child->root < 0)
		return -EINVAL;
	is_proc = !strcmp(what.type, "proc");
	is_kernel = is_proc || !strcmp(what.type, "sysfs");
	tree = make_filesystem(child, &what);
	if (tree < 0)
		return tree;
	if (is_proc && !is_procfs(tree))
		return -EINVAL;
	place = is_kernel ? open_kernel_place(child, what.dest) : make_in_root(child, what.dest);
	if (place < 0)
		return place;
	result = k_move_mount(tree, place);
	if (result == 0 && is_proc && child->proc < 0)
		child->proc = take_fd(&tree);
	return result;
}

/* A file system without options but those of `settings`, key and value in turn, up to a NULL. */
static int plain_mount(const char *type, const char *const *settings)
{
	cleanup_fd int fs = k_fsopen(type);
	int result = fs;

	for (; result >= 0 && *settings; settings += 2)
		result = k_fsconfig(fs, K_SET_STRING, settings[0], settings[1]);
	if (result >= 0)
		result = k_fsconfig(fs, K_CMD_CREATE, NULL, NULL);
	return result < 0 ? result : k_fsmount(fs, K_ATTR_NOSUID | K_ATTR_NODEV | K_ATTR_NOEXEC);
}

/* A procfs of our own pid namespace that nobody can have prepared. */
int verified_proc(struct child *child)
{
	const char *const none[] = {NULL};

	if (child->proc < 0)
		child->proc = plain_mount("proc", none);
	if (child->proc >= 0 && !is_procfs(child->proc)) {
		close_fd(&child->proc);
		return -EINVAL;
	}
	return child->proc;
}

static int open_bind_place(struct child *child, int tree, const char *dest, uint32_t flags)
{
	int place = open_in_root(child, dest);
	struct stat st;

	if (place != -ENOENT || !(flags & (BIND_MAKE_FILE | BIND_MAKE_DIRECTORY)))
		return place;
	if (fstat(tree, &st) < 0)
		return -errno;
	if (S_ISDIR(st.st_mode))
		return make_in_root(child, dest);
	return make_file_in_root(child, dest);
}

static int set_bind_attrs(int tree, uint64_t set, uint64_t clear, uint32_t flags)
{
	struct k_mount_attr attr = {.attr_set = set, .attr_clr = clear};

	if (!set && !clear)
		return 0;
	if (set & K_ATTR_ATIME_MASK)
		attr.attr_clr |= K_ATTR_ATIME_MASK;
	return k_mount_setattr(tree, flags & BIND_ATTRS_RECURSIVE, &attr);
}

int op_bind(struct child *child, struct reader payload)
{
	const char *source = take_str(&payload), *dest = take_str(&payload);
	uint64_t set = take_u64(&payload), clear = take_u64(&payload);
	uint32_t how = take_u32(&payload);
	cleanup_fd int tree = -1, place = -1;
	int result;

	child->detail = source;
	if (child->root < 0)
		return -EINVAL;
	tree = k_open_tree(AT_FDCWD, source, how & BIND_RECURSIVE);
	if (tree < 0)
		return tree;
	child->detail = dest;
	result = set_bind_attrs(tree, set, clear, how);
	if (result < 0)
		return result;
	place = open_bind_place(child, tree, dest, how);
	return place < 0 ? place : k_move_mount(tree, place);
}

int op_pod_shm(struct child *child, struct reader payload)
{
	const char *dest = take_str(&payload);
	cleanup_fd int tree = -1, place = -1;

	child->detail = dest;
	tree = k_open_tree(AT_FDCWD, child->launch->shm_path, false);
	if (tree < 0)
		return tree;
	place = make_in_root(child, dest);
	return place < 0 ? place : k_move_mount(tree, place);
}

/* CVE-2025-31133: a mask is only as good as its source. */
static int verified_null(struct child *child)
{
	cleanup_fd int fd = -1;
	struct stat st;

	if (child->null >= 0)
		return child->null;
	fd = open("/dev/null", O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISCHR(st.st_mode) || st.st_rdev != makedev(1, 3))
		return -ENODEV;
	child->null = take_fd(&fd);
	return child->null;
}

static int mask_file(struct child *child, int place)
{
	int null = verified_null(child);
	cleanup_fd int tree = null < 0 ? null : k_open_tree(null, "", false);

	return tree < 0 ? tree : k_move_mount(tree, place);
}

/* One empty read-only directory serves every masked one. */
static int mask_directory(struct child *child, int place)
{
	const struct k_mount_attr read_only = {.attr_set = K_ATTR_RDONLY};
	const char *const settings[] = {"nr_inodes", "1", "mode", "755", NULL};
	cleanup_fd int tree = -1;
	int result;

	if (child->blank < 0) {
		child->blank = plain_mount("tmpfs", settings);
		result = child->blank;
		if (result >= 0)
			result = k_mount_setattr(child->blank, false, &read_only);
		return result < 0 ? result : k_move_mount(child->blank, place);
	}
	tree = k_open_tree(child->blank, "", false);
	return tree < 0 ? tree : k_move_mount(tree, place);
}

static bool is_missing(int result)
{
	return result == -ENOENT || result == -ENOTDIR;
}

int op_mask(struct child *child, struct reader payload)
{
	const char *path = take_str(&payload);
	cleanup_fd int place = open_in_root(child, path);
	struct stat st;

	child->detail = path;
	if (place < 0)
		return is_missing(place) ? 0 : place;
	if (fstat(place, &st) < 0)
		return -errno;
	return S_ISDIR(st.st_mode) ? mask_directory(child, place) : mask_file(child, place);
}

/* A clone of the path with all that lies below it (masks too) goes over the path itself, so
 * that every other mount flag stays as it was. */
int op_readonly(struct child *child, struct reader payload)
{
	const struct k_mount_attr read_only = {.attr_set = K_ATTR_RDONLY};
	const char *path = take_str(&payload);
	cleanup_fd int place = open_in_root(child, path);
	cleanup_fd int tree = -1;
	int result;

	child->detail = path;
	if (place < 0)
		return is_missing(place) ? 0 : place;
	if (child->flags & READONLY_IN_PLACE)
		return k_mount_setattr(place, false, &read_only);
	tree = k_open_tree(place, "", true);
	if (tree < 0)
		return tree;
	result = k_mount_setattr(tree, true, &read_only);
	return result < 0 ? result : k_move_mount(tree, place);
}
