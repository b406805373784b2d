"""malloc and null with metadata, separate and interleaved, with protection information and without.

Method: every layout that can be made is written, read, damaged, cleared, copied and compared; what
must be in the metadata says the plain-Python twin of the compiled code.
"""

import errno
import itertools
import random

import msgspec
import pytest

from support.dif_twin import Twin
from support.told import describe
from vbdev.bdev import BdevError
from vbdev.core.memory.dif import Dif
from vbdev.modules.malloc import Malloc, online_nodes
from vbdev.modules.null import Null
from vbdev.modules.passthru import Passthru
from vbdev.testing import layer, stack
from vbdev.vocab import DifCheck, Op, Status

GUARD, APPTAG, REFTAG = (2, 0x82), (2, 0x83), (2, 0x84)
COUNT = 24

LAYOUTS = [
    {
        "md_size": md_size,
        "md_interleave": interleave,
        "dif_type": dif_type,
        "dif_is_head_of_md": head,
        "dif_pi_format": pi_format,
        "block_size": 512 if interleave or pi_format == 0 else 4096,
    }
    for dif_type, pi_format, interleave, head, md_size in itertools.product(
        (1, 2, 3), (0, 1, 2), (False, True), (False, True), (8, 16, 64)
    )
    if md_size >= (8, 16, 16)[pi_format] and (dif_type == 1 or md_size == 64)
]


def name_of(layout):
    where = "interleaved" if layout["md_interleave"] else "separate"
    at = "head" if layout["dif_is_head_of_md"] else "tail"
    return (
        f"type{layout['dif_type']}-format{layout['dif_pi_format']}-{where}-{at}-{layout['md_size']}"
    )


layouts = pytest.mark.parametrize("layout", LAYOUTS, ids=name_of)
PLAIN = {"md_size": 16, "md_interleave": False, "dif_type": 0, "block_size": 512}


class Disk:
    """A malloc bdev with metadata and a channel, and what its blocks look like."""

    def __init__(self, made, layout, name="Disk"):
        self.bdev = made.disk(Malloc, name, num_blocks=COUNT, **layout)
        self.opened = made.open(name)
        self.separate = not self.bdev.md_interleave
        self.twin = Twin(
            self.bdev.block_size,
            self.bdev.md_len,
            self.bdev.md_interleave,
            self.bdev.dif_type,
            self.bdev.dif_is_head_of_md,
            self.bdev.dif_check_flags,
            self.bdev.dif_pi_format,
        )

    def blocks(self, offset, count, seed=1, **how):
        """Return (data, md) of blocks with protection information that is right."""
        source = random.Random(seed)
        made = []
        for i in range(count):
            data = source.randbytes(self.twin.data_size)
            md = source.randbytes(self.twin.md_len)
            if self.twin.dif_type:
                md = self.twin.generate(data, md, i, offset, **how)
            made.append((data, md))
        return self.twin.join(made)

    def write(self, offset, blocks, **more):
        data, md = blocks
        return self.opened.io(
            Op.WRITE,
            offset,
            len(data) // self.bdev.block_size,
            cut(data),
            metadata=md if self.separate else None,
            **more,
        )

    def read(self, offset, count, **more):
        """Return (request, (data, md))."""
        data = bytearray(b"\xee" * (count * self.bdev.block_size))
        md = bytearray(count * self.bdev.md_len) if self.separate else None
        third = len(data) // 3
        view = memoryview(data)
        pieces = [view[:third], view[third : third + 1], view[third + 1 :]]
        request = self.opened.io(Op.READ, offset, count, pieces, metadata=md, **more)
        return request, (bytes(data), bytes(md or b""))

    def holds(self, offset, blocks):
        count = len(blocks[0]) // self.bdev.block_size
        request, got = self.read(offset, count)
        assert request.status == Status.SUCCESS
        return got == blocks

    def damaged(self, blocks, index, *, tag=None):
        """Return blocks with one bit of a block's data wrong, or with this reference tag."""
        split = self.twin.blocks(*blocks)
        data, md = split[index]
        if tag is None:
            data = bytes([data[0] ^ 1]) + data[1:]
        else:
            value, app, _ = self.twin.unpack(md)
            pi = self.twin.pack(value, app, tag)
            at = self.twin.pi_at
            md = md[:at] + pi + md[at + len(pi) :]
        split[index] = data, md
        return self.twin.join(split)


