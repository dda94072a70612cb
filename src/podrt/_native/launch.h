/* From a plan to a process: what the monitor prepares, and what the child does with it. */
#pragma once
#include "plan.h"

/* A few words that monitor and child share while the child sets itself up. */
struct slot {
	uint32_t go;    /* futex, see below */
	uint32_t stage; /* 0 free, else the stage the child is in */
	int32_t pid;    /* of a child that a helper made */
};
enum go { GO_NOT_YET, GO, GO_AWAITED /* the child sleeps */ };
#define STAGE_AT_EXEC 0x10000u /* set in `stage` when only execve is left */

/* When each stage of a start began, if somebody asked; the child writes it, too. */
struct times {
	uint32_t count, reserved;
	struct stamp at[MAX_STAMPS];
};

/* A clone copies the descriptor table, and a monitor with many pipes has a long one. Then the
 * child is cloned with the table shared, takes a copy of the descriptors below this number
 * only, and the monitor moves what it keeps above it. */
#define KEEP_FDS 1024

/* What the child tells: CREATED when it stands before exec, STARTED when it will exec now (if it
 * shared the descriptor table), OK when it is its caller's turn, TERMINAL with a master, FAILED.
 * Nothing and the end mean that exec succeeded. */
#define KILLED_EARLY "the process was killed while it was set up"

struct held_ns {
	uint32_t type; /* CLONE_NEW* */
	int fd;
	uint64_t inode;
};
#define HELD_KINDS 4 /* that the monitor makes; the rest are those of a process that leads */
#define ALL_KINDS 6

struct launch {
	struct plan plan;
	struct slot *slot;
	struct times *times; /* NULL: nobody asked */
	const struct held_ns *held;
	const char *shm_path;
	const char *dirs; /* cgroups to join, each ended by a NUL */
	uint32_t dirs_bytes;
	struct rlimit files; /* RLIMIT_NOFILE as the monitor found it */
	bool hold;
	bool lean;    /* share the descriptor table at first: see KEEP_FDS */
	bool joins;   /* wait until the monitor has moved us into our cgroups */
	bool unified; /* born in `cgroup`, if the kernel can */
	int cgroup;
	int out[2], err[2]; /* pipes: read end, write end */
	int report[2];      /* a socket pair in the same order */
	int home;           /* the mount namespace we came from */
	int start;          /* where a process that nobody watches is told to go on; -1: none */
	pid_t pid, monitor;
	uint64_t ticks;
	struct message failure;
};

struct launch launch_of(struct rlimit files);
void *launch_shared(size_t bytes);
void launch_stamp(const struct launch *launch, uint32_t stage);
int launch_isolate(int *home);
int launch_pipes(struct launch *launch);
int launch_reopen(const struct launch *launch);
int launch_clone(struct launch *launch);
int launch_settle(struct launch *launch);
int launch_fail(struct launch *launch, uint32_t stage, int error, const char *detail);
void launch_go(struct slot *slot);
void launch_clean(struct launch *launch);
int launch_main(char **args);
pid_t launch_idle(uint64_t flags, const char *uid_map, const char *gid_map);
void end_idle(pid_t pid);

/* The child's own state. It owns no memory: strings point into the plan. */
struct child {
	const struct launch *launch;
	const struct plan *plan;
	int tree;           /* what the operation's source made */
	int root;           /* directory of the new root */
	int proc;           /* a procfs that is known to be one */
	int null;           /* a mount of the host's /dev/null, verified */
	int blank;          /* the empty directory that masks directories */
	int filter;         /* the seccomp filter's file */
	int notify;         /* whom to send its listener */
	int stat;           /* our own /proc/self/stat, as the monitor sees it */
	int peer;           /* who released us and is told of a failure, instead of the monitor */
	bool keeps_groups;  /* its user namespace forbids to change them */
	const char *detail; /* what a failure names */
	char note[160];     /* room for a detail that is no string of the plan */
};

typedef int operation(struct child *child, const struct op *op);
struct op_kind {
	operation *source, *act;
};
extern const struct op_kind op_kinds[OP_COUNT];

_Noreturn void child_main(const struct launch *launch);
struct child child_of(const struct launch *launch);
int wait_for_go(struct slot *slot);
int child_enter(struct child *child, const struct op *op);
#define STATE_ROOM (64 << 10)
int child_expand(const struct child *child, char *const *texts, char *room);
_Noreturn void child_die(const struct child *child, int error);

operation source_overlay, source_root, source_filesystem, source_bind, source_shm;
operation op_setns, op_root, op_mount, op_bind, op_pod_shm, op_device, op_symlink, op_hide;
operation op_mount_attr, op_pivot, op_cwd, op_sysctl, op_label, op_call, op_caps, op_user;
operation op_seal, op_seccomp, op_terminal, op_hook, op_hold, op_exec, op_engine;

#define PROPAGATIONS ((uint32_t)(MS_SHARED | MS_SLAVE | MS_PRIVATE | MS_UNBINDABLE))
#define IN_ROOT (RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
int open_in_root(const struct child *child, const char *path, uint64_t flags);
int make_in_root(const struct child *child, const char *path);
int place_file(const struct child *child, int tree, const char *path);
int verified_proc(struct child *child);
int verified_node(const char *path, mode_t type, dev_t device);
int copy_tree(int from, int to, bool is_whole);
