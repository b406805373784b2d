from libc.stdint cimport uint32_t


cdef struct byte_range:
    uint32_t start
    uint32_t end

# Which bytes of a READ have come, counted from its start.
cdef struct nbd_pieces:
    uint32_t got                # bytes in all
    uint32_t n
    uint32_t room
    byte_range *v               # NULL as long as all that came is one piece from the start

cdef enum:
    MAX_PIECES = 4096           # separate ones at a time, of one READ

    PIECE_NEW = 0
    PIECE_TWICE = 1             # some of it had come already
    PIECE_TOO_MANY = 2
    PIECE_NO_MEMORY = 3

cdef int pieces_add_apart(nbd_pieces *self, uint32_t start, uint32_t end) noexcept nogil
cdef void pieces_clear(nbd_pieces *self) noexcept nogil


cdef inline int pieces_add(nbd_pieces *self, uint32_t start, uint32_t end) noexcept nogil:
    # Note that bytes from `start` to before `end` have come, at least one; return PIECE_*.
    if self.v == NULL and start == self.got:  # in order, as servers send them
        self.got = end
        return PIECE_NEW
    return pieces_add_apart(self, start, end)
