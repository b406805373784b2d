from vbdev.core.batch cimport IOBatch
from vbdev.core.dif cimport Dif, dif_layout
from vbdev.core.engine cimport ChannelBase
from vbdev.core.histogram cimport Histogram
from vbdev.core.qos cimport RateLimits
from vbdev.core.types cimport (
    bdev_io,
    int32_t,
    int8_t,
    io_list,
    io_queue,
    locked_range,
    uint32_t,
    uint64_t,
    uint8_t,
)


cdef enum:
    MAX_DOMAIN_TYPES = 8


cdef class Channel(ChannelBase):
    cdef readonly object bdev
    cdef readonly object descriptor
    cdef object base                    # a member of the type: see channel.pyx
    cdef public object context
    cdef object submit_function         # what `configure` got, taken apart if it was bound
    cdef object submit_self
    cdef object module_completed
    cdef object control
    cdef readonly bint closed
    cdef uint64_t supported_mask
    cdef dif_layout layout              # of its metadata; I/Os that are converted point here
    cdef uint32_t domain_types[MAX_DOMAIN_TYPES]
    cdef uint32_t num_domain_types
    cdef io_list for_control            # RESET, COMPARE_AND_WRITE of the batch at hand
    cdef locked_range *ranges
    cdef size_t num_ranges
    cdef bdev_io *nomem_last            # the last one that `take_back` put in front
    cdef uint64_t nomem_in_queue        # I/Os that the module had no room for
    cdef uint64_t nomem_threshold       # go on when the module has no more than this many
    cdef uint64_t nomem_retry_ns        # or when this time has come
    cdef RateLimits qos                 # shared by all channels of the bdev, with GATE_QOS
    cdef uint8_t qos_blocked            # kinds of I/O of which some wait in s.qos
    cdef uint64_t qos_look_ns           # when they may go on
    cdef Histogram histogram            # with WATCH_HISTOGRAM

    cdef int submit_batch(self, IOBatch ios) except -1
    cdef int _configure_metadata(self, Dif dif, bint hide) except -1
    cdef void _arm(self) noexcept nogil
    cdef bint _leave_domain(self, bdev_io *io, bint first) noexcept nogil
    cdef bint _add_metadata(self, bdev_io *io, bint first) noexcept nogil
    cdef bint _admit(self, bdev_io *io, bint resumed) noexcept nogil
    cdef bint _admit_memory(self, bdev_io *io, bint first) noexcept nogil
    cdef bint _admit_other(self, bdev_io *io) noexcept nogil
    cdef bint _admit_abort(self, bdev_io *io) noexcept nogil
    cdef bint _emulate(self, bdev_io *io) noexcept nogil
    cdef bint _adopt(self, bdev_io *io, int kind) noexcept nogil
    cdef bint _give_buffer(self, bdev_io *io, bint first) noexcept nogil
    cdef bint _no_memory(self, bdev_io *io, uint64_t length, bint held) noexcept nogil
    cdef bint _to_control(self, bdev_io *io) noexcept nogil
    cdef int _hand_to_control(self) except -1
    cdef int _resume_locked(self) except -1
    cdef int _was_slow(self, uint64_t took_ns, uint64_t blocked_ns) except -1
    cdef bint _end(self, bdev_io *io, int8_t status, int32_t err) noexcept nogil
    cdef bint _park(self, io_queue *queue, bdev_io *io) noexcept nogil
    cdef bint _unpark(self, io_queue *queue, bdev_io *io) noexcept nogil
    cdef bint _abort_parked(self, bdev_io *io) noexcept nogil
    cdef int _end_queue(self, io_queue *queue, int8_t status) noexcept nogil
    cdef bint _admit_rate(self, bdev_io *io) noexcept nogil
    cdef int _resume_qos(self) except -1
    cdef bint _needs_split(self, bdev_io *io) noexcept nogil
    cdef bint _is_child(self, const bdev_io *io) noexcept nogil
    cdef bint _is_locked(self, const bdev_io *io) noexcept nogil
    cdef int _resume_queue(self, io_queue *queue) except -1
    cdef int _refusal(self, bdev_io *io) noexcept nogil
    cdef int _deliver(self, IOBatch ios) except -1
    cdef int _module_failed(self, bdev_io **copy, Py_ssize_t n) except -1
    cdef Py_ssize_t _fail_held(self, bdev_io **v, Py_ssize_t n) noexcept nogil
    cdef bint _holds(self, const bdev_io *io) noexcept nogil
