from vbdev.core.admission cimport Admission
from vbdev.core.batch cimport IOBatch
from vbdev.core.dif cimport Dif
from vbdev.core.histogram cimport Histogram
from vbdev.core.types cimport bdev_io, io_queue, uint64_t


cdef class Channel(Admission):
    cdef readonly object bdev
    cdef readonly object descriptor
    cdef object base                    # a member of the type: see channel.pyx
    cdef public object context
    cdef object submit_function         # what `configure` got, taken apart if it was bound
    cdef object submit_self
    cdef object module_completed
    cdef Histogram histogram            # with WATCH_HISTOGRAM
    cdef public object coroutines       # Coroutines, of a module with a `handle`

    cdef int submit_batch(self, IOBatch ios) except -1
    cdef int _configure_metadata(self, Dif dif, bint hide) except -1
    cdef int _hand_to_control(self) except -1
    cdef int _resume_locked(self) except -1
    cdef int _was_slow(self, uint64_t took_ns, uint64_t blocked_ns) except -1
    cdef int _resume_qos(self) except -1
    cdef int _resume_nomem(self) except -1
    cdef int _refusal(self, bdev_io *io) noexcept nogil
    cdef int _deliver(self, IOBatch ios) except -1
    cdef int _module_failed(self, bdev_io **copy, Py_ssize_t n) except -1
    cdef Py_ssize_t _fail_held(self, bdev_io **v, Py_ssize_t n) noexcept nogil
    cdef bint _holds(self, const bdev_io *io) noexcept nogil
