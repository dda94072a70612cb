# cython: language_level=3
"""The lock table's layout, the C functions that work on it, and the class around them."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef extern from "locktable.h" nogil:
    ctypedef struct lk_u64:
        pass
    ctypedef struct lk_u32:
        pass
    ctypedef struct lk_header:
        lk_u32 capacity
        lk_u32 slot_hint
        lk_u64 summary[16]
    ctypedef struct lk_slot:
        lk_u64 word
        lk_u64 start_ticks
        lk_u32 mail
        lk_u32 pidns
        lk_u32 waiting[8]
    ctypedef struct lk_entry:
        lk_u64 word
        lk_u64 claim
        lk_u64 owner[4]
        lk_u32 state
        lk_u64 sequence
    ctypedef struct lk_chunk:
        lk_u64 free_bits[64]
        lk_entry entries[4096]

cdef extern from "lockalloc.h" nogil:
    enum:
        LK_PAGE, LK_SLOTS, LK_CHUNK_ENTRIES, LK_MAX_CHUNKS
        LK_SLOT_MASK, LK_GENERATION_SHIFT, LK_GENERATION_MASK, LK_IDENTITY_MASK
        LK_PID_MASK, LK_SLOT_GENERATION_SHIFT
        LK_VERB_SHIFT, LK_PREEMPT_SHIFT, LK_CLAIM_SEQ_SHIFT
        LK_FREE, LK_KIND_MASK, LK_WAITV_MAX, LK_WAITING, LK_POLL_US
    const uint32_t LK_WAITERS
    const uint32_t LK_WAITS_FOR_CLAIM
    const size_t LK_CHUNKS_AT
    const size_t LK_MAP_BYTES
    ctypedef struct lk_sleepers:
        uint32_t count
    uint64_t lk_load(lk_u64 *word)
    bint lk_swap(lk_u64 *word, uint64_t old, uint64_t new)
    uint32_t lk_load32(lk_u32 *word)
    void lk_store32(lk_u32 *word, uint32_t value)
    uint32_t lk_add32(lk_u32 *word, uint32_t value)
    bint lk_take(lk_u64 *word, uint32_t identity, uint64_t *seen)
    int lk_drop(lk_u64 *word, uint32_t identity)
    uint32_t lk_mark_waited(lk_u64 *word)
    int lk_wake(void *address, int count)
    void lk_sleep(void *address, uint32_t expected, int64_t timeout_us)
    int64_t lk_now_ms()
    void lk_sleep_on(lk_sleepers *all, void *address, uint32_t expected)
    void lk_sleep_any(lk_sleepers *all, int64_t timeout_us)
    int lk_start_ticks(int pid, uint64_t *ticks)
    bint lk_alive(lk_slot *slots, uint32_t identity, uint32_t pidns)
    uint32_t lk_claim_slot(lk_header *header, lk_slot *slots, int pid, uint64_t ticks,
                           uint32_t pidns)
    int lk_grow(lk_header *header, int fd, uint32_t capacity)
    uint32_t *lk_new_mark()
    lk_chunk *lk_chunk_at(void *base, size_t number)
    int64_t lk_allocate(lk_header *header, size_t chunks, uint32_t identity,
                        const uint64_t *owner)
    bint lk_free(lk_header *header, size_t index, uint32_t identity, const uint64_t *owner)
    bint lk_is_half_done(lk_slot *slots, uint32_t state, uint32_t pidns)
    int lk_repair(lk_header *header, lk_slot *slots, size_t index, uint32_t identity,
                  uint32_t pidns)


cdef class LockTable:
    cdef readonly str path
    cdef int fd
    cdef lk_header *header
    cdef lk_slot *slots
    cdef lk_slot *slot
    cdef uint32_t *mark
    cdef uint32_t identity
    cdef uint32_t pidns
    cdef size_t known_capacity
    cdef int inside
    cdef bint closed
    cdef bint only_looks

    cdef int _attach(self, int fd) except -1
    cdef int _map(self, int fd, int protection) except -1
    cdef int _enter_process(self) except -1
    cdef int _revive(self) except -1
    cdef int _refresh(self, size_t index) except -1
    cdef int _grow(self) except -1
    cdef lk_entry *_at(self, Py_ssize_t index) except NULL
    cdef lk_entry *_entry(self, Py_ssize_t index) except NULL
    cdef lk_entry *_look(self, Py_ssize_t index) except NULL
    cdef bint _is_alive(self, uint64_t word) noexcept nogil
    cdef int _acquire(self, lk_u64 *word, uint32_t waiters, bint look) noexcept nogil
    cdef void _unmap(self) noexcept
    cdef void _leave(self) noexcept
    cdef void _depart(self) noexcept
    cdef object _holder(self, uint64_t word)
    cdef list _waiting(self, uint32_t mark)
    cdef object _claim_info(self, uint64_t word)
    cdef object _describe(self, size_t index, lk_entry *entry)
