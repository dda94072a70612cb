/* The root of a container and its mounts, masks and read-only paths: made as detached mounts,
 * placed by descriptor. */
#include "launch.h"

/* A directory of the host that nobody needs: the new root hangs there until it is the root. That
 * of a bundle hangs over itself, where hooks look for it, unless its user cannot get there. */
#define ROOT_PLACE "/proc/tty"
#define PLACE_FLAGS (O_PATH | O_DIRECTORY | O_CLOEXEC)

#define SAFE_ATTRS (K_ATTR_NOSUID | K_ATTR_NODEV | K_ATTR_NOEXEC)
#define MAX_LAYERS 501 /* the kernel's own limit, and the upper one */

static const struct k_mount_attr read_only = {.attr_set = K_ATTR_RDONLY};
static const struct k_mount_attr made_private = {.propagation = MS_PRIVATE};

/* A detached mount of a configured file system: options as "key" or "key=value". */
static int mount_fs(int fs, char *const *options, uint64_t attrs)
{
	for (; options && *options; options++) {
		const char *option = *options, *value = strchr(option, '=');
		char key[64];
		int n = snprintf(key, sizeof(key), "%.*s", value ? (int)(value - option) : INT_MAX,
				 option);

		if (n >= (int)sizeof(key))
			return -EINVAL;
		TRY(k_fsconfig(fs, value ? K_SET_STRING : K_SET_FLAG, key,
			       value ? value + 1 : NULL));
	}
	TRY(k_fsconfig(fs, K_CMD_CREATE, NULL, NULL));
	return k_fsmount(fs, attrs);
}

static int map_ids(int tree, bool recursive, const char *uid_map, const char *gid_map)
{
	struct k_mount_attr attr = {.attr_set = K_ATTR_IDMAP};
	pid_t pid = !uid_map || !*uid_map || !*gid_map
			? -EINVAL
			: launch_idle(CLONE_NEWUSER, uid_map, gid_map);
	int space = pid < 0 ? pid : open_path(O_RDONLY, "/proc/%d/ns/user", (int)pid);

	if (pid > 0)
		end_idle(pid);
	OPEN(held, space);
	attr.userns_fd = (uint64_t)held;
	return k_mount_setattr(tree, recursive, attr);
}

/* Layers as the plan's user namespace sees them: mounts that must last until they are used. */
struct layers {
	int count;
	int trees[MAX_LAYERS];
};

static void close_layers(struct layers *layers)
{
	while (layers->count > 0)
		close(layers->trees[--layers->count]);
}

static int add_mapped(struct child *child, struct layers *layers, int fs, const char *path)
{
	int tree = layers->count < MAX_LAYERS ? k_open_tree(AT_FDCWD, path, false) : -E2BIG;

	child->detail = path;
	TRY(tree);
	layers->trees[layers->count++] = tree;
	TRY(map_ids(tree, false, plan_str(child->plan, OP_IDMAP, 0),
		    plan_str(child->plan, OP_IDMAP, 1)));
	return K(fsconfig, fs, K_SET_FD, "lowerdir+", NULL, tree);
}

/* place, options, the same for mount(2), layers to be seen through the plan's IDMAP. The upper
 * layer is written with the rights of whoever mounts, who has no place in the maps: it is not
 * mapped, but belongs to the root inside. */
int source_overlay(struct child *child, const struct op *op)
{
	struct layers layers __attribute__((cleanup(close_layers))) = {0};
	char *const *mapped = op->f[3].l;
	const char *place = op->f[0].s, *data = op->f[2].s;
	int tree = k_fsopen("overlay");

	if (tree >= 0) {
		OPEN(fs, tree);
		for (char *const *layer = mapped; *layer; layer++)
			TRY(add_mapped(child, &layers, fs, *layer));
		child->detail = place;
		tree = mount_fs(fs, op->f[1].l, 0);
	}
	/* Before 6.8 there is no `lowerdir+`, and fsconfig takes no string of more than 255 bytes.
	 */
	if ((tree != -EINVAL && tree != -ENOSYS) || *mapped)
		return tree;
	TRY(*data ? checked(mount("overlay", place, "overlay", 0, data)) : -ENAMETOOLONG);
	tree = k_open_tree(AT_FDCWD, place, false);
	umount2(place, MNT_DETACH);
	return tree;
}

