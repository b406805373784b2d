# Memory shared with another process. See domain.pyx.

from libc.stdint cimport uint64_t

from vbdev.core.types cimport memory_domain


cdef class MemoryDomain:
    cdef memory_domain d
    cdef Py_ssize_t views

    cdef int check(self, uint64_t offset, uint64_t length) except -1
