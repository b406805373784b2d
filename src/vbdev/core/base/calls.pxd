# System calls that more than one family makes.

cdef extern from "unistd.h" nogil:
    long syscall(long number, ...)
    int close(int fd)
