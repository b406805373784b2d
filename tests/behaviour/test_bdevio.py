"""What any block target must do, whatever lies under it: the cases of SPDK's bdevio.

Method: each case on malloc disks of two block sizes, through one and through three passthrus, on a
file, and over NBD. Where a target can not be asked for something (NBD has no COPY) it is left out.
"""

import contextlib
import errno

import pytest

from support.nbd_client import NbdClient, NbdFailedError
from support.stack import Stack
from vbdev.modules.uring import Uring
from vbdev.vocab import NbdError, Op, Status
from vbdev.wire.nbd import Command

SIZE = 16 << 20
KIB, MIB = 1 << 10, 1 << 20


class InProcess:
    """A bdev on a bare Stack. Offsets and sizes are in bytes; 0 or an errno is the answer."""

    def __init__(self, stack, name):
        self.stack = stack
        self.opened = stack.open(name)
        self.bdev = self.opened.descriptor.bdev
        self.block = self.bdev.block_size
        self.size = self.bdev.size_bytes

    def io(self, op, offset, length, data=None, **more):
        if length % self.block:
            with pytest.raises(ValueError, match="bytes of data for an I/O of"):
                self.opened.submit(op, offset // self.block, length // self.block, data)
            return errno.EINVAL
        return self.opened.io(op, offset // self.block, length // self.block, data, **more)

    def write(self, offset, data):
        pieces = data if isinstance(data, list) else [data]
        request = self.io(Op.WRITE, offset, sum(map(len, pieces)), pieces)
        return request if isinstance(request, int) else request.errno

    def read(self, offset, lengths):
        lengths = lengths if isinstance(lengths, list) else [lengths]
        pieces = [bytearray(length) for length in lengths]
        request = self.io(Op.READ, offset, sum(lengths), pieces)
        number = request if isinstance(request, int) else request.errno
        return number or b"".join(pieces)

    def zeroes(self, offset, length):
        return self.io(Op.WRITE_ZEROES, offset, length).errno

    def close(self):
        self.stack.close()


class OverNbd:
    """An export of a daemon in this process."""

    def __init__(self, app):
        app.serve(num_blocks=SIZE // 512, strict_blocks=True)
        self.client = NbdClient(app.socket)
        self.block, self.size = 512, self.client.size

    def attempt(self, function, *words):
        try:
            return function(*words)
        except NbdFailedError as failed:
            # The protocol says "no space" of a write behind the end.
            return errno.EINVAL if failed.error == NbdError.ENOSPC else int(failed.error)

    def write(self, offset, data):
        data = b"".join(data) if isinstance(data, list) else data
        return self.attempt(self.client.write, offset, data) or 0

    def read(self, offset, lengths):
        length = sum(lengths) if isinstance(lengths, list) else lengths
        return self.attempt(self.client.read, offset, length)

    def zeroes(self, offset, length):
        return int(self.client.ask(Command.WRITE_ZEROES, offset, length).error)

    def close(self):
        self.client.close()


def malloc(block_size=512, layers=0):
    def make(_request):
        stack = Stack()
        stack.disk(num_blocks=SIZE // block_size, block_size=block_size)
        for number in range(layers):
            stack.layer(name=f"P{number}", base=f"P{number - 1}" if number else "Disk")
        return InProcess(stack, f"P{layers - 1}" if layers else "Disk")

    return make


def file(request):
    path = request.getfixturevalue("tmp_path") / "disk"
    path.write_bytes(bytes(SIZE))
    stack = Stack(real_clock=True)
    stack.create(Uring, name="Disk", filename=str(path), block_size=512)
    return InProcess(stack, "Disk")


def nbd(request):
    return OverNbd(request.getfixturevalue("local_app"))


TARGETS = {
    "malloc": malloc(),
    "malloc of 4 KiB blocks": malloc(4096),
    "passthru": malloc(layers=1),
    "three passthrus": malloc(layers=3),
    "file": file,
    "nbd": nbd,
}


@pytest.fixture(params=TARGETS)
def target(request):
    made = TARGETS[request.param](request)
    yield made
    made.close()


@pytest.fixture(params=[name for name in TARGETS if name != "nbd"])
def inside(request):
    """A target whose bdev the test can reach."""
    made = TARGETS[request.param](request)
    yield made
    made.close()


def pattern(length, seed=1):
    return bytes((n * 31 + n // 251 + seed) % 255 + 1 for n in range(min(length, 4096))) * max(
        length // 4096, 1
    )


def round_trip(target, offset, lengths, seed=1):
    """Write pieces of these lengths, and read them back in the same pieces."""
    data = [pattern(length, seed + n) for n, length in enumerate(lengths)]
    assert [len(piece) for piece in data] == lengths
    assert target.write(offset, data) == 0
    assert target.read(offset, lengths) == b"".join(data)


@pytest.mark.rule("E.bdevio.write_read_block")
def test_one_block(target):
    round_trip(target, 0, [target.block])


@pytest.mark.rule("E.bdevio.write_read_8_blocks", "E.bdevio.writev_readv_8_blocks")
def test_eight_blocks(target):
    round_trip(target, 8 * target.block, [8 * target.block])


@pytest.mark.rule("E.bdevio.writev_readv_30x1block")
def test_thirty_pieces_of_a_block(target):
    round_trip(target, 3 * target.block, [target.block] * 30)


@pytest.mark.rule("E.bdevio.writev_readv_block")
def test_one_block_in_pieces(target):
    round_trip(target, 14 * target.block, [target.block])
    data = pattern(target.block, 9)
    assert target.write(0, [data[:1], b"", data[1:]]) == 0
    assert target.read(0, [3, target.block - 3]) == data


@pytest.mark.rule("E.bdevio.write_read_128k", "E.bdevio.writev_readv_128k")
def test_more_than_128_kib(target):
    round_trip(target, 0, [132 * KIB])


@pytest.mark.rule("E.bdevio.writev_readv_128k_two_iovs")
def test_more_than_128_kib_in_two_pieces(target):
    round_trip(target, 4 * KIB, [128 * KIB, 4 * KIB])


@pytest.mark.rule("E.bdevio.write_read_invalid_size", "A.9.24", "E.bdev_ut.bytes_to_blocks_test")
@pytest.mark.parametrize("length", [0x15, 513, 4095])
def test_no_whole_blocks(target, length):
    assert target.write(0, bytes(length)) == errno.EINVAL
    assert target.read(0, length) == errno.EINVAL


@pytest.mark.rule("A.9.24", "E.bdev_ut.bytes_to_blocks_test")
@pytest.mark.parametrize(("offset", "length"), [(1, 512), (256, 4096), (511, 513)])
def test_between_blocks(local_app, offset, length):
    """In the process offsets are in blocks; a client's are in bytes."""
    with contextlib.closing(OverNbd(local_app)) as target:
        assert target.write(offset, bytes(length)) == errno.EINVAL
        assert target.read(offset, length) == errno.EINVAL
        assert target.zeroes(offset, length) == errno.EINVAL


@pytest.mark.rule("E.bdevio.write_read_end")
def test_the_last_blocks(target):
    round_trip(target, target.size - 8 * target.block, [8 * target.block])


@pytest.mark.rule("E.bdevio.write_read_past_end")
def test_one_block_past_the_end(target):
    offset, length = target.size - 7 * target.block, 8 * target.block
    assert target.write(offset, bytes(length)) == errno.EINVAL
    assert target.read(offset, length) == errno.EINVAL


@pytest.mark.rule("E.bdevio.write_read_max_offset")
def test_the_largest_offset(target):
    offset = 2**64 - target.block
    assert target.write(offset, bytes(target.block)) == errno.EINVAL
    assert target.read(offset, target.block) == errno.EINVAL


@pytest.mark.rule("E.bdevio.write_read_overlapped")
def test_writes_that_overlap(target):
    first, second = pattern(2 * target.block, 1), pattern(2 * target.block, 100)
    assert target.write(0, first) == 0
    assert target.write(target.block, second) == 0
    assert target.read(0, 3 * target.block) == first[: target.block] + second


@pytest.mark.rule("E.bdevio.write_zeroes_read_block")
def test_zeroes(target):
    data = pattern(3 * target.block)
    assert target.write(0, data) == 0
    assert target.zeroes(target.block, target.block) == 0
    expected = data[: target.block] + bytes(target.block) + data[2 * target.block :]
    assert target.read(0, 3 * target.block) == expected


@pytest.mark.rule(
    "E.bdevio.write_zeroes_read_no_split",
    "E.bdevio.write_zeroes_read_split",
    "E.bdevio.write_zeroes_read_split_partial",
)
@pytest.mark.parametrize("length", [1 * MIB, 8 * MIB, 3 * MIB + 4096])
def test_many_zeroes(target, length):
    around = 4 * KIB
    assert target.write(0, pattern(length + 2 * around)) == 0
    assert target.zeroes(around, length) == 0
    got = target.read(0, length + 2 * around)
    expected = pattern(length + 2 * around)
    assert got[:around] == expected[:around]
    assert not any(got[around:-around])
    assert got[-around:] == expected[-around:]


@pytest.mark.rule("E.bdevio.reset", "A.9.5")
def test_reset(inside):
    data = pattern(inside.block)
    assert inside.write(0, data) == 0
    for _ in range(2):
        assert inside.opened.io(Op.RESET, 0, 0).status == Status.SUCCESS
    assert inside.read(0, inside.block) == data
