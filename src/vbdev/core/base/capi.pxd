# What the floor calls of the interpreter by itself, with references that nobody counts for it:
# whoever calls says who owns what. Exceptions come as NULL and have to be looked for.

cdef extern from "Python.h":
    ctypedef struct PyObject
    ctypedef PyObject *(*vectorcallfunc)(
        PyObject *callable_, PyObject *const *args, size_t num_args, PyObject *names) noexcept
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT
    PyObject *Py_None
    size_t PY_VECTORCALL_ARGUMENTS_OFFSET
    PyObject *PyObject_Vectorcall(
        PyObject *function, PyObject *const *args, size_t num_args, PyObject *names) noexcept
    vectorcallfunc PyVectorcall_Function(PyObject *function) noexcept
    PySendResult PyIter_Send(PyObject *iter, PyObject *arg, PyObject **result) noexcept
    bint PyCoro_CheckExact(PyObject *object) noexcept
    Py_ssize_t Py_REFCNT(object) noexcept
    void Py_INCREF(PyObject *object) noexcept
    void Py_DECREF(PyObject *object) noexcept
