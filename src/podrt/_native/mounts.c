/* The root of a container and its mounts, masks and read-only paths: made as detached mounts,
 * placed by descriptor. */
#include "launch.h"

#define PROPAGATIONS ((uint32_t)(MS_SHARED | MS_SLAVE | MS_PRIVATE | MS_UNBINDABLE))
/* A directory of the host that nobody needs: the new root hangs there until it is the root. */
#define ROOT_PLACE "/proc/tty"

#define MAX_LAYERS 501 /* the kernel's own limit, and the upper one */

static const struct k_mount_attr read_only = {.attr_set = K_ATTR_RDONLY};
static const struct k_mount_attr made_private = {.propagation = MS_PRIVATE};

static bool is_procfs(int fd)
{
	struct statfs fs;

	return fstatfs(fd, &fs) == 0 && fs.f_type == PROC_SUPER_MAGIC;
}

static int fs_options(int fs, struct list options)
{
	for (const char *option; (option = next_str(&options));) {
		const char *value = strchr(option, '=');
		char key[64];
		int n = snprintf(key, sizeof(key), "%.*s", value ? (int)(value - option) : INT_MAX,
				 option);

		if (n >= (int)sizeof(key))
			return -EINVAL;
		TRY(k_fsconfig(fs, value ? K_SET_STRING : K_SET_FLAG, key,
			       value ? value + 1 : NULL));
	}
	return 0;
}

static int map_ids(int tree, bool recursive, const char *uid_map, const char *gid_map)
{
	cleanup_fd int space = -1;
	char path[32];
	pid_t pid;

	if (!uid_map || !*uid_map || !*gid_map)
		return -EINVAL;
	pid = launch_idle(CLONE_NEWUSER, uid_map, gid_map, false);
	TRY(pid);
	snprintf(path, sizeof(path), "/proc/%d/ns/user", (int)pid);
	space = checked(open(path, O_RDONLY | O_CLOEXEC));
	end_idle(pid);
	TRY(space);
	return k_mount_setattr(
	    tree, recursive,
	    (struct k_mount_attr){.attr_set = K_ATTR_IDMAP, .userns_fd = (uint64_t)space});
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
	TRY(map_ids(tree, false, child->plan->uid_map, child->plan->gid_map));
	return K(fsconfig, fs, K_SET_FD, "lowerdir+", NULL, tree);
}

/* lower, upper, work, options. The upper layer is written with the rights of whoever mounts, who
 * has no place in the maps: it is not mapped, but belongs to the root inside. */
static int overlay_by_fsopen(struct child *child, const struct op *op)
{
	struct layers layers __attribute__((cleanup(close_layers))) = {0};
	const char *upper = op->f[1].s;
	const bool is_mapped = op->flags & FLAG_MAPPED;
	struct list lower = op->f[0].l;
	cleanup_fd int fs = k_fsopen("overlay");

	TRY(fs);
	for (const char *layer; (layer = next_str(&lower));)
		TRY(is_mapped ? add_mapped(child, &layers, fs, layer)
			      : k_fsconfig(fs, K_SET_STRING, "lowerdir+", layer));
	if (*upper) {
		if (is_mapped)
			TRY(checked(lchown(upper, map_id(child->plan->uid_map, 0),
					   map_id(child->plan->gid_map, 0))));
		TRY(k_fsconfig(fs, K_SET_STRING, "upperdir", upper));
		TRY(k_fsconfig(fs, K_SET_STRING, "workdir", op->f[2].s));
	}
	TRY(fs_options(fs, op->f[3].l));
	TRY(k_fsconfig(fs, K_CMD_CREATE, NULL, NULL));
	return k_fsmount(fs, 0);
}

struct text {
	size_t used;
	char room[PATH_ROOM];
};

/* `special` bytes separate values in overlay options and are escaped by a backslash. One byte
 * too many is kept, to be found. */
static void text_add(struct text *text, const char *piece, const char *special)
{
	for (; *piece; piece++) {
		if (strchr(special, *piece) && text->used < sizeof(text->room))
			text->room[text->used++] = '\\';
		if (text->used < sizeof(text->room))
			text->room[text->used++] = *piece;
	}
}

