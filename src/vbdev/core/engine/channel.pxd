from vbdev.core.base.types cimport bdev_io, uint64_t
from vbdev.core.counts.histogram cimport Histogram
from vbdev.core.engine.delivery cimport Delivery
from vbdev.core.memory.dif cimport Dif


cdef class Channel(Delivery):
    cdef readonly object descriptor
    cdef object base                    # a member of the type: see channel.pyx
    cdef public object context
    cdef Histogram histogram            # with WATCH_HISTOGRAM
    cdef public object coroutines       # Coroutines, of a module with a `handle`

    cdef int _configure_metadata(self, Dif dif, bint hide) except -1
    cdef int _hand_to_control(self) except -1
    cdef int _resume_locked(self) except -1
    cdef int _resume_qos(self) except -1
    cdef int _resume_nomem(self) except -1
    cdef uint64_t _guess(self, const bdev_io *io) noexcept nogil
    cdef bint _goes_on(self, bint more, uint64_t took_ns) noexcept nogil
