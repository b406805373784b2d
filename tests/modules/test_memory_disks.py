"""Fine points of malloc and null that have nothing to do with metadata."""

import errno
import gc
import os
from pathlib import Path

import pytest

from support.told import describe
from vbdev.bdev import BdevError, BdevEvent
from vbdev.modules import malloc
from vbdev.modules.malloc import Malloc
from vbdev.modules.null import Null
from vbdev.modules.passthru import Passthru
from vbdev.testing import Stack, Stub, layer, stack
from vbdev.vocab import Op, Status


@pytest.fixture
def made():
    with stack() as stack_:
        yield stack_


@pytest.mark.rule("A.27.4")
@pytest.mark.parametrize("cls", [Malloc, Null])
def test_completion_is_never_inside_the_submitting_call(made, cls):
    made.disk(cls)
    opened = made.open("Disk")
    ended = []
    request = opened.submit(Op.WRITE, 0, 1, bytes(512), callback=ended.append)
    assert (request.done, ended) == (False, [])
    made.settle()
    assert ended == [request]


@pytest.mark.rule("A.27.5")
def test_deleting_malloc_removes_its_users_first(made):
    made.disk(Malloc)
    made.layer(Passthru)
    opened = made.open("Top")
    assert opened.io(Op.WRITE, 0, 1, bytes(512)).status == Status.SUCCESS
    made.delete("Disk")
    assert opened.events == [BdevEvent.REMOVE]
    assert made.registry.find("Top") is None
    assert made.registry.find("Disk") is None


@pytest.mark.rule("A.27.6", "A.27.7")
def test_null_drops_writes_and_reads_zeroes(made):
    made.disk(Null)
    opened = made.open("Disk")
    assert opened.io(Op.WRITE, 0, 8, b"\xaa" * 4096).status == Status.SUCCESS
    seen = []

    def submit(_self, channel, ios):
        channel.base.submit(ios)

    def completed(_self, _channel, ios):
        seen.extend(bytes(view) for view in ios.data(Op.READ))

    made.layer(layer(submit, completed, kind="looks", gives_read_buffers=True))
    assert made.open("Top", write=False).io(Op.READ, 0, 8).status == Status.SUCCESS
    assert seen == [bytes(4096)]
    kept = bytearray(b"\xee" * 4096)  # a reader's own buffer is left as it is
    assert opened.io(Op.READ, 0, 8, kept).status == Status.SUCCESS
    assert kept == b"\xee" * 4096


@pytest.mark.rule("A.27.8")
@pytest.mark.parametrize("op", [Op.UNMAP, Op.FLUSH])
def test_null_has_neither_unmap_nor_flush(made, op):
    bdev = made.disk(Null)
    assert not describe(bdev)["supported_io_types"][op.name.lower()]
    request = made.open("Disk").io(op, 0, 1)
    assert (request.status, request.errno) == (Status.FAILED, errno.ENOTSUP)


def test_abort_finds_nothing_where_all_completes_at_once(made):
    made.disk(Malloc)
    opened = made.open("Disk")
    victim = opened.submit(Op.WRITE, 0, 1, bytes(512))
    abort = opened.submit(Op.ABORT, 0, 0, victim=victim)
    made.settle()
    assert victim.status == Status.SUCCESS
    assert abort.status == Status.FAILED


def test_malloc_splits_at_its_optimal_boundary(made):
    bdev = made.disk(Malloc, optimal_io_boundary=8)
    assert bdev.split_on_optimal_io_boundary
    opened = made.open("Disk")
    data = bytes(range(256)) * 2 * 20
    assert opened.io(Op.WRITE, 4, 20, data).status == Status.SUCCESS
    assert opened.channel.stats()["write"][:2] == (3, 20)
    got = bytearray(len(data))
    assert opened.io(Op.READ, 4, 20, got).status == Status.SUCCESS
    assert got == data


@pytest.mark.rule("A.12.1")
def test_a_read_gets_its_buffer_where_it_is_first_needed(made):
    made.disk(Stub, "Disk")
    made.layer(Passthru)
    top = made.open("Top")
    request = top.submit(Op.READ, 0, 8)
    assert made.engine.buffers.live_buffers == 1  # of the disk's channel: passthru needs none
    made.registry.get("Disk").complete()
    made.settle()
    assert request.status == Status.SUCCESS
    made.disk(Null, "Null")
    made.layer(Passthru, "Over", base="Null")
    made.open("Over").submit(Op.READ, 0, 8)
    assert made.engine.buffers.live_buffers == 0  # null has one of its own
    made.settle()


@pytest.mark.rule("A.12.11")
def test_an_io_is_bounced_once_for_one_layer(made):
    bdev = made.disk(Stub, "Disk")
    bdev.required_alignment = 12
    opened = made.open("Disk")
    data = memoryview(bytearray(b"x" + bytes(range(256)) * 16))[1:]
    request = opened.submit(Op.WRITE, 0, 8, [data[:100], data[100:]])
    for _ in range(3):
        assert made.engine.buffers.live_buffers == 1
        assert [bytes(view) for view in bdev.held[0].data()] == [bytes(data)]
        bdev.complete(status=Status.NOMEM)
        made.pass_time(20_000)
    bdev.complete()
    made.settle()
    assert request.status == Status.SUCCESS
    assert made.engine.buffers.live_buffers == 0


@pytest.mark.rule("A.9.19")
@pytest.mark.parametrize("op", [Op.NVME_NSSR, Op.WRITE_UNCORRECTABLE])
def test_what_nobody_emulates(made, op):
    bdev = made.disk(Malloc)
    assert not bdev.can(op)
    request = made.open("Disk").io(op, 0, 1)
    assert (request.status, request.errno) == (Status.FAILED, errno.ENOTSUP)


