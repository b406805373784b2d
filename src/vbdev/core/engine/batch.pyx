"""IOBatch: some I/Os that travel together to one channel.

One room: what a batch can be asked for, and what completes it, share its array; a module meets all
of it as one object.

A module's `submit(channel, ios)` receives one and owns its I/Os until they complete: each is
forwarded (`channel.base.submit(ios)`), completed (`ios.complete()`), or taken out and held
(`ios.take(...)`) to be forwarded or completed later, exactly once. After `submit` of another
channel has been called with a batch, the batch belongs to that channel.

The verbs (`shift`, `take`, `complete`, `copy_data`) are compiled loops. The columns (`ops`,
`offset_blocks`, `num_blocks`, `statuses`) are numpy arrays, made when asked for: a copy, so
changing one changes nothing until it is assigned back.
"""

cimport cython
from cpython.buffer cimport PyBUF_READ, PyBUF_WRITE, PyBuffer_Release
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.errno cimport EINVAL, ENOMEM
from libc.stdint cimport int32_t, int64_t, int8_t, uint16_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memmove

from vbdev.core.base.types cimport (
    FLAG_PRACT,
    HAS_BARE_DATA,
    HAS_DOMAIN,
    HAS_POOL_BUFFER,
    IO_DONE,
    IO_FAILED,
    IO_NVME_ERROR,
    IO_PENDING,
    IO_SCSI_ERROR,
    IO_SUCCESS,
    IO_WAITING,
    OP_ABORT,
    OP_COMPARE,
    OP_COMPARE_AND_WRITE,
    OP_LIMIT,
    OP_READ,
    OP_SEEK_DATA,
    OP_SEEK_HOLE,
    OP_WRITE,
    OP_ZCOPY,
    OP_ZONE_APPEND,
    SLOW_BOUNCE,
    STAGE_MEMORY,
    bdev_io,
    channel_state,
    io_bounce,
    io_bounce_bytes,
    io_data_bytes,
    io_holds_memory,
    io_list_free,
    io_map_to,
    io_queue,
    io_queue_push,
    io_restore,
    iovec,
    memory_domain,
    this_thread,
)
from vbdev.core.engine.columns cimport (
    COLUMN_ARG,
    COLUMN_DETAIL,
    COLUMN_FLAGS,
    COLUMN_ID,
    COLUMN_NUM_BLOCKS,
    COLUMN_OFFSET,
    COLUMN_OP,
    COLUMN_RESULT,
    COLUMN_SRC_OFFSET,
    COLUMN_STATUS,
    COLUMN_SUBMIT_NS,
    bools,
    fill_column,
    new_column,
    numbers,
)
from vbdev.core.memory.buffers cimport BufferPool
from vbdev.core.memory.dif cimport (
    DIF_SHORT,
    dif_error,
    dif_insert,
    dif_layout,
    dif_strip,
    dif_tags,
    nvme_error_of,
)


# Whose data is their submitter's, and may be a region of zeroes that is write-protected.
cdef uint64_t WRITERS = (
    (1 << OP_WRITE) | (1 << OP_COMPARE) | (1 << OP_COMPARE_AND_WRITE) | (1 << OP_ZONE_APPEND))


cdef uint64_t gather(char *to, const iovec *iovs, uint32_t iovcnt,
                     const memory_domain *domain) noexcept nogil:
    """Copy pieces of data into one; return how many bytes."""
    cdef char *base = domain.base if domain != NULL else NULL
    cdef uint64_t done = 0
    cdef uint32_t i
    for i in range(iovcnt):
        memcpy(to + done, base + <size_t>iovs[i].iov_base, iovs[i].iov_len)
        done += iovs[i].iov_len
    return done


cdef void scatter(const char *source, const iovec *iovs, uint32_t iovcnt,
                  const memory_domain *domain) noexcept nogil:
    cdef char *base = domain.base if domain != NULL else NULL
    cdef uint32_t i
    for i in range(iovcnt):
        memcpy(base + <size_t>iovs[i].iov_base, source, iovs[i].iov_len)
        source += iovs[i].iov_len


