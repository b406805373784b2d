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
from libc.stdint cimport uint16_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free

from vbdev.core.batch cimport IOBatch, new_batch
from vbdev.core.channel cimport Channel
from vbdev.core.engine cimport IoOwner
from vbdev.core.types cimport (
    FLAG_ZCOPY_COMMIT,
    FLAG_ZCOPY_END,
    IO_PENDING,
    IO_SUCCESS,
    OP_COMPARE,
    OP_LIMIT,
    OP_READ,
    OP_WRITE,
    OP_ZCOPY,
    bdev_io,
    iovec,
)


@cython.final
cdef class Request:
    """One I/O of a `Requests`. `status`, `errno` and `result` hold once `done` is true.

    result: SEEK_DATA, SEEK_HOLE: an offset in blocks, or 2**64 - 1.
    """

    cdef bdev_io *io
    cdef Channel channel
    cdef object callback
    cdef Py_buffer *views
    cdef iovec *iovs
    cdef Py_ssize_t num_views
    cdef readonly int status
    cdef int err
    cdef readonly uint64_t result
    cdef readonly bint done

    def __dealloc__(self):
        self.release()

    cdef void release(self):
        cdef Py_ssize_t i
        for i in range(self.num_views):
            PyBuffer_Release(&self.views[i])
        self.num_views = 0
        free(self.views)
        free(self.iovs)
        self.views = NULL
        self.iovs = NULL

    @property
    def errno(self):
        """The detail that goes with a failure; 0 where there is none."""
        return self.err

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

    def __init__(self, engine):
        self.pending = {}

    def submit(self, Channel channel not None, int op, uint64_t offset_blocks,
               uint64_t num_blocks, data=None, *, callback=None, int flags=0,
               uint64_t src_offset_blocks=0, Request victim=None):
        """Submit one I/O and return its Request, or None when no BdevIO is free (try later).

        data: a buffer, or a list of them, whose sizes add up to `num_blocks`; of a READ it is
        filled. callback(request) runs from the reactor's loop, never inside this call.
        """
        cdef IOBatch ios
        cdef Request request
        cdef bdev_io *io
        if not 0 < op < OP_LIMIT:
            raise ValueError(f"{op} is no I/O type")
        if (op == OP_WRITE or op == OP_COMPARE) and data is None:
            raise ValueError(f"I/O type {op} needs data of {num_blocks} blocks")
        request = Request.__new__(Request)
        request.channel = channel
        request.callback = callback
        if data is not None:
            self._attach(request, data, op == OP_READ, num_blocks * channel.s.block_size)
        io = self.new_io()
        if io == NULL:
            request.release()
            return None
        io.op = <uint8_t>op
        io.offset_blocks = offset_blocks
        io.num_blocks = num_blocks
        io.flags = <uint16_t>flags
        io.src_offset_blocks = src_offset_blocks
        if victim is not None and not victim.done:
            io.victim = victim.io
            io.result = victim.io.generation
        if request.iovs != NULL:
            io.iovs = request.iovs
            io.iovcnt = <uint16_t>request.num_views
        request.io = io
        self.pending[io.index] = request
        ios = new_batch(self.engine)
        ios.append(io)
        channel.submit_batch(ios)
        return request

    def _attach(self, Request request not None, data, bint writable, uint64_t expected):
        cdef Py_ssize_t i
        cdef uint64_t total = 0
        pieces = data if isinstance(data, (list, tuple)) else [data]
        if len(pieces) > 1024:
            raise ValueError(f"{len(pieces)} pieces of data; 1024 at most")
        request.views = <Py_buffer *>calloc(len(pieces) + 1, sizeof(Py_buffer))
        request.iovs = <iovec *>calloc(len(pieces) + 1, sizeof(iovec))
        if request.views == NULL or request.iovs == NULL:
            raise MemoryError
        for i in range(len(pieces)):
            PyObject_GetBuffer(pieces[i], &request.views[i],
                               PyBUF_WRITABLE if writable else PyBUF_SIMPLE)
            request.num_views = i + 1
            request.iovs[i].iov_base = request.views[i].buf
            request.iovs[i].iov_len = request.views[i].len
            total += request.views[i].len
        if total != expected:
            raise ValueError(f"{total} bytes of data for an I/O of {expected} bytes")

    def zcopy_end(self, Request request not None, bint commit, callback=None):
        """End a ZCOPY whose start succeeded; `commit` makes what was written count."""
        cdef IOBatch ios
        if request.io == NULL or request.io.op != OP_ZCOPY or not request.done:
            raise ValueError("no ZCOPY is open on this request")
        request.io.flags = FLAG_ZCOPY_END | (FLAG_ZCOPY_COMMIT if commit else 0)
        request.io.status = IO_PENDING
        request.done = False
        request.callback = callback
        ios = new_batch(self.engine)
        ios.append(request.io)
        request.channel.submit_batch(ios)

    cdef int deliver(self) except -1:
        cdef bdev_io *io
        cdef Request request
        cdef size_t i
        ended = []
        for i in range(self.o.ready.n):
            io = self.o.ready.v[i]
            request = self.pending[io.index]
            request.status = io.status
            request.err = io.err
            request.result = io.result
            request.done = True
            if io.op == OP_ZCOPY and io.status == IO_SUCCESS and not io.flags & FLAG_ZCOPY_END:
                ended.append(request)  # open until zcopy_end
                continue
            del self.pending[io.index]
            request.io = NULL
            request.release()
            self.free_io(io)
            ended.append(request)
        self.o.ready.n = 0
        for request in ended:
            if request.callback is not None:
                callback, request.callback = request.callback, None
                try:
                    callback(request)
                except Exception as error:  # the others' callbacks are due all the same
                    self.engine.report(self, error, 0)
        return 0
