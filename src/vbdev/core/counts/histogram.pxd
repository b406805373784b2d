from vbdev.core.base.types cimport size_t, uint32_t, uint64_t


cdef extern from *:
    """
    #define vbdev_log2(value) (63 - __builtin_clzll(value))
    """
    uint32_t log2_floor "vbdev_log2"(uint64_t value) noexcept nogil

# Which latencies one channel counts, and how. The channel's thread alone adds to it.
cdef struct histogram_data:
    uint64_t ops            # bit for each op that is counted
    uint32_t granularity    # a range has 1 << granularity buckets
    uint64_t first          # buckets below this one, of all that there could be, count as it
    uint64_t last           # likewise those above
    uint64_t *buckets


cdef class Histogram:
    cdef histogram_data h
    cdef uint32_t first_range
    cdef uint32_t last_range
    cdef readonly uint64_t min_ns
    cdef readonly uint64_t max_ns

    cdef size_t size(self) noexcept nogil
    cdef uint64_t middle_at(self, uint64_t rank) noexcept nogil


cdef inline void histogram_tally(histogram_data *h, uint64_t value, uint64_t count) noexcept nogil:
    # A range's first bucket has the number of buckets before it, so a value without its low bits,
    # whose top bit stands for the range before, is its bucket's number.
    cdef uint32_t top = log2_floor(value | 1)
    cdef uint32_t shift = top - h.granularity if top > h.granularity else 0
    cdef uint64_t bucket = (<uint64_t>shift << h.granularity) + (value >> shift)
    h.buckets[min(max(bucket, h.first), h.last) - h.first] += count
