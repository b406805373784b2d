"""Which bytes of a READ have come: structured replies bring them in any order, and none twice.

A list of ranges, in order, that do not touch. As long as all comes in order there is none, and
`pieces_add` costs a comparison.
"""

from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memmove

cdef enum:
    FIRST_ROOM = 16


cdef void pieces_clear(nbd_pieces *self) noexcept nogil:
    """Forget all, and give the memory back."""
    free(self.v)
    self.v = NULL
    self.got = self.n = self.room = 0


cdef int pieces_add_apart(nbd_pieces *self, uint32_t start, uint32_t end) noexcept nogil:
    """Note a piece that does not follow on the only one; return PIECE_*."""
    cdef uint32_t low = 0, high
    cdef bint joins_before, joins_after
    if self.v == NULL:
        if start < self.got:
            return PIECE_TWICE
        self.v = <byte_range *>malloc(FIRST_ROOM * sizeof(byte_range))
        if self.v == NULL:
            return PIECE_NO_MEMORY
        self.room = FIRST_ROOM
        self.n = 0
        if self.got:
            self.v[0].start = 0
            self.v[0].end = self.got
            self.n = 1
    # The first range that ends behind `start`: by halves, or a READ in many pieces would take
    # time that grows with their square.
    high = self.n
    while low < high:
        if self.v[(low + high) // 2].end <= start:
            low = (low + high) // 2 + 1
        else:
            high = (low + high) // 2
    if low < self.n and self.v[low].start < end:
        return PIECE_TWICE
    joins_before = low > 0 and self.v[low - 1].end == start
    joins_after = low < self.n and self.v[low].start == end
    if joins_before and joins_after:
        self.v[low - 1].end = self.v[low].end
        self.n -= 1
        memmove(&self.v[low], &self.v[low + 1], (self.n - low) * sizeof(byte_range))
    elif joins_before:
        self.v[low - 1].end = end
    elif joins_after:
        self.v[low].start = start
    else:
        if self.n == MAX_PIECES:
            return PIECE_TOO_MANY
        if self.n == self.room and not grow(self):
            return PIECE_NO_MEMORY
        memmove(&self.v[low + 1], &self.v[low], (self.n - low) * sizeof(byte_range))
        self.v[low].start = start
        self.v[low].end = end
        self.n += 1
    self.got += end - start
    return PIECE_NEW


cdef bint grow(nbd_pieces *self) noexcept nogil:
    cdef byte_range *grown = <byte_range *>realloc(self.v, 2 * self.room * sizeof(byte_range))
    if grown == NULL:
        return False
    self.v = grown
    self.room *= 2
    return True
