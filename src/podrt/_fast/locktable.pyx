# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: auto_pickle=False, autotestdict=False, binding=False
# cython: embedsignature=True, embedsignature.format=clinic
"""Locks shared by all podrt processes of one run root, as many as memory allows.

One file, mapped by everybody. A lock's word names the process slot that holds it; a slot names a
process by pid and start time, so a dead owner is told from a slow one and replaced by a swap.
Nothing here waits for more than one swap except `acquire`, `wait` and `wait_any`, which sleep on
futexes without the GIL. The address range for the largest table is reserved at once: growing only
makes the file longer, so no mapping ever moves under anybody.

Lock 0 is never given out: it stands for "none". A lock belongs to a process, not to a thread or
task: `podrt.locks` queues tasks in front of it. A forked child owns nothing of its parent's; it
gets a slot of its own at its first call.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport errno
from libc.limits cimport INT_MAX
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

import os
from collections import namedtuple

from podrt._fast import lockfile
from podrt.errors import (
    InternalError,
    LimitReached,
    NotFound,
    RuntimeClosed,
    StoreCorrupt,
    StoreFailed,
)

cdef extern from "unistd.h" nogil:
    int close_fd "close"(int fd)

cdef extern from "sys/mman.h" nogil:
    void *mmap(void *at, size_t length, int protection, int flags, int fd, int64_t offset)
    int munmap(void *at, size_t length)
    int madvise(void *at, size_t length, int advice)
    int PROT_READ, PROT_WRITE, MAP_SHARED, MAP_NORESERVE, MADV_DONTDUMP
    void *MAP_FAILED

MAX_LOCKS = LK_MAX_CHUNKS * LK_CHUNK_ENTRIES
# How often a sleeper looks whether the owner it waits for still lives.
LIVENESS_MS = 100

cdef int64_t _LIVENESS_MS = LIVENESS_MS
cdef uint32_t[1] _NO_PROCESS
_NO_PROCESS[0] = 0

Holder = namedtuple("Holder", ("pid", "start_ticks", "alive"))
ClaimInfo = namedtuple("ClaimInfo", ("verb", "holder", "preempted_by", "token"))
LockEntry = namedtuple(
    "LockEntry", ("lock", "state", "owner_id", "holder", "claim", "waited", "is_torn"))
_STATES = ("free", "allocating", "allocated", "freeing")


cdef uint64_t _identity_of_claim(uint64_t token) noexcept nogil:
    """A claim without what others may change in it: the pre-empting verb and the waiters bit."""
    return token & ~((<uint64_t>0xFF << LK_PREEMPT_SHIFT) | <uint64_t>LK_WAITERS)


@cython.final
cdef class LockTable:
    """The table of one run root, as this process sees it. Made by `open`."""

    def __cinit__(self):
        self.fd = -1
        self.mark = _NO_PROCESS
        self.closed = True

    @staticmethod
    def open(str path not None):
        """Attaches to the table at `path`; makes it when there is none or it is of another boot.

        Raises: StoreCorrupt, StoreFailed, LimitReached (4,095 processes hold it open).
        """
        cdef LockTable table = LockTable.__new__(LockTable)
        table.path = path
        table._attach(lockfile.open_file(path))
        return table

    @staticmethod
    def look(str path not None):
        """The table at `path` only to be read; None when there is none of this boot.

        Nothing is written and no slot taken: what would do that raises InternalError.
        Raises: StoreCorrupt, StoreFailed.
        """
        cdef LockTable table
        fd = lockfile.open_to_look(path)
        if fd is None:
            return None
        table = LockTable.__new__(LockTable)
        table.path = path
        table.only_looks = True
        table._map(fd, PROT_READ)
        table.pidns = <uint32_t>os.stat("/proc/self/ns/pid").st_ino
        table.closed = False
        table._refresh(1)
        return table

    cdef int _map(self, int fd, int protection) except -1:
        self.fd = fd
        base = mmap(NULL, LK_MAP_BYTES, protection, MAP_SHARED | MAP_NORESERVE, fd, 0)
        if base == MAP_FAILED:
            raise StoreFailed(self.path, errno, "map")
        self.header = <lk_header *>base
        self.slots = <lk_slot *>(<uint8_t *>base + LK_PAGE)
        madvise(base, LK_MAP_BYTES, MADV_DONTDUMP)
        return 0

    cdef int _attach(self, int fd) except -1:
        self._map(fd, PROT_READ | PROT_WRITE)
        mark = lk_new_mark()
        if mark == NULL:
            raise StoreFailed(self.path, errno, "map")
        self.mark = mark
        self.closed = False
        self._refresh(1)
        return self._enter_process()

    @property
    def capacity(self) -> int:
        """How many locks the table has room for before it grows again."""
        self._look(1)
        self._refresh(1)
        return self.known_capacity

    def close(self) -> None:
        """Leaves the table. Locks still held count as a dead owner's."""
        self._depart()

    cdef void _depart(self) noexcept:
        cdef uint64_t word
        if self.closed:
            return
        self.closed = True
        if self.mark[0]:
            word = lk_load(&self.slot.word)
            self.mark[0] = 0
            lk_add32(&self.slot.mail, 1)
            lk_wake(&self.slot.mail, INT_MAX)
            lk_swap(&self.slot.word, word,
                    word & <uint64_t>LK_GENERATION_MASK << LK_SLOT_GENERATION_SHIFT)
        else:
            self.inside = 0
        self._unmap()

    cdef void _unmap(self) noexcept:
        """Gives mappings and descriptor back, unless a thread still sleeps on a word in them."""
        if self.inside or not self.closed:
            return
        if self.mark != _NO_PROCESS:
            munmap(self.mark, LK_PAGE)
            self.mark = _NO_PROCESS
        if self.header != NULL:
            munmap(self.header, LK_MAP_BYTES)
            self.header = NULL
        if self.fd >= 0:
            close_fd(self.fd)
            self.fd = -1

    cdef void _leave(self) noexcept:
        self.inside -= 1
        self._unmap()

    def __dealloc__(self):
        self._depart()
        self._unmap()

    cdef int _enter_process(self) except -1:
        """Claims a slot for this process and remembers, in a page no fork copies, that it did."""
        cdef uint64_t ticks = 0
        if lk_start_ticks(os.getpid(), &ticks) <= 0:
            raise InternalError("/proc does not show this process: cannot take part in locking")
        self.pidns = <uint32_t>os.stat("/proc/self/ns/pid").st_ino
        self.identity = lk_claim_slot(self.header, self.slots, os.getpid(), ticks, self.pidns)
        if self.identity == 0:
            raise LimitReached("lock table", f"{LK_SLOTS - 1} processes")
        self.slot = &self.slots[self.identity & LK_SLOT_MASK]
        self.mark[0] = 1
        return 0

    cdef int _revive(self) except -1:
        """The slow side of every call: a closed table, or the first call of a forked child."""
        if self.closed:
            raise RuntimeClosed()
        if self.only_looks:
            raise InternalError("a lock table that was opened to look is not acted on")
        self.inside = 0
        return self._enter_process()

    cdef int _refresh(self, size_t index) except -1:
        """Sees how far the table has grown, and that the file is as long as it says."""
        cdef size_t capacity = lk_load32(&self.header.capacity)
        cdef size_t needed = LK_CHUNKS_AT + capacity // LK_CHUNK_ENTRIES * sizeof(lk_chunk)
        if capacity == 0 or capacity > MAX_LOCKS or capacity % LK_CHUNK_ENTRIES:
            raise StoreCorrupt(self.path, 64, f"a capacity of {capacity} locks")
        if <size_t>os.fstat(self.fd).st_size < needed:
            raise StoreCorrupt(self.path, 64, f"too short for {capacity} locks")
        self.known_capacity = capacity
        if index == 0 or index >= capacity:
            raise NotFound("lock", str(<Py_ssize_t>index))
        return 0

    cdef int _grow(self) except -1:
        cdef int failed
        if self.known_capacity >= MAX_LOCKS:
            raise LimitReached("lock table", f"{MAX_LOCKS} locks")
        failed = lk_grow(self.header, self.fd, <uint32_t>self.known_capacity)
        if failed < 0:
            raise StoreFailed(self.path, -failed, "grow")
        return self._refresh(1)

    cdef inline lk_entry *_at(self, Py_ssize_t index) except NULL:
        if <size_t>index - 1 >= self.known_capacity - 1:
            self._refresh(<size_t>index)
        return &lk_chunk_at(self.header, <size_t>index // LK_CHUNK_ENTRIES).entries[
            <size_t>index % LK_CHUNK_ENTRIES]

    cdef inline lk_entry *_entry(self, Py_ssize_t index) except NULL:
        """An entry to act on, for which this process needs its slot."""
        if self.mark[0] == 0:
            self._revive()
        return self._at(index)

    cdef lk_entry *_look(self, Py_ssize_t index) except NULL:
        """An entry to be read, also without a slot."""
        if not self.only_looks:
            return self._entry(index)
        if self.closed:
            raise RuntimeClosed()
        return self._at(index)

    cdef bint _is_alive(self, uint64_t word) noexcept nogil:
        cdef uint32_t identity = <uint32_t>word & LK_IDENTITY_MASK
        return identity == self.identity or lk_alive(self.slots, identity, self.pidns)

    # -- locks ---------------------------------------------------------------------------------

    cdef inline int _acquire(self, lk_u64 *word, uint32_t waiters, bint look) noexcept nogil:
        cdef uint64_t seen = 0
        cdef uint64_t new
        while not lk_take(word, self.identity | waiters, &seen):
            if not look or self._is_alive(seen):
                return 0
            new = ((seen >> 32) + 1) << 32 | (seen & LK_WAITERS) | self.identity | waiters
            if lk_swap(word, seen, new):
                return 2
        return 1

    def acquire_nowait(self, Py_ssize_t index) -> int:
        """Takes lock `index`: 0 not taken, 1 taken, 2 taken from a dead owner (re-read state)."""
        return self._acquire(&self._entry(index).word, 0, True)

    def acquire_waited(self, Py_ssize_t index, bint look) -> int:
        """`acquire_nowait` for who sleeps on the lock: its release wakes the next sleeper too.

        Without `look` a held lock is not asked whether its owner lives (that reads /proc).
        """
        return self._acquire(&self._entry(index).word, LK_WAITERS, look)

    def release(self, Py_ssize_t index) -> bool:
        """Gives lock `index` back; True when another sleeper was woken to take it."""
        cdef lk_entry *entry = self._entry(index)
        cdef int waited = lk_drop(&entry.word, self.identity)
        if waited < 0:
            raise InternalError(f"lock {index} is released by a process that does not hold it")
        return waited > 0 and lk_wake(&entry.word, 1) > 0

    def wait(self, Py_ssize_t index, long timeout_ms) -> bool:
        """Sleeps until lock `index` looks takeable; False when it does not after `timeout_ms`."""
        cdef lk_u64 *word = &self._entry(index).word
        cdef int64_t deadline = lk_now_ms() + timeout_ms
        cdef int64_t left
        cdef uint32_t low
        self.inside += 1
        try:
            while not self.closed:
                low = lk_mark_waited(word)
                if low == 0 or not self._is_alive(low):
                    return True
                left = deadline - lk_now_ms()
                if left <= 0:
                    return False
                with nogil:
                    lk_sleep(word, low, 1000 * min(left, _LIVENESS_MS))
                PyErr_CheckSignals()
        finally:
            self._leave()
        raise RuntimeClosed()

    def acquire(self, Py_ssize_t index, long timeout_ms) -> int:
        """`acquire_nowait`, waiting up to `timeout_ms`: for synchronous callers. 0: timed out."""
        cdef int64_t deadline = lk_now_ms() + timeout_ms
        cdef int got = self._acquire(&self._entry(index).word, 0, True)
        while got == 0:
            if not self.wait(index, max(0, deadline - lk_now_ms())):
                return 0
            got = self._acquire(&self._entry(index).word, LK_WAITERS, True)
        return got

    cdef object _holder(self, uint64_t word):
        cdef lk_slot *slot = &self.slots[word & LK_SLOT_MASK]
        cdef uint64_t owner = lk_load(&slot.word)
        cdef uint64_t generation = (word & LK_IDENTITY_MASK) >> LK_GENERATION_SHIFT
        if <uint32_t>word == 0:
            return None
        if (owner >> LK_SLOT_GENERATION_SHIFT) & LK_GENERATION_MASK != generation:
            return Holder(0, 0, False)
        return Holder(owner & LK_PID_MASK, lk_load(&slot.start_ticks), self._is_alive(word))

    def holder(self, Py_ssize_t index):
        """Who holds lock `index`; None when it is free. A pid of 0: dead, its slot used again."""
        return self._holder(lk_load(&self._look(index).word))

    def holds(self, Py_ssize_t index) -> bool:
        """True when this process holds lock `index`."""
        cdef uint64_t word = lk_load(&self._entry(index).word)
        return (<uint32_t>word & LK_IDENTITY_MASK) == self.identity

    def ticket(self, Py_ssize_t index) -> int:
        """A number that moves each time somebody takes lock `index`."""
        return lk_load(&self._entry(index).word) >> 32

    def waiters(self, Py_ssize_t index):
        """The pids that are known to sleep on lock `index` (a process shows its first eight)."""
        if lk_load(&self._look(index).word) & LK_WAITERS == 0:
            return []
        return self._waiting(<uint32_t>(index + 1))

    def claim_waiters(self, Py_ssize_t index):
        """The same for the end of the claim on `index`."""
        if lk_load(&self._look(index).claim) & LK_WAITERS == 0:
            return []
        return self._waiting(<uint32_t>(index + 1) | LK_WAITS_FOR_CLAIM)

    cdef list _waiting(self, uint32_t mark):
        cdef uint64_t word, generation
        found = []
        for number in range(1, LK_SLOTS):
            word = lk_load(&self.slots[number].word)
            if word & LK_PID_MASK == 0:
                continue
            generation = (word >> LK_SLOT_GENERATION_SHIFT) & LK_GENERATION_MASK
            for place in range(LK_WAITING):
                if (lk_load32(&self.slots[number].waiting[place]) == mark
                        and self._is_alive(<uint64_t>number | generation << LK_GENERATION_SHIFT)):
                    found.append(word & LK_PID_MASK)
        return found

    # -- sleeping on many, for the one waiter thread of a process ---------------------------------

    def mail(self) -> int:
        """The count of `poke`s and pre-emptions so far; `wait_any` returns when it moves."""
        if self.mark[0] == 0:
            self._revive()
        return lk_load32(&self.slot.mail)

    def poke(self) -> None:
        """Makes this process's `wait_any` return."""
        if self.mark[0] == 0:
            self._revive()
        lk_add32(&self.slot.mail, 1)
        lk_wake(&self.slot.mail, INT_MAX)

    def wait_any(self, list locks not None, list claims not None, uint32_t mail,
                 long timeout_us) -> None:
        """Sleeps until one of `locks` may be free, one of `claims` may have ended, or mail came.

        `mail` is what `mail()` said before the lists were made. Returns also for no reason: the
        caller looks again. Beyond 127 words the rest is polled.
        """
        cdef lk_sleepers all
        cdef lk_u64 *word
        cdef uint32_t low, mark
        cdef int place = 0
        cdef list wanted = locks + claims
        cdef lk_slot *slot
        if self.mark[0] == 0:
            self._revive()
        slot = self.slot
        all.count = 0
        lk_sleep_on(&all, &slot.mail, mail)
        for index in wanted:
            if all.count == LK_WAITV_MAX:
                timeout_us = min(timeout_us, LK_POLL_US)
                break
            word = &self._entry(index).word if place < len(locks) else &self._entry(index).claim
            place += 1
            low = lk_mark_waited(word)
            if low == 0:
                return
            lk_sleep_on(&all, word, low)
        for place in range(min(LK_WAITING, len(wanted))):
            mark = <uint32_t>wanted[place] + 1
            lk_store32(&slot.waiting[place],
                       mark if place < len(locks) else mark | LK_WAITS_FOR_CLAIM)
        self.inside += 1
        with nogil:
            lk_sleep_any(&all, timeout_us)
        for place in range(min(LK_WAITING, len(wanted))):
            lk_store32(&slot.waiting[place], 0)
        self._leave()

    # -- operation claims --------------------------------------------------------------------------

    def claim(self, Py_ssize_t index, uint8_t verb) -> int:
        """Takes the operation claim of `index` for `verb` (1-255): its token, 0 when another lives.

        Only while holding the lock; the claim outlives the lock. A dead owner's claim is void.
        """
        cdef lk_entry *entry = self._entry(index)
        cdef uint64_t old, new
        if (<uint32_t>lk_load(&entry.word) & LK_IDENTITY_MASK) != self.identity or verb == 0:
            raise InternalError(f"a claim on lock {index} needs the lock and a verb")
        while True:
            old = lk_load(&entry.claim)
            if <uint32_t>old != 0 and self._is_alive(old):
                return 0
            new = (((old >> LK_CLAIM_SEQ_SHIFT) + 1) << LK_CLAIM_SEQ_SHIFT
                   | <uint64_t>verb << LK_VERB_SHIFT | self.identity)
            if lk_swap(&entry.claim, old, new | (old & LK_WAITERS)):
                return new

    def drop_claim(self, Py_ssize_t index, uint64_t token) -> bool:
        """Ends the claim `token` and wakes all who wait for that; False when it is no more."""
        cdef lk_entry *entry = self._entry(index)
        cdef uint64_t old
        while True:
            old = lk_load(&entry.claim)
            if _identity_of_claim(old) != token:
                return False
            if lk_swap(&entry.claim, old, old >> LK_CLAIM_SEQ_SHIFT << LK_CLAIM_SEQ_SHIFT):
                break
        if old & LK_WAITERS:
            lk_wake(&entry.claim, INT_MAX)
        return True

    def preempt(self, Py_ssize_t index, uint64_t token, uint8_t verb) -> bool:
        """Tells the owner of claim `token` that `verb` wants it to end; False when it has ended.

        A verb that is not greater than the one it was told of before changes nothing.
        """
        cdef lk_entry *entry = self._entry(index)
        cdef lk_slot *slot = &self.slots[token & LK_SLOT_MASK]
        cdef uint64_t old
        while True:
            old = lk_load(&entry.claim)
            if _identity_of_claim(old) != token:
                return False
            if (old >> LK_PREEMPT_SHIFT) & 0xFF >= verb:
                return True
            if lk_swap(&entry.claim, old, (old & ~(<uint64_t>0xFF << LK_PREEMPT_SHIFT))
                       | <uint64_t>verb << LK_PREEMPT_SHIFT):
                break
        lk_add32(&slot.mail, 1)
        lk_wake(&slot.mail, INT_MAX)
        return True

    def preempted_by(self, Py_ssize_t index, uint64_t token) -> int:
        """The verb that pre-empts claim `token`, 0 when none does or the claim has ended."""
        cdef uint64_t word = lk_load(&self._entry(index).claim)
        return (word >> LK_PREEMPT_SHIFT) & 0xFF if _identity_of_claim(word) == token else 0

    cdef object _claim_info(self, uint64_t word):
        if <uint32_t>word == 0:
            return None
        return ClaimInfo((word >> LK_VERB_SHIFT) & 0xFF, self._holder(word),
                         (word >> LK_PREEMPT_SHIFT) & 0xFF, _identity_of_claim(word))

    def read_claim(self, Py_ssize_t index):
        """The claim on `index`, also a dead owner's (`.holder.alive`); None when there is none."""
        return self._claim_info(lk_load(&self._look(index).claim))

    def claim_stands(self, Py_ssize_t index, uint64_t token, bint look=True) -> bool:
        """True until claim `token` ends; with `look` also a dead owner's claim has ended."""
        cdef uint64_t word = lk_load(&self._entry(index).claim)
        return _identity_of_claim(word) == token and (not look or self._is_alive(word))

    # -- allocation ----------------------------------------------------------------------------

    def allocate(self, bytes owner_id not None) -> int:
        """A lock for the pod or container `owner_id` (32 bytes, not all zero): its index.

        Raises: LimitReached; StoreFailed when the table cannot grow.
        """
        cdef uint64_t[4] owner
        cdef int64_t index
        self._entry(1)
        if len(owner_id) != 32 or not any(owner_id):
            raise InternalError("a lock's owner ID is 32 bytes, not all zero")
        memcpy(owner, PyBytes_AS_STRING(owner_id), 32)
        while True:
            index = lk_allocate(self.header, self.known_capacity // LK_CHUNK_ENTRIES,
                                self.identity, owner)
            if index >= 0:
                return index
            if lk_load32(&self.header.capacity) == self.known_capacity:
                self._grow()
            else:
                self._refresh(1)

    def free(self, Py_ssize_t index, bytes owner_id not None) -> bool:
        """Gives the lock back; False when it is not (or no more) allocated for `owner_id`.

        Who holds the lock meanwhile goes on holding it: free first, release after.
        """
        cdef uint64_t[4] owner
        self._entry(index)
        if len(owner_id) != 32:
            raise InternalError("a lock's owner ID is 32 bytes")
        memcpy(owner, PyBytes_AS_STRING(owner_id), 32)
        return lk_free(self.header, index, self.identity, owner)

    def repair(self) -> int:
        """Finishes what dead processes left half done: how many locks came back.

        Looks at every entry; also brings back free ones whose hint a crash has lost.
        """
        cdef size_t index
        cdef size_t capacity
        self._entry(1)
        capacity = self.capacity
        cdef int returned = 0
        with nogil:
            for index in range(1, capacity):
                returned += lk_repair(self.header, self.slots, index, self.identity, self.pidns)
        return returned

    # -- looking -------------------------------------------------------------------------------

    cdef object _describe(self, size_t index, lk_entry *entry):
        cdef uint64_t[4] owner
        cdef uint32_t state = lk_load32(&entry.state)
        cdef uint64_t word = lk_load(&entry.word)
        if state & LK_KIND_MASK == LK_FREE and <uint32_t>word == 0:
            return None
        for part in range(4):
            owner[part] = lk_load(&entry.owner[part])
        if lk_load32(&entry.state) != state:
            return self._describe(index, entry)
        owner_id = PyBytes_FromStringAndSize(<const char *>owner, 32)
        return LockEntry(index, _STATES[state & LK_KIND_MASK], owner_id, self._holder(word),
                         self._claim_info(lk_load(&entry.claim)), bool(word & LK_WAITERS),
                         bool(lk_is_half_done(self.slots, state, self.pidns)))

    def entry(self, Py_ssize_t index):
        """What the table says of lock `index`; None when it is free and nobody holds it."""
        return self._describe(index, self._look(index))

    def entries(self):
        """Every lock that is not both free and unheld, as it stands when it is reached."""
        for index in range(1, self.capacity):
            found = self.entry(index)
            if found is not None:
                yield found
