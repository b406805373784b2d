# How long one part of a reactor's turn may go on, and who comes next where there is more to do.
#
# Its parts: messages, tasks, pollers, timers, descriptors, completions, long work. Each has a slice
# of time of its own, so that a turn is bounded in all, and no part takes another's.
# What does not fit into a slice goes on in the next turn's. A part always does at least one thing.

from libc.stdint cimport uint64_t
from libc.stdlib cimport abort, calloc, free

from vbdev.core.base.clocks cimport monotonic_ns
from vbdev.core.base.types cimport bdev_io, owner_state


cdef enum:
    SLICE_NS = 200000       # of each part of a turn
    LOOK_NS = 10000         # of guessed work between two looks at the clock
    # What is guessed that work takes. A guess that is too low is found out at the next look.
    IO_NS = 100             # an I/O on its way, down and up
    CALL_NS = 10000         # a function in Python
    BYTES_PER_NS = 4        # to copy, clear or compare
    MOST_AT_ONCE = 256      # I/Os that code in Python is shown in one call, of those that came up


# The time that is left of the part that runs. On a virtual clock guesses are all there is.
cdef struct time_slice:
    uint64_t until_ns       # 0: the clock has not been looked at yet
    uint64_t guessed_ns     # since the last look; since it began on a virtual clock
    bint virtual
    bint over


cdef inline void slice_begin(time_slice *self) noexcept nogil:
    self.until_ns = self.guessed_ns = 0
    self.over = False


cdef inline bint slice_over(time_slice *self, uint64_t guess_ns) noexcept nogil:
    # Count work that was done; whether it is others' turn. Costs a look at the clock now and then.
    cdef uint64_t now
    if self.over:
        return True
    self.guessed_ns += guess_ns
    if self.virtual:
        self.over = self.guessed_ns >= SLICE_NS
        return self.over
    if self.guessed_ns < LOOK_NS:
        return False
    now = monotonic_ns()
    if self.until_ns == 0:
        self.until_ns = now - min(self.guessed_ns, <uint64_t>LOOK_NS) + SLICE_NS
    self.guessed_ns = 0
    self.over = now >= self.until_ns
    return self.over


cdef inline bint slice_over_at(time_slice *self, uint64_t now, uint64_t guess_ns) noexcept nogil:
    # The same, for who has just looked at the clock.
    if now < self.until_ns:  # 0 on a virtual clock, and what is over stays so: time goes on
        self.guessed_ns = 0
        return False
    if self.over or self.virtual:
        return slice_over(self, guess_ns)
    self.guessed_ns = 0
    if self.until_ns == 0:
        self.until_ns = now + SLICE_NS
    self.over = now >= self.until_ns
    return self.over


# I/Os in order, those of different clients in turn: who has many does not hold up who has few.
cdef struct fair_line:
    owner_state *client
    bdev_io *head
    bdev_io *tail
    fair_line *next

cdef struct fair_queue:
    fair_line *head         # whose turn is next
    fair_line *tail
    uint64_t n


cdef inline void fair_append(fair_queue *self, fair_line *line) noexcept nogil:
    line.next = NULL
    if self.head == NULL:
        self.head = line
    else:
        self.tail.next = line
    self.tail = line


cdef inline void fair_push(fair_queue *self, owner_state *client, bdev_io *io,
                           bint first) noexcept nogil:
    # Put an I/O behind its client's others, or before them. Its `next` is the queue's until then.
    cdef fair_line *line = self.head
    while line != NULL and line.client != client:
        line = line.next
    if line == NULL:
        line = <fair_line *>calloc(1, sizeof(fair_line))
        if line == NULL:
            abort()  # no memory for 32 bytes: an I/O must never be lost silently
        line.client = client
        fair_append(self, line)
    io.next = NULL
    if line.head == NULL:
        line.head = line.tail = io
    elif first:
        io.next = line.head
        line.head = io
    else:
        line.tail.next = io
        line.tail = io
    self.n += 1


cdef inline bdev_io *fair_pop(fair_queue *self) noexcept nogil:
    # Take the first I/O of the client whose turn it is; the others of that one come last.
    cdef fair_line *line = self.head
    cdef bdev_io *io
    if line == NULL:
        return NULL
    io = line.head
    line.head = io.next
    self.head = line.next
    if self.head == NULL:
        self.tail = NULL
    if line.head == NULL:
        free(line)
    else:
        fair_append(self, line)
    self.n -= 1
    return io


cdef inline bint fair_remove(fair_queue *self, bdev_io *io) noexcept nogil:
    # Take one out; False: it is not in here.
    cdef fair_line *line = self.head
    cdef fair_line *line_before = NULL
    cdef bdev_io *at
    cdef bdev_io *before
    while line != NULL:
        before = NULL
        at = line.head
        while at != NULL and at != io:
            before = at
            at = at.next
        if at != NULL:
            break
        line_before = line
        line = line.next
    if line == NULL:
        return False
    if before == NULL:
        line.head = io.next
    else:
        before.next = io.next
    if line.tail == io:
        line.tail = before
    self.n -= 1
    if line.head == NULL:
        if line_before == NULL:
            self.head = line.next
        else:
            line_before.next = line.next
        if self.tail == line:
            self.tail = line_before
        free(line)
    return True
