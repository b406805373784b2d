"""Columns: a field of each I/O of a batch as a numpy array, and arrays taken back.

A column is an array of its own, made when it is asked for; whoever has it may keep it. Budget:
2 ns an I/O, and 250 ns a column, which numpy takes for an array and for lending its memory. So
numpy's functions are looked up once, called without keywords, and memory is borrowed by the plain
buffer protocol: a typed memoryview costs as much again.
"""

from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS,
    PyBUF_FORMAT,
    PyBUF_WRITABLE,
    PyBuffer_Release,
    PyObject_CheckBuffer,
    PyObject_GetBuffer,
)
from libc.stdint cimport int32_t, int8_t, uint16_t, uint32_t, uint64_t, uint8_t

from vbdev.core.base.types cimport bdev_io


cdef object empty = None                # numpy's, from the first use on
cdef object ascontiguousarray
cdef list dtypes                        # by COLUMN_*


cdef int load() except -1:
    global empty, ascontiguousarray, dtypes
    import numpy as np
    dtypes = [None] * NUM_COLUMNS
    dtypes[COLUMN_OP] = np.dtype(np.uint8)
    dtypes[COLUMN_STATUS] = np.dtype(np.int8)
    dtypes[COLUMN_FLAGS] = np.dtype(np.uint16)
    dtypes[COLUMN_DETAIL] = np.dtype(np.int32)
    dtypes[COLUMN_ARG] = dtypes[COLUMN_ID] = np.dtype(np.uint32)
    for which in (COLUMN_NUM_BLOCKS, COLUMN_OFFSET, COLUMN_SRC_OFFSET, COLUMN_RESULT,
                  COLUMN_SUBMIT_NS):
        dtypes[which] = np.dtype(np.uint64)
    ascontiguousarray = np.ascontiguousarray
    empty = np.empty
    return 0


cdef object new_column(Py_ssize_t n, int which):
    """Return a new array with room for a field of each of n I/Os."""
    if empty is None:
        load()
    return empty(n, dtypes[which])


cdef int fill_column(object out, bdev_io **v, Py_ssize_t n, int which) except -1:
    """Put a field of each of the n I/Os into an array that `new_column` has made."""
    cdef Py_buffer view
    if n:
        PyObject_GetBuffer(out, &view, PyBUF_WRITABLE)
        fill(view.buf, v, n, which)
        PyBuffer_Release(&view)
    return 0


cdef void fill(void *to, bdev_io **v, Py_ssize_t n, int which) noexcept nogil:
    cdef Py_ssize_t i
    if which == COLUMN_OFFSET:
        for i in range(n):
            (<uint64_t *>to)[i] = v[i].offset_blocks
    elif which == COLUMN_NUM_BLOCKS:
        for i in range(n):
            (<uint64_t *>to)[i] = v[i].num_blocks
    elif which == COLUMN_OP:
        for i in range(n):
            (<uint8_t *>to)[i] = v[i].op
    elif which == COLUMN_STATUS:
        for i in range(n):
            (<int8_t *>to)[i] = v[i].status
    elif which == COLUMN_FLAGS:
        for i in range(n):
            (<uint16_t *>to)[i] = v[i].flags
    elif which == COLUMN_DETAIL:
        for i in range(n):
            (<int32_t *>to)[i] = v[i].err
    elif which == COLUMN_ARG:
        for i in range(n):
            (<uint32_t *>to)[i] = v[i].arg
    elif which == COLUMN_ID:
        for i in range(n):
            (<uint32_t *>to)[i] = v[i].index
    elif which == COLUMN_SRC_OFFSET:
        for i in range(n):
            (<uint64_t *>to)[i] = v[i].src_offset_blocks
    elif which == COLUMN_RESULT:
        for i in range(n):
            (<uint64_t *>to)[i] = v[i].result
    else:
        for i in range(n):
            (<uint64_t *>to)[i] = v[i].frames[v[i].depth - 1].submit_ns if v[i].depth else 0


cdef int bools(object which, Py_buffer *view) except -1:
    """Borrow an array of bool, a byte for each, until `PyBuffer_Release`.

    TypeError where it is none. `view.len` is how many they are.
    """
    if PyObject_CheckBuffer(which):
        try:
            PyObject_GetBuffer(which, view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)
        except (BufferError, ValueError):
            pass  # with gaps between its elements
        else:
            if view.ndim == 1 and view.format != NULL and view.format[0] == b"?":
                return 0
            PyBuffer_Release(view)
    import numpy as np
    which = np.ascontiguousarray(which)
    if which.dtype != bool and which.size:
        raise TypeError(f"IOBatch.take: a mask of {which.dtype}, not of bool; several types"
                        " of I/O go into a set or a tuple")
    which = which.astype(bool, copy=False)
    PyObject_GetBuffer(which, view, PyBUF_C_CONTIGUOUS)
    return 0


cdef int numbers(object values, Py_buffer *view) except -1:
    """Borrow an array of uint64 until `PyBuffer_Release`."""
    if empty is None:
        load()
    values = ascontiguousarray(values, dtypes[COLUMN_OFFSET])
    PyObject_GetBuffer(values, view, PyBUF_C_CONTIGUOUS)
    return 0
