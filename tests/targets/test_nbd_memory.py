"""Clients that want more memory than there is: all are answered, in their turn, and by any mixture.

Method: the compiled streams of many clients on socket pairs, one small engine, turned by hand; a
client sends and takes a little at a time, so that each holds what it can get for as long as it can.
What is due is run like messages of a reactor. Nothing depends on time.
"""

from __future__ import annotations

import random
import socket

import pytest

from support.nbd_client import header
from support.stream_rig import ALL_FLAGS, StreamRig
from vbdev.core.nbd.server.memory import NbdMemory
from vbdev.core.nbd.server.stream import NbdStream
from vbdev.targets.nbd.session import stream_error
from vbdev.wire.nbd import NEED_DATA, Command, ReplyParser, decode_request_header

KIB, MIB = 1 << 10, 1 << 20
READ, WRITE = Command.READ, Command.WRITE
DISK_BYTES = 64 * MIB
LIMIT = 256 * MIB


class Peer:
    """A client with a script of requests, which it sends and takes in pieces."""

    def __init__(self, crowd, requests, *, piece=64 * KIB, takes=True):
        self.crowd = crowd
        self.piece = piece
        self.takes = takes
        self.near, self.far = socket.socketpair()
        for end in (self.near, self.far):
            end.setblocking(False)
        self.parser = ReplyParser(structured_replies=False, context_ids=[])
        self.script = memoryview(self._script(requests))
        self.unsent = self.script
        self.left = len(requests)
        self.stream = NbdStream(
            crowd.rig.engine,
            crowd.rig.channel,
            self.far.fileno(),
            transmission_flags=int(ALL_FLAGS),
            structured=False,
            nbd_error=stream_error,
            on_change=lambda: None,
            memory=crowd.memory,
        )

    def _script(self, requests):
        out = []
        for cookie, (command, size) in enumerate(requests):
            out.append(header(command, cookie, 0, size))
            self.parser.expect(decode_request_header(out[-1]))
            if command is WRITE:
                out.append(bytes(size))
        return b"".join(out)

    def step(self):
        """Send a piece, let the stream work, take a piece; return whether anything moved."""
        moved = 0
        try:
            moved = self.near.send(self.unsent[: self.piece])
            self.unsent = self.unsent[moved:]
        except (BlockingIOError, BrokenPipeError):
            pass
        if self.stream.wants_read:
            self.stream.receive()
        self.crowd.turn()
        if self.stream.wants_write:
            self.stream.send()
        if self.takes:
            moved += self._take()
        return moved

    def _take(self):
        try:
            data = self.near.recv(max(self.piece, 256 * KIB))
        except BlockingIOError:
            return 0
        self.parser.feed(data)
        while (event := self.parser.next_event()) is not NEED_DATA:
            assert not event.error
            self.left -= event.done
        return len(data)

    def leave(self):
        self.near.close()
        if self.stream.wants_read:
            self.stream.receive()
        else:
            self.stream.on_readable()
        self.crowd.turn()


