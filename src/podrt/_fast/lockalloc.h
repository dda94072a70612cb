/* Allocating and freeing lock entries, without a lock.
 *
 * An entry's state is the truth. Two levels of hint bits say where free entries may be: a bit too
 * many is cleared by who meets it, a bit too few can only come from a process that died between
 * two of the lines below, and `lk_repair` sets it again.
 */
#ifndef PODRT_LOCKALLOC_H
#define PODRT_LOCKALLOC_H

#include "locktable.h"

static inline lk_chunk *lk_chunk_at(void *base, size_t number)
{
    return (lk_chunk *)((uint8_t *)base + LK_CHUNKS_AT + number * sizeof(lk_chunk));
}

static inline uint32_t lk_kind(lk_entry *entry) { return lk_load32(&entry->state) & LK_KIND_MASK; }

/* The state of an entry while `identity` is half-way through changing it. */
static inline uint32_t lk_half_done(uint32_t kind, uint32_t identity)
{
    uint32_t generation = identity >> LK_GENERATION_SHIFT & LK_STATE_GENERATION_MASK;
    return kind | (identity & LK_SLOT_MASK) << 2 | generation << 14;
}

/* True for an entry whose process died while it allocated or freed it. */
static inline int lk_is_half_done(lk_slot *slots, uint32_t state, uint32_t pidns)
{
    uint32_t kind = state & LK_KIND_MASK;
    uint32_t slot = state >> 2 & LK_SLOT_MASK;
    if (kind != LK_ALLOCATING && kind != LK_FREEING)
        return 0;
    uint64_t word = lk_load(&slots[slot].word);
    uint32_t generation = (uint32_t)(word >> LK_SLOT_GENERATION_SHIFT) & LK_GENERATION_MASK;
    if ((generation & LK_STATE_GENERATION_MASK) != state >> 14)
        return 1;
    return !lk_alive(slots, slot | generation << LK_GENERATION_SHIFT, pidns);
}

static inline void lk_hint_free(lk_header *header, lk_chunk *chunk, size_t index)
{
    size_t number = index / LK_CHUNK_ENTRIES, place = index % LK_CHUNK_ENTRIES;
    lk_set_bits(&chunk->free_bits[place / 64], 1ull << place % 64);
    lk_set_bits(&header->summary[number / 64], 1ull << number % 64);
}

static inline int lk_take_entry(lk_entry *entry, uint32_t identity, const uint64_t *owner)
{
    uint32_t state = lk_load32(&entry->state);
    if ((state & LK_KIND_MASK) != LK_FREE)
        return 0;
    if (!lk_swap32(&entry->state, state, lk_half_done(LK_ALLOCATING, identity)))
        return 0;
    uint64_t sequence = lk_load(&entry->sequence) + 1;
    lk_store(&entry->sequence, sequence);
    for (int word = 0; word < 4; word++)
        lk_store(&entry->owner[word], owner[word]);
    uint64_t claim = lk_load(&entry->claim);
    if ((uint32_t)claim != 0) {
        lk_swap(&entry->claim, claim, claim >> LK_CLAIM_SEQ_SHIFT << LK_CLAIM_SEQ_SHIFT);
        lk_wake(&entry->claim, INT_MAX);
    }
    lk_store32(&entry->state, LK_ALLOCATED | (uint32_t)sequence << 2);
    return 1;
}

/* An entry of this chunk for `owner`: its place, or -1 when the chunk is full. */
static inline int lk_allocate_in(lk_chunk *chunk, uint32_t identity, const uint64_t *owner)
{
    for (int word = 0; word < (int)LK_CHUNK_ENTRIES / 64; word++) {
        uint64_t bits = lk_load(&chunk->free_bits[word]);
        for (; bits; bits &= bits - 1) {
            uint64_t bit = bits & -bits;
            int place = word * 64 + lk_lowest_bit(bits);
            lk_entry *entry = &chunk->entries[place];
            int taken = lk_take_entry(entry, identity, owner);
            if (taken || lk_kind(entry) != LK_FREE)
                lk_clear_bits(&chunk->free_bits[word], bit);
            if (lk_kind(entry) == LK_FREE)
                lk_set_bits(&chunk->free_bits[word], bit);
            if (taken)
                return place;
        }
    }
    return -1;
}

