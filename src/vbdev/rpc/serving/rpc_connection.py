"""One client of the control plane: its socket, its requests in flight, its unsent answers.

Memory is bounded whatever the client does. It is read from only while it takes its answers and
has a bounded number of requests in flight; requests that have arrived together are started a few
per turn, so that the answers of the first are on their way before the last is started, and all
clients share the time for it (`rpc/serving/turns.py`). A request
runs at once as far as it can, and answers that are ready leave in the same turn: while the data
path is busy a turn takes as long as many I/Os, and a call should not have to wait for several.

A client that closes its sending side still gets the answers to what it has asked. One that is
gone altogether loses its answers, and its requests run to their end all the same: a create is
not undone because nobody waits for it.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterable
from typing import Any, Final

from vbdev.api.errors import INTERNAL_ERROR, RpcError
from vbdev.reactor.reactor import Reactor
from vbdev.reactor.timers import Timer
from vbdev.rpc.serving.dispatch import Dispatcher
from vbdev.rpc.serving.turns import ClientTurns, long_answer
from vbdev.wire.jsonrpc import (
    Batch,
    Id,
    Malformed,
    Request,
    ServerCodec,
    batch_pieces,
    encode_error,
    encode_result,
    has_long_list,
    result_pieces,
)

__all__ = [
    "FIRST_REQUEST_US",
    "HALF_SENT_S",
    "MAX_IN_FLIGHT",
    "MAX_IN_FLIGHT_BYTES",
    "MAX_UNSENT_BYTES",
    "PAUSE_UNSENT_BYTES",
    "RECEIVE_BYTES",
    "STARTS_PER_TURN",
    "Connection",
]

log = logging.getLogger(__name__)

RECEIVE_BYTES: Final = 64 << 10
"""Most bytes taken from a socket at once."""
STARTS_PER_TURN: Final = 16
"""Requests of one client that are started in one turn, those in a batch counted one by one."""
MAX_IN_FLIGHT: Final = 1024
"""Requests of one client that may wait for their results before it is read from again."""
MAX_IN_FLIGHT_BYTES: Final = 1 << 20
"""What their texts may have together; one more is taken than fit."""
PAUSE_UNSENT_BYTES: Final = 1 << 20
"""Unsent answers beyond which a client is not read from."""
MAX_UNSENT_BYTES: Final = 32 << 20
"""Unsent answers beyond which a client is dropped (SPDK: SPDK_JSONRPC_SEND_BUF_SIZE_MAX).

