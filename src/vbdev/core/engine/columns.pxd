from libc.stdint cimport uint64_t, uint8_t

from vbdev.core.base.types cimport bdev_io


cdef enum:
    COLUMN_OP = 0
    COLUMN_STATUS = 1
    COLUMN_FLAGS = 2
    COLUMN_DETAIL = 3
    COLUMN_ARG = 4
    COLUMN_ID = 5
    COLUMN_NUM_BLOCKS = 6
    COLUMN_OFFSET = 7
    COLUMN_SRC_OFFSET = 8
    COLUMN_RESULT = 9
    COLUMN_SUBMIT_NS = 10
    NUM_COLUMNS = 11


cdef object new_column(Py_ssize_t n, int which)
cdef int fill_column(object out, bdev_io **v, Py_ssize_t n, int which) except -1
cdef int bools(object which, Py_buffer *view) except -1
cdef int numbers(object values, Py_buffer *view) except -1
