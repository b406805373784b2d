# Protection information: layout, generation, verification. See dif.pyx.

from libc.stddef cimport size_t
from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t

from vbdev.core.base.types cimport iovec


# What is checked: `vocab.DifCheck`, shifted down. A verification returns the one that failed.
cdef enum:
    DIF_SHIFT = 26
    DIF_REFTAG = 1
    DIF_APPTAG = 2
    DIF_GUARD = 4
    DIF_SHORT = 8               # there is less memory than the blocks need

cdef enum:
    DIF_MAX_MD = 128
    DIF_ESCAPE_APPTAG = 0xffff

# NVMe status code type "media and data integrity errors", and what it says for each check.
cdef enum:
    NVME_SCT_MEDIA = 2
    NVME_SC_GUARD = 0x82
    NVME_SC_APPTAG = 0x83
    NVME_SC_REFTAG = 0x84

cdef struct dif_layout:
    uint32_t block_size         # bytes of a block in the data: with interleaved metadata
    uint32_t data_size          # bytes of a block without metadata
    uint32_t md_size            # bytes of metadata; 0: none
    uint32_t pi_at              # where in the metadata protection information begins
    uint32_t covered_md         # bytes at the front of the metadata that the guard covers
    uint8_t pi_size
    uint8_t format              # guard of 16, 32, 64 bits: 0, 1, 2
    uint8_t type                # 0: the metadata is the user's own
    uint8_t checks
    bint interleaved

cdef struct dif_tags:
    uint64_t ref_tag            # of the first block
    uint16_t app_tag
    uint16_t app_mask           # bits of the application tag that are compared
    bint escape                 # generate tags that switch checking off

cdef struct dif_error:
    uint64_t block              # index in the I/O
    uint64_t expected
    uint64_t actual
    uint8_t check


cdef uint64_t dif_guard(uint8_t format, const void *data, size_t length) noexcept nogil
cdef int dif_generate(const dif_layout *self, const iovec *iovs, uint32_t iovcnt, uint64_t start,
                      void *md, uint64_t num_blocks, dif_tags tags) noexcept nogil
cdef int dif_verify(const dif_layout *self, const iovec *iovs, uint32_t iovcnt, uint64_t start,
                    const void *md, uint64_t num_blocks, dif_tags tags, uint8_t checks,
                    dif_error *error) noexcept nogil
cdef int dif_remap(const dif_layout *self, const iovec *iovs, uint32_t iovcnt, void *md,
                   uint64_t num_blocks, uint64_t ref_tag, uint64_t new_ref_tag, bint check,
                   dif_error *error) noexcept nogil
cdef int dif_insert(const dif_layout *self, const iovec *data, uint32_t data_cnt,
                    const iovec *blocks, uint32_t blocks_cnt, uint64_t num_blocks,
                    dif_tags tags) noexcept nogil
cdef int dif_strip(const dif_layout *self, const iovec *blocks, uint32_t blocks_cnt,
                   const iovec *data, uint32_t data_cnt, uint64_t num_blocks, dif_tags tags,
                   uint8_t checks, dif_error *error) noexcept nogil


cdef inline int nvme_error_of(int check) noexcept nogil:
    # What `bdev_io.err` is with IO_NVME_ERROR for a check that failed.
    if check == DIF_GUARD:
        return NVME_SCT_MEDIA << 8 | NVME_SC_GUARD
    return NVME_SCT_MEDIA << 8 | (NVME_SC_APPTAG if check == DIF_APPTAG else NVME_SC_REFTAG)


cdef class Dif:
    cdef dif_layout layout
