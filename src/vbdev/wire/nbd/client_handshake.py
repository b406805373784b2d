"""The client's half of the handshake: negotiates what was asked at construction, without I/O.

Feed what the server sent, take events until NEED_DATA, send what `data_to_send` gives. There is
nothing to answer: structured replies and metadata contexts are optional, and where a
server refuses them the client does without. A server that does not know NBD_OPT_GO is asked
again with NBD_OPT_EXPORT_NAME ("NBD_OPT_GO").
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Final

from vbdev.wire.nbd.constants import (
    CLIENT_FLAGS,
    ERROR_BIT,
    EXPORT_NAME_REPLY,
    GREETING,
    GREETING_MAGIC,
    MAX_CONTEXTS,
    MAX_EXPORT_BYTES,
    MAX_OPTION_BYTES,
    MAX_REPLIES_PER_OPTION,
    OLDSTYLE_MAGIC,
    OPTION_MAGIC,
    OPTION_REPLY_HEADER,
    OPTION_REPLY_MAGIC,
    RESERVED_ZEROES,
    HandshakeFlag,
    InfoType,
    Option,
    OptionReply,
    TransmissionFlag,
)
from vbdev.wire.nbd.errors import LocalProtocolError
from vbdev.wire.nbd.events import (
    BlockSizes,
    ClientEvent,
    Closed,
    ExportDescribed,
    ExportInfo,
    ExportListed,
    Refused,
    Transmission,
)
from vbdev.wire.nbd.handshake import Handshake, State
from vbdev.wire.nbd.payloads import (
    MalformedError,
    decode_block_sizes,
    decode_context,
    decode_export,
    decode_server,
    decode_string,
    encode_context_request,
    encode_info_request,
    encode_option,
    encode_string,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ClientHandshake", "Goal"]

_KNOWN_FLAGS: Final = HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES
_OPTIONAL: Final = frozenset({Option.STRUCTURED_REPLY, Option.SET_META_CONTEXT})
_ALL_INFO: Final = (InfoType.NAME, InfoType.DESCRIPTION, InfoType.BLOCK_SIZE)


class Goal(Enum):
    """What a client wants of the handshake."""

    ENTER = "transmission"
    DESCRIBE = "what NBD_OPT_INFO tells, then to leave"
    LIST = "the exports, then to leave"


class ClientHandshake(Handshake[ClientEvent]):
    """One negotiation with a server, towards `goal`.

    `contexts` are queries for NBD_OPT_SET_META_CONTEXT and need `structured_replies`.

    >>> client = ClientHandshake("disk0", contexts=["base:allocation"])
    >>> client.feed(b"NBDMAGICIHAVEOPT" + bytes([0, 3]))
    >>> client.next_event()
    <NeedData.NEED_DATA: 'need data'>
    >>> client.data_to_send().hex(" ", 4)
    '00000003 49484156 454f5054 00000008 00000000'
    """

    def __init__(
        self,
        export_name: str = "",
        *,
        goal: Goal = Goal.ENTER,
        structured_replies: bool = True,
        contexts: Iterable[str] = (),
        info_types: Iterable[int] = _ALL_INFO,
    ) -> None:
        super().__init__(State.GREETING)
        self._export_name = export_name
        self._goal = goal
        queries = tuple(contexts)
        if queries and not structured_replies:
            raise LocalProtocolError("metadata contexts need structured replies")
        # Encoded here so that a name that can't be sent fails before anything is sent.
        info_request = encode_info_request(export_name, info_types)
        self._data: Final[dict[Option, bytes]] = {
            Option.EXPORT_NAME: encode_string(export_name, "export name"),
            Option.INFO: info_request,
            Option.GO: info_request,
            Option.SET_META_CONTEXT: encode_context_request(export_name, queries),
        }
        self._plan: deque[Option] = deque()
        if structured_replies and goal is not Goal.LIST:
            self._plan.append(Option.STRUCTURED_REPLY)
        if queries and goal is Goal.ENTER:
            self._plan.append(Option.SET_META_CONTEXT)
        self._option = _LAST_STEP[goal]
        self._plan.append(self._option)
        self._flags = HandshakeFlag(0)
        self._replies_seen = 0
        self._reply_type = 0
        self._data_bytes = 0
        self._export: tuple[int, TransmissionFlag] | None = None
        self._block_sizes: BlockSizes | None = None
        self._texts: dict[InfoType, str] = {}
        self._structured = False
        self._contexts: dict[int, str] = {}

    def _step(self) -> bool:
        match self._state:
            case State.GREETING:
                return self._read_greeting()
            case State.REPLY:
                return self._read_reply_header()
            case State.REPLY_DATA:
                return self._read_reply_data()
            case _:
                return self._read_export_name_reply()

    def _read_greeting(self) -> bool:
        data = self._inbox.take(GREETING.size)
        if data is None:
            return False
        magic, second_magic, flags = GREETING.unpack(data)
        if magic != GREETING_MAGIC:
            raise self._fail(f"not an NBD server: it starts with {magic!r}")
        if second_magic == OLDSTYLE_MAGIC:
            raise self._fail("server speaks oldstyle negotiation, which is not supported")
        if second_magic != OPTION_MAGIC:
            raise self._fail(f"server's second magic is {second_magic!r}, not {OPTION_MAGIC!r}")
        # "Newstyle negotiation": the client SHOULD ignore any handshake flags it does not
        # recognize, and may set those only that the server set.
        self._flags = HandshakeFlag(flags) & _KNOWN_FLAGS
        self._outbox += CLIENT_FLAGS.pack(self._flags)
        if self._flags & HandshakeFlag.FIXED_NEWSTYLE:
            self._send_next_option()
        elif self._goal is Goal.ENTER:
            self._send_export_name()
        else:
            raise self._fail(f"server without fixed newstyle can't tell {self._goal.value}")
        return True

    def _read_reply_header(self) -> bool:
        data = self._inbox.take(OPTION_REPLY_HEADER.size)
        if data is None:
            return False
        magic, option, self._reply_type, self._data_bytes = OPTION_REPLY_HEADER.unpack(data)
        if magic != OPTION_REPLY_MAGIC:
            raise self._fail(f"reply magic is {magic:#x}, not {OPTION_REPLY_MAGIC:#x}")
        if option != self._option:
            raise self._fail(f"reply to {Option.label(option)}, asked {self._option.name}")
        self._replies_seen += 1
        if self._data_bytes > MAX_OPTION_BYTES or self._replies_seen > MAX_REPLIES_PER_OPTION:
            raise self._fail(
                f"reply {self._replies_seen} of {self._data_bytes} bytes to {self._option.name};"
                f" limits are {MAX_REPLIES_PER_OPTION} and {MAX_OPTION_BYTES} bytes"
            )
        self._enter(State.REPLY_DATA)
        return True

    def _read_reply_data(self) -> bool:
        data = self._inbox.take(self._data_bytes)
        if data is None:
            return False
        if self._reply_type & ERROR_BIT:
            self._on_error(self._reply_type, data.decode(errors="replace"))
            return True
        if self._reply_type == OptionReply.ACK:
            if data:
                raise self._fail(f"NBD_REP_ACK carries {len(data)} bytes and takes none")
            self._on_ack()
            return True
        try:
            self._on_item(data)
        except MalformedError as error:
            raise self._fail(str(error)) from error
        self._enter(State.REPLY)
        return True

    def _read_export_name_reply(self) -> bool:
        padding = b"" if self._flags & HandshakeFlag.NO_ZEROES else RESERVED_ZEROES
        data = self._inbox.take(EXPORT_NAME_REPLY.size + len(padding))
        if data is None:
            return False
        self._export = decode_export(data[: EXPORT_NAME_REPLY.size])
        self._block_sizes, self._texts = None, {}
        self._start_transmission()
        return True

    def _on_item(self, data: bytes) -> None:
        """Take one item of a reply, which ends with ACK or an error."""
        match self._option, self._reply_type:
            case Option.LIST, OptionReply.SERVER:
                self._events.append(ExportListed(*decode_server(data)))
            case ((Option.INFO | Option.GO), OptionReply.INFO):
                self._on_info(data)
            case Option.SET_META_CONTEXT, OptionReply.META_CONTEXT:
                context_id, name = decode_context(data)
                if context_id in self._contexts or len(self._contexts) == MAX_CONTEXTS:
                    raise MalformedError(f"context ID {context_id} repeats or is one too many")
                self._contexts[context_id] = name
            case _:
                label = OptionReply.label(self._reply_type)
                raise MalformedError(f"{label} in the reply to {Option.label(self._option)}")

    def _on_info(self, data: bytes) -> None:
        if len(data) < 2:
            raise MalformedError(f"NBD_REP_INFO of {len(data)} bytes has no type")
        body = data[2:]
        match int.from_bytes(data[:2]):
            case InfoType.EXPORT:
                self._export = decode_export(body)
            case InfoType.BLOCK_SIZE:
                self._block_sizes = decode_block_sizes(body)
            case (InfoType.NAME | InfoType.DESCRIPTION) as number:
                info = InfoType(number)
                self._texts[info] = decode_string(body, f"NBD_INFO_{info.name}")
            case _:
                # "NBD_OPT_INFO": the client MUST ignore information replies it does not
                # understand.
                pass

    def _on_ack(self) -> None:
        match self._option:
            case Option.GO:
                self._start_transmission()
            case Option.ABORT:
                self._finish(State.CLOSED, Closed("negotiation left as intended"))
            case Option.INFO:
                self._events.append(ExportDescribed(self._info()))
                self._send_option(Option.ABORT)
            case Option.LIST:
                self._send_option(Option.ABORT)
            case _:
                self._structured = True
                self._send_next_option()

    def _on_error(self, error: int, message: str) -> None:
        if self._option is Option.ABORT:
            self._finish(State.CLOSED, Closed(f"server refused to be left: {message}"))
            return
        fallback = self._option is Option.GO and error == OptionReply.ERR_UNSUP
        # "Termination of the session during option haggling": a client that receives
        # ERR_SHUTDOWN MUST initiate a soft disconnect.
        goes_on = fallback or (self._option in _OPTIONAL and error != OptionReply.ERR_SHUTDOWN)
        self._events.append(Refused(self._option, error, message, goes_on))
        if fallback:
            self._send_export_name()
        elif goes_on:
            # "NBD_OPT_LIST_META_CONTEXT": contexts that precede an error do not count.
            self._contexts.clear()
            if self._option is Option.STRUCTURED_REPLY and Option.SET_META_CONTEXT in self._plan:
                self._plan.remove(Option.SET_META_CONTEXT)
            self._send_next_option()
        else:
            self._send_option(Option.ABORT)

    def _info(self) -> ExportInfo:
        """Return what the server told about the export, once it has said that this is all."""
        if self._export is None:
            # "NBD_OPT_INFO": before NBD_REP_ACK the server MUST send an NBD_INFO_EXPORT.
            raise self._fail("server acknowledged the export without NBD_INFO_EXPORT")
        size_bytes, flags = self._export
        if size_bytes > MAX_EXPORT_BYTES:
            raise self._fail(f"export of {size_bytes} bytes, more than {MAX_EXPORT_BYTES}")
        # "Transmission flags": NBD_FLAG_HAS_FLAGS MUST always be 1.
        if not flags & TransmissionFlag.HAS_FLAGS:
            raise self._fail(f"transmission flags {int(flags):#x} lack NBD_FLAG_HAS_FLAGS")
        sizes = self._block_sizes
        if sizes is not None and (fault := sizes.fault(size_bytes)):
            raise self._fail(fault)
        name = self._texts.get(InfoType.NAME)
        return ExportInfo(size_bytes, flags, sizes, name, self._texts.get(InfoType.DESCRIPTION))

    def _start_transmission(self) -> None:
        contexts = tuple(self._contexts.items())
        event = Transmission(self._export_name, self._info(), self._structured, contexts)
        self._finish(State.TRANSMISSION, event)

    def _end_of_stream(self) -> None:
        # "NBD_OPT_ABORT": the client SHOULD gracefully handle the server closing the
        # connection without sending a reply.
        if self._option is Option.ABORT and self._inbox.at_boundary:
            self._finish(State.CLOSED, Closed("server left"))
        elif self._state is State.EXPORT_REPLY:
            raise self._fail(f"server left; it may have no export {self._export_name!r}")
        else:
            raise self._fail(f"server left, while waiting for {self._state.value}")

    def _send_next_option(self) -> None:
        self._send_option(self._plan.popleft())

    def _send_option(self, option: Option) -> None:
        self._option = option
        self._replies_seen = 0
        self._outbox += encode_option(option, self._data.get(option, b""))
        self._enter(State.REPLY)

    def _send_export_name(self) -> None:
        self._option = Option.EXPORT_NAME
        self._outbox += encode_option(self._option, self._data[self._option])
        self._enter(State.EXPORT_REPLY)


_LAST_STEP: Final[dict[Goal, Option]] = {
    Goal.ENTER: Option.GO,
    Goal.DESCRIBE: Option.INFO,
    Goal.LIST: Option.LIST,
}
