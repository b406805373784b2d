"""Clients at the other end of socket pairs: of NBD, and of the control plane. Nothing here waits.

An NBD client is honest as long as it sends what it has begun and takes what it has asked for; it is
owed an answer within a bound. One that stalls, trickles or takes nothing is owed the truth alone.
"""

from __future__ import annotations

import json
import select
import socket
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from simulation.content import SECTOR
from simulation.failure import SimulationError
from support.nbd_client import header
from vbdev.vocab import NbdError
from vbdev.wire.nbd import (
    NEED_DATA,
    BlockStatusChunk,
    ClientHandshake,
    Command,
    CommandFlag,
    DataChunk,
    ErrorChunk,
    HoleChunk,
    Refused,
    ReplyParser,
    Request,
    SimpleReply,
    Transmission,
    TransmissionFlag,
)

SEND_BYTES = 256 << 10
RECEIVE_BYTES = 256 << 10
RECEIVES = 8
NEEDS = {
    Command.FLUSH: TransmissionFlag.SEND_FLUSH,
    Command.TRIM: TransmissionFlag.SEND_TRIM,
    Command.WRITE_ZEROES: TransmissionFlag.SEND_WRITE_ZEROES,
}
CHANGES = (Command.WRITE, Command.WRITE_ZEROES, Command.TRIM)


class Peer:
    """One end of a socket pair, whose other end the daemon has (`theirs`, which it closes)."""

    def __init__(self, world, connected):
        self.world = world
        self.near, self.theirs = socket.socketpair()
        self.near.setblocking(False)
        self.theirs.setblocking(False)
        self.out = bytearray()
        self.sent_bytes = 0
        self.allowance = None  # bytes that it may send still; None: any number
        self.deaf = False
        self.left_ns = None  # when it went away
        self.dropped = False  # the daemon hung up
        self._events = select.EPOLLIN
        self.world.ends.register(self.near.fileno(), self._events)
        self.world.peers[self.near.fileno()] = self
        with world.app.reactor.here():
            connected(self.theirs)

    @property
    def there(self):
        return self.left_ns is None and not self.dropped

    def want(self):
        """Have the world told what this end is ready for."""
        if not self.there:
            return
        can_send = self.out and self.allowance != 0
        events = (0 if self.deaf else select.EPOLLIN) | (select.EPOLLOUT if can_send else 0)
        if events != self._events:
            self._events = events
            self.world.ends.modify(self.near.fileno(), events)

    def ready(self, events):
        """Send and receive what can be; whether anything moved."""
        moved = 0
        if events & select.EPOLLOUT:
            moved += self._send()
        if self.there and not self.deaf and events & ~select.EPOLLOUT:
            moved += self._receive()
        elif self.there and self.deaf and events & (select.EPOLLHUP | select.EPOLLERR):
            self._gone()
        self.want()
        return moved

    def _send(self):
        limit = len(self.out) if self.allowance is None else min(self.allowance, len(self.out))
        try:
            sent = self.near.send(memoryview(self.out)[: min(limit, SEND_BYTES)])
        except BlockingIOError:
            return 0
        except OSError:
            self._gone()
            return 0
        del self.out[:sent]
        self.sent_bytes += sent
        if self.allowance is not None:
            self.allowance -= sent
        return sent

    def _receive(self):
        moved = 0
        for _ in range(RECEIVES):
            if not self.there:
                break
            try:
                data = self.near.recv(RECEIVE_BYTES)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self._gone()
                break
            moved += len(data)
            self.received(data)
        return moved

    def received(self, data):
        raise NotImplementedError

    def hung_up(self):
        """Whether being hung up on is in order."""
        raise NotImplementedError

    def _forget(self):
        self.world.ends.unregister(self.near.fileno())
        del self.world.peers[self.near.fileno()]
        self.near.close()

    def _gone(self):
        if self.there:
            self.dropped = True
            self._forget()
            self.hung_up()

    def leave(self):
        """Go away, whatever is under way."""
        if self.there:
            self.left_ns = self.world.now_ns
            self._forget()


@dataclass
class Asked:
    """A request that has no answer yet. `word`: what the content gave for it."""

    command: Command
    first: int
    count: int
    fua: bool
    since_ns: int
    word: Any = None
    floor: Any = None
    data: bytearray | None = None
    error: NbdError = NbdError.OK


