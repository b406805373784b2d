"""Protection information (DIF): what metadata says of its block, and whether it is true.

One room: generating, verifying, stripping and remapping walk the same blocks by the same rules, of
which each format has one table.

Eight or sixteen bytes in the metadata of each block: a guard (a CRC of the block), an application
tag and a reference tag. Formats and rules are those of the NVM Command Set Specification 1.0,
section 5.2 ("End-to-end Data Protection"), with SPDK's choices (lib/util/dif.c) where it leaves
some: no storage tag, the reference tag as wide as its field.

    format  guard                        application  reference tag            bytes
    0       16 bits, CRC-16 T10-DIF      16 bits      32 bits                  8
    1       32 bits, CRC-32C             16 bits      64 bits behind 16 of 0   16
    2       64 bits, CRC-64 NVMe         16 bits      48 bits                  16

All are big-endian. They stand at the head or at the tail of the metadata; the guard covers the
data, and of the metadata what stands in front of them. The reference tag counts up with the blocks
(types 1 and 2) or is the user's own (type 3). A block is not checked when its application tag is
0xFFFF (of type 3: and its reference tag all ones).

Data comes as lists of pieces, of which any may end inside a block, and inside its metadata.
Nothing here makes a Python object or takes the GIL, except the methods of `Dif`.

Budget: 0.6 ns a byte for each of the guards (slicing by 8).
"""

