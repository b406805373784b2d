"""NbdReplies: what an NBD server answers, as it comes from the socket.

One room: what is planned, what has come and what is cut in two is one state of one stream of bytes.

One `recvmsg` brings many replies. The data that is missing of the READ at hand is received
straight into its buffers, and what lies behind it into a buffer of the pool, which is given back
as soon as it is empty; from there data is copied once. Requests that are wholly answered are
handed on with `slot_answered`.

That copy is saved where the server answers in the order in which it was asked. A *plan* lets
the headers of the replies that come next go to one place, and the data of each straight into its
READ. Only then is it seen whether they are what was expected. Up to the first that is not,
nothing is left to be done; from there on all is copied to where it would have come without a
plan. So only buffers are planned with that are the I/O's own, of the pool: two READs into the same
memory would leave nothing to copy. A server that answers in another order soon gets plans
rarely: once in a thousand times.

A server is not trusted: a reply to nobody, to another command, with data that was not asked for,
or twice, is a *fault*, after which nothing more is looked at. What can be seen from a header is
judged before anything else is waited for, so that a length of 4 GiB costs nothing.

Wire layout: NBD protocol, doc/proto.md, "Simple reply message", "Structured reply chunk message".
Budget: 40 ns a reply beside the call and the copy.
"""

cimport cython
from libc.errno cimport EINTR, ENOMEM, errno
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memmove, memset

from vbdev.core.base.bigendian cimport get16, get32, get64
from vbdev.core.base.sockets cimport MSG_DONTWAIT, msghdr, recvmsg
from vbdev.core.base.types cimport bdev_io
from vbdev.core.memory.buffers cimport class_bytes
from vbdev.core.nbd.client.pieces cimport (
    MAX_PIECES,
    PIECE_NEW,
    PIECE_TOO_MANY,
    PIECE_TWICE,
    pieces_add,
)
from vbdev.core.nbd.client.slots cimport slot_answered, slot_cookie, slot_of
from vbdev.core.nbd.errno cimport errno_of
from vbdev.core.nbd.wire cimport (
    CHUNK_HEADER_BYTES,
    CMD_READ,
    REPLY_FLAG_DONE,
    REPLY_TYPE_ERROR,
    REPLY_TYPE_ERROR_OFFSET,
    REPLY_TYPE_NONE,
    REPLY_TYPE_OFFSET_DATA,
    REPLY_TYPE_OFFSET_HOLE,
    SIMPLE_REPLY_BYTES,
    SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_MAGIC,
)

cdef enum:
    RECEIVE_BYTES = 256 << 10
    RECEIVE_IOVS = 512
    ERROR_BYTES = 6                 # of an error chunk: number, and length of the text
    ERROR_OFFSET_BYTES = 8          # behind the text
    MAX_ERROR_BYTES = ERROR_BYTES + 4096 + ERROR_OFFSET_BYTES
    ERROR_CHUNK_BIT = 1 << 15
    HOLE_BYTES = 12
    DATA_HEAD_BYTES = CHUNK_HEADER_BYTES + 8
    FIRST_PENALTY = 8
    LAST_PENALTY = 1024

COMPLAINTS = {
    FAULT_MAGIC: "reply magic is 0x{0:08x}",
    FAULT_COOKIE: "reply to nobody, cookie 0x{0:x}",
    FAULT_SIMPLE_READ: "simple reply to a READ where structured ones were agreed",
    FAULT_SIMPLE_BEHIND: "simple reply behind a structured one",
    FAULT_NONE_CONTENT: "chunk without content that does not end its reply, or has {0} bytes",
    FAULT_KIND: "chunk of type {0} and {1} bytes in the reply to command {2}",
    FAULT_ERROR_SIZE: "error chunk of {0} bytes",
    FAULT_ERROR_ZERO: "error chunk without an error",
    FAULT_ERROR_TEXT: "error chunk of {0} bytes with a text of {1}",
    FAULT_ERROR_OFFSET: "error at offset {0}, outside of its request",
    FAULT_OUTSIDE: "{0} bytes at offset {1}, outside of a READ of {2} bytes at {3}",
    FAULT_TWICE: "bytes at offset {0} came twice",
    FAULT_TOO_MANY: "a READ's data in more than {0} pieces",
    FAULT_SHORT: "a READ of {0} bytes was answered with {1}",
}


