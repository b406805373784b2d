# Memory shared with another process. See domain.pyx.

from libc.stdint cimport uint64_t

from vbdev.core.base.types cimport memory_domain


cdef class MemoryDomain:
    cdef memory_domain d
    cdef uint64_t views
    cdef uint64_t closing       # `close` looks whether anybody uses it: nobody new may

    cdef int check(self, uint64_t offset, uint64_t length) except -1
