from vbdev.core.base.types cimport size_t, uint32_t, uint64_t

# Which latencies one channel counts, and how. The channel's thread alone adds to it.
cdef struct histogram_data:
    uint64_t ops            # bit for each op that is counted
    uint32_t granularity    # a range has 1 << granularity buckets
    uint32_t min_range
    uint32_t max_range
    uint64_t *buckets


cdef class Histogram:
    cdef histogram_data h
    cdef readonly uint64_t min_ns
    cdef readonly uint64_t max_ns

    cdef size_t size(self) noexcept nogil

cdef void histogram_tally(histogram_data *h, uint64_t value, uint64_t count) noexcept nogil
