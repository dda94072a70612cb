# cython: language_level=3
"""What other compiled modules may use of the lock table: its layout and the table itself."""

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

    cdef int _attach(self, int fd) except -1
    cdef int _enter_process(self) except -1
    cdef int _revive(self) except -1
    cdef int _refresh(self, size_t index) except -1
    cdef int _grow(self) except -1
    cdef lk_entry *_entry(self, Py_ssize_t index) except NULL
    cdef bint _is_alive(self, uint64_t word) noexcept nogil
    cdef int _acquire(self, lk_u64 *word, uint32_t waiters, bint look) noexcept nogil
    cdef void _unmap(self) noexcept
    cdef void _leave(self) noexcept
    cdef void _depart(self) noexcept
    cdef object _holder(self, uint64_t word)
    cdef object _claim_info(self, uint64_t word)
    cdef object _describe(self, size_t index, lk_entry *entry)
