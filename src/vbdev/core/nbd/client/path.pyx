"""NbdPath: how one reactor carries out I/O on the disk of an NBD server.

A path has some connections. A batch becomes requests on them, as many as there is room for; what
the servers have answered completes at once, and the reactor's loop delivers it as one batch.

The rooms behind it, from the ground up:

| room | purpose |
| --- | --- |
| pieces | which bytes of a READ have come |
| slots | requests in flight of a connection, and their cookies |
| requests | which command an I/O is, and which one instead where that is refused |
| nbd/errno | the protocol's error values |
| sender | requests on their way into the socket |
| replies | replies from it: simple and structured, and what is wrong with them |
| queue | I/O that no connection has, FLUSHes in parts, what was lost |
| link | a connection, its I/Os, and what becomes of them at its end |
| path | several of them, for one reactor |

Budget: 60 ns a request beside the system calls and the copy of data that came together with other
replies.
"""

cimport cython
from libc.errno cimport EINVAL, EIO, ENOMEM, ESHUTDOWN
from libc.stddef cimport size_t

from vbdev.core.base.atomics cimport (
    __ATOMIC_ACQUIRE,
    __ATOMIC_SEQ_CST,
    atomic_add_int,
    atomic_load_int,
)
from vbdev.core.base.types cimport (
    FLAG_FUA,
    IO_ABORTED,
    IO_AIO_ERROR,
    IO_FAILED,
    IO_SUBMITTED,
    IO_SUCCESS,
    OP_ABORT,
    OP_FLUSH,
    OP_READ,
    OP_RESET,
    OP_WRITE,
    io_data_bytes,
    io_queue_pop,
    io_queue_push,
    io_queue_remove,
    uint64_t,
)
from vbdev.core.engine.batch cimport IOBatch
from vbdev.core.nbd.client.link cimport NbdLink
from vbdev.core.nbd.client.queue cimport IN_GROUP, IN_QUEUE, changes_data, flush_group
from vbdev.core.nbd.client.slots cimport slots_in_use

cdef enum:
    MAX_IOVECS = 512                # of one I/O


