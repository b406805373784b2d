"""Channels that see data blocks only: metadata is made on write, checked and stripped on read.

Method: what is written through a descriptor that hides metadata is read through one that does not,
and the other way round; the plain-Python twin says what must be in between.
"""

import errno
import random

import pytest

from support.dif_twin import Twin
from vbdev.bdev import BdevError
from vbdev.bdev.entry import entry_of
from vbdev.modules.malloc import Malloc
from vbdev.modules.null import Null
from vbdev.modules.passthru import Passthru
from vbdev.testing import Stub, layer, stack
from vbdev.vocab import DifCheck, IoFlag, Op, Status

GUARD, REFTAG = (2, 0x82), (2, 0x84)
COUNT = 32
KINDS = {
    "exact16": {"md_size": 8, "dif_type": 1},
    "exact32": {"md_size": 16, "dif_type": 2, "dif_pi_format": 1},
    "exact64": {"md_size": 16, "dif_type": 3, "dif_pi_format": 2},
    "tail": {"md_size": 64, "dif_type": 1, "dif_pi_format": 2},
    "head": {"md_size": 32, "dif_type": 1, "dif_is_head_of_md": True},
}
kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def made():
    with stack() as stack_:
        yield stack_


def disk(made, kind, cls=Malloc, name="Disk", **more):
    how = {"num_blocks": COUNT, "block_size": 512, **KINDS[kind], **more}
    if cls is Malloc:
        how["md_interleave"] = True
    return made.disk(cls, name, **how)


def twin_of(bdev):
    return Twin(
        bdev.block_size,
        bdev.md_len,
        bdev.md_interleave,
        bdev.dif_type,
        bdev.dif_is_head_of_md,
        bdev.dif_check_flags,
        bdev.dif_pi_format,
    )


def media_error(request):
    assert request.status == Status.NVME_ERROR
    return divmod(request.detail, 256)


def noise(blocks, seed=1):
    return random.Random(seed).randbytes(blocks * 512)


def cut(data):
    """Three pieces that end inside of blocks."""
    return [data[:700], data[700:701], data[701:]]


