"""Children: I/Os that become several at a channel, by its limits or to do what its module can not.

One room: the kinds of families share how children are made, counted and ended; what tells them
apart is a few lines each.

A parent keeps its frame and waits at its channel. Its children are BdevIOs of their own, which
enter the same channel's module; where they end, the parent gets more of them, or ends itself,
with the first failure of any. Children are counted and traced like any I/O; a parent is not.

A split never waits for ever: a parent that has no child may take a BdevIO of the engine's
reserve when the pool is empty.
"""

from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.errno cimport EINVAL, EIO, ENOMEM
from libc.stddef cimport size_t
from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memmove

from vbdev.core.base.mapping cimport PROT_READ, map_memory, munmap
from vbdev.core.base.types cimport (
    CHILDREN_ABORT,
    CHILDREN_COMPARE,
    CHILDREN_CONTROL,
    CHILDREN_COPY,
    CHILDREN_SPLIT,
    CHILDREN_ZERO,
    FLAG_FUA,
    FLAG_PRACT,
    HAS_BARE_DATA,
    HAS_METADATA,
    IN_BYTES,
    INLINE_IOVS,
    IO_ABORTED,
    IO_CONTROL,
    IO_FAILED,
    IO_MISCOMPARE,
    IO_NVME_ERROR,
    IO_PARENT,
    IO_SUBMITTED,
    IO_SUCCESS,
    IO_WAITING,
    OP_ABORT,
    OP_COMPARE,
    OP_COMPARE_AND_WRITE,
    OP_COPY,
    OP_READ,
    OP_RESET,
    OP_UNMAP,
    OP_WRITE,
    OP_WRITE_ZEROES,
    SLOW_UNCOUNTED,
    bdev_io,
    channel_state,
    io_block_bytes,
    io_data_bytes,
    io_holds_memory,
    io_is_bare,
    io_limits,
    iovec,
)
from vbdev.core.engine.batch cimport IOBatch, new_batch
from vbdev.core.engine.channel cimport Channel
from vbdev.core.engine.edges cimport edges_free, edges_merge, edges_new, edges_use
from vbdev.core.engine.engine cimport ChannelBase, ChildOwner
from vbdev.core.engine.turn cimport (
    IO_NS,
    fair_pop,
    fair_push,
    slice_over,
)
from vbdev.core.memory.dif cimport (
    DIF_REFTAG,
    dif_error,
    dif_generate,
    dif_layout,
    dif_remap,
    dif_tags,
    nvme_error_of,
)


cdef enum:
    MAX_CHILD_IOVS = 32         # as SPDK's BDEV_IO_NUM_CHILD_IOV
    MAX_READ_WRITE_CHILDREN = 64
    MAX_CONVERTED_CHILDREN = 4  # those that get metadata on their way, which takes time
    MAX_OTHER_CHILDREN = 8      # UNMAP, WRITE_ZEROES, COPY: as SPDK
    ZERO_BYTES = 1 << 20
    PIECE_BYTES = 128 << 10     # that an emulated COMPARE or COPY reads at once
    TOGETHER = 32               # children that are handed on at once, of several parents


# Of a parent's flags, what its children have too, whatever they are.
cdef enum:
    BARE = FLAG_PRACT | HAS_BARE_DATA


cdef inline bdev_io *next_child(const bdev_io *io) noexcept nogil:
    return <bdev_io *>io.cookie