@cython.final
cdef class NbdPath(NbdQueue):
    """One reactor's way to a server's disk. Belongs to that reactor's thread.

    host: has `flush(path, ios)`, called with FLUSHes where other reactors have paths too: call
    `path.submit_flush(ios)` when `flush_dirty` of those has ended; `reset(path, ios)`: call
    `path.finish_reset(ios)`; `on_change()`: links have changed without a call of the host's;
    `on_work()`: called with I/O that comes while `watched` is false, which is the host's to set;
    and `on_refusal(what)`: the server offers REFUSES_* and has refused them, for the first time.
    holding: I/O waits while there is no connection; otherwise it fails with ESHUTDOWN.
    resend: I/O that was under way on a lost connection is sent again.
    """

    def __cinit__(self, *args, **kwargs):
        self.links = []
        self.ebbing = []
        self.holding_ = True
        self.open = True
        atomic_add_int(&self.disk.num_paths, 1, __ATOMIC_SEQ_CST)

    @property
    def holding(self):
        return self.holding_

    @holding.setter
    def holding(self, bint value):
        self.holding_ = value
        if not value:
            self.pump_()

    # Going in

    def submit(self, IOBatch ios not None):
        """Take over every I/O of the batch. Does not wait for any."""
        cdef Py_ssize_t i
        cdef bdev_io *io
        cdef IOBatch resets = None, flushes = None
        cdef bint several = atomic_load_int(&self.disk.num_paths, __ATOMIC_ACQUIRE) > 1
        for i in range(ios.n):
            io = ios.v[i]
            if io.op == OP_RESET and resets is None:
                resets = ios
            elif several and io.op == OP_FLUSH and flushes is None:
                flushes = ios
        if resets is not None:
            resets = ios.take_op_mask(<uint64_t>1 << OP_RESET)
        if flushes is not None:
            flushes = ios.take_op_mask(<uint64_t>1 << OP_FLUSH)
            self.outstanding += flushes.n
        for i in range(ios.n):
            self._start(ios.v[i])
        ios.n = 0
        self.pump_()
        if resets is not None:
            self.host.reset(self, resets)
        if flushes is not None:
            self.host.flush(self, flushes)
        if not self.watched and self.outstanding:
            self.host.on_work()

    def submit_flush(self, IOBatch ios not None):
        """Carry out FLUSHes that the host was given, on this path's own links."""
        cdef Py_ssize_t i
        self.outstanding -= ios.n
        for i in range(ios.n):
            self._start(ios.v[i])
        ios.n = 0
        self.pump_()

    def finish_flush(self, IOBatch ios not None, int err):
        """Fail FLUSHes that the host was given, and that other reactors could not carry out."""
        self.outstanding -= ios.n
        ios.finish_all(IO_AIO_ERROR, err)

    def finish_reset(self, IOBatch ios not None):
        """Complete RESETs."""
        ios.finish_all(IO_SUCCESS, 0)

    cdef int _start(self, bdev_io *io) except -1:
        io.leaf = <void *>self
        io.leaf_value = IN_QUEUE
        self.outstanding += 1
        if io.op == OP_ABORT:
            self._abort(io)
            return 0
        if (io.op == OP_FLUSH or (changes_data(io) and io.flags & FLAG_FUA)) and (
                self.disk.has_lost()):
            self.finish(io, IO_AIO_ERROR, EIO)
            return 0
        if io.op == OP_READ or io.op == OP_WRITE:
            if (io_data_bytes(io) != io.num_blocks * self.disk.block_size
                    or io.iovcnt > MAX_IOVECS):
                self.finish(io, IO_FAILED, EINVAL)
                return 0
        if io.num_blocks == 0 and io.op != OP_FLUSH:
            self.finish(io, IO_SUCCESS, 0)
            return 0
        io_queue_push(&self.waiting, io)
        return 0

    cdef int _abort(self, bdev_io *io) except -1:
        """End a victim that waits; what the server has can not be called back."""
        cdef bdev_io *victim = io.victim
        if (victim.state == IO_SUBMITTED and victim.leaf == <void *>self and victim != io
                and victim.leaf_value == IN_QUEUE and io_queue_remove(&self.waiting, victim)):
            self.finish(victim, IO_ABORTED, 0)
            self.finish(io, IO_SUCCESS, 0)
        else:
            self.finish(io, IO_FAILED, 0)
        return 0

    cdef int pump_(self) except -1:
        """Give what waits to the links, send it, and tell of what has changed by that."""
        cdef NbdLink link
        cdef Py_ssize_t n, at
        cdef bint changed = False
        if self.pumping:
            return 0
        self.pumping = True
        try:
            while self.waiting.n:
                n = len(self.links)
                if n == 0:
                    if self.holding_:
                        break
                    self._fail_waiting(ESHUTDOWN)
                    break
                self._share_out(n)
                at = 0
                while at < len(self.links):
                    link = self.links[at]
                    if link.has_unsent():
                        link.send_()
                        changed = changed or link.sender.full or link.closed
                    if not link.closed:  # one that is lost has left the list
                        at += 1
                if n == len(self.links):
                    break  # what still waits has no room; an answer makes some
        finally:
            self.pumping = False
        if changed:
            self.host.on_change()
        return 0

    cdef int _share_out(self, Py_ssize_t n) except -1:
        """Give what waits to the `n` links, so that all have about as many under way.

        What comes in place of what one link's server has answered goes to that link, so that it
        is one batch there.
        """
        cdef NbdLink link
        cdef size_t each = self.waiting.n, busy
        if n > 1:
            for link in self.links:
                each += slots_in_use(&link.slots)
            each = (each + n - 1) // n
            for link in self.links:
                busy = slots_in_use(&link.slots)
                if busy < each:
                    link.take(each - busy)
        # The one there is; or FLUSHes, which are more than one request, and links that are full.
        for link in self.links:
            if not self.waiting.n:
                break
            link.take(self.waiting.n)
        return 0

    cdef int _fail_waiting(self, int err) except -1:
        cdef bdev_io *io = io_queue_pop(&self.waiting)
        while io != NULL:
            self.finish(io, IO_AIO_ERROR, err)
            io = io_queue_pop(&self.waiting)
        return 0

    # FLUSH

    cdef int start_flush(self, bdev_io *io) except -1:
        """Send a FLUSH to all links with writes that none has covered, and to one at least."""
        cdef flush_group *group = self.new_group(io, None)
        cdef NbdLink link
        if group == NULL:
            self.finish(io, IO_AIO_ERROR, ENOMEM)
            return 0
        io.leaf_value = IN_GROUP
        for link in list(self.links):
            if link.has_dirt():
                link.add_flush(group)
        if group.left == 1:
            for link in list(self.links):
                if link.add_flush(group):
                    break
        self.part_ended(group, 0, False)
        return 0

    def flush_dirty(self, callback, *, bint last=False):
        """FLUSH the links with writes that none has covered; then callback(errno, or 0).

        Without any such link there is nothing to do. last: nobody asks again; a FLUSH that is
        owed for a link that is gone is sent too, and one that can not be is an error.
        """
        cdef flush_group *group = self.new_group(NULL, callback)
        cdef NbdLink link
        if group == NULL:
            callback(ENOMEM)
            return
        group.last = last
        group.proven = not (last and self.owed > self.paid)
        for link in list(self.links):
            if link.has_dirt():
                link.add_flush(group)
        if group.left == 1 and not group.proven:
            for link in list(self.links):
                if link.add_flush(group):
                    break
        self.part_ended(group, EIO if self.disk.has_lost() else 0, False)
        for link in list(self.links):
            if link.has_unsent():
                link.send_()
        self.host.on_change()

    # Links

    def add(self, NbdLink link not None):
        """Use a new connection; what waits goes there."""
        self.links.append(link)
        self.pump_()

    def pump(self):
        """Look again: a link has made room, or was lost."""
        self.pump_()

    cdef int left_by(self, link) except -1:
        cdef NbdLink one = link
        if one in self.links:
            self.links.remove(one)
        if one.ebbing:
            self.ebbing.append(one)
        elif one in self.ebbing:
            self.ebbing.remove(one)
        return 0

    def drop_all(self, int err, reason):
        """Give all connections up; what is under way on them fails with the errno."""
        cdef NbdLink link
        cdef bint resend = self.resend
        self.resend = False
        for link in self.links + self.ebbing:
            link.close_(err, False, reason)
        self.resend = resend

    def abort_waiting(self):
        """End what waits as ABORTED."""
        cdef bdev_io *io = io_queue_pop(&self.waiting)
        while io != NULL:
            self.finish(io, IO_ABORTED, 0)
            io = io_queue_pop(&self.waiting)

    def close(self):
        """Leave the disk. Only without outstanding I/O. Idempotent."""
        if self.outstanding:
            raise RuntimeError(f"{self.outstanding} I/Os are outstanding on an NBD path")
        if self.open:
            self.open = False
            atomic_add_int(&self.disk.num_paths, -1, __ATOMIC_SEQ_CST)
