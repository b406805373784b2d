"""NbdStream: the transmission phase of one NBD connection, requests in, replies out.

One room: a connection is one object in C. Receiving, the rules, completing and sending share what
is in flight, and call each other for each request within the budget below.

One `recv` brings many requests. They become IOBatches for the export's channel, of `PIECE_REQUESTS`
or `PIECE_BYTES` each; what completes together is answered with one `sendmsg`, straight from the
buffers that the leaf filled. A WRITE's payload stays where it was received: the I/O points into
the receive chunk, which lives until the last such I/O is done. A payload too large for the chunk is
received into a buffer of its own. Only a chunk with data in it is kept, so an idle connection holds
no buffer.

Bounds: `MAX_IN_FLIGHT` requests and `MAX_IN_FLIGHT_BYTES` of data (or one request) for a
connection. While a peer does not take its replies, no request of it is looked at.

What guarantees progress: a request is begun when it has all the memory for its data (`NbdMemory`)
and then a BdevIO, in this order, and needs neither any more afterwards. While it waits for them its
header lies in a few bytes of the stream's own, or in a chunk, which nobody waits for: without a
chunk (one whose peer sends little at once takes none) a stream receives into those bytes, and each
payload into a buffer of its own. So a WRITE that has begun is always received, and one that waits
holds nothing. Waits for the peer are told of to `NbdMemory.suspect`, whose owner ends those in
which nothing moves.

Wire layout and error rules: NBD protocol, doc/proto.md, "Request message", "Simple reply
message", "Structured reply chunk message". `wire/nbd.py` has the same in plain Python, which is
what the tests compare with. Budget: 60 ns a request beside the system calls.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.errno cimport EAGAIN, EINTR, EINVAL, EIO, ENOMEM, ENOSPC, EPERM, errno
from libc.stddef cimport size_t
from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memmove, strerror

from vbdev.core.base.bigendian cimport get16, get32, get64, put16, put32, put64
from vbdev.core.base.handover cimport gil_left, gil_wanted
from vbdev.core.base.sockets cimport (
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    hung_up,
    msghdr,
    recvmsg,
    sendmsg,
    ssize_t,
)
from vbdev.core.base.types cimport (
    FLAG_FAST_ZERO,
    FLAG_FUA,
    FLAG_NO_HOLE,
    IN_BYTES,
    IO_SUCCESS,
    OP_FLUSH,
    OP_READ,
    OP_UNMAP,
    OP_WRITE,
    OP_WRITE_ZEROES,
    bdev_io,
    buffer_ref,
    io_data_bytes,
    iovec,
)
from vbdev.core.engine.batch cimport IOBatch, batch_add, new_batch
from vbdev.core.engine.channel cimport Channel
from vbdev.core.engine.turn cimport IO_NS, slice_over
from vbdev.core.nbd.server.memory cimport CHUNK_BYTES, MemoryClient, NbdMemory, memory_for
from vbdev.core.nbd.wire cimport (
    CHUNK_HEADER_BYTES,
    CMD_BLOCK_STATUS,
    CMD_CACHE,
    CMD_DISC,
    CMD_FLAG_DF,
    CMD_FLAG_FAST_ZERO,
    CMD_FLAG_FUA,
    CMD_FLAG_NO_HOLE,
    CMD_FLAG_REQ_ONE,
    CMD_FLUSH,
    CMD_READ,
    CMD_TRIM,
    CMD_WRITE,
    CMD_WRITE_ZEROES,
    EXPORT_READ_ONLY,
    EXPORT_SEND_CACHE,
    EXPORT_SEND_FAST_ZERO,
    EXPORT_SEND_FLUSH,
    EXPORT_SEND_FUA,
    EXPORT_SEND_TRIM,
    EXPORT_SEND_WRITE_ZEROES,
    REPLY_FLAG_DONE,
    REPLY_TYPE_ERROR,
    REPLY_TYPE_OFFSET_DATA,
    REQUEST_BYTES,
    REQUEST_MAGIC,
    SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_MAGIC,
)


cdef enum:
    KIND_PLAIN = 0              # answered without data
    KIND_READ = 2
    IS_PART = 1                 # it begins or ends inside of the blocks that the I/O has
    MEMORY_SHIFT = 8            # above: bytes of memory that it was given

    IN_PLACE_BYTES = 64 << 10   # longer payloads get a buffer of their own
    OWN_BYTES = 512             # what is received without a chunk: headers, and what is behind them
    EARLY_BYTES = 256 << 10
    SCRATCH_BYTES = 64 << 10
    MAX_PAYLOAD = 32 << 20
    MAX_IN_FLIGHT = 1024
    MAX_IN_FLIGHT_BYTES = 16 << 20
    MAX_SPECIALS = 64
    SEND_IOVS = 1024
    PIECE_REQUESTS = 16         # what is answered before more of it is begun
    PIECE_BYTES = 256 << 10
    RECEIVE_ROUNDS = 4

# Where the payload of what was refused goes: nobody reads it.
cdef char scratch[SCRATCH_BYTES]

# Received bytes, shared by the connection and the WRITEs whose payload lies in them.
cdef struct rx_chunk:
    buffer_ref buf
    uint32_t refs

# One request, as its header says.
cdef struct request_head:
    uint64_t cookie
    uint64_t offset             # bytes
    uint32_t length             # bytes
    uint16_t flags
    uint16_t command

# One reply, or a part of one, that waits to be sent.
cdef struct tx_entry:
    uint8_t header[32]
    uint32_t header_len
    bdev_io *io             # whose data follows; freed once sent
    PyObject *raw           # bytes to send instead
    uint64_t charged        # bytes to take off in_flight_bytes once sent


cdef size_t cut(iovec *iovs, size_t count, size_t skip, size_t length) noexcept nogil:
    """Leave of some pieces `length` bytes behind the first `skip`; return how many pieces it is."""
    cdef size_t i, n, kept = 0
    for i in range(count):
        n = iovs[i].iov_len
        if skip >= n:
            skip -= n
            continue
        n = n - skip if n - skip < length else length
        if n == 0:
            break
        iovs[kept].iov_base = <char *>iovs[i].iov_base + skip
        iovs[kept].iov_len = n
        kept += 1
        length -= n
        skip = 0
    return kept


@cython.final
cdef class NbdStream(MemoryClient):
    """One connection after its handshake. The socket stays the caller's to close.

    Parameters
    ----------
    channel: of the export's bdev; all I/O goes there.
    fd: the connected socket, non-blocking.
    transmission_flags: as negotiated; a command they do not offer is EINVAL.
    structured: structured replies were negotiated.
    nbd_error: function from (status, errno) to the protocol's error value.
    on_change: called without arguments when `wants_read`, `wants_write`, `closed`, `specials`
        or `idle` may have changed. Never from inside a method of this object that the caller
        called: after those, look yourself.
    early: bytes that were received behind the handshake.
    size_bytes: as negotiated, which the connection keeps to; by default the bdev's of now.
    any_bytes: requests may begin and end inside blocks; else they are EINVAL then.
    remote: the bdev's I/Os may wait for a server, and it for requests of this engine.
    memory: what it shares with the engine's other streams; by default one of its own.

    """

    cdef Channel channel
    cdef int fd
    cdef uint32_t export_flags
    cdef bint structured
    cdef object nbd_error
    cdef object on_change
    cdef uint64_t size_bytes
    cdef uint32_t block_size
    cdef uint64_t unit_bytes        # what writes are made of: blocks, or the bdev's write units
    cdef int block_shift            # log2 of block_size, where both are powers of two; else 0
    cdef bint any_bytes
    cdef bint remote
    cdef bint misaligned            # of the request that `_check` has seen last

    cdef rx_chunk *rx               # NULL: what is received goes to `own`
    cdef rx_chunk *spare            # without memory: who asks one by one needs one each time
    cdef size_t rx_start
    cdef size_t rx_end
    cdef uint8_t own[OWN_BYTES]
    cdef uint8_t *area              # where received bytes are: in `rx`, or `own`
    cdef bint much                  # comes at once, more than into `own`: it is worth a chunk
    cdef bytes early                # what came behind the handshake, before anything is received
    cdef size_t early_at
    cdef bdev_io *partial
    cdef size_t partial_have
    cdef uint64_t skip
    cdef bint bulk                  # the last request was a WRITE with a buffer of its own

    cdef tx_entry *tx
    cdef size_t tx_cap
    cdef size_t tx_head
    cdef size_t tx_n
    cdef size_t tx_sent
    cdef iovec *iovs

    cdef uint64_t in_flight_bytes
    cdef uint64_t returned          # memory that is not given back yet
    cdef uint64_t allowed           # memory that a scan may take without asking for each request
    cdef uint64_t allowance         # of it, what is left
    cdef readonly uint64_t requests
    cdef readonly uint64_t batches
    cdef readonly uint64_t receives
    cdef readonly uint64_t sends
    cdef readonly bint wants_read
    cdef readonly bint wants_write
    cdef readonly bint closed
    cdef readonly bint starved
    cdef readonly bint disconnecting
    cdef readonly str reason
    cdef readonly uint64_t sent_bytes
    cdef readonly uint64_t received_bytes
    cdef object io_token            # of `Engine.io_wait`
    cdef list specials_
    cdef size_t specials_waiting    # of which Python has not answered yet
    cdef bint busy

    def __cinit__(self, engine, *args, **kwargs):
        self.area = &self.own[0]
        self.iovs = <iovec *>malloc(SEND_IOVS * sizeof(iovec))
        if self.iovs == NULL:
            raise MemoryError

    def __init__(self, engine, Channel channel not None, int fd, *, uint32_t transmission_flags,
                 bint structured, nbd_error, on_change, const uint8_t[::1] early=b"",
                 uint64_t size_bytes=0, NbdMemory memory=None,
                 bint any_bytes=False, bint remote=False):
        cdef bint filled
        self.memory = NbdMemory(engine) if memory is None else memory
        self.channel = channel
        self.fd = fd
        self.export_flags = transmission_flags
        self.structured = structured
        self.nbd_error = nbd_error
        self.on_change = on_change
        self.block_size = channel.s.block_size
        if channel.s.hides_metadata:
            self.block_size = channel.s.data_block_size
        self.any_bytes = any_bytes
        self.remote = remote
        self.unit_bytes = self.block_size
        if any_bytes and channel.s.limits.write_unit:
            self.unit_bytes *= channel.s.limits.write_unit
        if not (self.block_size & (self.block_size - 1) or self.unit_bytes & (self.unit_bytes - 1)):
            self.block_shift = self.block_size.bit_length() - 1
        self.size_bytes = size_bytes or channel.s.num_blocks * self.block_size
        self.wants_read = self.much = True
        self.specials_ = []
        if early.shape[0] > EARLY_BYTES:
            self._close("more data behind the handshake than a connection may send ahead")
        elif early.shape[0]:
            self.early = bytes(early)
            self._recv(&filled)

    def __dealloc__(self):
        while self.tx_n:
            self._drop_entry()
        free(self.tx)
        free(self.iovs)
        self._drop_partial()
        self._give_back()
        if self.rx != NULL:
            self._release_chunk(self.rx)
        free(self.spare)

    # What the target asks

    @property
    def idle(self):
        """Whether nothing is in flight, here or with Python, and nothing waits to be sent."""
        return self.o.in_flight == 0 and self.tx_n == 0 and self.specials_waiting == 0

    @property
    def held_bytes(self):
        """Bytes of data in flight or unsent."""
        return self.in_flight_bytes

    @property
    def moved_bytes(self):
        """Bytes received and sent."""
        return self.received_bytes + self.sent_bytes

    @property
    def awaited(self):
        """What of its peer it waits for with shared memory in its hands; empty: for nothing."""
        if self.closed:
            return ""
        if self.wants_write:
            return "replies are not taken"
        return "the rest of a WRITE does not come" if self._awaits_payload() else ""

    def take_specials(self):
        """Return requests that Python answers, [(command, flags, cookie, offset, length)]."""
        specials, self.specials_ = self.specials_, []
        return specials

    # Receiving

    def receive(self):
        """Read what the socket has, submit what is whole. Call when readable."""
        cdef int _round
        cdef Py_ssize_t got
        cdef bint filled
        self.busy = True
        try:
            for _round in range(RECEIVE_ROUNDS):
                if self.closed or not self.wants_read or self.is_due:
                    break
                got = self._recv(&filled)
                if got == 0:
                    break
                self._process()
                if not filled:
                    break  # the socket had no more; epoll tells when it has
            if self._awaits_payload():
                self.memory.suspect(self)
        finally:
            self.busy = False
        self._settle()

    def on_readable(self):
        """Receive, and call `on_change` where something may have changed. For the reactor.

        Where nothing is wanted it is a hang-up that makes a socket readable: then nothing is kept
        for a peer that is gone.
        """
        cdef bint read_before = self.wants_read, write_before = self.wants_write
        cdef bint closed_before = self.closed
        if not (self.wants_read or self.wants_write or self.closed):
            if hung_up(self.fd):
                self.shut("client went away")
        else:
            self.receive()
        return self._tell(read_before, write_before, closed_before)

    def on_writable(self):
        """Go on sending, and call `on_change` where something may have changed."""
        cdef bint read_before = self.wants_read, write_before = self.wants_write
        cdef bint closed_before = self.closed
        self.send()
        return self._tell(read_before, write_before, closed_before)

    cdef int _tell(self, bint read_before, bint write_before, bint closed_before) except -1:
        if (read_before != self.wants_read or write_before != self.wants_write
                or closed_before != self.closed or self.starved or self.specials_
                or (self.o.in_flight == 0 and (self.closed or self.disconnecting))):
            self.on_change()
        return 0

    def process(self):
        """Look again at what was received: after a pause, or once at the start."""
        self.busy = True
        try:
            if not self.closed:
                self._go_on()
        finally:
            self.busy = False
        self._settle()

    cdef int _go_on(self) except -1:
        """Process what is here, and what came behind the handshake."""
        cdef bint filled
        self._process()
        while self.early is not None and self.wants_read and not self.closed:
            self._recv(&filled)
            self._process()
        if self._awaits_payload():
            self.memory.suspect(self)
        return 0

    cdef bint _awaits_payload(self) noexcept:
        """Whether the peer has to send more for what memory is held for."""
        return self.wants_read and (
            self.partial != NULL or (self.rx != NULL and self.rx_start != self.rx_end))

    cdef int work(self) except -1:
        cdef bint read_before = self.wants_read, write_before = self.wants_write
        cdef bint closed_before = self.closed
        self.process()
        return self._tell(read_before, write_before, closed_before)

    cdef Py_ssize_t _recv(self, bint *filled) except -2:
        """Receive once: bytes that came, 0 for none (then possibly `closed`)."""
        cdef iovec iov[2]
        cdef int count = 0
        cdef size_t room, first = 0
        cdef Py_ssize_t got
        self._make_room()
        if self.partial != NULL:
            iov[0].iov_base = <char *>self.partial.buf.base + self.partial_have
            iov[0].iov_len = self.partial.iovs[0].iov_len - self.partial_have
            count = 1
        elif self.skip:
            iov[0].iov_base = scratch
            iov[0].iov_len = self.skip if self.skip < SCRATCH_BYTES else SCRATCH_BYTES
            count = 1
        if count:
            first = iov[0].iov_len
        room = self._room()
        if self.bulk and room > REQUEST_BYTES:
            # What comes behind is most likely as large: it gets its own buffer before it arrives.
            room = REQUEST_BYTES
        iov[count].iov_base = self.area + self.rx_end
        iov[count].iov_len = room
        if self.early is not None:
            got = self._take_early(iov, count + 1)
        else:
            got = self._recvmsg(iov, count + 1)
        if got <= 0:
            return 0
        self.received_bytes += got
        filled[0] = <size_t>got == first + room
        self.much = filled[0] or got > OWN_BYTES
        if first > <size_t>got:
            first = got
        if self.partial != NULL:
            self.partial_have += first
        else:
            self.skip -= first
        self.rx_end += got - first
        return got

    cdef Py_ssize_t _recvmsg(self, iovec *iov, int count) except -2:
        """Receive from the socket: bytes that came, 0 for none; then it may be closed."""
        cdef msghdr msg
        cdef ssize_t got
        cdef int error = 0
        msg.msg_name = NULL
        msg.msg_namelen = 0
        msg.msg_iov = iov
        msg.msg_iovlen = count
        msg.msg_control = NULL
        msg.msg_controllen = 0
        msg.msg_flags = 0
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
                self._close(strerror(error).decode())
            self._let_go_of_empty_chunk()
            return 0
        if got == 0:
            middle = self.partial != NULL or self.rx_start != self.rx_end
            self._close("client went away in the middle of a request" if middle
                        else "client went away")
        return got

    cdef Py_ssize_t _take_early(self, iovec *iov, int count) except -1:
        """Take what came behind the handshake, as if it were received."""
        cdef size_t left, n, got = 0
        cdef int i
        for i in range(count):
            left = PyBytes_GET_SIZE(self.early) - self.early_at
            n = iov[i].iov_len if iov[i].iov_len < left else left
            memcpy(iov[i].iov_base, PyBytes_AS_STRING(self.early) + self.early_at, n)
            self.early_at += n
            got += n
        if self.early_at == <size_t>PyBytes_GET_SIZE(self.early):
            self.early = None
        return got

    cdef int _process(self) except -1:
        """Turn whole requests into batches and submit them.

        What a client has sent at once is done in pieces, and each is answered before the next one
        is begun: so the client has work while there is some left here, and data is sent while it
        is still in a cache.
        """
        cdef IOBatch ios
        cdef bint more
        while True:
            ios = new_batch(self.engine)
            more = self._scan(ios)
            if ios.n:
                self.batches += 1
                self.requests += ios.n
                self.channel.submit_batch(ios)
            if self.tx_n and not self.wants_write:
                self._send()
            if more:
                if slice_over(&self.engine.slice, IO_NS * <uint64_t>PIECE_REQUESTS):
                    self.engine.work_later(self)  # others first; what is here waits for that
                    break
                self.engine.drain_all()
                if self.wants_read:
                    continue
            if (self.wants_read or self.closed or self.disconnecting or self.starved
                    or self._full()):
                break
            # It was full of refusals, and they are sent: no completion will come to go on with.
            self.wants_read = True
        self._let_go_of_empty_chunk()
        return 0

    cdef int _scan(self, IOBatch ios) except -1:
        """Append whole requests to a batch. 1: it is a piece, and there may be more requests."""
        cdef bint more
        self.allowance = 0 if self.granted else self.memory.allowance(self)
        self.allowed = self.allowance
        more = self._scan_within(ios)
        self._use_allowance()
        return more

    cdef inline int _use_allowance(self) except -1:
        """Have what was taken of the allowance counted, for all requests of a batch at once."""
        if self.allowed != self.allowance:
            self.memory.charge(self, self.allowed - self.allowance)
        self.allowed = self.allowance = 0
        return 0

    cdef int _scan_within(self, IOBatch ios) except -1:
        cdef uint64_t piece_end = self.in_flight_bytes + PIECE_BYTES
        cdef const uint8_t *p
        cdef size_t have
        cdef request_head request
        cdef int error
        if self.partial != NULL:
            if self.partial_have < self.partial.iovs[0].iov_len:
                return 0
            ios.append(self.partial)
            self.partial = NULL
        while not self.closed and not self.disconnecting:
            have = self.rx_end - self.rx_start
            if self.skip:
                if self.skip >= have:
                    self.skip -= have
                    self.rx_start = self.rx_end
                    break
                self.rx_start += self.skip
                have -= self.skip
                self.skip = 0
            if have < REQUEST_BYTES:
                break
            if ios.n >= PIECE_REQUESTS or self.in_flight_bytes >= piece_end:
                return 1
            if self._full():
                self.wants_read = False
                break
            p = self.area + self.rx_start
            if get32(p) != REQUEST_MAGIC:
                self._close(f"request magic is 0x{get32(p):08x}, not 0x{REQUEST_MAGIC:08x}")
                break
            request.flags = get16(p + 4)
            request.command = get16(p + 6)
            request.cookie = get64(p + 8)
            request.offset = get64(p + 16)
            request.length = get32(p + 24)
            if request.command == CMD_DISC:
                self.rx_start += REQUEST_BYTES
                self.disconnecting = True
                self.wants_read = False
                break
            error = self._check(request.command, request.flags, request.offset, request.length)
            if error:
                self.rx_start += REQUEST_BYTES
                if request.command == CMD_WRITE:
                    self.skip = request.length
                self._reply_error(request.command, request.cookie, error)
            elif request.command == CMD_BLOCK_STATUS:
                self.rx_start += REQUEST_BYTES
                self.specials_.append((request.command, request.flags, request.cookie,
                                       request.offset, request.length))
                self.specials_waiting += 1
            elif not begin(self, ios, &request, have):
                break
        return 0

    cdef bint _receive_apart(self, bdev_io *io, size_t have, uint32_t length) noexcept:
        """Move what is here of a WRITE's payload to its own buffer. False: more is to come."""
        cdef size_t here = have - REQUEST_BYTES
        if here > length:
            here = length
        io.iov_inline[0].iov_base = io.buf.base
        memcpy(io.buf.base, self.area + self.rx_start + REQUEST_BYTES, here)
        if here == length:
            return True
        self.rx_start = self.rx_end
        self.partial = io
        self.partial_have = here
        return False

    cdef bint _take(self, uint64_t size) except -1:
        """Take memory for the request at hand; False: the stream waits for it."""
        if self.granted == size:
            self.granted = 0
            return True
        self._use_allowance()
        self.memory.leave(self)
        return self.memory.take(self, size)

    cdef inline uint64_t _memory_of(self, const bdev_io *io) noexcept nogil:
        """Return what an I/O was given."""
        return io.tag >> MEMORY_SHIFT

    cdef int _check(self, uint16_t command, uint16_t flags, uint64_t offset,
                    uint32_t length) noexcept nogil:
        """Return 0, or the errno to refuse a request with (proto.md, "Request types")."""
        cdef uint32_t offered = self.export_flags
        cdef uint16_t allowed = CMD_FLAG_FUA if offered & EXPORT_SEND_FUA else 0
        cdef bint writes = False
        cdef uint64_t unit
        if command == CMD_READ:
            if self.structured:
                allowed |= CMD_FLAG_DF
        elif command == CMD_WRITE:
            writes = True
        elif command == CMD_FLUSH:
            if not offered & EXPORT_SEND_FLUSH or offset or length:
                return EINVAL
            self.misaligned = False
            return EINVAL if flags & ~allowed else 0
        elif command == CMD_TRIM:
            if not offered & EXPORT_SEND_TRIM:
                return EPERM if offered & EXPORT_READ_ONLY else EINVAL
            writes = True
        elif command == CMD_CACHE:
            if not offered & EXPORT_SEND_CACHE:
                return EINVAL
        elif command == CMD_WRITE_ZEROES:
            if not offered & EXPORT_SEND_WRITE_ZEROES:
                return EPERM if offered & EXPORT_READ_ONLY else EINVAL
            writes = True
            allowed |= CMD_FLAG_NO_HOLE
            if offered & EXPORT_SEND_FAST_ZERO:
                allowed |= CMD_FLAG_FAST_ZERO
        elif command == CMD_BLOCK_STATUS:
            if not self.structured:
                return EINVAL
            allowed |= CMD_FLAG_REQ_ONE
        else:
            return EINVAL
        if flags & ~allowed:
            return EINVAL
        if writes and offered & EXPORT_READ_ONLY:
            return EPERM
        if length == 0:
            return EINVAL
        unit = self.unit_bytes if writes else self.block_size
        if self.block_shift:
            self.misaligned = (offset | length) & (unit - 1) != 0
        else:
            self.misaligned = offset % unit or length % unit
        if self.misaligned and not self.any_bytes:
            return EINVAL
        if offset > self.size_bytes or length > self.size_bytes - offset:
            return ENOSPC if command == CMD_WRITE or command == CMD_WRITE_ZEROES else EINVAL
        if length > MAX_PAYLOAD and (command == CMD_READ or command == CMD_WRITE
                                     or command == CMD_CACHE):
            return EINVAL
        return 0

    cdef uint64_t _touched(self, uint64_t offset, uint32_t length) noexcept nogil:
        """Return how many bytes the blocks have in which these bytes are."""
        cdef uint64_t size = self.block_size
        return (offset + length + size - 1) // size * size - offset // size * size

    cdef void _widen(self, bdev_io *io, uint16_t command, uint64_t offset,
                     uint32_t length) noexcept nogil:
        """Give an I/O the blocks that a request touches; a TRIM those that are all in it.

        `arg` is how many bytes of them are in front of the request, `result` how many are in it.
        """
        cdef uint64_t size = self.block_size, first = offset, end = offset + length
        if command == CMD_WRITE or command == CMD_WRITE_ZEROES or command == CMD_TRIM:
            size = self.unit_bytes
        if command == CMD_TRIM:
            first = (first + size - 1) // size * size
            end = end // size * size
            if end <= first:
                first = end = 0
        else:
            first = first // size * size
            end = (end + size - 1) // size * size
            io.tag |= IS_PART
            io.arg = <uint32_t>(offset - first)
            io.result = length
        io.offset_blocks = first // self.block_size
        io.num_blocks = (end - first) // self.block_size
        if command == CMD_WRITE or command == CMD_WRITE_ZEROES:
            io.flags |= IN_BYTES

    cdef inline uint64_t _data_of(self, const bdev_io *io) noexcept nogil:
        """Return how many bytes of data a request has brought, or has asked for."""
        if io.op != OP_READ and io.op != OP_WRITE:
            return 0
        return io.result if io.tag & IS_PART else io.num_blocks * self.block_size

    cdef bint _full(self) noexcept nogil:
        return (self.o.in_flight >= MAX_IN_FLIGHT or self.in_flight_bytes >= MAX_IN_FLIGHT_BYTES
                or self.tx_n >= MAX_IN_FLIGHT or self.wants_write
                or self.specials_waiting >= MAX_SPECIALS)

    cdef void _starve(self) noexcept:
        """Read no more until there is memory, or a BdevIO, and what waits for it is told."""
        self.starved = True
        self.wants_read = False

    cdef int _await_io(self) except -1:
        self._starve()
        if self.io_token is None:
            self.io_token = self.engine.io_wait(self._io_is_free)
            self.asked_ns = self.engine.now_ns()
            self.memory.suspect(self)
        return 0

    def _io_is_free(self):
        self.io_token = None
        self._feed()

    cdef int go_on(self) except -1:
        self._feed()
        return 0

    cdef int _feed(self) except -1:
        """Go on with what the stream was starved of."""
        cdef bint read_before = self.wants_read, write_before = self.wants_write
        cdef bint closed_before = self.closed
        self.resume()
        if self.granted and not self.starved:
            self.memory.leave(self)  # it does not go on yet, so others may have it
        if not self.busy:
            self._tell(read_before, write_before, closed_before)
        return 0

    cdef int _await_no_io(self) except -1:
        self.starved = False
        self.engine.cancel_io_wait(self.io_token)
        self.io_token = None
        return 0

    def resume(self):
        """Go on after a pause if there is room again."""
        cdef bint busy_before = self.busy
        if self.io_token is not None:
            self._await_no_io()
        if self.asked:
            return  # `go_on` comes in its turn
        self.starved = False
        self.busy = True
        try:
            self._resume()
        finally:
            self.busy = busy_before
        self._settle()

    cdef int _resume(self) except -1:
        if (self.wants_read or self.closed or self.disconnecting or self.starved
                or self._full()):
            return 0
        self.wants_read = True
        self._go_on()
        return 0

    # Receive memory

    cdef inline size_t _room(self) noexcept:
        """Bytes behind those that are there."""
        return (OWN_BYTES if self.rx == NULL else CHUNK_BYTES) - self.rx_end

    cdef void _make_room(self) noexcept:
        """Make sure that there is room, for a header at least, and in a chunk where it helps."""
        cdef size_t have = self.rx_end - self.rx_start
        if self.rx == NULL:
            if self.much and not self.bulk and not self.skip and self._new_chunk():
                memcpy(self.rx.buf.base, self.own + self.rx_start, have)
            elif have:
                memmove(self.own, self.own + self.rx_start, have)
            self.rx_start = 0
            self.rx_end = have
        elif have == 0 and self.rx.refs == 1:
            self.rx_start = self.rx_end = 0
        elif have < REQUEST_BYTES and self._room() < CHUNK_BYTES // 4:
            # Longer ones are WRITEs, for which there is room: `_scan` has seen to that.
            if not self._fresh_chunk():
                self._leave_chunk()

    cdef bint _new_chunk(self) noexcept:
        cdef rx_chunk *chunk = self.spare
        if chunk == NULL:
            chunk = self.spare = <rx_chunk *>calloc(1, sizeof(rx_chunk))
            if chunk == NULL:
                return False
        if not self.memory.lend_chunk(self, &chunk.buf):
            return False
        self.spare = NULL
        chunk.refs = 1
        self.rx = chunk
        self.area = <uint8_t *>chunk.buf.base
        return True

    cdef void _release_chunk(self, rx_chunk *chunk) noexcept:
        chunk.refs -= 1
        if chunk.refs == 0:
            self.memory.return_chunk(self, &chunk.buf)
            if self.spare == NULL:
                self.spare = chunk
            else:
                free(chunk)

    cdef bint _fresh_chunk(self) noexcept:
        """Move the bytes not looked at yet to where there is room behind them; False: nowhere."""
        cdef rx_chunk *old = self.rx
        cdef size_t start = self.rx_start, left = self.rx_end - self.rx_start
        if old.refs == 1:
            memmove(old.buf.base, <char *>old.buf.base + start, left)
        else:
            if not self._new_chunk():
                return False
            memcpy(self.rx.buf.base, <char *>old.buf.base + start, left)
            self._release_chunk(old)
        self.rx_start = 0
        self.rx_end = left
        return True

    cdef void _leave_chunk(self) noexcept:
        """Give the chunk up; less than OWN_BYTES are in it that were not looked at."""
        cdef size_t have = self.rx_end - self.rx_start
        memcpy(self.own, <char *>self.rx.buf.base + self.rx_start, have)
        self._release_chunk(self.rx)
        self.rx = NULL
        self.area = &self.own[0]
        self.rx_start = 0
        self.rx_end = have

    cdef void _let_go_of_empty_chunk(self) noexcept:
        """Keep no chunk for less than a header. One with a WRITE's data in it is filled further."""
        if (self.rx != NULL and self.rx.refs == 1
                and self.rx_end - self.rx_start < REQUEST_BYTES):
            self._leave_chunk()

    # Completing and replying

    cdef int deliver(self) except -1:
        cdef size_t i
        cdef bdev_io *io
        cdef bint read_before = self.wants_read, write_before = self.wants_write
        cdef bint closed_before = self.closed
        for i in range(self.o.ready.n):
            io = self.o.ready.v[i]
            if io.owner_data != NULL:
                self._release_chunk(<rx_chunk *>io.owner_data)
                io.owner_data = NULL
            self._reply(io)
        self.o.ready.n = 0
        if self.tx_n and not self.wants_write and not self.closed:
            self._send()
        self._let_go_of_empty_chunk()
        if self.io_token is not None and self.o.in_flight == 0:
            self._await_no_io()  # whoever has none need not wait for one
        self._resume()
        self._settle()
        if not self.busy:
            self._tell(read_before, write_before, closed_before)
        return 0

    cdef int _reply(self, bdev_io *io) except -1:
        cdef tx_entry *entry
        cdef uint64_t tag = io.tag, data = self._data_of(io)
        cdef uint32_t error = 0
        if self.closed:
            self._end_io(io, data)
            return 0
        if io.status != IO_SUCCESS:
            error = self.nbd_error(io.status, io.err)
        elif tag & KIND_READ and (
                io.iovcnt != 1 or io.iovs[0].iov_len != data) and not self._is_whole(io):
            error = self.nbd_error(-1, EIO)  # a reply has the length that was asked for, or none
        entry = self._new_entry()
        if tag & KIND_READ and self.structured:
            if error:
                self._chunk_header(entry, REPLY_TYPE_ERROR, io.cookie, 6)
                put32(entry.header + CHUNK_HEADER_BYTES, error)
                put16(entry.header + CHUNK_HEADER_BYTES + 4, 0)
                entry.header_len = CHUNK_HEADER_BYTES + 6
            else:
                self._chunk_header(entry, REPLY_TYPE_OFFSET_DATA, io.cookie,
                                   <uint32_t>(data + 8))
                put64(entry.header + CHUNK_HEADER_BYTES,
                      io.offset_blocks * self.block_size + (io.arg if tag & IS_PART else 0))
                entry.header_len = CHUNK_HEADER_BYTES + 8
        else:
            self._simple_header(entry, io.cookie, error)
        if tag & KIND_READ and not error:
            entry.io = io
            entry.charged = data
        else:
            self._end_io(io, data)
        return 0

    cdef bint _is_whole(self, const bdev_io *io) noexcept nogil:
        """Whether a READ has the data of its blocks, of which the request is all or a part."""
        return io_data_bytes(io) == io.num_blocks * self.block_size

    cdef inline void _end_io(self, bdev_io *io, uint64_t data) noexcept:
        """Give back an I/O that nothing is sent of, and what it was given."""
        self.returned += self._memory_of(io)
        self.in_flight_bytes -= data
        self.free_io(io)

    cdef int _reply_error(self, uint16_t command, uint64_t cookie, int number) except -1:
        cdef tx_entry *entry = self._new_entry()
        cdef uint32_t error = self.nbd_error(-1, number)
        if self.structured and (command == CMD_READ or command == CMD_BLOCK_STATUS):
            self._chunk_header(entry, REPLY_TYPE_ERROR, cookie, 6)
            put32(entry.header + CHUNK_HEADER_BYTES, error)
            put16(entry.header + CHUNK_HEADER_BYTES + 4, 0)
            entry.header_len = CHUNK_HEADER_BYTES + 6
        else:
            self._simple_header(entry, cookie, error)
        return 0

    def reply_raw(self, bytes message not None):
        """Send a reply that Python made, behind those that wait already."""
        cdef tx_entry *entry
        cdef bint busy_before = self.busy
        if self.specials_waiting:
            self.specials_waiting -= 1
        if self.closed:
            return
        entry = self._new_entry()
        Py_INCREF(message)
        entry.raw = <PyObject *>message
        self.busy = True
        try:
            if not self.wants_write:
                self._send()
            self._resume()
        finally:
            self.busy = busy_before
        self._settle()

    cdef void _simple_header(self, tx_entry *entry, uint64_t cookie, uint32_t error) noexcept nogil:
        put32(entry.header, SIMPLE_REPLY_MAGIC)
        put32(entry.header + 4, error)
        put64(entry.header + 8, cookie)
        entry.header_len = 16

    cdef void _chunk_header(self, tx_entry *entry, uint16_t kind, uint64_t cookie,
                            uint32_t length) noexcept nogil:
        put32(entry.header, STRUCTURED_REPLY_MAGIC)
        put16(entry.header + 4, REPLY_FLAG_DONE)
        put16(entry.header + 6, kind)
        put64(entry.header + 8, cookie)
        put32(entry.header + 16, length)

    # Sending

    cdef tx_entry *_new_entry(self) except NULL:
        """Return a cleared entry at the end of the queue, a ring that grows."""
        cdef tx_entry *grown
        cdef tx_entry *entry
        cdef size_t cap, i
        if self.tx_n == self.tx_cap:
            cap = self.tx_cap * 2 if self.tx_cap else 16
            grown = <tx_entry *>malloc(cap * sizeof(tx_entry))
            if grown == NULL:
                raise MemoryError
            for i in range(self.tx_n):
                grown[i] = self.tx[(self.tx_head + i) & (self.tx_cap - 1)]
            free(self.tx)
            self.tx = grown
            self.tx_cap = cap
            self.tx_head = 0
        entry = &self.tx[(self.tx_head + self.tx_n) & (self.tx_cap - 1)]
        entry.header_len = 0
        entry.io = NULL
        entry.raw = NULL
        entry.charged = 0
        self.tx_n += 1
        return entry

    cdef void _drop_entry(self) noexcept:
        """Forget the first entry: sent, or never to be."""
        cdef tx_entry *entry = &self.tx[self.tx_head]
        if entry.io != NULL:
            self.returned += self._memory_of(entry.io)
            self.free_io(entry.io)
        if entry.raw != NULL:
            Py_DECREF(<object>entry.raw)
        self.in_flight_bytes -= entry.charged
        self.tx_head = (self.tx_head + 1) & (self.tx_cap - 1)
        self.tx_n -= 1
        self.tx_sent = 0

    cdef size_t _entry_bytes(self, tx_entry *entry) noexcept:
        if entry.raw != NULL:
            return PyBytes_GET_SIZE(<object>entry.raw)
        return entry.header_len + entry.charged

    def send(self):
        """Go on sending. Call when the socket is writable again."""
        cdef bint busy_before = self.busy
        self.busy = True
        try:
            if not self.closed:
                self._send()
                self._resume()
        finally:
            self.busy = busy_before
        self._settle()

    cdef int _send(self) except -1:
        """Send what waits, as many replies in one call as fit."""
        # One piece: what one call sends, and what of it was taken.
        cdef msghdr msg
        cdef size_t count, i, skip, left, total
        cdef uint32_t j
        cdef ssize_t sent
        cdef tx_entry *entry
        cdef int error = 0
        msg.msg_name = NULL
        msg.msg_namelen = 0
        msg.msg_control = NULL
        msg.msg_controllen = 0
        msg.msg_flags = 0
        self.wants_write = False
        while self.tx_n and not self.closed:
            count = 0
            total = 0
            skip = self.tx_sent
            for i in range(self.tx_n):
                entry = &self.tx[(self.tx_head + i) & (self.tx_cap - 1)]
                if count + 2 + (entry.io.iovcnt if entry.io != NULL else 0) > SEND_IOVS:
                    break
                if entry.raw != NULL:
                    self.iovs[count].iov_base = PyBytes_AS_STRING(<object>entry.raw)
                    self.iovs[count].iov_len = PyBytes_GET_SIZE(<object>entry.raw)
                    count += 1
                    continue
                self.iovs[count].iov_base = entry.header
                self.iovs[count].iov_len = entry.header_len
                count += 1
                if entry.io != NULL:
                    for j in range(entry.io.iovcnt):
                        self.iovs[count] = entry.io.iovs[j]
                        count += 1
                    if entry.io.tag & IS_PART:
                        count -= entry.io.iovcnt
                        count += cut(self.iovs + count, entry.io.iovcnt, entry.io.arg,
                                     entry.io.result)
            i = 0
            while skip:
                left = self.iovs[i].iov_len
                if skip < left:
                    self.iovs[i].iov_base = <char *>self.iovs[i].iov_base + skip
                    self.iovs[i].iov_len = left - skip
                    break
                skip -= left
                i += 1
            msg.msg_iov = self.iovs + i
            msg.msg_iovlen = count - i
            for j in range(<uint32_t>i, <uint32_t>count):
                total += self.iovs[j].iov_len
            with nogil:
                gil_left()
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
                    self._wait_to_send()
                else:
                    self._close(strerror(error).decode())
                return 0
            self.sent_bytes += sent
            self.tx_sent += sent
            while self.tx_n:
                left = self._entry_bytes(&self.tx[self.tx_head])
                if self.tx_sent < left:
                    break
                skip = self.tx_sent - left
                self._drop_entry()
                self.tx_sent = skip
            if <size_t>sent < total:
                self._wait_to_send()  # the socket is full; it would only say EAGAIN
                return 0
        return 0

    cdef int _wait_to_send(self) except -1:
        self.wants_write = True
        self.memory.suspect(self)
        return 0

    # The end

    def finish(self):
        """Take no further request; replies to those in flight are still sent, until `idle`.

        A WRITE whose payload is not all here yet is none of them.
        """
        self.disconnecting = True
        self.wants_read = False
        self._drop_partial()
        self._wait_no_more()
        self._settle()

    def shut(self, str reason not None):
        """Take no further request and send no further reply; I/O in flight goes on to its end."""
        self._close(reason)
        self._settle()

    cdef inline int _settle(self) except -1:
        """Give back memory whose I/Os have ended, and have those looked at who wait for it."""
        if self.returned:
            self._give_back()
        return self.memory.settle()

    cdef int _give_back(self) except -1:
        cdef uint64_t size = self.returned
        self.returned = 0
        return self.memory.give(self, size)

    cdef int _wait_no_more(self) except -1:
        self.starved = False
        if self.io_token is not None:
            self.engine.cancel_io_wait(self.io_token)
            self.io_token = None
        self.memory.leave(self)
        return 0

    cdef void _close(self, str reason) noexcept:
        if self.closed:
            return
        self.closed = True
        self.reason = reason
        self.wants_read = self.wants_write = False
        while self.tx_n:
            self._drop_entry()
        self._drop_partial()
        self._give_back()
        self._wait_no_more()
        self.early = None
        if self.rx != NULL:
            self._release_chunk(self.rx)
            self.rx = NULL
            self.area = &self.own[0]
        self.rx_start = self.rx_end = 0

    cdef void _drop_partial(self) noexcept:
        if self.partial != NULL:
            self._end_io(self.partial, self.partial.iovs[0].iov_len)
            self.partial = NULL