class Crowd:
    """Peers of one engine, whose memory they share."""

    def __init__(self, limit, **options):
        self.rig = StreamRig(num_blocks=DISK_BYTES // 512, buffer_limit_bytes=limit, **options)
        self.memory = NbdMemory(self.rig.engine)
        self.due = []
        self.memory.on_due = lambda: self.due.append(self.memory.serve)
        self.peers = []

    def add(self, requests, **options):
        self.peers.append(Peer(self, requests, **options))
        return self.peers[-1]

    def turn(self):
        for _ in range(1000):
            due, self.due[:] = list(self.due), []
            for serve in due:
                serve()
            if not self.rig.engine.drain() and not self.due:
                break
        assert self.memory.used_bytes <= max(self.memory.limit_bytes, 64 * MIB)
        assert self.memory.chunk_bytes <= self.memory.chunk_limit_bytes

    def run(self, peers):
        """Step these until each has its answers; nothing may stand still before."""
        busy = list(peers)
        still = 0
        while busy:
            moved = sum(peer.step() for peer in busy)
            busy = [peer for peer in busy if peer.left]
            still = 0 if moved else still + 1
            assert still < 20, [(p.left, p.stream.starved, p.stream.memory_bytes) for p in busy]

    def end(self):
        for peer in self.peers:
            peer.stream.shut("end")
        self.turn()
        assert self.memory.waiting == 0
        assert self.memory.used_bytes == 0
        assert self.memory.chunk_bytes == 0
        assert self.rig.engine.buffers.live_buffers == 0
        assert self.rig.engine.buffers.aside_bytes == 0
        assert self.rig.engine.ios_in_use == 0
        for peer in self.peers:
            peer.stream.close()
            peer.near.close()
            peer.far.close()
        self.peers.clear()
        self.rig.close()


@pytest.fixture
def crowd(request):
    made = Crowd(getattr(request, "param", LIMIT))
    yield made
    made.end()


MIXTURES = {
    "4 KiB": [4 * KIB],
    "in place": [60 * KIB],
    "just apart": [64 * KIB + 512],
    "256 KiB": [256 * KIB],
    "2 MiB": [2 * MIB],
    "32 MiB": [32 * MIB],
    "of all": [32 * MIB, 4 * KIB, 16 * MIB, 64 * KIB, 2 * MIB, 512, 256 * KIB, 64 * KIB + 512],
}


@pytest.mark.parametrize("crowd", [MIB + MIB // 2, 8 * MIB], ids=["1.5M", "8M"], indirect=True)
@pytest.mark.parametrize("command", [WRITE, READ, None], ids=["writes", "reads", "both"])
@pytest.mark.parametrize("sizes", MIXTURES.values(), ids=MIXTURES.keys())
def test_more_than_there_is_is_answered(crowd, sizes, command):
    """Each begins at once, and sends and takes a little at a time."""
    choose = random.Random(1)
    count = 3 if max(sizes) > 4 * MIB else 12 if max(sizes) > MIB else 40
    for number in range(count):
        requests = [
            (command or choose.choice([READ, WRITE]), sizes[(number + n) % len(sizes)])
            for n in range(3)
        ]
        crowd.add(requests, piece=choose.choice([5000, 64 * KIB, 300 * KIB]))
    crowd.run(crowd.peers)


FILLS = {
    "all sizes": [32 * MIB] * 7 + [16 * MIB, 8 * MIB, 4 * MIB, 2 * MIB, MIB, 512 * KIB],
    "32 MiB": [32 * MIB] * 8,
    "2 MiB": [2 * MIB] * 140,
    "256 KiB": [256 * KIB] * 900,
    "60 KiB": [60 * KIB] * 1100,
}


HALF = 128  # bytes of a WRITE


def fill(crowd, sizes):
    """Let clients announce WRITEs, send a little of each, and stop."""
    peers = []
    for size in sizes:
        peer = crowd.add([(WRITE, size)])
        peer.unsent = peer.script[:HALF]
        peer.step()
        peers.append(peer)
    return peers


@pytest.mark.parametrize("sizes", FILLS.values(), ids=FILLS.keys())
def test_a_small_request_is_answered_while_half_writes_hold_all_there_is(crowd, sizes):
    fill(crowd, sizes)
    for size in (512, 4 * KIB, 64 * KIB, 256 * KIB):
        crowd.run([crowd.add([(WRITE, size), (READ, size)])])


@pytest.mark.parametrize("sizes", FILLS.values(), ids=FILLS.keys())
def test_whoever_leaves_gives_back_what_he_held(crowd, sizes):
    """Those that wait for memory, too: nothing of them is in the way of who comes then."""
    for peer in fill(crowd, sizes):
        peer.leave()
        assert peer.stream.closed
        assert peer.stream.memory_bytes == 0
    crowd.run([crowd.add([(WRITE, 32 * MIB), (READ, 32 * MIB)]) for _ in range(2)])


@pytest.mark.parametrize("sizes", FILLS.values(), ids=FILLS.keys())
def test_half_writes_are_received_in_the_end(crowd, sizes):
    """What they need for the other half is theirs already."""
    peers = fill(crowd, sizes[:200])
    for peer in peers:
        peer.unsent = peer.script[HALF:]
        peer.piece = 4 * MIB
    crowd.run(peers)


def test_readers_who_take_nothing_leave_room_for_small_requests(crowd):
    for _ in range(24):
        crowd.add([(READ, 32 * MIB)], takes=False).step()
    assert crowd.memory.waiting == 17
    crowd.run([crowd.add([(WRITE, 64 * KIB), (READ, 4 * KIB)]) for _ in range(20)])


@pytest.mark.parametrize("crowd", [32 * MIB], ids=["32M"], indirect=True)
def test_readers_who_come_to_take_their_replies_let_the_others_read(crowd):
    peers = [crowd.add([(READ, 4 * MIB)], takes=False) for _ in range(24)]
    for peer in peers:
        peer.step()
    for peer in peers:
        peer.takes, peer.piece = True, 4 * MIB
    crowd.run(peers)


def test_every_other_turn_is_for_who_wants_least(crowd):
    """Of those who want much: an ordinary request does not wait for all that is vast."""
    half = fill(crowd, [32 * MIB] * 7)
    vast = [crowd.add([(WRITE, 32 * MIB)]) for _ in range(30)]
    ordinary = [crowd.add([(command, 4 * MIB)]) for command in (WRITE, READ, WRITE)]
    for peer in (*vast, *ordinary):
        peer.piece = HALF  # the vast ones stall as soon as they have begun
        peer.step()
    assert crowd.memory.waiting == 33
    served = []
    while not all(peer in served for peer in ordinary):
        half.pop().leave()
        begun = [p for p in (*vast, *ordinary) if not p.stream.starved and p not in served]
        served += begun
        half += [peer for peer in begun if peer in vast]
    assert len(served) <= 2 * len(ordinary) + 1


def test_who_wants_least_does_not_keep_others_waiting(crowd):
    half = fill(crowd, [32 * MIB] * 7)
    vast = crowd.add([(WRITE, 32 * MIB)])
    vast.step()
    small = [crowd.add([(WRITE, MIB)]) for _ in range(100)]
    for peer in small:
        peer.step()
    for _ in range(2):
        half.pop().leave()
    assert not vast.stream.starved


def test_nobody_overtakes_whoever_waits_for_much(crowd):
    """What comes back in his turn is saved up for the first in line."""
    half = fill(crowd, [16 * MIB] * 14)
    big, *others = [crowd.add([(WRITE, size)]) for size in [32 * MIB] + [MIB] * 10]
    for peer in (big, *others):
        peer.step()
    assert crowd.memory.waiting == 11
    half[0].leave()
    assert crowd.memory.waiting == 11
    half[1].leave()
    assert not big.stream.starved
    assert crowd.memory.waiting == 10


@pytest.mark.parametrize("crowd", [64 * MIB], ids=["64M"], indirect=True)
def test_who_has_more_than_his_share_comes_later(crowd):
    """He asked first, and has three times as much already, of which nothing ends."""
    rig = crowd.rig
    disk = rig.app.registry.get("Disk")
    rig.app.reactor.run_until_complete(disk.quiesce(type(disk)))
    half = fill(crowd, [8 * MIB] * 4)
    greedy = crowd.add([(WRITE, 5 * MIB)] * 4, piece=4 * MIB)
    for _ in range(200):
        greedy.step()
    assert greedy.stream.memory_bytes == 24 * MIB
    other = crowd.add([(WRITE, 8 * MIB)])
    other.step()
    assert greedy.stream.starved
    assert other.stream.starved
    half[0].leave()
    assert greedy.stream.starved
    assert not other.stream.starved
    rig.app.reactor.run_until_complete(disk.unquiesce(type(disk)))
    crowd.run([greedy, other])


def test_small_writes_do_not_pin_a_chunk_each():
    """They share one as they come, whatever the time between them."""
    crowd = Crowd(LIMIT, kind="null")
    stuck = crowd.add([(WRITE, 4 * KIB)] * 600, piece=28 + 4 * KIB)
    crowd.rig.engine.drain()
    crowd.turn = lambda: None  # nothing ends
    for _ in range(600):
        stuck.step()
    assert stuck.stream.in_flight == 600
    assert stuck.stream.memory_bytes < 600 * 4 * KIB * 2
    del crowd.turn
    crowd.run([stuck])
    crowd.end()


def test_a_client_has_only_so_many_chunks():
    crowd = Crowd(LIMIT, kind="null")
    stuck = crowd.add([(WRITE, 60 * KIB)] * 200, piece=28 + 60 * KIB)
    crowd.turn = lambda: None
    for _ in range(200):
        stuck.step()
    assert stuck.stream.in_flight == 200
    assert crowd.memory.chunk_bytes == 16 * 256 * KIB
    del crowd.turn
    crowd.run([stuck])
    crowd.end()


def test_bdevios_are_waited_for_in_line_and_without_memory():
    """A stream that finds none goes on when one is free, not when somebody looks again."""
    crowd = Crowd(8 * MIB, pool_size=4)
    for _ in range(12):
        crowd.add([(READ, 4 * KIB), (WRITE, 64 * KIB), (READ, 512)] * 10, piece=5000)
    crowd.run(crowd.peers)
    crowd.end()


def test_what_came_behind_the_handshake_needs_no_chunk():
    crowd = Crowd(64 * KIB)
    rig = crowd.rig
    messages = [header(WRITE, n, n * 4096, 4096) + bytes([n]) * 4096 for n in range(1, 20)]
    rig.connect(early=b"".join(messages))
    for message in messages:
        rig.expect(message)
    rig.pump()
    assert sorted(event.cookie for event in rig.replies()) == list(range(1, 20))
    crowd.end()
