/* Works on a lock table and dies by SIGKILL right before its N-th write to shared memory.
 *
 *     lock_steps TABLE N VERB INDEX
 *
 * Verbs: allocate (for the owner "nnn..."), free (INDEX, of "ooo..."), hold (INDEX, and give it
 * back). Without a death it exits with 0.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <unistd.h>

static long steps_left;

#define LK_STEP()                                                                                  \
    do {                                                                                           \
        if (--steps_left == 0)                                                                     \
            kill(getpid(), SIGKILL);                                                               \
    } while (0)

#include "lockalloc.h"

static int allocate(lk_header *header, int fd, uint32_t identity)
{
    uint64_t owner[4];
    memset(owner, 'n', sizeof owner);
    for (;;) {
        uint32_t capacity = lk_load32(&header->capacity);
        if (lk_allocate(header, capacity / LK_CHUNK_ENTRIES, identity, owner) >= 0)
            return 0;
        if (lk_grow(header, fd, capacity) != 0)
            return 1;
    }
}

static int hold(lk_header *header, size_t index, uint32_t identity)
{
    lk_chunk *chunk = lk_chunk_at(header, index / LK_CHUNK_ENTRIES);
    lk_u64 *word = &chunk->entries[index % LK_CHUNK_ENTRIES].word;
    uint64_t seen = 0;
    if (!lk_take(word, identity, &seen))
        return 1;
    return lk_drop(word, identity) < 0;
}

int main(int count, char **args)
{
    if (count != 5)
        return 2;
    int fd = open(args[1], O_RDWR | O_CLOEXEC);
    size_t index = strtoul(args[4], NULL, 10);
    uint64_t owner[4], ticks = 0;
    struct stat status;
    lk_header *header = mmap(NULL, LK_MAP_BYTES, PROT_READ | PROT_WRITE,
                             MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (fd < 0 || header == MAP_FAILED || lk_start_ticks(getpid(), &ticks) != 1)
        return 3;
    if (stat("/proc/self/ns/pid", &status) != 0)
        return 3;
    memset(owner, 'o', sizeof owner);
    steps_left = strtol(args[2], NULL, 10);
    lk_slot *slots = (lk_slot *)((uint8_t *)header + LK_PAGE);
    uint32_t identity = lk_claim_slot(header, slots, getpid(), ticks, (uint32_t)status.st_ino);
    if (identity == 0)
        return 4;
    if (strcmp(args[3], "allocate") == 0)
        return allocate(header, fd, identity);
    if (strcmp(args[3], "free") == 0)
        return !lk_free(header, index, identity, owner);
    return hold(header, index, identity);
}
