/* The lock table's file: its layout, its atomics and the three kernel calls it needs.
 *
 * The file is one header page, a table of process slots, then chunks of lock entries. Every word
 * that two processes may touch is an _Atomic of fixed width; nothing in the file is a pointer.
 *
 * A lock or claim word's low half is what futexes see: 0 when free, else an identity
 *     bits 0-11 slot, bits 12-30 the slot's generation, bit 31 somebody waits.
 * A lock's high half is its ticket, one more with every acquisition.
 * A claim's high half: bits 32-39 verb, 40-47 the verb that pre-empts it, 48-63 a sequence.
 */
#ifndef PODRT_LOCKTABLE_H
#define PODRT_LOCKTABLE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "futexes here live in the low half of 64-bit words: little endian only"
#endif

#define LK_PAGE 4096u
#define LK_SLOTS 4096u /* slot 0 is never given out, so that an identity is never 0 */
#define LK_CHUNK_ENTRIES 4096u
#define LK_MAX_CHUNKS 1024u

#define LK_SLOT_MASK 0xFFFu
#define LK_GENERATION_SHIFT 12
#define LK_GENERATION_MASK 0x7FFFFu
#define LK_IDENTITY_MASK 0x7FFFFFFFu
#define LK_WAITERS 0x80000000u

/* A slot's word holds a whole process identity, so that claiming a slot is one swap:
 * bits 0-21 pid (the kernel's limit is 2^22), 22-40 generation, 41-63 start time modulo 2^23
 * clock ticks (23 hours: the same pid would have to come back at exactly that distance). */
#define LK_PID_MASK 0x3FFFFFu
#define LK_SLOT_GENERATION_SHIFT 22
#define LK_TICKS_SHIFT 41
#define LK_TICKS_MASK 0x7FFFFFu

#define LK_VERB_SHIFT 32
#define LK_PREEMPT_SHIFT 40
#define LK_CLAIM_SEQ_SHIFT 48

/* An entry's state: 2 bits of kind; then who is half-way through (slot and the low 18 bits of its
 * generation), or for an allocated one the low 30 bits of the entry's sequence. */
#define LK_FREE 0u
#define LK_ALLOCATING 1u
#define LK_ALLOCATED 2u
#define LK_FREEING 3u
#define LK_KIND_MASK 3u
#define LK_STATE_GENERATION_MASK 0x3FFFFu

#define LK_WAITV_MAX 128u
#define LK_WAITING 8u
#define LK_WAITS_FOR_CLAIM 0x80000000u

typedef _Atomic uint64_t lk_u64;
typedef _Atomic uint32_t lk_u32;

typedef struct {
    char magic[8];
    uint32_t version;
    uint32_t header_bytes;
    uint32_t slot_count;
    uint32_t slot_bytes;
    uint32_t chunk_entries;
    uint32_t entry_bytes;
    uint8_t boot_id[16];
    uint32_t checksum; /* of all above: a damaged boot ID must not look like a reboot */
    uint32_t unused[3];
    lk_u32 capacity;
    lk_u32 slot_hint;
    uint64_t unused2[7];
    lk_u64 summary[LK_MAX_CHUNKS / 64]; /* bit: this chunk may have free entries */
} lk_header;

typedef struct {
    lk_u64 word;
    lk_u64 start_ticks;
    lk_u32 mail; /* the futex its process's waiter thread always sleeps on */
    lk_u32 pidns;
    /* Index + 1 of what it waits for, with LK_WAITS_FOR_CLAIM where that is not the lock itself
     * but the claim on it: only to be shown. */
    lk_u32 waiting[LK_WAITING];
    uint64_t unused;
} lk_slot;

typedef struct {
    lk_u64 word;
    lk_u64 claim;
    lk_u64 owner[4];
    lk_u32 state;
    uint32_t unused;
    lk_u64 sequence;
} lk_entry;

typedef struct {
    lk_u64 free_bits[LK_CHUNK_ENTRIES / 64]; /* hints: an entry's state is the truth */
    uint8_t unused[LK_PAGE - LK_CHUNK_ENTRIES / 8];
    lk_entry entries[LK_CHUNK_ENTRIES];
} lk_chunk;

#define LK_CHUNKS_AT (LK_PAGE + LK_SLOTS * sizeof(lk_slot))
#define LK_MAP_BYTES (LK_CHUNKS_AT + (size_t)LK_MAX_CHUNKS * sizeof(lk_chunk))

_Static_assert(sizeof(lk_header) <= LK_PAGE, "the header is one page");
_Static_assert(sizeof(lk_slot) == 64 && sizeof(lk_entry) == 64, "one cache line each");
_Static_assert(sizeof(lk_chunk) % LK_PAGE == 0, "chunks are whole pages");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "atomics in shared memory must be lock free");

/* Stands before every write to shared memory: a test dies at each of them in turn. */
#ifndef LK_STEP
#define LK_STEP() ((void)0)
#endif

