"""However a request stream is cut into segments, the same happens.

Method: a StreamRig feeds the compiled stream piece by piece; a bytearray is the model of the disk.
The same stream goes in whole, cut at every byte, and cut at random places. Requests between two
waits touch disjoint blocks, because a server may carry out what is in flight in any order.
"""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.nbd_client import header
from support.stream_rig import ALL_FLAGS, StreamRig
from vbdev.vocab import NbdError
from vbdev.wire.nbd import Command, ErrorChunk, NoneChunk, SimpleReply

BLOCK = 512
NUM_BLOCKS = 4096
SLOTS = 8
SLOT_BYTES = NUM_BLOCKS * BLOCK // SLOTS
KIB, MIB = 1 << 10, 1 << 20

# Around the bounds of nbd_stream: one block, in place or apart (64 KiB), one chunk (256 KiB).
LENGTHS = [BLOCK, 4 * KIB, 64 * KIB - BLOCK, 64 * KIB, 64 * KIB + BLOCK, 200 * KIB, SLOT_BYTES]


@pytest.fixture(scope="module")
def rig():
    rig = StreamRig(NUM_BLOCKS, BLOCK)
    yield rig
    rig.close()


class Model:
    """A disk as a bytearray, and what each reply has to be."""

    def __init__(self):
        self.disk = bytearray(NUM_BLOCKS * BLOCK)
        self.expected = {}
        self.cookie = 0

    def message(self, command, offset, length, fill):
        """Apply a request; return its bytes."""
        self.cookie += 1
        self.expected[self.cookie] = b""
        end = offset + length
        payload = b""
        if command == Command.READ:
            self.expected[self.cookie] = bytes(self.disk[offset:end])
        elif command == Command.WRITE:
            payload = random.Random(fill).randbytes(length)
            self.disk[offset:end] = payload
        elif command in (Command.TRIM, Command.WRITE_ZEROES):
            self.disk[offset:end] = bytes(length)
        elif command == Command.FLUSH:
            offset = length = 0
        return header(command, self.cookie, offset, length) + payload

    def check(self, events):
        """Every request has its reply, and the right data."""
        for event in events:
            assert getattr(event, "error", NbdError.OK) is NbdError.OK
            expected = self.expected.pop(event.cookie)
            assert bytes(getattr(event, "data", b"")) == expected
        assert not self.expected


COMMANDS = [Command.READ, Command.WRITE, Command.WRITE, Command.TRIM, Command.WRITE_ZEROES]
COMMANDS += [Command.FLUSH, Command.CACHE]


@st.composite
def rounds(draw):
    """Return rounds of requests (command, offset, length, fill), one slot of the disk for each."""
    one = st.tuples(st.sampled_from(COMMANDS), st.sampled_from(LENGTHS), st.integers(0, 1 << 16))
    out = []
    for requests in draw(st.lists(st.lists(one, min_size=1, max_size=SLOTS), max_size=3)):
        slots = draw(st.permutations(range(SLOTS)))
        row = []
        for (command, length, fill), slot in zip(requests, slots, strict=False):
            spare = (SLOT_BYTES - length) // BLOCK
            row.append((command, slot * SLOT_BYTES + fill % (spare + 1) * BLOCK, length, fill))
        out.append(row)
    return out


def restore(rig, model):
    """Make the disk what the model is at its beginning."""
    rig.feed(message := header(Command.WRITE_ZEROES, 1 << 40, 0, NUM_BLOCKS * BLOCK))
    rig.expect(message)
    (event,) = rig.replies()
    assert event.error is NbdError.OK
    return model


@settings(max_examples=300, deadline=None)
@given(rounds=rounds(), structured=st.booleans(), seed=st.integers(0, 1 << 32))
def test_random_segments(rig, rounds, structured, seed):
    random_cut = random.Random(seed)
    rig.connect(structured=structured)
    model = restore(rig, Model())
    for requests in rounds:
        messages = [model.message(*request) for request in requests]
        for message in messages:
            rig.expect(message)
        stream = b"".join(messages)
        cuts = sorted(random_cut.choices(range(len(stream)), k=random_cut.choice([0, 3, 40])))
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            assert not rig.feed(stream[start:end])
            rig.pump()
        model.check(rig.replies())
    whole = model.message(Command.READ, 0, NUM_BLOCKS * BLOCK, 0)
    rig.expect(whole)
    rig.feed(whole)
    model.check(rig.replies())


ONE_OF_EACH = [
    (Command.WRITE, 0, BLOCK, 1),
    (Command.READ, BLOCK, BLOCK, 0),
    (Command.FLUSH, 0, 0, 0),
    (Command.TRIM, 4 * BLOCK, BLOCK, 0),
    (Command.WRITE, 2 * BLOCK, BLOCK, 2),
    (Command.WRITE_ZEROES, 3 * BLOCK, BLOCK, 0),
    (Command.CACHE, 5 * BLOCK, BLOCK, 0),
]


