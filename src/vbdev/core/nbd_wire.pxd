# The wire format of NBD's transmission phase (doc/proto.md, "Transmission phase"): numbers, and
# big-endian fields at any alignment. wire/nbd/constants.py has the same; a test compares them.

from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy


cdef extern from "endian.h" nogil:
    uint16_t be16toh(uint16_t x)
    uint32_t be32toh(uint32_t x)
    uint64_t be64toh(uint64_t x)
    uint16_t htobe16(uint16_t x)
    uint32_t htobe32(uint32_t x)
    uint64_t htobe64(uint64_t x)


cdef enum:
    REQUEST_MAGIC = 0x25609513
    SIMPLE_REPLY_MAGIC = 0x67446698
    STRUCTURED_REPLY_MAGIC = 0x668e33ef
    REQUEST_BYTES = 28
    CHUNK_HEADER_BYTES = 20

    CMD_READ = 0
    CMD_WRITE = 1
    CMD_DISC = 2
    CMD_FLUSH = 3
    CMD_TRIM = 4
    CMD_CACHE = 5
    CMD_WRITE_ZEROES = 6
    CMD_BLOCK_STATUS = 7

    CMD_FLAG_FUA = 1
    CMD_FLAG_NO_HOLE = 2
    CMD_FLAG_DF = 4
    CMD_FLAG_REQ_ONE = 8
    CMD_FLAG_FAST_ZERO = 16

    REPLY_FLAG_DONE = 1
    REPLY_TYPE_OFFSET_DATA = 1
    REPLY_TYPE_ERROR = 0x8001

    EXPORT_READ_ONLY = 1 << 1
    EXPORT_SEND_FLUSH = 1 << 2
    EXPORT_SEND_FUA = 1 << 3
    EXPORT_SEND_TRIM = 1 << 5
    EXPORT_SEND_WRITE_ZEROES = 1 << 6
    EXPORT_SEND_CACHE = 1 << 10
    EXPORT_SEND_FAST_ZERO = 1 << 11


cdef inline uint16_t get16(const uint8_t *p) noexcept nogil:
    cdef uint16_t x
    memcpy(&x, p, 2)
    return be16toh(x)


cdef inline uint32_t get32(const uint8_t *p) noexcept nogil:
    cdef uint32_t x
    memcpy(&x, p, 4)
    return be32toh(x)


cdef inline uint64_t get64(const uint8_t *p) noexcept nogil:
    cdef uint64_t x
    memcpy(&x, p, 8)
    return be64toh(x)


cdef inline void put16(uint8_t *p, uint16_t x) noexcept nogil:
    x = htobe16(x)
    memcpy(p, &x, 2)


cdef inline void put32(uint8_t *p, uint32_t x) noexcept nogil:
    x = htobe32(x)
    memcpy(p, &x, 4)


cdef inline void put64(uint8_t *p, uint64_t x) noexcept nogil:
    x = htobe64(x)
    memcpy(p, &x, 8)
