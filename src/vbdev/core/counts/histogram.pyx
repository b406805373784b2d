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

MAX_GRANULARITY = 16


cdef inline uint32_t range_of(uint32_t granularity, uint64_t value) noexcept nogil:
    cdef uint32_t bits = log2_floor(value) + 1 if value else 0
    return bits - granularity if bits > granularity else 0


cdef inline uint64_t start_of(uint32_t granularity, uint32_t range_, uint64_t index) noexcept nogil:
    """Return a bucket's least value; of the one behind the last, 2**64, which is 0 here."""
    if range_ == 0:
        return index
    return (<uint64_t>1 << (range_ + granularity - 1)) + (index << (range_ - 1))


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
        self.first_range = range_of(granularity, min_ns)
        self.last_range = range_of(granularity, max_ns - 1)
        self.h.first = <uint64_t>self.first_range << granularity
        self.h.last = (<uint64_t>(self.last_range + 1) << granularity) - 1
        self.h.buckets = <uint64_t *>calloc(self.size(), sizeof(uint64_t))
        if self.h.buckets == NULL:
            raise MemoryError(f"no memory for {self.size()} buckets")

    def __dealloc__(self):
        free(self.h.buckets)

    cdef size_t size(self) noexcept nogil:
        return self.h.last - self.h.first + 1

    @property
    def granularity(self):
        """Log2 of the buckets in a range (SPDK: bucket_shift)."""
        return self.h.granularity

    @property
    def min_range(self):
        """The first range kept."""
        return self.first_range

    @property
    def max_range(self):
        """The last range kept."""
        return self.last_range

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
                and other.h.first == self.h.first
                and other.h.last == self.h.last and other.h.ops == self.h.ops)

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

    cdef uint64_t middle_at(self, uint64_t rank) noexcept nogil:
        """Return the middle of the bucket that has the rank-th latency from below, from 1 on.

        Of the last bucket, where there are not so many.
        """
        cdef size_t at = 0, last = self.size() - 1
        cdef uint64_t seen = self.h.buckets[0]
        cdef uint32_t range_
        while seen < rank and at < last:
            at += 1
            seen += self.h.buckets[at]
        range_ = self.first_range + <uint32_t>(at >> self.h.granularity)
        return start_of(
            self.h.granularity, range_, at & ((<size_t>1 << self.h.granularity) - 1)
        ) + (<uint64_t>1 << (range_ - 1) >> 1 if range_ else 0)

    def counts(self):
        """Return [(start_ns, end_ns, count)] of the buckets that have one, the lowest first.

        The first bucket of all has whatever is less, the last whatever is more.
        """
        cdef uint64_t index
        cdef uint32_t range_
        cdef size_t at = 0
        found = []
        for range_ in range(self.first_range, self.last_range + 1):
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
