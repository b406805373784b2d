"""NbdPath: how one reactor carries out I/O on the disk of an NBD server.

A path has some connections (`NbdLink`). A batch becomes requests on them, with as few `sendmsg` as
the sockets allow; the data of WRITEs leaves from where it is. One `recv` brings many replies; what
is missing of a READ's data then is received straight into its buffers. What the server has
answered completes at once, and the reactor's loop delivers it as one batch.

What must not be broken:
- an I/O is in one place: `waiting`, or one slot of one link (a FLUSH: a group, which has a slot on
  each link that it concerns); `leaf_value` says which;
- a slot is free again when its request is wholly sent and wholly answered, whichever comes last:
  until then the socket reads from the I/O's buffers;
- cookies are a slot's number and how often it was used: an answer that comes twice, or to nobody,
  ends the connection;
- whoever calls a method of a link or path looks afterwards at `closed` and `wants_write`;
  `on_change` tells of what changed while somebody else called.

Durability. A link knows whether the server has acknowledged writes on it that no FLUSH has covered
since. A FLUSH goes to all links that have such writes, on all reactors, and to one at least. When
such a link is lost, so may be the writes: the server may be another process by now, which knows
nothing of them, and would answer the next FLUSH with success. The loss is therefore kept with the
NbdDisk, and every later FLUSH and FUA fails with EIO, unless whoever made the bdev has said that
the server keeps what it has acknowledged (`keeps_writes`).

What was under way when a link is lost is sent again if `resend` is set, except for what changes
data and may still be carried out by a server that is alive: a WRITE that arrives late, after its
second copy was answered and newer data was written, would destroy the newer data. So such I/Os
are sent again only where the server itself has closed the connection, and fail otherwise.

Wire layout: NBD protocol, doc/proto.md, "Transmission phase". Budget: 60 ns a request beside the
system calls and the copy of data that came together with other replies.
"""

from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.errno cimport (
    EAGAIN,
    ECONNRESET,
    EINTR,
    EINVAL,
    EIO,
    ENOMEM,
    ENOSPC,
    EOPNOTSUPP as ENOTSUP,
    EOVERFLOW,
    EPERM,
    EPIPE,
    EROFS,
    ESHUTDOWN,
    errno,
)
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int8_t, uint16_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memmove, memset, strerror

from vbdev.core.batch cimport IOBatch
from vbdev.core.bigendian cimport get16, get32, get64, put16, put32, put64
from vbdev.core.engine cimport Engine
from vbdev.core.handover cimport gil_left, gil_wanted
from vbdev.core.handover cimport gil_left, gil_wanted
from vbdev.core.linux cimport (
    __ATOMIC_ACQUIRE,
    __ATOMIC_SEQ_CST,
    atomic_add_int,
    atomic_load_int,
    atomic_replace_int,
)
from vbdev.core.nbd_wire cimport (
    CHUNK_HEADER_BYTES,
    CMD_DISC,
    CMD_FLAG_FAST_ZERO,
    CMD_FLAG_FUA,
    CMD_FLAG_NO_HOLE,
    CMD_FLUSH,
    CMD_READ,
    CMD_TRIM,
    CMD_WRITE,
    CMD_WRITE_ZEROES,
    EXPORT_READ_ONLY,
    EXPORT_SEND_FAST_ZERO,
    EXPORT_SEND_FLUSH,
    EXPORT_SEND_FUA,
    EXPORT_SEND_TRIM,
    EXPORT_SEND_WRITE_ZEROES,
    REPLY_FLAG_DONE,
    REPLY_TYPE_ERROR,
    REPLY_TYPE_ERROR_OFFSET,
    REPLY_TYPE_NONE,
    REPLY_TYPE_OFFSET_DATA,
    REPLY_TYPE_OFFSET_HOLE,
    REQUEST_BYTES,
    REQUEST_MAGIC,
    SIMPLE_REPLY_BYTES,
    SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_MAGIC,
)
from vbdev.core.types cimport (
    FLAG_FAST_ZERO,
    FLAG_FUA,
    FLAG_NO_HOLE,
    IO_ABORTED,
    IO_AIO_ERROR,
    IO_FAILED,
    IO_SUBMITTED,
    IO_SUCCESS,
    OP_ABORT,
    OP_FLUSH,
    OP_READ,
    OP_RESET,
    OP_UNMAP,
    OP_WRITE,
    OP_WRITE_ZEROES,
    bdev_io,
    buffer_ref,
    io_data_bytes,
    io_queue,
    io_queue_join_front,
    io_queue_pop,
    io_queue_push,
    io_queue_remove,
    iovec,
)


cdef extern from "sys/types.h":
    ctypedef Py_ssize_t ssize_t

cdef extern from "sys/socket.h" nogil:
    cdef struct msghdr:
        void *msg_name
        uint32_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    ssize_t sendmsg(int fd, const msghdr *msg, int flags)
    ssize_t recvmsg(int fd, msghdr *msg, int flags)
    ssize_t send(int fd, const void *data, size_t length, int flags)
    int MSG_DONTWAIT, MSG_NOSIGNAL

cdef enum:
    SLOT_SHIFT = 10
    MAX_SLOTS = 1 << SLOT_SHIFT     # requests in flight of one connection
    RECEIVE_BYTES = 256 << 10
    SEND_IOVS = 1024
    MAX_PIECES = 512                # iovecs of one I/O, at most
    RECEIVE_ROUNDS = 4
    MIN_SHARE = 16                  # I/Os of a batch that go to one link, rather than to several
    MAX_ERROR_BYTES = 4096 + 14     # payload of an error chunk: a string and what is around it
    MAX_CHUNKS = 4096               # separate pieces that an answered READ may be in at a time
    ERROR_CHUNK_BIT = 1 << 15

    # `leaf_value` of an I/O that is held here
    IN_WAITING = 0
    IN_SLOT = 1
    IN_GROUP = 2

