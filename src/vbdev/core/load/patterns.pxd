# Numbers that only look random: offsets and contents of a load, the same again from the same seed.

from libc.stddef cimport size_t
from libc.stdint cimport uint64_t


cdef extern from *:
    """
    typedef unsigned __int128 vbdev_u128;
    """
    ctypedef unsigned long long u128 "vbdev_u128"


cdef inline uint64_t mix64(uint64_t value) noexcept nogil:
    # splitmix64's finisher: every bit of the input changes half of the output.
    value = (value ^ (value >> 30)) * <uint64_t>0xbf58476d1ce4e5b9
    value = (value ^ (value >> 27)) * <uint64_t>0x94d049bb133111eb
    return value ^ (value >> 31)


cdef inline uint64_t next_random(uint64_t *state) noexcept nogil:
    # xorshift64*; the state is never 0.
    cdef uint64_t x = state[0]
    x ^= x >> 12
    x ^= x << 25
    x ^= x >> 27
    state[0] = x
    return x * <uint64_t>0x2545f4914f6cdd1d


cdef inline uint64_t below(uint64_t random, uint64_t bound) noexcept nogil:
    # The high half of a product: a multiplication where a remainder would be a division.
    return <uint64_t>((<u128>random * bound) >> 64)


cdef inline void fill_random(uint64_t *words, size_t count, uint64_t *state) noexcept nogil:
    cdef size_t i
    for i in range(count):
        words[i] = next_random(state)


cdef inline uint64_t pattern_key(
        uint64_t seed, uint64_t offset, uint64_t generation) noexcept nogil:
    return mix64(mix64(seed + generation * <uint64_t>0x9e3779b97f4a7c15) + offset)


cdef inline uint64_t pattern_word(uint64_t key, size_t i) noexcept nogil:
    return mix64(key + (i + 1) * <uint64_t>0x9e3779b97f4a7c15)