No single answer, nor a batch's together, may be longer: an error stands in its place.
"""


FIRST_REQUEST_US: Final = 250_000
"""How long one that has come has for its first request before it counts as idle, in us."""
HALF_SENT_S: Final = 60
"""How long a client may take to send a request, from its first byte on, in seconds."""


class _BatchRun:
    """A batch under way: what is left to start, and the answers so far, in their places."""

    __slots__ = ("answers", "left_bytes", "size_bytes", "unanswered", "unstarted")

    def __init__(self, batch: Batch, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.unstarted = enumerate(batch.requests)
        self.unanswered = len(batch.requests)
        self.answers = [b""] * self.unanswered
        self.left_bytes = MAX_UNSENT_BYTES - len(b"[]\n")


class Connection:
    """Serves one socket, which it owns, until the client leaves or `drop`.

    `on_closed(connection)` is called when the socket is closed, and where requests run on without
    it (`in_flight`) once more, when the last has ended. One that is `held` starts no request until
    `release`.
    """

    def __init__(
        self,
        reactor: Reactor,
        connection: socket.socket,
        dispatcher: Dispatcher,
        on_closed: Callable[[Connection], object],
        *,
        turns: ClientTurns,
        held: bool = False,
    ) -> None:
        self.in_flight = 0
        self.active_ns = reactor.clock.now_ns()
        """When it last did something that counts: came, asked a whole request, took an answer."""
        self._may_ask_until_ns = self.active_ns + FIRST_REQUEST_US * 1000
        self._in_flight_bytes = 0
        self._held = held
        self._turns = turns
        self._reactor = reactor
        self._socket = connection
        self._dispatcher = dispatcher
        self._on_closed = on_closed
        self._codec = ServerCodec()
        self._unsent = bytearray()
        self._is_open = True
        self._reading = True  # what the watch is asked to report
        self._no_more_input = False  # nothing is read any more; what was read is still served
        self._no_more_requests = False  # not even that
        self._hung_up = False  # the peer's socket is closed; the watch is gone
        self._pumping = False
        self._batch: _BatchRun | None = None  # one that has requests left to start
        self._pump_due = False  # these at most once each
        self._flush_due = False
        self._read_due = False
        self._half_since_ns = 0  # since when a request is begun and not whole; 0: none is
        self._half_timer: Timer | None = None
        self._watch = reactor.watch(
            connection.fileno(), readable=self._readable, writable=self._flush
        )

    @property
    def unsent_bytes(self) -> int:
        """Answers that wait for the client to take them, in bytes."""
        return len(self._unsent)

    @property
    def is_idle(self) -> bool:
        """Whether the next move is the client's: nothing of it runs, or waits to be looked at.

        One that has asked for half of something is, and one that does not take its answers; one
        that has just come is not.
        """
        if self._reactor.clock.now_ns() < self._may_ask_until_ns:
            return False
        if self.in_flight or self._pump_due or self._batch is not None or self._held:
            return False
        if self._no_more_input or not self._reading:
            return True
        return not self._peek()

    @property
    def has_left(self) -> bool:
        """Whether the client has closed its end, of which nothing may be known here yet."""
        return self._peek() == b""

    def _peek(self) -> bytes | None:
        """Return the first byte that waits to be read; none: the end of all; None: nothing does."""
        try:
            return self._socket.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return b""

    def hold(self) -> None:
        """Start no request until `release`; those in flight go on. What comes waits."""
        self._held = True
        self._settle()

    def release(self) -> None:
        """Go on with what came meanwhile."""
        self._held = False
        self._schedule_pump()

    def finish(self) -> None:
        """Start nothing more; close when what is in flight has been answered."""
        self._no_more_input = self._no_more_requests = True
        self._settle()

    def drop(self, reason: str) -> None:
        """Close now. Idempotent."""
        if not self._is_open:
            return
        log.debug("rpc connection closed reason=%s in_flight=%d", reason, self.in_flight)
        self._is_open = False
        self._unsent.clear()
        if self._half_timer is not None:
            self._half_timer.cancel()
        self._watch.close()
        self._socket.close()
        self._on_closed(self)

    # Input

    def _readable(self) -> None:
        self._read_due = False
        if not self._is_open:
            return
        if not self._reading:
            self._peer_hung_up()
            return
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.drop(str(error))
            return
        if data:
            self._codec.feed(data)
        else:
            self._no_more_input = True
        if not self._pump_due and not self._turns.start(self):
            self._pump_due = True
            self._settle()

    def _peer_hung_up(self) -> None:
        """Epoll reports a hang-up even to who wants to know nothing, and again each turn."""
        if self._hung_up:
            return
        self._hung_up = True
        self._watch.close()
        if self._unsent:
            self._flush()  # finds out that nobody can take it
        self._settle()

    def pump(self) -> None:
        """Start requests, as many as there is time for. For `ClientTurns`."""
        self._pump_due = False
        self._pumping = True  # what ends now is looked after below, for all at once
        for _ in range(STARTS_PER_TURN):
            if not self._is_open or self._is_full():
                break
            if not self._start_next():
                self._note_half()
                break
            if self._reactor.late:
                self._schedule_pump()
                break
        else:
            self._schedule_pump()
        self._pumping = False
        if self._unsent:
            self._flush()
        else:
            self._settle()

    def _schedule_pump(self) -> None:
        if not self._pump_due:
            self._pump_due = True
            self._turns.ask(self)

    def _is_full(self) -> bool:
        return (
            self._held
            or self.in_flight >= MAX_IN_FLIGHT
            or (self._in_flight_bytes > MAX_IN_FLIGHT_BYTES and self._batch is None)
            or len(self._unsent) > PAUSE_UNSENT_BYTES
        )

    def _start_next(self) -> bool:
        """Start one request; whether there was one."""
        if self._batch is not None:  # its requests come before whatever was sent behind it
            return self._start_of_batch(self._batch)
        event = None if self._no_more_requests else self._codec.next_event()
        if event is None:
            return False
        size_bytes = self._codec.event_bytes
        self._half_since_ns = self._may_ask_until_ns = 0
        self.active_ns = self._reactor.clock.now_ns()
        if isinstance(event, Batch):
            self._in_flight_bytes += size_bytes
            self._batch = _BatchRun(event, size_bytes)
        elif isinstance(event, Malformed):
            self._send([_refused(event)])
            self._no_more_input |= event.close
        else:
            self.in_flight += 1
            self._in_flight_bytes += size_bytes
            self._reactor.begin(self._serve(event, size_bytes), name=f"rpc {event.method}")
        return True

    def _start_of_batch(self, batch: _BatchRun) -> bool:
        place, request = next(batch.unstarted)
        if place == len(batch.answers) - 1:
            self._batch = None
        self.in_flight += 1
        self._reactor.begin(self._serve_in_batch(batch, place, request), name="rpc batch")
        return True

    def _note_half(self) -> None:
        """Give what is begun and not whole its time, which more bytes of it do not prolong."""
        if not self._codec.buffered_bytes:
            self._half_since_ns = 0
        elif not self._half_since_ns:
            self._half_since_ns = self._reactor.clock.now_ns()
            if self._half_timer is None:
                self._half_timer = self._reactor.call_later(HALF_SENT_S * 1e6, self._check_half)

    def _check_half(self) -> None:
        self._half_timer = None
        if not self._is_open or not self._half_since_ns:
            return
        left_us = HALF_SENT_S * 1e6 - (self._reactor.clock.now_ns() - self._half_since_ns) / 1000
        if left_us > 0:  # another request than the one that the timer was set for
            self._half_timer = self._reactor.call_later(left_us, self._check_half)
            return
        log.warning("dropping an rpc client: half a request for %d s", HALF_SENT_S)
        self._no_more_input = self._no_more_requests = True  # answers to others are still due
        self._settle()

    # Requests in flight

    async def _serve(self, request: Request, size_bytes: int) -> None:
        self._finished([await self._answer(request)], size_bytes)

    async def _serve_in_batch(
        self, batch: _BatchRun, place: int, request: Request | Malformed
    ) -> None:
        response = await self._answer(request)
        if len(response) > batch.left_bytes:
            response = _too_long(request.id, "the batch's answers are together")
        batch.left_bytes -= len(response)  # a newline less and a comma more
        batch.answers[place] = response
        batch.unanswered -= 1
        if batch.unanswered:
            self._finished([], 0)
        else:
            self._finished(batch_pieces(batch.answers), batch.size_bytes)

    async def _answer(self, request: Request | Malformed) -> bytes:
        """Return the rendered response, empty where none is due or nobody is left. Never raises."""
        if isinstance(request, Malformed):
            return _refused(request)
        try:
            result = await self._dispatcher.call(request.method, request.params)
        except RpcError as error:
            return encode_error(request.id, error.code, error.message, error.data)
        if request.is_notification or self._hung_up or not self._is_open:
            return b""
        try:
            response = await self._render(request.id, result)
        except Exception:
            log.exception("rpc result can not be rendered method=%s", request.method)
            return encode_error(request.id, INTERNAL_ERROR, "Internal error", "see the log")
        if len(response) > MAX_UNSENT_BYTES:
            return _too_long(request.id, f"the answer is {len(response)} bytes,")
        return response

    async def _render(self, request_id: Id, result: Any) -> bytes:
        """Return the rendered result; others run in between where it is long, one at a time."""
        if not has_long_list(result):
            return encode_result(request_id, result)
        pieces = []
        async with long_answer(self._reactor):
            try:
                for piece in result_pieces(request_id, result):
                    pieces.append(piece)
                    await self._reactor.breathe()
            except UnicodeEncodeError:  # one name in it is no UTF-8
                return encode_result(request_id, result)
        return b"".join(pieces)

    def _finished(self, pieces: Iterable[bytes], size_bytes: int) -> None:
        was_full = self._is_full()
        self.in_flight -= 1
        self._in_flight_bytes -= size_bytes
        if not self._is_open and not self.in_flight:
            self._on_closed(self)
        if self._is_open:
            self._send(pieces)
            if was_full:
                self._schedule_pump()
            self._settle()

    # Output

    def _send(self, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            self._unsent += piece
        if len(self._unsent) > MAX_UNSENT_BYTES:
            self._flush()  # perhaps the client has made room meanwhile
            if len(self._unsent) > MAX_UNSENT_BYTES:
                log.warning(
                    "dropping an rpc client that does not read its answers unsent_bytes=%d",
                    len(self._unsent),
                )
                self.drop("unsent answers")
        elif self._unsent and not self._flush_due and not self._pumping:
            if self.in_flight:
                self._flush_due = True  # once, for all that this turn answers
                self._reactor.send_msg(self._flush)
            else:
                self._flush()

    def _flush(self) -> None:
        self._flush_due = False
        if not self._is_open:
            return
        was_full = self._is_full()
        try:
            while self._unsent:
                sent = self._socket.send(self._unsent)
                del self._unsent[:sent]
                self.active_ns = self._reactor.clock.now_ns()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self.drop(str(error))
            return
        if was_full and not self._is_full():
            self._schedule_pump()
        self._settle()

    def _settle(self) -> None:
        """Ask the watch for what is wanted now, or close when nothing can come any more."""
        if not self._is_open or self._pumping:
            return
        busy = self.in_flight or self._unsent or self._pump_due or self._batch is not None
        if self._no_more_input and not busy:
            self.drop("done")
            return
        unstarted = self._pump_due or self._batch is not None or self._is_full()
        if self._hung_up and self._no_more_input and not unstarted:
            self.drop("went away")  # what is in flight needs no socket
            return
        self._reading = not (self._no_more_input or self._pump_due or self._is_full())
        if not self._hung_up:
            # What is to be flushed in this turn is not waited for.
            write = bool(self._unsent) and not self._flush_due
            self._watch.update(read=self._reading, write=write)
        elif self._reading and not self._read_due:
            self._read_due = True
            self._reactor.send_msg(self._readable)  # what it had written before it hung up


def _too_long(request_id: Id, what: str) -> bytes:
    told = f"{what} longer than {MAX_UNSENT_BYTES} bytes"
    return encode_error(request_id, INTERNAL_ERROR, "Internal error", told)


def _refused(refusal: Malformed) -> bytes:
    return encode_error(refusal.id, refusal.code, refusal.message, refusal.data)