# Functions, and no methods: those are in the table of the class, and are called.

cdef inline void fill_in(
        NbdStream self, bdev_io *io, const request_head *request, uint64_t memory
) noexcept nogil:
    """Say what an I/O is to do, but for a WRITE's data."""
    cdef uint16_t command = request.command
    io.cookie = request.cookie
    io.tag = KIND_PLAIN | memory << MEMORY_SHIFT
    if self.block_shift:  # dividing would be most of the budget
        io.offset_blocks = request.offset >> self.block_shift
        io.num_blocks = request.length >> self.block_shift
    else:
        io.offset_blocks = request.offset // self.block_size
        io.num_blocks = request.length // self.block_size
    if request.flags & CMD_FLAG_FUA:
        io.flags = FLAG_FUA
    if self.misaligned:
        self._widen(io, command, request.offset, request.length)
    if command == CMD_READ or command == CMD_CACHE:
        io.op = OP_READ
        io.flags = 0
        io.privileged = 1  # it was given its memory: it does not wait at the pool
        self.in_flight_bytes += request.length
        if command == CMD_READ:
            io.tag |= KIND_READ
    elif command == CMD_WRITE:
        io.op = OP_WRITE
        self.in_flight_bytes += request.length
    elif command == CMD_FLUSH:
        io.op = OP_FLUSH
        io.offset_blocks = 0
        io.num_blocks = self.channel.s.num_blocks
    elif command == CMD_TRIM:
        io.op = OP_UNMAP
    else:
        io.op = OP_WRITE_ZEROES
        if request.flags & CMD_FLAG_NO_HOLE:
            io.flags |= FLAG_NO_HOLE
        if request.flags & CMD_FLAG_FAST_ZERO:
            io.flags |= FLAG_FAST_ZERO


