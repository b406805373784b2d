"""Numbers of the NBD protocol, under the names of its specification (proto.md, "Values").

An enum stands for a prefix of the specification: `Option.GO` is NBD_OPT_GO. All fields on
the wire are big-endian ("Conventions"). The limits at the end are this implementation's.
"""

from __future__ import annotations

from enum import Enum, IntEnum, IntFlag
from struct import Struct
from typing import Final

__all__ = [
    "CHUNK_HEADER",
    "CLIENT_FLAGS",
    "COMMAND_FLAGS",
    "ERROR_BIT",
    "ERROR_CHUNK_BIT",
    "EXPORT_NAME_REPLY",
    "GREETING",
    "GREETING_MAGIC",
    "MAX_CHUNK_PIECES",
    "MAX_CONTEXTS",
    "MAX_EXPORT_BYTES",
    "MAX_OPTIONS",
    "MAX_OPTION_BYTES",
    "MAX_REPLIES_PER_OPTION",
    "MAX_STATUS_EXTENTS",
    "MAX_STRING_BYTES",
    "MAX_UNREAD_BYTES",
    "NEED_DATA",
    "OLDSTYLE_MAGIC",
    "OPTION_HEADER",
    "OPTION_MAGIC",
    "OPTION_REPLY_HEADER",
    "OPTION_REPLY_MAGIC",
    "REQUEST_HEADER",
    "REQUEST_MAGIC",
    "RESERVED_ZEROES",
    "SIMPLE_REPLY",
    "SIMPLE_REPLY_MAGIC",
    "STRUCTURED_REPLY_MAGIC",
    "ChunkFlag",
    "ChunkType",
    "Command",
    "CommandFlag",
    "HandshakeFlag",
    "InfoType",
    "NeedData",
    "Option",
    "OptionReply",
    "StateFlag",
    "TransmissionFlag",
]


class HandshakeFlag(IntFlag):
    """NBD_FLAG_x from the server and NBD_FLAG_C_x from the client, which share their bits."""

    FIXED_NEWSTYLE = 1 << 0
    NO_ZEROES = 1 << 1


class TransmissionFlag(IntFlag):
    """NBD_FLAG_x: what an export can do ("Transmission flags")."""

    HAS_FLAGS = 1 << 0
    READ_ONLY = 1 << 1
    SEND_FLUSH = 1 << 2
    SEND_FUA = 1 << 3
    ROTATIONAL = 1 << 4
    SEND_TRIM = 1 << 5
    SEND_WRITE_ZEROES = 1 << 6
    SEND_DF = 1 << 7
    CAN_MULTI_CONN = 1 << 8
    SEND_RESIZE = 1 << 9
    SEND_CACHE = 1 << 10
    SEND_FAST_ZERO = 1 << 11
    BLOCK_STATUS_PAYLOAD = 1 << 12


class Option(IntEnum):
    """NBD_OPT_x: what a client asks during the handshake ("Option types")."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    PEEK_EXPORT = 4
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10
    EXTENDED_HEADERS = 11

    @classmethod
    def label(cls, value: int) -> str:
        """Return the specification's name of an option, or its number where it has none."""
        return f"NBD_OPT_{cls(value).name}" if value in _OPTIONS else f"option {value}"


_OPTIONS: Final = frozenset(Option)

ERROR_BIT: Final = 1 << 31
"""Set in each option reply type that is an error ("Option reply types")."""


class OptionReply(IntEnum):
    """NBD_REP_x: what a server answers to an option ("Option reply types")."""

    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERR_UNSUP = ERROR_BIT + 1
    ERR_POLICY = ERROR_BIT + 2
    ERR_INVALID = ERROR_BIT + 3
    ERR_PLATFORM = ERROR_BIT + 4
    ERR_TLS_REQD = ERROR_BIT + 5
    ERR_UNKNOWN = ERROR_BIT + 6
    ERR_SHUTDOWN = ERROR_BIT + 7
    ERR_BLOCK_SIZE_REQD = ERROR_BIT + 8
    ERR_TOO_BIG = ERROR_BIT + 9
    ERR_EXT_HEADER_REQD = ERROR_BIT + 10

    @classmethod
    def label(cls, value: int) -> str:
        """Return the specification's name of a reply type, or its number in hexadecimal."""
        return f"NBD_REP_{cls(value).name}" if value in _OPTION_REPLIES else f"reply {value:#x}"


_OPTION_REPLIES: Final = frozenset(OptionReply)


class InfoType(IntEnum):
    """NBD_INFO_x: what an NBD_REP_INFO tells about an export ("NBD_OPT_INFO")."""

    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


class Command(IntEnum):
    """NBD_CMD_x ("Request types")."""

    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7

    @classmethod
    def label(cls, value: int) -> str:
        """Return the specification's name of a command, or its number where it has none."""
        return f"NBD_CMD_{cls(value).name}" if value in _COMMANDS else f"command {value}"


_COMMANDS: Final = frozenset(Command)


