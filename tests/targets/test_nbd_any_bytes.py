"""NBD requests that begin and end at any byte, on bdevs of any blocks.

Method: a whole App on threads and clients of its own. The oracle is a bytearray, and for several
clients that every one's own bytes are there: what a write leaves of a block is never lost, whoever
writes the rest of it meanwhile.
"""

import random
import threading

import pytest

from support.local_app import LocalApp
from support.nbd_client import header
from vbdev.bdev import VirtualBdev
from vbdev.modules.passthru import Passthru
from vbdev.testing import layer
from vbdev.vocab import IoFlag, NbdError, Op, Status
from vbdev.wire.nbd import Command, CommandFlag

FUA = CommandFlag.FUA
INTERLEAVED = {"md_size": 64, "md_interleave": True, "dif_type": 1, "dif_pi_format": 2}
SEPARATE = {"md_size": 8, "dif_type": 2}

seen = []


def watch(_self, channel, ios):
    seen.extend(
        (Op(op), offset, blocks, IoFlag(flags & 7))
        for (op, offset, blocks), flags in zip(ios.extents(), map(int, ios.flags), strict=True)
    )
    channel.base.submit(ios)


Watching = layer(watch, kind="watching")


def fail(which, status=Status.FAILED, number=5):
    """Make a layer that fails I/Os of one type."""

    def submit(_self, channel, ios):
        chosen = ios.take(which)
        if len(chosen):
            chosen.complete(status, number)
        channel.base.submit(ios)

    return layer(submit, kind="failing")


def serve_layer(local_app, kind, block_size=4096, num_blocks=16):
    """Serve a layer on a malloc; return its export, and a client of it."""
    app = local_app.app
    app.add_module(kind)
    app.create("malloc", {"name": "Disk", "num_blocks": num_blocks, "block_size": block_size})
    app.create(kind.kind, {"name": "Top", "base_bdev_name": "Disk"})
    export = app.nbd.add_export("Top")
    app.nbd.listen(f"unix:{local_app.socket}")
    local_app.start()
    return export, local_app.client()