def test_cut_at_every_byte(rig):
    """In two pieces, at each place there is."""
    rig.connect()
    model = Model()
    length = len(b"".join(model.message(*request) for request in ONE_OF_EACH))
    for cut in range(1, length):
        model = restore(rig, Model())
        messages = [model.message(*request) for request in ONE_OF_EACH]
        for message in messages:
            rig.expect(message)
        stream = b"".join(messages)
        rig.feed(stream[:cut])
        rig.feed(stream[cut:])
        model.check(rig.replies())


def test_byte_by_byte(rig):
    rig.connect(structured=True)
    model = restore(rig, Model())
    for request in ONE_OF_EACH:
        message = model.message(*request)
        rig.expect(message)
        for at in range(len(message)):
            assert not rig.replies()
            rig.feed(message[at : at + 1])
        model.check(rig.replies())


@pytest.mark.parametrize("behind_handshake", [False, True])
def test_many_requests_in_one_segment(rig, behind_handshake):
    """Two hundred at once are pieces of 16; the same when they came behind the handshake."""
    rig.connect()
    model = restore(rig, Model())
    messages = [
        model.message(Command.WRITE if n % 2 else Command.READ, n * BLOCK, BLOCK, n)
        for n in range(200)
    ]
    stream = b"".join(messages)
    if behind_handshake:
        rig.connect(early=stream)
    batches, requests = rig.stream.batches, rig.stream.requests
    if not behind_handshake:
        rig.feed(stream)
        # The first is what came into the few bytes that are enough for a client of short requests.
        assert (rig.stream.batches - batches, rig.stream.requests - requests) == (14, 200)
    for message in messages:
        rig.expect(message)
    model.check(rig.replies())


@pytest.mark.parametrize("length", [64 * KIB, 64 * KIB + BLOCK, 256 * KIB, 256 * KIB + BLOCK])
@pytest.mark.parametrize("before", [0, 1, 100, 500])
def test_payload_beside_the_end_of_a_chunk(rig, length, before):
    """A WRITE behind so many small ones that its header or payload meets the chunk's end."""
    rig.connect()
    model = restore(rig, Model())
    messages = [model.message(Command.WRITE, n * BLOCK, BLOCK, n) for n in range(before)]
    messages.append(model.message(Command.WRITE, SLOT_BYTES * 4, length, 7))
    messages.append(model.message(Command.READ, SLOT_BYTES * 6, BLOCK, 0))
    for message in messages:
        rig.expect(message)
    rig.feed(b"".join(messages))
    model.check(rig.replies())
    check = model.message(Command.READ, 0, NUM_BLOCKS * BLOCK, 0)
    rig.expect(check)
    rig.feed(check)
    model.check(rig.replies())


def test_longest_payload():
    """32 MiB there and back, with a small request behind each."""
    rig = StreamRig(num_blocks=65536 + 8)
    try:
        rig.connect(structured=True)
        data = random.Random(5).randbytes(32 * MIB)
        messages = [
            header(Command.WRITE, 1, 8 * BLOCK, len(data)) + data,
            header(Command.READ, 2, 0, BLOCK),
        ]
        for message in messages:
            rig.expect(message)
        assert not rig.feed(b"".join(messages))
        assert {event.cookie for event in rig.replies()} == {1, 2}
        rig.expect(message := header(Command.READ, 3, 8 * BLOCK, len(data)))
        rig.feed(message)
        (event,) = rig.replies()
        assert event.data == data
    finally:
        rig.close()


@pytest.mark.parametrize("structured", [False, True], ids=["simple", "structured"])
@pytest.mark.parametrize("command", sorted(set(Command) - {Command.DISC, Command.BLOCK_STATUS}))
def test_kind_of_reply(rig, command, structured):
    """A READ is answered in chunks where they were negotiated; all else, simply."""
    rig.connect(flags=ALL_FLAGS, structured=structured)
    length = 0 if command == Command.FLUSH else BLOCK
    message = header(command, 1, 0, length) + (bytes(BLOCK) if command == Command.WRITE else b"")
    refused = header(command, 2, 1, 1)
    for one in (message, refused):
        rig.expect(one)
        rig.feed(one + (b"x" if one is refused and command == Command.WRITE else b""))
    done, failed = rig.replies()
    chunked = structured and command == Command.READ
    assert isinstance(done, SimpleReply) is not chunked
    assert not isinstance(done, NoneChunk | ErrorChunk)
    assert isinstance(failed, ErrorChunk if chunked else SimpleReply)
    assert failed.error is NbdError.EINVAL
