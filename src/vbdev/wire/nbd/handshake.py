"""What both halves of the handshake share: the state machine, bytes in, events out.

`TRANSITIONS` is the state machine of both sides; every change of state goes through it.

    server: CLIENT_FLAGS -> OPTION <-> OPTION_DATA -> ANSWER -> OPTION | TRANSMISSION | CLOSED
    client: GREETING -> REPLY <-> REPLY_DATA -> ... -> TRANSMISSION | CLOSED
                     -> EXPORT_REPLY -> TRANSMISSION
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from vbdev.wire.nbd.buffer import ReceiveBuffer
from vbdev.wire.nbd.constants import NEED_DATA, NeedData
from vbdev.wire.nbd.errors import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from vbdev.wire.nbd.buffer import BytesLike

__all__ = ["TRANSITIONS", "Handshake", "State"]


class State(Enum):
    """What a handshake waits for."""

    CLIENT_FLAGS = "the client's flags"
    OPTION = "an option"
    OPTION_DATA = "the data of an option"
    ANSWER = "the caller's answer"
    GREETING = "the server's greeting"
    REPLY = "a reply to an option"
    REPLY_DATA = "the data of a reply"
    EXPORT_REPLY = "the reply to NBD_OPT_EXPORT_NAME"
    TRANSMISSION = "requests: transmission has begun"
    CLOSED = "nothing: the session is closed"
    FAILED = "nothing: the peer broke the protocol"


_OVER: Final = frozenset({State.TRANSMISSION, State.CLOSED})
_RESTING: Final = _OVER | {State.ANSWER}

TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    State.CLIENT_FLAGS: frozenset({State.OPTION, State.CLOSED, State.FAILED}),
    State.OPTION: frozenset(
        {State.OPTION, State.OPTION_DATA, State.ANSWER, State.CLOSED, State.FAILED}
    ),
    State.OPTION_DATA: frozenset({State.OPTION, State.ANSWER, State.FAILED}),
    State.ANSWER: frozenset({State.OPTION, State.TRANSMISSION, State.CLOSED, State.FAILED}),
    State.GREETING: frozenset({State.REPLY, State.EXPORT_REPLY, State.FAILED}),
    State.REPLY: frozenset({State.REPLY_DATA, State.CLOSED, State.FAILED}),
    State.REPLY_DATA: frozenset(
        {State.REPLY, State.EXPORT_REPLY, State.TRANSMISSION, State.CLOSED, State.FAILED}
    ),
    State.EXPORT_REPLY: frozenset({State.TRANSMISSION, State.FAILED}),
    State.TRANSMISSION: frozenset(),
    State.CLOSED: frozenset(),
    State.FAILED: frozenset(),
}

EventT = TypeVar("EventT")


class Handshake(ABC, Generic[EventT]):
    """A negotiation without I/O: feed bytes, take events until NEED_DATA, send what is to send."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._inbox = ReceiveBuffer()
        self._outbox = bytearray()
        self._events: deque[EventT] = deque()
        self._eof = False
        self._failure = ""

    @property
    def state(self) -> State:
        """What the handshake waits for."""
        return self._state

    @property
    def trailing_data(self) -> bytes:
        """Bytes that came after the handshake: the beginning of the transmission phase."""
        if self._state is not State.TRANSMISSION:
            raise LocalProtocolError(f"trailing data, while waiting for {self._state.value}")
        return self._inbox.rest()

    def feed(self, data: BytesLike) -> None:
        """Take bytes from the peer. Take events until NEED_DATA before feeding more."""
        self._raise_failure()
        if self._eof or self._state in _OVER:
            raise LocalProtocolError(
                f"{len(data)} bytes after the end, while waiting for {self._state.value}"
            )
        self._inbox.feed(data)

    def feed_eof(self) -> None:
        """Take the end of the peer's stream; the next events tell what it means."""
        self._raise_failure()
        self._eof = True

    def data_to_send(self) -> bytes:
        """Return, and forget, what has to be sent now; after a failure and at the end as well."""
        data = bytes(self._outbox)
        self._outbox.clear()
        return data

    def next_event(self) -> EventT | NeedData:
        """Return what happened, or NEED_DATA where nothing has or an answer is due.

        Raises RemoteProtocolError where the peer has to be disconnected.
        """
        self._raise_failure()
        while not self._events:
            if self._state in _RESTING:
                return NEED_DATA
            if not self._step():
                if not self._eof:
                    return NEED_DATA
                self._end_of_stream()
        return self._events.popleft()

    @abstractmethod
    def _step(self) -> bool:
        """Read one message; return False where it is not whole yet."""

    @abstractmethod
    def _end_of_stream(self) -> None:
        """Close or fail: no message will become whole any more."""

    def _enter(self, state: State) -> None:
        if state not in TRANSITIONS[self._state]:
            raise AssertionError(f"no way from {self._state} to {state}")
        self._state = state

    def _finish(self, state: State, event: EventT) -> None:
        self._enter(state)
        self._events.append(event)

    def _fail(self, message: str) -> RemoteProtocolError:
        """Enter FAILED and return the error to raise."""
        self._enter(State.FAILED)
        self._failure = message
        return RemoteProtocolError(message)

    def _raise_failure(self) -> None:
        if self._state is State.FAILED:
            raise RemoteProtocolError(self._failure)
