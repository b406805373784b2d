from vbdev.core.base.capi cimport PyObject, vectorcallfunc
from vbdev.core.base.types cimport bdev_io, size_t, uint64_t
from vbdev.core.engine.admission cimport Admission
from vbdev.core.engine.batch cimport IOBatch


# A function of a module, ready to be called as (channel, ios).
cdef struct module_call:
    PyObject *function      # borrowed, of the Delivery's members
    PyObject *owner         # of a bound method: what it is bound to
    vectorcallfunc call


cdef class Delivery(Admission):
    cdef readonly object bdev
    cdef object submit_function         # what `configure` got, taken apart if it was bound
    cdef object submit_owner
    cdef object completed_function
    cdef object completed_owner
    cdef module_call module_submit
    cdef module_call module_completed
    cdef IOBatch completed_ios          # to be used again, unless the module has kept it

    cdef int submit_batch(self, IOBatch ios) except -1
    cdef int _set_module(self, submit, completed) except -1
    cdef int _deliver(self, IOBatch ios) except -1
    cdef bint _enter(self, bdev_io *io, uint64_t now) noexcept nogil
    cdef int _refusal(self, bdev_io *io) noexcept nogil
    cdef int _refuse_thread(self) except -1
    cdef int _hand_to_control(self) except -1
    cdef bint _make_room(self, IOBatch ios, size_t shown) except -1
    cdef void _module_failed(self, bdev_io **copy, Py_ssize_t n) noexcept
    cdef void _was_slow(self, uint64_t took_ns, uint64_t blocked_ns) noexcept
    cdef Py_ssize_t _fail_held(self, bdev_io **v, Py_ssize_t n) noexcept nogil
    cdef bint _holds(self, const bdev_io *io) noexcept nogil
