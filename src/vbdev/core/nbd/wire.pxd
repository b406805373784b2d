# The wire format of NBD's transmission phase (doc/proto.md, "Transmission phase") in numbers.
# wire/nbd/constants.py has the same; a test compares them.

cdef enum:
    REQUEST_MAGIC = 0x25609513
    SIMPLE_REPLY_MAGIC = 0x67446698
    STRUCTURED_REPLY_MAGIC = 0x668e33ef
    REQUEST_BYTES = 28
    SIMPLE_REPLY_BYTES = 16
    CHUNK_HEADER_BYTES = 20

    CMD_READ = 0
    CMD_WRITE = 1
    CMD_DISC = 2
    CMD_FLUSH = 3
    CMD_TRIM = 4
    CMD_CACHE = 5
    CMD_WRITE_ZEROES = 6
    CMD_BLOCK_STATUS = 7

    CMD_FLAG_FUA = 1
    CMD_FLAG_NO_HOLE = 2
    CMD_FLAG_DF = 4
    CMD_FLAG_REQ_ONE = 8
    CMD_FLAG_FAST_ZERO = 16

    REPLY_FLAG_DONE = 1
    REPLY_TYPE_NONE = 0
    REPLY_TYPE_OFFSET_DATA = 1
    REPLY_TYPE_OFFSET_HOLE = 2
    REPLY_TYPE_ERROR = 0x8001
    REPLY_TYPE_ERROR_OFFSET = 0x8002

    EXPORT_READ_ONLY = 1 << 1
    EXPORT_SEND_FLUSH = 1 << 2
    EXPORT_SEND_FUA = 1 << 3
    EXPORT_SEND_TRIM = 1 << 5
    EXPORT_SEND_WRITE_ZEROES = 1 << 6
    EXPORT_SEND_CACHE = 1 << 10
    EXPORT_SEND_FAST_ZERO = 1 << 11
