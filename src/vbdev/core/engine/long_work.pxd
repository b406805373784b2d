from libc.stdint cimport uint64_t

from vbdev.core.base.types cimport bdev_io
from vbdev.core.engine.engine cimport Engine, Worker
from vbdev.core.engine.turn cimport fair_queue


# Who carries out I/Os in steps. It outlives those that it has added to `Engine.long_work`.
cdef class LongLeaf:
    cdef uint64_t step(self, Engine engine, bdev_io *io) noexcept nogil


cdef class LongWork(Worker):
    cdef fair_queue ios

    cdef void add(self, bdev_io *io, LongLeaf leaf) noexcept nogil
    cdef bint remove(self, bdev_io *io) noexcept nogil
