/* The containers of the group, found by ID and by pid. */
#include "monitor.h"

/* IDs are random: any byte of one is a hash of it. */
struct container *table_find(const struct table *table, const uint8_t *id)
{
	struct container *c = table->by_id[id[0] % BUCKETS];

	while (c && memcmp(c->id, id, ID_BYTES) != 0)
		c = c->next_by_id;
	return c;
}

struct container *table_find_pid(const struct table *table, pid_t pid)
{
	struct container *c = table->by_pid[(uint32_t)pid % BUCKETS];

	while (c && c->pid != pid)
		c = c->next_by_pid;
	return c;
}

struct container *table_add(struct table *table, const uint8_t *id)
{
	struct container **bucket = &table->by_id[id[0] % BUCKETS];
	struct container *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	memcpy(c->id, id, ID_BYTES);
	c->log.fd = -1;
	for (int i = 0; i < 3; i++)
		c->ends[i] = -1;
	c->report = (struct source){read_report, -1, c};
	c->pidfd = (struct source){pidfd_event, -1, c};
	c->out = (struct stream){{stream_event, -1, &c->out}, &c->log, "stdout", NULL, 0};
	c->err = (struct stream){{stream_event, -1, &c->err}, &c->log, "stderr", NULL, 0};
	c->next_by_id = *bucket;
	*bucket = c;
	return c;
}

/* 0: no process any more. */
void table_set_pid(struct table *table, struct container *c, pid_t pid)
{
	struct container **at = &table->by_pid[(uint32_t)c->pid % BUCKETS];

	while (*at && *at != c)
		at = &(*at)->next_by_pid;
	if (*at)
		*at = c->next_by_pid;
	c->pid = pid;
	if (pid == 0)
		return;
	at = &table->by_pid[(uint32_t)pid % BUCKETS];
	c->next_by_pid = *at;
	*at = c;
}

void table_remove(struct table *table, struct container *c)
{
	struct container **at = &table->by_id[c->id[0] % BUCKETS];

	table_set_pid(table, c, 0);
	while (*at && *at != c)
		at = &(*at)->next_by_id;
	if (*at)
		*at = c->next_by_id;
	free(c->memory_dir);
	free(c->failure.text);
}

/* When nothing runs any more: logs, pipes and waiters are gone with the processes. */
void table_free(struct table *table)
{
	for (uint32_t i = 0; i < BUCKETS; i++) {
		while (table->by_id[i]) {
			struct container *c = table->by_id[i];

			table_remove(table, c);
			free(c);
		}
	}
}
