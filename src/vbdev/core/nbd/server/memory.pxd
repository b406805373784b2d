from libc.stdint cimport uint64_t

from vbdev.core.base.types cimport buffer_ref, size_t
from vbdev.core.engine.engine cimport Engine, IoOwner
from vbdev.core.memory.buffers cimport BufferPool, class_bytes, class_of


cdef enum:
    CHUNK_BYTES = 256 << 10


cdef class NbdMemory:
    cdef Engine engine
    cdef BufferPool buffers
    cdef readonly uint64_t limit_bytes
    cdef readonly uint64_t reserve_bytes    # of it, for clients that have little
    cdef readonly uint64_t little_bytes     # what that is, for one client
    cdef readonly uint64_t chunk_limit_bytes
    cdef readonly uint64_t used_bytes
    cdef readonly uint64_t chunk_bytes
    cdef uint64_t little_used               # of it, by those who have `little_bytes` at most
    cdef uint64_t num_large                 # clients that have more
    cdef object little                      # deques of clients that wait
    cdef object large
    cdef uint64_t num_little_waiting        # their lengths
    cdef uint64_t num_large_waiting
    cdef bint least_next                    # the next turn is for who wants least of them
    cdef list suspects
    cdef bint due                           # somebody waits, and something came back
    cdef bint told
    cdef bint serving
    cdef public object on_due
    cdef public object on_suspect

    cdef bint take(self, MemoryClient client, uint64_t size) except -1
    cdef void charge(self, MemoryClient client, uint64_t size) noexcept nogil
    cdef int _give(self, MemoryClient client, uint64_t size) except -1
    cdef int leave(self, MemoryClient client) except -1
    cdef bint lend_chunk(self, MemoryClient client, buffer_ref *out) noexcept nogil
    cdef void return_chunk(self, MemoryClient client, buffer_ref *buf) noexcept nogil
    cdef int _suspect(self, MemoryClient client) except -1
    cdef void _count(self, MemoryClient client, uint64_t charged) noexcept nogil
    cdef bint _fits(self, MemoryClient client, uint64_t size) noexcept nogil
    cdef int _wait(self, MemoryClient client, bint much) except -1
    cdef int _wait_no_more(self, MemoryClient client) except -1
    cdef MemoryClient _next(self)
    cdef int _serve(self) except -1
    cdef int _tell(self) except -1

    # What a client that has little may `charge` without asking.
    cdef inline uint64_t allowance(self, MemoryClient client) noexcept nogil:
        if (self.num_little_waiting or client.charged > self.little_bytes
                or self.little_used > self.reserve_bytes):
            return 0
        return min(self.little_bytes - client.charged, self.reserve_bytes - self.little_used)

    # Take memory back. Behind the last in a row: `settle`.
    cdef inline int give(self, MemoryClient client, uint64_t size) except -1:
        if (client.charged <= self.little_bytes and not self.num_little_waiting
                and not self.num_large_waiting):
            client.charged -= size
            self.used_bytes -= size
            self.little_used -= size
            return 0
        return self._give(client, size)

    # See to it that those who wait are looked at, if anything has come back.
    cdef inline int settle(self) except -1:
        if self.due and not self.told and not self.serving:
            self._tell()
        return 0

    # Have a client looked at, who waits for its peer with memory in its hands, or for memory.
    cdef inline int suspect(self, MemoryClient client) except -1:
        if not client.suspected:
            self._suspect(client)
        return 0


cdef class MemoryClient(IoOwner):
    cdef readonly NbdMemory memory
    cdef uint64_t charged       # bytes that it was given, and has not given back
    cdef uint64_t granted       # of these, what it was given in its turn, and has not used yet
    cdef uint64_t asked         # bytes that it waits for; 0: it does not wait
    cdef bint asked_much        # it waits among those that have much, or want it
    cdef uint64_t asked_ns      # since when it waits, for memory or for a BdevIO
    cdef uint64_t since_ns      # when it was first given some of what it has
    cdef int chunks
    cdef bint suspected
    cdef int go_on(self) except -1


cdef inline uint64_t memory_for(uint64_t length) noexcept nogil:
    # What data of this length takes of the pool.
    return class_bytes(class_of(length))
