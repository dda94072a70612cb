/* The root of a container: where it comes from, and the switch to it. */
#include "launch.h"

/* Text built piece by piece in a fixed room; a piece that does not fit is remembered. */
struct text {
	char *start;
	size_t room;
	size_t used;
	bool is_cut;
};

static void text_put(struct text *text, char byte)
{
	if (text->used + 1 >= text->room) {
		text->is_cut = true;
		return;
	}
	text->start[text->used++] = byte;
	text->start[text->used] = '\0';
}

/* `special` bytes separate values in overlay options and are escaped by a backslash. */
static void text_add(struct text *text, const char *piece, const char *special)
{
	for (; *piece; piece++) {
		if (strchr(special, *piece))
			text_put(text, '\\');
		text_put(text, *piece);
	}
}

static void text_join(struct text *text, struct list lower, const char *special)
{
	for (uint32_t i = 0; i < lower.count; i++) {
		if (i > 0)
			text_put(text, ':');
		text_add(text, take_str(&lower.items), special);
	}
}

struct overlay {
	struct list lower;
	const char *upper;
	const char *work;
	struct list options;
};

static int overlay_by_fsopen(const struct overlay *overlay)
{
	cleanup_fd int fs = k_fsopen("overlay");
	struct list lower = overlay->lower;
	int result = fs;

	for (uint32_t i = 0; result >= 0 && i < lower.count; i++)
		result = k_fsconfig(fs, K_SET_STRING, "lowerdir+", take_str(&lower.items));
	if (result >= 0 && *overlay->upper)
		result = k_fsconfig(fs, K_SET_STRING, "upperdir", overlay->upper);
	if (result >= 0 && *overlay->upper)
		result = k_fsconfig(fs, K_SET_STRING, "workdir", overlay->work);
	if (result >= 0)
		result = fs_options(fs, overlay->options);
	if (result >= 0)
		result = k_fsconfig(fs, K_CMD_CREATE, NULL, NULL);
	return result < 0 ? result : k_fsmount(fs, 0);
}

/* Before 6.8 there is no `lowerdir+`, and fsconfig takes no string of more than 255 bytes. */
static int overlay_by_mount(const struct overlay *overlay, const char *place)
{
	char room[PATH_ROOM];
	struct text text = {.start = room, .room = sizeof(room)};
	struct list options = overlay->options;

	text_add(&text, "lowerdir=", "");
	text_join(&text, overlay->lower, "\\:,");
	if (*overlay->upper) {
		text_add(&text, ",upperdir=", "");
		text_add(&text, overlay->upper, "\\,");
		text_add(&text, ",workdir=", "");
		text_add(&text, overlay->work, "\\,");
	}
	for (uint32_t i = 0; i < options.count; i++) {
		text_add(&text, ",", "");
		text_add(&text, take_str(&options.items), "");
	}
	if (text.is_cut)
		return -ENAMETOOLONG;
	return mount("overlay", place, "overlay", 0, room) < 0 ? -errno : 0;
}

/* The mount `tree` must hang somewhere to become the root: over `place`, which nobody needs
 * any more, in our own mount namespace. */
static int hang_root(struct child *child, int tree, const char *place)
{
	cleanup_fd int under = open(place, O_PATH | O_CLOEXEC);
	int result;

	if (under < 0)
		return -errno;
	result = k_move_mount(tree, under);
	if (result < 0)
		return result;
	child->root = tree;
	return 0;
}

int op_root_overlay(struct child *child, struct reader payload)
{
	struct overlay overlay;
	const char *place;
	int tree, result;

	overlay.lower = take_list(&payload);
	overlay.upper = take_str(&payload);
	overlay.work = take_str(&payload);
	overlay.options = take_list(&payload);
	if (overlay.lower.count == 0)
		return -EINVAL;
	place = *overlay.upper ? overlay.upper : (const char *)overlay.lower.items.at + 4;
	child->detail = place;
	tree = overlay_by_fsopen(&overlay);
	if (tree >= 0)
		return hang_root(child, tree, place);
	if (tree != -EINVAL && tree != -ENOSYS)
		return tree;
	result = overlay_by_mount(&overlay, place);
	if (result < 0)
		return result;
	child->root = open(place, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return child->root < 0 ? -errno : 0;
}

int op_root_bind(struct child *child, struct reader payload)
{
	const char *path = take_str(&payload);
	int tree;

	child->detail = path;
	tree = k_open_tree(AT_FDCWD, path, true);
	return tree < 0 ? tree : hang_root(child, tree, path);
}

/* The old root lies over the new one after the first step and goes with the second.
 * Source: pivot_root(2), NOTES. */
int op_pivot(struct child *child, struct reader payload)
{
	const struct k_mount_attr read_only = {.attr_set = K_ATTR_RDONLY};
	int result;

	(void)payload;
	child->detail = "/";
	if (child->root < 0)
		return -EINVAL;
	if (fchdir(child->root) < 0)
		return -errno;
	result = K(pivot_root, ".", ".");
	if (result < 0)
		return result;
	if (umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		return -errno;
	if (!plan_has(&child->launch->plan, OP_PROPAGATION) &&
	    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return -errno;
	if (!(child->flags & 1))
		return 0;
	/* The last chance to make something in it. */
	if (child->launch->plan.new_cwd) {
		cleanup_fd int cwd = make_in_root(child, child->launch->plan.new_cwd);

		child->detail = child->launch->plan.new_cwd;
		if (cwd < 0)
			return cwd;
	}
	return k_mount_setattr(child->root, false, &read_only);
}

int op_propagation(struct child *child, struct reader payload)
{
	unsigned long kind = (unsigned long)take_u64(&payload);

	child->detail = "/";
	if (kind & ~(unsigned long)(MS_REC | MS_PRIVATE | MS_SLAVE | MS_SHARED | MS_UNBINDABLE))
		return -EINVAL;
	return mount(NULL, "/", NULL, kind, NULL) < 0 ? -errno : 0;
}
