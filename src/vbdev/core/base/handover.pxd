"""The GIL handed over between reactors without the kernel. See handover.pyx.

    with nogil:
        gil_left()
        ...
        gil_wanted()
"""

# First in a section without the GIL: whoever waits for it may go.
cdef void gil_left() noexcept nogil
# Last in such a section: come back when the GIL is free, or after a while.
cdef void gil_wanted() noexcept nogil
