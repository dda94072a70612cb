#define _GNU_SOURCE
#include "floor_groups.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { NAME_BYTES = 128, PIDS_LIMIT = 2048, ANY = -1 };

static const struct {
	int major, minor;
} allowed[] = {
    {1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, {5, 0}, {5, 1}, {5, 2}, {136, ANY},
};
enum { ALLOWED = sizeof allowed / sizeof *allowed };

static int put(int directory, const char *file, const char *value)
{
	int fd = openat(directory, file, O_WRONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? -1 : write(fd, value, strlen(value));
	int saved = errno;
	if (fd >= 0)
		close(fd);
	errno = saved;
	return size < 0 ? -1 : 0;
}

static int put_in(int base, const char *group, const char *file, const char *value)
{
	char path[NAME_BYTES * 2];
	snprintf(path, sizeof path, "%s/%s", group, file);
	return put(base, path, value);
}

/* ---- finding the hierarchies ---- */

/* What names the hierarchy among its mount options: its controllers, or its name. */
static void hierarchy_options(char *options, char *result, size_t size)
{
	static const char general[] =
	    " rw ro nosuid nodev noexec relatime noatime xattr clone_children ";
	char word[64], *rest = NULL;

	*result = '\0';
	for (char *option = strtok_r(options, ",", &rest); option;
	     option = strtok_r(NULL, ",", &rest)) {
		snprintf(word, sizeof word, " %s ", option);
		if (strstr(general, word) || !strncmp(option, "release_agent=", 14))
			continue;
		snprintf(result + strlen(result), size - strlen(result), "%s%s%s",
			 *result ? "," : "", strncmp(option, "name=", 5) ? "" : "none,", option);
	}
}

static void keep_hierarchy(struct groups *groups, const char *where, char *options)
{
	int i = groups->count;
	if (i == MAX_HIERARCHIES)
		return;
	snprintf(groups->mount[i], sizeof *groups->mount, "%s", where);
	hierarchy_options(options, groups->options[i], sizeof *groups->options);
	groups->count++;
}

static int find_hierarchies(struct groups *groups)
{
	char line[1024], where[128], kind[32], options[256];
	FILE *mounts = fopen("/proc/self/mounts", "re");

	if (!mounts)
		return -1;
	while (fgets(line, sizeof line, mounts)) {
		if (sscanf(line, "%*s %127s %31s %255s", where, kind, options) != 3)
			continue;
		if (!strcmp(kind, "cgroup"))
			keep_hierarchy(groups, where, options);
		else if (!strcmp(kind, "cgroup2") && !strcmp(where, "/sys/fs/cgroup"))
			groups->unified = true;
	}
	fclose(mounts);
	if (groups->unified) {
		groups->count = 1;
		snprintf(groups->mount[0], sizeof *groups->mount, "/sys/fs/cgroup");
	}
	return groups->count ? 0 : (errno = ENOENT, -1);
}

/* ---- devices ---- */

static int load_device_program(void)
{
	struct bpf_insn code[6 + ALLOWED * 5 + 2];
	union bpf_attr attr = {0};
	int n = 0;

#define LOAD(to, at) ((struct bpf_insn){BPF_LDX | BPF_MEM | BPF_W, (to), BPF_REG_1, (at), 0})
#define JUMP(op, reg, value, by)                                                                   \
	((struct bpf_insn){BPF_JMP | (op) | BPF_K, (reg), 0, (by), (value)})
#define ANSWER(value) ((struct bpf_insn){BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, (value)})
#define LEAVE ((struct bpf_insn){BPF_JMP | BPF_EXIT, 0, 0, 0, 0})
	code[n++] = LOAD(BPF_REG_2, 0); /* access << 16 | type */
	code[n++] = LOAD(BPF_REG_4, 4);
	code[n++] = LOAD(BPF_REG_5, 8);
	code[n++] = ANSWER(1);
	/* Making any node is allowed, opening it is not. */
	code[n++] = JUMP(BPF_JSET, BPF_REG_2, (BPF_DEVCG_ACC_READ | BPF_DEVCG_ACC_WRITE) << 16, 1);
	code[n++] = LEAVE;
	for (int i = 0; i < ALLOWED; i++) {
		bool any = allowed[i].minor == ANY;
		code[n++] = JUMP(BPF_JSET, BPF_REG_2, BPF_DEVCG_DEV_CHAR, 1);
		code[n++] = JUMP(BPF_JA, 0, 0, any ? 2 : 3);
		code[n++] = JUMP(BPF_JNE, BPF_REG_4, allowed[i].major, any ? 1 : 2);
		if (!any)
			code[n++] = JUMP(BPF_JNE, BPF_REG_5, allowed[i].minor, 1);
		code[n++] = LEAVE;
	}
	code[n++] = ANSWER(0);
	code[n++] = LEAVE;
	attr.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
	attr.insns = (uint64_t)(uintptr_t)code;
	attr.insn_cnt = (uint32_t)n;
	attr.license = (uint64_t)(uintptr_t) "Apache-2.0";
	return (int)syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof attr);
}

static int limit_devices_v2(const struct groups *groups, int group)
{
	union bpf_attr attr = {0};
	attr.target_fd = (uint32_t)group;
	attr.attach_bpf_fd = (uint32_t)groups->devices;
	attr.attach_type = BPF_CGROUP_DEVICE;
	attr.attach_flags = BPF_F_ALLOW_MULTI;
	return (int)syscall(SYS_bpf, BPF_PROG_ATTACH, &attr, sizeof attr);
}

static int limit_devices_v1(int base, const char *group)
{
	char rule[32];
	if (put_in(base, group, "devices.deny", "a") < 0 ||
	    put_in(base, group, "devices.allow", "c *:* m") < 0 ||
	    put_in(base, group, "devices.allow", "b *:* m") < 0)
		return -1;
	for (int i = 0; i < ALLOWED; i++) {
		if (allowed[i].minor == ANY)
			snprintf(rule, sizeof rule, "c %d:* rwm", allowed[i].major);
		else
			snprintf(rule, sizeof rule, "c %d:%d rwm", allowed[i].major,
				 allowed[i].minor);
		if (put_in(base, group, "devices.allow", rule) < 0)
			return -1;
	}
	return 0;
}

/* ---- making and filling ---- */

static int copy_cpuset(const struct groups *groups, int hierarchy)
{
	static const char *const files[] = {"cpuset.cpus", "cpuset.mems"};
	char path[NAME_BYTES * 2], value[1024];
	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof path, "%s/%s", groups->mount[hierarchy], files[i]);
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		ssize_t size = fd < 0 ? -1 : read(fd, value, sizeof value - 1);
		if (size < 0)
			return -1;
		close(fd);
		value[size] = '\0';
		if (put(groups->base[hierarchy], files[i], value) < 0)
			return -1;
	}
	/* Children then start with these instead of empty sets that refuse every process. */
	return put(groups->base[hierarchy], "cgroup.clone_children", "1");
}

