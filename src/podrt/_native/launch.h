/* From a plan to a process: what the monitor prepares, and what the child does with it. */
#pragma once
#include "plan.h"

/* A few words that monitor and child share while the child sets itself up. */
struct slot {
	uint32_t go;    /* futex, see below */
	uint32_t stage; /* 0 free, else the stage the child is in */
};
enum go { GO_NOT_YET, GO, GO_AWAITED /* the child sleeps */ };
#define STAGE_AT_EXEC 0x10000u /* set in `stage` when only execve is left */

/* A clone copies the descriptor table, and a monitor with many pipes has a long one. Then the
 * child is cloned with the table shared, takes a copy of the descriptors below this number
 * only, and the monitor moves what it keeps above it. */
#define KEEP_FDS 1024

/* What the child tells over its report pipe; nothing and the end mean that exec succeeded. */
struct report {
	uint32_t stage; /* 0: it stands before exec and waits; STAGE_AT_EXEC: it will exec now */
	int32_t error;
	char detail[240];
};

struct held_ns {
	uint32_t type; /* CLONE_NEW* */
	int fd;
	uint64_t inode;
};
#define HELD_KINDS 3

struct launch {
	struct plan plan;
	struct slot *slot;
	const struct held_ns *held;
	const char *shm_path;
	const struct rlimit *files; /* RLIMIT_NOFILE as the monitor found it */
	bool hold;
	bool lean;    /* share the descriptor table at first: see KEEP_FDS */
	bool joins;   /* wait until the monitor has moved us into our cgroups */
	bool unified; /* born in `cgroup`, if the kernel can */
	int cgroup;
	int out[2]; /* pipes: read end, write end */
	int err[2];
	int report[2];
	pid_t pid, monitor;
	uint64_t ticks;
};

int launch_clone(struct launch *launch);
void launch_go(struct slot *slot);

/* The child's own state. It owns no memory: strings point into the plan. */
struct child {
	const struct launch *launch;
	int root;          /* directory of the new root */
	int proc;          /* a procfs that is known to be one */
	int null;          /* the host's /dev/null, verified */
	int blank;         /* the empty directory that masks directories */
	int filter;        /* the seccomp filter's file */
	int stat;          /* our own /proc/self/stat, as the monitor sees it */
	bool has_caps_set; /* CAPS came by */
	bool has_user;     /* USER came by */
	bool is_sealed;    /* descriptors and signals are as the program shall find them */
	uint32_t umask;
	uint16_t flags; /* of the operation at hand */
	struct op_caps {
		uint64_t bounding, effective, permitted, inheritable, ambient;
	} caps;
	const char *detail; /* what a failure names */
	char note[160];     /* room for a detail that is no string of the plan */
};

typedef int operation(struct child *child, struct reader payload);

_Noreturn void child_main(const struct launch *launch);
int child_seal(struct child *child);

operation op_root_overlay, op_root_bind, op_mount, op_bind, op_pod_shm, op_device, op_symlink;
operation op_mask, op_readonly, op_pivot, op_propagation, op_cwd;
operation op_user, op_caps, op_no_new_privs, op_seccomp, op_keyring, op_rlimit, op_umask;
operation op_sysctl, op_oom_score;

int open_in_root(const struct child *child, const char *path);
int make_in_root(const struct child *child, const char *path);
int make_file_in_root(const struct child *child, const char *path);
int fs_options(int fs, struct list options);
int verified_proc(struct child *child);
