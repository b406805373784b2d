"""LoadGenerator: keeps a queue of I/Os in flight on one channel, and measures what comes back.

One room: drawing, submitting and accounting share each I/O's state; a pass over a batch is one
loop, which other modules could not take part in without a call for each I/O.

Each turn hands it the I/Os that completed. It counts them, notes their latencies, draws what
each one does next and submits all of them as one batch: the batch that went in comes out again,
so the queue depth is the batch size wherever the stack completes at once. Its own BdevIOs and
buffers stay with it for the run; nothing is allocated for an I/O, and no Python object is made.

Time is read once a turn. An I/O's latency is therefore from the submission of its batch to the
turn that delivered it, which is what a caller in this process sees.

Verification needs no memory of what was written. The regions of the bdev are dealt to the
queue's lanes (lane k has every region whose number is k modulo the queue depth), so two I/Os in
flight never overlap. A lane writes a window of its regions, then reads the same window back.
Regions and contents both follow from the seed, the lane and the window's number, so the reading
half computes again what the writing half did. A region drawn twice in one window got the same
content twice.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from vbdev.core.base.clocks cimport since_ns
from vbdev.core.base.types cimport (
    IO_SUCCESS,
    NUM_ERROR_STATUSES,
    OP_FLUSH,
    OP_READ,
    OP_UNMAP,
    OP_WRITE,
    OP_WRITE_ZEROES,
    bdev_io,
)
from vbdev.core.counts.histogram cimport Histogram, histogram_tally
from vbdev.core.engine.batch cimport IOBatch, new_batch, only_mine
from vbdev.core.engine.channel cimport Channel
from vbdev.core.engine.engine cimport IoOwner
from vbdev.core.load.patterns cimport (
    below,
    fill_random,
    mix64,
    next_random,
    pattern_key,
    pattern_word,
)
from vbdev.core.memory.buffers cimport MIN_BUFFER_SHIFT, NUM_CLASSES, class_bytes


cdef enum:
    WINDOW = 8                      # regions a verifying lane writes before it reads them back
    POISON = 0xA5                   # what a buffer holds before a verifying READ
    GRANULARITY = 6                 # of the latencies: what its bucket says is within 1 in 128
    BUFFER_ALIGNMENT = 1 << MIN_BUFFER_SHIFT
    MISMATCH_WORDS = 2              # of what was expected and found, in a report
    MISMATCH_BYTES = MISMATCH_WORDS * 8

# Workload name: (op, or 0 where it varies; random offsets; verify)
WORKLOADS = {
    "read": (OP_READ, False, False),
    "write": (OP_WRITE, False, False),
    "randread": (OP_READ, True, False),
    "randwrite": (OP_WRITE, True, False),
    "rw": (0, False, False),
    "randrw": (0, True, False),
    "flush": (OP_FLUSH, False, False),
    "unmap": (OP_UNMAP, True, False),
    "write_zeroes": (OP_WRITE_ZEROES, True, False),
    "verify": (0, True, True),
}


# A verifying lane: which window it is in, and how far.
cdef struct verify_lane:
    uint64_t window
    uint32_t size
    uint32_t index
    bint reading


cdef class LoadGenerator(IoOwner):
    """Runs one workload on one channel. `start`, then turn the reactor until `on_end` is called.

    Parameters
    ----------
    engine: whose thread this is.
    channel: where the I/Os go; its descriptor may write if the workload does.
    workload: a key of `WORKLOADS`. `rw` and `randrw` are mixed by `rwmixread`.
    io_size: bytes; a multiple of the block size.
    queue_depth: I/Os in flight.
    rwmixread: percentage of READs in a mix.
    seed: of offsets and data; the same seed gives the same run.
    max_failures: the run stops when more I/Os than this have failed; `verify` allows none.
    on_end: called once a run, without arguments, when the last I/O has come back.

    """

    cdef Channel channel
    cdef IOBatch batch                  # to be used again, unless a module has kept it
    cdef object on_end
    cdef readonly str workload
    cdef readonly uint64_t io_size
    cdef readonly uint32_t queue_depth
    cdef readonly uint64_t ios          # completed with success
    cdef readonly uint64_t failures
    cdef readonly uint64_t started_ns
    cdef readonly uint64_t ended_ns     # 0 while it runs
    cdef readonly bint running
    cdef bint stopping
    cdef uint8_t op                     # 0: a mix, or verify
    cdef bint random
    cdef bint verify
    cdef uint64_t read_below            # of 2**32: a draw below it is a READ
    cdef uint64_t seed
    cdef uint64_t random_state
    cdef uint64_t remaining             # I/Os still to be submitted
    cdef uint64_t max_failures
    cdef uint64_t io_blocks
    cdef uint64_t block_size
    cdef uint64_t num_slots
    cdef uint64_t cursor
    cdef size_t buffer_bytes            # 0: the workload moves no data
    cdef size_t write_at                # where in its buffer an I/O keeps what it writes
    cdef verify_lane *lanes
    cdef uint64_t latency_sum
    cdef uint64_t latency_max
    cdef uint64_t latency_min
    cdef uint64_t errors_by_status[NUM_ERROR_STATUSES]
    cdef Histogram latencies
    cdef bint mismatched
    cdef uint64_t mismatch_offset
    cdef uint8_t mismatch_expected[MISMATCH_BYTES]
    cdef uint8_t mismatch_found[MISMATCH_BYTES]

    def __init__(self, engine, Channel channel not None, *, str workload not None,
                 io_size, queue_depth, rwmixread=50, seed=1, max_failures=0, on_end=None):
        # One piece: each parameter is checked, and then kept.
        cdef size_t stride
        if workload not in WORKLOADS:
            raise ValueError(
                f"workload is {workload!r}; one of {', '.join(WORKLOADS)}")
        op, random, verify = WORKLOADS[workload]
        block_size = channel.s.block_size
        if channel.s.hides_metadata:
            block_size = channel.s.data_block_size
        size_bytes = channel.s.num_blocks * block_size
        if io_size < 1 or io_size % block_size:
            raise ValueError(
                f"io_size is {io_size}; a multiple of the block size, {block_size}")
        if io_size > size_bytes:
            raise ValueError(f"io_size is {io_size}; the bdev has {size_bytes} bytes")
        if not 1 <= queue_depth <= self.engine.pool_size:
            raise ValueError(
                f"queue_depth is {queue_depth}; 1 to {self.engine.pool_size}, the size of the pool")
        if not 0 <= rwmixread <= 100:
            raise ValueError(f"rwmixread is {rwmixread}; 0 to 100")
        if not 0 <= seed < 1 << 64:
            raise ValueError(f"seed is {seed}; 0 to {(1 << 64) - 1}")
        if max_failures < 0:
            raise ValueError(f"max_failures is {max_failures}; at least 0")
        num_slots = size_bytes // io_size
        if verify and num_slots < queue_depth:
            raise ValueError(
                f"queue_depth is {queue_depth}; verify needs a region for each I/O in flight, and"
                f" the bdev has {num_slots} of {io_size} bytes")
        self.write_at = 0
        self.buffer_bytes = 0
        if op in (0, OP_READ, OP_WRITE):
            if io_size > class_bytes(NUM_CLASSES - 1) // (1 if op or verify else 2):
                raise ValueError(
                    f"io_size is {io_size};"
                    f" {class_bytes(NUM_CLASSES - 1) // (1 if op or verify else 2)} at most")
            stride = (<size_t>io_size + BUFFER_ALIGNMENT - 1) & ~(<size_t>BUFFER_ALIGNMENT - 1)
            self.buffer_bytes = stride
            if not op and not verify:
                # What a mix reads must not become what it writes.
                self.write_at = stride
                self.buffer_bytes = 2 * stride
            needed = queue_depth * (1 << (int(self.buffer_bytes) - 1).bit_length())
            if needed > self.engine.buffers.limit_bytes:
                raise ValueError(
                    f"queue_depth {queue_depth} of io_size {io_size} needs {needed} bytes of"
                    f" buffers; the limit is {self.engine.buffers.limit_bytes}")
        self.channel = channel
        self.workload = workload
        self.io_size = io_size
        self.queue_depth = queue_depth
        self.op = op
        self.random = random
        self.verify = verify
        self.read_below = (<uint64_t>rwmixread << 32) // 100
        self.seed = seed
        self.random_state = mix64(self.seed + 1) | 1
        self.max_failures = 0 if verify else max_failures
        self.io_blocks = io_size // block_size
        self.block_size = block_size
        self.num_slots = num_slots
        self.on_end = on_end
        if verify:
            self.lanes = <verify_lane *>calloc(queue_depth, sizeof(verify_lane))
            if self.lanes == NULL:
                raise MemoryError
        self.latencies = Histogram(granularity=GRANULARITY)
        self.reset_counters()

    def __dealloc__(self):
        free(self.lanes)

    def __repr__(self):
        return f"<LoadGenerator {self.workload} queue_depth={self.queue_depth}>"

    def reset_counters(self):
        """Forget what was measured. Not while it runs."""
        self._check_idle()
        self.ios = self.failures = self.latency_sum = self.latency_max = 0
        self.started_ns = self.ended_ns = 0
        self.latency_min = <uint64_t>-1
        self.latencies.reset()
        memset(self.errors_by_status, 0, sizeof(self.errors_by_status))

    cdef int _check_idle(self) except -1:
        if self.running:
            raise RuntimeError(f"{self!r} is running")
        return 0

    def start(self, num_ios=0):
        """Submit the first I/Os. They go on until `num_ios` (0: any number) or `stop`.

        Of `verify`, `num_ios` counts WRITEs and READs, so it is even. RuntimeError, with nothing
        submitted, when the pool or the buffers are in use by others.
        """
        cdef uint32_t i
        cdef size_t j
        cdef bdev_io *io
        cdef IOBatch ios
        cdef uint64_t now
        self._check_idle()
        if num_ios < 0:
            raise ValueError(f"num_ios is {num_ios}; at least 0")
        if self.verify and num_ios % 2:
            raise ValueError(f"num_ios is {num_ios}; verify needs an even number")
        ios = new_batch(self.engine)
        ios.reserve(self.queue_depth)
        self.remaining = num_ios if num_ios else <uint64_t>-1
        self.stopping = False
        self.mismatched = False
        self.ended_ns = 0
        for i in range(self.queue_depth):
            io = self.new_io()
            if io != NULL and self.buffer_bytes and not self.engine.buffers.get(
                    self.buffer_bytes, False, &io.buf):
                self.free_io(io)
                io = NULL
            if io == NULL:
                for j in range(ios.n):
                    self.free_io(ios.v[j])
                ios.n = 0
                raise RuntimeError(
                    f"{self!r}: only {i} I/Os and their buffers are free")
            io.cookie = i
            if self.buffer_bytes:
                fill_random(<uint64_t *>io.buf.base, self.buffer_bytes // 8, &self.random_state)
            if self.verify:
                self.lanes[i].size = 0
                self.lanes[i].index = 0
                self.lanes[i].reading = True
            ios.v[i] = io
            ios.n += 1
        now = self.engine.now_ns()
        self.started_ns = now
        self.running = True
        ios.n = self._draw_all(ios.v, ios.n, ios.v, now)
        self.channel.submit_batch(ios)

    def stop(self):
        """Submit no more; the run ends when what is in flight has come back. Idempotent."""
        self.stopping = True

    cdef int deliver(self) except -1:
        cdef uint64_t now = self.engine.turn_ns
        cdef size_t n = self.o.ready.n
        cdef IOBatch ios = self.batch
        if ios is None:
            ios = new_batch(self.engine)
        self.batch = None
        ios.n = 0
        ios.reserve(n)
        self._account(self.o.ready.v, n, now)
        ios.n = self._draw_all(self.o.ready.v, n, ios.v, now)
        self.o.ready.n = 0
        if ios.n:
            self.channel.submit_batch(ios)
            if only_mine(ios):
                ios.n = 0
                self.batch = ios
        elif self.o.in_flight == 0:
            self.running = False
            self.ended_ns = now
            if self.on_end is not None:
                self.on_end()
        return 0

    # Hot loops. Budget: 4 ns an I/O to account, 4 ns to draw, at queue depth 32.

    cdef void _account(self, bdev_io **v, size_t n, uint64_t now) noexcept nogil:
        cdef size_t i
        cdef bdev_io *io
        cdef uint64_t latency, same = 0, latency_of_same = <uint64_t>-1
        for i in range(n):
            io = v[i]
            if io.status != IO_SUCCESS:
                self._failed(io)
                continue
            if self.verify and io.op == OP_READ and not self._matches(io):
                self.failures += 1
                self.stopping = True
                continue
            # A batch was submitted at one time and comes back at one: record it in one go.
            latency = since_ns(io.tag, now)
            if latency != latency_of_same:
                self._record(latency_of_same, same)
                latency_of_same = latency
                same = 0
            same += 1
        self._record(latency_of_same, same)

    cdef void _record(self, uint64_t latency, uint64_t count) noexcept nogil:
        if count == 0:
            return
        self.ios += count
        self.latency_sum += latency * count
        if latency > self.latency_max:
            self.latency_max = latency
        if latency < self.latency_min:
            self.latency_min = latency
        histogram_tally(&self.latencies.h, latency, count)

    cdef void _failed(self, bdev_io *io) noexcept nogil:
        self.errors_by_status[-io.status] += 1
        self.failures += 1
        if self.failures > self.max_failures:
            self.stopping = True

    cdef Py_ssize_t _draw_all(
            self, bdev_io **v, size_t n, bdev_io **out, uint64_t now) noexcept nogil:
        """Say what each I/O does next; give back those that do nothing more."""
        cdef size_t i
        cdef Py_ssize_t kept = 0
        cdef bdev_io *io
        for i in range(n):
            io = v[i]
            if self.stopping or not (self._draw_verify(io) if self.verify else self._draw(io)):
                self.free_io(io)
                continue
            io.num_blocks = self.io_blocks
            io.tag = now
            out[kept] = io
            kept += 1
        return kept

    cdef inline bint _draw(self, bdev_io *io) noexcept nogil:
        cdef uint64_t slot
        if self.remaining == 0:
            return False
        self.remaining -= 1
        if self.random:
            slot = below(next_random(&self.random_state), self.num_slots)
        else:
            slot = self.cursor
            self.cursor += 1
            if self.cursor == self.num_slots:
                self.cursor = 0
        io.offset_blocks = slot * self.io_blocks
        io.op = self.op
        if not self.op:
            io.op = (OP_READ if next_random(&self.random_state) >> 32 < self.read_below
                     else OP_WRITE)
        if self.buffer_bytes:
            self._give_data(io)
        return True

    cdef inline void _give_data(self, bdev_io *io) noexcept nogil:
        io.iovs = io.iov_inline
        io.iov_inline[0].iov_base = <char *>io.buf.base + (
            self.write_at if io.op == OP_WRITE else 0)
        io.iov_inline[0].iov_len = self.io_size
        io.iovcnt = 1

    # Verification

    cdef bint _draw_verify(self, bdev_io *io) noexcept nogil:
        cdef verify_lane *lane = &self.lanes[io.cookie]
        cdef uint64_t lane_slots, slot, key
        cdef uint64_t *words
        cdef size_t i
        lane.index += 1
        if lane.index >= lane.size:
            lane.index = 0
            if lane.reading:
                if self.remaining == 0:
                    return False
                lane.size = <uint32_t>min(self.remaining // 2, <uint64_t>WINDOW)
                self.remaining -= 2 * lane.size
                lane.window += 1
            lane.reading = not lane.reading
        lane_slots = (self.num_slots - io.cookie + self.queue_depth - 1) // self.queue_depth
        slot = io.cookie + self.queue_depth * below(
            mix64(pattern_key(self.seed, io.cookie, lane.window) ^ lane.index), lane_slots)
        io.offset_blocks = slot * self.io_blocks
        io.op = OP_READ if lane.reading else OP_WRITE
        self._give_data(io)
        if lane.reading:
            memset(io.buf.base, POISON, self.io_size)  # a READ that brings nothing must show
        else:
            key = pattern_key(self.seed, io.offset_blocks * self.block_size, lane.window)
            words = <uint64_t *>io.buf.base
            for i in range(self.io_size // 8):
                words[i] = pattern_word(key, i)
        return True

    cdef bint _matches(self, bdev_io *io) noexcept nogil:
        cdef uint64_t offset = io.offset_blocks * self.block_size
        cdef uint64_t key = pattern_key(self.seed, offset, self.lanes[io.cookie].window)
        cdef const uint64_t *words = <const uint64_t *>io.buf.base
        cdef uint64_t expected[MISMATCH_WORDS]
        cdef size_t i
        for i in range(self.io_size // 8):
            if words[i] != pattern_word(key, i):
                break
        else:
            return True
        if not self.mismatched:
            # Block sizes are multiples of 512, so two words are in the I/O if one is.
            i &= ~<size_t>1
            expected[0] = pattern_word(key, i)
            expected[1] = pattern_word(key, i + 1)
            memcpy(self.mismatch_expected, expected, MISMATCH_BYTES)
            memcpy(self.mismatch_found, words + i, MISMATCH_BYTES)
            self.mismatch_offset = offset + i * 8
            self.mismatched = True
        return False

    # Results

    @property
    def mismatch(self):
        """The first difference that `verify` met, or None: (offset, expected, found).

        The offset is in bytes from the start of the bdev; the others are the bytes there.
        """
        if not self.mismatched:
            return None
        return (self.mismatch_offset, self.mismatch_expected[:MISMATCH_BYTES],
                self.mismatch_found[:MISMATCH_BYTES])

    @property
    def latency_mean_ns(self):
        """Mean latency of the I/Os that succeeded; 0 without any."""
        return self.latency_sum / self.ios if self.ios else 0.0

    @property
    def latency_range_ns(self):
        """Shortest and longest latency; (0, 0) without any."""
        if self.ios == 0:
            return (0, 0)
        return (self.latency_min, self.latency_max)

    def latency_percentile_ns(self, double percent):
        """Return the latency that `percent` of the I/Os did not exceed, to within 1 in 128."""
        cdef uint64_t wanted
        if not 0 <= percent <= 100:
            raise ValueError(f"percent is {percent}; 0 to 100")
        wanted = max(1, <uint64_t>(percent / 100 * self.ios + 0.5))
        if self.ios == 0:
            return 0
        return max(min(self.latencies.middle_at(wanted), self.latency_max), self.latency_min)

    def add(self, LoadGenerator other not None):
        """Add what another one has measured, as if this one had done all.

        Neither runs, unless it has been stopped and its last I/Os do not come back.
        """
        cdef int i
        for generator in (self, other):
            if not (<LoadGenerator>generator).stopping:
                (<LoadGenerator>generator)._check_idle()
        self.ios += other.ios
        self.failures += other.failures
        self.latency_sum += other.latency_sum
        self.latency_max = max(self.latency_max, other.latency_max)
        self.latency_min = min(self.latency_min, other.latency_min)
        self.latencies.add(other.latencies)
        for i in range(NUM_ERROR_STATUSES):
            self.errors_by_status[i] += other.errors_by_status[i]
        if other.started_ns and (self.started_ns == 0 or other.started_ns < self.started_ns):
            self.started_ns = other.started_ns
        self.ended_ns = max(self.ended_ns, other.ended_ns)

    def errors(self):
        """Return {status: count} of the I/Os that failed."""
        cdef int i
        return {-i: self.errors_by_status[i] for i in range(1, NUM_ERROR_STATUSES)
                if self.errors_by_status[i]}

    def layers(self):
        """Return (bdev, batches, I/Os in them) for each channel from the top down, since ever.

        A layer with more than one base ends the list.
        """
        cdef Channel channel
        out = []
        current = self.channel
        while isinstance(current, Channel):
            channel = current
            out.append((channel.bdev, channel.s.batches, channel.s.batched_ios))
            current = channel.base
        return out

    def close(self):
        """Leave the engine. Only when the run has ended."""
        self._check_idle()
        self.on_end = None
        IoOwner.close(self)
