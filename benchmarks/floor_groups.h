/* The cgroups of floor: one per container below one per pod, in every v1 hierarchy or in v2. */
#ifndef FLOOR_GROUPS_H
#define FLOOR_GROUPS_H

#include <stdbool.h>
#include <sys/types.h>

enum { MAX_HIERARCHIES = 16 };

struct groups {
	bool unified;                      /* cgroup v2 alone */
	int count;                         /* hierarchies: 1 when unified */
	int base[MAX_HIERARCHIES];         /* the benchmark's own parent in each */
	char mount[MAX_HIERARCHIES][128];  /* where each is mounted */
	char options[MAX_HIERARCHIES][64]; /* "cpu", "name=systemd", ...: to mount it once more */
	char parent[64];
	int devices; /* v2: the loaded device program */
};

/* All return -1 with errno set on failure. */
int groups_open(struct groups *groups, const char *parent);
int groups_begin_pod(const struct groups *groups, int pod);
/* Makes the group with its limits; on v2 a descriptor to be born into, on v1 zero. */
int groups_make(const struct groups *groups, int pod, int index);
/* v1: moves pid into its group of every hierarchy. */
int groups_attach(const struct groups *groups, int pod, int index, pid_t pid);
/* In the container: mounts what it may see of its cgroups at path. */
int groups_mount(const struct groups *groups, const char *path);
void groups_remove(const struct groups *groups, int count, int per_pod);

#endif