cdef inline bdev_io *take_io(NbdStream self, uint64_t memory) except? NULL:
    """Return a BdevIO for a request that has its memory; NULL: it waits for one."""
    cdef bdev_io *io = self.new_io()
    if io == NULL and self.o.in_flight == 0:
        io = self.engine.get_beyond(self.remote)
        if io != NULL:
            io.owner = &self.o
            self.o.in_flight += 1
    if io == NULL:
        self.granted = memory  # nobody who has a BdevIO waits for it
        self._await_io()
    return io


cdef inline bint begin(
        NbdStream self, IOBatch ios, const request_head *request, size_t have
) except -1:
    """Make an I/O of the request at hand, when there is what it needs.

    False: nothing more is looked at, since it waits for memory, a BdevIO or its payload.
    """
    cdef uint16_t command = request.command
    cdef uint32_t length = request.length
    cdef size_t need = REQUEST_BYTES
    cdef uint64_t memory = 0
    cdef bint apart = False
    cdef bdev_io *io
    self.bulk = command == CMD_WRITE and length > IN_PLACE_BYTES
    if command == CMD_WRITE:
        need += length
        apart = self.bulk or self.rx == NULL
        if not apart and have < need:
            if self.rx_start + need <= CHUNK_BYTES or self._fresh_chunk():
                return False
            apart = True
        if apart:
            memory = memory_for(length)
    elif command == CMD_READ or command == CMD_CACHE:
        memory = memory_for(
            self._touched(request.offset, length) if self.misaligned else length)
    if memory <= self.allowance:
        self.allowance -= memory
    elif not self._take(memory):
        self._starve()
        return False
    io = take_io(self, memory)
    if io == NULL:
        return False
    fill_in(self, io, request, memory)
    if command == CMD_WRITE:
        if apart and not self.engine.buffers.get(length, True, &io.buf):
            self.in_flight_bytes -= length
            self.free_io(io)  # the machine has none
            self.returned += memory
            self.rx_start += REQUEST_BYTES
            self.skip = length
            self._reply_error(command, request.cookie, ENOMEM)
            return True
        io.iovcnt = 1
        io.iov_inline[0].iov_len = length
        if not apart:
            io.iov_inline[0].iov_base = self.area + self.rx_start + REQUEST_BYTES
            io.owner_data = self.rx
            self.rx.refs += 1
        elif not self._receive_apart(io, have, length):
            return False
    self.rx_start += need
    batch_add(ios, io)
    return True