def test_deleting_malloc_gives_its_memory_back_at_once(made):
    """A bdev is part of reference cycles: what it holds must not wait for the garbage collector."""
    size = 256 << 20  # much beside what an allocator gives back meanwhile of others' memory
    gc.collect()
    gc.disable()
    try:
        before = resident_bytes()
        made.disk(Malloc, num_blocks=size // 512, md_size=8, md_interleave=True, dif_type=1)
        assert resident_bytes() - before > size // 2
        made.delete("Disk")
        assert resident_bytes() - before < size // 4
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("params", "available"),
    [
        ({"md_interleave": True, "dif_type": 1}, 1 << 41),
        ({"md_interleave": False, "dif_type": 1}, (1 << 35) - 1),
    ],
)
def test_malloc_that_is_written_at_once_has_to_fit(made, monkeypatch, params, available):
    """Memory that nobody touches costs nothing; metadata is written when the bdev is made."""
    size = {"num_blocks": 1 << 32, "block_size": 512, "md_size": 8}
    monkeypatch.setattr(malloc, "available_bytes", lambda: available)
    with pytest.raises(BdevError, match="bytes of memory") as caught:
        made.disk(Malloc, **size, **params)
    assert caught.value.errno == errno.ENOMEM
    made.disk(Malloc, **size)


def test_the_machine_says_how_much_memory_there_is():
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < malloc.available_bytes() <= total


def resident_bytes():
    if "libasan" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("ASan takes memory of its own, and gives it back when it likes")
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_promise_beyond_the_memory_that_there_is_is_told(monkeypatch, caplog):
    disks = Stack()
    monkeypatch.setattr(malloc, "available_bytes", lambda: 1 << 20)
    disks.create(Malloc, name="Fits", num_blocks=2048, block_size=512)
    assert not caplog.records
    disks.create(Malloc, name="More", num_blocks=2049, block_size=512)
    (said,) = caplog.messages
    for words in ("'More'", "1049088 bytes", "1048576 are available"):
        assert words in said
    disks.close()


def test_limits_of_control_groups_count(tmp_path):
    groups = tmp_path / "cgroup"
    groups.write_text("5:devices:/\n0::/a/b\n")
    for name, limit in (("a", "1000"), ("a/b", "max")):
        place = tmp_path / name
        place.mkdir()
        (place / "memory.max").write_text(limit)
        (place / "memory.current").write_text("600")
        (place / "memory.stat").write_text("anon 1\ninactive_file 50\n")
    assert malloc._cgroups_leave(groups, tmp_path) == [450]
    assert malloc._cgroups_leave(tmp_path / "none", tmp_path) == []


@pytest.mark.parametrize("wish", ["reserve", "populate"])
def test_a_promise_that_has_to_be_kept_is_refused_where_it_can_not_be(monkeypatch, wish):
    disks = Stack()
    monkeypatch.setattr(malloc, "available_bytes", lambda: 1 << 20)
    bdev = disks.create(Malloc, name="Fits", num_blocks=2048, block_size=512, **{wish: True})
    assert bdev.config_params()[wish] is True
    with pytest.raises(BdevError, match=r"1049088 bytes .* 1048576 are available") as caught:
        disks.create(Malloc, name="More", num_blocks=2049, block_size=512, **{wish: True})
    assert caught.value.errno == errno.ENOMEM
    disks.close()


def test_metadata_in_a_buffer_of_its_own_is_part_of_the_promise(monkeypatch):
    disks = Stack()
    monkeypatch.setattr(malloc, "available_bytes", lambda: 1 << 20)
    with pytest.raises(BdevError, match="1179648 bytes are promised"):
        disks.create(Malloc, name="M", num_blocks=2048, block_size=512, md_size=64, reserve=True)
    disks.close()


def test_memory_that_is_populated_is_there_and_goes_with_the_disk(made):
    size = 64 << 20
    before = resident_bytes()
    made.disk(Malloc, num_blocks=size // 512, block_size=512, md_size=64, populate=True)
    assert resident_bytes() - before > size * 9 // 8 - (2 << 20)
    made.delete("Disk")
    assert resident_bytes() - before < size // 4


def test_a_disk_that_can_not_be_populated_to_its_end_leaves_nothing(monkeypatch):
    """Others may take memory meanwhile: what is left is compared before each piece."""
    disks, size = Stack(), 64 << 20
    answers = [size, size, size // 4, size // 4]
    monkeypatch.setattr(malloc, "available_bytes", lambda: answers.pop(0))
    before = resident_bytes()
    with pytest.raises(BdevError, match=r"bytes are missing, and 16777216 are available") as caught:
        disks.create(Malloc, name="Big", num_blocks=size // 512, block_size=512, populate=True)
    assert caught.value.errno == errno.ENOMEM
    assert resident_bytes() - before < size // 8
    assert disks.registry.find("Big") is None
    disks.close()


def test_the_kernel_s_refusal_to_populate_is_the_creation_s(monkeypatch):
    class Refuses(malloc.RamDisk):
        def populate(self, offset, length):
            return errno.ENOMEM if offset else super().populate(offset, length)

    disks = Stack()
    monkeypatch.setattr(malloc, "RamDisk", Refuses)
    with pytest.raises(BdevError, match="Cannot allocate memory") as caught:
        disks.create(Malloc, name="Big", num_blocks=65536, block_size=512, populate=True)
    assert caught.value.errno == errno.ENOMEM
    disks.close()