cdef int strip_metadata(bdev_io *io, const io_bounce *bounce, dif_error *error) noexcept nogil:
    cdef const dif_layout *layout = <const dif_layout *>bounce.layout
    return dif_strip(layout, &bounce.iov, 1, io.iovs, io.iovcnt, io.num_blocks,
                     dif_tags(io.offset_blocks, 0, 0xffff, False),
                     layout.checks & ~io.dif_exclude, error)


@cython.no_gc_clear  # owners give buffers back when they go
cdef class IoCore:
    """The completion queue and the buffers of one reactor; `Engine` builds on it."""

    def __cinit__(self, *args, **kwargs):
        self.buffers = BufferPool(kwargs.get("buffer_limit_bytes", 256 << 20))

    def __dealloc__(self):
        io_list_free(&self.done)

    cdef bint push_done(self, bdev_io *io, int8_t status, int32_t err) noexcept nogil:
        """Give an I/O a status and queue it; False (and counted) if no layer held it."""
        return finish_io(self, io, status, err)

    cdef io_bounce *_new_bounce(self, bdev_io *io, uint64_t length, bint beyond) noexcept nogil:
        """Get memory, and keep in mind what the I/O has; NULL when there is none."""
        cdef io_bounce *bounce = <io_bounce *>malloc(sizeof(io_bounce))
        if bounce == NULL:
            return NULL
        if not self.buffers.get(length, beyond, &bounce.buf):
            free(bounce)
            return NULL
        bounce.outer = io.bounce
        bounce.iovs = io.iovs
        bounce.iovcnt = io.iovcnt
        bounce.iovs2 = io.iovs2
        bounce.iovcnt2 = io.iovcnt2
        bounce.md = io.md
        bounce.domain = io.domain
        bounce.flags = io.flags
        bounce.layout = NULL
        bounce.stays = False
        bounce.depth = io.depth
        bounce.copy_back = io.op == OP_READ
        bounce.iov.iov_base = bounce.buf.base
        io.bounce = bounce
        io.slow |= SLOW_BOUNCE
        io.flags |= HAS_POOL_BUFFER
        return bounce

    cdef bint bounce(self, bdev_io *io, bint copy_in, bint copy_back, bint beyond) noexcept nogil:
        """Put a pool buffer in place of the I/O's data until the top frame is popped.

        Separate metadata comes along, and data leaves its memory domain.
        """
        cdef uint64_t length = io_data_bytes(io)
        cdef io_bounce *bounce = self._new_bounce(io, io_bounce_bytes(io), beyond)
        cdef char *to
        if bounce == NULL:
            return False
        bounce.copy_back = copy_back
        bounce.iov.iov_len = length
        to = <char *>bounce.buf.base
        if copy_in:
            gather(to, io.iovs, io.iovcnt, io.domain)
        to += length
        if io.op == OP_COMPARE_AND_WRITE:
            bounce.iov2.iov_base = to
            bounce.iov2.iov_len = gather(to, io.iovs2, io.iovcnt2, io.domain)
            to += bounce.iov2.iov_len
            io.iovs2 = &bounce.iov2
            io.iovcnt2 = 1
        if io.md != NULL:
            if copy_in:
                memcpy(to, io.md, io.num_blocks * io.frames[io.depth - 1].channel.md_len)
            io.md = to
        io.iovs = &bounce.iov
        io.iovcnt = 1
        io.domain = NULL
        io.flags &= <uint16_t>~HAS_DOMAIN
        return True

    cdef int add_metadata(self, bdev_io *io, const dif_layout *layout, bint beyond) noexcept nogil:
        """Put blocks with metadata in place of the I/O's bare data until the top frame is popped.

        A READ's are checked then, and stripped. 0, ENOMEM, or EINVAL when there is less data than
        the blocks take.
        """
        cdef uint64_t length = io.num_blocks * layout.block_size
        cdef io_bounce *bounce = self._new_bounce(io, length, beyond)
        if bounce == NULL:
            return ENOMEM
        bounce.iov.iov_len = length
        bounce.layout = layout
        bounce.stays = True
        if io.op == OP_WRITE and dif_insert(
                layout, io.iovs, io.iovcnt, &bounce.iov, 1, io.num_blocks,
                dif_tags(io.offset_blocks, 0, 0, False)):
            self.unbounce(io)
            return EINVAL
        io.iovs = &bounce.iov
        io.iovcnt = 1
        io.flags &= <uint16_t>~(FLAG_PRACT | HAS_BARE_DATA)
        return 0

    cdef void wait_in(self, io_queue *queue, bdev_io *io) noexcept nogil:
        """Put an I/O at the end of a queue of the channel of its top frame."""
        cdef channel_state *s = io.frames[io.depth - 1].channel
        io_queue_push(queue, io)
        s.nomem_mixed = s.nomem_mixed or io_holds_memory(io)
        io.state = IO_WAITING
        self.count_waiting(s)

    cdef void count_waiting(self, channel_state *s) noexcept nogil:
        """Account for an I/O that has gone into a queue of a channel, which `drain` looks at."""
        s.parked += 1
        self.waiting += 1
        if s.waits:
            return
        s.waits = True
        if not io_list_reserve(&self.waiters, 1):
            abort()  # no memory for 8 bytes: an I/O must never be lost silently
        self.waiters.v[self.waiters.n] = <bdev_io *>s
        self.waiters.n += 1

    cdef void unbounce(self, bdev_io *io) noexcept nogil:
        """Undo `bounce` or `add_metadata`: copy a successful READ out, give the buffer back.

        The offset is what it was then. A READ whose protection information is wrong fails here.
        """
        cdef io_bounce *bounce = io.bounce
        cdef uint64_t length = bounce.iov.iov_len
        cdef dif_error error
        cdef int failed
        io.iovs = bounce.iovs
        io.iovcnt = bounce.iovcnt
        io.iovs2 = bounce.iovs2
        io.iovcnt2 = bounce.iovcnt2
        io.domain = bounce.domain
        io.flags = bounce.flags
        io.bounce = bounce.outer
        if not bounce.copy_back or io.status != IO_SUCCESS:
            pass
        elif bounce.layout != NULL:
            failed = strip_metadata(io, bounce, &error)
            if failed:
                io.status = IO_FAILED if failed == DIF_SHORT else IO_NVME_ERROR
                io.err = EINVAL if failed == DIF_SHORT else nvme_error_of(failed)
        else:
            scatter(<char *>bounce.buf.base, io.iovs, io.iovcnt, io.domain)
            if io.md != NULL:
                memcpy(bounce.md, <char *>bounce.buf.base + length,
                       io.num_blocks * io.frames[io.depth - 1].channel.md_len)
        io.md = bounce.md
        self.buffers.put(&bounce.buf)
        free(bounce)

    cdef void forget_done(self) noexcept:
        """Take I/Os that have been completed out of every batch.

        Where a module fails they may lie in batches that it keeps; and a BdevIO is used again.
        """
        cdef void *at = self.batches
        cdef IOBatch ios
        cdef Py_ssize_t i, kept
        while at != NULL:
            ios = <IOBatch>at
            kept = 0
            for i in range(ios.n):
                if ios.v[i].state != IO_DONE:
                    ios.v[kept] = ios.v[i]
                    kept += 1
            ios.n = kept
            at = ios.linked_after


