from vbdev.core.base.types cimport bdev_io
from vbdev.core.nbd.client.queue cimport NbdQueue


cdef class NbdPath(NbdQueue):
    cdef list links
    cdef list ebbing            # links that may still have writes carried out
    cdef bint open
    cdef bint holding_
    cdef bint pumping
    cdef public bint watched

    cdef int _start(self, bdev_io *io) except -1
    cdef int _abort(self, bdev_io *io) except -1
    cdef int _share_out(self, Py_ssize_t n) except -1
    cdef int _fail_waiting(self, int err) except -1
