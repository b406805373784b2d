"""What every bdev module owes: the contract, over the module table and under stacks of passthru.

Method: each case makes one bdev of a kind, through the parameters that its RPC method takes, and
opens it through 0 to 5 vbdevs. A module that gets a row in `MODULES` needs one in `MAKERS` here.
"""

import errno
import uuid

import msgspec
import pytest

from support.stack import Stack, layer
from vbdev.bdev import BdevError, VirtualBdev
from vbdev.modules import MODULES
from vbdev.rpc.bdev_info import describe
from vbdev.vocab import WRITE_OPS, IoFlag, Op, Status

KINDS = {module.kind: module for module in MODULES}
NUM_BLOCKS = 256


def sized(_path):
    return {"num_blocks": NUM_BLOCKS, "block_size": 512}


def file(path):
    path.write_bytes(bytes(NUM_BLOCKS * 4096))
    return {"filename": str(path), "block_size": 512}


MAKERS = {
    "aio": lambda path: {**file(path), "fallocate": True},
    "malloc": sized,
    "null": sized,
    "passthru": lambda _path: {"base_bdev_name": "Below"},
    "uring": file,
}
FORGETFUL = {"null"}
"""Kinds that do not keep what is written."""

HEIGHTS = (0, 1, 2, 3, 4, 5)


@pytest.fixture(params=sorted(KINDS))
def kind(request):
    return request.param


@pytest.fixture
def rig(tmp_path):
    made = Stack(real_clock=True)
    made.path = tmp_path / "disk"
    yield made
    made.close()


def create(stack, kind, name="Disk", **params):
    if kind == "passthru" and stack.registry.find("Below") is None:
        stack.disk(name="Below", num_blocks=NUM_BLOCKS)
    return stack.create(KINDS[kind], name=name, **{**MAKERS[kind](stack.path), **params})


def raised(stack, height, base="Disk"):
    """Stack passthrus and open the highest."""
    for number in range(height):
        stack.layer(name=f"P{number}", base=base)
        base = f"P{number}"
    return stack.open(base)


def test_every_kind_is_here():
    assert set(MAKERS) == set(KINDS), "a module without a row in MAKERS is a module without tests"
    assert all(module.kind.isidentifier() and module.product_name for module in MODULES)


def test_geometry(rig, kind):
    bdev = create(rig, kind)
    assert (bdev.name, bdev.block_size) == ("Disk", 512)
    assert bdev.num_blocks >= NUM_BLOCKS
    assert bdev.size_bytes == bdev.num_blocks * 512
    assert bdev.phys_block_size >= 512
    assert bdev.phys_block_size % 512 == 0
    assert isinstance(bdev.uuid, uuid.UUID)
    assert bdev.aliases == [str(bdev.uuid)]
    assert Op.READ in bdev.ops
    assert bdev.ops <= set(Op)
    assert msgspec.json.encode(describe(bdev))


def valid(op, bdev):
    """Return arguments with which an op must succeed."""
    data = bytearray(4 * 512) if op in (Op.READ, Op.WRITE, Op.COMPARE) else None
    count = 0 if op in (Op.FLUSH, Op.RESET) else 4
    more = {"src_offset_blocks": bdev.num_blocks - 4} if op == Op.COPY else {}
    return (op, 0 if count == 0 else 16, count, data), more


@pytest.mark.parametrize("height", HEIGHTS)
def test_every_op_that_is_named_succeeds(rig, kind, height):
    create(rig, kind)
    top = raised(rig, height)
    bdev = top.descriptor.bdev
    for op in sorted(bdev.ops - {Op.ABORT}):
        args, more = valid(op, bdev)
        request = top.io(*args, **more)
        assert request.status == Status.SUCCESS, (op, request.errno)
        if op == Op.ZCOPY:
            assert sum(len(view) for view in request.zcopy_data) == 4 * 512
            top.zcopy_end(request, commit=False)
            assert request.status == Status.SUCCESS


@pytest.mark.rule("A.9.32")
@pytest.mark.parametrize("height", [0, 2])
def test_ops_that_are_not_named_are_refused(rig, kind, height):
    create(rig, kind)
    top = raised(rig, height)
    for op in set(Op) - top.descriptor.bdev.ops:
        args, more = valid(op, top.descriptor.bdev)
        request = top.io(*args, **more)
        assert (request.status, request.errno) == (Status.FAILED, errno.ENOTSUP), op


