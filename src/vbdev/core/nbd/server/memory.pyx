"""NbdMemory: who of one reactor's NBD clients gets memory for data, in which order, and how much.

A request is begun when its client has been given *all* the memory that its data takes, and it needs
nothing more of this limit to be received, carried out and answered. So whoever holds some waits for
an I/O below or for its peer, never for anybody who waits here; and a peer that makes no progress is
dropped (`targets/nbd/poll_group.py`). That is the proof that those who wait are served
(docs/design.md, "Progress of NBD clients").

- Who finds none waits in line, and holds nothing for the request meanwhile. Every other turn is the
  first one's, and what comes back is saved up for it; the turns between are for who wants least, so
  that an ordinary request is not served only after all that is vast.
- A client that has more than its share, when it is its turn, waits for those that have less.
- Small requests have a line of their own, and a reserve that large ones leave alone, so that
  a 4 KiB READ does not wait for somebody's 32 MiB.
- A request that is longer than the limit is served when no other large one is.

Receive chunks, into which many small requests come at once, are a gift: they have a limit of their
own, nothing waits for one, and whoever gets none goes on without. Belongs to one thread.
"""

from collections import deque

cimport cython

from vbdev.core.base.clocks cimport coarse_ns

cdef enum:
    CHUNKS_OF_CLIENT = 16       # 4 MiB: 1024 WRITEs of 4 KiB
    LITTLE_BYTES = 256 << 10
    GRANTS = 32                 # in one go; then it is others' turn