cdef uint32_t SLOT_MASK = MAX_SLOTS - 1

# Bytes of a READ that have come, as a list in order of pieces that do not touch.
cdef struct byte_range:
    uint32_t start
    uint32_t end

# A FLUSH of several links, for an I/O or for somebody in Python.
cdef struct flush_group:
    bdev_io *io
    PyObject *callback      # referenced; called with an errno, or 0
    uint32_t left           # slots that belong to it, and one for whoever makes it
    int32_t err
    bint again              # a link was lost on the way, and nothing with it
    bint proven             # some link has answered with success

cdef struct nbd_slot:
    bdev_io *io             # NULL with a group
    flush_group *group
    bint in_use
    bint sent               # wholly handed to the socket
    bint started            # a first byte was
    bint answered           # wholly; `err` says how
    bint flushing           # a WRITE or the like is answered, and this is the FLUSH for its FUA
    uint16_t command
    uint16_t flags
    uint32_t sequence       # part of the cookie
    uint32_t length         # bytes, as requested
    uint64_t offset         # bytes, as requested
    uint32_t got            # bytes of a READ that have come
    int32_t err             # errno; the first error that was told
    byte_range *ranges      # NULL as long as all that came is one piece from the start
    uint32_t num_ranges
    uint32_t cap_ranges
    uint64_t covers         # FLUSH: the writes that were acknowledged before it, counted
    uint64_t since_ns


cdef inline bint changes_data(const bdev_io *io) noexcept nogil:
    return io.op == OP_WRITE or io.op == OP_UNMAP or io.op == OP_WRITE_ZEROES


cdef inline int errno_of(uint32_t error) noexcept nogil:
    """Return the errno for an error value; one that the protocol does not know is EINVAL."""
    if error == EPERM or error == EIO or error == ENOMEM or error == EINVAL or error == ENOSPC:
        return <int>error
    if error == 75:
        return EOVERFLOW
    if error == 95:
        return ENOTSUP
    if error == 108:
        return ESHUTDOWN
    return EINVAL


cdef class NbdDisk:
    """A server's disk, as all reactors share it. They change it by atomic operations alone.

    Parameters
    ----------
    block_size: bytes.
    keeps_writes: what the server has acknowledged survives the loss of a connection.

    """

    cdef readonly uint32_t block_size
    cdef readonly bint keeps_writes
    cdef int lost_
    cdef int num_paths

    def __cinit__(self, *, uint32_t block_size, bint keeps_writes):
        self.block_size = block_size
        self.keeps_writes = keeps_writes

    @property
    def lost(self):
        """Whether acknowledged writes may be lost: every FLUSH and FUA fails."""
        return atomic_load_int(&self.lost_, __ATOMIC_ACQUIRE) != 0