class NbdPeer(Peer):
    """A client of one export."""

    def __init__(self, world, number, export, *, structured):
        self.number = number
        self.export = export
        self.honest = True
        self.leaving = False
        self.trickles = 0
        self.asked = {}
        self.since_ns = world.now_ns
        self._waiting = []
        self._cookie = 0
        self._parser = None
        contexts = ["base:allocation"] if structured else []
        self._handshake = ClientHandshake(
            export.name, structured_replies=structured, contexts=contexts
        )
        super().__init__(world, world.app.nbd._connected)

    def __repr__(self):
        return f"client {self.number} of {self.export.name}"

    @property
    def negotiated(self):
        return self._parser is not None

    # Its doings

    def ask(self, command, first, count, *, fua=False):
        """Ask for something, or note it down until the handshake is over."""
        if not self.there or self.leaving:
            return
        if self._parser is None:
            self._waiting.append((command, first, count, fua))
            return
        if command in NEEDS and not self._flags & NEEDS[command]:
            return
        if command == Command.BLOCK_STATUS and not self._contexts:
            return
        content = self.export.content
        count = 0 if command == Command.FLUSH else 1 + (count - 1) % self._sectors
        first = 0 if command == Command.FLUSH else first % (self._sectors - count + 1)
        asked = Asked(command, first, count, fua, self.world.now_ns)
        self.world.note_asked(count)
        data = b""
        if command == Command.WRITE:
            asked.word = content.write(first, count)
            data = content.payload(asked.word, count)
        elif command in CHANGES:
            asked.word = content.clear(first, count)
        elif command == Command.READ:
            asked.data = bytearray(count * SECTOR)
            asked.floor = content.look(first, count)
        elif command == Command.FLUSH:
            asked.floor = content.look(0, content.sectors)
        flags = CommandFlag.FUA if fua and command in CHANGES else 0
        self._cookie += 1
        offset, length = first * SECTOR, count * SECTOR
        self._parser.expect(Request(command, flags, self._cookie, offset, length))
        self.asked[self._cookie] = asked
        self.out += header(command, self._cookie, offset, length, flags) + data
        self.want()

    def stall(self, keep):
        """Send so many bytes more, and nothing after that."""
        self.honest, self.trickles, self.allowance = False, 0, keep
        self.want()

    def trickle(self, number):
        """Send so many bytes each tick."""
        self.honest, self.trickles, self.allowance = False, number, number
        self.want()

    def stop_listening(self):
        """Take no more answers."""
        self.honest, self.deaf = False, True
        self.want()

    def behave(self):
        """Send and take all again. Who it is remembers what it has been."""
        self.allowance, self.trickles, self.deaf = None, 0, False
        self.want()

    def say_goodbye(self):
        """Send DISC behind all that is asked, which is answered still."""
        if self.there and not self.leaving and self._parser is not None:
            self.leaving = True
            self._cookie += 1
            self.out += header(Command.DISC, self._cookie)
            self.want()

    def half_close(self):
        """Send nothing more, not even what is to be sent; ask for no more."""
        if self.there:
            self.leaving, self.honest = True, False
            self.out.clear()
            self.near.shutdown(socket.SHUT_WR)
            self.want()

    def leave(self):
        super().leave()
        self._bury()

    # What comes

    def received(self, data):
        if self._parser is None:
            self._negotiate(data)
            return
        self._parser.feed(data)
        self._take_events()

    def _negotiate(self, data):
        handshake = self._handshake
        handshake.feed(data)
        while True:
            event = handshake.next_event()
            self.out += handshake.data_to_send()
            if isinstance(event, Transmission):
                break
            if event is NEED_DATA:
                return
            if isinstance(event, Refused) and not event.goes_on:
                self.export.excuse_loss(self, f"refused: {event.message}")
                self.leave()
                return
        self._flags = event.info.flags
        self._sectors = event.info.size_bytes // SECTOR
        self._contexts = event.meta_contexts
        self._parser = ReplyParser(
            structured_replies=event.structured_replies,
            context_ids=[number for number, _ in event.meta_contexts],
        )
        self._parser.feed(handshake.trailing_data)
        for command, first, count, fua in self._waiting:
            self.ask(command, first, count, fua=fua)
        self._waiting.clear()
        self._take_events()

    def _take_events(self):
        while (event := self._parser.next_event()) is not NEED_DATA:
            asked = self.asked[event.cookie]
            if isinstance(event, SimpleReply | ErrorChunk):
                asked.error = asked.error or event.error
            if isinstance(event, SimpleReply) and event.data:
                asked.data[:] = event.data
            elif isinstance(event, DataChunk):
                at = event.offset_bytes - asked.first * SECTOR
                asked.data[at : at + len(event.data)] = event.data
            elif isinstance(event, HoleChunk):
                at = event.offset_bytes - asked.first * SECTOR
                asked.data[at : at + event.length_bytes] = bytes(event.length_bytes)
            elif isinstance(event, BlockStatusChunk):
                total = sum(length for length, _ in event.extents)
                if total <= 0:
                    raise SimulationError("extents", f"{self}: BLOCK_STATUS tells of {total} bytes")
            if event.done:
                del self.asked[event.cookie]
                self._answered(asked)

    def _answered(self, asked):
        content, export = self.export.content, self.export
        self.world.note_answer(self, asked)
        done = not asked.error
        if not done and export.flawless:
            raise SimulationError(
                "error",
                f"{self}: {asked.command.name} of {asked.count} sectors at {asked.first} failed"
                f" with {asked.error.name}, without a reason",
            )
        wrong = ""
        if asked.command == Command.WRITE:
            content.written(asked.word, done=done)
            if done and asked.fua and export.disk is not None:
                # It, or what came at the same time or later. What others wrote is not promised.
                floor = np.full(asked.count, content.asked_at(asked.word))
                wrong = self._judge_stable(asked.first, asked.count, floor)
        elif asked.command in CHANGES:
            # "NBD_CMD_TRIM": what is there afterwards is not said.
            content.cleared(asked.word, done=done and asked.command == Command.WRITE_ZEROES)
        elif asked.command == Command.READ and done:
            wrong = content.judge_data(asked.first, asked.data, asked.floor)
        elif asked.command == Command.FLUSH and done and export.disk is not None:
            wrong = self._judge_stable(0, content.sectors, asked.floor)
        if wrong:
            raise SimulationError("data", f"{self}: {asked.command.name}: {wrong}")

    def _judge_stable(self, first, count, floor):
        words = self.export.disk.stable_words(self.export.first + first, count)
        wrong = self.export.content.judge(first, words, floor)
        return wrong and f"on stable storage {wrong}"

    # The end

    def hung_up(self):
        if self.leaving and not self.asked:
            return
        if self.honest:
            self.export.excuse_loss(self, "hung up on")
        self._bury()

    def _bury(self):
        """What it had asked for may be done, or not, at any later time."""
        for asked in self.asked.values():
            if asked.command in CHANGES:
                self.export.content.ghosts.append(asked)
        self.asked.clear()