int source_root(struct child *child, const struct op *op)
{
	return k_open_tree(AT_FDCWD, op->f[0].s, true);
}

int op_root(struct child *child, const struct op *op)
{
	const int own = op->code == OP_ROOT_BIND ? open(op->f[0].s, PLACE_FLAGS) : -ENOENT;

	child->detail = ROOT_PLACE;
	OPEN(under, own < 0 ? checked(open(ROOT_PLACE, PLACE_FLAGS)) : own);
	if (!plan_has(child->plan, OP_PROPAGATION))
		TRY(k_mount_setattr(child->tree, true, made_private));
	TRY(k_move_mount(child->tree, under));
	child->root = take_fd(&child->tree);
	return checked(fchdir(child->root));
}

/* type, source, dest, attributes, options. What the kernel says about a refused file system goes
 * into the detail. */
int source_filesystem(struct child *child, const struct op *op)
{
	const char *dest = child->detail = op->f[2].s;
	char said[sizeof(child->note) / 2] = "";
	int result;

	OPEN(fs, k_fsopen(op->f[0].s));
	if (*op->f[1].s)
		TRY(k_fsconfig(fs, K_SET_STRING, "source", op->f[1].s));
	result = mount_fs(fs, op->f[4].l, op->f[3].q);
	if (result < 0 && read(fs, said, sizeof(said) - 1) > 2) {
		said[strcspn(said, "\n")] = '\0';
		snprintf(child->note, sizeof(child->note), "%.60s (%s)", dest, said + 2);
		child->detail = child->note;
	}
	return result;
}

static bool is_procfs(int fd)
{
	struct statfs fs;

	return fstatfs(fd, &fs) == 0 && fs.f_type == PROC_SUPER_MAGIC;
}

/* CVE-2019-16884: /proc and /sys that are symlinks in the image would put the mount, and with
 * it every mask, where the image wants them. */
int op_mount(struct child *child, const struct op *op)
{
	const char *dest = op->f[2].s;
	const bool is_proc = !strcmp(op->f[0].s, "proc");
	int found = -ENOENT;

	if (child->root < 0 || (is_proc && !is_procfs(child->tree)))
		return -EINVAL;
	if (is_proc || !strcmp(op->f[0].s, "sysfs"))
		found = k_openat2(child->root, dest, O_PATH | O_DIRECTORY,
				  RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS);
	OPEN(place, found == -ENOENT ? make_in_root(child, dest) : found);
	if (op->flags & FLAG_COPY_UP)
		TRY(copy_tree(place, child->tree, !(op->flags & FLAG_OWN_MODE)));
	TRY(k_move_mount(child->tree, place));
	if (is_proc && child->proc < 0)
		child->proc = take_fd(&child->tree);
	return 0;
}

/* A procfs of our own pid namespace that nobody can have prepared. */
int verified_proc(struct child *child)
{
	if (child->proc < 0) {
		OPEN(fs, k_fsopen("proc"));
		child->proc = mount_fs(fs, NULL, SAFE_ATTRS);
	}
	if (child->proc >= 0 && !is_procfs(child->proc)) {
		close_fd(&child->proc);
		return -EINVAL;
	}
	return child->proc;
}

/* Attributes to set and to clear, and whether below too; then propagation. */
static int set_attrs(int fd, const union field *f, bool below, uint32_t how)
{
	struct k_mount_attr attr = {.attr_set = f[0].q, .attr_clr = f[1].q};

	if (attr.attr_set & K_ATTR_ATIME_MASK)
		attr.attr_clr |= K_ATTR_ATIME_MASK;
	if (attr.attr_set || attr.attr_clr)
		TRY(k_mount_setattr(fd, below, attr));
	attr = (struct k_mount_attr){.propagation = how & PROPAGATIONS};
	return attr.propagation ? k_mount_setattr(fd, how & MS_REC, attr) : 0;
}

/* source, dest, attributes to set and to clear, flags, maps */
int source_bind(struct child *child, const struct op *op)
{
	uint32_t how = op->f[4].u;

	if (!(how & PROPAGATIONS))
		how |= MS_PRIVATE | MS_REC;
	OPEN(tree, k_open_tree(AT_FDCWD, op->f[0].s, how & BIND_RECURSIVE));
	child->detail = op->f[1].s;
	TRY(set_attrs(tree, op->f + 2, how & BIND_ATTRS_RECURSIVE, how));
	if (*op->f[5].s)
		TRY(map_ids(tree, how & BIND_MAP_RECURSIVE, op->f[5].s, op->f[6].s));
	return take_fd(&tree);
}

