"""Clients that ask for much, or never stop, or never listen: bounded memory, nobody else hurt.

Method: an App in this process, or a StreamRig where a small engine shows the bounds; what holds
for a whole daemon (memory, descriptors) is in `test_nbd_crowds.py`.
"""

import errno
import time

import pytest

from support.nbd_client import connect, header
from support.stream_rig import StreamRig
from vbdev.bdev import BdevError
from vbdev.bdev.descriptor import Descriptor
from vbdev.core.engine.engine import Engine
from vbdev.targets.nbd import session
from vbdev.testing import Stub
from vbdev.vocab import NbdError
from vbdev.wire.nbd import Command, Option
from vbdev.wire.nbd.constants import CLIENT_FLAGS
from vbdev.wire.nbd.payloads import encode_option

MIB = 1 << 20
READ, WRITE, FLUSH = Command.READ, Command.WRITE, Command.FLUSH
MAX_HELD_BYTES = 16 * MIB + 32 * MIB  # nbd_stream: MAX_IN_FLIGHT_BYTES and one request beyond


def test_2000_reads_in_one_segment(local_app):
    local_app.serve()
    client = local_app.client()
    messages = [client.message(READ, n % 2048 * 512, 512) for n in range(2000)]
    client.send(b"".join(messages))
    assert len(client.wait_all()) == 2000


def test_requests_in_flight_are_bounded():
    """Of 3000 that have arrived, 1024 are under way at most; the rest follow as those end."""
    rig = StreamRig(module=Stub)
    disk = rig.app.registry.get("Disk")
    try:
        for _ in range(20):  # what looks at new disks reads it
            rig.app.reactor.poll()
            disk.complete()
        rig.connect()
        messages = [header(READ, n, 0, 512) for n in range(1, 3001)]
        for message in messages:
            rig.expect(message)
        rig.near.sendall(b"".join(messages))
        rig.pump()
        assert rig.engine.ios_in_use == 1024
        assert not rig.stream.wants_read
        while disk.held:
            assert rig.engine.ios_in_use <= 1024
            disk.complete()
            rig.pump()
        assert len(rig.replies()) == 3000
    finally:
        rig.close()


def test_more_bytes_in_flight_than_a_connection_may_have(local_app):
    local_app.serve(num_blocks=16384)
    client = local_app.client()
    messages = [client.message(READ, 0, 8 * MIB) for _ in range(20)]
    client.send(b"".join(messages))
    assert all(reply.data == bytes(8 * MIB) for reply in client.wait_all().values())


@pytest.mark.parametrize("count", [1023, 1024, 1025, 5000])
def test_refusals_in_one_segment(local_app, count):
    """Refused requests are never in flight, so no completion makes the stream go on."""
    local_app.serve()
    client = local_app.client()
    client.send(b"".join(client.message(READ, 1 << 40, 512) for _ in range(count)))
    errors = [reply.error for reply in client.wait_all().values()]
    assert errors == [NbdError.EINVAL] * count
    assert client.read(0, 512) == bytes(512)


@pytest.mark.parametrize("kind", ["malloc", "null"])
def test_5000_block_statuses_in_one_segment(local_app, kind):
    """On malloc each takes two seeks; null has none, and answers at once."""
    local_app.serve(kind=kind)
    client = local_app.client(contexts=["base:allocation"])
    messages = [client.message(Command.BLOCK_STATUS, 0, 1 * MIB) for _ in range(5000)]
    client.send(b"".join(messages))
    state = 3 if kind == "malloc" else 0
    assert all(r.extents == ((MIB, state),) for r in client.wait_all().values())


def test_block_status_without_a_free_io(local_app, monkeypatch):
    """A request that finds the pool empty waits for an I/O, as any other does."""
    local_app.serve()
    client = local_app.client(contexts=["base:allocation"])
    submit, refusals = Descriptor.submit, []

    def refuse_twice(self, *arguments, **options):
        if len(refusals) < 2:
            refusals.append(True)
            raise BdevError(errno.ENOMEM, "all BdevIOs are in use")
        return submit(self, *arguments, **options)

    monkeypatch.setattr(Descriptor, "submit", refuse_twice)
    assert client.ask(Command.BLOCK_STATUS, 0, MIB).extents == ((MIB, 3),)
    assert len(refusals) == 2