cimport cython
from cpython.buffer cimport (
    PyBUF_SIMPLE,
    PyBUF_WRITABLE,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from libc.stddef cimport size_t
from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from vbdev.core.base.bigendian cimport get16, get32, get64, put16, put32, put64
from vbdev.core.base.handover cimport gil_left, gil_wanted


cdef extern from "endian.h" nogil:
    uint64_t le64toh(uint64_t value)


cdef enum:
    POLY16 = 0x8bb7                     # T10-DIF, most significant bit first
    POLY32 = 0x82f63b78                 # Castagnoli, reflected
    LANES = 8

cdef uint64_t POLY64 = 0x9a6c9329ac4bc9b5ULL     # NVMe, reflected
cdef uint64_t ONES = <uint64_t>-1

# The remainder of a byte that `lane` bytes of zeroes follow.
cdef uint16_t table16[LANES][256]
cdef uint32_t table32[LANES][256]
cdef uint64_t table64[LANES][256]


cdef void fill_tables() noexcept nogil:
    cdef int byte, _bit, lane
    cdef uint16_t a
    cdef uint32_t b
    cdef uint64_t c
    for byte in range(256):
        a = <uint16_t>(byte << 8)
        b = <uint32_t>byte
        c = <uint64_t>byte
        for _bit in range(8):
            a = <uint16_t>((a << 1) ^ (POLY16 if a & 0x8000 else 0))
            b = (b >> 1) ^ (<uint32_t>POLY32 if b & 1 else <uint32_t>0)
            c = (c >> 1) ^ (POLY64 if c & 1 else <uint64_t>0)
        table16[0][byte] = a
        table32[0][byte] = b
        table64[0][byte] = c
    for lane in range(1, LANES):
        for byte in range(256):
            a = table16[lane - 1][byte]
            b = table32[lane - 1][byte]
            c = table64[lane - 1][byte]
            table16[lane][byte] = <uint16_t>((a << 8) ^ table16[0][a >> 8])
            table32[lane][byte] = (b >> 8) ^ table32[0][b & 0xff]
            table64[lane][byte] = (c >> 8) ^ table64[0][c & 0xff]


fill_tables()


# Guards: a state that begins, takes more bytes, and ends.

cdef inline uint64_t guard_begin(uint8_t format) noexcept nogil:
    return 0 if format == 0 else ONES


cdef inline uint64_t guard_end(uint8_t format, uint64_t state) noexcept nogil:
    if format == 0:
        return state
    return <uint32_t>(~state) if format == 1 else ~state


cdef uint64_t more16(uint64_t state, const uint8_t *p, size_t n) noexcept nogil:
    cdef uint16_t crc = <uint16_t>state
    while n >= 8:
        crc = (table16[7][p[0] ^ (crc >> 8)] ^ table16[6][p[1] ^ (crc & 0xff)]
               ^ table16[5][p[2]] ^ table16[4][p[3]] ^ table16[3][p[4]] ^ table16[2][p[5]]
               ^ table16[1][p[6]] ^ table16[0][p[7]])
        p += 8
        n -= 8
    while n:
        crc = <uint16_t>((crc << 8) ^ table16[0][(crc >> 8) ^ p[0]])
        p += 1
        n -= 1
    return crc


cdef uint64_t more32(uint64_t state, const uint8_t *p, size_t n) noexcept nogil:
    cdef uint32_t crc = <uint32_t>state
    cdef uint64_t x
    while n >= 8:
        memcpy(&x, p, 8)
        x = le64toh(x) ^ crc
        crc = (table32[7][x & 0xff] ^ table32[6][(x >> 8) & 0xff]
               ^ table32[5][(x >> 16) & 0xff] ^ table32[4][(x >> 24) & 0xff]
               ^ table32[3][(x >> 32) & 0xff] ^ table32[2][(x >> 40) & 0xff]
               ^ table32[1][(x >> 48) & 0xff] ^ table32[0][x >> 56])
        p += 8
        n -= 8
    while n:
        crc = (crc >> 8) ^ table32[0][(crc ^ p[0]) & 0xff]
        p += 1
        n -= 1
    return crc


cdef uint64_t more64(uint64_t crc, const uint8_t *p, size_t n) noexcept nogil:
    cdef uint64_t x
    while n >= 8:
        memcpy(&x, p, 8)
        x = le64toh(x) ^ crc
        crc = (table64[7][x & 0xff] ^ table64[6][(x >> 8) & 0xff]
               ^ table64[5][(x >> 16) & 0xff] ^ table64[4][(x >> 24) & 0xff]
               ^ table64[3][(x >> 32) & 0xff] ^ table64[2][(x >> 40) & 0xff]
               ^ table64[1][(x >> 48) & 0xff] ^ table64[0][x >> 56])
        p += 8
        n -= 8
    while n:
        crc = (crc >> 8) ^ table64[0][(crc ^ p[0]) & 0xff]
        p += 1
        n -= 1
    return crc


cdef inline uint64_t guard_more(uint8_t format, uint64_t state, const void *data,
                                size_t length) noexcept nogil:
    if format == 0:
        return more16(state, <const uint8_t *>data, length)
    if format == 1:
        return more32(state, <const uint8_t *>data, length)
    return more64(state, <const uint8_t *>data, length)


cdef uint64_t dif_guard(uint8_t format, const void *data, size_t length) noexcept nogil:
    """Return the guard of one piece of data."""
    return guard_end(format, guard_more(format, guard_begin(format), data, length))


# Lists of pieces

cdef struct cursor:
    const iovec *v
    uint32_t n
    size_t at


cdef inline char *piece(cursor *self, size_t want, size_t *got) noexcept nogil:
    """Step over up to `want` bytes (not 0) that lie in one piece, and return them."""
    cdef char *base
    while self.at == self.v.iov_len:  # `enough` has said that there is more
        self.v += 1
        self.at = 0
    base = <char *>self.v.iov_base + self.at
    got[0] = self.v.iov_len - self.at
    if got[0] > want:
        got[0] = want
    self.at += got[0]
    return base


cdef inline void transfer(cursor *self, char *memory, size_t length, bint store) noexcept nogil:
    """Copy between a list of pieces and memory in one piece."""
    cdef size_t got
    cdef char *at
    while length:
        at = piece(self, length, &got)
        if store:
            memcpy(at, memory, got)
        else:
            memcpy(memory, at, got)
        memory += got
        length -= got


cdef inline void skip(cursor *self, size_t length) noexcept nogil:
    cdef size_t got
    while length:
        piece(self, length, &got)
        length -= got


cdef bint enough(const iovec *iovs, uint32_t iovcnt, uint64_t bytes) noexcept nogil:
    cdef uint64_t total = 0
    cdef uint32_t i
    for i in range(iovcnt):
        total += iovs[i].iov_len
    return total >= bytes


cdef inline uint64_t guard_over(cursor *self, uint8_t format, uint64_t state,
                                size_t length) noexcept nogil:
    cdef size_t got
    cdef char *at
    while length:
        at = piece(self, length, &got)
        state = guard_more(format, state, at, got)
        length -= got
    return state


# Protection information of one block

cdef inline uint64_t ref_mask(uint8_t format) noexcept nogil:
    if format == 0:
        return 0xffffffff
    return ONES if format == 1 else ONES >> 16


cdef inline uint64_t get_guard(uint8_t format, const uint8_t *pi) noexcept nogil:
    if format == 0:
        return get16(pi)
    return get32(pi) if format == 1 else get64(pi)


cdef inline const uint8_t *app_tag_at(uint8_t format, const uint8_t *pi) noexcept nogil:
    return pi + (2 << format)


cdef inline uint64_t get_ref_tag(uint8_t format, const uint8_t *pi) noexcept nogil:
    if format == 0:
        return get32(pi + 4)
    return get64(pi + 8) if format == 1 else <uint64_t>get16(pi + 10) << 32 | get32(pi + 12)


cdef inline void set_ref_tag(uint8_t format, uint8_t *pi, uint64_t tag) noexcept nogil:
    if format == 0:
        put32(pi + 4, <uint32_t>tag)
    elif format == 1:
        put64(pi + 8, tag)
    else:
        put16(pi + 10, <uint16_t>(tag >> 32))
        put32(pi + 12, <uint32_t>tag)


cdef inline void write_pi(const dif_layout *self, uint8_t *pi, uint64_t guard, uint64_t index,
                          const dif_tags *tags) noexcept nogil:
    cdef uint64_t ref_tag = tags.ref_tag + (index if self.type != 3 else 0)
    if self.format == 0:
        put16(pi, <uint16_t>guard)
    elif self.format == 1:
        put32(pi, <uint32_t>guard)
        put16(pi + 6, 0)
    else:
        put64(pi, guard)
    put16(<uint8_t *>app_tag_at(self.format, pi),
          <uint16_t>(DIF_ESCAPE_APPTAG if tags.escape else tags.app_tag))
    set_ref_tag(self.format, pi, ONES if tags.escape else ref_tag)


cdef inline bint is_escaped(const dif_layout *self, const uint8_t *pi) noexcept nogil:
    return get16(app_tag_at(self.format, pi)) == DIF_ESCAPE_APPTAG and (
        self.type != 3 or get_ref_tag(self.format, pi) == ref_mask(self.format))


cdef inline int fail(dif_error *error, uint64_t block, uint8_t check, uint64_t expected,
                     uint64_t actual) noexcept nogil:
    error.block = block
    error.check = check
    error.expected = expected
    error.actual = actual
    return check


cdef inline int check_pi(const dif_layout *self, const uint8_t *pi, uint64_t guard,
                         uint64_t index, const dif_tags *tags, uint8_t checks,
                         dif_error *error) noexcept nogil:
    cdef uint64_t expected, actual
    if is_escaped(self, pi):
        return 0
    if checks & DIF_GUARD:
        actual = get_guard(self.format, pi)
        if actual != guard:
            return fail(error, index, DIF_GUARD, guard, actual)
    if checks & DIF_APPTAG:
        actual = get16(app_tag_at(self.format, pi)) & tags.app_mask
        if actual != tags.app_tag:
            return fail(error, index, DIF_APPTAG, tags.app_tag, actual)
    if checks & DIF_REFTAG and self.type != 3:
        expected = (tags.ref_tag + index) & ref_mask(self.format)
        actual = get_ref_tag(self.format, pi)
        if actual != expected:
            return fail(error, index, DIF_REFTAG, expected, actual)
    return 0


# Blocks of I/Os. `md` is their separate metadata in one piece, which an interleaved layout ignores;
# `start`: bytes of the data that are left out in front of them.

cdef int dif_generate(const dif_layout *self, const iovec *iovs, uint32_t iovcnt, uint64_t start,
                      void *md, uint64_t num_blocks, dif_tags tags) noexcept nogil:
    """Write protection information for each block; the rest of the metadata stays."""
    cdef uint8_t *meta = <uint8_t *>md
    cdef uint8_t pi[16]
    cdef size_t tail = self.md_size - self.pi_at - self.pi_size
    cdef uint64_t i, guard
    cdef cursor at = cursor(iovs, iovcnt, 0)
    if not enough(iovs, iovcnt, start + num_blocks * self.block_size):
        return DIF_SHORT
    skip(&at, start)
    for i in range(num_blocks):
        guard = guard_over(&at, self.format, guard_begin(self.format), self.data_size)
        if not self.interleaved:
            guard = guard_end(self.format, guard_more(self.format, guard, meta, self.covered_md))
            write_pi(self, meta + self.pi_at, guard, i, &tags)
            meta += self.md_size
            continue
        guard = guard_over(&at, self.format, guard, self.covered_md)
        write_pi(self, pi, guard_end(self.format, guard), i, &tags)
        transfer(&at, <char *>pi, self.pi_size, True)
        skip(&at, tail)
    return 0


cdef int dif_verify(const dif_layout *self, const iovec *iovs, uint32_t iovcnt, uint64_t start,
                    const void *md, uint64_t num_blocks, dif_tags tags, uint8_t checks,
                    dif_error *error) noexcept nogil:
    """Return 0, or the first check that failed, with where and what in `error`."""
    cdef const uint8_t *meta = <const uint8_t *>md
    cdef uint8_t pi[16]
    cdef size_t tail = self.md_size - self.pi_at - self.pi_size
    cdef uint64_t i, guard
    cdef int failed
    cdef cursor at = cursor(iovs, iovcnt, 0)
    if not enough(iovs, iovcnt, start + num_blocks * self.block_size):
        return fail(error, 0, DIF_SHORT, 0, 0)
    skip(&at, start)
    for i in range(num_blocks):
        guard = 0
        if checks & DIF_GUARD:
            guard = guard_over(&at, self.format, guard_begin(self.format), self.data_size)
        else:
            skip(&at, self.data_size)
        if not self.interleaved:
            guard = guard_end(self.format, guard_more(self.format, guard, meta, self.covered_md))
            failed = check_pi(self, meta + self.pi_at, guard, i, &tags, checks, error)
            meta += self.md_size
        else:
            guard = guard_over(&at, self.format, guard, self.covered_md)
            transfer(&at, <char *>pi, self.pi_size, False)
            skip(&at, tail)
            failed = check_pi(
                self, pi, guard_end(self.format, guard), i, &tags, checks, error)
        if failed:
            return failed
    return 0


cdef int dif_remap(const dif_layout *self, const iovec *iovs, uint32_t iovcnt, void *md,
                   uint64_t num_blocks, uint64_t ref_tag, uint64_t new_ref_tag, bint check,
                   dif_error *error) noexcept nogil:
    """Count reference tags from `new_ref_tag` instead of from `ref_tag`.

    With `check`, a tag that is not the old one stops it (DIF_REFTAG). Blocks that are not checked
    keep their tags, and so do all of type 3, whose tags say nothing of places.
    """
    cdef uint8_t *meta = <uint8_t *>md
    cdef uint8_t pi[16]
    cdef size_t tail = self.md_size - self.pi_at - self.pi_size
    cdef uint64_t i, expected, actual
    cdef cursor at = cursor(iovs, iovcnt, 0)
    cdef cursor before
    if self.type == 3:
        return 0
    if self.interleaved and not enough(iovs, iovcnt, num_blocks * self.block_size):
        return fail(error, 0, DIF_SHORT, 0, 0)
    for i in range(num_blocks):
        if self.interleaved:
            skip(&at, self.data_size + self.pi_at)
            before = at
            transfer(&at, <char *>pi, self.pi_size, False)
        else:
            memcpy(pi, meta + self.pi_at, self.pi_size)
        if not is_escaped(self, pi):
            expected = (ref_tag + i) & ref_mask(self.format)
            actual = get_ref_tag(self.format, pi)
            if check and actual != expected:
                return fail(error, i, DIF_REFTAG, expected, actual)
            set_ref_tag(self.format, pi, new_ref_tag + i)
            if self.interleaved:
                transfer(&before, <char *>pi, self.pi_size, True)
            else:
                memcpy(meta + self.pi_at, pi, self.pi_size)
        if self.interleaved:
            skip(&at, tail)
        else:
            meta += self.md_size
    return 0


cdef int dif_insert(const dif_layout *self, const iovec *data, uint32_t data_cnt,
                    const iovec *blocks, uint32_t blocks_cnt, uint64_t num_blocks,
                    dif_tags tags) noexcept nogil:
    """Copy data into blocks with interleaved metadata: zeroes and protection information.

    Without protection information (type 0) the metadata is zeroes.
    """
    cdef uint8_t meta[DIF_MAX_MD]
    cdef uint64_t i, guard
    cdef size_t left, got, put
    cdef char *source
    cdef char *target
    cdef cursor give = cursor(data, data_cnt, 0)
    cdef cursor take = cursor(blocks, blocks_cnt, 0)
    if (self.md_size > DIF_MAX_MD or not enough(data, data_cnt, num_blocks * self.data_size)
            or not enough(blocks, blocks_cnt, num_blocks * self.block_size)):
        return DIF_SHORT
    memset(meta, 0, self.md_size)
    for i in range(num_blocks):
        guard = guard_begin(self.format)
        left = self.data_size
        while left:
            source = piece(&give, left, &got)
            left -= got
            if self.type:
                guard = guard_more(self.format, guard, source, got)
            while got:
                target = piece(&take, got, &put)
                memcpy(target, source, put)
                source += put
                got -= put
        if self.type:
            guard = guard_more(self.format, guard, meta, self.covered_md)  # zeroes
            write_pi(self, meta + self.pi_at, guard_end(self.format, guard), i, &tags)
        transfer(&take, <char *>meta, self.md_size, True)
    return 0


cdef int dif_strip(const dif_layout *self, const iovec *blocks, uint32_t blocks_cnt,
                   const iovec *data, uint32_t data_cnt, uint64_t num_blocks, dif_tags tags,
                   uint8_t checks, dif_error *error) noexcept nogil:
    """Copy the data out of blocks with interleaved metadata, as far as it passes the checks."""
    cdef uint8_t meta[DIF_MAX_MD]
    cdef uint64_t i, guard
    cdef size_t left, got, put
    cdef char *source
    cdef char *target
    cdef int failed
    cdef cursor give = cursor(blocks, blocks_cnt, 0)
    cdef cursor take = cursor(data, data_cnt, 0)
    if (self.md_size > DIF_MAX_MD or not enough(data, data_cnt, num_blocks * self.data_size)
            or not enough(blocks, blocks_cnt, num_blocks * self.block_size)):
        return fail(error, 0, DIF_SHORT, 0, 0)
    for i in range(num_blocks):
        guard = guard_begin(self.format)
        left = self.data_size
        while left:
            source = piece(&give, left, &got)
            left -= got
            if checks & DIF_GUARD:
                guard = guard_more(self.format, guard, source, got)
            while got:
                target = piece(&take, got, &put)
                memcpy(target, source, put)
                source += put
                got -= put
        transfer(&give, <char *>meta, self.md_size, False)
        if self.type and checks:
            guard = guard_more(self.format, guard, meta, self.covered_md)
            failed = check_pi(self, meta + self.pi_at, guard_end(self.format, guard), i, &tags,
                              checks, error)
            if failed:
                return failed
    return 0


# For Python

cdef class Pieces:
    """Buffers of Python callers as a list of pieces, held as long as this is."""

    cdef Py_buffer *views
    cdef iovec *iovs
    cdef uint32_t count

    def __cinit__(self, data, bint writable):
        cdef list pieces = list(data) if isinstance(data, (list, tuple)) else [data]
        self.views = <Py_buffer *>calloc(len(pieces) + 1, sizeof(Py_buffer))
        self.iovs = <iovec *>calloc(len(pieces) + 1, sizeof(iovec))
        if self.views == NULL or self.iovs == NULL:
            raise MemoryError
        for one in pieces:
            PyObject_GetBuffer(one, &self.views[self.count],
                               PyBUF_WRITABLE if writable else PyBUF_SIMPLE)
            self.iovs[self.count].iov_base = self.views[self.count].buf
            self.iovs[self.count].iov_len = self.views[self.count].len
            self.count += 1

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.count):
            PyBuffer_Release(&self.views[i])
        free(self.views)
        free(self.iovs)