/* Before 6.8 there is no `lowerdir+`, and fsconfig takes no string of more than 255 bytes. */
static int overlay_by_mount(const struct op *op, const char *place)
{
	struct text text = {0};
	struct list lower = op->f[0].l, options = op->f[3].l;
	int tree;

	text_add(&text, "lowerdir=", "");
	for (const char *layer; (layer = next_str(&lower));) {
		text_add(&text, layer, "\\:,");
		text_add(&text, lower.count ? ":" : "", "");
	}
	for (int i = 1; i < 3 && *op->f[1].s; i++) {
		text_add(&text, i == 1 ? ",upperdir=" : ",workdir=", "");
		text_add(&text, op->f[i].s, "\\,");
	}
	for (const char *option; (option = next_str(&options));) {
		text_add(&text, ",", "");
		text_add(&text, option, "");
	}
	if (text.used >= sizeof(text.room))
		return -ENAMETOOLONG;
	TRY(checked(mount("overlay", place, "overlay", 0, text.room)));
	tree = k_open_tree(AT_FDCWD, place, false);
	umount2(place, MNT_DETACH);
	return tree;
}

int source_overlay(struct child *child, const struct op *op)
{
	struct list lower = op->f[0].l;
	const char *top = next_str(&lower), *place = *op->f[1].s ? op->f[1].s : top;
	int tree;

	child->detail = place;
	if (!top)
		return -EINVAL;
	tree = overlay_by_fsopen(child, op);
	if ((tree != -EINVAL && tree != -ENOSYS) || op->flags & FLAG_MAPPED)
		return tree;
	return overlay_by_mount(op, place);
}

int source_root(struct child *child, const struct op *op)
{
	cleanup_fd int tree = k_open_tree(AT_FDCWD, child->detail = op->f[0].s, true);

	TRY(tree);
	if (op->flags & FLAG_MAPPED)
		TRY(map_ids(tree, true, child->plan->uid_map, child->plan->gid_map));
	return take_fd(&tree);
}