@pytest.mark.rule("A.9.23")
@pytest.mark.parametrize("height", [0, 2])
def test_bounds(rig, kind, height):
    create(rig, kind)
    top = raised(rig, height)
    last = top.descriptor.bdev.num_blocks
    for offset, count in ((last, 1), (last - 1, 2), (2**64 - 1, 1), (1, 2**64 - 1)):
        for op in (Op.READ, Op.UNMAP, Op.WRITE_ZEROES, Op.COPY):
            if op in top.descriptor.bdev.ops:
                request = top.io(op, offset, count)
                assert (request.status, request.errno) == (Status.FAILED, errno.EINVAL)
    assert top.io(Op.READ, last - 1, 1, bytearray(512)).status == Status.SUCCESS


@pytest.mark.parametrize("height", HEIGHTS)
def test_data(rig, kind, height):
    """What was written is read, in pieces of any kind and memory of any alignment."""
    create(rig, kind)
    top = raised(rig, height)
    ops = top.descriptor.bdev.ops
    pattern = bytes(n * 7 % 251 for n in range(32 * 512))
    view = memoryview(bytearray(b"?" + pattern))[1:]
    assert top.io(Op.WRITE, 8, 32, [view[:512], view[512:9000], view[9000:]]).status > 0
    expected = bytearray(64 * 512)
    if kind not in FORGETFUL:
        expected[8 * 512 : 40 * 512] = pattern
    for op, offset in ((Op.UNMAP, 10), (Op.WRITE_ZEROES, 20)):
        if op in ops:
            assert top.io(op, offset, 4).status == Status.SUCCESS
            expected[offset * 512 : (offset + 4) * 512] = bytes(4 * 512)
    if Op.COPY in ops:
        assert top.io(Op.COPY, 50, 8, src_offset_blocks=8).status == Status.SUCCESS
        expected[50 * 512 : 58 * 512] = expected[8 * 512 : 16 * 512]
    if Op.FLUSH in ops:
        assert top.io(Op.FLUSH, 0, 0).status == Status.SUCCESS
    got = memoryview(bytearray(64 * 512 + 3))[3:]
    assert top.io(Op.READ, 0, 64, [got[:700], got[700:]]).status == Status.SUCCESS
    assert got == expected
    if Op.COMPARE in ops:
        assert top.io(Op.COMPARE, 0, 64, bytes(expected)).status == Status.SUCCESS
        expected[-1] ^= 1
        assert top.io(Op.COMPARE, 0, 64, bytes(expected)).status == Status.MISCOMPARE


def test_many_at_once(rig, kind):
    """Each of 200 I/Os in flight ends once, with its own data."""
    create(rig, kind)
    top = raised(rig, 1)
    writes = [top.submit(Op.WRITE, n, 1, bytes([n]) * 512) for n in range(200)]
    rig.turn_until(lambda: all(w.done for w in writes))
    buffers = [bytearray(512) for _ in range(200)]
    reads = [top.submit(Op.READ, n, 1, buffers[n]) for n in range(200)]
    rig.turn_until(lambda: all(r.done for r in reads))
    assert {r.status for r in writes + reads} == {Status.SUCCESS}
    if kind not in FORGETFUL:
        assert [b[0] for b in buffers] == [n % 256 for n in range(200)]


def test_abort_ends_once_and_so_does_its_victim(rig, kind):
    create(rig, kind)
    top = raised(rig, 1)
    ended = []
    data = bytearray(512)
    victim = top.submit(Op.READ, 0, 1, data, callback=ended.append)
    abort = top.submit(Op.ABORT, 0, 0, victim=victim, callback=ended.append)
    rig.turn_until(lambda: len(ended) == 2)
    rig.settle()
    assert sorted(map(id, ended)) == sorted(map(id, (victim, abort)))
    if abort.status == Status.SUCCESS:
        assert victim.status == Status.ABORTED
    else:
        # A kernel that says it is too late may call the I/O back all the same.
        assert victim.status in (Status.SUCCESS, Status.ABORTED)