@cython.final
cdef class Dif:
    """How a bdev's metadata is laid out, and what of it is checked.

    block_size: bytes of a block, interleaved metadata included. md_len: bytes of metadata of each
    block. dif_type: 0 (metadata is the user's own) to 3. dif_check_flags: `DifCheck`.
    dif_pi_format: 0, 1, 2 for a guard of 16, 32, 64 bits. ValueError says what does not fit
    (SPDK: spdk_dif_ctx_init).
    """

    def __cinit__(self, *, block_size, md_len, bint md_interleave, dif_type=0,
                  bint dif_is_head_of_md=False, dif_check_flags=0, dif_pi_format=0):
        cdef dif_layout *layout = &self.layout
        if dif_type not in (0, 1, 2, 3):
            raise ValueError(f"dif_type {dif_type} is none of 0, 1, 2, 3")
        if dif_pi_format not in (0, 1, 2):
            raise ValueError(f"dif_pi_format {dif_pi_format} is none of 0, 1, 2")
        layout.pi_size = 8 if dif_pi_format == 0 else 16
        if not 0 < md_len <= DIF_MAX_MD:
            raise ValueError(f"md_len is {md_len}; 1 to {DIF_MAX_MD}")
        if dif_type and md_len < layout.pi_size:
            raise ValueError(f"protection information of {layout.pi_size} bytes (dif_pi_format"
                             f" {dif_pi_format}) in metadata of {md_len}")
        if md_interleave and block_size <= md_len:
            raise ValueError(f"blocks of {block_size} bytes with {md_len} of metadata in them")
        unit = 4096 if dif_pi_format else 512
        if dif_type and not md_interleave and (block_size <= 0 or block_size % unit):
            raise ValueError(f"blocks of {block_size} bytes with separate metadata and"
                             f" dif_pi_format {dif_pi_format}; a multiple of {unit}")
        layout.block_size = block_size
        layout.md_size = md_len
        layout.interleaved = md_interleave
        layout.data_size = block_size - md_len if md_interleave else block_size
        layout.type = dif_type
        layout.format = dif_pi_format
        layout.checks = (<uint64_t>dif_check_flags >> DIF_SHIFT) & 7
        if dif_type == 0:
            layout.pi_size = 0
            layout.checks = 0
        elif not dif_is_head_of_md:
            layout.pi_at = layout.covered_md = md_len - layout.pi_size

    @property
    def data_block_size(self):
        """Bytes of a block without metadata."""
        return self.layout.data_size

    def _md(self, md, num_blocks, bint writable):
        if self.layout.interleaved:
            if md is not None:
                raise ValueError("separate metadata for a layout where it is interleaved")
            return None
        pieces = Pieces([] if md is None else md, writable)
        if (<Pieces>pieces).count != 1 or (
                (<Pieces>pieces).iovs[0].iov_len < num_blocks * self.layout.md_size):
            raise ValueError(f"separate metadata of {num_blocks} blocks takes"
                             f" {num_blocks * self.layout.md_size} bytes in one piece")
        return pieces

    def _refuse_user_md(self):
        if self.layout.type == 0:
            raise ValueError("there is no protection information (dif_type 0)")

    def generate(self, data, md=None, *, uint64_t num_blocks, uint64_t ref_tag, uint16_t app_tag=0,
                 bint escape=False):
        """Write protection information into blocks (or `md`); the other metadata stays.

        data: a buffer, or a list of them. escape: make tags that switch checking off.
        """
        cdef dif_tags tags = dif_tags(ref_tag, app_tag, 0xffff, escape)
        self._refuse_user_md()
        cdef Pieces blocks = Pieces(data, self.layout.interleaved)
        cdef Pieces meta = self._md(md, num_blocks, True)
        cdef void *at = NULL if meta is None else meta.iovs[0].iov_base
        cdef int short
        with nogil:
            gil_left()
            short = dif_generate(
                &self.layout, blocks.iovs, blocks.count, 0, at, num_blocks, tags)
            gil_wanted()
        if short:
            raise ValueError(f"less data than {num_blocks} blocks")

    def verify(self, data, md=None, *, uint64_t num_blocks, uint64_t ref_tag, uint16_t app_tag=0,
               uint16_t app_mask=0xffff, exclude=0):
        """Return None, or (block index, `DifCheck` number, expected, actual) of what is wrong."""
        cdef dif_tags tags = dif_tags(ref_tag, app_tag, app_mask, False)
        cdef uint8_t checks = self.layout.checks & ~((<uint64_t>exclude >> DIF_SHIFT) & 7)
        self._refuse_user_md()
        cdef Pieces blocks = Pieces(data, False)
        cdef Pieces meta = self._md(md, num_blocks, False)
        cdef void *at = NULL if meta is None else meta.iovs[0].iov_base
        cdef dif_error error
        cdef int failed
        with nogil:
            gil_left()
            failed = dif_verify(
                &self.layout, blocks.iovs, blocks.count, 0, at, num_blocks, tags, checks, &error)
            gil_wanted()
        return outcome(failed, &error, num_blocks)

    def remap(self, data, md=None, *, uint64_t num_blocks, uint64_t ref_tag,
              uint64_t new_ref_tag, bint check=True):
        """Count reference tags from `new_ref_tag` instead of `ref_tag`; result as of `verify`."""
        self._refuse_user_md()
        cdef Pieces blocks = Pieces(data, self.layout.interleaved)
        cdef Pieces meta = self._md(md, num_blocks, True)
        cdef void *at = NULL if meta is None else meta.iovs[0].iov_base
        cdef dif_error error
        cdef int failed
        with nogil:
            gil_left()
            failed = dif_remap(&self.layout, blocks.iovs, blocks.count, at, num_blocks, ref_tag,
                               new_ref_tag, check, &error)
            gil_wanted()
        return outcome(failed, &error, num_blocks)

    def insert(self, data, blocks, *, uint64_t num_blocks, uint64_t ref_tag, uint16_t app_tag=0):
        """Copy data into blocks with interleaved metadata, made for it."""
        cdef dif_tags tags = dif_tags(ref_tag, app_tag, 0xffff, False)
        if not self.layout.interleaved:
            raise ValueError("metadata is not interleaved")
        cdef Pieces give = Pieces(data, False)
        cdef Pieces take = Pieces(blocks, True)
        cdef int short
        with nogil:
            gil_left()
            short = dif_insert(&self.layout, give.iovs, give.count, take.iovs, take.count,
                               num_blocks, tags)
            gil_wanted()
        if short:
            raise ValueError(f"less memory than {num_blocks} blocks take")

    def strip(self, blocks, data, *, uint64_t num_blocks, uint64_t ref_tag, uint16_t app_tag=0,
              uint16_t app_mask=0xffff, exclude=0):
        """Copy the data out of blocks with interleaved metadata; result as of `verify`.

        Data up to and including the block that is wrong has been copied.
        """
        cdef dif_tags tags = dif_tags(ref_tag, app_tag, app_mask, False)
        cdef uint8_t checks = self.layout.checks & ~((<uint64_t>exclude >> DIF_SHIFT) & 7)
        if not self.layout.interleaved:
            raise ValueError("metadata is not interleaved")
        cdef Pieces give = Pieces(blocks, False)
        cdef Pieces take = Pieces(data, True)
        cdef dif_error error
        cdef int failed
        with nogil:
            gil_left()
            failed = dif_strip(&self.layout, give.iovs, give.count, take.iovs, take.count,
                               num_blocks, tags, checks, &error)
            gil_wanted()
        return outcome(failed, &error, num_blocks)


cdef object outcome(int failed, const dif_error *error, uint64_t num_blocks):
    if failed == DIF_SHORT:
        raise ValueError(f"less memory than {num_blocks} blocks take")
    if failed:
        return error.block, failed << DIF_SHIFT, error.expected, error.actual
    return None


def guard(int pi_format, const uint8_t[::1] data not None):
    """Return the guard of data: CRC-16 T10-DIF, CRC-32C or CRC-64 NVMe (0, 1, 2)."""
    cdef const uint8_t *at = NULL
    cdef uint64_t value
    if not 0 <= pi_format <= 2:
        raise ValueError(f"pi_format {pi_format} is none of 0, 1, 2")
    if data.shape[0]:
        at = &data[0]
    with nogil:
        gil_left()
        value = dif_guard(<uint8_t>pi_format, at, data.shape[0])
        gil_wanted()
    return value