cdef class Children(ChildOwner):
    """The owner of all children on one reactor. The engine makes it."""

    def __cinit__(self, *args, **kwargs):
        self.zeroes = map_memory(ZERO_BYTES, PROT_READ, 0)
        if self.zeroes == NULL:
            raise MemoryError("no address space for a region of zeroes")

    def __dealloc__(self):
        if self.zeroes != NULL:
            munmap(self.zeroes, ZERO_BYTES)

    # Parents

    cdef bint adopt(self, channel_state *s, bdev_io *io, int kind) noexcept nogil:
        cdef io_parent *parent = <io_parent *>calloc(1, sizeof(io_parent))
        if parent == NULL:
            return False
        if io.flags & IN_BYTES:
            parent.edges = edges_new(s, io)
            if parent.edges == NULL:
                free(parent)
                return False
        parent.io = io
        parent.channel = s
        parent.kind = <uint8_t>kind
        parent.status = IO_SUCCESS
        io.family = parent
        io.state = IO_PARENT
        io.slow |= SLOW_UNCOUNTED
        io.uncounted_depth = io.depth
        self._prepare(parent)
        self._now_due(parent)
        return True

    cdef int run(self, channel_state *s, ios, callback) except -1:
        cdef bdev_io *io = (<IOBatch>ios).v[0]
        if not self.adopt(s, io, CHILDREN_CONTROL):
            raise MemoryError
        io.family.callback = <PyObject *>callback
        io.family.ios = <PyObject *>ios
        Py_INCREF(callback)
        Py_INCREF(ios)
        return 0

    cdef void _now_due(self, io_parent *parent) noexcept nogil:
        if parent.is_due:
            return
        parent.is_due = True
        fair_push(&self.parents, client_of(parent.io), parent.io, False)
        self.due = True

    cdef void _prepare(self, io_parent *parent) noexcept nogil:
        """Say what children the parent's kind, or its next phase, is made of."""
        # One piece: a table by kind and phase; a reader wants to see them beside each other.
        cdef bdev_io *io = parent.io
        cdef channel_state *s = parent.channel
        cdef uint32_t block_bytes = io_block_bytes(s, io)
        cdef uint64_t apart
        parent.child_op = io.op
        parent.done = 0
        parent.left = io.num_blocks
        parent.piece = io.num_blocks
        parent.iovs = io.iovs
        parent.iovcnt = io.iovcnt
        parent.iov = 0
        parent.iov_bytes = 0
        parent.at_most = MAX_OTHER_CHILDREN
        if parent.kind == CHILDREN_CONTROL:
            if io.op == OP_RESET:
                parent.left = 1
                parent.at_most = 1
            elif parent.edges != NULL:
                if parent.phase != 1:
                    parent.child_op = OP_READ if parent.phase == 0 else OP_WRITE
                    parent.left = parent.edges.n
                elif io.op == OP_WRITE:
                    parent.iovs = parent.edges.iovs
                    parent.iovcnt = parent.edges.iovcnt
                    parent.at_most = MAX_READ_WRITE_CHILDREN
            elif parent.phase == 0:
                parent.child_op = OP_COMPARE
                if not (s.native_mask >> OP_COMPARE) & 1 or io_is_bare(s, io):
                    parent.child_op = OP_READ
                    parent.piece = PIECE_BYTES // block_bytes
            else:
                parent.child_op = OP_WRITE
                parent.iovs = io.iovs2
                parent.iovcnt = io.iovcnt2
                parent.at_most = MAX_READ_WRITE_CHILDREN
        elif parent.kind == CHILDREN_SPLIT:
            if io.op == OP_READ or io.op == OP_WRITE:
                parent.at_most = MAX_READ_WRITE_CHILDREN
            elif io.op == OP_UNMAP:
                parent.piece = s.limits.max_unmap
            elif io.op == OP_WRITE_ZEROES:
                parent.piece = s.limits.max_write_zeroes
            elif io.op == OP_COPY:
                parent.piece = s.limits.max_copy
        elif parent.kind == CHILDREN_ZERO:
            parent.child_op = OP_WRITE
            parent.piece = ZERO_BYTES // s.block_size
            if s.md_len > s.block_size:
                parent.piece = ZERO_BYTES // s.md_len
            if s.limits.max_write_zeroes and (
                    s.limits.write_unit <= s.limits.max_write_zeroes < parent.piece):
                parent.piece = s.limits.max_write_zeroes
        elif parent.kind == CHILDREN_COMPARE:
            parent.child_op = OP_READ
            parent.piece = PIECE_BYTES // block_bytes
        elif parent.kind == CHILDREN_COPY:
            parent.child_op = OP_READ
            parent.piece = PIECE_BYTES // block_bytes
            if s.limits.max_copy and s.limits.write_unit <= s.limits.max_copy < parent.piece:
                parent.piece = s.limits.max_copy
        else:
            parent.left = 0
        if s.limits.write_unit and parent.piece > s.limits.write_unit and (
                io.op == OP_WRITE_ZEROES or io.op == OP_COPY):
            # Whoever carries it out by WRITEs, here or further down, can do so in whole units.
            parent.piece -= parent.piece % s.limits.write_unit
        if parent.piece == 0:
            parent.piece = 1
        if s.hides_metadata:
            parent.at_most = min(parent.at_most, <uint64_t>MAX_CONVERTED_CHILDREN)
        if io.op == OP_COPY:
            # Onto itself, piece by piece and from the right end, as memmove does.
            apart = io.offset_blocks - io.src_offset_blocks
            if apart < io.num_blocks or -apart < io.num_blocks:
                parent.at_most = 1
                parent.backward = apart < io.num_blocks

    cdef void hurry(self, bdev_io *io) noexcept nogil:
        cdef bdev_io *child
        cdef channel_state *s
        if not io.privileged:
            io.privileged = True
            if io.state == IO_WAITING:
                io.frames[io.depth - 1].channel.nomem_mixed = True
        if io.state == IO_SUBMITTED and io.depth:
            s = io.frames[io.depth - 1].channel
            if io.index < s.in_hand_size and s.in_hand[io.index] != NULL:
                with gil:
                    (<ChannelBase>s.object).hurry_children(io)
        if io.state == IO_PARENT:
            child = io.family.children
            while child != NULL:
                self.hurry(child)
                child = next_child(child)

    cdef int _end(self, io_parent *parent) except -1:
        """End a parent that has no child left."""
        cdef bdev_io *io = parent.io
        cdef channel_state *s = parent.channel
        io.family = NULL
        edges_free(parent.edges)
        if parent.callback == NULL:
            s.parked -= 1
            io.state = IO_SUBMITTED
            io.hooked_depth = io.depth  # the module saw its children
            io.cdw0 = parent.cdw0
            self.engine.push_done(io, parent.status, parent.err)
            free(parent)
            return 0
        io.state = IO_CONTROL
        callback = <object>parent.callback
        ios = <object>parent.ios
        Py_DECREF(callback)
        Py_DECREF(ios)
        status, detail, cdw0 = parent.status, parent.err, parent.cdw0
        free(parent)
        try:
            callback(ios, status, detail, cdw0)
        except BaseException as error:
            self.engine.report(<object>s.object, error, 0)
        return 0

    # Children

    cdef size_t go_on(self) except? 0:
        cdef io_parent *parent
        cdef IOBatch ios = new_batch(self.engine)
        cdef Channel channel = None
        cdef size_t made = 0
        cdef uint64_t due = self.parents.n
        cdef Py_ssize_t before
        while due:
            due -= 1
            # One leaves the queue when it is looked at: an exception loses none of the others.
            parent = fair_pop(&self.parents).family
            self.due = self.parents.n > 0
            parent.is_due = False
            if ios.n and (ios.n >= TOGETHER or parent.channel != &channel.s):
                made += ios.n
                channel.submit_batch(ios)
                ios = new_batch(self.engine)
            channel = <Channel>parent.channel.object
            before = ios.n
            if parent.kind == CHILDREN_ABORT and not parent.phase:
                self._make_aborts(parent, ios)
            else:
                self._make_all(parent, ios)
            before = ios.n - before
            if parent.outstanding == 0 and (parent.stop or parent.left == 0):
                # An ABORT that came too late has changed nothing.
                if parent.stop and parent.status == IO_SUCCESS and (
                        parent.left > 0 or parent.kind == CHILDREN_CONTROL):
                    parent.status = IO_ABORTED
                made += 1
                self._end(parent)
            if slice_over(&self.engine.slice, IO_NS * (1 + <uint64_t>before)):
                break  # the others come first in the next turn
        if ios.n:
            made += ios.n
            channel.submit_batch(ios)
        return made

    cdef bint _has_room(self, IOBatch ios) noexcept:
        """Whether one more fits into a batch; without memory, a child waits as for a BdevIO."""
        try:
            ios.reserve(1)
        except MemoryError:
            return False
        return True

    cdef int _make_all(self, io_parent *parent, IOBatch ios) except -1:
        """Make as many children as may be under way, and as BdevIOs are there for."""
        cdef bdev_io *child
        cdef int failure
        while parent.left and not parent.stop and parent.outstanding < parent.at_most:
            child = NULL
            if self._has_room(ios):
                child = self.engine.get_child(
                    parent.outstanding == 0 and self.engine.may_take_reserve(parent.io))
            if child == NULL:
                if parent.outstanding == 0:
                    self._now_due(parent)  # starved: when the next BdevIO is free
                return 0
            failure = self._make_one(parent, child)
            if failure:
                free(child.own)
                self.engine.put_io(child)
                parent.stop = True
                if parent.status == IO_SUCCESS:
                    parent.status = IO_FAILED
                    parent.err = failure
                return 0
            self._link(parent, child)
            ios.append(child)
        return 0

    cdef void _link(self, io_parent *parent, bdev_io *child) noexcept nogil:
        child.owner = &self.o
        child.parent = parent
        child.privileged = (
            child.index >= self.engine.pool_size or io_holds_memory(parent.io)
            or parent.kind == CHILDREN_CONTROL)  # which holds up others, and their memory
        self.o.in_flight += 1
        parent.outstanding += 1
        child.cookie = <uint64_t>parent.children
        child.tag = 0
        if parent.children != NULL:
            parent.children.tag = <uint64_t>child
        parent.children = child

    cdef int _make_one(self, io_parent *parent, bdev_io *child) noexcept nogil:
        """Fill a child in with the next piece; return an errno where there can be none."""
        # One piece: what a child gets of its parent, field by field.
        cdef bdev_io *io = parent.io
        cdef channel_state *s = parent.channel
        cdef uint64_t blocks = parent.piece if parent.piece < parent.left else parent.left
        cdef uint64_t at = parent.done
        cdef uint64_t boundary
        child.op = parent.child_op
        child.dif_exclude = io.dif_exclude
        child.flags = io.flags & BARE
        child.domain = io.domain
        if io.op == OP_RESET:
            child.offset_blocks = child.num_blocks = 0
            parent.left = 0
            return 0
        if parent.edges != NULL and (parent.phase != 1 or io.op != OP_WRITE):
            self._make_edge(parent, child)
            return 0
        if parent.backward:
            at = parent.left - blocks
        child.offset_blocks = io.offset_blocks + at
        child.num_blocks = blocks
        if child.op == OP_COMPARE:
            child.flags = io.flags
            child.iovs = io.iovs
            child.iovcnt = io.iovcnt
            child.md = io.md
        elif child.op == OP_COPY:
            child.flags = io.flags
            child.src_offset_blocks = io.src_offset_blocks + at
        elif parent.kind == CHILDREN_COPY:
            child.domain = NULL
            child.offset_blocks = io.src_offset_blocks + at
            child.src_offset_blocks = io.offset_blocks + at  # where it is written then
            if s.md_len and not self._give_metadata(parent, child):
                return ENOMEM
        elif parent.kind == CHILDREN_ZERO:
            child.domain = NULL
            return self._make_zeroes(parent, child, blocks)
        elif child.op == OP_READ and parent.kind != CHILDREN_SPLIT:  # to be compared
            child.domain = NULL
            if io.md != NULL and not self._give_metadata(parent, child):
                return ENOMEM
        elif child.op == OP_READ or child.op == OP_WRITE:
            child.flags = io.flags & <uint16_t>~IN_BYTES
            boundary = s.limits.boundary
            if child.op == OP_WRITE and s.limits.write_unit:
                boundary = s.limits.write_unit
            if boundary and boundary - child.offset_blocks % boundary < child.num_blocks:
                child.num_blocks = boundary - child.offset_blocks % boundary
            if s.limits.max_rw and s.limits.max_rw < child.num_blocks:
                child.num_blocks = s.limits.max_rw
            if not self._cut_data(parent, child):
                return EINVAL if child.num_blocks == 0 else ENOMEM
            if child.op == OP_WRITE and s.limits.write_unit and (
                    child.num_blocks % s.limits.write_unit):
                return EINVAL
            if io.md != NULL:
                child.md = <char *>io.md + at * s.md_len
        else:
            child.flags = io.flags
        parent.done += child.num_blocks
        parent.left -= child.num_blocks
        return 0

    cdef void _make_edge(self, io_parent *parent, bdev_io *child) noexcept nogil:
        """Read or write a unit at an end of a write in bytes; or clear what is between them."""
        if parent.phase == 1:
            child.flags = parent.io.flags & <uint16_t>~IN_BYTES
            child.offset_blocks = parent.edges.inner
            child.num_blocks = parent.edges.num_inner
            parent.left = 0
            return
        if child.op == OP_WRITE:
            child.flags |= parent.io.flags & FLAG_FUA
        edges_use(parent.edges, <uint32_t>parent.done, child)
        parent.done += 1
        parent.left -= 1

    cdef bint _next_phase(self, io_parent *parent) noexcept nogil:
        """Go over to what follows on children that have all succeeded; False: nothing does."""
        cdef bdev_io *io = parent.io
        if parent.edges == NULL:
            if io.op != OP_COMPARE_AND_WRITE or parent.phase == 1:
                return False
            parent.phase = 1
        elif parent.phase == 0:
            edges_merge(parent.edges, io)
            # Clearing comes first: FAST_ZERO may refuse it, and then nothing has changed.
            parent.phase = 1 if io.op == OP_WRITE or parent.edges.num_inner else 2
        elif parent.phase == 1 and io.op == OP_WRITE_ZEROES:
            parent.phase = 2
        else:
            return False
        self._prepare(parent)
        return True

    cdef bint _give_metadata(self, io_parent *parent, bdev_io *child) noexcept nogil:
        """Give a child memory of its own for separate metadata; False: there is none."""
        child.own = malloc(child.num_blocks * parent.channel.md_len)
        if child.own == NULL:
            return False
        child.md = child.own
        child.flags |= HAS_METADATA
        return True

    cdef int _make_zeroes(self, io_parent *parent, bdev_io *child, uint64_t blocks) noexcept nogil:
        """Fill in a WRITE of zeroes, with the metadata that belongs to them."""
        cdef channel_state *s = parent.channel
        cdef const dif_layout *layout = <const dif_layout *>s.layout
        child.flags = parent.io.flags & FLAG_FUA
        if layout != NULL and layout.interleaved and layout.type:
            child.flags |= HAS_BARE_DATA
        child.iov_inline[0].iov_base = self.zeroes
        child.iov_inline[0].iov_len = blocks * io_block_bytes(s, child)
        child.iovcnt = 1
        if s.md_len:
            child.md = self.zeroes
            child.flags |= HAS_METADATA
            if layout != NULL and layout.type:
                child.own = calloc(blocks, s.md_len)
                if child.own == NULL:
                    return ENOMEM
                child.md = child.own
                dif_generate(layout, child.iovs, 1, 0, child.md, blocks,
                             dif_tags(child.offset_blocks, 0, 0, False))
        parent.done += blocks
        parent.left -= blocks
        return 0

    cdef bint _move_tags(self, io_parent *parent, bdev_io *child) noexcept nogil:
        """Give what a COPY has read the reference tags of where it is written; False: it fails."""
        cdef channel_state *s = parent.channel
        cdef const dif_layout *layout = <const dif_layout *>s.layout
        cdef dif_error error
        cdef int failed
        if layout == NULL or io_is_bare(s, parent.io):
            return True
        if not layout.checks & DIF_REFTAG & ~child.dif_exclude:
            return True
        failed = dif_remap(layout, child.iovs, child.iovcnt, child.md, child.num_blocks,
                           child.src_offset_blocks, child.offset_blocks, True, &error)
        if failed:
            child.status = IO_NVME_ERROR
            child.err = nvme_error_of(failed)
        return not failed

    cdef bint _cut_data(self, io_parent *parent, bdev_io *child) noexcept nogil:
        """Give a child the next pieces of its parent's data, and shorten it to what they hold.

        False: not even a block fits (num_blocks is 0 then), or there is no memory.
        """
        cdef io_limits *limits = &parent.channel.limits
        cdef uint64_t block_size = io_block_bytes(parent.channel, parent.io)
        cdef uint64_t want = child.num_blocks * block_size, got = 0
        cdef uint64_t longest = limits.max_segment_bytes if limits.max_segment_bytes else want
        cdef uint32_t most = MAX_CHILD_IOVS, pieces = 0, i = parent.iov, n
        cdef size_t skip = parent.iov_bytes, take
        if limits.max_segments and limits.max_segments < most:
            most = limits.max_segments
        while got < want and pieces < most and i < parent.iovcnt:
            take = parent.iovs[i].iov_len - skip
            if take == 0:
                i += 1
                skip = 0
                continue
            take = min(take, want - got, longest)
            pieces += 1
            got += take
            skip += take
        child.num_blocks = got // block_size
        want = child.num_blocks * block_size
        if want == 0:
            return False
        if pieces > INLINE_IOVS:
            child.own = malloc(pieces * sizeof(iovec))
            if child.own == NULL:
                return False
            child.iovs = <iovec *>child.own
        n = 0
        while want:
            take = parent.iovs[parent.iov].iov_len - parent.iov_bytes
            if take == 0:
                parent.iov += 1
                parent.iov_bytes = 0
                continue
            take = min(take, want, longest)
            child.iovs[n].iov_base = <char *>parent.iovs[parent.iov].iov_base + parent.iov_bytes
            child.iovs[n].iov_len = take
            n += 1
            want -= take
            parent.iov_bytes += take
        child.iovcnt = n
        return True

    cdef int _make_aborts(self, io_parent *parent, IOBatch ios) except -1:
        """Stop the victim, and abort each child that it has."""
        cdef bdev_io *victim = parent.io.victim
        cdef bdev_io *child
        cdef bdev_io *abort
        parent.phase = 1
        if (victim.generation != <uint32_t>parent.io.result or victim.state != IO_PARENT
                or victim.family.channel != parent.channel):
            parent.status = IO_FAILED
            return 0
        if victim.family.left == 0 and victim.family.outstanding == 0:
            parent.status = IO_FAILED
            return 0
        victim.family.stop = True
        if victim.family.outstanding == 0:
            self._now_due(victim.family)
        child = victim.family.children
        while child != NULL:
            abort = self.engine.get_child(False) if self._has_room(ios) else NULL
            if abort == NULL:
                parent.status = IO_FAILED
                return 0
            abort.op = OP_ABORT
            abort.offset_blocks = abort.num_blocks = 0
            abort.victim = child
            abort.result = child.generation
            self._link(parent, abort)
            ios.append(abort)
            child = next_child(child)
        return 0

    # The way up

    cdef int deliver(self) except -1:
        cdef bdev_io *child
        cdef size_t n = self.o.ready.n, taken = 0
        try:
            while taken < n:
                child = self.o.ready.v[taken]
                taken += 1
                self._take(child)
        finally:
            # What an exception leaves comes with the next ones.
            self.o.ready.n -= taken
            memmove(<void *>self.o.ready.v, <void *>(self.o.ready.v + taken),
                    self.o.ready.n * sizeof(void *))
        return 0

    cdef int _take(self, bdev_io *child) except -1:
        """Take back one child, and see what its end means to its parent."""
        cdef io_parent *parent = child.parent
        cdef IOBatch again
        if self._child_ended(child):
            # A COPY's READ: what it brought is written.
            again = new_batch(self.engine)
            again.append(child)
            (<Channel>parent.channel.object).submit_batch(again)
            return 0
        if parent.outstanding == 0 and (parent.stop or parent.left == 0):
            if (parent.kind == CHILDREN_CONTROL and parent.status == IO_SUCCESS
                    and not parent.stop):
                self._next_phase(parent)
        if parent.outstanding < parent.at_most:
            self._now_due(parent)
        return 0

    cdef bint _child_ended(self, bdev_io *child) noexcept nogil:
        """Take a child's end into account and free it; True: it is to be submitted once more."""
        cdef io_parent *parent = child.parent
        cdef bdev_io *before = <bdev_io *>child.tag
        cdef bdev_io *after = next_child(child)
        cdef uint64_t to
        if child.status != IO_SUCCESS:
            if parent.status == IO_SUCCESS:
                parent.status = child.status
                parent.err = child.err
                parent.cdw0 = child.cdw0
            if parent.kind == CHILDREN_ABORT:
                parent.status = IO_FAILED
            parent.stop = True
        elif child.op == OP_READ and parent.kind != CHILDREN_SPLIT and io_data_bytes(child) != (
                child.num_blocks * io_block_bytes(parent.channel, child)):
            # The module says that it has read, and there is nothing.
            if parent.status == IO_SUCCESS:
                parent.status = IO_FAILED
                parent.err = EIO
            parent.stop = True
        elif child.op == OP_READ and parent.kind == CHILDREN_COPY:
            if parent.stop:
                if parent.status == IO_SUCCESS:
                    parent.status = IO_ABORTED  # what it has read is not written
            else:
                to = child.src_offset_blocks
                child.src_offset_blocks = child.offset_blocks
                child.offset_blocks = to
                if not self._move_tags(parent, child):
                    parent.stop = True
                    parent.status = child.status
                    parent.err = child.err
                else:
                    child.op = OP_WRITE
                    child.slow &= <uint8_t>~SLOW_UNCOUNTED  # the READ may have been split
                    child.flags |= parent.io.flags & FLAG_FUA
                    return True
        elif child.op == OP_READ and parent.kind != CHILDREN_SPLIT and parent.edges == NULL:
            if self._differs(parent, child):
                parent.stop = True
                if parent.status == IO_SUCCESS:
                    parent.status = IO_MISCOMPARE
        elif parent.kind == CHILDREN_CONTROL:
            parent.cdw0 = child.cdw0
        if before != NULL:
            before.cookie = <uint64_t>after
        else:
            parent.children = after
        if after != NULL:
            after.tag = <uint64_t>before
        parent.outstanding -= 1
        free(child.own)
        child.own = NULL
        self.free_io(child)
        return False

    cdef bint _differs(self, io_parent *parent, bdev_io *child) noexcept nogil:
        """Compare what a child read with the parent's data, and metadata where it has any."""
        cdef channel_state *s = parent.channel
        cdef uint64_t at = child.offset_blocks - parent.io.offset_blocks
        cdef uint32_t block_bytes = io_block_bytes(s, parent.io)
        cdef uint64_t skip = at * block_bytes
        cdef uint64_t left = child.num_blocks * block_bytes
        cdef uint32_t i = 0, j = 0
        cdef size_t done = 0, take
        while i < parent.io.iovcnt and skip >= parent.io.iovs[i].iov_len:
            skip -= parent.io.iovs[i].iov_len
            i += 1
        while left:
            take = min(parent.io.iovs[i].iov_len - skip, child.iovs[j].iov_len - done)
            if memcmp(<char *>parent.io.iovs[i].iov_base + skip,
                      <char *>child.iovs[j].iov_base + done, take):
                return True
            left -= take
            skip += take
            done += take
            if skip == parent.io.iovs[i].iov_len:
                i += 1
                skip = 0
            if done == child.iovs[j].iov_len:
                j += 1
                done = 0
        return child.md != NULL and memcmp(
            <char *>parent.io.md + at * s.md_len, child.md, child.num_blocks * s.md_len) != 0
