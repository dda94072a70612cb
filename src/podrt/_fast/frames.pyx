# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: auto_pickle=False, autotestdict=False
"""The log's frames: encoding one, scanning many, and the words shared by processes.

A frame is a 40-byte head and its payload, padded with zeros to a multiple of 8:

    u32 head crc      of the 36 bytes that follow, seeded with the segment's salt
    u32 payload crc   of the padded payload
    u32 length        of the payload without its padding
    u16 kind, u16 flags
    u64 seq           exactly one more than the frame before
    u64 durable       the highest sequence known to be on disk when this was written
    u64 at_ns         CLOCK_REALTIME

Little endian throughout. The head has a checksum of its own so that a search for what lies
behind damage needs no payload, and so that a head whose payload is lost can still testify.
"""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_SetFromErrno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy, memset

cdef extern from "sys/mman.h" nogil:
    void *mmap(void *address, size_t length, int protection, int flags, int fd, long offset)
    int munmap(void *address, size_t length)
    int PROT_READ
    int PROT_WRITE
    int MAP_SHARED
    void *MAP_FAILED

cdef extern from *:
    """
    #include <stdint.h>
    #include <stddef.h>
    #include <string.h>

    static uint32_t podrt_crc_table[8][256];

    static void podrt_crc_init(void)
    {
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t crc = i;
            for (int bit = 0; bit < 8; bit++)
                crc = (crc >> 1) ^ ((crc & 1) ? 0xEDB88320u : 0);
            podrt_crc_table[0][i] = crc;
        }
        for (uint32_t i = 0; i < 256; i++)
            for (int k = 1; k < 8; k++)
                podrt_crc_table[k][i] = (podrt_crc_table[k - 1][i] >> 8)
                    ^ podrt_crc_table[0][podrt_crc_table[k - 1][i] & 255];
    }

    /* Eight bytes a step; both of podrt's machines are little endian. */
    static uint32_t podrt_crc32(uint32_t crc, const uint8_t *p, size_t n)
    {
        crc = ~crc;
        while (n >= 8) {
            uint32_t low, high;
            memcpy(&low, p, 4);
            memcpy(&high, p + 4, 4);
            low ^= crc;
            crc = podrt_crc_table[7][low & 255] ^ podrt_crc_table[6][(low >> 8) & 255]
                ^ podrt_crc_table[5][(low >> 16) & 255] ^ podrt_crc_table[4][low >> 24]
                ^ podrt_crc_table[3][high & 255] ^ podrt_crc_table[2][(high >> 8) & 255]
                ^ podrt_crc_table[1][(high >> 16) & 255] ^ podrt_crc_table[0][high >> 24];
            p += 8;
            n -= 8;
        }
        while (n--)
            crc = (crc >> 8) ^ podrt_crc_table[0][(crc ^ *p++) & 255];
        return ~crc;
    }

    static inline uint64_t podrt_load(const uint64_t *word)
    {
        return __atomic_load_n(word, __ATOMIC_SEQ_CST);
    }

    static inline void podrt_store(uint64_t *word, uint64_t value)
    {
        __atomic_store_n(word, value, __ATOMIC_SEQ_CST);
    }

    static inline uint64_t podrt_raise(uint64_t *word, uint64_t value)
    {
        uint64_t seen = __atomic_load_n(word, __ATOMIC_SEQ_CST);
        while (seen < value && !__atomic_compare_exchange_n(
                word, &seen, value, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            ;
        return seen < value ? value : seen;
    }
    """
    void podrt_crc_init() noexcept nogil
    uint32_t podrt_crc32(uint32_t crc, const uint8_t *data, size_t count) noexcept nogil
    uint64_t podrt_load(const uint64_t *word) noexcept nogil
    void podrt_store(uint64_t *word, uint64_t value) noexcept nogil
    uint64_t podrt_raise(uint64_t *word, uint64_t value) noexcept nogil

podrt_crc_init()