def cut(data):
    """Return data in pieces, none of which ends with a block."""
    third = len(data) // 3
    return [data[:third], data[third : third + 1], data[third + 1 :]]


def media_error(request):
    """Return (sct, sc) of an I/O that ended with an NVMe status."""
    assert request.status == Status.NVME_ERROR
    return divmod(request.detail, 256)


@pytest.fixture
def made():
    with stack() as stack_:
        yield stack_


@pytest.fixture
def disk(made, layout):
    return Disk(made, layout)


@pytest.mark.rule("A.19.9", "A.27.1", "A.19.7", "A.19.16")
@layouts
def test_a_new_disk_reads_zeroes_with_valid_protection(disk):
    request, got = disk.read(0, COUNT)
    assert request.status == Status.SUCCESS
    for i, (data, md) in enumerate(disk.twin.blocks(*got)):
        assert not any(data)
        assert disk.twin.verify(data, md, i, 0) is None
        assert disk.twin.generate(data, bytes(len(md)), i, 0, escape=True) == md


@pytest.mark.rule("A.19.6", "A.19.10", "A.19.14", "A.19.17")
@layouts
def test_a_write_is_checked_before_it_is_stored(disk):
    blocks = disk.blocks(5, 9)
    assert disk.write(5, blocks).status == Status.SUCCESS
    assert disk.holds(5, blocks)
    assert media_error(disk.write(5, disk.damaged(blocks, 8))) == GUARD
    other = disk.damaged(disk.blocks(5, 9, seed=2), 3, tag=77)
    request = disk.write(5, other)
    if disk.twin.dif_type == 3:  # says nothing of places
        assert request.status == Status.SUCCESS
        assert disk.holds(5, other)
    else:
        assert media_error(request) == REFTAG
        assert disk.holds(5, blocks)


@pytest.mark.rule("A.19.8", "A.19.10", "A.19.14")
@layouts
def test_a_read_is_checked_and_checks_can_be_left_out(disk):
    blocks = disk.damaged(disk.blocks(3, 4), 2)
    assert disk.write(3, blocks, dif_check_flags_exclude_mask=DifCheck.GUARD).status == 1
    assert media_error(disk.read(3, 4)[0]) == GUARD
    request, got = disk.read(3, 4, dif_check_flags_exclude_mask=DifCheck.GUARD)
    assert request.status == Status.SUCCESS
    assert got == blocks
    assert disk.read(3, 2)[0].status == Status.SUCCESS
    if disk.twin.dif_type != 3:
        tagged = disk.damaged(disk.blocks(3, 4), 1, tag=0)
        assert disk.write(3, tagged, dif_check_flags_exclude_mask=DifCheck.REFTAG).status == 1
        assert media_error(disk.read(3, 4)[0]) == REFTAG
        assert disk.read(3, 4, dif_check_flags_exclude_mask=DifCheck.REFTAG)[0].status == 1


@pytest.mark.rule("A.19.11", "A.27.2")
@layouts
@pytest.mark.parametrize("op", [Op.UNMAP, Op.WRITE_ZEROES], ids=["unmap", "write_zeroes"])
def test_cleared_blocks_are_as_new(disk, op):
    blocks = disk.blocks(0, COUNT)
    assert disk.write(0, blocks).status == Status.SUCCESS
    assert disk.opened.io(op, 6, 11).status == Status.SUCCESS
    request, got = disk.read(0, COUNT)
    assert request.status == Status.SUCCESS
    before = disk.twin.blocks(*blocks)
    for i, (data, md) in enumerate(disk.twin.blocks(*got)):
        if 6 <= i < 17:
            assert not any(data)
            assert md == disk.twin.generate(data, bytes(len(md)), i, 0, escape=True)
        else:
            assert (data, md) == before[i]