def test_flags_are_kept_or_refused(rig, kind):
    bdev = create(rig, kind)
    top = raised(rig, 1)
    data = bytes(512)
    fua = top.io(Op.WRITE, 0, 1, data, flags=IoFlag.FUA)
    assert fua.errno == (errno.ENOTSUP if bdev.write_cache and not bdev.fua else 0)
    if Op.WRITE_ZEROES in bdev.ops:
        request = top.io(Op.WRITE_ZEROES, 0, 8, flags=IoFlag.NO_HOLE)
        assert request.status == Status.SUCCESS
        request = top.io(Op.WRITE_ZEROES, 0, 8, flags=IoFlag.FAST_ZERO)
        assert request.errno in ((0,) if bdev.fast_zero else (0, errno.ENOTSUP))


@pytest.mark.rule("A.9.2")
def test_a_reader_writes_nothing(rig, kind):
    bdev = create(rig, kind)
    reader = rig.open("Disk", write=False)
    for op in WRITE_OPS & bdev.ops:
        args, more = valid(op, bdev)
        request = reader.io(*args, **more)
        assert (request.status, request.errno) == (Status.FAILED, errno.EBADF), op
    assert reader.io(Op.READ, 0, 1, bytearray(512)).status == Status.SUCCESS


@pytest.mark.parametrize("height", [1, 5])
def test_capabilities_are_the_bases(rig, kind, height):
    base = create(rig, kind)
    top = raised(rig, height).descriptor.bdev
    own = {"name", "aliases", "uuid", "product_name", "claimed", "claim_type", "driver_specific"}
    differing = {key for key, value in describe(top).items() if describe(base).get(key) != value}
    assert differing <= own
    for name in (
        "write_cache",
        "fua",
        "fast_zero",
        "multi_conn",
        "phys_block_size",
        "acwu",
        "required_alignment",
        "optimal_io_boundary",
        "write_unit_size",
    ):
        assert getattr(top, name) == getattr(base, name)


def test_a_layer_that_takes_part_of_the_ops_narrows(rig, kind):
    base = create(rig, kind)
    rig.layer(layer(ops=frozenset({Op.READ, Op.WRITE, Op.ZONE_APPEND})), name="Narrow")
    narrow = rig.registry.find("Narrow")
    assert narrow.ops == {Op.READ, Op.WRITE} & base.ops
    assert rig.open("Narrow").io(Op.FLUSH, 0, 0).errno == errno.ENOTSUP


@pytest.mark.rule("A.22.6")
def test_configuration_makes_the_same_again(rig, kind):
    create(rig, kind)
    raised(rig, 2).close()
    saved, told = rig.registry.config(), [describe(bdev) for bdev in rig.registry]
    assert msgspec.json.decode(msgspec.json.encode(saved)) == saved
    rig.run(rig.registry.close())
    for call in saved:
        module = KINDS[call["method"].removeprefix("bdev_").removesuffix("_create")]
        params = msgspec.convert(call["params"], module.Params)
        rig.run(rig.registry.create(module, params))
    assert rig.registry.config() == saved
    assert [describe(bdev) for bdev in rig.registry] == told


def test_create_and_delete_leave_nothing(rig, kind):
    for _ in range(5):
        create(rig, kind)
        top = raised(rig, 2)
        top.io(Op.READ, 0, 1, bytearray(512))
        rig.delete("Disk")
        assert [bdev.name for bdev in rig.registry] in ([], ["Below"])
        assert rig.descriptors == []
        rig.registry.creations.clear()
        if kind == "passthru":
            rig.delete("Below")
    assert rig.engine.buffers.live_buffers == 0


BAD_SIZES = [
    ("num_blocks", 0),
    ("num_blocks", -1),
    ("num_blocks", 2**60),
    ("block_size", 0),
    ("block_size", -512),
    ("block_size", 513),
    ("block_size", 2**32),
    ("physical_block_size", 1000),
]


@pytest.mark.parametrize("kind", sorted(kind for kind, maker in MAKERS.items() if maker is sized))
@pytest.mark.parametrize(("field", "value"), BAD_SIZES)
def test_sizes_that_make_no_disk(rig, kind, field, value):
    with pytest.raises(BdevError) as caught:
        create(rig, kind, **{field: value})
    assert caught.value.errno == errno.EINVAL
    assert str(value) in str(caught.value)
    assert rig.registry.find("Disk") is None


def test_vbdevs_are_told_from_bdevs():
    assert [m.kind for m in MODULES if issubclass(m, VirtualBdev)] == ["passthru"]