@cython.final
cdef class NbdReplies:
    """The receiving half of a connection. `slots`, `buffers`, `structured` are set by its link."""

    def __cinit__(self):
        self.rx.size_class = -1
        self.iovs = <iovec *>malloc(RECEIVE_IOVS * sizeof(iovec))
        self.heads = <uint8_t *>malloc(PLAN_READS * DATA_HEAD_BYTES)
        if self.iovs == NULL or self.heads == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.iovs)
        free(self.heads)
        if self.rx.size_class >= 0:
            self.buffers.put(&self.rx)

    # Receiving

    cdef ssize_t receive(self, int fd, bint *filled) noexcept nogil:
        """Receive once; return how many bytes, 0 at the end of the stream, or -errno.

        filled: whether the socket may have more, since all room is full.
        """
        # One piece: what one call receives into, and where that has come to.
        cdef iovec *iov = self.iovs
        cdef msghdr msg
        cdef size_t count = 0, wanted = 0, planned = 0, left, n
        cdef uint32_t at
        cdef ssize_t got
        filled[0] = False
        # Beyond the limit: it is given back within this turn, unless a reply is cut in two.
        if self.rx.size_class < 0 and not self.buffers.get(RECEIVE_BYTES, True, &self.rx):
            return -ENOMEM
        if self.start:
            left = self.end - self.start
            if left:
                memmove(self.rx.base, <char *>self.rx.base + self.start, left)
            self.start = 0
            self.end = left
        memset(&msg, 0, sizeof(msg))
        left = self.fill_left
        at = self.fill_iov
        while left and count < RECEIVE_IOVS - 1:
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
        self.planned = 0
        if not left:
            if self.end == 0 and count < RECEIVE_IOVS - 2 * PLAN_READS:
                count += self._plan(iov + count, &planned)
            iov[count].iov_base = <char *>self.rx.base + self.end + planned
            iov[count].iov_len = RECEIVE_BYTES - self.end - planned
            wanted += RECEIVE_BYTES - self.end
            count += 1
        msg.msg_iov = iov
        msg.msg_iovlen = count
        self.receives += 1
        while True:
            got = recvmsg(fd, &msg, MSG_DONTWAIT)
            if got >= 0 or errno != EINTR:
                break
        if got < 0:
            return -errno
        filled[0] = <size_t>got == wanted
        n = got
        if self.fill_left:
            left = n if n < self.fill_left else self.fill_left
            self._filled(left)
            n -= left
        if n and self.filling != NULL:
            self._fill_ended()
        if self.planned:
            self._follow(n)
        else:
            self.end += n
        return got

    cdef void rest(self) noexcept nogil:
        """Give the buffer back, if nothing is in it."""
        if self.rx.size_class >= 0 and self.start == self.end:
            self.buffers.put(&self.rx)
            self.start = self.end = 0

    cdef void forget(self) noexcept nogil:
        """The connection has ended: nothing more is put into anybody's buffers."""
        self.filling = NULL
        self.fill_left = 0
        self.start = self.end = 0
        self.rest()

    # The plan

    cdef size_t _plan(self, iovec *iov, size_t *bytes) noexcept nogil:
        """Expect the oldest READs to be answered; return how many pieces, and bytes, that is."""
        cdef nbd_slot *slot = self.slots.first
        cdef bdev_io *io
        cdef size_t count = 0, total = 0, head, n
        cdef uint8_t *p = self.heads
        if self.without_plan:
            self.without_plan -= 1
            return 0
        head = DATA_HEAD_BYTES if self.structured else SIMPLE_REPLY_BYTES
        if slot == self.filling and slot != NULL:
            slot = slot.after
        while slot != NULL and self.planned < PLAN_READS:
            io = slot.io
            # Its data in one piece, in a buffer of its own.
            if (slot.command != CMD_READ or not slot.sent or slot.came.got or slot.err
                    or io.iovcnt != 1 or io.buf.size_class < 0
                    or io.iovs[0].iov_base < io.buf.base
                    or <char *>io.iovs[0].iov_base + slot.length
                    > <char *>io.buf.base + class_bytes(io.buf.size_class)):
                break
            if total + head >= RECEIVE_BYTES:
                break
            n = RECEIVE_BYTES - total - head
            if n > slot.length:
                n = slot.length
            iov[count].iov_base = p
            iov[count].iov_len = head
            iov[count + 1].iov_base = io.iovs[0].iov_base
            iov[count + 1].iov_len = n
            count += 2
            total += head + n
            p += head
            self.plan[self.planned] = slot
            self.plan_bytes[self.planned] = <uint32_t>n
            self.planned += 1
            slot = slot.after
        bytes[0] = total
        return count

    cdef void _follow(self, size_t rest) noexcept nogil:
        """See how far what has come, `rest` bytes, is what was expected."""
        cdef size_t head = DATA_HEAD_BYTES if self.structured else SIMPLE_REPLY_BYTES
        cdef size_t at = 0, n
        cdef uint32_t k
        cdef nbd_slot *slot
        for k in range(self.planned):
            if at == rest:
                break
            slot = self.plan[k]
            if rest - at < head or not self._expected(self.heads + k * head, slot):
                self._unplan(k, at, rest)
                return
            at += head
            n = rest - at
            if n > self.plan_bytes[k]:
                n = self.plan_bytes[k]
            at += n
            slot.came.got = slot.length
            if n < slot.length:
                self._seek(slot, n)
                self.fill_left = slot.length - n
                self.fill_done = True
                break
            slot_answered(self.slots, slot)
        self.penalty >>= 1
        self.start = at
        self.end = rest

    cdef bint _expected(self, const uint8_t *p, const nbd_slot *slot) noexcept nogil:
        """Whether this is the header of all of a READ's data, and nothing else."""
        if self.structured:
            return (get32(p) == STRUCTURED_REPLY_MAGIC
                    and get32(p + 4) == (REPLY_FLAG_DONE << 16 | REPLY_TYPE_OFFSET_DATA)
                    and get64(p + 8) == slot_cookie(self.slots, slot)
                    and get32(p + 16) == slot.length + 8
                    and get64(p + CHUNK_HEADER_BYTES) == slot.offset)
        return (get32(p) == SIMPLE_REPLY_MAGIC and get32(p + 4) == 0
                and get64(p + 8) == slot_cookie(self.slots, slot))

    cdef void _unplan(self, uint32_t k, size_t at, size_t rest) noexcept nogil:
        """Bring what came from reply number `k` on, at byte `at`, to where there is no plan."""
        cdef size_t head = DATA_HEAD_BYTES if self.structured else SIMPLE_REPLY_BYTES
        cdef size_t to = at, n
        if rest - at >= head:  # else it is only cut
            self.penalty = self.penalty * 2 if self.penalty else FIRST_PENALTY
            if self.penalty > LAST_PENALTY:
                self.penalty = LAST_PENALTY
            self.without_plan = self.penalty
        while k < self.planned and to < rest:
            n = head if head < rest - to else rest - to
            memcpy(<char *>self.rx.base + to, self.heads + k * head, n)
            to += n
            n = self.plan_bytes[k] if self.plan_bytes[k] < rest - to else rest - to
            memcpy(<char *>self.rx.base + to, self.plan[k].io.iovs[0].iov_base, n)
            to += n
            k += 1
        self.start = at
        self.end = rest

    # Where a READ's data goes

    cdef void _seek(self, nbd_slot *slot, size_t at) noexcept nogil:
        """Let data go to a place in a READ's buffers, in bytes from their start."""
        self.filling = slot
        self.fill_iov = 0
        while at >= slot.io.iovs[self.fill_iov].iov_len:
            at -= slot.io.iovs[self.fill_iov].iov_len
            self.fill_iov += 1
        self.fill_at = at

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

    cdef void _fill_ended(self) noexcept nogil:
        """All of the data at hand has come."""
        cdef nbd_slot *slot = self.filling
        self.filling = NULL
        if self.fill_done:
            self._answered(slot)

    cdef void _copy(self) noexcept nogil:
        """Take what is missing of the data at hand out of the buffer."""
        cdef const char *p
        cdef size_t have, n, here
        while self.fill_left:
            have = self.end - self.start
            if not have:
                return
            p = <const char *>self.rx.base + self.start
            here = self.filling.io.iovs[self.fill_iov].iov_len - self.fill_at
            n = have if have < self.fill_left else self.fill_left
            n = n if n < here else here
            memcpy(<char *>self.filling.io.iovs[self.fill_iov].iov_base + self.fill_at, p, n)
            self._filled(n)
            self.start += n

    cdef void _zero(self, size_t n) noexcept nogil:
        cdef size_t here
        self.fill_left = n
        while self.fill_left:
            here = self.filling.io.iovs[self.fill_iov].iov_len - self.fill_at
            if here > self.fill_left:
                here = self.fill_left
            memset(<char *>self.filling.io.iovs[self.fill_iov].iov_base + self.fill_at, 0, here)
            self._filled(here)
        self.filling = NULL

    # Replies

    cdef void parse(self) noexcept nogil:
        """Look at all that has come whole; afterwards `fault` says whether any of it is wrong."""
        cdef const uint8_t *p
        cdef size_t have
        cdef uint32_t magic
        while not self.fault:
            if self.filling != NULL:
                self._copy()
                if self.fill_left:
                    return
                self._fill_ended()
                continue
            have = self.end - self.start
            if have < 4:
                return
            p = <const uint8_t *>self.rx.base + self.start
            magic = get32(p)
            if magic == STRUCTURED_REPLY_MAGIC and self.structured:
                if have < CHUNK_HEADER_BYTES or not self._chunk(p, have):
                    return
            elif magic == SIMPLE_REPLY_MAGIC:
                if have < SIMPLE_REPLY_BYTES:
                    return
                self.start += SIMPLE_REPLY_BYTES
                self._simple(get32(p + 4), get64(p + 8))
            else:
                self._blame(FAULT_MAGIC, magic, 0, 0, 0)

    cdef void _simple(self, uint32_t error, uint64_t cookie) noexcept nogil:
        cdef nbd_slot *slot = slot_of(self.slots, cookie)
        if slot == NULL:
            self._blame(FAULT_COOKIE, cookie, 0, 0, 0)
            return
        if slot.command == CMD_READ:
            if self.structured:
                self._blame(FAULT_SIMPLE_READ, 0, 0, 0, 0)
                return
            if not error:
                slot.came.got = slot.length
                self._seek(slot, 0)
                self.fill_left = slot.length
                self.fill_done = True
                return
        elif slot.err:
            self._blame(FAULT_SIMPLE_BEHIND, 0, 0, 0, 0)
            return
        if error:
            slot.err = errno_of(error)
        self._answered(slot)

    cdef bint _chunk(self, const uint8_t *p, size_t have) noexcept nogil:
        """Take a structured reply's chunk; False where more of it has to come first."""
        cdef uint16_t flags = get16(p + 4), kind = get16(p + 6)
        cdef uint64_t cookie = get64(p + 8), offset
        cdef uint32_t length = get32(p + 16), data
        cdef bint done = (flags & REPLY_FLAG_DONE) != 0
        cdef size_t whole = CHUNK_HEADER_BYTES + <size_t>length
        cdef nbd_slot *slot = slot_of(self.slots, cookie)
        cdef int err
        if slot == NULL:
            self._blame(FAULT_COOKIE, cookie, 0, 0, 0)
            return False
        if kind == REPLY_TYPE_OFFSET_DATA and slot.command == CMD_READ and length > 8:
            whole = CHUNK_HEADER_BYTES + 8
        elif kind & ERROR_CHUNK_BIT:
            if (length > MAX_ERROR_BYTES or length < ERROR_BYTES or (
                    kind == REPLY_TYPE_ERROR_OFFSET
                    and length < ERROR_BYTES + ERROR_OFFSET_BYTES)):
                self._blame(FAULT_ERROR_SIZE, length, 0, 0, 0)
                return False
        elif kind == REPLY_TYPE_NONE:
            if length or not done:
                self._blame(FAULT_NONE_CONTENT, length, 0, 0, 0)
                return False
        elif kind != REPLY_TYPE_OFFSET_HOLE or slot.command != CMD_READ or length != HOLE_BYTES:
            self._blame(FAULT_KIND, kind, length, slot.command, 0)
            return False
        if have < whole:
            return False
        self.start += whole
        p += CHUNK_HEADER_BYTES
        if kind == REPLY_TYPE_OFFSET_DATA:
            offset = get64(p)
            if self._came(slot, offset, length - 8):
                self._seek(slot, <size_t>(offset - slot.offset))
                self.fill_left = length - 8
                self.fill_done = done
            return True
        if kind & ERROR_CHUNK_BIT:
            err = self._error_chunk(slot, p, kind, length)
            if not slot.err:
                slot.err = err
        elif kind == REPLY_TYPE_OFFSET_HOLE:
            offset = get64(p)
            data = get32(p + 8)
            if self._came(slot, offset, data):
                self._seek(slot, <size_t>(offset - slot.offset))
                self._zero(data)
        if done and not self.fault:
            self._answered(slot)
        return True

    cdef int _error_chunk(self, const nbd_slot *slot, const uint8_t *p, uint16_t kind,
                          uint32_t length) noexcept nogil:
        """Return the errno that an error chunk tells; 0, and a fault, where it makes no sense."""
        cdef uint32_t error = get32(p), text = get16(p + 4), whole = ERROR_BYTES + text
        cdef uint64_t offset
        if error == 0:
            self._blame(FAULT_ERROR_ZERO, 0, 0, 0, 0)
            return 0
        if kind == REPLY_TYPE_ERROR_OFFSET:
            whole += ERROR_OFFSET_BYTES
        # What an error of a later kind has behind its text is its own.
        if whole > length or (
                whole < length
                and (kind == REPLY_TYPE_ERROR or kind == REPLY_TYPE_ERROR_OFFSET)):
            self._blame(FAULT_ERROR_TEXT, length, text, 0, 0)
            return 0
        if kind == REPLY_TYPE_ERROR_OFFSET:
            offset = get64(p + ERROR_BYTES + text)
            if offset < slot.offset or offset - slot.offset >= slot.length:
                self._blame(FAULT_ERROR_OFFSET, offset, 0, 0, 0)
                return 0
        return errno_of(error)

    cdef bint _came(self, nbd_slot *slot, uint64_t offset, uint32_t data) noexcept nogil:
        """Note that a READ's bytes have come; False, and a fault, where they can not have."""
        cdef uint32_t start
        cdef int verdict
        if (data == 0 or offset < slot.offset or offset - slot.offset > slot.length
                or data > slot.length - (offset - slot.offset)):
            self._blame(FAULT_OUTSIDE, data, offset, slot.length, slot.offset)
            return False
        start = <uint32_t>(offset - slot.offset)
        verdict = pieces_add(&slot.came, start, start + data)
        if verdict == PIECE_NEW:
            return True
        if verdict == PIECE_TWICE:
            self._blame(FAULT_TWICE, offset, 0, 0, 0)
        elif verdict == PIECE_TOO_MANY:
            self._blame(FAULT_TOO_MANY, MAX_PIECES, 0, 0, 0)
        else:
            self._blame(FAULT_MEMORY, 0, 0, 0, 0)
        return False

    cdef void _answered(self, nbd_slot *slot) noexcept nogil:
        """The last of a reply has come."""
        if slot.command == CMD_READ and not slot.err and slot.came.got != slot.length:
            self._blame(FAULT_SHORT, slot.length, slot.came.got, 0, 0)
            return
        slot_answered(self.slots, slot)

    # Faults

    cdef void _blame(self, int fault, uint64_t a, uint64_t b, uint64_t c,
                     uint64_t d) noexcept nogil:
        self.fault = fault
        self.fault_args[0] = a
        self.fault_args[1] = b
        self.fault_args[2] = c
        self.fault_args[3] = d

    cdef str complaint(self):
        """Return what is wrong with what the server has sent."""
        cdef list args = [self.fault_args[0], self.fault_args[1],
                          self.fault_args[2], self.fault_args[3]]
        return "server broke the protocol: " + COMPLAINTS[self.fault].format(*args)