@layouts
def test_a_copy_moves_reference_tags_too(disk):
    blocks = disk.blocks(2, 8)
    assert disk.write(2, blocks).status == Status.SUCCESS
    assert disk.opened.io(Op.COPY, 5, 8, src_offset_blocks=2).status == Status.SUCCESS  # overlaps
    request, got = disk.read(5, 8)
    assert request.status == Status.SUCCESS
    want = [
        (data, md if disk.twin.dif_type == 3 else disk.twin.generate(data, md, i, 5))
        for i, (data, md) in enumerate(disk.twin.blocks(*blocks))
    ]
    assert got == disk.twin.join(want)
    # What is wrong is not made right by copying it.
    bad = disk.damaged(disk.blocks(16, 1), 0)
    assert disk.write(16, bad, dif_check_flags_exclude_mask=DifCheck.GUARD).status == 1
    assert media_error(disk.opened.io(Op.COPY, 5, 1, src_offset_blocks=16)) == GUARD
    assert disk.holds(5, got)


@pytest.mark.rule("Dd.10")
@pytest.mark.parametrize("layout", [PLAIN, LAYOUTS[0]], ids=["plain", "protected"])
def test_compare_looks_at_the_metadata_of_every_block(disk):
    data, md = disk.blocks(0, 4)
    assert disk.write(0, (data, md)).status == Status.SUCCESS
    assert disk.opened.io(Op.COMPARE, 0, 4, data).status == Status.SUCCESS
    assert disk.opened.io(Op.COMPARE, 0, 4, data, metadata=md).status == Status.SUCCESS
    for at in (0, len(md) // 2, len(md) - 1):
        wrong = md[:at] + bytes([md[at] ^ 1]) + md[at + 1 :]
        request = disk.opened.io(Op.COMPARE, 0, 4, data, metadata=wrong)
        assert request.status == Status.MISCOMPARE
    assert disk.opened.io(Op.COMPARE, 0, 4, bytes(len(data)), metadata=md).status == -5


@pytest.mark.parametrize("layout", [PLAIN], ids=["plain"])
def test_metadata_without_protection_is_the_users_own(disk):
    blocks = disk.blocks(1, 3)
    assert disk.write(1, blocks).status == Status.SUCCESS
    assert disk.holds(1, blocks)
    # A writer without metadata leaves what is there, a reader without gets its data.
    data, _ = disk.blocks(1, 3, seed=4)
    assert disk.opened.io(Op.WRITE, 1, 3, data).status == Status.SUCCESS
    assert disk.holds(1, (data, blocks[1]))
    got = bytearray(len(data))
    assert disk.opened.io(Op.READ, 1, 3, got).status == Status.SUCCESS
    assert got == data
    assert disk.opened.io(Op.COPY, 8, 3, src_offset_blocks=1).status == Status.SUCCESS
    assert disk.holds(8, (data, blocks[1]))
    assert disk.opened.io(Op.WRITE_ZEROES, 2, 1).status == Status.SUCCESS
    cleared = md_cleared(blocks[1], 16)
    assert disk.read(1, 3)[1][1] == cleared


def md_cleared(md, size):
    return md[:size] + bytes(size) + md[2 * size :]


@pytest.mark.parametrize(
    "layout", [one for one in LAYOUTS if not one["md_interleave"]], ids=name_of
)
def test_a_write_without_separate_metadata_gets_what_belongs_to_it(disk):
    data, _ = disk.blocks(4, 3)
    assert disk.opened.io(Op.WRITE, 4, 3, data).status == Status.SUCCESS
    request, (got, md) = disk.read(4, 3)
    assert request.status == Status.SUCCESS
    assert got == data
    for i, (block, block_md) in enumerate(disk.twin.blocks(got, md)):
        assert not disk.twin.escaped(block_md)
        assert disk.twin.verify(block, block_md, i, 4) is None
    # A reader without metadata is told of damage all the same.
    bad = disk.damaged(disk.blocks(4, 3), 1)
    assert disk.write(4, bad, dif_check_flags_exclude_mask=DifCheck.GUARD).status == 1
    request = disk.opened.io(Op.READ, 4, 3, bytearray(len(data)))
    assert media_error(request) == GUARD


@pytest.mark.rule("A.27.3")
@pytest.mark.parametrize("layout", [PLAIN, LAYOUTS[1]], ids=["plain", "protected"])
def test_zcopy_lends_blocks_with_their_interleaved_metadata(made, layout):
    disk = Disk(made, {**layout, "md_interleave": True})
    blocks = disk.blocks(3, 2)
    request = disk.opened.io(Op.ZCOPY, 3, 2)
    (view,) = request.zcopy_data
    assert len(view) == 2 * disk.bdev.block_size
    view[:] = blocks[0]
    disk.opened.zcopy_end(request, commit=True)
    assert disk.holds(3, blocks)


@pytest.mark.rule("A.19.5", "A.21.4", "A.21.5", "D.19", "A.19.8")
@layouts
def test_what_the_control_plane_says(made, layout):
    made.disk(Malloc, "Disk", num_blocks=COUNT, **layout)
    made.layer(Passthru)
    for name in ("Disk", "Top"):
        info = describe(made.registry.get(name))
        whole = layout["block_size"] + (layout["md_size"] if layout["md_interleave"] else 0)
        assert info["block_size"] == whole
        assert made.registry.get(name).data_block_size == layout["block_size"]
        assert made.registry.get(name).phys_block_size == layout["block_size"]
        fields = [
            "uuid",
            "numa_id",
            "md_size",
            "md_interleave",
            "dif_type",
            "dif_is_head_of_md",
            "enabled_dif_check_types",
            "dif_pi_format",
            "assigned_rate_limits",
        ]
        at = list(info).index("uuid")
        assert list(info)[at : at + len(fields)] == fields
        for field in ("md_size", "md_interleave", "dif_type", "dif_is_head_of_md"):
            assert info[field] == layout[field]
        assert info["dif_pi_format"] == layout["dif_pi_format"]
        assert info["enabled_dif_check_types"] == {
            "reftag": layout["dif_type"] != 3,
            "apptag": False,
            "guard": True,
        }


def test_fields_of_metadata_are_there_with_metadata_only(made):
    info = describe(made.disk(Malloc, "Bare"))
    assert not [key for key in info if key.startswith(("md_", "dif_", "enabled_dif"))]
    plain = describe(made.disk(Malloc, "Plain", **{**PLAIN, "num_blocks": 8}))
    assert plain["md_size"] == 16
    assert [key for key in plain if key.startswith(("dif_", "enabled_dif"))] == ["dif_type"]


def load(made, cls, saved):
    """Create a bdev from its saved configuration."""
    params = msgspec.convert(saved, cls.Params)
    return made.registry.find(made.run(made.registry.create(cls, params)))


@pytest.mark.rule("Dd.9", "A.22.9")
@layouts
def test_a_saved_disk_is_made_again_as_it_was(made, layout):
    first = made.disk(Malloc, "Disk", num_blocks=COUNT, **layout)
    before, saved = describe(first), first.config_params()
    made.delete("Disk")
    again = load(made, Malloc, saved)
    assert describe(again) == before
    assert again.config_params() == saved


@pytest.mark.rule("D.18", "A.19.1")
def test_checks_and_metadata_travel_through_layers(made):
    layout = {**LAYOUTS[0], "md_interleave": False}
    disk = Disk(made, layout)
    bad = disk.damaged(disk.blocks(3, 2), 1)
    made_over = [made.layer(Passthru, "P0"), made.layer(Passthru, "P1", base="P0")]
    disk.opened.close()
    disk.opened = made.open("P1")
    assert [layer.md_len for layer in made_over] == [layout["md_size"]] * 2
    assert media_error(disk.write(3, bad)) == GUARD
    assert disk.write(3, bad, dif_check_flags_exclude_mask=DifCheck.GUARD).status == 1
    assert media_error(disk.read(3, 2)[0]) == GUARD
    request, got = disk.read(3, 2, dif_check_flags_exclude_mask=DifCheck.GUARD)
    assert request.status == Status.SUCCESS
    assert got == bad


class BlockByBlock(Passthru):
    """Splits what is longer than a block."""

    kind = "block_by_block"

    def inherit(self):
        super().inherit()
        self.max_rw_size = 1


@pytest.mark.parametrize("interleaved", [False, True])
def test_checks_are_left_out_of_each_piece(made, interleaved):
    disk = Disk(made, {**LAYOUTS[0], "md_interleave": interleaved})
    bad = disk.damaged(disk.damaged(disk.blocks(3, 4), 1), 3)
    made.layer(BlockByBlock, "P0")
    disk.opened.close()
    disk.opened = made.open("P0")
    assert media_error(disk.write(3, bad)) == GUARD
    assert disk.write(3, bad, dif_check_flags_exclude_mask=DifCheck.GUARD).status == 1
    assert media_error(disk.read(3, 4)[0]) == GUARD
    request, got = disk.read(3, 4, dif_check_flags_exclude_mask=DifCheck.GUARD)
    assert request.status == Status.SUCCESS
    assert got == bad


@pytest.mark.parametrize("cls", [Malloc, Null], ids=["malloc", "null"])
@pytest.mark.parametrize(
    ("params", "what"),
    [
        ({"md_size": 7}, "md_size 7 is none of"),
        ({"md_size": 256}, "md_size 256 is none of"),
        ({"dif_type": 4, "md_size": 8}, "dif_type 4 is none of"),
        ({"dif_type": -1, "md_size": 8}, "dif_type -1 is none of"),
        ({"dif_type": 1}, "needs metadata, and md_size is 0"),
        ({"dif_type": 1, "md_size": 8, "dif_pi_format": 1}, "16 bytes"),
        ({"dif_type": 1, "md_size": 16, "dif_pi_format": 3}, "dif_pi_format 3"),
        ({"block_size": 520, "md_size": 8}, "block_size 520 is no multiple"),
        ({"num_blocks": 2**53, "block_size": 1024, "md_size": 8}, "are more than"),
    ],
)
def test_metadata_that_can_not_be_is_refused(made, cls, params, what):
    how = {"num_blocks": 8, "block_size": 512, **params}
    if cls is Malloc:
        how["md_interleave"] = True
    with pytest.raises(BdevError, match=what) as raised:
        made.disk(cls, "Bad", **how)
    too_large = cls is Malloc and what == "are more than"
    assert raised.value.errno == (errno.ENOMEM if too_large else errno.EINVAL)
    assert made.registry.find("Bad") is None


def test_separate_metadata_with_a_wide_guard_takes_blocks_of_4096(made):
    with pytest.raises(BdevError, match="a multiple of 4096") as raised:
        made.disk(Malloc, md_size=16, dif_type=1, dif_pi_format=2, block_size=512)
    assert raised.value.errno == errno.EINVAL


@pytest.mark.rule("A.21.3")
def test_numa_id(made):
    node = online_nodes()[0]
    info = describe(made.disk(Malloc, "Node", numa_id=node))
    assert info["numa_id"] == node
    assert describe(made.disk(Malloc, "Any"))["numa_id"] == -1  # any node, as SPDK tells it
    assert "numa_id" not in describe(made.disk(Null, "None"))
    assert made.layer(Passthru, "Over", base="Node").numa_id == node
    absent = max(online_nodes()) + 1
    for wrong in (absent, -2):
        with pytest.raises(BdevError, match=f"numa_id is {wrong}") as raised:
            made.disk(Malloc, "Wrong", numa_id=wrong)
        assert raised.value.errno == errno.EINVAL


NULL_LAYOUTS = [
    {key: value for key, value in one.items() if key != "md_interleave"}
    for one in LAYOUTS
    if one["md_interleave"]
]


def null_dif(bdev):
    return Dif(
        block_size=bdev.block_size,
        md_len=bdev.md_len,
        md_interleave=True,
        dif_type=bdev.dif_type,
        dif_is_head_of_md=bdev.dif_is_head_of_md,
        dif_check_flags=bdev.dif_check_flags,
        dif_pi_format=bdev.dif_pi_format,
    )


@pytest.mark.rule("A.19.12", "A.19.14")
@pytest.mark.parametrize(
    "layout", NULL_LAYOUTS, ids=lambda one: name_of({**one, "md_interleave": 1})
)
def test_null_makes_protection_on_read_and_checks_it_on_write(made, layout):
    bdev = made.disk(Null, "Null", num_blocks=COUNT, **layout)
    assert bdev.md_interleave
    assert bdev.block_size == layout["block_size"] + layout["md_size"]
    opened = made.open("Null")
    dif = null_dif(bdev)
    data = bytearray(b"\xee" * (3 * bdev.block_size))
    assert opened.io(Op.READ, 7, 3, data).status == Status.SUCCESS
    assert dif.verify(data, num_blocks=3, ref_tag=7) is None
    strip = bytearray(3 * layout["block_size"])
    assert dif.strip(data, strip, num_blocks=3, ref_tag=7) is None
    assert not any(strip)  # nothing of what was in the memory before
    assert opened.io(Op.WRITE, 7, 3, data).status == Status.SUCCESS
    wrong = opened.io(Op.WRITE, 8, 3, data)
    assert wrong.status == 1 if bdev.dif_type == 3 else media_error(wrong) == REFTAG
    data[bdev.block_size] ^= 1
    assert media_error(opened.io(Op.WRITE, 7, 3, data)) == GUARD
    exclude = {"dif_check_flags_exclude_mask": DifCheck.GUARD}
    assert opened.io(Op.WRITE, 7, 3, data, **exclude).status == Status.SUCCESS
    # Without a buffer of its own a reader gets blocks that pass the checks too.
    bare = opened.io(Op.READ, 7, 3)
    assert bare.status == Status.SUCCESS


@pytest.mark.rule("A.27.6")
def test_null_with_metadata_but_no_protection_gives_zeroes(made):
    bdev = made.disk(Null, "Null", md_size=8)
    assert (bdev.block_size, bdev.gives_read_buffers) == (520, True)
    opened = made.open("Null")
    untouched = bytearray(b"\xee" * 520)
    assert opened.io(Op.READ, 0, 1, untouched).status == Status.SUCCESS
    assert untouched == b"\xee" * 520
    assert opened.io(Op.WRITE, 0, 1, untouched).status == Status.SUCCESS


async def needs_alignment(self):
    self.required_alignment = 9


def test_null_gives_away_nothing_that_was_in_a_pools_buffer(made):
    made.disk(Null, "Null")
    made.layer(layer(kind="aligned", start=needs_alignment), base="Null")
    opened = made.open("Top")
    secret = memoryview(bytearray(b"x" + b"secret!!" * 64))[1:]
    assert opened.io(Op.WRITE, 0, 1, [secret]).status == Status.SUCCESS
    got = memoryview(bytearray(b"\xee" * 513))[1:]
    assert opened.io(Op.READ, 0, 1, [got]).status == Status.SUCCESS
    assert not any(got)


@pytest.mark.rule("Dd.9", "A.27.10")
def test_null_is_saved_with_metadata_and_the_size_it_has_now(made):
    first = made.disk(Null, "Null", num_blocks=4032, md_size=8, dif_type=1)
    first.notify_blockcnt_change(8064)
    before, saved = describe(first), first.config_params()
    made.delete("Null")
    assert describe(load(made, Null, saved)) == before
    assert before["num_blocks"] == 8064


def test_a_short_buffer_below_a_module_that_lies_is_refused(made):
    """Whoever hands down less data than the blocks need gets EINVAL, and nothing is read behind."""
    bdev = made.disk(Null, "Null", md_size=8, dif_type=1)
    opened = made.open("Null")
    bdev.block_size = 512  # the channel's checks are older than this
    bdev.notify_blockcnt_change(2048)
    request = opened.io(Op.WRITE, 0, 1, bytes(512))
    assert (request.status, request.errno) == (Status.FAILED, errno.EINVAL)