cdef struct Head:
    uint32_t head_crc
    uint32_t payload_crc
    uint32_t length
    uint16_t kind
    uint16_t flags
    uint64_t seq
    uint64_t durable
    uint64_t at_ns

cdef struct Found:
    Head head
    size_t payload

assert sizeof(Head) == 40

HEAD_BYTES = sizeof(Head)
MAX_PAYLOAD_BYTES = 16 * 1024 * 1024
CLEAN, SHORT, BAD = 0, 1, 2

cdef enum:
    C_MAX_PAYLOAD = 16 * 1024 * 1024
    C_CLEAN = 0
    C_SHORT = 1
    C_BAD = 2
    C_NO_MEMORY = 3


def crc32(const uint8_t[::1] data not None, uint32_t seed=0):
    """The CRC-32 of zlib over `data`, going on from `seed`."""
    cdef uint32_t crc
    cdef size_t count = <size_t>data.shape[0]
    if count == 0:
        return seed
    with nogil:
        crc = podrt_crc32(seed, &data[0], count)
    return crc


def encode_frame(bytes payload not None, uint64_t seq, *, uint32_t salt, uint64_t durable,
                 uint64_t at_ns, uint16_t kind):
    """One whole frame, padded. Raises ValueError when `payload` is over MAX_PAYLOAD_BYTES."""
    cdef size_t length = len(payload)
    cdef size_t padded = (length + 7) & ~<size_t>7
    cdef Head head
    cdef char *out
    if length > C_MAX_PAYLOAD:
        raise ValueError("a frame's payload is limited to 16 MiB")
    cdef bytes frame = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>(sizeof(Head) + padded))
    out = PyBytes_AS_STRING(frame)
    memcpy(out + sizeof(Head), PyBytes_AS_STRING(payload), length)
    memset(out + sizeof(Head) + length, 0, padded - length)
    head.payload_crc = podrt_crc32(0, <const uint8_t *>(out + sizeof(Head)), padded)
    head.length = <uint32_t>length
    head.kind = kind
    head.flags = 0
    head.seq = seq
    head.durable = durable
    head.at_ns = at_ns
    head.head_crc = podrt_crc32(salt, (<const uint8_t *>&head) + 4, sizeof(Head) - 4)
    memcpy(out, &head, sizeof(Head))
    return frame


cdef int read_head(const uint8_t *data, size_t count, size_t at, uint32_t salt,
                   Head *head) noexcept nogil:
    if count - at < sizeof(Head):
        return C_SHORT
    memcpy(head, data + at, sizeof(Head))
    if podrt_crc32(salt, data + at + 4, sizeof(Head) - 4) != head.head_crc:
        return C_BAD
    return C_CLEAN if head.length <= C_MAX_PAYLOAD else C_BAD


cdef int read_frame(const uint8_t *data, size_t count, size_t at, uint32_t salt,
                    Head *head) noexcept nogil:
    cdef int state = read_head(data, count, at, salt, head)
    cdef size_t padded
    if state != C_CLEAN:
        return state
    padded = (<size_t>head.length + 7) & ~<size_t>7
    if count - at - sizeof(Head) < padded:
        return C_SHORT
    if podrt_crc32(0, data + at + sizeof(Head), padded) != head.payload_crc:
        return C_BAD
    return C_CLEAN


cdef int scan_all(const uint8_t *data, size_t count, uint32_t salt, uint64_t seq,
                  Found **found, size_t *filled, size_t *end) noexcept nogil:
    cdef size_t room = 0
    cdef size_t at = 0
    cdef Head head
    cdef Found *grown
    cdef int state = C_CLEAN
    while at < count:
        state = read_frame(data, count, at, salt, &head)
        if state == C_CLEAN and head.seq != seq + filled[0]:
            state = C_BAD
        if state != C_CLEAN:
            break
        if filled[0] == room:
            room = room * 2 + 16
            grown = <Found *>realloc(found[0], room * sizeof(Found))
            if grown == NULL:
                return C_NO_MEMORY
            found[0] = grown
        found[0][filled[0]].head = head
        found[0][filled[0]].payload = at + sizeof(Head)
        filled[0] += 1
        at += sizeof(Head) + ((<size_t>head.length + 7) & ~<size_t>7)
    end[0] = at
    return state


