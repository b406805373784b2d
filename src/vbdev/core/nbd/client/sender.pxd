from vbdev.core.base.types cimport iovec, size_t, uint32_t, uint64_t, uint8_t
from vbdev.core.nbd.client.slots cimport nbd_slot, slot_table


cdef class NbdSender:
    cdef int fd
    cdef slot_table *slots      # the link's
    cdef uint32_t *queue        # ring of the numbers of slots that are to be sent, or partly
    cdef uint32_t head
    cdef uint32_t n
    cdef size_t skip            # bytes of the first one that are sent
    cdef uint8_t *headers
    cdef iovec *iovs
    cdef readonly uint64_t requests
    cdef readonly uint64_t sends
    cdef readonly uint64_t sent_bytes
    cdef readonly bint full     # the socket takes no more for now

    cdef void push(self, nbd_slot *slot) noexcept nogil
    cdef int send(self, uint32_t most) noexcept nogil
    cdef int knock(self) noexcept nogil
    cdef void forget(self) noexcept nogil
    cdef size_t _gather(self, uint32_t most, size_t *total) noexcept nogil
    cdef void _took(self, size_t sent) noexcept nogil