def read(opened, offset, count, size=512, **more):
    data = bytearray(b"\xee" * (count * size))
    view = memoryview(data)
    pieces = [view[: size // 3], view[size // 3 : size], view[size:]]
    return opened.io(Op.READ, offset, count, pieces, **more), bytes(data)


@pytest.mark.rule("A.19.13", "E.bdev_ut.open_ext_v2_test", "E.bdev_ut.bdev_io_init_dif_ctx_test")
@kinds
def test_what_is_hidden_is_made_and_checked(made, kind):
    bdev = disk(made, kind)
    hidden, plain = made.open("Disk", hide_metadata=True), made.open("Disk")
    assert (hidden.descriptor.block_size, plain.descriptor.block_size) == (512, bdev.block_size)
    assert hidden.descriptor.size_bytes == COUNT * 512
    twin, data = twin_of(bdev), noise(6)
    assert hidden.io(Op.WRITE, 5, 6, cut(data)).status == Status.SUCCESS
    request, got = read(hidden, 5, 6)
    assert request.status == Status.SUCCESS
    assert got == data
    _, blocks = read(plain, 5, 6, bdev.block_size)
    for i, (block, md) in enumerate(twin.blocks(blocks, b"")):
        assert block == data[i * 512 : (i + 1) * 512]
        assert md == twin.generate(block, bytes(bdev.md_len), i, 5)

    # New blocks, whose tags switch checking off, are zeroes.
    request, got = read(hidden, 20, 3)
    assert (request.status, got) == (Status.SUCCESS, bytes(3 * 512))

    # Damage that went past the checks is found, unless that check is left out.
    bad = bytearray(blocks)
    bad[bdev.block_size * 2] ^= 1
    exclude = {"dif_check_flags_exclude_mask": DifCheck.GUARD}
    assert plain.io(Op.WRITE, 5, 6, bad, **exclude).status == Status.SUCCESS
    assert media_error(read(hidden, 5, 6)[0]) == GUARD
    request, got = read(hidden, 5, 6, **exclude)
    assert request.status == Status.SUCCESS
    assert got[:1024] == data[:1024]


@pytest.mark.rule("E.bdev_ut.bdev_io_dif_error_status_test", "A.19.14")
def test_the_channel_itself_checks_what_a_base_let_pass(made):
    """A base that verifies nothing: the channel does, and says which check failed."""
    bdev = disk(made, "exact16", Stub, "Stub")
    hidden = made.open("Stub", hide_metadata=True)
    twin = twin_of(bdev)
    blocks = [(noise(1, i), bytes(8)) for i in range(3)]
    blocks = [(d, twin.generate(d, m, i, 4)) for i, (d, m) in enumerate(blocks)]

    def answer(index=None, **wrong):
        changed = list(blocks)
        if index is not None:
            data, md = changed[index]
            guard_, app, ref = twin.unpack(md)
            pi = twin.pack(wrong.get("guard", guard_), wrong.get("app", app), wrong.get("ref", ref))
            changed[index] = data, pi
        data = bytearray(3 * 512)
        request = hidden.submit(Op.READ, 4, 3, data)
        made.settle()
        (one,) = bdev.held
        (view,) = one.data()
        assert len(view) == 3 * 520
        view[:] = twin.join(changed)[0]
        bdev.complete()
        made.settle()
        return request, bytes(data)

    request, got = answer()
    assert request.status == Status.SUCCESS
    assert got == b"".join(d for d, _ in blocks)
    assert media_error(answer(2, guard=1)[0]) == GUARD
    assert media_error(answer(1, ref=6)[0]) == REFTAG
    assert answer(1, app=7)[0].status == Status.SUCCESS  # not checked here
    assert answer(0, app=0xFFFF, ref=77, guard=5)[0].status == Status.SUCCESS  # the escape
    bdev.dif_check_flags = int(DifCheck.APPTAG)
    entry_of(bdev).reconfigure(hidden.channel)
    assert media_error(answer(1, app=7)[0]) == (2, 0x83)
    # What failed below is passed on as it is, and nothing is written into the reader's memory.
    data = bytearray(b"\xee" * 512)
    request = hidden.submit(Op.READ, 0, 1, data)
    made.settle()
    bdev.complete(status=Status.AIO_ERROR, errno=errno.EIO)
    made.settle()
    assert (request.status, request.errno, data) == (-8, errno.EIO, b"\xee" * 512)


@kinds
def test_reads_without_a_buffer(made, kind):
    disk(made, kind)
    hidden = made.open("Disk", hide_metadata=True)
    assert hidden.io(Op.WRITE, 1, 2, noise(2)).status == Status.SUCCESS
    assert hidden.io(Op.READ, 1, 2).status == Status.SUCCESS


@kinds
def test_other_types_through_a_descriptor_that_hides_metadata(made, kind):
    disk(made, kind)
    hidden = made.open("Disk", hide_metadata=True)
    data = noise(8)
    assert hidden.io(Op.WRITE, 2, 8, data).status == Status.SUCCESS
    assert hidden.io(Op.COMPARE, 2, 8, cut(data)).status == Status.SUCCESS
    other = bytearray(data)
    other[-1] ^= 1
    assert hidden.io(Op.COMPARE, 2, 8, other).status == Status.MISCOMPARE
    assert hidden.io(Op.COMPARE, 20, 2, bytes(1024)).status == Status.SUCCESS  # new blocks
    assert hidden.io(Op.COPY, 20, 8, src_offset_blocks=2).status == Status.SUCCESS
    assert read(hidden, 20, 8) == (Succeeded(), data)
    assert hidden.io(Op.WRITE_ZEROES, 21, 2).status == Status.SUCCESS
    assert hidden.io(Op.UNMAP, 24, 2).status == Status.SUCCESS
    want = bytearray(data)
    want[512 : 3 * 512] = want[4 * 512 : 6 * 512] = bytes(1024)
    assert read(hidden, 20, 8) == (Succeeded(), want)
    assert hidden.io(Op.FLUSH, 0, COUNT).status == Status.SUCCESS
    assert hidden.io(Op.RESET, 0, 0).status == Status.SUCCESS
    # Memory that is lent would have metadata in it.
    request = hidden.io(Op.ZCOPY, 0, 1)
    assert (request.status, request.errno) == (Status.FAILED, errno.ENOTSUP)


class Succeeded:
    """Equal to any request that succeeded."""

    def __eq__(self, request):
        return request.status == Status.SUCCESS

    __hash__ = None


def emulating(ops):
    """A layer whose channel has to do what its base could."""
    return layer(kind="narrow", ops=frozenset(ops))


@kinds
@pytest.mark.parametrize("hide", [False, True], ids=["plain", "hidden"])
def test_emulations_keep_protection_valid(made, kind, hide):
    bdev = disk(made, kind)
    made.layer(emulating({Op.READ, Op.WRITE}), "Top")
    top, plain = made.open("Top", hide_metadata=hide), made.open("Disk", write=False)
    size = 512 if hide else bdev.block_size
    twin = twin_of(bdev)
    made_blocks = [(noise(1, i), bytes(bdev.md_len)) for i in range(4)]
    blocks, _ = twin.join([(d, twin.generate(d, m, i, 2)) for i, (d, m) in enumerate(made_blocks)])
    data = b"".join(d for d, _ in made_blocks)
    assert top.io(Op.WRITE, 2, 4, data if hide else blocks).status == Status.SUCCESS
    assert top.io(Op.COPY, 9, 4, src_offset_blocks=2).status == Status.SUCCESS
    assert top.io(Op.WRITE_ZEROES, 3, 2).status == Status.SUCCESS
    assert top.io(Op.COMPARE, 9, 1, (data if hide else read(top, 9, 1, size)[1])[:size]).status == 1
    for offset, wanted in ((9, data), (2, data[:512] + bytes(1024) + data[1536:])):
        request, got = read(plain, offset, 4, bdev.block_size)
        assert request.status == Status.SUCCESS
        for i, (block, md) in enumerate(twin.blocks(got, b"")):
            assert block == wanted[i * 512 : (i + 1) * 512]
            assert not twin.escaped(md)
            assert twin.verify(block, md, i, offset) is None


@pytest.mark.rule("A.19.6", "A.24.1", "A.24.2", "A.24.4", "A.24.7")
@pytest.mark.parametrize("dif_type", [0, 1])
def test_emulations_write_separate_metadata_too(made, dif_type):
    bdev = made.disk(Malloc, "Disk", num_blocks=COUNT, block_size=512, md_size=8, dif_type=dif_type)
    made.layer(emulating({Op.READ, Op.WRITE}), "Top")
    top = made.open("Top")
    twin = twin_of(bdev)
    blocks = [(noise(1, i), random.Random(i).randbytes(8)) for i in range(4)]
    if dif_type:
        blocks = [(d, twin.generate(d, m, i, 2)) for i, (d, m) in enumerate(blocks)]
    data, md = twin.join(blocks)

    def holds(offset):
        got, got_md = bytearray(4 * 512), bytearray(4 * 8)
        assert top.io(Op.READ, offset, 4, got, metadata=got_md).status == Status.SUCCESS
        return bytes(got), bytes(got_md)

    assert top.io(Op.WRITE, 2, 4, data, metadata=md).status == Status.SUCCESS
    assert top.io(Op.COPY, 9, 4, src_offset_blocks=2).status == Status.SUCCESS
    got, got_md = holds(9)
    assert got == data
    for i, (block, block_md) in enumerate(twin.blocks(got, got_md)):
        want = twin.generate(block, bytes(8), i, 9) if dif_type else blocks[i][1]
        assert block_md == want
    assert top.io(Op.COMPARE, 2, 4, data, metadata=md).status == Status.SUCCESS
    wrong = md[:-1] + bytes([md[-1] ^ 1])
    assert top.io(Op.COMPARE, 2, 4, data, metadata=wrong).status == Status.MISCOMPARE
    assert top.io(Op.WRITE_ZEROES, 2, 4).status == Status.SUCCESS
    got, got_md = holds(2)
    assert got == bytes(4 * 512)
    if not dif_type:
        assert got_md == bytes(32)


@pytest.mark.rule("A.11.15")
@kinds
@pytest.mark.parametrize("hide", [False, True], ids=["plain", "hidden"])
def test_split_io_is_converted_piece_by_piece(made, kind, hide):
    bdev = disk(made, kind, optimal_io_boundary=4)
    opened = made.open("Disk", hide_metadata=hide)
    twin, size = twin_of(bdev), 512 if hide else bdev.block_size
    made_blocks = [(noise(1, i), bytes(bdev.md_len)) for i in range(14)]
    blocks, _ = twin.join([(d, twin.generate(d, m, i, 3)) for i, (d, m) in enumerate(made_blocks)])
    data = b"".join(d for d, _ in made_blocks) if hide else blocks
    assert opened.io(Op.WRITE, 3, 14, cut(data)).status == Status.SUCCESS
    assert read(opened, 3, 14, size) == (Succeeded(), data)
    assert opened.channel.stats()["write"][0] == 5


@pytest.mark.rule("A.11.16", "A.11.19")
def test_separate_metadata_is_split_along(made):
    bdev = made.disk(
        Malloc,
        "Disk",
        num_blocks=COUNT,
        block_size=512,
        md_size=8,
        dif_type=1,
        optimal_io_boundary=4,
    )
    opened, twin = made.open("Disk"), twin_of(bdev)
    blocks = [(noise(1, i), bytes(8)) for i in range(14)]
    data, md = twin.join([(d, twin.generate(d, m, i, 3)) for i, (d, m) in enumerate(blocks)])
    assert opened.io(Op.WRITE, 3, 14, cut(data), metadata=md).status == Status.SUCCESS
    got, got_md = bytearray(len(data)), bytearray(len(md))
    assert opened.io(Op.READ, 3, 14, got, metadata=got_md).status == Status.SUCCESS
    assert (got, got_md) == (data, md)
    assert opened.channel.stats()["write"][0] == 5


@pytest.mark.rule("E.bdev_ut.bdev_io_ext_bounce_buffer", "A.12.5")
def test_separate_metadata_is_bounced_along_with_its_data(made):
    bdev = made.disk(Malloc, "Disk", num_blocks=COUNT, block_size=512, md_size=8, dif_type=1)
    made.layer(layer(kind="aligned", start=needs_alignment), "Top")
    top, twin = made.open("Top"), twin_of(bdev)
    blocks = [(noise(1, i), bytes(8)) for i in range(6)]
    data, md = twin.join([(d, twin.generate(d, m, i, 3)) for i, (d, m) in enumerate(blocks)])
    odd = memoryview(bytearray(b"x" + data))[1:]
    assert top.io(Op.WRITE, 3, 6, [odd], metadata=md).status == Status.SUCCESS
    got, got_md = bytearray(len(data) + 1), bytearray(len(md))
    view = memoryview(got)[1:]
    assert top.io(Op.READ, 3, 6, [view], metadata=got_md).status == Status.SUCCESS
    assert (view, got_md) == (data, md)


async def needs_alignment(self):
    self.required_alignment = 9


@pytest.mark.rule("A.19.15", "A.9.28")
def test_pract(made):
    """The flag hides metadata for one I/O, where protection information is all of it."""
    bdev = disk(made, "exact16")
    opened, data = made.open("Disk"), noise(3)
    assert opened.io(Op.WRITE, 7, 3, data, flags=IoFlag.PRACT).status == Status.SUCCESS
    assert read(opened, 7, 3, flags=IoFlag.PRACT) == (Succeeded(), data)
    assert opened.io(Op.COMPARE, 7, 3, data, flags=IoFlag.PRACT).status == Status.SUCCESS
    twin = twin_of(bdev)
    _, blocks = read(opened, 7, 3, 520)
    for i, (block, md) in enumerate(twin.blocks(blocks, b"")):
        assert md == twin.generate(block, bytes(8), i, 7)

    def refused(name, size):
        request = made.open(name).io(Op.WRITE, 0, 1, bytes(size), flags=IoFlag.PRACT)
        return request.status == Status.FAILED and request.errno == errno.ENOTSUP

    disk(
        made, "tail", name="More"
    )  # there is other metadata, which would have to come from somewhere
    assert refused("More", 576)
    made.disk(Malloc, "Separate", num_blocks=COUNT, block_size=512, md_size=8, dif_type=1)
    assert refused("Separate", 512)
    both = {"metadata": bytes(8), "flags": IoFlag.PRACT}
    request = made.open("Separate").io(Op.WRITE, 0, 1, bytes(512), **both)
    assert (request.status, request.errno) == (Status.FAILED, errno.ENOTSUP)
    made.disk(Malloc, "Bare")  # nothing to be made: the flag means nothing
    assert made.open("Bare").io(Op.WRITE, 0, 1, bytes(512), flags=IoFlag.PRACT).status == 1


@pytest.mark.rule("E.bdev_ut.open_ext_v2_test", "A.2.8", "A.2.9", "A.9.25", "A.9.28")
def test_metadata_that_can_not_be_hidden(made):
    made.disk(Malloc, "Separate", num_blocks=COUNT, block_size=512, md_size=8)
    with pytest.raises(BdevError, match="can not be hidden: it is separate") as raised:
        made.open("Separate", hide_metadata=True)
    assert raised.value.errno == errno.EINVAL
    made.disk(Malloc, "Bare")
    bare = made.open("Bare", hide_metadata=True)
    assert bare.descriptor.block_size == 512
    assert bare.io(Op.WRITE, 0, 1, noise(1)).status == Status.SUCCESS
    request = bare.io(Op.ZCOPY, 0, 1)
    assert request.status == Status.SUCCESS
    bare.zcopy_end(request, commit=False)
    disk(made, "exact16")
    with pytest.raises(ValueError, match="without separate metadata"):
        made.open("Disk", hide_metadata=True).io(Op.WRITE, 0, 1, bytes(512), metadata=bytes(8))


def test_metadata_without_protection_is_hidden_too(made):
    bdev = made.disk(Malloc, "Disk", num_blocks=8, block_size=512, md_size=16, md_interleave=True)
    hidden, plain = made.open("Disk", hide_metadata=True), made.open("Disk")
    assert plain.io(Op.WRITE, 1, 1, b"\xaa" * bdev.block_size).status == Status.SUCCESS
    assert read(hidden, 1, 1) == (Succeeded(), b"\xaa" * 512)
    assert hidden.io(Op.WRITE, 1, 1, noise(1)).status == Status.SUCCESS
    assert read(plain, 1, 1, 528) == (Succeeded(), noise(1) + bytes(16))


def test_null_with_hidden_metadata(made):
    disk(made, "exact64", Null, "Null")
    hidden = made.open("Null", hide_metadata=True)
    assert read(hidden, 3, 4) == (Succeeded(), bytes(2048))
    assert hidden.io(Op.WRITE, 3, 4, noise(4)).status == Status.SUCCESS


def test_hidden_io_waits_for_memory_and_can_be_tried_again(made):
    """The module has no room: the blocks that were made stay as they are until it has."""
    bdev = disk(made, "exact16", Stub, "Stub")
    hidden = made.open("Stub", hide_metadata=True)
    data = noise(2)
    request = hidden.submit(Op.WRITE, 3, 2, data)
    made.settle()
    (before,) = [bytes(view) for view in bdev.held[0].data()]
    bdev.complete(status=Status.NOMEM)
    made.pass_time(20_000)
    made.settle()
    assert [bytes(view) for view in bdev.held[0].data()] == [before]
    bdev.complete()
    made.settle()
    assert request.status == Status.SUCCESS
    assert bdev.arrived == [(Op.WRITE, 3, 2)] * 2


@pytest.mark.rule("D.16", "A.12.6")
def test_all_memory_lent():
    """Conversions wait for memory in line, and all end."""
    with stack(buffer_limit_bytes=64 << 10) as small:
        disk(small, "exact16", num_blocks=4096)
        hidden = small.open("Disk", hide_metadata=True)
        data = noise(16)
        requests = [hidden.submit(Op.WRITE, 16 * i, 16, data) for i in range(32)]
        small.settle()
        assert {r.status for r in requests} == {Status.SUCCESS}
        requests = [hidden.submit(Op.READ, 16 * i, 16) for i in range(32)]
        small.settle()
        assert {r.status for r in requests} == {Status.SUCCESS}
        assert read(hidden, 16 * 31, 16) == (Succeeded(), data)
        # More than any buffer holds fails, and does not wait for ever.
        request = hidden.io(Op.READ, 0, 256)
        assert request.status == Status.FAILED


@kinds
def test_through_layers(made, kind):
    disk(made, kind)
    made.layer(Passthru, "P0")
    made.layer(Passthru, "P1", base="P0")
    top = made.open("P1", hide_metadata=True)
    data = noise(5)
    assert top.io(Op.WRITE, 4, 5, data).status == Status.SUCCESS
    assert read(top, 4, 5) == (Succeeded(), data)
    assert read(made.open("Disk", hide_metadata=True, write=False), 4, 5) == (Succeeded(), data)