cdef class NbdPath:
    """One reactor's way to a server's disk. Belongs to that reactor's thread.

    host: has `flush(path, ios)`, called with FLUSHes where other reactors have paths too: call
    `path.submit_flush(ios)` when `flush_dirty` of those has ended; `reset(path, ios)`: call
    `path.finish_reset(ios)`; and `on_change()`, see the module's docstring.
    holding: I/O waits while there is no connection; otherwise it fails with ESHUTDOWN.
    resend: I/O that was under way on a lost connection is sent again.
    """

    cdef readonly Engine engine
    cdef readonly NbdDisk disk
    cdef object host
    cdef list links
    cdef io_queue waiting
    cdef Py_ssize_t turn
    cdef bint open
    cdef bint holding_
    cdef public bint resend
    cdef readonly uint64_t outstanding
    cdef readonly uint64_t resent
    cdef bint pumping

    def __cinit__(self, Engine engine not None, NbdDisk disk not None, host, *, bint resend):
        self.engine = engine
        self.disk = disk
        self.host = host
        self.links = []
        self.resend = resend
        self.holding_ = True
        self.open = True
        atomic_add_int(&disk.num_paths, 1, __ATOMIC_SEQ_CST)

    @property
    def holding(self):
        return self.holding_

    @holding.setter
    def holding(self, bint value):
        self.holding_ = value
        if not value:
            self._pump()

    @property
    def num_waiting(self):
        """I/Os that wait for a connection, or for room on one."""
        return self.waiting.n

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
        self._pump()
        if resets is not None:
            self.host.reset(self, resets)
        if flushes is not None:
            self.host.flush(self, flushes)

    def submit_flush(self, IOBatch ios not None):
        """Carry out FLUSHes that the host was given, on this path's own links."""
        cdef Py_ssize_t i
        self.outstanding -= ios.n
        for i in range(ios.n):
            self._start(ios.v[i])
        ios.n = 0
        self._pump()

    def finish_flush(self, IOBatch ios not None, int err):
        """Fail FLUSHes that the host was given, and that other reactors could not carry out."""
        self.outstanding -= ios.n
        ios.finish_all(IO_AIO_ERROR, err)

    def finish_reset(self, IOBatch ios not None):
        """Complete RESETs."""
        ios.finish_all(IO_SUCCESS, 0)

    cdef int _start(self, bdev_io *io) except -1:
        io.leaf = <void *>self
        io.leaf_value = IN_WAITING
        self.outstanding += 1
        if io.op == OP_ABORT:
            self._abort(io)
            return 0
        if (io.op == OP_FLUSH or (changes_data(io) and io.flags & FLAG_FUA)) and self.disk.lost:
            self.finish(io, IO_AIO_ERROR, EIO)
            return 0
        if io.op == OP_READ or io.op == OP_WRITE:
            if (io_data_bytes(io) != io.num_blocks * self.disk.block_size
                    or io.iovcnt > MAX_PIECES):
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
                and victim.leaf_value == IN_WAITING and io_queue_remove(&self.waiting, victim)):
            self.finish(victim, IO_ABORTED, 0)
            self.finish(io, IO_SUCCESS, 0)
        else:
            self.finish(io, IO_FAILED, 0)
        return 0

    cdef int _pump(self) except -1:
        """Give what waits to the links, send it, and tell of what has changed by that."""
        cdef NbdLink link
        cdef Py_ssize_t n, tried, at
        cdef size_t share
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
                share = (self.waiting.n + n - 1) // n
                if share < MIN_SHARE:
                    share = MIN_SHARE
                tried = 0
                while self.waiting.n and tried < n:
                    link = self.links[self.turn % n]
                    self.turn += 1
                    tried += 1
                    link.take(share)
                at = 0
                while at < len(self.links):
                    link = self.links[at]
                    if link.tx_n and not link.wants_write:
                        link._send()
                        changed = changed or link.wants_write or link.closed
                    if not link.closed:  # one that is lost has left the list
                        at += 1
                if n == len(self.links):
                    break  # what still waits has no room; an answer makes some
        finally:
            self.pumping = False
        if changed:
            self.host.on_change()
        return 0

    cdef int _fail_waiting(self, int err) except -1:
        cdef bdev_io *io = io_queue_pop(&self.waiting)
        while io != NULL:
            self.finish(io, IO_AIO_ERROR, err)
            io = io_queue_pop(&self.waiting)
        return 0

    cdef void finish(self, bdev_io *io, int8_t status, int32_t err) noexcept nogil:
        io.leaf = NULL
        self.outstanding -= 1
        self.engine.push_done(io, status, err)

    # FLUSH

    cdef int _flush(self, bdev_io *io) except -1:
        """Send a FLUSH to all links with writes that none has covered, and to one at least."""
        cdef flush_group *group = self._new_group(io, None)
        cdef NbdLink link
        if group == NULL:
            self.finish(io, IO_AIO_ERROR, ENOMEM)
            return 0
        io.leaf_value = IN_GROUP
        for link in list(self.links):
            if link.dirty:
                link.add_flush(group)
        if group.left == 1:
            for link in list(self.links):
                if link.add_flush(group):
                    break
        self._flushed(group, 0, False)
        return 0

    def flush_dirty(self, callback):
        """FLUSH the links with writes that none has covered; then callback(errno, or 0).

        Without any such link there is nothing to do.
        """
        cdef flush_group *group = self._new_group(NULL, callback)
        cdef NbdLink link
        if group == NULL:
            raise MemoryError
        group.proven = True
        for link in list(self.links):
            if link.dirty:
                link.add_flush(group)
        self._flushed(group, EIO if self.disk.lost else 0, False)
        for link in list(self.links):
            if link.tx_n and not link.wants_write:
                link._send()
        self.host.on_change()

    cdef flush_group *_new_group(self, bdev_io *io, callback) except? NULL:
        cdef flush_group *group = <flush_group *>calloc(1, sizeof(flush_group))
        if group == NULL:
            return NULL
        group.io = io
        group.left = 1
        if io == NULL:
            Py_INCREF(callback)
            group.callback = <PyObject *>callback
        return group

    cdef int _flushed(self, flush_group *group, int err, bint again) except -1:
        """Take one part of a group off; the last one ends it."""
        cdef bdev_io *io = group.io
        if err and not group.err:
            group.err = err
        group.again = group.again or again
        group.left -= 1
        if group.left:
            return 0
        if self.disk.lost and not group.err:
            group.err = EIO
        err = group.err
        again = not err and (group.again or not group.proven)
        if group.callback != NULL:
            callback = <object>group.callback
            Py_DECREF(callback)
            free(group)
            callback(err)
            return 0
        free(group)
        if again:
            # Sent again, to whatever links there are by then.
            io.leaf_value = IN_WAITING
            io_queue_push(&self.waiting, io)
        elif err:
            self.finish(io, IO_AIO_ERROR, err)
        else:
            self.finish(io, IO_SUCCESS, 0)
        return 0

    # Links

    def add(self, NbdLink link not None):
        """Use a new connection; what waits goes there."""
        self.links.append(link)
        self._pump()

    def pump(self):
        """Look again: a link has made room, or was lost."""
        self._pump()

    def drop_all(self, int err, reason):
        """Give all connections up; what is under way on them fails with the errno."""
        cdef NbdLink link
        cdef bint resend = self.resend
        self.resend = False
        for link in list(self.links):
            link._close(err, False, reason)
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


