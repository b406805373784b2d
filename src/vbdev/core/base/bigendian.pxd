# Big-endian fields at any alignment, as the NBD protocol and protection information have them.

from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy


cdef extern from "endian.h" nogil:
    uint16_t be16toh(uint16_t x)
    uint32_t be32toh(uint32_t x)
    uint64_t be64toh(uint64_t x)
    uint16_t htobe16(uint16_t x)
    uint32_t htobe32(uint32_t x)
    uint64_t htobe64(uint64_t x)


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
