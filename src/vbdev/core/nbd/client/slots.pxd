# Requests in flight of one NBD connection, and the cookies by which the server's replies name them.
#
# A request has a slot from `slot_take` to `slot_give`. It ends when it is wholly sent *and* wholly
# answered, whichever comes last: until then the socket reads from the I/O's buffers. Whoever finds
# the second of the two true says so with `slot_ended`; the link settles those. A cookie is the
# slot's number and how often it was used, so an answer that comes twice, or to nobody, is found.

from libc.stdint cimport int32_t, uint16_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free, malloc

from vbdev.core.base.types cimport bdev_io
from vbdev.core.nbd.client.pieces cimport nbd_pieces, pieces_clear


cdef enum:
    MAX_SLOTS = 1 << 10         # requests in flight of one connection
    SLOT_MASK = MAX_SLOTS - 1

cdef struct nbd_slot:
    bdev_io *io                 # NULL with a group
    void *group                 # a FLUSH's `flush_group`
    uint64_t offset             # bytes, as requested
    uint32_t length             # bytes, as requested
    uint32_t sequence           # how often it was used
    uint16_t command
    uint16_t flags
    uint8_t in_use
    uint8_t started             # a first byte was handed to the socket
    uint8_t sent                # all of them were
    uint8_t answered            # wholly; `err` says how
    uint8_t flushing            # a WRITE or the like is answered, and this is the FLUSH for its FUA
    uint8_t zeroing             # a WRITE of zeroes: a piece of a WRITE_ZEROES
    uint8_t refused             # what of the I/O the server has refused (REFUSES_*)
    int32_t err                 # errno; the first error that was told
    nbd_pieces came             # of a READ's data
    uint64_t covers             # FLUSH: the writes that were acknowledged before it, counted
    uint64_t since_ns
    nbd_slot *before            # in the order of sending, of those without an answer
    nbd_slot *after

cdef struct slot_table:
    nbd_slot *v
    uint32_t *free              # numbers of those that were used and are free
    uint32_t num_free
    uint32_t num_fresh          # slots that were used ever
    uint32_t *ended             # numbers of those that the link has to settle
    uint32_t num_ended
    uint32_t num_settled        # of them, from the first one
    nbd_slot *first             # the oldest without an answer
    nbd_slot *last


cdef inline bint slots_init(slot_table *self) noexcept nogil:
    # False: no memory; `slots_clear` frees what there is.
    self.v = <nbd_slot *>calloc(MAX_SLOTS, sizeof(nbd_slot))
    self.free = <uint32_t *>malloc(MAX_SLOTS * sizeof(uint32_t))
    self.ended = <uint32_t *>malloc(MAX_SLOTS * sizeof(uint32_t))
    return self.v != NULL and self.free != NULL and self.ended != NULL


cdef inline void slots_clear(slot_table *self) noexcept nogil:
    cdef uint32_t i
    if self.v != NULL:
        for i in range(self.num_fresh):
            pieces_clear(&self.v[i].came)
    free(self.v)
    free(self.free)
    free(self.ended)


cdef inline uint32_t slots_in_use(const slot_table *self) noexcept nogil:
    return self.num_fresh - self.num_free


cdef inline uint32_t slot_number(const slot_table *self, const nbd_slot *slot) noexcept nogil:
    return <uint32_t>(slot - self.v)


cdef inline nbd_slot *slot_take(slot_table *self) noexcept nogil:
    # NULL: all are in use.
    cdef nbd_slot *slot
    if self.num_free:
        self.num_free -= 1
        slot = &self.v[self.free[self.num_free]]
    elif self.num_fresh < MAX_SLOTS:
        slot = &self.v[self.num_fresh]
        self.num_fresh += 1
    else:
        return NULL
    slot.in_use = True
    slot.io = NULL
    slot.group = NULL
    slot.flushing = slot.zeroing = False
    slot.refused = 0
    return slot


cdef inline void slot_use(slot_table *self, nbd_slot *slot, uint64_t now) noexcept nogil:
    # Begin a request with what `command`, `flags`, `offset` and `length` say.
    slot.sequence += 1
    slot.started = slot.sent = slot.answered = False
    slot.err = 0
    slot.came.got = 0
    slot.since_ns = now
    slot.before = self.last
    slot.after = NULL
    if self.last != NULL:
        self.last.after = slot
    else:
        self.first = slot
    self.last = slot


cdef inline void slot_give(slot_table *self, nbd_slot *slot) noexcept nogil:
    slot.in_use = False
    slot.io = NULL
    slot.group = NULL
    if slot.came.v != NULL:
        pieces_clear(&slot.came)
    self.free[self.num_free] = slot_number(self, slot)
    self.num_free += 1


cdef inline void slot_ended(slot_table *self, nbd_slot *slot) noexcept nogil:
    self.ended[self.num_ended] = slot_number(self, slot)
    self.num_ended += 1


cdef inline void slot_answered(slot_table *self, nbd_slot *slot) noexcept nogil:
    slot.answered = True
    if slot.before != NULL:
        slot.before.after = slot.after
    else:
        self.first = slot.after
    if slot.after != NULL:
        slot.after.before = slot.before
    else:
        self.last = slot.before
    if slot.sent:
        slot_ended(self, slot)


cdef inline void slots_forget_order(slot_table *self) noexcept nogil:
    # No answers come any more.
    self.first = self.last = NULL


cdef inline uint64_t slot_cookie(const slot_table *self, const nbd_slot *slot) noexcept nogil:
    return <uint64_t>slot.sequence << 32 | slot_number(self, slot)


cdef inline nbd_slot *slot_of(slot_table *self, uint64_t cookie) noexcept nogil:
    # Return whom a reply is for; NULL: nobody who still waits for one.
    cdef uint32_t number = <uint32_t>cookie
    cdef nbd_slot *slot
    if number < self.num_fresh:
        slot = &self.v[number]
        if (slot.in_use and slot.sequence == cookie >> 32 and slot.started
                and not slot.answered):
            return slot
    return NULL