@pytest.mark.parametrize("params", [{}, INTERLEAVED, SEPARATE], ids=["plain", "inter", "apart"])
@pytest.mark.parametrize("block_size", [512, 4096, 65536])
def test_any_mixture_is_what_a_file_would_have(local_app, block_size, params):
    export = local_app.serve(num_blocks=16, block_size=block_size, params=params)
    assert export.info().block_sizes.minimum_bytes == 1
    client = local_app.client()
    size = 16 * block_size
    twin = bytearray(size)
    choose = random.Random(block_size)
    for _ in range(300):
        offset = choose.randrange(size)
        length = min(choose.choice([1, 7, 100, 512, 4096, 3 * block_size + 5]), size - offset)
        if choose.random() < 0.3:
            offset -= offset % block_size
        end = offset + length
        what = choose.randrange(5)
        if what == 0:
            data = choose.randbytes(length)
            client.write(offset, data)
            twin[offset:end] = data
        elif what == 1:
            client._do(Command.WRITE_ZEROES, offset, length, choose.choice([0, int(FUA), 2]))
            twin[offset:end] = bytes(length)
        elif what == 2:
            client._do(Command.TRIM, offset, length)
            first, last = -(-offset // block_size) * block_size, end // block_size * block_size
            now = client.read(0, size)
            kept = bytes(twin[:first]) == now[:first] and bytes(twin[last:]) == now[last:]
            assert kept if first < last else now == twin
            twin[:] = now
        elif what == 3:
            client._do(Command.CACHE, offset, length)
        assert client.read(offset, length) == twin[offset:end]
    assert client.read(0, size) == twin


@pytest.mark.parametrize("structured", [False, True])
def test_reads_in_pieces(local_app, structured):
    local_app.serve(num_blocks=64, block_size=4096)
    client = local_app.client(structured=structured)
    data = random.Random(3).randbytes(64 * 4096)
    client.write(0, data)
    places = [(n * 997 % 200_000, 1 + n * 331 % 60_000) for n in range(200)]
    cookies = [client.expect(Command.READ, *place) for place in places]
    headers = [
        header(Command.READ, cookie, *place) for cookie, place in zip(cookies, places, strict=True)
    ]
    # In one call: one by one they can fill the socket, while the server takes none because nobody
    # reads its answers.
    client.send(b"".join(headers))
    for cookie, (offset, length) in zip(cookies, places, strict=True):
        assert client.wait(cookie).data == data[offset : offset + length]


def test_long_requests(local_app):
    """Longer than what is received in place, and the longest there may be."""
    local_app.serve(num_blocks=9000, block_size=4096)
    client = local_app.client()
    data = random.Random(4).randbytes(32 << 20)
    client.write(4095, data)
    assert client.read(4095, 32 << 20) == data
    assert client.read(4090, 5) == bytes(5)
    client.write(100_001, data[:200_000])
    assert client.read(100_000, 200_002) == data[95905:95906] + data[:200_000] + data[295906:295907]


def test_write_units(local_app):
    """A bdev that is written in units of several blocks."""

    class Units(VirtualBdev):
        kind = "units"
        ops = Passthru.ops

        async def start(self):
            self.write_unit_size = 8

        def submit(self, channel, ios):
            channel.base.submit(ios)

    export, client = serve_layer(local_app, Units, block_size=512, num_blocks=256)
    twin = bytearray(256 * 512)
    choose = random.Random(8)
    for _ in range(100):
        offset = choose.randrange(250) * choose.choice([1, 512])
        data = choose.randbytes(choose.choice([1, 512, 4096, 9000]))
        client.write(offset, data)
        twin[offset : offset + len(data)] = data
        zeroed = choose.randrange(60_000)
        client._do(Command.WRITE_ZEROES, zeroed, 5000)
        twin[zeroed : zeroed + 5000] = bytes(5000)
    assert client.read(0, len(twin)) == twin
    assert export.info().block_sizes.preferred_bytes == 4096


def test_block_status_of_any_bytes(local_app):
    local_app.serve(num_blocks=16, block_size=4096)
    client = local_app.client(contexts=["base:allocation"])
    client.write(2 * 4096, bytes([1]) * 4096)
    for offset, length in [(1, 10), (8000, 500), (5, 65000), (2 * 4096 + 1, 4095), (4095, 2)]:
        extents = client.ask(Command.BLOCK_STATUS, offset, length).extents
        assert sum(n for n, _ in extents) == length
        at = offset
        for n, state in extents:
            for byte in {at, at + n - 1}:
                assert (state == 0) == (byte // 4096 == 2)
            at += n


def test_strict_blocks(local_app):
    export = local_app.serve(num_blocks=16, block_size=4096, strict_blocks=True)
    assert export.info().block_sizes.minimum_bytes == 4096
    client = local_app.client(contexts=["base:allocation"])
    for command in (Command.READ, Command.WRITE_ZEROES, Command.TRIM, Command.BLOCK_STATUS):
        assert client.ask(command, 512, 4096).error is NbdError.EINVAL
        assert client.ask(command, 4096, 512).error is NbdError.EINVAL
    assert client.ask(Command.WRITE, 0, 0, 0, bytes(512)).error is NbdError.EINVAL
    assert local_app.app.nbd.config()[-1]["params"]["strict_blocks"] is True


def test_bounds_and_empty_requests(local_app):
    local_app.serve(num_blocks=16, block_size=4096)
    client = local_app.client()
    assert client.ask(Command.WRITE, 65535, 0, 0, bytes(2)).error is NbdError.ENOSPC
    assert client.ask(Command.READ, 65535, 2).error is NbdError.EINVAL
    assert client.ask(Command.READ, 3, 0).error is NbdError.EINVAL
    client.write(65535, b"x")
    assert client.read(65530, 6) == b"\0\0\0\0\0x"


def test_a_read_only_export(local_app):
    local_app.serve(num_blocks=16, block_size=4096, read_only=True)
    client = local_app.client()
    assert client.read(5, 5) == bytes(5)
    assert client.ask(Command.WRITE, 5, 0, 0, b"x").error is NbdError.EPERM


def test_what_reaches_the_module(local_app):
    """Whole blocks only, and FUA on what is written. Aligned requests are as they were."""
    _, client = serve_layer(local_app, Watching)
    seen.clear()
    client._do(Command.WRITE, 4000, 0, int(FUA), bytes(9000))
    assert seen == [(Op.READ, 0, 1, 0), (Op.READ, 3, 1, 0), (Op.WRITE, 0, 4, IoFlag.FUA)]
    seen.clear()
    client._do(Command.WRITE_ZEROES, 4000, 9000, int(FUA))
    assert seen == [
        (Op.READ, 0, 1, 0),
        (Op.READ, 3, 1, 0),
        (Op.WRITE_ZEROES, 1, 2, IoFlag.FUA),
        (Op.WRITE, 0, 1, IoFlag.FUA),
        (Op.WRITE, 3, 1, IoFlag.FUA),
    ]
    seen.clear()
    client._do(Command.WRITE_ZEROES, 4000, 50)
    assert [op for op, *_ in seen] == [Op.READ, Op.WRITE]
    seen.clear()
    client._do(Command.TRIM, 4000, 9000)
    client._do(Command.TRIM, 4000, 50)
    assert seen == [(Op.UNMAP, 1, 2, 0)]
    seen.clear()
    client._do(Command.WRITE, 4096, 0, 0, bytes(4096))
    assert client.read(8192, 4096) == bytes(4096)
    assert seen == [(Op.WRITE, 1, 1, 0), (Op.READ, 2, 1, 0)]


@pytest.mark.parametrize(
    ("which", "number", "error"),
    [(Op.READ, 5, NbdError.EIO), (Op.WRITE, 28, NbdError.ENOSPC), (Op.READ, 12, NbdError.ENOMEM)],
)
def test_failures_of_either_part(local_app, which, number, error):
    _, client = serve_layer(local_app, fail(which, number=number))
    assert client.ask(Command.WRITE, 100, 0, 0, b"x").error is error
    assert client.ask(Command.WRITE_ZEROES, 100, 5000).error is error
    local_app.run(local_app.app.nbd.remove_export("Top"))  # nothing is left locked, or in use


def test_null_has_it_too(local_app):
    local_app.serve(num_blocks=64, block_size=4096, kind="null")
    client = local_app.client()
    client.write(5, b"abc")
    assert client.read(4, 10000) == bytes(10000)


@pytest.fixture(params=[1, 3])
def apps(request, tmp_path):
    app = LocalApp(tmp_path, num_reactors=request.param)
    yield app
    app.close()


@pytest.mark.parametrize("others", ["bytes", "blocks"])
def test_writers_of_one_block_lose_nothing(apps, others):
    """Each client has its own bytes of the same two blocks, and overwrites them again and again.

    blocks: one of them writes a whole block, with which the bytes of the others may go; what it
    wrote last is there wherever nobody has written since.
    """
    apps.serve(num_blocks=4, block_size=4096)
    clients = [apps.client() for _ in range(6)]
    stripe = 64
    failures = []

    def work(number, client):
        choose = random.Random(number)
        try:
            for turn in range(40):
                wrote = {}
                for place in range(number, 128, len(clients)):
                    if choose.random() < 0.15:
                        wrote[place] = bytes([turn + 1]) * stripe
                cookies = [
                    client.start(Command.WRITE, place * stripe, 0, 0, data)
                    for place, data in wrote.items()
                ]
                if others == "blocks" and number == 0:
                    client.write(2 * 4096, bytes([turn]) * 4096)
                for cookie in cookies:
                    assert not client.wait(cookie).error
                for place, data in wrote.items():
                    assert client.read(place * stripe, stripe) == data
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=pair) for pair in enumerate(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not failures


def test_bytes_and_whole_blocks_at_once(apps):
    """A whole block is written by one client while others change bytes of it: none is mixed up."""
    apps.serve(num_blocks=4, block_size=4096)
    whole, part, reader = (apps.client() for _ in range(3))
    for turn in range(60):
        value = bytes([turn % 255 + 1])
        first = whole.start(Command.WRITE, 0, 0, 0, value * 4096)
        second = part.start(Command.WRITE, 100, 0, 0, b"\xff" * 10)
        assert not whole.wait(first).error
        assert not part.wait(second).error
        data = reader.read(0, 4096)
        # In one order or the other, and nothing of the value before.
        assert data[:100] == value * 100
        assert data[110:] == value * (4096 - 110)
        assert data[100:110] in (b"\xff" * 10, value * 10)