/* Clears the chunk's summary bit, then looks again: who frees sets its bit before the summary. */
static inline void lk_hint_full(lk_header *header, lk_chunk *chunk, size_t number)
{
    lk_clear_bits(&header->summary[number / 64], 1ull << number % 64);
    for (size_t word = 0; word < LK_CHUNK_ENTRIES / 64; word++) {
        if (lk_load(&chunk->free_bits[word])) {
            lk_set_bits(&header->summary[number / 64], 1ull << number % 64);
            return;
        }
    }
}

/* Looks through `chunks` chunks for a free entry: its index (never 0), or -1. */
static inline int64_t lk_allocate(lk_header *header, size_t chunks, uint32_t identity,
                                  const uint64_t *owner)
{
    for (size_t number = 0; number < chunks; number++) {
        uint64_t bits = lk_load(&header->summary[number / 64]) >> number % 64;
        if (bits == 0) {
            number |= 63;
            continue;
        }
        number += (size_t)lk_lowest_bit(bits);
        if (number >= chunks)
            break;
        lk_chunk *chunk = lk_chunk_at(header, number);
        if (number == 0)
            lk_clear_bits(&chunk->free_bits[0], 1);
        int place = lk_allocate_in(chunk, identity, owner);
        if (place >= 0)
            return (int64_t)(number * LK_CHUNK_ENTRIES) + place;
        lk_hint_full(header, chunk, number);
    }
    return -1;
}

/* Adds a chunk. Every step may be done twice, or by two at once, so nothing is locked. */
static inline int lk_grow(lk_header *header, int fd, uint32_t capacity)
{
    size_t number = capacity / LK_CHUNK_ENTRIES;
    lk_chunk *chunk = lk_chunk_at(header, number);
    off_t offset = (off_t)(LK_CHUNKS_AT + number * sizeof(lk_chunk));
    /* Blocks are reserved now: a full tmpfs would otherwise answer a store with SIGBUS. */
    if (fallocate(fd, 0, offset, sizeof(lk_chunk)) != 0)
        return -errno;
    for (size_t word = 0; word < LK_CHUNK_ENTRIES / 64; word++)
        lk_set_bits(&chunk->free_bits[word], ~0ull);
    lk_set_bits(&header->summary[number / 64], 1ull << number % 64);
    lk_swap32(&header->capacity, capacity, capacity + LK_CHUNK_ENTRIES);
    return 0;
}

/* Empties an entry that is in this process's hands. */
static inline void lk_offer(lk_header *header, size_t index)
{
    lk_chunk *chunk = lk_chunk_at(header, index / LK_CHUNK_ENTRIES);
    lk_entry *entry = &chunk->entries[index % LK_CHUNK_ENTRIES];
    for (int word = 0; word < 4; word++)
        lk_store(&entry->owner[word], 0);
    lk_store32(&entry->state, LK_FREE);
    lk_hint_free(header, chunk, index);
}

static inline int lk_free(lk_header *header, size_t index, uint32_t identity,
                          const uint64_t *owner)
{
    lk_chunk *chunk = lk_chunk_at(header, index / LK_CHUNK_ENTRIES);
    lk_entry *entry = &chunk->entries[index % LK_CHUNK_ENTRIES];
    uint32_t state = lk_load32(&entry->state);
    if ((state & LK_KIND_MASK) != LK_ALLOCATED)
        return 0;
    for (int word = 0; word < 4; word++)
        if (lk_load(&entry->owner[word]) != owner[word])
            return 0;
    /* The state holds the allocation's number, so this fails if the entry changed hands. */
    if (!lk_swap32(&entry->state, state, lk_half_done(LK_FREEING, identity)))
        return 0;
    lk_offer(header, index);
    return 1;
}

/* Brings back one entry if a dead process left it half done or its hint was lost: 1 if it did. */
static inline int lk_repair(lk_header *header, lk_slot *slots, size_t index, uint32_t identity,
                            uint32_t pidns)
{
    lk_chunk *chunk = lk_chunk_at(header, index / LK_CHUNK_ENTRIES);
    size_t place = index % LK_CHUNK_ENTRIES;
    lk_entry *entry = &chunk->entries[place];
    uint32_t state = lk_load32(&entry->state);
    if (lk_is_half_done(slots, state, pidns)) {
        if (!lk_swap32(&entry->state, state, lk_half_done(LK_FREEING, identity)))
            return 0;
        lk_offer(header, index);
        return 1;
    }
    if ((state & LK_KIND_MASK) != LK_FREE)
        return 0;
    int lost = (lk_load(&chunk->free_bits[place / 64]) >> place % 64 & 1) == 0;
    lk_hint_free(header, chunk, index);
    return lost;
}

#endif
