"""What is under way in one channel, for who asks: locks, timeouts.

Nobody asks most channels, so nothing is kept for them: one test for each batch. The first question
looks through the engine's pool, up to as many I/Os as the channel has, and from then on each I/O
that enters is noted (1 ns). What has left is only forgotten when the list is gone through, by a
question or because it is full: so the way up knows nothing of it. A channel that has not been
asked while as many I/Os entered as the pool is long stops noting. A question so costs what the
channel itself has under way, and what the search of the pool costs is spread over at least as many
I/Os as were searched.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, realloc

from vbdev.core.base.types cimport bdev_io
from vbdev.core.engine.engine cimport ChannelBase


cdef enum:
    KEEP_NOTING = 4096                  # I/Os, at the least, behind a question


cdef class Entered(ChannelBase):
    """The part of a `Channel` that knows its I/Os."""

    def __dealloc__(self):
        free(self.entered)

    cdef bint _reserve_entered(self, size_t n) noexcept nogil:
        cdef size_t cap = self.cap_entered if self.cap_entered else 64
        cdef void *grown
        if self.num_entered + n <= self.cap_entered:
            return True
        while cap < self.num_entered + n:
            cap *= 2
        grown = realloc(self.entered, cap * sizeof(entered_io))
        if grown == NULL:
            return False
        self.entered = <entered_io *>grown
        self.cap_entered = cap
        return True

    cdef void _forget_entered(self) noexcept nogil:
        self.notes = False
        self.num_entered = 0

    cdef void _forget_left(self) noexcept nogil:
        """Keep those that are under way still, each once, in the order in which they entered."""
        cdef entered_io *one
        cdef size_t i, kept = 0
        self.engine.walks += 1
        for i in range(self.num_entered):
            one = &self.entered[i]
            # One that a layer above sent here again is in the list twice.
            if (one.io.generation == one.generation and one.depth < one.io.depth
                    and one.io.frames[one.depth].channel == &self.s
                    and one.io.walk != self.engine.walks):
                one.io.walk = self.engine.walks
                self.entered[kept] = one[0]
                kept += 1
        self.num_entered = kept

    cdef void _note(self, bdev_io **v, size_t n) noexcept nogil:
        """Note I/Os whose frames here have just been pushed."""
        cdef size_t i
        cdef uint64_t most = max(<uint64_t>self.engine.pool_high_water, <uint64_t>KEEP_NOTING)
        cdef entered_io *to
        self.noted += n
        if self.noted > most:
            self._forget_entered()
            return
        if self.num_entered + n > self.cap_entered:
            self._forget_left()
            # At least half of it is room: it is gone through once for so many that enter.
            if not self._reserve_entered(self.num_entered + n):
                self._forget_entered()  # the next question looks for them
                return
        to = self.entered + self.num_entered
        for i in range(n):
            to[i].io = v[i]
            to[i].generation = v[i].generation
            to[i].depth = v[i].depth - 1
        self.num_entered += n

    cdef bint _gather(self) noexcept nogil:
        """Make `entered` what is under way here, no more and no less; False: no memory for it."""
        cdef uint32_t at = 0, d
        cdef bdev_io *io
        self.noted = 0
        if self.notes:
            self._forget_left()
            return True
        self.num_entered = 0
        if not self._reserve_entered(self.s.outstanding):
            return False
        while self.num_entered < self.s.outstanding:
            io = self.engine.next_in_use(&at)
            if io == NULL:
                break
            for d in range(io.depth):
                if io.frames[d].channel == &self.s:
                    self.entered[self.num_entered].io = io
                    self.entered[self.num_entered].generation = io.generation
                    self.entered[self.num_entered].depth = d
                    self.num_entered += 1
                    break
        self.notes = True
        return True
