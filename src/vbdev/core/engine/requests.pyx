"""Requests: the owner for Python callers, one callback for each I/O.

For the control plane, tests and tools. A target that answers clients has a compiled owner of
its own instead; this one makes a few Python objects for each I/O.
"""

cimport cython
from cpython.buffer cimport (
    PyBUF_SIMPLE,
    PyBUF_WRITABLE,
    PyBUF_WRITE,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free

from vbdev.core.base.atomics cimport __ATOMIC_SEQ_CST, atomic_add_64, atomic_sub_64
from vbdev.core.base.types cimport (
    FLAG_PRACT,
    FLAG_ZCOPY_COMMIT,
    FLAG_ZCOPY_END,
    HAS_DOMAIN,
    HAS_METADATA,
    IN_BYTES,
    IO_NVME_ERROR,
    IO_PENDING,
    IO_SCSI_ERROR,
    IO_SUCCESS,
    OP_COMPARE,
    OP_COMPARE_AND_WRITE,
    OP_GET_ZONE_INFO,
    OP_LIMIT,
    OP_NVME_ADMIN,
    OP_NVME_IO,
    OP_NVME_IO_MD,
    OP_NVME_IOV_MD,
    OP_READ,
    OP_WRITE,
    OP_ZCOPY,
    OP_ZONE_APPEND,
    bdev_io,
    io_list_drop_front,
    iovec,
    this_thread,
)
from vbdev.core.engine.batch cimport IOBatch, new_batch
from vbdev.core.engine.channel cimport Channel
from vbdev.core.engine.engine cimport IoOwner
from vbdev.core.engine.turn cimport CALL_NS, slice_over
from vbdev.core.memory.domain cimport MemoryDomain


cdef enum:
    CALLERS_FLAGS = IN_BYTES - 1
    MAX_PIECES = 1024
    NVME_COMMAND_BYTES = 64
    DIF_CHECK_SHIFT = 26        # of DifCheck's bits, which are SPDK's

cdef uint64_t NEED_DATA = (
    (1 << OP_WRITE) | (1 << OP_COMPARE) | (1 << OP_COMPARE_AND_WRITE) | (1 << OP_ZONE_APPEND)
    | (1 << OP_GET_ZONE_INFO))
cdef uint64_t NEED_COMMAND = (
    (1 << OP_NVME_ADMIN) | (1 << OP_NVME_IO) | (1 << OP_NVME_IO_MD) | (1 << OP_NVME_IOV_MD))
# Whose data is as long as their blocks.
cdef uint64_t BY_BLOCKS = (
    (1 << OP_READ) | (1 << OP_WRITE) | (1 << OP_COMPARE) | (1 << OP_COMPARE_AND_WRITE)
    | (1 << OP_ZONE_APPEND))
# Whose data may be written to.
cdef uint64_t FILLED = (1 << OP_READ) | (1 << OP_GET_ZONE_INFO) | NEED_COMMAND


@cython.final
cdef class Request:
    """One I/O of a `Requests`. `status`, `errno` and `result` hold once `done` is true.

    result: SEEK_DATA, SEEK_HOLE: an offset in blocks, or 2**64 - 1; ZONE_APPEND: where the data
    went. detail: what goes with the status: an errno, or an NVMe or SCSI status, packed.
    """

    cdef bdev_io *io
    cdef Channel channel
    cdef object callback
    cdef MemoryDomain domain
    cdef Py_buffer *views           # of the data, of write_data, of metadata, of the command
    cdef iovec *iovs
    cdef Py_ssize_t num_views
    cdef readonly int op
    cdef readonly int status
    cdef readonly int detail
    cdef readonly uint32_t cdw0
    cdef readonly uint64_t result
    cdef readonly bint done

    def __dealloc__(self):
        self.release()

    cdef void release(self):
        cdef Py_ssize_t i
        for i in range(self.num_views):
            PyBuffer_Release(&self.views[i])
        self.num_views = 0
        if self.domain is not None:
            atomic_sub_64(&self.domain.d.in_flight, 1, __ATOMIC_SEQ_CST)
            self.domain = None
        free(self.views)
        free(self.iovs)
        self.views = NULL
        self.iovs = NULL

    @property
    def errno(self):
        """The errno that goes with a failure; 0 where the layer that failed gave none."""
        if self.status == IO_NVME_ERROR or self.status == IO_SCSI_ERROR:
            return 0
        return self.detail

    @property
    def nvme_status(self):
        """(cdw0, status code type, status code); of what is no NVMe error, what stands for it."""
        from vbdev.vocab.status import nvme_status
        return nvme_status(self.op, self.status, self.detail, self.cdw0)

    @property
    def nvme_fused_status(self):
        """COMPARE_AND_WRITE: (cdw0, the compare's (sct, sc), the write's)."""
        from vbdev.vocab.status import nvme_fused_status
        return nvme_fused_status(self.status, self.detail, self.cdw0)

    @property
    def scsi_status(self):
        """(status, sense key, asc, ascq)."""
        from vbdev.vocab.status import scsi_status
        return scsi_status(self.status, self.detail)

    @property
    def aio_status(self):
        """A negative errno, or 0."""
        from vbdev.vocab.status import aio_status
        return aio_status(self.status, self.detail)

    @property
    def zcopy_data(self):
        """ZCOPY, between start and end: views of the bdev's own memory."""
        if self.io == NULL or self.io.op != OP_ZCOPY:
            raise ValueError("no ZCOPY is open on this request")
        return [PyMemoryView_FromMemory(<char *>self.io.iovs[i].iov_base,
                                        self.io.iovs[i].iov_len, PyBUF_WRITE)
                for i in range(self.io.iovcnt)]


cdef class Requests(IoOwner):
    """Submits I/Os for Python callers and calls each one's callback when it ends.

    The buffers given stay referenced until then; the caller must leave them alone meanwhile.
    """

    cdef dict pending
    cdef set when_left

    def __init__(self, engine):
        self.pending = {}
        self.when_left = set()

    def submit(self, Channel channel not None, int op, uint64_t offset_blocks,
               uint64_t num_blocks, data=None, *, callback=None, int flags=0,
               uint64_t src_offset_blocks=0, Request victim=None, write_data=None, metadata=None,
               cmd=None, uint32_t arg=0, int dif_check_flags_exclude_mask=0,
               MemoryDomain memory_domain=None):
        """Submit one I/O and return its Request, or None when no BdevIO is free.

        None: try later, or ask with `Engine.io_wait`. data: a buffer, or a list of them, whose
        sizes add up to `num_blocks`; of a READ it is filled, of a COMPARE_AND_WRITE compared, and
        of commands and GET_ZONE_INFO whatever they take. write_data: what a COMPARE_AND_WRITE
        writes. metadata: separate metadata, md_len bytes for each block. cmd: an NVMe command, 64
        bytes. arg: ZONE_MANAGEMENT: the action; GET_ZONE_INFO: how many zones.
        dif_check_flags_exclude_mask: `DifCheck`s to leave out. memory_domain: where the data is;
        it comes as a list of (offset, length) in it then. Through a channel that hides metadata,
        and with `IoFlag.PRACT`, blocks are data only. callback(request) runs from the reactor's
        loop, never inside this call.
        """
        # One piece: half of it says what may be asked for, the rest fills in one struct.
        cdef IOBatch ios
        cdef Request request
        cdef bdev_io *io
        cdef Py_ssize_t i
        self._be_here(channel)
        if not 0 < op < OP_LIMIT:
            raise ValueError(f"{op} is no I/O type")
        if channel.engine is not self.engine:
            raise RuntimeError(f"I/O of one reactor for a channel of another: {channel.bdev!r}")
        if victim is not None and victim.channel.engine is not self.engine:
            raise ValueError("an ABORT of an I/O of another reactor")
        if ((NEED_DATA & channel.s.ops_mask) >> op) & 1 and data is None:
            raise ValueError(f"I/O type {op} needs data of {num_blocks} blocks")
        if write_data is None and ((channel.s.ops_mask >> OP_COMPARE_AND_WRITE) & 1
                                   and op == OP_COMPARE_AND_WRITE):
            raise ValueError("COMPARE_AND_WRITE needs write_data")
        if ((NEED_COMMAND & channel.s.ops_mask) >> op) & 1 and (
                cmd is None or len(cmd) != NVME_COMMAND_BYTES):
            raise ValueError(f"I/O type {op} needs a command of {NVME_COMMAND_BYTES} bytes")
        request = Request.__new__(Request)
        request.channel = channel
        request.callback = callback
        request.op = op
        if memory_domain is not None and not data:
            raise ValueError("a memory domain, and no data in it")
        expected = num_blocks * channel.s.block_size
        if channel.s.hides_metadata or flags & FLAG_PRACT & channel.s.special_flags:
            expected = num_blocks * channel.s.data_block_size
        if memory_domain is not None:
            request.domain = memory_domain
            atomic_add_64(&memory_domain.d.in_flight, 1, __ATOMIC_SEQ_CST)
        pieces = self._pieces(data)
        more = self._pieces(write_data)
        self._attach(request, pieces, more, metadata, cmd, (FILLED >> op) & 1, memory_domain)
        if data is not None and (BY_BLOCKS >> op) & 1 and not flags & channel.s.refused_flags:
            self._check_length(request, 0, len(pieces), expected, "data")
        if write_data is not None:
            self._check_length(request, len(pieces), len(more), expected, "write_data")
        if metadata is not None:
            if data is None or not channel.s.md_len:
                raise ValueError("metadata without data, or to a bdev without separate metadata")
            self._check_length(request, len(pieces) + len(more), 1,
                               num_blocks * channel.s.md_len, "metadata")
        # Nothing from here on is foreign, or can fail: the BdevIO is the channel's, or nobody's.
        self._be_here(channel)
        ios = new_batch(self.engine)
        io = self.new_io()
        if io == NULL:
            request.release()
            return None
        io.op = <uint8_t>op
        io.offset_blocks = offset_blocks
        io.num_blocks = num_blocks
        io.flags = <uint16_t>(flags & CALLERS_FLAGS)
        io.src_offset_blocks = src_offset_blocks
        if victim is not None and not victim.done:
            io.victim = victim.io
            io.result = victim.io.generation
        io.arg = arg
        io.dif_exclude = <uint16_t>(dif_check_flags_exclude_mask >> DIF_CHECK_SHIFT)
        if data is not None:
            io.iovs = request.iovs
            io.iovcnt = <uint16_t>len(pieces)
        i = len(pieces)
        if more:
            io.iovs2 = request.iovs + i
            io.iovcnt2 = <uint16_t>len(more)
            i += len(more)
        if metadata is not None:
            io.md = request.iovs[i].iov_base
            io.flags |= HAS_METADATA
            i += 1
        if cmd is not None:
            io.cmd = request.iovs[i].iov_base
        if memory_domain is not None:
            io.domain = &memory_domain.d
            io.flags |= HAS_DOMAIN
        request.io = io
        self.pending[io.index] = request
        ios.append(io)
        channel.submit_batch(ios)
        return request

    cdef int _be_here(self, Channel channel) except -1:
        if self.engine.thread and self.engine.thread != this_thread():
            raise RuntimeError(f"an I/O for {channel.bdev!r} submitted on another thread than its"
                               " reactor's")
        return 0

    def request_of(self, uint32_t index):
        """Return the request under way whose BdevIO has this number in its pool, or None."""
        return self.pending.get(index)

    def call_when_left(self, callback):
        """Call `callback()` once, from the loop, when one of those under way has been delivered.

        Nothing under way: nobody calls. The same callback is kept once.
        """
        self.when_left.add(callback)

    def _pieces(self, data):
        if data is None:
            return []
        pieces = list(data) if isinstance(data, (list, tuple)) else [data]
        if len(pieces) > MAX_PIECES:
            raise ValueError(f"{len(pieces)} pieces of data; {MAX_PIECES} at most")
        return pieces

    cdef int _attach(self, Request request, list pieces, list more, metadata, cmd,
                     bint filled, MemoryDomain domain) except -1:
        """Hold on to the caller's buffers, in this order, until the I/O ends."""
        cdef Py_ssize_t i, in_domain = 0 if domain is None else len(pieces) + len(more)
        cdef uint64_t offset, length
        buffers = pieces + more + [one for one in (metadata, cmd) if one is not None]
        if not buffers:
            return 0
        request.views = <Py_buffer *>calloc(len(buffers), sizeof(Py_buffer))
        request.iovs = <iovec *>calloc(len(buffers), sizeof(iovec))
        if request.views == NULL or request.iovs == NULL:
            raise MemoryError
        for i in range(len(buffers)):
            if i < in_domain:
                if not isinstance(buffers[i], tuple) or len(buffers[i]) != 2:
                    raise ValueError("pieces of a memory domain are (offset, length)")
                offset, length = buffers[i]
                domain.check(offset, length)
                request.iovs[i].iov_base = <void *>offset
                request.iovs[i].iov_len = length
                continue
            PyObject_GetBuffer(
                buffers[i], &request.views[i - in_domain],
                PyBUF_WRITABLE if filled and buffers[i] is not cmd else PyBUF_SIMPLE)
            request.num_views = i - in_domain + 1
            request.iovs[i].iov_base = request.views[i - in_domain].buf
            request.iovs[i].iov_len = request.views[i - in_domain].len
        return 0

    cdef int _check_length(self, Request request, Py_ssize_t first, Py_ssize_t n,
                           uint64_t expected, str what) except -1:
        cdef Py_ssize_t i
        cdef uint64_t total = 0
        for i in range(first, first + n):
            total += request.iovs[i].iov_len
        if total != expected:
            raise ValueError(f"{total} bytes of {what} for an I/O of {expected} bytes")
        return 0

    def zcopy_end(self, Request request not None, bint commit, callback=None):
        """End a ZCOPY whose start succeeded; `commit` makes what was written count."""
        cdef IOBatch ios
        if request.io == NULL or request.io.op != OP_ZCOPY or not request.done:
            raise ValueError("no ZCOPY is open on this request")
        self._be_here(request.channel)
        ios = new_batch(self.engine)
        request.io.flags = FLAG_ZCOPY_END | (FLAG_ZCOPY_COMMIT if commit else 0)
        request.io.status = IO_PENDING
        request.done = False
        request.callback = callback
        ios.append(request.io)
        request.channel.submit_batch(ios)

    cdef int deliver(self) except -1:
        """Call back for those that have ended while there is time; the others' turn is the next."""
        cdef size_t taken = 0
        try:
            while taken < self.o.ready.n:
                taken += 1
                self._end(self.o.ready.v[taken - 1])
                if slice_over(&self.engine.slice, CALL_NS):
                    break
        finally:
            io_list_drop_front(&self.o.ready, taken)
            if self.when_left:
                self._tell_left()
        return 0

    cdef int _tell_left(self) except -1:
        callbacks, self.when_left = self.when_left, set()
        for callback in callbacks:
            try:
                callback()
            except BaseException as error:
                self.engine.report(self, error, 0)
        return 0

    cdef int _end(self, bdev_io *io) except -1:
        cdef Request request = self.pending[io.index]
        request.status = io.status
        request.detail = io.err
        request.cdw0 = io.cdw0
        request.result = io.result
        request.done = True
        # A ZCOPY is open until zcopy_end.
        if io.op != OP_ZCOPY or io.status != IO_SUCCESS or io.flags & FLAG_ZCOPY_END:
            del self.pending[io.index]
            request.io = NULL
            request.release()
            self.free_io(io)
        callback, request.callback = request.callback, None
        if callback is not None:
            try:
                callback(request)
            except BaseException as error:  # the others' callbacks are due all the same
                self.engine.report(self, error, 0)
        return 0
