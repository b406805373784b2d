"""What the connections of one reactor share: the disk's state, I/O that waits, FLUSHes in parts.

Durability. A link knows whether the server has acknowledged writes on it that no FLUSH has covered
since. A FLUSH goes to all links that have such writes, on all reactors, and to one at least. When
such a link is lost, so may be the writes: the server may be another process by now, which knows
nothing of them, and would answer the next FLUSH with success. The loss is therefore kept with the
RemoteDisk, and every later FLUSH and FUA fails with EIO, unless whoever made the bdev has said that
the server keeps what it has acknowledged (`keeps_writes`); then the path owes a FLUSH, which goes
to another link.

A FLUSH succeeds only if some link has answered it with success, and none with an error, and
nothing was lost until its end. One whose links went without losing anything is sent again.
"""

from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EIO
from libc.stdlib cimport calloc, free

from vbdev.core.base.atomics cimport (
    __ATOMIC_ACQUIRE,
    __ATOMIC_SEQ_CST,
    atomic_load_int,
    atomic_replace_int,
)
from vbdev.core.base.types cimport IO_AIO_ERROR, IO_SUCCESS, io_queue_push


cdef class RemoteDisk:
    """A server's disk, as all reactors share it. They change it by atomic operations alone.

    Parameters
    ----------
    block_size: bytes.
    keeps_writes: what the server has acknowledged survives the loss of a connection.
    max_bytes: the most data that the server takes in one WRITE; a block at least.

    """

    def __cinit__(self, *, uint32_t block_size, bint keeps_writes, uint32_t max_bytes=32 << 20):
        self.block_size = block_size
        self.keeps_writes = keeps_writes
        self.max_bytes = max_bytes

    @property
    def lost(self):
        """Whether acknowledged writes may be lost: every FLUSH and FUA fails."""
        return self.has_lost()

    cdef bint has_lost(self) noexcept nogil:
        return atomic_load_int(&self.lost_, __ATOMIC_ACQUIRE) != 0

    cdef void lose(self) noexcept nogil:
        """A connection with writes that no FLUSH has covered is gone."""
        cdef int none = 0
        atomic_replace_int(&self.lost_, &none, 1, False, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)

    @property
    def refusals(self):
        """What the server offers and has refused, as a mask of REFUSES_*."""
        return atomic_load_int(&self.refusals_, __ATOMIC_ACQUIRE)

    cdef bint refuses(self, int what) noexcept nogil:
        return atomic_load_int(&self.refusals_, __ATOMIC_ACQUIRE) & what != 0

    cdef bint note_refusal(self, int what) noexcept nogil:
        """Keep what was refused, and could be done otherwise. True: nobody knew of it."""
        cdef int known = atomic_load_int(&self.refusals_, __ATOMIC_ACQUIRE)
        while known & what != what:
            if atomic_replace_int(&self.refusals_, &known, known | what, False,
                                  __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST):
                return True
        return False


cdef class NbdQueue:
    """The I/O of one reactor that no connection has. `NbdPath` builds on it."""

    def __cinit__(self, Engine engine not None, RemoteDisk disk not None, host, *, bint resend):
        self.engine = engine
        self.disk = disk
        self.host = host
        self.resend = resend

    @property
    def num_waiting(self):
        """I/Os that wait for a connection, or for room on one."""
        return self.waiting.n

    cdef void finish(self, bdev_io *io, int8_t status, int32_t err) noexcept nogil:
        """Complete an I/O; it is not here any more."""
        io.leaf = NULL
        self.outstanding -= 1
        self.engine.push_done(io, status, err)

    # What a link asks of its path

    cdef int start_flush(self, bdev_io *io) except -1:
        """Send a FLUSH to whatever links it concerns."""
        raise NotImplementedError

    cdef int pump_(self) except -1:
        """Give what waits to the links."""
        raise NotImplementedError

    cdef int left_by(self, link) except -1:
        """A link is of no use any more."""
        raise NotImplementedError

    # FLUSH in parts

    cdef flush_group *new_group(self, bdev_io *io, callback) except? NULL:
        """Make a group with one part, which is its maker's; NULL: no memory."""
        cdef flush_group *group = <flush_group *>calloc(1, sizeof(flush_group))
        if group == NULL:
            return NULL
        group.io = io
        group.left = 1
        group.owed = self.owed
        if io == NULL:
            Py_INCREF(callback)
            group.callback = <PyObject *>callback
        return group

    cdef int part_ended(self, flush_group *group, int err, bint again) except -1:
        """Take one part of a group off; the last one ends it."""
        cdef bdev_io *io = group.io
        if err and not group.err:
            group.err = err
        group.again = group.again or again
        group.left -= 1
        if group.left:
            return 0
        if self.disk.has_lost() and not group.err:
            group.err = EIO
        again = not group.err and (group.again or not group.proven)
        if again and group.last:
            group.err = EIO
        elif not group.err and not again and group.owed > self.paid:
            self.paid = group.owed
        err = group.err
        if group.callback != NULL:
            callback = <object>group.callback
            Py_DECREF(callback)
            free(group)
            callback(err)
            return 0
        free(group)
        if again:
            # Sent again, to whatever links there are by then.
            io.leaf_value = IN_QUEUE
            io_queue_push(&self.waiting, io)
        elif err:
            self.finish(io, IO_AIO_ERROR, err)
        else:
            self.finish(io, IO_SUCCESS, 0)
        return 0