static inline uint64_t lk_load(lk_u64 *word)
{
    return atomic_load_explicit(word, memory_order_acquire);
}

static inline void lk_store(lk_u64 *word, uint64_t value)
{
    LK_STEP();
    atomic_store_explicit(word, value, memory_order_release);
}

static inline int lk_swap(lk_u64 *word, uint64_t old, uint64_t new)
{
    LK_STEP();
    return atomic_compare_exchange_strong_explicit(word, &old, new, memory_order_acq_rel,
                                                   memory_order_relaxed);
}

/* The hint bits need one order that all agree on: bit cleared, then the truth read again. */
static inline void lk_set_bits(lk_u64 *word, uint64_t bits)
{
    LK_STEP();
    atomic_fetch_or(word, bits);
}

static inline void lk_clear_bits(lk_u64 *word, uint64_t bits)
{
    LK_STEP();
    atomic_fetch_and(word, ~bits);
}

static inline uint32_t lk_load32(lk_u32 *word) { return atomic_load(word); }

static inline void lk_store32(lk_u32 *word, uint32_t value)
{
    LK_STEP();
    atomic_store(word, value);
}

static inline int lk_swap32(lk_u32 *word, uint32_t old, uint32_t new)
{
    LK_STEP();
    return atomic_compare_exchange_strong(word, &old, new);
}

static inline uint32_t lk_add32(lk_u32 *word, uint32_t value)
{
    LK_STEP();
    return atomic_fetch_add(word, value);
}

static inline int lk_lowest_bit(uint64_t bits) { return __builtin_ctzll(bits); }

/* Takes a free lock; 0 and the word as it stands when it is not free. */
static inline int lk_take(lk_u64 *word, uint32_t identity, uint64_t *seen)
{
    uint64_t old = atomic_load_explicit(word, memory_order_relaxed);
    while ((uint32_t)old == 0) {
        uint64_t new = ((old >> 32) + 1) << 32 | identity;
        LK_STEP();
        if (atomic_compare_exchange_weak_explicit(word, &old, new, memory_order_acquire,
                                                  memory_order_relaxed))
            return 1;
    }
    *seen = old;
    return 0;
}

/* Gives a lock back, its ticket kept: 1 when somebody waits, 0 when not, -1 when not held by
 * `identity`. */
static inline int lk_drop(lk_u64 *word, uint32_t identity)
{
    uint64_t old = atomic_load_explicit(word, memory_order_relaxed);
    while (((uint32_t)old & LK_IDENTITY_MASK) == identity) {
        uint64_t new = old >> 32 << 32;
        LK_STEP();
        if (atomic_compare_exchange_weak_explicit(word, &old, new, memory_order_release,
                                                  memory_order_relaxed))
            return ((uint32_t)old & LK_WAITERS) != 0;
    }
    return -1;
}

/* Marks a held word as waited for; returns its low half then, 0 when it is free. */
static inline uint32_t lk_mark_waited(lk_u64 *word)
{
    uint64_t old = atomic_load(word);
    while ((uint32_t)old != 0 && ((uint32_t)old & LK_WAITERS) == 0) {
        if (atomic_compare_exchange_weak(word, &old, old | LK_WAITERS))
            return (uint32_t)old | LK_WAITERS;
    }
    return (uint32_t)old;
}

static inline int lk_wake(void *address, int count)
{
    long woken = syscall(SYS_futex, address, FUTEX_WAKE, count, NULL, NULL, 0);
    return woken < 0 ? 0 : (int)woken;
}

static inline struct timespec lk_from_us(int64_t us)
{
    struct timespec span = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};
    return span;
}

/* Sleeps while the 32 bits at `address` are `expected`; any return may be for no reason. */
static inline void lk_sleep(void *address, uint32_t expected, int64_t timeout_us)
{
    struct timespec span = lk_from_us(timeout_us);
    syscall(SYS_futex, address, FUTEX_WAIT, expected, &span, NULL, 0);
}

static inline int64_t lk_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Build hosts may have headers older than the kernels this runs on: futex_waitv is of 5.16. */
#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif
#define LK_FUTEX_32 2

typedef struct {
    uint64_t value;
    uint64_t address;
    uint32_t flags;
    uint32_t reserved;
} lk_sleeper;

typedef struct {
    lk_sleeper words[LK_WAITV_MAX];
    uint32_t count;
} lk_sleepers;

static inline void lk_sleep_on(lk_sleepers *all, void *address, uint32_t expected)
{
    lk_sleeper sleeper = {
        .value = expected, .address = (uintptr_t)address, .flags = LK_FUTEX_32};
    all->words[all->count++] = sleeper;
}

/* How long a process without futex_waitv sleeps before it looks at everything again. */
#define LK_POLL_US 2000

/* Sleeps until one of the words changes; where futex_waitv is missing only the first word (the
 * mail) can be slept on and the others are polled. */
