/* The containers of the group, found by ID and by pid. */
#include <stdlib.h>
#include <string.h>

#include "monitor.h"

#define FIRST_ROOM 16

static uint32_t id_bucket(const struct table *table, const uint8_t *id)
{
	uint32_t hash;

	memcpy(&hash, id, sizeof(hash)); /* IDs are random */
	return hash & (table->room - 1);
}

static uint32_t pid_bucket(const struct table *table, pid_t pid)
{
	return (uint32_t)pid & (table->room - 1);
}

struct container *table_find(const struct table *table, const uint8_t *id)
{
	struct container *c = table->room ? table->by_id[id_bucket(table, id)] : NULL;

	while (c && memcmp(c->id, id, ID_BYTES) != 0)
		c = c->next_by_id;
	return c;
}

struct container *table_find_pid(const struct table *table, pid_t pid)
{
	struct container *c = table->room ? table->by_pid[pid_bucket(table, pid)] : NULL;

	while (c && c->pid != pid)
		c = c->next_by_pid;
	return c;
}

static void link_id(struct table *table, struct container *c)
{
	struct container **bucket = &table->by_id[id_bucket(table, c->id)];

	c->next_by_id = *bucket;
	*bucket = c;
}

static void link_pid(struct table *table, struct container *c)
{
	struct container **bucket = &table->by_pid[pid_bucket(table, c->pid)];

	if (c->pid == 0)
		return;
	c->next_by_pid = *bucket;
	*bucket = c;
}

static bool grow(struct table *table)
{
	struct table bigger = {.room = table->room ? table->room * 2 : FIRST_ROOM,
			       .count = table->count};

	bigger.by_id = calloc(bigger.room, sizeof(*bigger.by_id));
	bigger.by_pid = calloc(bigger.room, sizeof(*bigger.by_pid));
	if (!bigger.by_id || !bigger.by_pid) {
		free(bigger.by_id);
		free(bigger.by_pid);
		return false;
	}
	for (uint32_t i = 0; i < table->room; i++) {
		for (struct container *c = table->by_id[i], *next; c; c = next) {
			next = c->next_by_id;
			link_id(&bigger, c);
			link_pid(&bigger, c);
		}
	}
	free(table->by_id);
	free(table->by_pid);
	*table = bigger;
	return true;
}

struct container *table_add(struct table *table, const uint8_t *id)
{
	struct container *c;

	if (table->count >= table->room && !grow(table))
		return NULL;
	c = calloc(1, sizeof(*c));
	if (!c)
		return NULL;
	memcpy(c->id, id, ID_BYTES);
	c->log.fd = -1;
	for (int i = 0; i < 3; i++)
		c->ends[i] = -1;
	c->report = (struct source){SOURCE_REPORT, -1, c};
	c->pidfd = (struct source){SOURCE_PIDFD, -1, c};
	c->out = (struct stream){.source = {SOURCE_OUTPUT, -1, &c->out}, .log = &c->log};
	c->err = (struct stream){.source = {SOURCE_OUTPUT, -1, &c->err}, .log = &c->log};
	c->out.name = "stdout";
	c->err.name = "stderr";
	table->count++;
	link_id(table, c);
	return c;
}

static void unlink_pid(struct table *table, struct container *c)
{
	struct container **at = &table->by_pid[pid_bucket(table, c->pid)];

	while (*at && *at != c)
		at = &(*at)->next_by_pid;
	if (*at)
		*at = c->next_by_pid;
	c->next_by_pid = NULL;
}

void table_set_pid(struct table *table, struct container *c, pid_t pid)
{
	unlink_pid(table, c);
	c->pid = pid;
	link_pid(table, c);
}

void table_remove(struct table *table, struct container *c)
{
	struct container **at = &table->by_id[id_bucket(table, c->id)];

	unlink_pid(table, c);
	while (*at && *at != c)
		at = &(*at)->next_by_id;
	if (*at)
		*at = c->next_by_id;
	table->count--;
}
