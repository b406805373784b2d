"""NbdLink: one connection to an NBD server in its transmission phase, and the I/O that it has.

`NbdSender` and `NbdReplies` are its two halves, `slot_table` what they both know of each request,
and `requests` knows which command an I/O is. Here is what a reply completes, and what becomes
of I/O under way when the connection is lost.

That is sent again if the path's `resend` is set, except for what changes data and may still be
carried out by a server that is alive: a WRITE that arrives late, after its second copy was answered
and newer data was written, would destroy the newer data. So such I/Os are sent again only where no
byte of them had left, or the server itself has closed the connection (*gone*), and fail otherwise.

A server that closes its half alone is not gone: nbdkit does so while its threads still work on what
they were asked for. Then the link *ebbs*: all else is sent again at once, and what may still be
carried out waits until the rest of the connection is closed too. Over TCP both look alike until
something is sent, so something is (`NbdSender.knock`). One that answers with ESHUTDOWN is asked
for nothing more, and what it has refused waits for the next connection.

What must not be broken:
- an I/O is in one place: in the path's queue or in a slot (a FLUSH: a group, which has a slot on
  each link that it concerns); `leaf_value` says which;
- a slot is given back once, by `_settle` or by `_let_go`;
- whoever calls a method looks afterwards at `closed`, `ebbing` and `wants_write`. The host's
  `on_change` tells of what changed while somebody else called.
"""

cimport cython
from libc.errno cimport EAGAIN, ECONNRESET, EINVAL, EIO, ENOMEM, EPIPE, ESHUTDOWN
from libc.string cimport memset, strerror

from vbdev.core.base.handover cimport gil_left, gil_wanted
from vbdev.core.base.sockets cimport hung_up, ssize_t
from vbdev.core.base.types cimport (
    FLAG_FUA,
    IO_AIO_ERROR,
    IO_SUCCESS,
    OP_FLUSH,
    OP_READ,
    io_queue,
    io_queue_join_front,
    io_queue_pop,
    io_queue_push,
    uint8_t,
)
from vbdev.core.nbd.client.queue cimport (
    IN_QUEUE,
    IN_SLOT,
    REFUSES_FAST_ZERO,
    REFUSES_TRIM,
    RemoteDisk,
    NbdQueue,
    changes_data,
)
from vbdev.core.nbd.client.replies cimport FAULT_MEMORY, FAULT_NONE
from vbdev.core.nbd.client.requests cimport (
    request_begin,
    request_fault,
    request_goes_on,
    request_instead,
    request_is_void,
    request_refused,
)
from vbdev.core.nbd.client.slots cimport (
    MAX_SLOTS,
    slot_give,
    slot_take,
    slot_use,
    slots_clear,
    slots_forget_order,
    slots_in_use,
    slots_init,
)
from vbdev.core.nbd.wire cimport CMD_FLAG_FUA, CMD_FLUSH, CMD_READ, EXPORT_SEND_FLUSH

cdef enum:
    RECEIVE_ROUNDS = 4