int op_root(struct child *child, const struct op *op)
{
	cleanup_fd int under = checked(open(ROOT_PLACE, O_PATH | O_DIRECTORY | O_CLOEXEC));

	(void)op;
	child->detail = ROOT_PLACE;
	TRY(under);
	if (!plan_has(child->plan, OP_PROPAGATION))
		TRY(k_mount_setattr(child->tree, true, made_private));
	TRY(k_move_mount(child->tree, under));
	child->root = take_fd(&child->tree);
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

/* type, source, dest, attributes, options */
int source_filesystem(struct child *child, const struct op *op)
{
	const char *dest = child->detail = op->f[2].s;
	cleanup_fd int fs = k_fsopen(op->f[0].s);
	int result = fs;

	if (result >= 0 && *op->f[1].s)
		result = k_fsconfig(fs, K_SET_STRING, "source", op->f[1].s);
	if (result >= 0)
		result = fs_options(fs, op->f[4].l);
	if (result >= 0)
		result = k_fsconfig(fs, K_CMD_CREATE, NULL, NULL);
	if (result < 0)
		return fs < 0 ? result : explain(child, fs, dest, result);
	return k_fsmount(fs, op->f[3].q);
}

/* CVE-2019-16884: /proc and /sys that are symlinks in the image would put the mount, and with
 * it every mask, where the image wants them. */
static int open_kernel_place(struct child *child, const char *dest)
{
	int fd = k_openat2(child->root, dest, O_PATH | O_DIRECTORY,
			   RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS);

	return fd == -ENOENT ? make_in_root(child, dest) : fd;
}

int op_mount(struct child *child, const struct op *op)
{
	const char *dest = op->f[2].s;
	const bool is_proc = !strcmp(op->f[0].s, "proc");
	const bool is_kernel = is_proc || !strcmp(op->f[0].s, "sysfs");
	cleanup_fd int place = -1;

	if (child->root < 0 || (is_proc && !is_procfs(child->tree)))
		return -EINVAL;
	place = is_kernel ? open_kernel_place(child, dest) : make_in_root(child, dest);
	TRY(place);
	if (op->flags & FLAG_COPY_UP)
		TRY(copy_tree(place, child->tree));
	TRY(k_move_mount(child->tree, place));
	if (is_proc && child->proc < 0)
		child->proc = take_fd(&child->tree);
	return 0;
}

/* A file system without options but those of `settings`, key and value in turn, up to a NULL. */
static int plain_mount(const char *type, const char *const *settings)
{
	cleanup_fd int fs = k_fsopen(type);

	TRY(fs);
	for (; *settings; settings += 2)
		TRY(k_fsconfig(fs, K_SET_STRING, settings[0], settings[1]));
	TRY(k_fsconfig(fs, K_CMD_CREATE, NULL, NULL));
	return k_fsmount(fs, K_ATTR_NOSUID | K_ATTR_NODEV | K_ATTR_NOEXEC);
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

/* source, dest, attributes to set and to clear, flags; then the maps of an IDMAP_BIND */
int source_bind(struct child *child, const struct op *op)
{
	uint32_t how = op->f[4].u;
	cleanup_fd int tree = -1;

	if (!(how & PROPAGATIONS))
		how |= MS_PRIVATE | MS_REC;
	child->detail = op->f[0].s;
	tree = k_open_tree(AT_FDCWD, op->f[0].s, how & BIND_RECURSIVE);
	TRY(tree);
	child->detail = op->f[1].s;
	TRY(set_attrs(tree, op->f + 2, how & BIND_ATTRS_RECURSIVE, how));
	if (op->code == OP_IDMAP_BIND)
		TRY(map_ids(tree, how & BIND_MAP_RECURSIVE, op->f[5].s, op->f[6].s));
	return take_fd(&tree);
}

/* dest, attributes to set and to clear, flags */
int op_mount_attr(struct child *child, const struct op *op)
{
	cleanup_fd int place = open_in_root(child, child->detail = op->f[0].s, 0);

	TRY(place);
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
	child->detail = op->f[0].s;
	if (!child->launch->shm_path)
		return -ENOENT;
	return k_open_tree(AT_FDCWD, child->launch->shm_path, false);
}

int op_pod_shm(struct child *child, const struct op *op)
{
	cleanup_fd int place = make_in_root(child, op->f[0].s);

	TRY(place);
	TRY(k_mount_setattr(child->tree, false, made_private));
	return k_move_mount(child->tree, place);
}

/* One empty read-only directory serves every masked one, one /dev/null every masked file. */
static int mask_tree(struct child *child, bool is_directory)
{
	const char *const settings[] = {"nr_inodes", "1", "mode", "755", NULL};
	int *tree = is_directory ? &child->blank : &child->null;

	if (*tree < 0) {
		*tree = is_directory ? plain_mount("tmpfs", settings)
				     : verified_node("/dev/null", S_IFCHR, makedev(1, 3));
		TRY(*tree);
		if (is_directory)
			TRY(k_mount_setattr(*tree, false, read_only));
	}
	return k_open_tree(*tree, "", false);
}

static bool is_missing(int result)
{
	return result == -ENOENT || result == -ENOTDIR;
}

int op_mask(struct child *child, const struct op *op)
{
	cleanup_fd int place = open_in_root(child, child->detail = op->f[0].s, 0), tree = -1;
	struct stat st;

	if (is_missing(place))
		return 0;
	TRY(place);
	TRY(checked(fstat(place, &st)));
	tree = mask_tree(child, S_ISDIR(st.st_mode));
	TRY(tree);
	return k_move_mount(tree, place);
}

/* A clone of the path with all that lies below it (masks too) goes over the path itself, so
 * that every other mount flag stays as it was. */
int op_readonly(struct child *child, const struct op *op)
{
	cleanup_fd int place = open_in_root(child, child->detail = op->f[0].s, 0), tree = -1;

	if (is_missing(place))
		return 0;
	TRY(place);
	if (op->flags & FLAG_READONLY_IN_PLACE)
		return k_mount_setattr(place, false, read_only);
	tree = k_open_tree(place, "", true);
	TRY(tree);
	TRY(k_mount_setattr(tree, true, read_only));
	return k_move_mount(tree, place);
}

/* The old root lies over the new one after the first step and goes with the second.
 * Source: pivot_root(2), NOTES. */
int op_pivot(struct child *child, const struct op *op)
{
	const char *new_cwd = child->plan->new_cwd;

	child->detail = "/";
	if (child->root < 0)
		return -EINVAL;
	TRY(checked(fchdir(child->root)));
	TRY(K(pivot_root, ".", "."));
	TRY(checked(umount2(".", MNT_DETACH)));
	TRY(checked(chdir("/")));
	if (!(op->flags & FLAG_READONLY_ROOT))
		return 0;
	/* The last chance to make something in it. */
	if (new_cwd) {
		cleanup_fd int cwd = make_in_root(child, child->detail = new_cwd);

		TRY(cwd);
	}
	return k_mount_setattr(child->root, false, read_only);
}

int op_propagation(struct child *child, const struct op *op)
{
	child->detail = "/";
	if (op->f[0].q & ~(uint64_t)(PROPAGATIONS | MS_REC))
		return -EINVAL;
	return checked(mount(NULL, "/", NULL, (unsigned long)op->f[0].q, NULL));
}