int groups_open(struct groups *groups, const char *parent)
{
	char path[NAME_BYTES * 2];

	snprintf(groups->parent, sizeof groups->parent, "%s", parent);
	if (find_hierarchies(groups) < 0)
		return -1;
	if (groups->unified && (groups->devices = load_device_program()) < 0)
		return -1;
	for (int i = 0; i < groups->count; i++) {
		snprintf(path, sizeof path, "%s/%s", groups->mount[i], parent);
		if (mkdir(path, 0755) < 0 && errno != EEXIST)
			return -1;
		groups->base[i] = open(path, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
		if (groups->base[i] < 0)
			return -1;
		if (strstr(groups->options[i], "cpuset") && copy_cpuset(groups, i) < 0)
			return -1;
	}
	if (!groups->unified)
		return 0;
	snprintf(path, sizeof path, "%s/cgroup.subtree_control", groups->mount[0]);
	if (put(AT_FDCWD, path, "+cpu +memory +pids") < 0)
		return -1;
	return put(groups->base[0], "cgroup.subtree_control", "+cpu +memory +pids");
}

int groups_begin_pod(const struct groups *groups, int pod)
{
	char name[NAME_BYTES];
	snprintf(name, sizeof name, "pod%d", pod);
	for (int i = 0; i < groups->count; i++)
		if (mkdirat(groups->base[i], name, 0755) < 0)
			return -1;
	if (!groups->unified)
		return 0;
	return put_in(groups->base[0], name, "cgroup.subtree_control", "+cpu +memory +pids");
}

int groups_make(const struct groups *groups, int pod, int index)
{
	char name[NAME_BYTES], limit[16];
	int group;

	snprintf(name, sizeof name, "pod%d/%d", pod, index);
	snprintf(limit, sizeof limit, "%d", PIDS_LIMIT);
	for (int i = 0; i < groups->count; i++) {
		bool pids = groups->unified || strstr(groups->options[i], "pids");
		if (mkdirat(groups->base[i], name, 0755) < 0)
			return -1;
		if (pids && put_in(groups->base[i], name, "pids.max", limit) < 0)
			return -1;
		if (strstr(groups->options[i], "devices") &&
		    limit_devices_v1(groups->base[i], name) < 0)
			return -1;
	}
	if (!groups->unified)
		return 0;
	group = openat(groups->base[0], name, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
	return group < 0 || limit_devices_v2(groups, group) < 0 ? -1 : group;
}

int groups_attach(const struct groups *groups, int pod, int index, pid_t pid)
{
	char name[NAME_BYTES], value[16];
	if (groups->unified)
		return 0;
	snprintf(name, sizeof name, "pod%d/%d", pod, index);
	snprintf(value, sizeof value, "%d", pid);
	for (int i = 0; i < groups->count; i++)
		if (put_in(groups->base[i], name, "cgroup.procs", value) < 0)
			return -1;
	return 0;
}

int groups_mount(const struct groups *groups, const char *path)
{
	const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
	char at[NAME_BYTES * 2];

	if (groups->unified)
		return mount("cgroup", path, "cgroup2", flags | MS_RDONLY, NULL);
	if (mount("tmpfs", path, "tmpfs", flags, "mode=755") < 0)
		return -1;
	for (int i = 0; i < groups->count; i++) {
		snprintf(at, sizeof at, "%s/%s", path, strrchr(groups->mount[i], '/') + 1);
		if (mkdir(at, 0755) < 0 ||
		    mount("cgroup", at, "cgroup", flags | MS_RDONLY, groups->options[i]) < 0)
			return -1;
	}
	return mount(NULL, path, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | flags, NULL);
}

static void remove_group(int base, const char *name)
{
	const struct timespec pause = {.tv_nsec = 1000000};
	/* A group stays busy for a moment after its last process was reaped. */
	for (int tries = 0; tries < 2000; tries++) {
		if (unlinkat(base, name, AT_REMOVEDIR) == 0 || errno != EBUSY)
			return;
		nanosleep(&pause, NULL);
	}
}

void groups_remove(const struct groups *groups, int count, int per_pod)
{
	char name[NAME_BYTES * 2];
	for (int i = 0; i < groups->count; i++) {
		for (int index = 0; index < count; index++) {
			snprintf(name, sizeof name, "pod%d/%d", index / per_pod, index);
			remove_group(groups->base[i], name);
		}
		for (int pod = 0; pod <= (count - 1) / per_pod; pod++) {
			snprintf(name, sizeof name, "pod%d", pod);
			remove_group(groups->base[i], name);
		}
		snprintf(name, sizeof name, "%s/%s", groups->mount[i], groups->parent);
		remove_group(AT_FDCWD, name);
	}
}
