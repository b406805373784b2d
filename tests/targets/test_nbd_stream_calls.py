"""What a stream costs its reactor, and when it calls back."""

from support.nbd_client import header
from support.stream_rig import StreamRig
from vbdev.core.engine.requests import Requests
from vbdev.core.nbd.server.stream import NbdStream
from vbdev.vocab import Op
from vbdev.wire.nbd import Command, encode_chunk_error

KIB = 1 << 10
MIB = 1 << 20
DISK_BLOCKS = 8192


def test_the_payload_of_a_refused_write_is_skipped_in_large_parts():
    """Behind a large WRITE a stream expects another one, and receives only its header."""
    rig = StreamRig(num_blocks=DISK_BLOCKS)
    rig.connect()
    whole, refused = (header(Command.WRITE, n, n * DISK_BLOCKS * 512, MIB) for n in range(2))
    for message in (whole, refused):
        rig.expect(message)
        assert not rig.feed(message + bytes(MIB))
        calls = rig.stream.receives
    rig.pump()
    assert len(rig.replies()) == 2
    assert calls < 50
    rig.close()


def tell(rig, on_change):
    """Give the rig a stream that tells of changes."""
    rig.stream.close()
    rig.stream = NbdStream(
        rig.engine,
        rig.channel,
        rig.far.fileno(),
        transmission_flags=0x1FF,
        structured=True,
        nbd_error=lambda _status, _number: 5,
        on_change=on_change,
    )


def test_nobody_is_told_of_a_change_within_a_call_of_their_own():
    rig = StreamRig(num_blocks=DISK_BLOCKS, pool_size=8)
    rig.connect(structured=True)
    told = []
    tell(rig, lambda: told.append(rig.stream.starved))
    small = [header(Command.READ, n, 0, 512) for n in range(9)]
    piece = [header(Command.BLOCK_STATUS, 9, 0, 512), header(Command.READ, 10, 0, 256 * KIB)]
    rig.near.send(b"".join([*small, *piece, *small]))
    rig.stream.receive()
    assert rig.stream.starved
    rig.engine.drain()
    told.clear()
    rig.stream.resume()
    assert rig.stream.batches > 2  # a piece was answered within the call
    assert told == []
    rig.pump()
    rig.close()


def test_an_answer_of_pythons_among_others_does_not_end_the_call_that_it_comes_in():
    rig = StreamRig(num_blocks=DISK_BLOCKS)
    rig.connect(structured=True)
    told = []
    tell(rig, lambda: told.append(True))
    reads = [header(Command.READ, n, 0, 512) for n in range(40)]
    rig.near.send(header(Command.BLOCK_STATUS, 40, 0, 512) + b"".join(reads))
    requests = Requests(rig.engine)
    answer = encode_chunk_error(40, 22, "")
    requests.submit(
        rig.channel, Op.FLUSH, 0, 0, callback=lambda _request: rig.stream.reply_raw(answer)
    )
    rig.stream.receive()
    assert rig.stream.batches > 1
    assert rig.stream.take_specials()
    assert told == []
    rig.pump()
    requests.close()
    rig.close()
