"""NbdSender: requests on their way to an NBD server's socket.

All that waits leaves with as few `sendmsg` as the socket allows: headers that follow on each other
as one piece, and the data of WRITEs from where it is. Budget: 15 ns a request beside the call.

Wire layout: NBD protocol, doc/proto.md, "Request message".
"""

cimport cython
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from vbdev.core.base.bigendian cimport put16, put32, put64
from vbdev.core.base.sockets cimport MSG_DONTWAIT, MSG_NOSIGNAL, msghdr, sendmsg, ssize_t
from vbdev.core.base.sockets cimport send as send_bytes
from vbdev.core.nbd.client.slots cimport MAX_SLOTS, SLOT_MASK, slot_cookie, slot_ended, slot_number
from vbdev.core.nbd.wire cimport CMD_DISC, CMD_WRITE, REQUEST_BYTES, REQUEST_MAGIC

cdef enum:
    SEND_IOVS = 1024
    ZERO_BYTES = 64 << 10

cdef uint8_t[ZERO_BYTES] zeroes  # for WRITEs of them, as often as it takes


cdef inline size_t request_bytes(const nbd_slot *slot) noexcept nogil:
    return REQUEST_BYTES + (slot.length if slot.command == CMD_WRITE else 0)


cdef inline uint32_t data_pieces(const nbd_slot *slot) noexcept nogil:
    if slot.command != CMD_WRITE:
        return 0
    if slot.zeroing:
        return (slot.length + ZERO_BYTES - 1) // ZERO_BYTES
    return slot.io.iovcnt


cdef void zero_pieces(iovec *into, size_t length) noexcept nogil:
    """Fill in as many pieces of zeroes as make `length` bytes."""
    while length:
        into.iov_base = zeroes
        into.iov_len = length if length < ZERO_BYTES else ZERO_BYTES
        length -= into.iov_len
        into += 1


@cython.final
cdef class NbdSender:
    """The sending half of a connection. `slots` and `fd` are the link's, and set by it."""

    def __cinit__(self):
        self.queue = <uint32_t *>malloc(MAX_SLOTS * sizeof(uint32_t))
        self.headers = <uint8_t *>malloc(SEND_IOVS * REQUEST_BYTES)
        self.iovs = <iovec *>malloc(SEND_IOVS * sizeof(iovec))
        if self.queue == NULL or self.headers == NULL or self.iovs == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.queue)
        free(self.headers)
        free(self.iovs)

    cdef void push(self, nbd_slot *slot) noexcept nogil:
        """Let a slot's request be sent, with the next `send`."""
        self.queue[(self.head + self.n) & SLOT_MASK] = slot_number(self.slots, slot)
        self.n += 1
        self.requests += 1

    cdef void forget(self) noexcept nogil:
        """Send nothing any more."""
        self.n = 0
        self.full = False

    cdef int send(self, uint32_t most) noexcept nogil:
        """Send what waits, of the first `most` requests; return 0, or the socket's errno.

        Afterwards `full` says whether the rest has to wait until the socket is writable.
        """
        cdef msghdr msg
        cdef size_t count, i, skip, total
        cdef uint32_t before
        cdef ssize_t sent
        self.full = False
        memset(&msg, 0, sizeof(msg))
        while self.n and most:
            count = self._gather(most, &total)
            i = 0
            skip = self.skip
            total -= skip
            while skip >= self.iovs[i].iov_len:
                skip -= self.iovs[i].iov_len
                i += 1
            self.iovs[i].iov_base = <char *>self.iovs[i].iov_base + skip
            self.iovs[i].iov_len -= skip
            msg.msg_iov = self.iovs + i
            msg.msg_iovlen = count - i
            self.sends += 1
            while True:
                sent = sendmsg(self.fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL)
                if sent >= 0 or errno != EINTR:
                    break
            if sent < 0:
                if errno != EAGAIN:
                    return errno
                self.full = True
                return 0
            before = self.n
            self._took(sent)
            most -= before - self.n
            if <size_t>sent < total:
                self.full = True  # it would only say EAGAIN
                return 0
        return 0

    cdef size_t _gather(self, uint32_t most, size_t *total) noexcept nogil:
        """Fill `iovs` with as many requests as fit; return how many pieces they are."""
        cdef size_t count = 0, length = 0
        cdef uint32_t i, pieces
        cdef nbd_slot *slot
        cdef uint8_t *p = self.headers
        cdef bint after_header = False
        for i in range(min(self.n, most, <uint32_t>SEND_IOVS)):
            slot = &self.slots.v[self.queue[(self.head + i) & SLOT_MASK]]
            pieces = data_pieces(slot)
            if count + 1 + pieces > SEND_IOVS:
                break
            put32(p, REQUEST_MAGIC)
            put16(p + 4, slot.flags)
            put16(p + 6, slot.command)
            put64(p + 8, slot_cookie(self.slots, slot))
            put64(p + 16, slot.offset)
            put32(p + 24, slot.length)
            if after_header:
                self.iovs[count - 1].iov_len += REQUEST_BYTES
            else:
                self.iovs[count].iov_base = p
                self.iovs[count].iov_len = REQUEST_BYTES
                count += 1
            p += REQUEST_BYTES
            length += request_bytes(slot)
            after_header = pieces == 0
            if pieces:
                if slot.zeroing:
                    zero_pieces(&self.iovs[count], slot.length)
                else:
                    memcpy(&self.iovs[count], slot.io.iovs, pieces * sizeof(iovec))
                count += pieces
        total[0] = length
        return count

    cdef void _took(self, size_t sent) noexcept nogil:
        """Take off what the socket has taken."""
        cdef nbd_slot *slot
        cdef size_t length
        self.sent_bytes += sent
        self.skip += sent
        while self.n:
            slot = &self.slots.v[self.queue[self.head]]
            slot.started = self.skip > 0
            length = request_bytes(slot)
            if self.skip < length:
                break
            self.skip -= length
            self.head = (self.head + 1) & SLOT_MASK
            self.n -= 1
            slot.sent = True
            if slot.answered:
                slot_ended(self.slots, slot)

    cdef int knock(self) noexcept nogil:
        """Send something to which a peer that is gone has to answer; return 0, or an errno.

        The rest of a request that the peer has a part of, which means nothing new to it; else a
        goodbye.
        """
        cdef uint8_t message[REQUEST_BYTES]
        if self.n and self.skip:
            return self.send(1)
        memset(message, 0, REQUEST_BYTES)
        put32(message, REQUEST_MAGIC)
        put16(message + 6, CMD_DISC)
        if send_bytes(self.fd, message, REQUEST_BYTES, MSG_DONTWAIT | MSG_NOSIGNAL) < 0:
            return 0 if errno == EAGAIN else errno
        return 0