@cython.final
cdef class NbdMemory:
    """The memory of NBD clients of one engine. Sizes are in bytes, as `memory_for` says.

    limit_bytes: what data adds up to at most (or one request); 0: as the engine's buffers do.

    Attributes to set
    -----------------
    on_due: called when `serve` should be, soon and from the reactor's loop. Without it clients are
        served by whoever gives memory back.
    on_suspect: called when a client begins to wait for its peer with memory in its hands, or for
        memory, and `suspects` was empty before.

    """

    def __init__(self, Engine engine not None, uint64_t limit_bytes=0):
        self.engine = engine
        self.buffers = engine.buffers
        self.limit_bytes = limit_bytes or engine.buffers.limit_bytes
        self.reserve_bytes = self.limit_bytes // 8
        self.little_bytes = min(<uint64_t>LITTLE_BYTES, self.reserve_bytes // 4)
        self.chunk_limit_bytes = self.limit_bytes // 4
        self.little = deque()
        self.large = deque()
        self.suspects = []

    @property
    def waiting(self):
        """How many clients wait for memory."""
        return self.num_little_waiting + self.num_large_waiting

    def take_suspects(self):
        """Return the clients that may wait for their peer, or for memory, and forget them."""
        cdef MemoryClient client
        cdef list suspects = self.suspects
        self.suspects = []
        for client in suspects:
            client.suspected = False
        return suspects

    cdef int _suspect(self, MemoryClient client) except -1:
        client.suspected = True
        self.suspects.append(client)
        if len(self.suspects) == 1 and self.on_suspect is not None:
            self.on_suspect()
        return 0

    # Memory for data

    cdef bint take(self, MemoryClient client, uint64_t size) except -1:
        """Give a client memory; False: it waits now, and `go_on` is called when it has `granted`.

        One that waits asks for nothing else.
        """
        cdef bint much = client.charged + size > self.little_bytes
        if not (self.num_large_waiting if much else self.num_little_waiting) and (
                self._fits(client, size)):
            self.charge(client, size)
            return True
        client.asked = size
        client.asked_ns = self.engine.now_ns()
        self._wait(client, much)
        self.suspect(client)
        return False

    cdef int _wait(self, MemoryClient client, bint much) except -1:
        (self.large if much else self.little).append(client)
        client.asked_much = much
        self.num_large_waiting += much
        self.num_little_waiting += not much
        return 0

    cdef int _wait_no_more(self, MemoryClient client) except -1:
        (self.large if client.asked_much else self.little).remove(client)
        self.num_large_waiting -= client.asked_much
        self.num_little_waiting -= not client.asked_much
        return 0

    cdef int _give(self, MemoryClient client, uint64_t size) except -1:
        if size == 0:
            return 0
        self._count(client, client.charged - size)
        if (client.asked_much and client.asked
                and client.charged + client.asked <= self.little_bytes):
            # It has so little by now that it need not wait for those who have much.
            self._wait_no_more(client)
            self._wait(client, False)
        self.due = self.num_little_waiting or self.num_large_waiting
        return 0

    cdef int leave(self, MemoryClient client) except -1:
        """Let a client wait no more, and take back what it was given in its turn."""
        if client.asked:
            self._wait_no_more(client)
            client.asked = 0
            # It was perhaps the one that all others waited behind.
            self.due = self.num_little_waiting or self.num_large_waiting
        if client.granted:
            self.give(client, client.granted)
            client.granted = 0
        return 0

    cdef int _tell(self) except -1:
        if self.on_due is None:
            self._serve()
        else:
            self.told = True
            self.on_due()
        return 0

    def serve(self):
        """Give those who wait what there is, in their order."""
        self.told = False
        if not self.serving:
            self._serve()

    cdef int _serve(self) except -1:
        cdef MemoryClient client
        cdef int left = GRANTS
        self.serving = True
        self.due = False
        try:
            while left or self.on_due is None:
                left -= 1
                client = self._next()
                if client is None:
                    return 0
                client.granted = client.asked
                client.asked = 0
                self.charge(client, client.granted)
                try:
                    client.go_on()
                except Exception as error:
                    self.engine.report(client, error, 0)
        finally:
            self.serving = False
        if not self.told:
            self._tell()
        return 0

    cdef MemoryClient _next(self):
        """Take the one whose turn it is out of its line, if there is enough for it."""
        cdef MemoryClient client, other
        cdef uint64_t share
        if self.num_little_waiting:
            client = self.little[0]
            if self._fits(client, client.asked):
                self._wait_no_more(client)
                return client
        if self.num_large_waiting:
            client = self.large[0]
            share = (self.limit_bytes - self.reserve_bytes) // (
                self.num_large + self.num_large_waiting)
            if client.charged > share:
                for other in self.large:
                    if other.charged <= share:
                        client = other
                        break
            elif self.least_next:
                for other in self.large:
                    if other.asked < client.asked and other.charged <= share:
                        client = other
            if self._fits(client, client.asked):
                self.least_next = not self.least_next
                self._wait_no_more(client)
                return client
        return None

    cdef bint _fits(self, MemoryClient client, uint64_t size) noexcept nogil:
        cdef uint64_t little_used = self.little_used, kept = 0
        if client.charged + size <= self.little_bytes:
            return little_used + size <= self.reserve_bytes or (
                not self.num_large_waiting and self.used_bytes + size <= self.limit_bytes)
        if client.charged <= self.little_bytes:
            little_used -= client.charged  # no longer one of those
        if little_used < self.reserve_bytes:
            kept = self.reserve_bytes - little_used
        if self.used_bytes + size + kept <= self.limit_bytes:
            return True
        return self.num_large == 0 and size + self.reserve_bytes > self.limit_bytes

    cdef void charge(self, MemoryClient client, uint64_t size) noexcept nogil:
        """Note what a client was given, or has taken of its `allowance`."""
        if client.charged == 0:
            client.since_ns = self.engine.virtual_ns if self.engine.virtual else coarse_ns()
        self._count(client, client.charged + size)

    cdef void _count(self, MemoryClient client, uint64_t charged) noexcept nogil:
        """Note that a client has so much now."""
        if client.charged <= self.little_bytes:
            self.little_used -= client.charged
        else:
            self.num_large -= 1
        self.used_bytes += charged - client.charged
        client.charged = charged
        if charged <= self.little_bytes:
            self.little_used += charged
        else:
            self.num_large += 1

    # Receive chunks

    cdef bint lend_chunk(self, MemoryClient client, buffer_ref *out) noexcept nogil:
        """Lend a client CHUNK_BYTES to receive into; False: it has to do without, and can."""
        if (client.chunks == CHUNKS_OF_CLIENT
                or self.chunk_bytes + CHUNK_BYTES > self.chunk_limit_bytes
                or not self.buffers.get_aside(CHUNK_BYTES, out)):
            return False
        client.chunks += 1
        self.chunk_bytes += CHUNK_BYTES
        return True

    cdef void return_chunk(self, MemoryClient client, buffer_ref *buf) noexcept nogil:
        client.chunks -= 1
        self.chunk_bytes -= CHUNK_BYTES
        self.buffers.put_aside(buf)


@cython.no_gc_clear  # one that is forgotten unclosed gives memory back
cdef class MemoryClient(IoOwner):
    """Who has I/Os whose data is of an `NbdMemory`."""

    cdef int go_on(self) except -1:
        """Use what was `granted`, or give it back. Only from `NbdMemory.serve`."""
        raise NotImplementedError

    @property
    def waits_since_ns(self):
        """Since when it waits for memory, or a BdevIO, on the engine's clock."""
        return self.asked_ns

    @property
    def memory_bytes(self):
        """What it holds, data and receive chunks."""
        return self.charged + <uint64_t>self.chunks * CHUNK_BYTES

    @property
    def holds_since_ns(self):
        """Since when it holds memory for data, on the engine's clock; 0: it holds none."""
        return self.since_ns if self.charged else 0