class CommandFlag(IntFlag):
    """NBD_CMD_FLAG_x ("Command flags")."""

    FUA = 1 << 0
    NO_HOLE = 1 << 1
    DF = 1 << 2
    REQ_ONE = 1 << 3
    FAST_ZERO = 1 << 4
    PAYLOAD_LEN = 1 << 5


COMMAND_FLAGS: Final[dict[Command, CommandFlag]] = {
    Command.READ: CommandFlag.FUA | CommandFlag.DF,
    Command.WRITE: CommandFlag.FUA,
    Command.DISC: CommandFlag.FUA,
    Command.FLUSH: CommandFlag.FUA,
    Command.TRIM: CommandFlag.FUA,
    Command.CACHE: CommandFlag.FUA,
    Command.WRITE_ZEROES: CommandFlag.FUA | CommandFlag.NO_HOLE | CommandFlag.FAST_ZERO,
    Command.BLOCK_STATUS: CommandFlag.FUA | CommandFlag.REQ_ONE,
}
"""Flags that may come with each command, without extended headers; FUA may with any."""


class ChunkFlag(IntFlag):
    """NBD_REPLY_FLAG_x ("Structured reply flags")."""

    DONE = 1 << 0


ERROR_CHUNK_BIT: Final = 1 << 15
"""Set in each chunk type that is an error ("Structured reply types")."""


class ChunkType(IntEnum):
    """NBD_REPLY_TYPE_x ("Structured reply types")."""

    NONE = 0
    OFFSET_DATA = 1
    OFFSET_HOLE = 2
    BLOCK_STATUS = 5
    ERROR = ERROR_CHUNK_BIT + 1
    ERROR_OFFSET = ERROR_CHUNK_BIT + 2


class StateFlag(IntFlag):
    """NBD_STATE_x: an extent in the context base:allocation ("Metadata contexts")."""

    HOLE = 1 << 0
    ZERO = 1 << 1


class NeedData(Enum):
    """The type of NEED_DATA, which a type checker can tell from an event."""

    NEED_DATA = "need data"


NEED_DATA: Final = NeedData.NEED_DATA
"""No event until more bytes, or the answer to the last event, have been given."""

GREETING_MAGIC: Final = b"NBDMAGIC"
OPTION_MAGIC: Final = b"IHAVEOPT"
OLDSTYLE_MAGIC: Final = bytes.fromhex("0000420281861253")
OPTION_REPLY_MAGIC: Final = 0x0003E889045565A9
REQUEST_MAGIC: Final = 0x25609513
SIMPLE_REPLY_MAGIC: Final = 0x67446698
STRUCTURED_REPLY_MAGIC: Final = 0x668E33EF

GREETING: Final = Struct(">8s8sH")
"""Two magics, handshake flags ("Newstyle negotiation")."""
CLIENT_FLAGS: Final = Struct(">I")
OPTION_HEADER: Final = Struct(">8sII")
"""Magic, option, length of the data in bytes ("Newstyle negotiation")."""
OPTION_REPLY_HEADER: Final = Struct(">QIII")
"""Magic, option, reply type, length of the data in bytes ("Fixed newstyle negotiation")."""
EXPORT_NAME_REPLY: Final = Struct(">QH")
"""Size of the export in bytes, transmission flags ("Newstyle negotiation")."""
RESERVED_ZEROES: Final = bytes(124)
"""What follows EXPORT_NAME_REPLY unless both sides set NO_ZEROES."""
REQUEST_HEADER: Final = Struct(">IHHQQI")
"""Magic, command flags, command, cookie, offset and length in bytes ("Request message")."""
SIMPLE_REPLY: Final = Struct(">IIQ")
"""Magic, error, cookie ("Simple reply message")."""
CHUNK_HEADER: Final = Struct(">IHHQI")
"""Magic, flags, type, cookie, length of the payload ("Structured reply chunk message")."""

MAX_STRING_BYTES: Final = 4096
"""Longest name, query or message, in bytes of UTF-8 ("Protocol phases", strings)."""
MAX_OPTION_BYTES: Final = 64 << 10
"""Most data that an option, or one reply to it, may carry; a longer option is refused."""
MAX_OPTIONS: Final = 4096
"""Options that one client may send before it must have entered transmission."""
MAX_UNREAD_BYTES: Final = 2 * MAX_OPTION_BYTES
"""What a client may send ahead while the server still owes it an answer."""
MAX_REPLIES_PER_OPTION: Final = 65_536
"""Replies that a server may send to one option: exports in a list, mostly."""
MAX_CONTEXTS: Final = 256
"""Metadata contexts that one client may hold."""
MAX_EXPORT_BYTES: Final = (1 << 63) - 1
"""Largest export ("Size": offsets should fit a signed 64-bit integer)."""
MAX_STATUS_EXTENTS: Final = 1 << 20
"""Extents in one NBD_REPLY_TYPE_BLOCK_STATUS that a client takes."""
MAX_CHUNK_PIECES: Final = 4096
"""Separate pieces that a structured read may be in at one time, on a client."""
