"""Histograms of latencies: buckets whose width grows with the value, so that the error stays small.

Layout, which clients decode (SPDK: include/spdk/histogram_data.h). With granularity g a range has
2**g buckets. Range 0 has the values below 2**g, one each; range r > 0 those from 2**(g + r - 1)
up to twice that, 2**(r - 1) of them in each bucket. Only the ranges that hold `min_ns` up to
`max_ns` (exclusive) are kept; what lies outside counts in the first or the last bucket.
"""

from bisect import bisect_right
from itertools import accumulate

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset


cdef extern from *:
    """
    #define vbdev_bit_length(value) ((value) ? 64 - __builtin_clzll(value) : 0)
    """
    uint32_t bit_length "vbdev_bit_length"(uint64_t value) nogil

MAX_GRANULARITY = 16


cdef inline uint32_t range_of(uint32_t granularity, uint64_t value) noexcept nogil:
    cdef uint32_t bits = bit_length(value)
    return bits - granularity if bits > granularity else 0


cdef inline uint64_t start_of(uint32_t granularity, uint32_t range_, uint64_t index) noexcept nogil:
    """Return a bucket's least value; of the one behind the last, 2**64, which is 0 here."""
    if range_ == 0:
        return index
    return (<uint64_t>1 << (range_ + granularity - 1)) + (index << (range_ - 1))


cdef void histogram_tally(histogram_data *h, uint64_t value, uint64_t count) noexcept nogil:
    cdef uint32_t range_ = range_of(h.granularity, value)
    cdef uint64_t mask = (<uint64_t>1 << h.granularity) - 1
    cdef uint64_t index
    if range_ < h.min_range:
        range_ = h.min_range
        index = 0
    elif range_ > h.max_range:
        range_ = h.max_range
        index = mask
    else:
        index = (value >> (range_ - 1 if range_ else 0)) & mask
    h.buckets[(<uint64_t>(range_ - h.min_range) << h.granularity) + index] += count


cdef class Histogram:
    """Counts of latencies. Belongs to one thread, as a channel does; `copy` what another shall see.

    Parameters
    ----------
    granularity: log2 of the buckets in a range, 16 at most.
    min_ns, max_ns: what it tells apart, from `min_ns` on and below `max_ns`.
    ops: a bit for each I/O type that it counts.

    """

    def __cinit__(self, *, uint32_t granularity=7, uint64_t min_ns=0,
                  uint64_t max_ns=<uint64_t>-1, uint64_t ops=<uint64_t>-1):
        if granularity > MAX_GRANULARITY:
            raise ValueError(f"granularity {granularity} of a histogram; {MAX_GRANULARITY} at most")
        if min_ns >= max_ns:
            raise ValueError(f"a histogram from {min_ns} ns to {max_ns} ns holds nothing")
        self.h.granularity = granularity
        self.h.ops = ops
        self.min_ns = min_ns
        self.max_ns = max_ns
        self.h.min_range = range_of(granularity, min_ns)
        self.h.max_range = range_of(granularity, max_ns - 1)
        self.h.buckets = <uint64_t *>calloc(self.size(), sizeof(uint64_t))
        if self.h.buckets == NULL:
            raise MemoryError(f"no memory for {self.size()} buckets")

    def __dealloc__(self):
        free(self.h.buckets)

    cdef size_t size(self) noexcept nogil:
        return <size_t>(self.h.max_range - self.h.min_range + 1) << self.h.granularity

    @property
    def granularity(self):
        """Log2 of the buckets in a range (SPDK: bucket_shift)."""
        return self.h.granularity

    @property
    def min_range(self):
        """The first range kept."""
        return self.h.min_range

    @property
    def max_range(self):
        """The last range kept."""
        return self.h.max_range

    @property
    def ops(self):
        """A bit for each I/O type that is counted."""
        return self.h.ops

    def like(self):
        """Return an empty histogram of the same layout."""
        return Histogram(granularity=self.h.granularity, min_ns=self.min_ns, max_ns=self.max_ns,
                         ops=self.h.ops)

    def same_layout(self, Histogram other not None):
        """Whether the two have the same buckets, of the same I/O types."""
        return (other.h.granularity == self.h.granularity
                and other.h.min_range == self.h.min_range
                and other.h.max_range == self.h.max_range and other.h.ops == self.h.ops)

    @property
    def total(self):
        """Latencies counted."""
        cdef size_t i
        cdef uint64_t total = 0
        for i in range(self.size()):
            total += self.h.buckets[i]
        return total

    def tally(self, uint64_t value_ns):
        """Count one latency."""
        histogram_tally(&self.h, value_ns, 1)

    def add(self, Histogram other not None):
        """Add another's counts. ValueError when their layouts differ."""
        cdef size_t i
        if not self.same_layout(other):
            raise ValueError("histograms of different layouts can not be added up")
        for i in range(self.size()):
            self.h.buckets[i] += other.h.buckets[i]

    def reset(self):
        """Set all counts back to 0."""
        memset(self.h.buckets, 0, self.size() * sizeof(uint64_t))

    def tobytes(self):
        """Return the counts, 8 bytes each in the machine's order, the lowest bucket first."""
        return PyBytes_FromStringAndSize(<char *>self.h.buckets, self.size() * sizeof(uint64_t))

    def counts(self):
        """Return [(start_ns, end_ns, count)] of the buckets that have one, the lowest first.

        The first bucket of all has whatever is less, the last whatever is more.
        """
        cdef uint64_t index
        cdef uint32_t range_
        cdef size_t at = 0
        found = []
        for range_ in range(self.h.min_range, self.h.max_range + 1):
            for index in range(<uint64_t>1 << self.h.granularity):
                if self.h.buckets[at]:
                    found.append((
                        start_of(self.h.granularity, range_, index) if at else 0,
                        start_of(self.h.granularity, range_, index + 1) or 1 << 64,
                        self.h.buckets[at]))
                at += 1
        return found

    def up_to(self, borders_ns):
        """Return how many latencies lie up to each border, and last how many there are.

        A border counts the whole bucket that it lies in (SPDK: spdk_histogram_get_borders_count).
        """
        found = self.counts()
        starts = [start for start, _, _ in found]
        sums = [0, *accumulate(count for _, _, count in found)]
        return [*(sums[bisect_right(starts, border)] for border in borders_ns), sums[len(found)]]