/* dest, attributes to set and to clear, flags */
int op_mount_attr(struct child *child, const struct op *op)
{
	OPEN(place, open_in_root(child, op->f[0].s, 0));
	return set_attrs(place, op->f + 1, op->f[3].u & MOUNT_ATTR_BELOW, op->f[3].u);
}

int op_bind(struct child *child, const struct op *op)
{
	const char *dest = child->detail = op->f[1].s;
	const bool makes = op->f[4].u & (BIND_MAKE_FILE | BIND_MAKE_DIRECTORY);
	cleanup_fd int place = open_in_root(child, dest, 0);
	struct stat st;

	if (place == -ENOENT && makes) {
		TRY(checked(fstat(child->tree, &st)));
		if (!S_ISDIR(st.st_mode))
			return place_file(child, child->tree, dest);
		place = make_in_root(child, dest);
	}
	TRY(place);
	return k_move_mount(child->tree, place);
}

int source_shm(struct child *child, const struct op *op)
{
	if (!child->launch->shm_path)
		return -ENOENT;
	return k_open_tree(AT_FDCWD, child->launch->shm_path, false);
}

int op_pod_shm(struct child *child, const struct op *op)
{
	OPEN(place, make_in_root(child, op->f[0].s));
	TRY(k_mount_setattr(child->tree, false, made_private));
	return k_move_mount(child->tree, place);
}

static int first_mask(bool is_directory)
{
	if (!is_directory) {
		/* It is the host's: nobody in there may change its owner or mode. */
		OPEN(null, verified_node("/dev/null", S_IFCHR, makedev(1, 3)));
		TRY(k_mount_setattr(null, false, read_only));
		return take_fd(&null);
	}
	OPEN(fs, k_fsopen("tmpfs"));
	TRY(k_fsconfig(fs, K_SET_STRING, "nr_inodes", "1"));
	TRY(k_fsconfig(fs, K_SET_STRING, "mode", "755"));
	return mount_fs(fs, NULL, SAFE_ATTRS | K_ATTR_RDONLY);
}

/* One empty read-only directory serves every masked one, one /dev/null every masked file. The
 * first goes to its place itself and is cloned from there: before Linux 6.15 nothing that is not
 * in a mount namespace could be. */
static int mask_tree(struct child *child, bool is_directory)
{
	int *kept = is_directory ? &child->blank : &child->null;

	if (*kept >= 0)
		return k_open_tree(*kept, "", false);
	OPEN(tree, first_mask(is_directory));
	*kept = checked(fcntl(tree, F_DUPFD_CLOEXEC, 0));
	return *kept < 0 ? *kept : take_fd(&tree);
}

/* Over a path that is not there nothing need be laid. For a read-only one: a clone with all that
 * lies below it (masks too) goes over the path itself, so that every other mount flag stays. */
int op_hide(struct child *child, const struct op *op)
{
	const int found = open_in_root(child, op->f[0].s, 0);
	struct stat st;

	if (found == -ENOENT || found == -ENOTDIR)
		return 0;
	OPEN(place, found);
	if (op->code == OP_READONLY && op->flags & FLAG_READONLY_IN_PLACE)
		return k_mount_setattr(place, false, read_only);
	TRY(checked(fstat(place, &st)));
	OPEN(tree, op->code == OP_MASK ? mask_tree(child, S_ISDIR(st.st_mode))
				       : k_open_tree(place, "", true));
	if (op->code == OP_READONLY)
		TRY(k_mount_setattr(tree, true, read_only));
	return k_move_mount(tree, place);
}

/* The old root lies over the new one after the first step and goes with the second.
 * Source: pivot_root(2), NOTES. */
int op_pivot(struct child *child, const struct op *op)
{
	child->detail = "/";
	if (child->root < 0)
		return -EINVAL;
	TRY(checked(fchdir(child->root)));
	if (op->flags & FLAG_CALLERS_MOUNTS) {
		TRY(checked(chroot(".")));
	} else {
		TRY(K(pivot_root, ".", "."));
		TRY(checked(umount2(".", MNT_DETACH)));
	}
	TRY(checked(chdir("/")));
	return op->flags & FLAG_READONLY_ROOT ? k_mount_setattr(child->root, false, read_only) : 0;
}