def scan(const uint8_t[::1] data not None, uint64_t first_seq, *, uint32_t salt):
    """The valid frames at the start of `data`, the first of which must be `first_seq`.

    Gives (frames, end, state): each frame is (seq, kind, at_ns, durable, start, length) with
    its payload at data[start:start + length]; `end` is where the valid ones end, and state is
    CLEAN (at the end of data), SHORT (the rest may still be on its way) or BAD.
    """
    cdef size_t count = <size_t>data.shape[0]
    cdef Found *found = NULL
    cdef Found *each
    cdef size_t filled = 0
    cdef size_t end = 0
    cdef size_t i
    cdef int state
    cdef list frames = []
    if count == 0:
        return frames, 0, CLEAN
    try:
        with nogil:
            state = scan_all(&data[0], count, salt, first_seq, &found, &filled, &end)
        if state == C_NO_MEMORY:
            raise MemoryError
        for i in range(filled):
            each = &found[i]
            frames.append((each.head.seq, each.head.kind, each.head.at_ns, each.head.durable,
                           each.payload, each.head.length))
    finally:
        free(found)
    return frames, end, state


def search(const uint8_t[::1] data not None, *, uint32_t salt):
    """What the heads anywhere in `data` testify: (highest seq, highest durable), 0 if none.

    For looking behind damage: frames begin at multiples of 8 of `data`.
    """
    cdef size_t count = <size_t>data.shape[0]
    cdef size_t at = 0
    cdef Head head
    cdef uint64_t seq = 0
    cdef uint64_t durable = 0
    if count < sizeof(Head):
        return 0, 0
    with nogil:
        while count - at >= sizeof(Head):
            if read_head(&data[0], count, at, salt, &head) == C_CLEAN:
                seq = max(seq, head.seq)
                durable = max(durable, head.durable)
            at += 8
            if at > count:
                break
    return seq, durable


def salvage(const uint8_t[::1] data not None, *, uint32_t salt):
    """Every valid frame anywhere in `data`, damage or not between them, as `scan` gives them."""
    cdef size_t count = <size_t>data.shape[0]
    cdef size_t at = 0
    cdef Head head
    cdef int state
    cdef list found = []
    while at < count and count - at >= sizeof(Head):
        with nogil:
            state = read_frame(&data[0], count, at, salt, &head)
        if state != C_CLEAN:
            at += 8
            continue
        found.append((head.seq, head.kind, head.at_ns, head.durable, at + sizeof(Head),
                      head.length))
        at += sizeof(Head) + ((<size_t>head.length + 7) & ~<size_t>7)
    return found


cdef packed struct Row:
    uint16_t table
    uint16_t id_bytes
    uint16_t name_bytes
    uint16_t owner_bytes
    uint32_t pool
    uint32_t crc
    uint64_t value
    uint32_t value_bytes
    uint32_t unused

assert sizeof(Row) == 32

BY_ID, BY_NAME, BY_OWNER = 0, 1, 2


cdef struct Rows:
    const uint8_t *data
    size_t count
    size_t rows
    size_t pool
    size_t places


cdef int compare(const Rows *rows, size_t place, int field, uint16_t table,
                 const char *wanted, size_t wanted_bytes) noexcept nogil:
    """Order of the row at `place` to what is wanted: -1, 0, 1; 2 when it leads outside."""
    cdef Row row
    cdef uint32_t number = <uint32_t>place
    cdef size_t start, length
    cdef int order
    if field != 0:
        if rows.places + place * 4 + 4 > rows.count:
            return 2
        memcpy(&number, rows.data + rows.places + place * 4, 4)
    start = rows.rows + <size_t>number * sizeof(Row)
    if start + sizeof(Row) > rows.count:
        return 2
    memcpy(&row, rows.data + start, sizeof(Row))
    start = rows.pool + row.pool
    length = row.id_bytes
    if field == 0 and row.table != table:
        return -1 if row.table < table else 1
    if field == 1:
        start += row.id_bytes
        length = row.name_bytes
    elif field == 2:
        start += <size_t>row.id_bytes + row.name_bytes
        length = row.owner_bytes
    if start + length > rows.count:
        return 2
    order = memcmp(rows.data + start, wanted, min(length, wanted_bytes))
    if order != 0:
        return -1 if order < 0 else 1
    return (length > wanted_bytes) - (length < wanted_bytes)


