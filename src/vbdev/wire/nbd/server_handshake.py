"""The server's half of the handshake: fixed newstyle, without I/O.

Feed what the client sent, take events until NEED_DATA, answer each event that asks something,
and send whatever `data_to_send` gives after each of these: greeting, automatic replies and
answers come out of that one place, in order.

Rules that hold whatever the client sends:

- One question at a time. While an event is unanswered nothing further is read, because the
  client has to wait as well ("Fixed newstyle negotiation"). What it sends ahead nevertheless is
  kept up to MAX_UNREAD_BYTES.
- A client that is wrong but understandable gets an error reply and may go on. One that
  can't be answered (bad magic, unknown flags, a wrong EXPORT_NAME) or that does not end
  (more than MAX_OPTIONS options) raises RemoteProtocolError.
- The data of an option is kept only where the option is known, allowed now and no longer than
  MAX_OPTION_BYTES. A longer one is refused with NBD_REP_ERR_TOO_BIG as soon as its
  header is here, and its data is dropped as it streams in, 4 GiB of it if need be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from vbdev.wire.nbd import answers
from vbdev.wire.nbd.constants import (
    CLIENT_FLAGS,
    GREETING,
    GREETING_MAGIC,
    MAX_OPTION_BYTES,
    MAX_OPTIONS,
    MAX_STRING_BYTES,
    MAX_UNREAD_BYTES,
    OPTION_HEADER,
    OPTION_MAGIC,
    HandshakeFlag,
    Option,
    OptionReply,
)
from vbdev.wire.nbd.contexts import check_context_name, list_contexts, set_contexts
from vbdev.wire.nbd.errors import LocalProtocolError
from vbdev.wire.nbd.events import (
    Closed,
    ContextRequest,
    ExportInfo,
    ExportRequest,
    ListRequest,
    ServerEvent,
    Transmission,
)
from vbdev.wire.nbd.handshake import Handshake, State
from vbdev.wire.nbd.payloads import (
    MalformedError,
    decode_context_request,
    decode_info_request,
    decode_string,
    encode_option_reply,
    human_message,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vbdev.wire.nbd.buffer import BytesLike

__all__ = ["ServerHandshake"]

_OFFERED: Final = HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES
_REFUSALS: Final = frozenset(
    {
        OptionReply.ERR_POLICY,
        OptionReply.ERR_PLATFORM,
        OptionReply.ERR_UNKNOWN,
        OptionReply.ERR_SHUTDOWN,
        OptionReply.ERR_TOO_BIG,
    }
)
_WITHOUT_DATA: Final = frozenset({Option.LIST, Option.STRUCTURED_REPLY})
_WITH_DATA: Final = frozenset(
    {
        Option.EXPORT_NAME,
        Option.INFO,
        Option.GO,
        Option.LIST_META_CONTEXT,
        Option.SET_META_CONTEXT,
    }
)

_Request = TypeVar("_Request", ListRequest, ExportRequest, ContextRequest)


class ServerHandshake(Handshake[ServerEvent]):
    r"""One client's negotiation. `contexts` are the metadata contexts that any export may have.

    >>> server = ServerHandshake()
    >>> server.data_to_send()
    b'NBDMAGICIHAVEOPT\x00\x03'
    >>> server.feed(bytes.fromhex("00000003") + b"IHAVEOPT" + bytes([0, 0, 0, 3, 0, 0, 0, 0]))
    >>> server.next_event()
    ListRequest()
    >>> server.answer_list([("disk0", "")])
    >>> len(server.data_to_send())
    49
    """

    def __init__(self, contexts: Iterable[str] = ("base:allocation",)) -> None:
        super().__init__(State.CLIENT_FLAGS)
        self._supported = tuple(contexts)
        for name in self._supported:
            try:
                check_context_name(name)
            except MalformedError as error:
                raise LocalProtocolError(f"context {name!r}: {error}") from error
        self._outbox += GREETING.pack(GREETING_MAGIC, OPTION_MAGIC, _OFFERED)
        self._flags = HandshakeFlag(0)
        self._options_seen = 0
        self._option = Option.ABORT
        self._data_bytes = 0
        self._pending: ListRequest | ExportRequest | ContextRequest | None = None
        self._structured = False
        self._context_export: str | None = None
        self._contexts: tuple[tuple[int, str], ...] = ()

    def feed(self, data: BytesLike) -> None:
        """Take bytes from the client. Take events until NEED_DATA before feeding more."""
        if self._state is State.ANSWER and len(self._inbox) >= MAX_UNREAD_BYTES:
            # "Fixed newstyle negotiation": the client MUST NOT send any option until it has
            # received a final reply to any option it has sent.
            raise self._fail(
                f"client sent {len(self._inbox)} bytes ahead, the limit is {MAX_UNREAD_BYTES},"
                f" while {self._pending} is unanswered"
            )
        super().feed(data)

    def _step(self) -> bool:
        match self._state:
            case State.CLIENT_FLAGS:
                return self._read_client_flags()
            case State.OPTION:
                return self._read_option_header()
            case _:
                return self._read_option_data()

    def _read_client_flags(self) -> bool:
        data = self._inbox.take(CLIENT_FLAGS.size)
        if data is None:
            return False
        (flags,) = CLIENT_FLAGS.unpack(data)
        # "Client flags": the server MUST drop the TCP connection if the client sets an unknown
        # flag, or a flag that does not match something advertised by the server.
        # As an int, because `~` of an IntFlag knows only the flags that have names.
        if flags & ~int(_OFFERED):
            raise self._fail(f"client flags {flags:#x} go beyond the offered {int(_OFFERED):#x}")
        self._flags = HandshakeFlag(flags)
        self._enter(State.OPTION)
        return True

    def _read_option_header(self) -> bool:
        header = self._inbox.take(OPTION_HEADER.size)
        if header is None:
            return False
        magic, number, length_bytes = OPTION_HEADER.unpack(header)
        if magic != OPTION_MAGIC:
            raise self._fail(f"option starts with {magic!r}, not {OPTION_MAGIC!r}")
        self._options_seen += 1
        if self._options_seen > MAX_OPTIONS:
            raise self._fail(f"client sent more than {MAX_OPTIONS} options")
        name = Option.label(number)
        # "Option types": EXPORT_NAME is the only valid option in nonfixed newstyle.
        if not self._flags & HandshakeFlag.FIXED_NEWSTYLE and number != Option.EXPORT_NAME:
            raise self._fail(f"{name} from a client without NBD_FLAG_C_FIXED_NEWSTYLE")
        if number == Option.SET_META_CONTEXT:
            # "NBD_OPT_SET_META_CONTEXT": it replaces all previously-set metadata contexts
            # (including when this command fails).
            self._context_export, self._contexts = None, ()
        if number == Option.ABORT:
            # "NBD_OPT_ABORT": the server MUST reply with NBD_REP_ACK. Data it might carry
            # changes nothing and goes down with the connection.
            self._reply(number, OptionReply.ACK)
            self._finish(State.CLOSED, Closed("client aborted the negotiation"))
        elif number == Option.EXPORT_NAME and length_bytes > MAX_STRING_BYTES:
            raise self._fail(f"export name of {length_bytes} bytes, more than {MAX_STRING_BYTES}")
        elif length_bytes > MAX_OPTION_BYTES:
            message = f"{name} carries {length_bytes} bytes, more than {MAX_OPTION_BYTES}"
            self._refuse_and_skip(number, length_bytes, OptionReply.ERR_TOO_BIG, message)
        elif number in _WITH_DATA:
            self._option = Option(number)
            self._data_bytes = length_bytes
            self._enter(State.OPTION_DATA)
        elif number not in _WITHOUT_DATA:
            # STARTTLS is among these: the server operates in NOTLS mode ("TLS support").
            message = f"{name} is not supported"
            self._refuse_and_skip(number, length_bytes, OptionReply.ERR_UNSUP, message)
        elif length_bytes:
            # "NBD_OPT_LIST", "NBD_OPT_STRUCTURED_REPLY": the server SHOULD reject a request
            # that includes data with NBD_REP_ERR_INVALID.
            message = f"{name} carries {length_bytes} bytes and takes none"
            self._refuse_and_skip(number, length_bytes, OptionReply.ERR_INVALID, message)
        elif number == Option.STRUCTURED_REPLY:
            self._structured = True
            self._reply(number, OptionReply.ACK)
        else:
            self._option = Option.LIST
            self._ask(ListRequest())
        return True

    def _read_option_data(self) -> bool:
        data = self._inbox.take(self._data_bytes)
        if data is None:
            return False
        option = self._option
        try:
            self._ask(self._decode(option, data))
        except MalformedError as error:
            if option is Option.EXPORT_NAME:
                # "Termination of the session during option haggling": EXPORT_NAME can't be
                # answered with an error.
                raise self._fail(str(error)) from error
            self._reply(option, error.reply, human_message(str(error)))
            self._enter(State.OPTION)
        return True

    def _decode(self, option: Option, data: bytes) -> ExportRequest | ContextRequest:
        match option:
            case Option.EXPORT_NAME:
                return ExportRequest(option, decode_string(data, "export name"), frozenset())
            case Option.INFO | Option.GO:
                return ExportRequest(option, *decode_info_request(data))
            case Option.LIST_META_CONTEXT:
                export_name, queries = decode_context_request(data)
                matches = list_contexts(queries, self._supported)
            case _:
                # "NBD_OPT_SET_META_CONTEXT": it MUST NOT be requested unless structured
                # replies have been negotiated first.
                if not self._structured:
                    raise MalformedError(f"{Option.label(option)} before STRUCTURED_REPLY")
                export_name, queries = decode_context_request(data)
                matches = set_contexts(queries, self._supported)
        return ContextRequest(option, export_name, queries, matches)

    def _end_of_stream(self) -> None:
        if self._state is State.OPTION_DATA or not self._inbox.at_boundary:
            raise self._fail(f"client left in the middle of {self._state.value}")
        self._finish(State.CLOSED, Closed(f"client left before {self._state.value}"))

    def answer_list(self, exports: Iterable[tuple[str, str]]) -> None:
        """Answer ListRequest with (name, description) of each export to show."""
        self._check_pending(ListRequest)
        self._outbox += answers.encode_list(exports)
        self._pending = None
        self._enter(State.OPTION)

    def answer_export(self, info: ExportInfo) -> None:
        """Answer ExportRequest: the export is there and this is what it is like.

        Size, flags and, where `info` has them, block sizes are always sent; name and
        description where the client asked. Transmission follows unless it asked for INFO.
        """
        request = self._check_pending(ExportRequest)
        sent = answers.info_as_sent(request, info, structured=self._structured)
        if request.option is Option.EXPORT_NAME:
            no_zeroes = bool(self._flags & HandshakeFlag.NO_ZEROES)
            self._outbox += answers.encode_export_name(sent, no_zeroes=no_zeroes)
        else:
            self._outbox += answers.encode_export(request.option, sent)
        self._pending = None
        if request.option is Option.INFO:
            self._enter(State.OPTION)
            return
        # "NBD_OPT_SET_META_CONTEXT": contexts count where the final time it was sent, it
        # referred to the export name that was ultimately selected.
        contexts = self._contexts if self._context_export == request.export_name else ()
        self._finish(
            State.TRANSMISSION,
            Transmission(request.export_name, sent, self._structured, contexts),
        )

    def answer_contexts(self, contexts: Iterable[tuple[int, str]]) -> None:
        """Answer ContextRequest with (context ID, name) of those of its `matches` that exist.

        IDs of a SET must differ; a LIST sends 0 for all, whatever they are.
        """
        request = self._check_pending(ContextRequest)
        chosen = tuple(contexts)
        self._outbox += answers.encode_contexts(request, chosen)
        if request.option is Option.SET_META_CONTEXT:
            self._context_export, self._contexts = request.export_name, chosen
        self._pending = None
        self._enter(State.OPTION)

    def refuse(self, error: OptionReply, message: str) -> None:
        """Answer any request with an error reply and a message for a human.

        `error` is ERR_UNKNOWN, ERR_POLICY, ERR_SHUTDOWN, ERR_PLATFORM or ERR_TOO_BIG. After
        EXPORT_NAME, which has no error reply, the session is Closed instead.
        """
        if self._pending is None:
            raise LocalProtocolError("refusal of nothing: no request is pending")
        if error not in _REFUSALS:
            raise LocalProtocolError(f"{OptionReply.label(error)} is not the caller's to send")
        self._pending = None
        if self._option is Option.EXPORT_NAME:
            self._finish(State.CLOSED, Closed(message))
        else:
            self._reply(self._option, error, human_message(message))
            self._enter(State.OPTION)

    def _ask(self, request: ListRequest | ExportRequest | ContextRequest) -> None:
        self._pending = request
        self._finish(State.ANSWER, request)

    def _check_pending(self, kind: type[_Request]) -> _Request:
        if not isinstance(self._pending, kind):
            raise LocalProtocolError(f"answer to {kind.__name__} while {self._pending} is pending")
        return self._pending

    def _reply(self, option: int, reply: OptionReply, data: bytes = b"") -> None:
        self._outbox += encode_option_reply(option, reply, data)

    def _refuse_and_skip(
        self, option: int, length_bytes: int, reply: OptionReply, message: str
    ) -> None:
        self._reply(option, reply, human_message(message))
        self._inbox.skip(length_bytes)
