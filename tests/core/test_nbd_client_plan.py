"""READs whose data is received straight into their buffers, on the guess of what comes next.

Method: the load generator verifies on a LinkRig whose server holds a disk and answers in order, out
of order, in pieces and with errors between. A guess that is wrong must leave no trace.
"""

import errno
import random

import pytest

from support.link_rig import LinkRig
from vbdev.core.load.loadgen import LoadGenerator
from vbdev.vocab import NbdError
from vbdev.wire.nbd import (
    Command,
    encode_chunk_error,
    encode_chunk_none,
    encode_chunk_offset_data_header,
    encode_chunk_offset_hole,
    encode_simple_reply,
)

ORDERS = {
    "asked": lambda requests, _rng: requests,
    "backwards": lambda requests, _rng: requests[::-1],
    "any": lambda requests, rng: rng.sample(requests, len(requests)),
    "mostly": lambda requests, rng: requests if rng.random() < 0.7 else requests[::-1],
    "two changed": lambda requests, _rng: [*requests[:2][::-1], *requests[2:]],
}


class Disk:
    """What the server holds, and how it answers."""

    def __init__(self, rng, *, structured, pieces):
        self.rng = rng
        self.structured = structured
        self.pieces = pieces
        self.blocks = {}

    def reply(self, request, payload):
        at, length = request.offset_bytes, request.length_bytes
        if request.command == Command.WRITE:
            for n in range(0, length, 512):
                self.blocks[at + n] = payload[n : n + 512]
            if self.structured and self.rng.random() < 0.5:
                return encode_chunk_none(request.cookie)
            return encode_simple_reply(request.cookie)
        data = b"".join(self.blocks.get(at + n, bytes(512)) for n in range(0, length, 512))
        if not self.structured:
            return encode_simple_reply(request.cookie) + data
        if self.pieces and self.rng.random() < 0.3:
            return self._in_pieces(request, data)
        head = encode_chunk_offset_data_header(request.cookie, at, length, done=True)
        return head + data

    def _in_pieces(self, request, data):
        cut = 512 * self.rng.randrange(1, len(data) // 512)
        parts = [(0, cut), (cut, len(data))]
        self.rng.shuffle(parts)
        said = b""
        for start, end in parts:
            at = request.offset_bytes + start
            if any(data[start:end]):
                said += encode_chunk_offset_data_header(request.cookie, at, end - start, done=False)
                said += data[start:end]
            else:
                said += encode_chunk_offset_hole(request.cookie, at, end - start, done=False)
        return said + encode_chunk_none(request.cookie)


def run(rig, end, disk, order, rng, *, depth, num_ios, io_size=4096, step=1 << 20):
    ended = []
    generator = LoadGenerator(
        rig.stack.engine,
        rig.opened.channel,
        workload="verify",
        io_size=io_size,
        queue_depth=depth,
        seed=rng.randrange(1 << 32),
        on_end=lambda: ended.append(True),
    )
    generator.start(num_ios)
    held = []
    while not ended:
        rig.stack.settle()
        held += end.requests()
        end.link.send()  # the socket has room again
        keep = rng.randrange(len(held)) if held and rng.random() < 0.3 else 0
        now, held = held[keep:], held[:keep]
        said = b"".join(disk.reply(*one) for one in ORDERS[order](now, rng))
        for at in range(0, len(said), step):
            end.say(said[at : at + step])
        assert not end.link.closed, end.link.reason
    assert generator.mismatch is None
    assert generator.failures == 0
    assert generator.ios == num_ios
    generator.close()
    return generator


@pytest.mark.parametrize("step", [1 << 20, 4097, 1000])
@pytest.mark.parametrize("structured", [False, True])
@pytest.mark.parametrize("order", ORDERS)
def test_data_comes_where_it_belongs(order, structured, step):
    rng = random.Random(f"{order} {structured} {step}")
    rig = LinkRig()
    end = rig.connect(structured=structured)
    disk = Disk(rng, structured=structured, pieces=True)
    run(rig, end, disk, order, rng, depth=24, num_ios=1200, step=step)
    rig.close()


@pytest.mark.parametrize("io_size", [512, 96 << 10, 256 << 10, 1 << 20])
@pytest.mark.parametrize("structured", [False, True])
def test_of_all_sizes(io_size, structured):
    """Shorter than what one call receives, as long, and longer."""
    rng = random.Random(io_size)
    rig = LinkRig()
    end = rig.connect(structured=structured)
    disk = Disk(rng, structured=structured, pieces=False)
    for order in ("asked", "two changed"):
        run(
            rig,
            end,
            disk,
            order,
            rng,
            depth=5,
            num_ios=160 if io_size < 1 << 20 else 40,
            io_size=io_size,
        )
    rig.close()


def test_more_than_a_plan_has_room_for():
    rng = random.Random(1)
    rig = LinkRig()
    end = rig.connect(structured=True)
    disk = Disk(rng, structured=True, pieces=False)
    run(rig, end, disk, "asked", rng, depth=400, num_ios=6400, io_size=512)
    rig.close()


@pytest.mark.parametrize("structured", [False, True])
def test_an_error_in_the_middle(structured):
    """The READs behind it lie in the stream where its data was expected."""
    rig = LinkRig()
    end = rig.connect(structured=structured)
    rng = random.Random(5)
    disk = Disk(rng, structured=structured, pieces=False)
    run(rig, end, disk, "asked", rng, depth=8, num_ios=160)
    failed = []
    generator = LoadGenerator(
        rig.stack.engine, rig.opened.channel, workload="randread", io_size=4096, queue_depth=8,
        max_failures=10, on_end=lambda: failed.append(generator.failures),
    )  # fmt: skip
    generator.start(80)
    turn = 0
    while not failed:
        rig.stack.settle()
        said = b""
        for n, (request, payload) in enumerate(end.requests()):
            if n == turn % 8 and turn < 10:
                said += (
                    encode_chunk_error(request.cookie, NbdError.EIO, "bad", done=True)
                    if structured
                    else encode_simple_reply(request.cookie, NbdError.EIO)
                )
            else:
                said += disk.reply(request, payload)
        turn += 1
        end.say(said)
        assert not end.link.closed, end.link.reason
    assert failed == [10]
    generator.close()
    rig.close()


def test_a_connection_that_ends_in_a_plan():
    rng = random.Random(2)
    for cut in range(0, 3 * 4124, 401):
        rig = LinkRig()
        end = rig.connect(structured=True)
        disk = Disk(rng, structured=True, pieces=False)
        ended = []
        generator = LoadGenerator(
            rig.stack.engine, rig.opened.channel, workload="randread", io_size=4096,
            queue_depth=3, max_failures=3, on_end=lambda ended=ended: ended.append(True),
        )  # fmt: skip
        generator.start(3)
        rig.stack.settle()
        said = b"".join(disk.reply(*one) for one in end.requests())
        end.say(said[:cut])
        end.hang_up()
        assert ended
        assert generator.ios == cut // 4124
        assert generator.errors() == ({-8: 3 - cut // 4124} if cut < len(said) else {})
        assert end.link.reason == "server closed the connection"
        generator.close()
        rig.close()


def test_reads_into_the_same_memory():
    """What one of them has overwritten could not be put right: they are not guessed at."""
    rig = LinkRig()
    end = rig.connect(structured=True)
    shared = bytearray(512)
    requests = [rig.opened.submit(1, n, 1, shared) for n in range(6)]
    rig.stack.settle()
    asked = [request for request, _ in end.requests()]
    said = b""
    for one in [asked[0], *asked[:0:-1]]:
        said += encode_chunk_offset_data_header(one.cookie, one.offset_bytes, 512, done=True)
        said += bytes([one.offset_bytes // 512]) * 512
    end.say(said)
    assert all(request.errno == 0 for request in requests)
    assert shared == bytes([1]) * 512  # the last that came
    assert not end.link.closed
    assert errno.EIO not in {request.errno for request in requests}
    rig.close()
