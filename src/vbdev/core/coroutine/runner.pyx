"""Coroutines: modules that take their I/Os one at a time, `async def handle(self, channel, io)`.

One room: an I/O's object, a child's and their runner step each other for each I/O, by C calls that
are inlined only within one module.

A channel of such a module has one `Coroutines`, in the place of the module's `submit` and
`completed`. It starts a coroutine for each I/O of a batch and steps those whose wait is over,
here and not in a task, up to their next await. What they send off meanwhile is gathered, and
leaves at the end of the run as one batch for each channel: so the layers below are called once for
a batch, as they are by a module that forwards it whole.

What a coroutine sends off is on its way from the call on; awaiting only waits. An I/O is in one
place as ever: with its coroutine (`channel_state.in_hand` finds it), below, or waiting for memory.
It ends when its coroutine has returned, or says `complete`, and nothing of it is under way.

Budget: 1.5 us for an I/O that is forwarded and awaited, at queue depth 32. Two thirds of it are
the interpreter's: the call, the coroutine's frame, two steps.
"""

cimport cython
from collections import deque
from collections.abc import Coroutine

from cpython.buffer cimport (
    PyBUF_SIMPLE,
    PyBUF_WRITABLE,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from libc.errno cimport ELOOP, ENOENT, ENOMEM
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset

from vbdev.core.base.capi cimport (
    PYGEN_NEXT,
    PYGEN_RETURN,
    PyCoro_CheckExact,
    PyIter_Send,
    PyObject,
    PyObject_Vectorcall,
    PySendResult,
    Py_DECREF,
    Py_INCREF,
    Py_None,
)
from vbdev.core.base.clocks cimport since_ns
from vbdev.core.base.types cimport (
    FLAG_PRACT,
    HAS_BARE_DATA,
    HAS_DOMAIN,
    HAS_METADATA,
    IN_BYTES,
    HAS_POOL_BUFFER,
    IO_ABORTED,
    IO_FAILED,
    IO_NVME_ERROR,
    IO_PENDING,
    IO_SCSI_ERROR,
    IO_SUBMITTED,
    IO_SUCCESS,
    OP_ABORT,
    OP_COMPARE,
    OP_COMPARE_AND_WRITE,
    OP_COPY,
    OP_FLUSH,
    OP_LIMIT,
    OP_READ,
    OP_RESET,
    OP_SEEK_DATA,
    OP_SEEK_HOLE,
    OP_UNMAP,
    OP_WRITE,
    OP_WRITE_ZEROES,
    OP_ZCOPY,
    OP_ZONE_APPEND,
    STAGE_HELD,
    bdev_io,
    channel_state,
    io_bounce_bytes,
    io_doubt,
    io_holds_memory,
    io_list_drop_front,
    io_map_to,
    iovec,
    this_thread,
)
from vbdev.core.engine.batch cimport (
    IOBatch,
    add_views,
    batch_add,
    new_batch,
    only_mine,
    status_parts,
)
from vbdev.core.engine.channel cimport Channel
from vbdev.core.engine.engine cimport Engine, IoOwner
from vbdev.core.engine.turn cimport MOST_AT_ONCE

from vbdev.vocab import Op, Status


cdef extern from *:
    """
    /* What `await` asks first, where there is one: no exception carries the answer. */
    static void vbdev_set_send(PyTypeObject *type, sendfunc send) {
        type->tp_as_async->am_send = send;
    }
    """
    ctypedef PySendResult (*sendfunc)(PyObject *, PyObject *, PyObject **)
    void vbdev_set_send(type cls, sendfunc send)

cdef enum:
    SNAPSHOT = 128
    CALLERS_FLAGS = IN_BYTES - 1
    LOWEST_STATUS = -8

# Where an I/O is that its coroutine has sent off.
cdef enum:
    TRIP_NONE = 0
    TRIP_FORWARD = 1
    TRIP_MEMORY = 2

# What children may be asked for besides what their parent is.
cdef uint64_t OWN_OPS = (
    (1 << OP_READ) | (1 << OP_WRITE) | (1 << OP_COMPARE) | (1 << OP_FLUSH) | (1 << OP_UNMAP)
    | (1 << OP_WRITE_ZEROES) | (1 << OP_COPY) | (1 << OP_RESET) | (1 << OP_SEEK_DATA)
    | (1 << OP_SEEK_HOLE))
cdef uint64_t WITH_DATA = (1 << OP_READ) | (1 << OP_WRITE) | (1 << OP_COMPARE)
cdef uint64_t RESULTS = (1 << OP_SEEK_DATA) | (1 << OP_SEEK_HOLE) | (1 << OP_ZONE_APPEND)
# Whose data is as long as their blocks.
cdef uint64_t BY_BLOCKS = WITH_DATA | (1 << OP_COMPARE_AND_WRITE) | (1 << OP_ZONE_APPEND)

# Members of the enums by their number, so that none is looked up for an I/O.
cdef list OPS = list(range(OP_LIMIT))
for _op in Op:
    OPS[_op] = _op
cdef list STATUSES = [Status(number) for number in range(LOWEST_STATUS, IO_SUCCESS + 1)]


cdef inline object status_member(int status):
    return STATUSES[status - LOWEST_STATUS]


cdef inline int errno_of(int status, int32_t detail) noexcept:
    return 0 if status == IO_NVME_ERROR or status == IO_SCSI_ERROR else detail


cdef inline void *in_hand(const channel_state *s, const bdev_io *io) noexcept nogil:
    return s.in_hand[io.index] if io.index < s.in_hand_size else NULL


cdef int raise_pending() except -1:
    # What a bare C API call has raised becomes an exception of the caller.
    return -1


cdef bint is_one(object value, kind) except -1:
    """Say what `isinstance` does; of an object that does not tell, that it is none."""
    try:
        return isinstance(value, kind)
    except Exception:
        return False


cdef str shown(object value):
    """Return how an object shows itself, if it can."""
    try:
        return repr(value)
    except Exception:
        return f"<{type(value).__name__}>"


@cython.final
@cython.freelist(256)
cdef class BdevIO:
    """One I/O, as `handle` receives it. It is the coroutine's until it ends.

    In the same place as in a batch, on the way down and, behind `await io.forward()`, on the way
    up: its data may be looked at, and changed, by the same rules. Each attribute is a RuntimeError
    once it has ended.
    """

    cdef bdev_io *live(self) except NULL:
        if self.io == NULL:
            raise RuntimeError("the I/O has ended: it is not its coroutine's any more")
        return self.io

    cdef bdev_io *held(self) except NULL:
        """Return the I/O, to be changed or sent off: the coroutine has it, and on its thread."""
        if self.io == NULL:
            raise RuntimeError("the I/O has ended: it is not its coroutine's any more")
        if self.trip:
            raise RuntimeError("the I/O is on its way already: await what it was sent off by")
        if self.aborted:
            raise RuntimeError("the I/O has been aborted: nothing more can be done for it")
        self._be_here()
        return self.io

    cdef int _be_here(self) except -1:
        cdef Engine engine = self.coroutines.engine
        if engine.thread and engine.thread != this_thread():
            raise RuntimeError("an I/O of one reactor handled on another's thread")
        return 0

    def __repr__(self):
        if self.io == NULL:
            return "<BdevIO that has ended>"
        return (f"<BdevIO {self.op!r} of {self.io.num_blocks} blocks at {self.io.offset_blocks},"
                f" on {self.coroutines.channel.bdev!r}>")

    # What it is

    @property
    def op(self):
        """Its type, an `Op`."""
        return OPS[self.live().op]

    @property
    def offset_blocks(self):
        """Where it begins, in blocks. Assigning maps it, which is undone on the way up.

        The source of a COPY moves by as much as its target.
        """
        return self.live().offset_blocks

    @offset_blocks.setter
    def offset_blocks(self, uint64_t value):
        io_map_to(self.held(), value)

    @property
    def num_blocks(self):
        """Its length in blocks."""
        return self.live().num_blocks

    @property
    def src_offset_blocks(self):
        """COPY: where it reads, in blocks."""
        return self.live().src_offset_blocks

    @property
    def flags(self):
        """Its `IoFlag`s, an int."""
        return self.live().flags & CALLERS_FLAGS

    @property
    def arg(self):
        """ZONE_MANAGEMENT: the `ZoneAction`; GET_ZONE_INFO: how many zones."""
        return self.live().arg

    @property
    def id(self):
        """What tells it from others that are under way, an int; another's when it has ended."""
        return self.live().index

    @property
    def status(self):
        """How the layer below has ended it, a `Status`; PENDING where none was asked."""
        return status_member(self.live().status)

    @property
    def errno(self):
        """The errno that goes with a failure; 0 where there is none."""
        return errno_of(self.live().status, self.io.err)

    @property
    def detail(self):
        """What goes with the status: an errno; of NVME_ERROR sct << 8 | sc."""
        return self.live().err

    @property
    def result(self):
        """SEEK_DATA, SEEK_HOLE, ZONE_APPEND: what came out, in blocks. Assignable."""
        return self.live().result

    @result.setter
    def result(self, uint64_t value):
        cdef bdev_io *io = self.held()
        if (RESULTS >> io.op) & 1:
            io.result = value

    def data(self):
        """Return a memoryview for each piece of its data.

        The memory belongs to the I/O: a view is good until the next await, and not beyond the
        I/O's end. A READ's data can be written to, a WRITE's behind `copy_data`: until then what
        a writer gave can only be read.
        """
        views = []
        add_views(self.held(), views)
        return views

    # What is done for it

    def copy_data(self):
        """Give it a private copy of its data, so that it can be changed; await it.

        Undone on the way up. Where no memory is left, the coroutine goes on when there is; an I/O
        that is larger than any buffer fails with ENOMEM, and its coroutine is closed.
        """
        self.held()
        self.answer = None
        self.coroutines._get_memory(self)
        return self

    def forward(self, Channel to=None):
        """Send it to the base, or to the bdev behind another channel; await how that ended it.

        The `Status` that `await` returns is `status` as well. The I/O leaves when the coroutine
        waits, or returns, with those of others. It may be forwarded again then: to try once more,
        or to try another. Not awaited: it goes up as it comes back.
        """
        cdef bdev_io *io = self.held()
        cdef Channel own = self.coroutines.channel
        if to is None:
            if own.base is None:
                raise RuntimeError(f"{own.bdev!r} has no base to forward to")
            to = own.base
        elif to is own:
            raise ValueError(f"an I/O of {own.bdev!r} forwarded to its own channel")
        elif to is not own.base:
            if to.engine is not own.engine:
                raise RuntimeError(f"an I/O of one reactor for a channel of another: {to.bdev!r}")
            if to.s.block_size != own.s.block_size or to.s.hides_metadata != own.s.hides_metadata:
                raise ValueError(f"{to.bdev!r} has blocks of another kind than {own.bdev!r}")
        self.trip = TRIP_FORWARD
        self.under_way += 1
        self.coroutines._send(to, io)
        return self

    def child(self, Channel channel not None, op=None, offset_blocks=None, num_blocks=None,
              data=None, *, int flags=0, uint64_t src_offset_blocks=0):
        """Make an I/O of the coroutine's own, for this one, on any channel of this reactor.

        Without `op` it does what this one does, with its data, at the same place or at
        `offset_blocks`. With one it does that: READ, WRITE, COMPARE of `data`, a buffer or a list
        of them that stays alone until it ends, or, without any, of this I/O's own data; FLUSH,
        UNMAP, WRITE_ZEROES, COPY, RESET, SEEK_*. `offset_blocks` and `num_blocks` are this I/O's
        where they are not given. `flags`: `IoFlag`s, of one with an `op`.

        It is on its way from this call on, several side by side; await it for its `Status`. One
        that fails fails this I/O, unless the coroutine says how that is to end.
        """
        # One piece: half of it says what may be asked for, the rest fills in one struct.
        cdef bdev_io *io = self.held()
        cdef Channel own = self.coroutines.channel
        cdef ChildIO child
        cdef uint64_t expected
        if channel.engine is not own.engine:
            raise RuntimeError(f"an I/O of one reactor for a channel of another: {channel.bdev!r}")
        child = ChildIO.__new__(ChildIO)
        child.parent = self
        child.channel = channel
        child.offset_blocks = io.offset_blocks if offset_blocks is None else offset_blocks
        child.num_blocks = io.num_blocks if num_blocks is None else num_blocks
        child.src_offset_blocks = io.src_offset_blocks if op is None else src_offset_blocks
        if op is None:
            if io.op == OP_ZCOPY or io.op == OP_ABORT:
                raise ValueError(f"no child can do what a {self.op.name} does")
            if data is not None or flags or num_blocks is not None:
                raise ValueError("a child without an op has its parent's data, length and flags")
            child.number = io.op
            child.flags = io.flags
            child.arg = io.arg
            child.cmd = io.cmd
            child.iovs2 = io.iovs2
            child.iovcnt2 = io.iovcnt2
        else:
            if not 0 < op < OP_LIMIT or not (OWN_OPS >> <int>op) & 1:
                raise ValueError(f"a child can not be a {op!r}")
            child.number = op
            child.flags = <uint16_t>(flags & CALLERS_FLAGS)
        if data is not None:
            if not (WITH_DATA >> child.number) & 1:
                raise ValueError(f"a {OPS[child.number].name} takes no data")
            child._attach(data, child.number == OP_READ)
        elif op is None or (WITH_DATA >> child.number) & 1:
            if child.number == OP_READ and io.op != OP_READ:
                raise ValueError("a READ fills data of its own, and not what a writer gave")
            child.iovs = io.iovs
            child.iovcnt = io.iovcnt
            child.domain = io.domain
            child.md = io.md
            child.dif_exclude = io.dif_exclude
            child.flags |= io.flags & (
                HAS_DOMAIN | HAS_METADATA | HAS_BARE_DATA | HAS_POOL_BUFFER | FLAG_PRACT)
        if (BY_BLOCKS >> child.number) & 1:
            expected = channel.s.block_size
            if channel.s.hides_metadata or (
                    child.flags & (FLAG_PRACT | HAS_BARE_DATA) & channel.s.special_flags):
                expected = channel.s.data_block_size
            if child._length() != expected * child.num_blocks:
                raise ValueError(
                    f"{child._length()} bytes of data for {child.num_blocks} blocks of"
                    f" {expected} bytes on {channel.bdev!r}")
        if self.children is None:
            self.children = []
        self.coroutines._send_child(child)
        return child

    def lock(self, offset_blocks=None, num_blocks=None, *, bint reads=False):
        """Keep blocks of the bdev from being changed, with `reads` from being read too.

        `async with io.lock():`, for this I/O's own blocks where nothing else is given. I/O that is
        under way in the range ends first, but for this one; what comes waits until the block is
        left, on every channel of every reactor. Nothing that goes to the base is held up. Locks
        that overlap, or that are for I/Os in each other's range, come in the order of asking.

        What guarantees progress: an I/O has one lock, and asks for it with nothing of its own under
        way (RuntimeError otherwise); while it waits it changes nothing, and no other lock waits for
        it. An ABORT, a RESET or the bdev's removal ends the coroutine where it waits, and gives
        the lock back.
        """
        cdef bdev_io *io = self.held()
        if self.under_way:
            raise RuntimeError(
                "children of the I/O are under way: await them before its blocks are locked, or the"
                " lock would wait for them")
        if self.has_lock:
            raise RuntimeError("the I/O has a lock already: locks of two ranges could wait for"
                               " each other for ever")
        if self.coroutines.make_lock is None:
            raise RuntimeError(f"{self.coroutines.channel.bdev!r} is not registered")
        return self.coroutines.make_lock(
            self,
            io.offset_blocks if offset_blocks is None else offset_blocks,
            io.num_blocks if num_blocks is None else num_blocks,
            reads)

    @property
    def rests(self):
        """Whether it waits for its lock. Who waits for I/Os of its channel does not for this one.
        """
        return self.resting

    @rests.setter
    def rests(self, bint rests):
        self.resting = rests
        if rests:
            self.coroutines.channel.engine.has_news = True

    def complete(self, status=None, int errno=0, *, nvme=None, scsi=None, uint32_t cdw0=0):
        """End it now, as `IOBatch.complete` does; its coroutine may go on without it.

        Where that has nothing more to do, it returns a Status instead, or nothing: see `handle`.
        RuntimeError while something of it is under way, and once it has ended.
        """
        cdef bdev_io *io = self.live()
        cdef int value
        cdef int32_t detail
        self._be_here()
        if self.under_way:
            raise RuntimeError("the I/O is on its way, or children of it are: await them first")
        if status is not None or nvme is not None or scsi is not None:
            value, detail = status_parts("BdevIO.complete", status, errno, nvme, scsi)
            self.final = <int8_t>value
            self.final_err = detail
            self.final_cdw0 = cdw0
        elif cdw0:
            io.cdw0 = cdw0
        self.coroutines._finish(self)

    # Awaiting

    def __await__(self):
        return self

    def __next__(self):
        if self.trip:
            return self
        raise StopIteration(self.answer)

    def _woken(self, future):
        if self.awaits is future:
            self.awaits = None
            self.coroutines.wake(self)


@cython.final
cdef class ChildIO:
    """An I/O that a coroutine made (`BdevIO.child`); await it. What it says holds once `done`.

    offset_blocks, num_blocks, src_offset_blocks: as it was asked for. result: SEEK_DATA,
    SEEK_HOLE: an offset in blocks; ZONE_APPEND: where the data went. cdw0: of an NVMe completion.
    """

    def __dealloc__(self):
        self._release()

    def __repr__(self):
        return f"<ChildIO {self.op!r} of {self.num_blocks} blocks at {self.offset_blocks}>"

    cdef void _release(self) noexcept:
        cdef Py_ssize_t i
        for i in range(self.num_views):
            PyBuffer_Release(&self.views[i])
        self.num_views = 0
        free(self.views)
        free(self.own_iovs)
        self.views = NULL
        self.own_iovs = self.iovs = NULL

    cdef int _attach(self, data, bint filled) except -1:
        """Hold on to the buffers until the child ends."""
        cdef Py_ssize_t i
        # A list could change while its buffers are asked for.
        pieces = tuple(data) if isinstance(data, (list, tuple)) else (data,)
        if len(pieces) > 0xffff:
            raise ValueError(f"{len(pieces)} pieces of data")
        self.views = <Py_buffer *>calloc(max(len(pieces), 1), sizeof(Py_buffer))
        self.own_iovs = <iovec *>calloc(max(len(pieces), 1), sizeof(iovec))
        if self.views == NULL or self.own_iovs == NULL:
            raise MemoryError
        for i in range(len(pieces)):
            PyObject_GetBuffer(
                pieces[i], &self.views[i], PyBUF_WRITABLE if filled else PyBUF_SIMPLE)
            self.num_views = i + 1
            self.own_iovs[i].iov_base = self.views[i].buf
            self.own_iovs[i].iov_len = self.views[i].len
        self.iovs = self.own_iovs
        self.iovcnt = <uint16_t>len(pieces)
        return 0

    cdef uint64_t _length(self) noexcept:
        cdef uint64_t total = 0
        cdef uint32_t i
        for i in range(self.iovcnt):
            total += self.iovs[i].iov_len
        return total

    @property
    def op(self):
        """Its type, an `Op`."""
        return OPS[self.number]

    @property
    def status(self):
        """How it ended, a `Status`; PENDING until then."""
        return status_member(self.ended)

    @property
    def errno(self):
        """The errno that goes with a failure; 0 where there is none."""
        return errno_of(self.ended, self.err)

    @property
    def detail(self):
        """What goes with the status: an errno; of NVME_ERROR sct << 8 | sc."""
        return self.err

    def __await__(self):
        return self

    def __next__(self):
        if not self.done:
            return self
        raise StopIteration(status_member(self.ended))


cdef PySendResult send_io(PyObject *self, PyObject *_arg, PyObject **out) noexcept:
    cdef BdevIO one = <BdevIO>self
    if one.trip:
        out[0] = self
    else:
        out[0] = <PyObject *>one.answer
    Py_INCREF(out[0])
    return PYGEN_NEXT if one.trip else PYGEN_RETURN


cdef PySendResult send_child(PyObject *self, PyObject *_arg, PyObject **out) noexcept:
    cdef ChildIO child = <ChildIO>self
    if not child.done:
        out[0] = self
    else:
        out[0] = <PyObject *>STATUSES[child.ended - LOWEST_STATUS]
    Py_INCREF(out[0])
    return PYGEN_RETURN if child.done else PYGEN_NEXT


vbdev_set_send(BdevIO, send_io)
vbdev_set_send(ChildIO, send_child)


@cython.no_gc_clear
@cython.final
cdef class Coroutines(IoOwner):
    """The coroutines of one channel, and the owner of the children that they make.

    Parameters
    ----------
    engine, channel: whose they are.
    handle: called as (channel, io) for each I/O; returns its coroutine.
    future_class: what else a coroutine may await; has `add_done_callback`.
    send_msg: called with a function, runs it soon on the channel's thread.
    lock: called as (io, offset_blocks, num_blocks, reads), makes what `BdevIO.lock` returns.

    """

    def __init__(self, engine, Channel channel not None, *, handle, future_class, send_msg,
                 lock=None):
        self.make_lock = lock
        self.channel = channel
        self.handle_function = getattr(handle, "__func__", handle)
        self.handle_self = getattr(handle, "__self__", None)
        if self.handle_function is handle:
            self.handle_self = None
        self.future_class = future_class
        self.send_msg = send_msg
        self.outs = []
        self.woken = []
        self.lingering = set()
        self.starved = deque()
        self.failures = []

    def close(self):
        """Close what goes on behind the end of its I/O. Only without outstanding I/O."""
        cdef BdevIO one
        if self.closed:
            return
        if self.channel.s.outstanding:
            raise RuntimeError(
                f"channel of {self.channel.bdev!r} has {self.channel.s.outstanding} I/Os"
                " outstanding")
        self.running += 1
        for one in list(self.lingering):
            self._stop(one)
        self._leave()
        IoOwner.close(self)
        self.closed = True

    # The way down

    def submit(self, Channel _channel, IOBatch ios not None, /):
        """Take a batch: start a coroutine for each I/O."""
        cdef bdev_io *snapshot[SNAPSHOT]
        cdef bdev_io **v = snapshot
        cdef Py_ssize_t i, n = ios.n
        cdef IOBatch aborts = None
        cdef void *found
        if n > SNAPSHOT:
            v = <bdev_io **>malloc(n * sizeof(void *))
            if v == NULL:
                ios.finish_all(IO_FAILED, ENOMEM)
                return
        memcpy(<void *>v, <void *>ios.v, n * sizeof(void *))
        ios.n = 0
        self.running += 1
        for i in range(n):
            if v[i].op == OP_ABORT:
                if aborts is None:
                    aborts = new_batch(self.engine)
                aborts.append(v[i])
                continue
            found = in_hand(&self.channel.s, v[i])
            if found == NULL:
                self._start(v[i])
            elif (<BdevIO>found).trip == TRIP_MEMORY:
                self._memory_came(<BdevIO>found)
            else:
                # Its coroutine sent it to a layer above. This frame's end is not that trip's.
                v[i].hooked_depth = v[i].depth
                self.engine.push_done(v[i], IO_FAILED, ELOOP)
        if v != snapshot:
            free(<void *>v)
        if aborts is not None:
            self._flush()  # their victims may have come with them
            self._abort_victims(aborts)
        self._leave()

    cdef int _start(self, bdev_io *io) except -1:
        """Make the coroutine of an I/O, and run it up to its first await."""
        cdef channel_state *s = &self.channel.s
        cdef PyObject *args[3]
        cdef PyObject *made
        cdef BdevIO one
        cdef uint32_t size
        cdef void *grown
        if io.index >= s.in_hand_size:
            size = 64
            while size <= io.index:
                size *= 2
            grown = realloc(<void *>s.in_hand, size * sizeof(void *))
            if grown == NULL:
                self.engine.push_done(io, IO_FAILED, ENOMEM)
                return 0
            s.in_hand = <void **>grown
            memset(<void *>(s.in_hand + s.in_hand_size), 0,
                   (size - s.in_hand_size) * sizeof(void *))
            s.in_hand_size = size
        one = BdevIO.__new__(BdevIO)
        one.io = io
        one.coroutines = self
        s.in_hand[io.index] = <void *>one
        Py_INCREF(<PyObject *>one)
        args[0] = <PyObject *>self.handle_self
        args[1] = <PyObject *>self.channel
        args[2] = <PyObject *>one
        if self.handle_self is None:
            made = PyObject_Vectorcall(<PyObject *>self.handle_function, args + 1, 2, NULL)
        else:
            made = PyObject_Vectorcall(<PyObject *>self.handle_function, args, 3, NULL)
        if made == NULL:
            try:
                raise_pending()
            except BaseException as error:
                return self._raised(one, error)
        coroutine = <object>made
        Py_DECREF(made)
        if not PyCoro_CheckExact(made) and not is_one(coroutine, Coroutine):
            return self._raised(one, TypeError(
                f"handle returned {shown(coroutine)}, which is no coroutine: it has to be"
                " `async def`"))
        one.coroutine = coroutine
        return self._step(one)

    cdef int _step(self, BdevIO one) except -1:
        """Run a coroutine up to its next await. `Engine.calling` is the channel meanwhile."""
        cdef PyObject *got = NULL
        cdef PySendResult result
        cdef object value, coroutine = one.coroutine
        one.awaits = None
        one.running = True
        result = PyIter_Send(<PyObject *>coroutine, Py_None, &got)
        if result == PYGEN_NEXT:
            value = <object>got
            Py_DECREF(got)
            if not self._waits_for(one, value):
                return self._refuse(one, value)
            return self._paused(one)
        one.running = False
        one.coroutine = None
        if result == PYGEN_RETURN:
            value = <object>got
            Py_DECREF(got)
            return self._returned(one, value)
        try:
            raise_pending()
        except BaseException as error:
            return self._raised(one, error)

    cdef int _paused(self, BdevIO one) except -1:
        """A coroutine waits: where it has been aborted while it ran, it is closed now."""
        one.running = False
        if one.aborted and one.under_way == 0:
            return self._stop(one)
        return 0

    cdef bint _waits_for(self, BdevIO one, object awaited) except -1:
        """Note what a coroutine awaits; False: it is nothing that could come."""
        cdef bint came
        if awaited is one:
            came = one.trip == TRIP_NONE
        elif isinstance(awaited, ChildIO):
            if (<ChildIO>awaited).parent is not one:
                return False
            came = (<ChildIO>awaited).done
        else:
            if self.send_msg is None or not is_one(awaited, self.future_class):
                return False
            one.awaits = awaited
            awaited.add_done_callback(one._woken)
            return True
        if not came:
            one.awaits = awaited
        elif self.send_msg is None:
            return False
        else:  # a generator in between yields what it finds, come or not
            self.wake(one)
        return True

    cdef int _refuse(self, BdevIO one, object awaited) except -1:
        """Tell a coroutine, where it awaits, that it awaits nothing that could come."""
        while True:
            try:
                if isinstance(awaited, (BdevIO, ChildIO)):
                    awaited = one.coroutine.throw(RuntimeError(
                        f"handle awaits {shown(awaited)}, which another coroutine has"))
                else:
                    awaited = one.coroutine.throw(TypeError(
                        f"handle awaits {shown(awaited)}, which no reactor can resolve: neither an"
                        " I/O nor a Future or Task of vbdev.reactor.task"))
            except StopIteration as stop:
                one.running = False
                one.coroutine = None
                return self._returned(one, stop.value)
            except BaseException as error:
                one.running = False
                one.coroutine = None
                return self._raised(one, error)
            if self._waits_for(one, awaited):
                return self._paused(one)

    # The end of a coroutine

    cdef int _returned(self, BdevIO one, object value) except -1:
        """A coroutine has returned: its I/O ends as it says, or else as it went."""
        cdef ChildIO child
        if one.io == NULL:
            self.lingering.discard(one)
            return 0
        if one.aborted:
            one.final = IO_ABORTED
            one.final_err = 0
        elif value is None:
            pass
        elif isinstance(value, ChildIO) and (<ChildIO>value).parent is one and value.done:
            child = value
            one.final = child.ended
            one.final_err = child.err
            one.final_cdw0 = child.cdw0
            if (RESULTS >> one.io.op) & 1 and child.number == one.io.op and not one.trip:
                one.io.result = child.result
                if child.result != <uint64_t>-1:  # it moves with its offset
                    one.io.result += one.io.offset_blocks - child.offset_blocks
        elif (isinstance(value, int) and not isinstance(value, bool)
                and LOWEST_STATUS <= value <= IO_SUCCESS and value != IO_PENDING):
            one.final = value
            if one.final == one.io.status and not one.trip:
                one.final_err = one.io.err
                one.final_cdw0 = one.io.cdw0
            elif one.final == one.child_status:
                one.final_err = one.child_err
                one.final_cdw0 = one.child_cdw0
        else:
            return self._raised(one, TypeError(
                f"handle returned {shown(value)}: neither nothing, nor a final Status, nor a child"
                " that has ended"))
        if one.under_way == 0:
            self._finish(one)
        return 0

    cdef int _raised(self, BdevIO one, object error) except -1:
        """A coroutine has raised: its I/O fails, once nothing of it is under way."""
        if one.io == NULL:
            self.lingering.discard(one)
            return self._failed(error, 0)
        one.final = IO_ABORTED if one.aborted else IO_FAILED
        one.final_err = 0
        self._failed(error, 1)
        if one.under_way == 0:
            self._finish(one)
        return 0

    cdef int _failed(self, object error, Py_ssize_t n) except -1:
        """Keep an exception for the end of the run: one of each kind is told."""
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            self.engine.report(self.channel, error, n)  # which has the loop raise it
            return 0
        for failure in self.failures:
            if type(failure[0]) is type(error):
                failure[1] += n
                return 0
        self.failures.append([error, n])
        return 0

    cdef int _finish(self, BdevIO one) except -1:
        """End an I/O of which nothing is under way."""
        cdef bdev_io *io = one.io
        cdef IOBatch aborts = one.aborts
        if one.final != IO_PENDING:
            io.err = one.final_err
            io.cdw0 = one.final_cdw0
            io.status = one.final
        elif one.child_status != IO_PENDING:
            io.err = one.child_err
            io.cdw0 = one.child_cdw0
            io.status = one.child_status
        elif io.status == IO_PENDING:
            io.err = 0
            io.status = IO_SUCCESS
        one.io = NULL
        one.aborts = None
        self.channel.s.in_hand[io.index] = NULL
        if one.coroutine is not None:
            self.lingering.add(one)
        io.hooked_depth = io.depth  # it has been seen
        if io == self.unwinding:
            io_doubt(io)
            self.unwinding = NULL  # goes up from where it is
        else:
            self.engine.push_done(io, io.status, io.err)
        if aborts is not None:
            aborts.finish_all(IO_SUCCESS, 0)
        Py_DECREF(<PyObject *>one)
        return 0

    cdef int _stop(self, BdevIO one) except -1:
        """Close a coroutine where it waits; its I/O, if it has one still, ends as ABORTED."""
        coroutine = one.coroutine
        if one.running:
            one.aborted = True  # where it waits next
            return 0
        one.coroutine = one.awaits = None
        if one.io == NULL:
            self.lingering.discard(one)
        elif one.final == IO_PENDING:
            one.final = IO_ABORTED
            one.final_err = 0
        if coroutine is not None:
            try:
                coroutine.close()
            except BaseException as error:
                self._failed(error, 0)
        if one.io != NULL and one.under_way == 0:
            self._finish(one)
        return 0

    # ABORT and RESET

    cdef int _abort_victims(self, IOBatch aborts) except -1:
        """End what ABORTs name and a coroutine has; the base is asked for the others."""
        cdef channel_state *s = &self.channel.s
        cdef IOBatch rest = new_batch(self.engine)
        cdef bdev_io *victim
        cdef void *found
        cdef Py_ssize_t i
        cdef IOBatch one
        cdef Channel to
        for i in range(aborts.n):
            victim = aborts.v[i].victim
            found = NULL
            to = self._sent_to(victim)
            if to is not None and to is not self.channel.base:  # another than the base has it
                one = new_batch(self.engine)
                one.append(aborts.v[i])
                to.submit_batch(one)
                continue
            if (victim != NULL and victim.generation == <uint32_t>aborts.v[i].result
                    and victim.state == IO_SUBMITTED and victim.depth
                    and victim.frames[victim.depth - 1].channel == s):
                found = in_hand(s, victim)
            if found != NULL:
                self._abort(<BdevIO>found, aborts.v[i])
            else:
                rest.append(aborts.v[i])
        aborts.n = 0
        if rest.n == 0:
            return 0
        if self.channel.base is None:
            rest.finish_all(IO_FAILED, ENOENT)
        else:
            (<Channel>self.channel.base).submit_batch(rest)
        return 0

    cdef Channel _sent_to(self, const bdev_io *victim):
        """Return the channel that a coroutine here has forwarded an I/O to; None: nobody's."""
        cdef channel_state *s = &self.channel.s
        cdef uint8_t d
        if victim == NULL or in_hand(s, victim) == NULL:
            return None
        for d in range(victim.depth - 1 if victim.depth else 0):
            if victim.frames[d].channel == s:
                return <Channel>victim.frames[d + 1].channel.object
        return None

    def abort_all(self):
        """End all that coroutines have, and is not below, as ABORTED: for a RESET."""
        cdef channel_state *s = &self.channel.s
        cdef BdevIO one
        cdef uint32_t i
        self.running += 1
        for i in range(s.in_hand_size):
            if s.in_hand[i] != NULL:
                one = <BdevIO>s.in_hand[i]
                if one.io.op != OP_RESET and one.trip == TRIP_NONE:
                    self._abort(one, NULL)
        self._leave()

    cdef int _abort(self, BdevIO one, bdev_io *abort) except -1:
        """End an I/O as ABORTED, and the ABORT then: when none of its children is under way."""
        cdef ChildIO child
        if abort != NULL:
            if one.aborts is None:
                one.aborts = new_batch(self.engine)
            one.aborts.append(abort)
        if one.aborted:
            return 0
        one.aborted = True
        if one.children:
            for child in list(one.children):
                self._abort_child(child)
        if one.under_way == 0 and not one.running:
            self._stop(one)
        return 0

    cdef int _abort_child(self, ChildIO child) except -1:
        cdef ChildIO abort
        if child.done:
            return 0  # it is back; its parent is about to be told
        if child.io == NULL:
            self.starved.remove(child)
            child.ended = IO_ABORTED
            return self._child_ended(child)
        if child.number == OP_ABORT:
            return 0
        abort = ChildIO.__new__(ChildIO)
        abort.parent = child.parent
        abort.channel = child.channel
        abort.number = OP_ABORT
        abort.victim = child
        if self._make(abort):
            abort.parent.children.append(abort)
            abort.parent.under_way += 1
        return 0

    # Memory

    cdef int _get_memory(self, BdevIO one) except -1:
        """Put a copy in place of an I/O's data, now or when there is memory for it."""
        cdef bdev_io *io = one.io
        cdef channel_state *s = &self.channel.s
        cdef Engine engine = self.engine
        cdef bint held = io_holds_memory(io)
        if io.iovcnt == 0 or io.op == OP_ZCOPY or (
                io.bounce != NULL and io.bounce.depth == io.depth):
            return 0
        if (held or s.nomem.head == NULL) and engine.bounce(
                io, io.op != OP_READ, io.op == OP_READ, held):
            self._hurry(one)  # its children wait for nobody who may wait for this memory
            return 0
        one.under_way += 1
        one.trip = TRIP_MEMORY
        if engine.buffers.can_ever_get(io_bounce_bytes(io), held):
            io.stage = STAGE_HELD
            engine.wait_in(&s.nomem, io)
        else:
            engine.push_done(io, IO_FAILED, ENOMEM)
        return 0

    cdef int _memory_came(self, BdevIO one) except -1:
        """An I/O that waited for memory has come to the module again."""
        one.trip = TRIP_NONE
        one.under_way -= 1
        self._get_memory(one)
        if one.trip == TRIP_NONE:
            self._trip_ended(one)
        return 0

    # The way up

    def completed(self, Channel _channel, IOBatch ios not None, /):
        """Go on with the I/Os that have come back; what ends stays in the batch, and goes up."""
        cdef bdev_io *snapshot[SNAPSHOT]
        cdef bdev_io **v = snapshot
        cdef Py_ssize_t i, n = ios.n
        cdef channel_state *s = &self.channel.s
        cdef bdev_io *before = self.unwinding
        cdef void *found
        cdef BdevIO one
        if n > SNAPSHOT:
            v = <bdev_io **>malloc(n * sizeof(void *))
            if v == NULL:
                raise MemoryError
        memcpy(<void *>v, <void *>ios.v, n * sizeof(void *))
        ios.n = 0
        self.running += 1
        for i in range(n):
            found = in_hand(s, v[i])
            if found == NULL:  # the module forwarded it in a batch
                ios.append(v[i])
                continue
            one = <BdevIO>found
            if one.trip == TRIP_MEMORY:
                # It waited, and has been ended where it waited.
                one.final = v[i].status
                one.final_err = v[i].err
                one.aborted = True
            else:
                one.answer = status_member(v[i].status)
            one.trip = TRIP_NONE
            one.under_way -= 1
            self.unwinding = v[i]
            self._trip_ended(one)
            if self.unwinding == NULL:
                ios.append(v[i])
        self.unwinding = before
        if v != snapshot:
            free(<void *>v)
        self._leave()

    cdef int _trip_ended(self, BdevIO one) except -1:
        """The I/O is its coroutine's again."""
        if one.coroutine is None:
            if one.under_way == 0:
                self._finish(one)
        elif one.aborted:
            if one.under_way == 0:
                self._stop(one)
        elif one.awaits is one:
            self._step(one)
        return 0

    def wake(self, BdevIO one not None):
        """Run a coroutine whose Future has come, soon, and with the others of this turn."""
        if not self.woken:
            self.send_msg(self.resume)
        self.woken.append(one)

    def resume(self):
        """Run the coroutines whose Futures have come. For the loop."""
        cdef BdevIO one
        cdef uint64_t began_ns = self.engine.now_ns(), blocked_ns = self.engine.blocked_ns
        cdef void *before = self.engine.calling
        woken, self.woken = self.woken, []
        self.running += 1
        self.engine.calling = <void *>self.channel
        try:
            for one in woken:
                if one.coroutine is not None and not one.aborted:
                    self._step(one)
        finally:
            self.engine.calling = before
        self._leave()
        self.channel._was_slow(since_ns(began_ns, self.engine.now_ns()), blocked_ns)

    # Children

    cdef int _send_child(self, ChildIO child) except -1:
        """Send a child off, now or when there is a BdevIO for it."""
        cdef BdevIO parent = child.parent
        cdef bint made = False
        parent.children.append(child)
        parent.under_way += 1
        if not self.starved or parent.made == 0:
            made = self._make(child)
        if not made:
            self.starved.append(child)
            if self.io_token is None:
                self.io_token = self.engine.io_wait(self._io_is_free)
        return 0

    cdef bint _make(self, ChildIO child) except -1:
        """Fill a BdevIO in; False: there is none. A parent that has no child may have a reserve."""
        cdef Engine engine = self.engine
        cdef bdev_io *parent = child.parent.io
        cdef bdev_io *io = engine.get_child(
            child.parent.made == 0 and engine.may_take_reserve(parent))
        if io == NULL:
            return False
        io.op = child.number
        io.offset_blocks = child.offset_blocks
        io.num_blocks = child.num_blocks
        io.src_offset_blocks = child.src_offset_blocks
        io.flags = child.flags
        io.arg = child.arg
        io.dif_exclude = child.dif_exclude
        io.iovcnt = child.iovcnt
        if child.iovcnt:
            io.iovs = child.iovs
        io.iovs2 = child.iovs2
        io.iovcnt2 = child.iovcnt2
        io.domain = child.domain
        io.md = child.md
        io.cmd = child.cmd
        if child.victim is not None:
            io.victim = child.victim.io
            io.result = io.victim.generation
        io.privileged = io.index >= engine.pool_size or io_holds_memory(parent)
        io.owner = &self.o
        io.cookie = <uint64_t><void *>child
        Py_INCREF(<PyObject *>child)
        child.io = io
        child.parent.made += 1
        self.o.in_flight += 1
        self._send(child.channel, io)
        return True

    def _io_is_free(self):
        self.io_token = None
        self.running += 1
        self._feed()
        self._leave()

    cdef int _feed(self) except -1:
        """Make what waits for a BdevIO, as far as there are some."""
        cdef ChildIO child
        waiting, self.starved = self.starved, deque()
        for child in waiting:
            if (self.starved and child.parent.made) or not self._make(child):
                self.starved.append(child)
        if self.starved and self.io_token is None:
            self.io_token = self.engine.io_wait(self._io_is_free)
        elif not self.starved and self.io_token is not None:
            self.engine.cancel_io_wait(self.io_token)
            self.io_token = None
        return 0

    def rests(self, uint32_t index):
        """Whether an I/O waits for a lock, so that no other lock has to wait for it."""
        return (<BdevIO>self.channel.s.in_hand[index]).resting

    def hurry(self, uint32_t index):
        """Give the children of an I/O memory beyond the limit: others wait for its end."""
        self._hurry(<BdevIO>self.channel.s.in_hand[index])

    cdef int _hurry(self, BdevIO one) except -1:
        cdef ChildIO child
        for child in one.children or ():
            if child.io != NULL:
                self.engine.children.hurry(child.io)
        return 0

    cdef int deliver(self) except -1:
        """Take children back, and go on with those who wait for them. MOST_AT_ONCE in a call."""
        cdef ChildIO child
        cdef BdevIO one
        cdef bdev_io *io
        cdef size_t i, n = min(self.o.ready.n, <size_t>MOST_AT_ONCE)
        cdef uint64_t began_ns = self.engine.now_ns(), blocked_ns = self.engine.blocked_ns
        cdef void *before = self.engine.calling
        cdef list parents = []
        for i in range(n):
            io = self.o.ready.v[i]
            child = <ChildIO><void *>io.cookie
            Py_DECREF(<PyObject *>child)
            child.ended = io.status
            child.err = io.err
            child.cdw0 = io.cdw0
            child.result = io.result
            child.io = NULL
            child.done = True
            child.parent.made -= 1
            self.free_io(io)
            parents.append(child)
        io_list_drop_front(&self.o.ready, n)
        self.running += 1
        # All of them first: who waits for one may look at another.
        for child in parents:
            self._child_ended(child)
        if self.starved:
            self._feed()
        self.engine.calling = <void *>self.channel
        try:
            for child in parents:
                one = child.parent
                if one.awaits is child and one.coroutine is not None and not one.aborted:
                    self._step(one)
        finally:
            self.engine.calling = before
        self._leave()
        self.channel._was_slow(since_ns(began_ns, self.engine.now_ns()), blocked_ns)
        return 0

    cdef int _child_ended(self, ChildIO child) except -1:
        cdef BdevIO parent = child.parent
        child.done = True
        child._release()
        parent.children.remove(child)
        parent.under_way -= 1
        if child.number == OP_ABORT or child.ended == IO_SUCCESS:
            pass
        elif parent.child_status == IO_PENDING or (
                parent.coroutine is None and parent.final == IO_SUCCESS):
            if parent.coroutine is None and parent.final == IO_SUCCESS:
                parent.final = IO_PENDING  # said before anybody could know
            parent.child_status = child.ended
            parent.child_err = child.err
            parent.child_cdw0 = child.cdw0
        if parent.under_way == 0 and not parent.running:
            if parent.coroutine is None:
                self._finish(parent)
            elif parent.aborted:
                self._stop(parent)
        return 0

    # What a run sends off

    cdef int _send(self, Channel channel, bdev_io *io) except -1:
        cdef IOBatch ios
        if channel is self.channel.base:
            ios = self.base_out
            if ios is None:
                ios = new_batch(self.engine) if self.base_spare is None else self.base_spare
                self.base_out = ios
                self.base_spare = None
            batch_add(ios, io)
        else:
            for out in self.outs:
                if out[0] is channel:
                    ios = out[1]
                    break
            else:
                ios = new_batch(self.engine)
                self.outs.append([channel, ios])
            batch_add(ios, io)
        if not self.running:
            self._flush()  # not from a coroutine's own step: a task has it, say
        return 0

    cdef int _flush(self) except -1:
        """Hand on what was sent off, one batch for each channel."""
        cdef IOBatch ios
        cdef Channel channel
        try:
            if self.base_out is not None:
                ios, self.base_out = self.base_out, None
                (<Channel>self.channel.base).submit_batch(ios)
                if only_mine(ios):
                    ios.n = 0
                    self.base_spare = ios
            while self.outs:
                channel, ios = self.outs.pop(0)
                channel.submit_batch(ios)
        except BaseException as error:
            self._failed(error, 0)
        return 0

    cdef int _leave(self) except -1:
        """End a run: hand on what it sent off, and tell what went wrong."""
        self.running -= 1
        while self.base_out is not None or self.outs:
            self._flush()
        if self.failures:
            failures, self.failures = self.failures, []
            for error, n in failures:
                self.engine.report(self.channel, error, n)
        return 0