cdef class NbdLink:
    """One connection after its handshake. The socket stays the caller's to close.

    Parameters
    ----------
    path: whose I/O goes here, once it was given the link with `add`.
    fd: the connected socket, non-blocking.
    size_bytes, flags: the export's, as negotiated; I/O beyond fails, and so do commands that the
        flags do not offer.
    structured: structured replies were negotiated.
    early: bytes that were received behind the handshake.

    """

    cdef readonly NbdPath path
    cdef readonly int fd
    cdef readonly uint64_t size_bytes
    cdef uint64_t num_blocks
    cdef uint64_t most_blocks   # whose bytes fit a request's length
    cdef readonly uint32_t export_flags
    cdef readonly bint structured
    cdef nbd_slot *slots
    cdef uint32_t *free_slots
    cdef uint32_t num_free
    cdef uint32_t num_fresh     # slots that were used ever
    cdef uint32_t *tx           # ring of slots that are to be sent, or partly
    cdef uint32_t tx_head
    cdef uint32_t tx_n
    cdef size_t tx_skip         # bytes of the first one that are sent
    cdef uint8_t *headers
    cdef iovec *iovs
    cdef buffer_ref rx
    cdef bint have_rx
    cdef size_t rx_start
    cdef size_t rx_end
    cdef nbd_slot *filling      # whose data is being received
    cdef size_t fill_left       # bytes of it that are still to come
    cdef uint32_t fill_iov
    cdef size_t fill_at         # in that iovec
    cdef bint fill_done         # the reply ends with that data
    cdef uint64_t acked         # writes that the server acknowledged
    cdef uint64_t flushed       # of those, covered by a FLUSH
    cdef readonly uint64_t requests
    cdef readonly uint64_t receives
    cdef readonly uint64_t sends
    cdef readonly uint64_t sent_bytes
    cdef readonly bint wants_write
    cdef readonly bint closed
    cdef readonly bint lost_writes
    cdef readonly str reason

    def __cinit__(self, NbdPath path not None, int fd, *, uint64_t size_bytes, uint32_t flags,
                  bint structured, const uint8_t[::1] early=b""):
        self.path = path
        self.fd = fd
        self.size_bytes = size_bytes
        self.num_blocks = size_bytes // path.disk.block_size
        self.most_blocks = 0xFFFFFFFF // path.disk.block_size
        self.export_flags = flags
        self.structured = structured
        self.rx.size_class = -1
        self.slots = <nbd_slot *>calloc(MAX_SLOTS, sizeof(nbd_slot))
        self.free_slots = <uint32_t *>malloc(MAX_SLOTS * sizeof(uint32_t))
        self.tx = <uint32_t *>malloc(MAX_SLOTS * sizeof(uint32_t))
        self.headers = <uint8_t *>malloc(SEND_IOVS * REQUEST_BYTES)
        self.iovs = <iovec *>malloc(SEND_IOVS * sizeof(iovec))
        if (self.slots == NULL or self.free_slots == NULL or self.tx == NULL
                or self.headers == NULL or self.iovs == NULL):
            raise MemoryError
        if early.shape[0]:
            # Nothing was asked for, so nothing can have been answered.
            self._protocol_error(f"{early.shape[0]} bytes behind the handshake")

    def __dealloc__(self):
        cdef uint32_t i
        if self.slots != NULL:
            for i in range(self.num_fresh):
                free(self.slots[i].ranges)
        free(self.slots)
        free(self.free_slots)
        free(self.tx)
        free(self.headers)
        free(self.iovs)
        if self.have_rx:
            self.path.engine.buffers.put(&self.rx)

    @property
    def in_flight(self):
        """Requests that are not wholly answered and sent."""
        return self.num_fresh - self.num_free

    @property
    def dirty(self):
        """Whether the server acknowledged writes here that no FLUSH has covered."""
        return self.acked > self.flushed

    def oldest_ns(self):
        """Return since when the oldest request is under way, on the engine's clock; 0: none is."""
        cdef uint64_t oldest = 0
        cdef uint32_t i
        for i in range(self.num_fresh):
            if self.slots[i].in_use and (oldest == 0 or self.slots[i].since_ns < oldest):
                oldest = self.slots[i].since_ns
        return oldest

    # Requests

    cdef nbd_slot *_new_slot(self) noexcept nogil:
        cdef nbd_slot *slot
        if self.num_free:
            self.num_free -= 1
            slot = &self.slots[self.free_slots[self.num_free]]
        elif self.num_fresh < MAX_SLOTS:
            slot = &self.slots[self.num_fresh]
            self.num_fresh += 1
        else:
            return NULL
        slot.in_use = True
        slot.io = NULL
        slot.group = NULL
        slot.flushing = False
        return slot

    cdef void _free_slot(self, nbd_slot *slot) noexcept nogil:
        slot.in_use = False
        slot.io = NULL
        slot.group = NULL
        if slot.ranges != NULL:
            free(slot.ranges)
            slot.ranges = NULL
        self.free_slots[self.num_free] = <uint32_t>(slot - self.slots)
        self.num_free += 1

    cdef void _queue(self, nbd_slot *slot, uint64_t now) noexcept nogil:
        """Let a slot's request be sent."""
        slot.sequence += 1
        slot.sent = slot.started = slot.answered = False
        slot.got = 0
        slot.err = 0
        slot.num_ranges = slot.cap_ranges = 0
        slot.since_ns = now
        slot.covers = self.acked
        self.tx[(self.tx_head + self.tx_n) & SLOT_MASK] = <uint32_t>(slot - self.slots)
        self.tx_n += 1
        self.requests += 1

    cdef int take(self, size_t most) except -1:
        """Make requests of what waits in the path, as long as there is room."""
        cdef NbdPath path = self.path
        cdef bdev_io *io
        cdef nbd_slot *slot
        cdef int err
        cdef uint64_t now = path.engine.now_ns()
        while most and path.waiting.head != NULL and not self.closed:
            if self.num_free == 0 and self.num_fresh == MAX_SLOTS:
                break
            most -= 1
            io = io_queue_pop(&path.waiting)
            if io.op == OP_FLUSH:
                if self.export_flags & EXPORT_SEND_FLUSH:
                    path._flush(io)
                else:
                    path.finish(io, IO_AIO_ERROR, ENOTSUP)
                continue
            err = self._check(io)
            if err:
                path.finish(io, IO_AIO_ERROR, err)
                continue
            slot = self._new_slot()
            io.leaf_value = IN_SLOT
            slot.io = io
            slot.offset = io.offset_blocks * path.disk.block_size
            slot.length = <uint32_t>(io.num_blocks * path.disk.block_size)
            slot.flags = 0
            if io.op == OP_READ:
                slot.command = CMD_READ
            else:
                if io.flags & FLAG_FUA and self.export_flags & EXPORT_SEND_FUA:
                    slot.flags = CMD_FLAG_FUA
                if io.op == OP_WRITE:
                    slot.command = CMD_WRITE
                elif io.op == OP_UNMAP:
                    slot.command = CMD_TRIM
                else:
                    slot.command = CMD_WRITE_ZEROES
                    if io.flags & FLAG_NO_HOLE:
                        slot.flags |= CMD_FLAG_NO_HOLE
                    if io.flags & FLAG_FAST_ZERO:
                        slot.flags |= CMD_FLAG_FAST_ZERO
            self._queue(slot, now)
        return 0

    cdef int _check(self, bdev_io *io) noexcept nogil:
        """Return 0, or the errno of an I/O that this server can not be asked for."""
        cdef uint32_t offered = self.export_flags
        if (io.offset_blocks > self.num_blocks
                or io.num_blocks > self.num_blocks - io.offset_blocks):
            return EIO  # the disk was larger once
        if io.num_blocks > self.most_blocks:
            return EINVAL
        if io.op == OP_READ:
            return 0
        if offered & EXPORT_READ_ONLY:
            return EROFS
        if io.flags & FLAG_FUA and not offered & (EXPORT_SEND_FUA | EXPORT_SEND_FLUSH):
            return ENOTSUP
        if io.op == OP_WRITE:
            return 0
        if io.op == OP_UNMAP:
            return 0 if offered & EXPORT_SEND_TRIM else ENOTSUP
        if io.op == OP_WRITE_ZEROES:
            if io.flags & FLAG_FAST_ZERO and not offered & EXPORT_SEND_FAST_ZERO:
                return ENOTSUP
            return 0 if offered & EXPORT_SEND_WRITE_ZEROES else ENOTSUP
        return ENOTSUP

    cdef bint add_flush(self, flush_group *group) noexcept:
        """Send a FLUSH for a group. False: there is no room here."""
        cdef nbd_slot *slot
        if self.closed:
            return False
        slot = self._new_slot()
        if slot == NULL:
            group.again = True  # those that are under way make room
            return False
        slot.group = group
        group.left += 1
        slot.command = CMD_FLUSH
        slot.flags = 0
        slot.offset = slot.length = 0
        self._queue(slot, self.path.engine.now_ns())
        return True

    # Sending

    def send(self):
        """Go on sending. Call when the socket is writable again."""
        if not self.closed:
            self._send()

    cdef void _put_header(self, uint8_t *p, const nbd_slot *slot) noexcept nogil:
        put32(p, REQUEST_MAGIC)
        put16(p + 4, slot.flags)
        put16(p + 6, slot.command)
        put64(p + 8, <uint64_t>slot.sequence << 32 | <uint64_t>(slot - self.slots))
        put64(p + 16, slot.offset)
        put32(p + 24, slot.length)

    cdef size_t _gather(self, uint32_t *requests, size_t *total) noexcept nogil:
        """Fill `iovs` with what is to be sent, as many requests as fit; return how many iovecs."""
        cdef size_t count = 0, length = 0
        cdef uint32_t i, pieces
        cdef nbd_slot *slot
        cdef uint8_t *p = self.headers
        cdef bint after_header = False
        for i in range(self.tx_n):
            slot = &self.slots[self.tx[(self.tx_head + i) & SLOT_MASK]]
            pieces = slot.io.iovcnt if slot.command == CMD_WRITE else 0
            if count + 1 + pieces > SEND_IOVS or i == SEND_IOVS:
                break
            self._put_header(p, slot)
            if after_header:
                self.iovs[count - 1].iov_len += REQUEST_BYTES
            else:
                self.iovs[count].iov_base = p
                self.iovs[count].iov_len = REQUEST_BYTES
                count += 1
            p += REQUEST_BYTES
            length += REQUEST_BYTES
            after_header = True
            if pieces:
                memcpy(&self.iovs[count], slot.io.iovs, pieces * sizeof(iovec))
                count += pieces
                length += slot.length
                after_header = False
            requests[0] = i + 1
        total[0] = length
        return count

    cdef int _send(self) except -1:
        """Send what waits, as many requests in one call as fit."""
        cdef msghdr msg
        cdef size_t count, i, skip, total = 0, length
        cdef uint32_t requests = 0
        cdef ssize_t sent
        cdef nbd_slot *slot
        cdef int error = 0
        self.wants_write = False
        memset(&msg, 0, sizeof(msg))
        while self.tx_n and not self.closed:
            with nogil:
                gil_left()
                count = self._gather(&requests, &total)
                i = 0
                skip = self.tx_skip
                total -= skip
                while skip >= self.iovs[i].iov_len:
                    skip -= self.iovs[i].iov_len
                    i += 1
                self.iovs[i].iov_base = <char *>self.iovs[i].iov_base + skip
                self.iovs[i].iov_len -= skip
                msg.msg_iov = self.iovs + i
                msg.msg_iovlen = count - i
                while True:
                    sent = sendmsg(self.fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL)
                    if sent >= 0 or errno != EINTR:
                        break
                if sent < 0:
                    error = errno
                gil_wanted()
            self.sends += 1
            if sent < 0:
                if error == EAGAIN:
                    self.wants_write = True
                else:
                    self._close(EIO, error == EPIPE or error == ECONNRESET,
                                strerror(error).decode())
                return 0
            self.sent_bytes += sent
            self.tx_skip += sent
            while self.tx_n:
                slot = &self.slots[self.tx[self.tx_head]]
                slot.started = self.tx_skip > 0
                length = REQUEST_BYTES + (slot.length if slot.command == CMD_WRITE else 0)
                if self.tx_skip < length:
                    break
                self.tx_skip -= length
                self.tx_head = (self.tx_head + 1) & SLOT_MASK
                self.tx_n -= 1
                slot.sent = True
                if slot.answered:
                    self._settle(slot)
            if <size_t>sent < total:
                self.wants_write = True  # the socket is full; it would only say EAGAIN
                return 0
        return 0

    # Receiving

    def receive(self):
        """Read what the socket has. Call when readable; then look at `closed`."""
        cdef int _round
        cdef bint filled = False
        for _round in range(RECEIVE_ROUNDS):
            if self.closed or not self._recv(&filled):
                break
            self._parse()
            if not filled:
                break  # the socket had no more; epoll tells when it has
        if self.have_rx and self.rx_start == self.rx_end:
            self._put_rx()
        # Room was made, or a FLUSH follows for a FUA; and what was lost may be sent elsewhere.
        if self.tx_n and not self.wants_write and not self.closed:
            self._send()
        if self.path.waiting.n:
            self.path._pump()

    cdef void _put_rx(self) noexcept:
        self.path.engine.buffers.put(&self.rx)
        self.have_rx = False
        self.rx_start = self.rx_end = 0

    cdef bint _recv(self, bint *filled) except -1:
        """Receive once; False where there was nothing, then possibly `closed`."""
        cdef iovec *iov = self.iovs
        cdef msghdr msg
        cdef size_t count = 0, wanted = 0, take, left, n
        cdef uint32_t at
        cdef ssize_t got
        cdef int error = 0
        if not self.have_rx:
            # Beyond the limit: it is given back within this turn, unless a reply is cut in two.
            if not self.path.engine.buffers.get(RECEIVE_BYTES, True, &self.rx):
                self._close(ENOMEM, False, "no memory to receive with")
                return False
            self.have_rx = True
        if self.rx_start:
            left = self.rx_end - self.rx_start
            if left:
                memmove(self.rx.base, <char *>self.rx.base + self.rx_start, left)
            self.rx_start = 0
            self.rx_end = left
        memset(&msg, 0, sizeof(msg))
        left = self.fill_left
        at = self.fill_iov
        while left and count < SEND_IOVS - 1:
            n = self.filling.io.iovs[at].iov_len
            iov[count].iov_base = self.filling.io.iovs[at].iov_base
            if count == 0:
                iov[0].iov_base = <char *>iov[0].iov_base + self.fill_at
                n -= self.fill_at
            if n > left:
                n = left
            iov[count].iov_len = n
            left -= n
            wanted += n
            if n:
                count += 1
            at += 1
        iov[count].iov_base = <char *>self.rx.base + self.rx_end
        iov[count].iov_len = RECEIVE_BYTES - self.rx_end
        wanted += iov[count].iov_len
        msg.msg_iov = iov
        msg.msg_iovlen = count + 1
        with nogil:
            gil_left()
            while True:
                got = recvmsg(self.fd, &msg, MSG_DONTWAIT)
                if got >= 0 or errno != EINTR:
                    break
            if got < 0:
                error = errno
            gil_wanted()
        self.receives += 1
        if got < 0:
            if error != EAGAIN:
                self._close(EIO, error == ECONNRESET, strerror(error).decode())
            return False
        if got == 0:
            self._close(EIO, True, "server closed the connection")
            return False
        filled[0] = <size_t>got == wanted
        take = got
        if self.fill_left:
            n = take if take < self.fill_left else self.fill_left
            self._filled(n)
            take -= n
        self.rx_end += take
        return True

    cdef void _filled(self, size_t n) noexcept nogil:
        """Move on by bytes of data that are where they belong, to where there is room."""
        cdef size_t here
        self.fill_left -= n
        while True:
            here = self.filling.io.iovs[self.fill_iov].iov_len - self.fill_at
            if n < here:
                self.fill_at += n
                return
            n -= here
            self.fill_iov += 1
            self.fill_at = 0
            if self.fill_left == 0 and n == 0:
                return  # there may be no other

    cdef void _seek(self, nbd_slot *slot, size_t at) noexcept nogil:
        """Let data go to a place in a READ's buffers, in bytes from their start."""
        self.filling = slot
        self.fill_iov = 0
        while at >= slot.io.iovs[self.fill_iov].iov_len:
            at -= slot.io.iovs[self.fill_iov].iov_len
            self.fill_iov += 1
        self.fill_at = at

    cdef int _parse(self) except -1:
        cdef const uint8_t *p
        cdef size_t have, n, here
        cdef uint32_t magic
        cdef nbd_slot *slot
        while not self.closed:
            have = self.rx_end - self.rx_start
            p = <const uint8_t *>self.rx.base + self.rx_start
            if self.filling != NULL:
                while self.fill_left and have:
                    here = self.filling.io.iovs[self.fill_iov].iov_len - self.fill_at
                    n = have if have < self.fill_left else self.fill_left
                    n = n if n < here else here
                    memcpy(<char *>self.filling.io.iovs[self.fill_iov].iov_base + self.fill_at,
                           p, n)
                    self._filled(n)
                    p += n
                    have -= n
                    self.rx_start += n
                if self.fill_left:
                    return 0
                slot = self.filling
                self.filling = NULL
                if self.fill_done:
                    self._answered(slot)
                continue
            if have < 4:
                return 0
            magic = get32(p)
            if magic == SIMPLE_REPLY_MAGIC:
                if have < SIMPLE_REPLY_BYTES:
                    return 0
                self.rx_start += SIMPLE_REPLY_BYTES
                self._simple(get32(p + 4), get64(p + 8))
            elif magic == STRUCTURED_REPLY_MAGIC and self.structured:
                if have < CHUNK_HEADER_BYTES or not self._chunk(p, have):
                    return 0
            else:
                self._protocol_error(f"reply magic is 0x{magic:08x}")
        return 0

    cdef nbd_slot *_slot_of(self, uint64_t cookie) except? NULL:
        """Return the slot that a reply is for; NULL, and closed, where it is for none."""
        cdef uint64_t number = cookie & 0xFFFFFFFF
        cdef nbd_slot *slot
        if number < self.num_fresh:
            slot = &self.slots[number]
            if slot.in_use and slot.sequence == cookie >> 32 and slot.started and (
                    not slot.answered):
                return slot
        self._protocol_error(f"reply to nobody, cookie 0x{cookie:x}")
        return NULL

    cdef int _simple(self, uint32_t error, uint64_t cookie) except -1:
        cdef nbd_slot *slot = self._slot_of(cookie)
        if slot == NULL:
            return 0
        if slot.command == CMD_READ:
            if self.structured:
                self._protocol_error("simple reply to a READ where structured ones were agreed")
                return 0
            if not error:
                slot.got = slot.length
                self._seek(slot, 0)
                self.fill_left = slot.length
                self.fill_done = True
                return 0
        elif slot.got or slot.err:
            self._protocol_error("simple reply behind a structured one")
            return 0
        if error:
            slot.err = errno_of(error)
        self._answered(slot)
        return 0

    cdef bint _chunk(self, const uint8_t *p, size_t have) except -1:
        """Take a structured reply's chunk; False where more of it has to come first."""
        cdef uint16_t flags = get16(p + 4), kind = get16(p + 6)
        cdef uint64_t cookie = get64(p + 8), offset
        cdef uint32_t length = get32(p + 16), data = 0
        cdef bint done = (flags & REPLY_FLAG_DONE) != 0
        cdef size_t whole = CHUNK_HEADER_BYTES + <size_t>length
        cdef nbd_slot *slot
        cdef int err
        if kind == REPLY_TYPE_OFFSET_DATA:
            whole = CHUNK_HEADER_BYTES + 8
        # What can be seen from the header is judged before anything else is waited for.
        slot = self._slot_of(cookie)
        if slot == NULL:
            return True
        if kind & ERROR_CHUNK_BIT:
            if length < (14 if kind == REPLY_TYPE_ERROR_OFFSET else 6) or length > MAX_ERROR_BYTES:
                self._protocol_error(f"error chunk of {length} bytes")
                return True
        elif kind == REPLY_TYPE_NONE:
            if length or not done:
                self._protocol_error("chunk without content that does not end its reply, or has"
                                     f" {length} bytes")
                return True
        elif slot.command != CMD_READ or not (
                (kind == REPLY_TYPE_OFFSET_DATA and length > 8)
                or (kind == REPLY_TYPE_OFFSET_HOLE and length == 12)):
            self._protocol_error(f"chunk of type {kind} and {length} bytes in the reply to"
                                 f" command {slot.command}")
            return True
        if have < whole:
            return False
        self.rx_start += whole
        p += CHUNK_HEADER_BYTES
        if kind & ERROR_CHUNK_BIT:
            err = self._error_chunk(slot, p, kind, length)
            if err == 0:
                return True
            if not slot.err:
                slot.err = err
        elif kind != REPLY_TYPE_NONE:
            offset = get64(p)
            data = length - 8 if kind == REPLY_TYPE_OFFSET_DATA else get32(p + 8)
            if not self._new_range(slot, offset, data):
                return True
            self._seek(slot, <size_t>(offset - slot.offset))
            if kind == REPLY_TYPE_OFFSET_DATA:
                self.fill_left = data
                self.fill_done = done
                return True
            self._zero(data)
            self.filling = NULL
        if done:
            self._answered(slot)
        return True

    cdef int _error_chunk(self, nbd_slot *slot, const uint8_t *p, uint16_t kind,
                          uint32_t length) except -1:
        """Return the errno that an error chunk tells; 0, and closed, where it makes no sense."""
        cdef uint32_t error = get32(p)
        cdef uint32_t text = get16(p + 4)
        cdef uint64_t offset
        if error == 0:
            self._protocol_error("error chunk without an error")
            return 0
        if 6 + text + (8 if kind == REPLY_TYPE_ERROR_OFFSET else 0) != length and (
                kind == REPLY_TYPE_ERROR or kind == REPLY_TYPE_ERROR_OFFSET
                or 6 + text > length):
            self._protocol_error(f"error chunk of {length} bytes with a text of {text}")
            return 0
        if kind == REPLY_TYPE_ERROR_OFFSET:
            offset = get64(p + 6 + text)
            if offset < slot.offset or offset - slot.offset >= slot.length:
                self._protocol_error(f"error at offset {offset}, outside of its request")
                return 0
        return errno_of(error)

    cdef void _zero(self, size_t n) noexcept nogil:
        cdef size_t here
        self.fill_left = n
        while self.fill_left:
            here = self.filling.io.iovs[self.fill_iov].iov_len - self.fill_at
            if here > self.fill_left:
                here = self.fill_left
            memset(<char *>self.filling.io.iovs[self.fill_iov].iov_base + self.fill_at, 0, here)
            self._filled(here)

    cdef bint _new_range(self, nbd_slot *slot, uint64_t offset, uint32_t data) except -1:
        """Note that a READ's bytes have come; False, and closed, where they can not have."""
        cdef uint32_t start, end, low
        cdef byte_range *grown
        if (data == 0 or offset < slot.offset or offset - slot.offset > slot.length
                or data > slot.length - (offset - slot.offset)):
            self._protocol_error(f"{data} bytes at offset {offset}, outside of a READ of"
                                 f" {slot.length} bytes at {slot.offset}")
            return False
        start = <uint32_t>(offset - slot.offset)
        end = start + data
        if slot.ranges == NULL:
            if start == slot.got:  # in order, as servers send them
                slot.got = end
                return True
            if start < slot.got:
                self._protocol_error(f"bytes at offset {offset} came twice")
                return False
            slot.ranges = <byte_range *>malloc(16 * sizeof(byte_range))
            if slot.ranges == NULL:
                self._close(ENOMEM, False, "no memory for the pieces of a READ")
                return False
            slot.cap_ranges = 16
            slot.num_ranges = 0
            if slot.got:
                slot.ranges[0].start = 0
                slot.ranges[0].end = slot.got
                slot.num_ranges = 1
        low = 0
        while low < slot.num_ranges and slot.ranges[low].end <= start:
            low += 1
        if low < slot.num_ranges and slot.ranges[low].start < end:
            self._protocol_error(f"bytes at offset {offset} came twice")
            return False
        slot.got += data
        if low and slot.ranges[low - 1].end == start:
            slot.ranges[low - 1].end = end
            if low < slot.num_ranges and slot.ranges[low].start == end:
                slot.ranges[low - 1].end = slot.ranges[low].end
                slot.num_ranges -= 1
                memmove(&slot.ranges[low], &slot.ranges[low + 1],
                        (slot.num_ranges - low) * sizeof(byte_range))
            return True
        if low < slot.num_ranges and slot.ranges[low].start == end:
            slot.ranges[low].start = start
            return True
        if slot.num_ranges == MAX_CHUNKS:
            self._protocol_error(f"a READ's data in more than {MAX_CHUNKS} pieces")
            return False
        if slot.num_ranges == slot.cap_ranges:
            grown = <byte_range *>realloc(slot.ranges, 2 * slot.cap_ranges * sizeof(byte_range))
            if grown == NULL:
                self._close(ENOMEM, False, "no memory for the pieces of a READ")
                return False
            slot.ranges = grown
            slot.cap_ranges *= 2
        memmove(&slot.ranges[low + 1], &slot.ranges[low],
                (slot.num_ranges - low) * sizeof(byte_range))
        slot.ranges[low].start = start
        slot.ranges[low].end = end
        slot.num_ranges += 1
        return True

    # Ends

    cdef int _answered(self, nbd_slot *slot) except -1:
        """The last of a reply has come."""
        if slot.command == CMD_READ and not slot.err and slot.got != slot.length:
            self._protocol_error(f"a READ of {slot.length} bytes was answered with {slot.got}")
            return 0
        slot.answered = True
        if slot.sent:
            self._settle(slot)
        return 0

    cdef int _settle(self, nbd_slot *slot) except -1:
        """A request is wholly sent and wholly answered."""
        cdef NbdPath path = self.path
        cdef bdev_io *io = slot.io
        cdef flush_group *group = slot.group
        cdef int err = slot.err
        if slot.command == CMD_FLUSH and not err and slot.covers > self.flushed:
            self.flushed = slot.covers
        if group != NULL:
            self._free_slot(slot)
            if not err:
                group.proven = True
            path._flushed(group, err, False)
            return 0
        if slot.command != CMD_READ and slot.command != CMD_FLUSH and not err and (
                not slot.flags & CMD_FLAG_FUA):
            if io.flags & FLAG_FUA:
                # Where the server has no FUA: a FLUSH behind it, on the same connection.
                slot.command = CMD_FLUSH
                slot.flags = 0
                slot.offset = slot.length = 0
                slot.flushing = True
                self._queue(slot, path.engine.now_ns())
                return 0
            if self.export_flags & EXPORT_SEND_FLUSH:  # else nothing was ever promised of it
                self.acked += 1
        self._free_slot(slot)
        if err:
            path.finish(io, IO_AIO_ERROR, err)
        elif slot.flushing and path.disk.lost:
            path.finish(io, IO_AIO_ERROR, EIO)
        else:
            path.finish(io, IO_SUCCESS, 0)
        return 0

    cdef int _protocol_error(self, reason) except -1:
        self._close(EIO, False, "server broke the protocol: " + reason)
        return 0

    def lose(self, int err, str reason not None, *, bint gone=False):
        """Give the connection up. gone: the server is known to have ended with it."""
        self._close(err, gone, reason)

    cdef int _close(self, int err, bint gone, str reason) except -1:
        """The connection is of no use any more. Its I/Os wait for another one, or fail."""
        cdef NbdPath path = self.path
        cdef io_queue again
        cdef nbd_slot *slot
        cdef bdev_io *io
        cdef flush_group *group
        cdef uint32_t i
        cdef int none = 0
        cdef bint resend = path.resend, harmless
        if self.closed:
            return 0
        self.closed = True
        self.reason = reason
        self.wants_write = False
        self.tx_n = 0
        self.filling = NULL
        self.fill_left = 0
        if self in path.links:
            path.links.remove(self)
        if self.acked > self.flushed and not path.disk.keeps_writes:
            self.lost_writes = True
            atomic_replace_int(&path.disk.lost_, &none, 1, False,
                               __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)
        memset(&again, 0, sizeof(again))
        for i in range(self.num_fresh):
            slot = &self.slots[i]
            if not slot.in_use:
                continue
            io = slot.io
            group = slot.group
            if group != NULL:
                # Without a place to be sent again it is not known to have been carried out.
                self._free_slot(slot)
                if self.lost_writes:
                    path._flushed(group, EIO, False)
                elif group.callback != NULL or resend:
                    path._flushed(group, 0, True)
                else:
                    path._flushed(group, err, False)
                continue
            # Whether no copy of it can be carried out later than the one that is sent again.
            harmless = gone or io.op == OP_READ or slot.flushing or not slot.started
            self._free_slot(slot)
            if resend and harmless:
                if path.disk.lost and io.flags & FLAG_FUA and changes_data(io):
                    path.finish(io, IO_AIO_ERROR, EIO)
                    continue
                path.resent += 1
                io.leaf_value = IN_WAITING
                io_queue_push(&again, io)
            else:
                path.finish(io, IO_AIO_ERROR, err)
        io_queue_join_front(&path.waiting, &again)
        if self.have_rx:
            self._put_rx()
        return 0

    def disconnect(self):
        """Tell the server goodbye, if it listens. Only without requests in flight."""
        cdef uint8_t message[REQUEST_BYTES]
        if self.closed or self.in_flight:
            return
        memset(message, 0, REQUEST_BYTES)
        put32(message, REQUEST_MAGIC)
        put16(message + 6, CMD_DISC)
        send(self.fd, message, REQUEST_BYTES, MSG_DONTWAIT | MSG_NOSIGNAL)
