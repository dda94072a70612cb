/* The group's journal: facts in the order they happened, one write(2) each. */
#include "monitor.h"

#define RECORD_BYTES ((off_t)sizeof(struct journal_record))

static uint32_t crc_of(const struct journal_record *record)
{
	return crc32_of(&record->kind, sizeof(*record) - offsetof(struct journal_record, kind));
}

/* Goes back over what a crash left half written: the next record follows the last whole one. */
int journal_open(struct journal *journal, int fd)
{
	struct stat st;
	struct journal_record record;
	off_t end;

	*journal = (struct journal){.fd = fd, .last = &journal->first};
	if (fstat(fd, &st) < 0)
		return -errno;
	if (st.st_size < JOURNAL_HEADER_BYTES)
		return -EINVAL;
	end = st.st_size - (st.st_size - JOURNAL_HEADER_BYTES) % RECORD_BYTES;
	while (end > JOURNAL_HEADER_BYTES) {
		if (read_all(fd, &record, sizeof(record), end - RECORD_BYTES) == 0 &&
		    record.crc == crc_of(&record)) {
			journal->seq = record.seq;
			break;
		}
		end -= RECORD_BYTES;
	}
	return end < st.st_size && ftruncate(fd, end) < 0 ? -errno : 0;
}

static int append(struct journal *journal, struct journal_record *record)
{
	struct stat st;
	ssize_t n;
	int error;

	record->seq = journal->seq + 1;
	record->crc = crc_of(record);
	n = write(journal->fd, record, sizeof(*record));
	if (n == (ssize_t)sizeof(*record)) {
		journal->seq++;
		return 0;
	}
	error = n < 0 ? errno : ENOSPC;
	/* Part of a record would shift all that follow. */
	if (n > 0 && fstat(journal->fd, &st) == 0 && ftruncate(journal->fd, st.st_size - n) < 0)
		error = errno;
	return -error;
}

/* While older facts wait for room, no newer one may overtake them. */
int journal_append(struct journal *journal, struct journal_record record)
{
	if (record.at_ns == 0)
		record.at_ns = clock_ns(CLOCK_REALTIME);
	if (journal->first && !journal_retry(journal))
		return -ENOSPC;
	return append(journal, &record);
}

/* A fact that cannot be refused, like an exit: kept until the disk takes it. */
void journal_keep(struct journal *journal, struct journal_record record)
{
	struct pending_record *pending;

	if (record.at_ns == 0)
		record.at_ns = clock_ns(CLOCK_REALTIME);
	if (journal_append(journal, record) == 0)
		return;
	pending = malloc(sizeof(*pending));
	if (!pending)
		return;
	*pending = (struct pending_record){.record = record};
	*journal->last = pending;
	journal->last = &pending->next;
}

/* True when nothing is left to write. */
bool journal_retry(struct journal *journal)
{
	while (journal->first) {
		struct pending_record *pending = journal->first;

		if (append(journal, &pending->record) < 0)
			return false;
		journal->first = pending->next;
		if (!journal->first)
			journal->last = &journal->first;
		free(pending);
	}
	return true;
}
