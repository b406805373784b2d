from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t

from vbdev.core.base.types cimport bdev_io
from vbdev.core.engine.engine cimport ChannelBase


# An I/O as it entered: it is under way here for as long as that frame is this channel's.
cdef struct entered_io:
    bdev_io *io
    uint32_t generation
    uint32_t depth          # of its frame here


cdef class Entered(ChannelBase):
    cdef entered_io *entered
    cdef size_t num_entered
    cdef size_t cap_entered
    cdef bint notes                     # each I/O that enters is noted
    cdef uint64_t noted                 # since the last question

    cdef void _note(self, bdev_io **v, size_t n) noexcept nogil
    cdef bint _gather(self) noexcept nogil
    cdef bint _reserve_entered(self, size_t n) noexcept nogil
    cdef void _forget_left(self) noexcept nogil
    cdef void _forget_entered(self) noexcept nogil