class Call(NamedTuple):
    """A request to the control plane without an answer. `end`: how much is sent when it is."""

    method: str
    params: Any
    then: Any
    since_ns: int
    end: int


class RpcPeer(Peer):
    """A client of the control plane."""

    def __init__(self, world, number):
        self.number = number
        self.asked = {}
        self.answers = 0
        self._text = bytearray()
        super().__init__(world, world.app.rpc._connected)

    def call(self, method, params=None, then=None):
        """Ask; `then(result, error)` is called with the answer."""
        if not self.there:
            return
        number = self.world.number()
        request = {"jsonrpc": "2.0", "id": number, "method": method}
        if params is not None:
            request["params"] = params
        self.out += json.dumps(request).encode() + b"\n"
        end = self.sent_bytes + len(self.out)
        self.asked[number] = Call(method, params, then, self.world.now_ns, end)
        self.want()

    def received(self, data):
        self._text += data
        *lines, self._text = self._text.split(b"\n")
        for line in lines:
            answer = json.loads(line)
            call = self.asked.pop(answer["id"])
            self.answers += 1
            error = answer.get("error")
            if error is not None and error["code"] == -32603 and "see the log" in str(error):
                raise SimulationError("rpc", f"{call.method} failed from within: {error}")
            if call.then is not None:
                call.then(answer.get("result"), error)

    def hung_up(self):
        # One who has nothing under way may have to make room for another. What it was about to
        # ask it asks as another client.
        asked = list(self.asked.values())
        self.asked.clear()
        if self.world.stopping:
            return
        if any(call.end <= self.sent_bytes for call in asked):
            raise SimulationError("rpc", f"RPC client {self.number} was hung up on")
        for call in asked:
            self.world.caller.call(call.method, call.params, call.then)