def test_peer_that_takes_no_replies():
    """Reads wait in the socket once a connection holds its share; all are answered in the end."""
    rig = StreamRig(num_blocks=4096)
    try:
        rig.connect()
        messages = [header(READ, n, 0, MIB) for n in range(1, 201)]
        for message in messages:
            rig.expect(message)
        rig.feed(b"".join(messages), reading=False)
        assert rig.stream.wants_write
        assert 0 < rig.stream.held_bytes <= MAX_HELD_BYTES
        assert rig.engine.ios_in_use <= 49
        rig.pump()
        assert [event.cookie for event in rig.replies()] == list(range(1, 201))
    finally:
        rig.close()


def test_peer_that_takes_no_short_replies():
    """Replies without data are bounded too."""
    rig = StreamRig()
    try:
        rig.connect()
        flush = header(FLUSH, 1)
        for _ in range(2000):
            if rig.feed(flush * 1000, reading=False):
                break
        assert rig.stream.wants_write
        assert rig.stream.requests < 200_000
        assert rig.engine.ios_in_use <= 1024
    finally:
        rig.close()


def test_client_short_of_memory_goes_on_when_there_is_some(local_app, monkeypatch):
    """Also one that had not taken its replies before, and is watched for that."""
    monkeypatch.setattr(session, "SEND_BUFFER_BYTES", 64 << 10)  # less than a reply
    app = local_app.app
    app.engine = app.reactor.engine = Engine(buffer_limit_bytes=2 * MIB)
    local_app.serve(num_blocks=8192)
    slow, greedy = local_app.client(), local_app.client()
    streams = lambda: [c.stream for c in app.nbd._connections if c.stream]  # noqa: E731
    first = slow.start(READ, 0, 512 * 1024)
    local_app.wait_until(lambda: any(s.wants_write for s in streams()))
    second = slow.expect(WRITE, 0, MIB)
    slow.send(header(WRITE, second, 0, MIB) + b"\x11" * 4096)
    greedy.start(READ, 0, MIB)
    local_app.wait_until(lambda: sum(s.wants_write for s in streams()) == 2)
    slow.wait(first)
    local_app.wait_until(lambda: any(s.starved for s in streams()))
    greedy.close()
    began = time.monotonic()
    slow.send(b"\x11" * (MIB - 4096))
    assert slow.wait(second).error is NbdError.OK
    assert time.monotonic() - began < 2


def test_removal_while_a_payload_is_on_its_way(local_app):
    """Half a WRITE is no request in flight: nobody waits for the rest of it."""
    local_app.serve(num_blocks=8192)
    client = local_app.client()
    client.send(header(WRITE, 1, 0, MIB) + bytes(4096))
    local_app.wait_until(lambda: local_app.app.engine.ios_in_use == 1)
    began = time.monotonic()
    app = local_app.app
    local_app.ask(lambda: app.reactor.spawn(app.nbd.remove_export("Disk")))
    assert client.at_end()
    assert time.monotonic() - began < 2


def test_list_asked_for_a_thousand_times(local_app):
    """What a client has not taken of its answers is bounded, however it packs its questions."""
    local_app.serve()
    app = local_app.app
    for number in range(100):
        local_app.ask(lambda n=number: app.nbd.add_export("Disk", f"{n:04000}", read_only=True))
    ask_for_list = encode_option(Option.LIST, b"")
    with connect(local_app.socket) as client:
        client.sendall(CLIENT_FLAGS.pack(1) + ask_for_list * 1000)
        local_app.wait_until(lambda: any(c._unsent for c in app.nbd._connections))
        held = local_app.ask(lambda: max(len(c._unsent) for c in app.nbd._connections))
        assert held < 1 * MIB
        received = 0
        while received < 1000 * 100 * 4000:
            received += len(client.recv(1 << 20))