@cython.no_gc_clear  # it leaves its engine's list when it goes
@cython.freelist(64)
cdef class IOBatch:
    """I/Os for one channel, in order. Made by targets and owners; modules receive them.

    `len(ios)` counts the I/Os still in it; one that was taken, completed or forwarded is not.
    """

    def __cinit__(self):
        self.v = self.inline_v
        self.cap = 32

    def __dealloc__(self):
        if self.v != self.inline_v:
            free(<void *>self.v)
        if self.linked_before != NULL:
            (<IOBatch>self.linked_before).linked_after = self.linked_after
        elif self.core is not None:
            self.core.batches = self.linked_after
        if self.linked_after != NULL:
            (<IOBatch>self.linked_after).linked_before = self.linked_before

    cdef inline void _link(self) noexcept:
        # Once, when `core` is set: see IoCore.forget_done.
        self.linked_before = NULL
        self.linked_after = self.core.batches
        if self.linked_after != NULL:
            (<IOBatch>self.linked_after).linked_before = <void *>self
        self.core.batches = <void *>self

    cdef int reserve(self, Py_ssize_t more) except -1:
        cdef Py_ssize_t cap = self.cap
        cdef bdev_io **grown
        if self.n + more <= cap:
            return 0
        while cap < self.n + more:
            cap *= 2
        grown = <bdev_io **>malloc(cap * sizeof(void *))
        if grown == NULL:
            raise MemoryError
        memcpy(<void *>grown, <void *>self.v, self.n * sizeof(void *))
        if self.v != self.inline_v:
            free(<void *>self.v)
        self.v = grown
        self.cap = cap
        return 0

    cdef int append(self, bdev_io *io) except -1:
        if self.n == self.cap:
            self.reserve(1)
        self.v[self.n] = io
        self.n += 1
        return 0

    def __len__(self):
        return self.n

    def __repr__(self):
        return f"<IOBatch of {self.n} I/Os>"

    # Verbs

    def shift(self, int64_t delta_blocks):
        """Add `delta_blocks` to each offset (of a COPY: to both). Undone on the way up.

        A SEEK's result is moved back likewise. Only before the batch is forwarded.
        """
        cdef Py_ssize_t i
        cdef bdev_io *io
        for i in range(self.n):
            io = self.v[i]
            io_map_to(io, io.offset_blocks + <uint64_t>delta_blocks)

    cdef IOBatch take_op_mask(self, uint64_t mask):
        cdef IOBatch taken = new_batch(self.core)
        cdef Py_ssize_t i, kept = 0
        cdef bdev_io *io
        for i in range(self.n):
            io = self.v[i]
            if (mask >> io.op) & 1:
                taken.append(io)
            else:
                self.v[kept] = io
                kept += 1
        self.n = kept
        return taken

    def take(self, which=None):
        """Move I/Os into a new batch and return it; the order of both is kept.

        which: None for all; an `Op` (or several) for I/Os of that type; otherwise an array of
        bool, one for each I/O.
        """
        cdef uint64_t mask = 0
        cdef IOBatch taken
        cdef const uint8_t *chosen
        cdef Py_buffer view
        cdef Py_ssize_t i, kept = 0
        if which is None:
            return self.take_op_mask(<uint64_t>-1)
        if isinstance(which, int):
            return self.take_op_mask(op_bit(which))
        if isinstance(which, (tuple, set, frozenset)):
            for op in which:
                mask |= op_bit(op)
            return self.take_op_mask(mask)
        taken = new_batch(self.core)
        bools(which, &view)  # foreign code, which may change this batch: its size is read behind it
        if view.len != self.n:
            length = view.len
            PyBuffer_Release(&view)
            raise ValueError(
                f"IOBatch.take: a mask of {length} for {self.n} I/Os; give one for each")
        try:
            taken.reserve(self.n)
        except MemoryError:
            PyBuffer_Release(&view)
            raise
        chosen = <const uint8_t *>view.buf
        for i in range(self.n):
            if chosen[i]:
                taken.v[taken.n] = self.v[i]
                taken.n += 1
            else:
                self.v[kept] = self.v[i]
                kept += 1
        self.n = kept
        PyBuffer_Release(&view)
        return taken

    def split(self):
        """Return one batch for each I/O, in order; this one is empty afterwards."""
        cdef Py_ssize_t i
        cdef IOBatch one
        # What makes objects may run foreign code, which knows only of `self`.
        cdef IOBatch mine = self.take_op_mask(<uint64_t>-1)
        out = []
        for i in range(mine.n):
            one = new_batch(self.core)
            one.v[0] = mine.v[i]
            one.n = 1
            out.append(one)
        mine.n = 0
        return out

    def extend(self, IOBatch other not None):
        """Move all I/Os of `other` behind the ones here."""
        if other is self:
            raise ValueError("IOBatch.extend: a batch can not be moved into itself")
        if self.core is None:  # made by a module: IOBatch()
            if other.core is not None:
                self.core = other.core
                self._link()
        elif other.n and self.core is not other.core:
            raise ValueError("IOBatch.extend: the batches belong to two reactors")
        self.reserve(other.n)
        memcpy(<void *>(self.v + self.n), <void *>other.v, other.n * sizeof(void *))
        self.n += other.n
        other.n = 0

    cdef int finish_all(self, int8_t status, int32_t err) except -1:
        cdef Py_ssize_t i, wrong = 0
        cdef bdev_io *io
        if self.n and self.core.thread and self.core.thread != this_thread():
            raise RuntimeError("I/Os of one reactor completed on another thread than its own")
        for i in range(self.n):
            io = self.v[i]
            if status != IO_PENDING:
                wrong += not finish_io(self.core, io, status, err)
            elif io.status == IO_PENDING:
                wrong += not finish_io(self.core, io, IO_SUCCESS, 0)
            else:
                wrong += not finish_io(self.core, io, io.status, io.err)
        self.n = 0
        if wrong:
            raise RuntimeError(f"{wrong} I/Os completed that no layer held: completed twice?")
        return 0

    def complete(self, status=None, int errno=0, *, nvme=None, scsi=None, uint32_t cdw0=0):
        """Complete every I/O in the batch, which is empty afterwards.

        status: a `Status`; without one, what the layers below said, or SUCCESS where no layer
        below was asked. NOMEM: the module has no room now; the I/Os come to `submit` again, in
        order, and nobody above sees it. The detail that goes with a failure reaches the top of
        the stack as it is: errno (it decides the error that a client sees), or nvme=(sct, sc),
        or scsi=(status, sense key, asc, ascq). cdw0: of an NVMe completion. Completing an I/O
        twice is a RuntimeError; the others complete.
        """
        cdef int value
        cdef int32_t detail
        cdef Py_ssize_t i
        if cdw0:
            for i in range(self.n):
                self.v[i].cdw0 = cdw0
        if status is None and nvme is None and scsi is None:
            self.finish_all(IO_PENDING, 0)
            return
        value, detail = status_parts("IOBatch.complete", status, errno, nvme, scsi)
        self.finish_all(<int8_t>value, detail)

    def take_victims(self, IOBatch aborts not None):
        """Find what ABORTs want ended: return (victims, hits), two batches.

        I/Os of this batch that an ABORT in `aborts` names move to `victims`, to be completed as
        ABORTED; the ABORTs that found theirs move to `hits`, to be completed as SUCCESS.
        """
        cdef IOBatch victims = new_batch(self.core if self.core is not None else aborts.core)
        cdef IOBatch hits = new_batch(aborts.core)
        cdef Py_ssize_t i, j, kept = 0
        cdef bdev_io *io
        if aborts is self:
            raise ValueError("IOBatch.take_victims: a batch can not be looked through for itself")
        for i in range(aborts.n):
            io = aborts.v[i]
            if io.op == OP_ABORT and io.victim != NULL and (
                    io.victim.generation == <uint32_t>io.result):
                j = 0
                while j < self.n and self.v[j] != io.victim:
                    j += 1
                if j < self.n:
                    victims.append(io.victim)
                    hits.append(io)
                    self.n -= 1
                    memmove(<void *>(self.v + j), <void *>(self.v + j + 1),
                            (self.n - j) * sizeof(void *))
                    continue
            aborts.v[kept] = io
            kept += 1
        aborts.n = kept
        return victims, hits

    def copy_data(self, *ops):
        """Give each I/O (of these types) a private copy of its data, so that it can be changed.

        A writer's data is the writer's: a layer that transforms it works on a copy, which is
        undone on the way up. I/Os for which no memory is left now leave the batch, wait, and
        come to this module's `submit` again, in order; those larger than any buffer fail. The
        memory of a ZCOPY is the bdev's own, and stays.
        """
        cdef uint64_t mask = 0
        cdef Py_ssize_t i, kept = 0
        cdef bdev_io *io
        cdef bint held
        for op in ops:
            mask |= op_bit(op)
        if not ops:
            mask = <uint64_t>-1
        mask &= ~(<uint64_t>1 << OP_ZCOPY)
        for i in range(self.n):
            io = self.v[i]
            if (mask >> io.op) & 1 and io.iovcnt:
                held = io_holds_memory(io)
                # Behind those that wait already, unless it is one they wait for.
                if (not held and io.frames[io.depth - 1].channel.nomem.head != NULL
                        or not self.core.bounce(io, io.op != OP_READ, io.op == OP_READ, held)):
                    if self.core.buffers.can_ever_get(io_bounce_bytes(io), held):
                        io_restore(io)  # it comes to `submit` once more, as it came now
                        io.stage = STAGE_MEMORY
                        self.core.wait_in(&io.frames[io.depth - 1].channel.nomem, io)
                    else:
                        self.core.push_done(io, IO_FAILED, ENOMEM)
                    continue
            self.v[kept] = io
            kept += 1
        self.n = kept

    def data(self, *ops):
        """Return a memoryview for each piece of data of I/Os of these types.

        The memory belongs to the I/O: do not keep a view beyond the call that received the
        batch. Change a READ's data in `completed`, a WRITE's after `copy_data` in `submit`: until
        then what a writer gave can only be read, and may be memory that nobody can write to.
        """
        cdef uint64_t mask = 0
        cdef Py_ssize_t i
        for op in ops:
            mask |= op_bit(op)
        if not ops:
            mask = <uint64_t>-1
        views = []
        i = 0
        while i < self.n:  # what makes objects may run foreign code, which may take I/Os out
            if (mask >> self.v[i].op) & 1:
                add_views(self.v[i], views)
            i += 1
        return views

    def extents(self):
        """Return [(op, offset in blocks, number of blocks)], without numpy."""
        return [(self.v[i].op, self.v[i].offset_blocks, self.v[i].num_blocks)
                for i in range(self.n)]

    # Columns

    cdef object _column(self, int which):
        cdef Py_ssize_t n = self.n
        out = new_column(n, which)
        if n != self.n:  # numpy may have run foreign code
            raise RuntimeError("an IOBatch was changed while a column of it was made")
        fill_column(out, self.v, n, which)
        return out

    @property
    def ops(self):
        """I/O types, uint8 (n,)."""
        return self._column(COLUMN_OP)

    @property
    def statuses(self):
        """Statuses, int8 (n,): PENDING on the way down."""
        return self._column(COLUMN_STATUS)

    @property
    def details(self):
        """What goes with the statuses, int32 (n,): an errno; of NVME_ERROR sct << 8 | sc."""
        return self._column(COLUMN_DETAIL)

    @property
    def flags(self):
        """`IoFlag`s, uint16 (n,)."""
        return self._column(COLUMN_FLAGS)

    @property
    def args(self):
        """ZONE_MANAGEMENT: the `ZoneAction`; GET_ZONE_INFO: how many zones. uint32 (n,)."""
        return self._column(COLUMN_ARG)

    @property
    def ids(self):
        """What tells an I/O from others while a layer has it under way, uint32 (n,).

        The same in `submit` and in `completed`; another's once the I/O has gone up.
        """
        return self._column(COLUMN_ID)

    @property
    def num_blocks(self):
        """Lengths in blocks, uint64 (n,)."""
        return self._column(COLUMN_NUM_BLOCKS)

    @property
    def src_offset_blocks(self):
        """COPY: where it reads, in blocks, uint64 (n,)."""
        return self._column(COLUMN_SRC_OFFSET)

    @property
    def submit_ns(self):
        """When each entered this layer, uint64 (n,): nanoseconds on the reactor's clock."""
        return self._column(COLUMN_SUBMIT_NS)

    @property
    def results(self):
        """SEEK_DATA, SEEK_HOLE, ZONE_APPEND: what came out, in blocks, uint64 (n,). Assignable."""
        return self._column(COLUMN_RESULT)

    @results.setter
    def results(self, values):
        cdef Py_buffer view
        cdef Py_ssize_t i, given
        cdef uint8_t op
        numbers(values, &view)
        given = view.len // sizeof(uint64_t)
        for i in range(self.n if given == self.n else 0):
            op = self.v[i].op
            if op == OP_ZONE_APPEND or op == OP_SEEK_DATA or op == OP_SEEK_HOLE:
                self.v[i].result = (<const uint64_t *>view.buf)[i]
        PyBuffer_Release(&view)
        if given != self.n:
            raise ValueError(f"IOBatch.results: {given} results for {self.n} I/Os")

    @property
    def offset_blocks(self):
        """Offsets in blocks, uint64 (n,). Assigning maps the I/Os; undone on the way up.

        The source of a COPY moves by as much as its target.
        """
        return self._column(COLUMN_OFFSET)

    @offset_blocks.setter
    def offset_blocks(self, values):
        cdef Py_buffer view
        cdef Py_ssize_t i, given
        numbers(values, &view)
        given = view.len // sizeof(uint64_t)
        for i in range(self.n if given == self.n else 0):
            io_map_to(self.v[i], (<const uint64_t *>view.buf)[i])
        PyBuffer_Release(&view)
        if given != self.n:
            raise ValueError(f"IOBatch.offset_blocks: {given} offsets for {self.n} I/Os")