static inline void lk_sleep_any(lk_sleepers *all, int64_t timeout_us)
{
    struct timespec until, span = lk_from_us(timeout_us);
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += span.tv_sec;
    until.tv_nsec += span.tv_nsec;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec += 1;
        until.tv_nsec -= 1000000000;
    }
    long rc = syscall(SYS_futex_waitv, all->words, all->count, 0, &until, CLOCK_MONOTONIC);
    if (rc >= 0 || errno == EAGAIN || errno == EINTR || errno == ETIMEDOUT)
        return;
    if (all->count > 1 && timeout_us > LK_POLL_US)
        timeout_us = LK_POLL_US;
    lk_sleep((void *)(uintptr_t)all->words[0].address, (uint32_t)all->words[0].value, timeout_us);
}

/* The start time of a live process: 1 and its ticks, 0 when there is none (a zombie is none),
 * -errno when /proc does not say. */
static inline int lk_start_ticks(int pid, uint64_t *ticks)
{
    char text[1024];
    snprintf(text, sizeof text, "/proc/%d/stat", pid);
    int fd = open(text, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT || errno == ESRCH ? 0 : -errno;
    ssize_t got = read(fd, text, sizeof text - 1);
    int failed = got < 0 ? errno : 0;
    close(fd);
    if (failed)
        return failed == ESRCH ? 0 : -failed;
    text[got] = 0;
    char *at = strrchr(text, ')'); /* the name before it may hold anything */
    if (at == NULL || at[1] != ' ')
        return -EPROTO;
    char state = at[2];
    long threads = 0;
    at += 2;
    for (int field = 3; field < 22; field++) {
        if (field == 20)
            threads = strtol(at, NULL, 10);
        at = strchr(at, ' ');
        if (at == NULL)
            return -EPROTO;
        at++;
    }
    *ticks = strtoull(at, NULL, 10);
    /* A leader that ended before its other threads shows as a zombie too, but lives. */
    if ((state == 'Z' || state == 'X') && threads <= 1)
        return 0;
    return 1;
}

/* True while the process that `identity` names lives. In doubt (no descriptors left, another pid
 * namespace) it lives: waiting too long is better than two owners. */
static inline int lk_alive(lk_slot *slots, uint32_t identity, uint32_t pidns)
{
    lk_slot *slot = &slots[identity & LK_SLOT_MASK];
    uint64_t word = lk_load(&slot->word);
    uint32_t generation = (identity & LK_IDENTITY_MASK) >> LK_GENERATION_SHIFT;
    int pid = (int)(word & LK_PID_MASK);
    uint64_t ticks = 0;

    if (pid == 0 || ((word >> LK_SLOT_GENERATION_SHIFT) & LK_GENERATION_MASK) != generation)
        return 0;
    uint32_t theirs = lk_load32(&slot->pidns);
    if (theirs != 0 && theirs != pidns)
        return 1;
    int rc = lk_start_ticks(pid, &ticks);
    return rc < 0 || (rc > 0 && (ticks & LK_TICKS_MASK) == word >> LK_TICKS_SHIFT);
}

/* Takes a process slot, a dead process's if none is free: the new identity, 0 when all 4,095 are
 * in use. The swap makes the whole identity visible at once. */
static inline uint32_t lk_claim_slot(lk_header *header, lk_slot *slots, int pid, uint64_t ticks,
                                     uint32_t pidns)
{
    uint32_t hint = lk_add32(&header->slot_hint, 1);
    for (uint32_t step = 0; step < 2 * (LK_SLOTS - 1); step++) {
        uint32_t number = 1 + (hint + step) % (LK_SLOTS - 1);
        lk_slot *slot = &slots[number];
        uint64_t word = lk_load(&slot->word);
        uint64_t generation = word >> LK_SLOT_GENERATION_SHIFT & LK_GENERATION_MASK;
        uint32_t theirs = number | (uint32_t)generation << LK_GENERATION_SHIFT;
        int in_first_round = step < LK_SLOTS - 1;
        if ((word & LK_PID_MASK) != 0 && (in_first_round || lk_alive(slots, theirs, pidns)))
            continue;
        generation = (generation + 1) & LK_GENERATION_MASK;
        uint64_t mine = ((uint64_t)pid & LK_PID_MASK) | generation << LK_SLOT_GENERATION_SHIFT
                        | (ticks & LK_TICKS_MASK) << LK_TICKS_SHIFT;
        if (!lk_swap(&slot->word, word, mine))
            continue;
        lk_store(&slot->start_ticks, ticks);
        lk_store32(&slot->pidns, pidns);
        for (uint32_t place = 0; place < LK_WAITING; place++)
            lk_store32(&slot->waiting[place], 0);
        return number | (uint32_t)generation << LK_GENERATION_SHIFT;
    }
    return 0;
}

/* A page whose content a forked child does not get: it reads zero there. */
static inline uint32_t *lk_new_mark(void)
{
    void *page = mmap(NULL, LK_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return NULL;
    if (madvise(page, LK_PAGE, MADV_WIPEONFORK) != 0) {
        munmap(page, LK_PAGE);
        return NULL;
    }
    return page;
}

#endif