def find_rows(const uint8_t[::1] data not None, tuple layout not None, *, int field,
              size_t count, bytes wanted not None, uint16_t table=0):
    """The range (first, behind the last) of places in a snapshot's index that equal `wanted`.

    `layout` is (offset of the rows, of the pool, of the sorted row numbers of this field).
    Raises: ValueError when the index leads outside `data`.
    """
    cdef Rows rows
    cdef const char *key = PyBytes_AS_STRING(wanted)
    cdef size_t key_bytes = len(wanted)
    cdef size_t low = 0
    cdef size_t high = count
    cdef size_t middle
    cdef int order = 0
    if count == 0:
        return 0, 0
    rows.data = &data[0]
    rows.count = <size_t>data.shape[0]
    rows.rows, rows.pool, rows.places = layout
    # From here on no sum of offsets can wrap around.
    if max(max(rows.rows, rows.pool), max(rows.places, count)) > rows.count:
        raise ValueError("the index leads outside the file")
    while low < high and order != 2:
        middle = (low + high) // 2
        order = compare(&rows, middle, field, table, key, key_bytes)
        if order < 0:
            low = middle + 1
        else:
            high = middle
    high = low
    while order != 2 and high < count:
        order = compare(&rows, high, field, table, key, key_bytes)
        if order != 0:
            break
        high += 1
    if order == 2:
        raise ValueError("the index leads outside the file")
    return low, high


@cython.final
cdef class Mapping:
    """A shared mapping of the first `size` bytes of a file, as a buffer.

    Unlike the standard library's it keeps no descriptor. Raises: OSError.
    """

    cdef void *address
    cdef Py_ssize_t size
    cdef bint is_writable

    def __init__(self, int fd, Py_ssize_t size, *, bint writable=False):
        cdef int protection = PROT_READ | (PROT_WRITE if writable else 0)
        if size <= 0 or self.address != NULL:
            raise ValueError("a mapping needs a size, and is made once")
        self.address = mmap(NULL, <size_t>size, protection, MAP_SHARED, fd, 0)
        if self.address == MAP_FAILED:
            self.address = NULL
            PyErr_SetFromErrno(OSError)
        self.size = size
        self.is_writable = writable

    def __dealloc__(self):
        if self.address != NULL:
            munmap(self.address, <size_t>self.size)

    def __len__(self):
        return self.size

    def view(self):
        """The mapping as a memoryview, which keeps it alive."""
        return memoryview(self)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.address, self.size, not self.is_writable, flags)


@cython.final
cdef class Words:
    """64-bit words in memory that several processes map, read and written atomically."""

    cdef uint64_t[::1] memory

    def __init__(self, buffer):
        self.memory = memoryview(buffer).cast("B").cast("Q")

    def load(self, Py_ssize_t index):
        """The word's value."""
        self._check(index)
        return podrt_load(&self.memory[index])

    def store(self, Py_ssize_t index, uint64_t value):
        """Set the word."""
        self._check(index)
        podrt_store(&self.memory[index], value)

    def raise_to(self, Py_ssize_t index, uint64_t value):
        """Set the word to `value` unless it is higher already; gives what it then holds."""
        self._check(index)
        return podrt_raise(&self.memory[index], value)

    cdef int _check(self, Py_ssize_t index) except -1:
        if index < 0 or index >= self.memory.shape[0]:
            raise IndexError(index)
        return 0