@cython.final
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

    def __cinit__(self, NbdQueue path not None, int fd, *, uint64_t size_bytes, uint32_t flags,
                  bint structured, const uint8_t[::1] early=b""):
        if not slots_init(&self.slots):
            raise MemoryError
        self.path = path
        self.fd = fd
        self.size_bytes = size_bytes
        self.num_blocks = size_bytes // path.disk.block_size
        self.most_blocks = 0xFFFFFFFF // path.disk.block_size
        self.export_flags = flags
        self.sender = NbdSender()
        self.sender.fd = fd
        self.sender.slots = &self.slots
        self.replies = NbdReplies()
        self.replies.slots = &self.slots
        self.replies.buffers = path.engine.buffers
        self.replies.structured = structured
        if early.shape[0]:
            # Nothing was asked for, so nothing can have been answered.
            self.close_(EIO, False, "server broke the protocol:"
                        f" {early.shape[0]} bytes behind the handshake")

    def __dealloc__(self):
        slots_clear(&self.slots)

    @property
    def in_flight(self):
        """Requests that are not wholly answered and sent."""
        return slots_in_use(&self.slots)

    @property
    def dirty(self):
        """Whether the server acknowledged writes here that no FLUSH has covered."""
        return self.has_dirt()

    @property
    def wants_write(self):
        """Whether `send` has to be called when the socket is writable."""
        return self.sender.full

    @property
    def requests(self):
        """Requests that were made, ever."""
        return self.sender.requests

    @property
    def sends(self):
        """Calls of sendmsg."""
        return self.sender.sends

    @property
    def sent_bytes(self):
        """What they have sent."""
        return self.sender.sent_bytes

    @property
    def receives(self):
        """Calls of recvmsg."""
        return self.replies.receives

    def oldest_ns(self):
        """Return since when the oldest request is under way, on the engine's clock; 0: none is."""
        cdef uint64_t oldest = 0
        cdef uint32_t i
        for i in range(self.slots.num_fresh):
            if self.slots.v[i].in_use and (oldest == 0 or self.slots.v[i].since_ns < oldest):
                oldest = self.slots.v[i].since_ns
        return oldest

    cdef bint has_dirt(self) noexcept nogil:
        return self.acked > self.flushed

    cdef bint has_unsent(self) noexcept nogil:
        return self.sender.n and not self.sender.full and not self.closed

    # Requests

    cdef void use_(self, nbd_slot *slot, uint64_t now) noexcept nogil:
        """Let a slot's request be sent."""
        slot_use(&self.slots, slot, now)
        slot.covers = self.acked
        self.sender.push(slot)

    cdef int take(self, size_t most) except -1:
        """Make requests of what waits in the path, as long as there is room."""
        cdef NbdQueue path = self.path
        cdef RemoteDisk disk = path.disk
        cdef bdev_io *io
        cdef nbd_slot *slot
        cdef int err
        cdef uint64_t now = path.engine.now_ns()
        while most and path.waiting.head != NULL and not self.closed and not self.leaving:
            if slots_in_use(&self.slots) == MAX_SLOTS:
                break
            most -= 1
            io = io_queue_pop(&path.waiting)
            err = self.check(io, disk)
            if err:
                path.finish(io, IO_AIO_ERROR, err)
                continue
            if io.op == OP_FLUSH:
                path.start_flush(io)
                continue
            if request_is_void(io, disk, self.export_flags):
                path.finish(io, IO_SUCCESS, 0)
                continue
            slot = slot_take(&self.slots)
            io.leaf_value = IN_SLOT
            request_begin(slot, io, disk, self.export_flags)
            self.use_(slot, now)
        return 0

    cdef int check(self, const bdev_io *io, RemoteDisk disk) noexcept nogil:
        """Return 0, or the errno of an I/O that this server can not be asked for."""
        if (io.offset_blocks > self.num_blocks
                or io.num_blocks > self.num_blocks - io.offset_blocks):
            return EIO  # the disk was larger once
        if io.num_blocks > self.most_blocks:
            return EINVAL
        return request_fault(io, disk, self.export_flags)

    cdef bint add_flush(self, flush_group *group) noexcept:
        """Send a FLUSH for a group. False: there is no room here."""
        cdef nbd_slot *slot
        if self.closed:
            return False
        slot = slot_take(&self.slots)
        if slot == NULL:
            group.again = True  # those that are under way make room
            return False
        slot.group = group
        group.left += 1
        slot.command = CMD_FLUSH
        slot.flags = 0
        slot.offset = slot.length = 0
        self.use_(slot, self.path.engine.now_ns())
        return True

    # The socket

    def send(self):
        """Go on sending. Call when the socket is writable again."""
        if not self.closed:
            self.send_()

    cdef int send_(self) except -1:
        """Send what waits, as many requests in one call as fit."""
        cdef int err = 0
        while True:
            with nogil:
                gil_left()
                err = self.sender.send(MAX_SLOTS)
                gil_wanted()
            if self.slots.num_ended:
                self.settle_all()
            if err or not self.has_unsent():  # what was settled may ask for something else
                break
        if err:
            self.close_(EIO, err == EPIPE or err == ECONNRESET, strerror(err).decode())
        return 0

    def receive(self):
        """Read what the socket has. Call when readable; then look at `closed`."""
        self.receive_()

    cdef int receive_(self) except -1:
        cdef int _round
        cdef ssize_t got = 0
        cdef bint filled
        if self.closed:
            if self.ebbing and hung_up(self.fd):
                self.close_(EIO, True, self.reason)
                self.path.pump_()
            return 0
        for _round in range(RECEIVE_ROUNDS):
            with nogil:
                gil_left()
                got = self.replies.receive(self.fd, &filled)
                if got > 0:
                    self.replies.parse()
                gil_wanted()
            self.settle_all()
            if got <= 0 or self.replies.fault != FAULT_NONE or not filled or self.closed:
                break  # where it is not filled, the socket had no more; epoll tells when it has
        if self.closed:
            pass
        elif self.replies.fault == FAULT_MEMORY or got == -ENOMEM:
            self.close_(ENOMEM, False, "no memory to receive with")
        elif self.replies.fault != FAULT_NONE:
            self.close_(EIO, False, self.replies.complaint())
        elif got == 0:
            self._ended("server closed the connection")
        elif got < 0 and got != -EAGAIN:
            self.close_(EIO, got == -ECONNRESET, strerror(<int>-got).decode())
        elif self.leaving and not slots_in_use(&self.slots):
            self.sender.knock()
            self.close_(EIO, True, "server shuts down")
        self.replies.rest()
        # Room was made, or a FLUSH follows for a FUA; and what was lost may be sent elsewhere.
        if self.has_unsent():
            self.send_()
        if self.path.waiting.n:
            self.path.pump_()
        return 0

    def on_readable(self):
        """For the reactor: `receive`, and tell the host where that changes what is waited for."""
        cdef bint full = self.sender.full
        try:
            self.receive_()
        except Exception as error:
            self.close_(EIO, False, f"internal error: {error!r}")
        if self.closed or self.sender.full != full:
            self.path.host.on_change()

    def on_writable(self):
        """For the reactor: `send`, and tell the host."""
        self.send()
        if self.closed or not self.sender.full:
            self.path.host.on_change()

    # Ends

    cdef int settle_all(self) except -1:
        """See to all requests that are wholly sent and wholly answered."""
        cdef NbdQueue path = self.path
        cdef RemoteDisk disk = path.disk
        cdef uint32_t number
        # What this calls may close the link, which settles the rest.
        while self.slots.num_settled < self.slots.num_ended:
            number = self.slots.ended[self.slots.num_settled]
            self.slots.num_settled += 1
            self._settle(path, disk, &self.slots.v[number])
        self.slots.num_settled = self.slots.num_ended = 0
        return 0

    cdef int _settle(self, NbdQueue path, RemoteDisk disk, nbd_slot *slot) except -1:
        cdef bdev_io *io = slot.io
        cdef flush_group *group = <flush_group *>slot.group
        cdef int err = slot.err
        if err == ESHUTDOWN and group == NULL and path.resend:
            # Not carried out, and others would not be either: it waits for the next connection.
            self.leaving = True
            slot_give(&self.slots, slot)
            path.resent += 1
            io.leaf_value = IN_QUEUE
            io_queue_push(&path.waiting, io)
            return 0
        if slot.command == CMD_READ:
            slot_give(&self.slots, slot)
            path.finish(io, IO_AIO_ERROR if err else IO_SUCCESS, err)
            return 0
        if slot.command == CMD_FLUSH:
            if not err and slot.covers > self.flushed:
                self.flushed = slot.covers
        elif request_instead(slot, disk, self.export_flags) if err else request_goes_on(
                slot, disk):
            self.use_(slot, path.engine.now_ns())
            return 0
        else:
            err = slot.err
        if group != NULL:
            slot_give(&self.slots, slot)
            if not err:
                group.proven = True
            path.part_ended(group, err, False)
            return 0
        if (slot.command != CMD_FLUSH and not err and not slot.flags & CMD_FLAG_FUA
                and slot.refused != REFUSES_TRIM):  # of which nothing was done
            if io.flags & FLAG_FUA:
                # Where the server has no FUA: a FLUSH behind it, on the same connection.
                slot.command = CMD_FLUSH
                slot.flags = 0
                slot.offset = slot.length = 0
                slot.flushing = True
                self.use_(slot, path.engine.now_ns())
                return 0
            if self.export_flags & EXPORT_SEND_FLUSH:  # else nothing was ever promised of it
                self.acked += 1
        if not err and slot.flushing and disk.has_lost():
            err = EIO
        if slot.refused:
            self._note(slot, err)
        slot_give(&self.slots, slot)
        path.finish(io, IO_AIO_ERROR if err else IO_SUCCESS, err)
        return 0

    cdef int _note(self, const nbd_slot *slot, int err) except -1:
        """Keep what the server has refused of an I/O that ends."""
        cdef int what = request_refused(slot, self.path.disk)
        if err and what != REFUSES_FAST_ZERO:  # it could not be done otherwise
            return 0
        if what and self.path.disk.note_refusal(what):
            self.path.host.on_refusal(what)
        return 0

    def lose(self, int err, str reason not None, *, bint gone=False):
        """Give the connection up. gone: the server is known to have ended with it."""
        self.close_(err, gone, reason)

    cdef int close_(self, int err, bint gone, str reason) except -1:
        """The connection is of no use any more. Its I/Os wait for another one, or fail."""
        if self.closed and not self.ebbing:
            return 0
        self.closed = True
        self.ebbing = False
        self.reason = reason
        self._let_go(err, gone, False)
        self.path.left_by(self)
        return 0

    cdef int _ended(self, str reason) except -1:
        """The server says nothing any more: it is gone, or it ebbs."""
        cdef int err
        if not self.path.resend or hung_up(self.fd):
            return self.close_(EIO, True, reason)
        err = self.sender.knock()
        if err or hung_up(self.fd):
            return self.close_(EIO, True, reason)
        self.closed = True
        self.reason = reason
        self._let_go(EIO, False, True)
        self.ebbing = slots_in_use(&self.slots) > 0
        self.path.left_by(self)
        return 0

    cdef int _let_go(self, int err, bint gone, bint keep_doubtful) except -1:
        """Send I/Os again, or fail them. keep_doubtful: not those of which it is not known yet."""
        cdef NbdQueue path = self.path
        cdef io_queue again
        cdef nbd_slot *slot
        cdef bdev_io *io
        cdef flush_group *group
        cdef uint32_t i
        cdef bint resend = path.resend
        memset(&again, 0, sizeof(again))
        self.settle_all()
        self.sender.forget()
        self.replies.forget()
        slots_forget_order(&self.slots)
        if self.has_dirt():
            if path.disk.keeps_writes:
                path.owed += 1
            else:
                self.lost_writes = True
                path.disk.lose()
            self.flushed = self.acked
        for i in range(self.slots.num_fresh):
            slot = &self.slots.v[i]
            if not slot.in_use:
                continue
            io = slot.io
            group = <flush_group *>slot.group
            if group != NULL:
                # Without a place to be sent again it is not known to have been carried out.
                slot_give(&self.slots, slot)
                if self.lost_writes:
                    path.part_ended(group, EIO, False)
                elif group.callback != NULL or resend:
                    path.part_ended(group, 0, True)
                else:
                    path.part_ended(group, err, False)
            # Whether a copy of it may be carried out later than the one that is sent again.
            elif not resend or not (
                    gone or io.op == OP_READ or slot.flushing or not slot.started):
                if keep_doubtful and resend:
                    continue
                slot_give(&self.slots, slot)
                path.finish(io, IO_AIO_ERROR, err)
            else:
                slot_give(&self.slots, slot)
                if path.disk.has_lost() and io.flags & FLAG_FUA and changes_data(io):
                    path.finish(io, IO_AIO_ERROR, EIO)
                    continue
                path.resent += 1
                io.leaf_value = IN_QUEUE
                io_queue_push(&again, io)
        io_queue_join_front(&path.waiting, &again)
        return 0

    def disconnect(self):
        """Tell the server goodbye, if it listens. Only without requests in flight."""
        if not self.closed and not slots_in_use(&self.slots):
            self.sender.knock()
