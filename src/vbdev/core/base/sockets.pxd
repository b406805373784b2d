# The system calls of a connected socket.

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t

from vbdev.core.base.types cimport iovec


cdef extern from "sys/types.h":
    ctypedef Py_ssize_t ssize_t

cdef extern from "sys/socket.h" nogil:
    cdef struct msghdr:
        void *msg_name
        uint32_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    ssize_t sendmsg(int fd, const msghdr *msg, int flags)
    ssize_t recvmsg(int fd, msghdr *msg, int flags)
    ssize_t send(int fd, const void *data, size_t length, int flags)
    int MSG_DONTWAIT, MSG_NOSIGNAL

cdef extern from "poll.h" nogil:
    cdef struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long count, int timeout_ms)
    int POLLERR, POLLHUP


cdef inline bint hung_up(int fd) noexcept nogil:
    # Whether the peer has closed the connection in both directions, or reset it.
    cdef pollfd one
    one.fd = fd
    one.events = 0
    return poll(&one, 1, 0) > 0 and one.revents & (POLLHUP | POLLERR)