cdef int add_views(bdev_io *io, list views) except -1:
    """Add a memoryview for each piece of an I/O's data, unless it has failed."""
    cdef char *base = io.domain.base if io.domain != NULL else NULL
    cdef int access = PyBUF_WRITE
    cdef uint32_t j
    if io.status != IO_SUCCESS and io.status != IO_PENDING:
        return 0
    if (WRITERS >> io.op) & 1 and not (io.bounce != NULL and io.bounce.depth == io.depth):
        access = PyBUF_READ
    for j in range(io.iovcnt):
        views.append(PyMemoryView_FromMemory(
            base + <size_t>io.iovs[j].iov_base, io.iovs[j].iov_len, access))
    return 0


cdef tuple status_parts(str who, status, int errno, nvme, scsi):
    """Return (status, detail) of what a caller of `complete` says; ValueError if it is none."""
    cdef int value
    cdef int32_t detail = errno
    if nvme is not None:
        detail = detail_of(who, "nvme", nvme, (7, 255))
        status = IO_NVME_ERROR if status is None else status
    elif scsi is not None:
        detail = detail_of(who, "scsi", scsi, (127, 15, 255, 255))
        status = IO_SCSI_ERROR if status is None else status
    value = status
    if not -8 <= value <= 1 or value == IO_PENDING:
        raise ValueError(f"{who}: {status!r} is no final status")
    if (nvme is not None) != (value == IO_NVME_ERROR) or (
            scsi is not None) != (value == IO_SCSI_ERROR):
        raise ValueError(
            f"{who}: status {value} with nvme={nvme}, scsi={scsi}; NVME_ERROR (-2)"
            " goes with nvme=(sct, sc), SCSI_ERROR (-3) with scsi=(status, key, asc, ascq)")
    return value, detail


cdef int32_t detail_of(str who, str what, parts, limits) except? -1:
    """Pack the parts of a status, each in a byte; ValueError where one is out of its range."""
    cdef int32_t out = 0
    if len(parts) != len(limits) or not all(0 <= p <= top for p, top in zip(parts, limits)):
        raise ValueError(f"{who}: {what}={parts}; {len(limits)} numbers up to {limits}")
    for part in parts:
        out = out << 8 | <int32_t>part
    return out


cdef uint64_t op_bit(op) except? 0:
    cdef int number = op
    if not 0 < number < OP_LIMIT:
        raise ValueError(f"{op!r} is no I/O type")
    return <uint64_t>1 << number


def load_columns():
    """Import what columns are made of (0.1 s), so that no I/O has to wait for it.

    For whoever offers or starts a module that asks for columns.
    """
    new_column(0, COLUMN_OP)


cdef IOBatch new_batch(IoCore core):
    cdef IOBatch batch = IOBatch.__new__(IOBatch)
    if core is not None:
        batch.core = core
        batch._link()
    return batch
