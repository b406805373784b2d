"""LongWork: the I/Os of one reactor that its leaves carry out step by step.

A leaf that works in the call, as a memory disk does, takes no more than its slice of a turn for
it: what it has begun, or can not begin, it adds here, and it goes on in the next turns. Those of
different clients take turns step by step, so that who asks for a terabyte holds up nobody else.
What waits here is with its module, as far as anybody else can see.

What guarantees progress: each turn takes at least one step, and each I/O has finitely many.
"""

from vbdev.core.base.handover cimport gil_left, gil_wanted
from vbdev.core.base.types cimport IO_SUBMITTED
from vbdev.core.engine.children cimport client_of
from vbdev.core.engine.engine cimport Engine, Worker
from vbdev.core.engine.turn cimport fair_pop, fair_push, fair_remove, slice_over


cdef class LongLeaf:
    """Who carries out I/Os in steps."""

    cdef uint64_t step(self, Engine engine, bdev_io *io) noexcept nogil:
        """Go on with an I/O for a step of 50 us or so, and complete it where that was the last.

        Returns a guess of how many ns the step has taken.
        """
        return 0


cdef class LongWork(Worker):
    """The engine makes it."""

    def __init__(self, engine):
        self.engine = engine

    def __len__(self):
        return self.ios.n

    cdef void add(self, bdev_io *io, LongLeaf leaf) noexcept nogil:
        """Let an I/O go on step by step from the next turn on."""
        io.leaf = <void *>leaf
        fair_push(&self.ios, client_of(io), io, False)
        if not self.is_due:
            with gil:
                self.engine.work_later(self)

    cdef bint remove(self, bdev_io *io) noexcept nogil:
        """Give an I/O back to its leaf, between two steps; False: it is not here."""
        return fair_remove(&self.ios, io)

    cdef int work(self) except -1:
        cdef bdev_io *io
        cdef uint64_t took
        with nogil:
            gil_left()
            while True:
                io = fair_pop(&self.ios)
                if io == NULL:
                    break
                took = (<LongLeaf>io.leaf).step(self.engine, io)
                if io.state == IO_SUBMITTED:
                    fair_push(&self.ios, client_of(io), io, True)
                if slice_over(&self.engine.slice, took):
                    break
            gil_wanted()
        if self.ios.n:
            self.engine.work_later(self)
        return 0
