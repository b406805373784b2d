"""gpt: what is on a disk already is neither believed nor written over.

Method: black-box. Disks that others use come from their own tools where these are installed, from
the magic numbers in their places everywhere; what libblkid finds is found here. A power cut is a
journal of what was written, of which any part since the last FLUSH may be lost.
"""

import itertools
import json

import pytest

from support.clients import find, requires, run
from support.control import CLAIMED, EXISTS, Control
from vbdev.bdev import VirtualBdev
from vbdev.modules.gpt.contents import find_signatures
from vbdev.modules.passthru import Passthru
from vbdev.vocab import Op
from vbdev.wire import gpt
from vbdev.wire.signatures import signatures

from .test_gpt import BLOCKS, DISK, LINUX, NO_ENTRY, PARTS, SPDK, attach, damage, image, partition

ONE = [{"name": "x", "size_mb": 1}]
FAT = b"\xeb\x3c\x90mkfs.fat".ljust(54, b"\0") + b"FAT16   "


@pytest.fixture
def control():
    made = Control(examine=True, real_clock=True)
    yield made
    made.stack.close()


def put(path, *pieces, size=BLOCKS * 512):
    """Write (offset, bytes) to an image, which is made where there is none."""
    if not path.exists():
        path.touch()
        with path.open("r+b") as file:
            file.truncate(size)
    with path.open("r+b") as file:
        for offset, data in pieces:
            file.seek(offset)
            file.write(data)
    return path


def boot_sector(path):
    """Make a FAT file system's first block of the one that is there."""
    return put(path, (0, FAT.ljust(510, b"\x33") + b"\x55\xaa"))


def dos(path, *types, lba=0):
    entries = b"".join(
        gpt.MBR_ENTRY.pack(0, b"\0\2\0", kind, b"\xff\xff\xff", 2048 * n, 2048)
        for n, kind in enumerate(types, start=1)
    )
    return put(path, (lba + 446, entries.ljust(64, b"\0") + b"\x55\xaa"))


def refused(control, path, *says):
    """Creating a table is refused, says why, and changes nothing."""
    before = path.read_bytes()
    attach(control, path)
    assert control.fails("bdev_gpt_create", base_bdev="Disk", partitions=ONE) == EXISTS
    for word in (*says, "overwrite"):
        assert word in control.detail
    assert control.told("Disk")["claimed"] is False
    control.call("bdev_aio_delete", name="Disk")
    assert path.read_bytes() == before


# What is believed


@pytest.mark.parametrize("what", [boot_sector, lambda p: put(p, (0, bytes(512)))])
def test_without_a_protective_mbr_there_is_no_table(control, tmp_path, what):
    path = image(tmp_path / "disk")
    what(path)
    assert attach(control, path) == ["Disk"]
    assert control.told("Disk")["claimed"] is False


def test_a_second_table_is_not_believed_on_a_disk_in_other_use(control, tmp_path, caplog):
    path = image(tmp_path / "disk")
    put(path, (4096 + 24, bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")))
    assert attach(control, path) == ["Disk"]
    assert "secondary table not believed bdev=Disk" in caplog.text
    assert "bcache or bcachefs at byte 4120" in caplog.text


def test_a_left_over_behind_a_whole_table_does_not_count(control, tmp_path):
    path = image(tmp_path / "disk")
    put(path, (0x10040, b"_BHRfS_M"))
    assert attach(control, path) == ["Disk", "Diskp1", "Diskp5"]


def test_a_hybrid_mbr_is_one_of_a_disk_with_a_table(control, tmp_path):
    path = image(tmp_path / "disk")
    put(path, (446 + 16, gpt.MBR_ENTRY.pack(0, b"\0\2\0", 0x83, b"\0\2\0", 2048, 2048)))
    assert attach(control, path) == ["Disk", "Diskp1", "Diskp5"]


@pytest.mark.parametrize(("made", "read"), [(512, 4096), (4096, 512)])
def test_a_table_for_blocks_of_another_size(control, tmp_path, caplog, made, read):
    disk = bytearray(16 << 20)
    parts = [partition(1, 512, 1023)]
    for lba, data in gpt.build_table(parts, DISK, len(disk) // made, made):
        disk[lba * made : lba * made + len(data)] = data
    path = tmp_path / "disk"
    path.write_bytes(disk)
    control.call("bdev_aio_create", name="Disk", filename=str(path), block_size=read)
    control.settle_examination()
    assert control.names() == ["Disk"]
    assert f"one for blocks of {made} bytes, not of {read}" in caplog.text
    assert control.fails("bdev_gpt_create", base_bdev="Disk", partitions=ONE) == EXISTS
    assert control.fails("bdev_gpt_delete", base_bdev="Disk") == NO_ENTRY
    assert path.read_bytes() == disk
    control.call("bdev_gpt_create", base_bdev="Disk", partitions=ONE, overwrite=True)
    assert control.names() == ["Disk", "Diskp1"]


# What is not written over


def test_a_dos_table(control, tmp_path):
    refused(control, dos(tmp_path / "disk", 0x83, 0x07), "DOS partition table", "0x83, 0x07")


@pytest.mark.parametrize("lbas", [(1,), (BLOCKS - 1,), (1, BLOCKS - 1)])
def test_a_damaged_table(control, tmp_path, lbas):
    path = image(tmp_path / "disk")
    damage(path, *lbas)
    before = path.read_bytes()
    attach(control, path)
    control.call("bdev_aio_delete", name="Disk")
    control.call("bdev_gpt_set_options", partition_types=[])
    attach(control, path)
    assert control.fails("bdev_gpt_create", base_bdev="Disk", partitions=ONE) == EXISTS
    assert "protective MBR" in control.detail
    control.call("bdev_aio_delete", name="Disk")
    assert path.read_bytes() == before


@pytest.mark.parametrize("copy", [0, 1])
def test_a_header_without_an_mbr(control, tmp_path, copy):
    path = image(tmp_path / "disk")
    put(path, (0, bytes(512)), (((1, BLOCKS - 1)[1 - copy]) * 512, bytes(512)))
    refused(control, path, "GPT header of 512-byte blocks", str(((1, BLOCKS - 1)[copy]) * 512))


@pytest.mark.parametrize("at", [0, 511, 33 * 512, 34 * 512 - 1, (BLOCKS - 33) * 512])
def test_data_where_the_table_would_be(control, tmp_path, at):
    refused(control, put(tmp_path / "disk", (at, b"\1")), f"data at byte {at}")


@pytest.mark.parametrize("at", [34 * 512, (BLOCKS - 33) * 512 - 1])
def test_data_beside_the_table_is_no_obstacle(control, tmp_path, at):
    attach(control, put(tmp_path / "disk", (at, b"\1")))
    assert control.call("bdev_gpt_create", base_bdev="Disk", partitions=ONE) == ["Diskp1"]


@pytest.mark.parametrize("block_size", [512, 4096])
def test_each_signature_in_its_place(control, tmp_path, block_size):
    size = (8 << 20) + 3 * 4096
    path = put(tmp_path / "disk", size=size)
    control.call("bdev_aio_create", name="Disk", filename=str(path), block_size=block_size)
    descriptor = control.registry.open("Disk", write=False, on_event=print, holder="a test")
    assert control.stack.run(find_signatures(descriptor, tables=True)) == []
    known = list(signatures(size))
    # Every tenth of the 1024 places of ZFS.
    some = [one for one in known if one.name != "ZFS"]
    some += [one for one in known if one.name == "ZFS"][::100]
    for one in some:
        put(path, (one.offset, one.magic))
        found = control.stack.run(find_signatures(descriptor, tables=True))
        assert (one.name, one.offset) in {(each.what, each.offset) for each in found}
        put(path, (one.offset, bytes(len(one.magic))))
    descriptor.close()


def test_a_small_disk_has_no_signature_beyond_its_end():
    for size in (0, 512, 68 * 512, (1 << 20) - 512):
        assert all(0 <= s.offset <= size - len(s.magic) for s in signatures(size))


def test_overwrite_leaves_no_signature_behind(control, tmp_path):
    path = put(tmp_path / "disk", (0x10040, b"_BHRfS_M"), (0x8001, b"CD001"), (1080, b"\x53\xef"))
    attach(control, path)
    new = {"base_bdev": "Disk", "partitions": ONE, "overwrite": True}
    assert control.call("bdev_gpt_create", **new) == ["Diskp1"]
    control.call("bdev_gpt_delete", base_bdev="Disk")
    control.call("bdev_aio_delete", name="Disk")
    assert path.read_bytes() == bytes(BLOCKS * 512)


TOOLS = {
    "mkfs.vfat -I {}": "64M",
    "mkfs.vfat -I -F 32 {}": "64M",
    "mke2fs -q -F {}": "64M",
    "mkfs.xfs -q {}": "320M",
    "mkfs.btrfs -q {}": "160M",
    "mkfs.f2fs -q {}": "64M",
    "mkfs.ntfs -q -F -f {}": "64M",
    "mkfs.exfat {}": "64M",
    "mkfs.nilfs2 -q {}": "160M",
    "mkfs.jfs -q {}": "64M",
    "mkreiserfs -q -f -f {}": "64M",
    "mkudffs {}": "64M",
    "mkfs.minix {}": "16M",
    "mkfs.cramfs /usr/share/doc/dash {}": "0",
    "mksquashfs /usr/share/doc/dash {} -quiet -noappend": "0",
    "mkswap {}": "64M",
    "make-bcache -B {}": "64M",
}


@pytest.mark.client
@pytest.mark.parametrize("command", TOOLS)
def test_what_tools_made(control, tmp_path, command):
    """Where libblkid finds something, so do we, and at the same place; nothing is written."""
    tool = command.split()[0]
    if find(tool) is None:
        pytest.skip(f"{tool} is not installed")
    requires("wipefs")
    path = tmp_path / "disk"
    if TOOLS[command] != "0":
        run("truncate", "-s", TOOLS[command], path)
    run(*(word.format(path) for word in command.split()), stdin=-3)
    if path.stat().st_size < 4 << 20:  # an image that is as small as its content
        run("truncate", "-s", "4M", path)
    told = json.loads(run("wipefs", "--json", "--no-act", path))["signatures"]
    places = {int(one["offset"], 16) for one in told if one["type"] not in ("dos", "")}
    assert places
    attach(control, path)
    descriptor = control.registry.open("Disk", write=False, on_event=print, holder="a test")
    found = control.stack.run(find_signatures(descriptor))
    descriptor.close()
    assert places & {one.offset for one in found}, (told, found)
    assert control.fails("bdev_gpt_create", base_bdev="Disk", partitions=ONE) == EXISTS
    assert control.fails("bdev_gpt_delete", base_bdev="Disk") == NO_ENTRY
    assert {"offset": told[0]["offset"]}.items() <= json.loads(
        run("wipefs", "--json", "--no-act", path)
    )["signatures"][0].items()


@pytest.mark.client
@pytest.mark.parametrize("tool", ["mkfs.vfat -I", "mke2fs -q -F", "mkswap"])
def test_a_file_system_over_an_old_table(control, tmp_path, tool):
    """What the tool leaves of a table is not believed, and nothing of the disk is erased."""
    requires("sfdisk", tool.split()[0], "blkid")
    path, script = tmp_path / "disk", tmp_path / "script"
    put(path, size=64 << 20)
    script.write_text(f"label: gpt\nsize=16MiB, type={SPDK}\n")
    run("sh", "-c", f"sfdisk --quiet {path} < {script}")
    run(*tool.split(), path)
    before = path.read_bytes()
    kind = run("blkid", "-p", "-o", "value", "-s", "TYPE", path)
    attach(control, path)
    if b"\xee" not in before[446:512]:
        assert control.names() == ["Disk"]
        assert control.fails("bdev_gpt_delete", base_bdev="Disk") == NO_ENTRY
        assert control.fails("bdev_gpt_create", base_bdev="Disk", partitions=ONE) == EXISTS
    control.call("bdev_aio_delete", name="Disk")
    assert path.read_bytes() == before
    assert run("blkid", "-p", "-o", "value", "-s", "TYPE", path) == kind


# What is erased


def erased(control, path, **more):
    """Delete a table and return the disk as it is afterwards."""
    attach(control, path)
    control.call("bdev_gpt_delete", base_bdev="Disk", **more)
    control.call("bdev_aio_delete", name="Disk")
    return path.read_bytes()


def test_a_whole_table_leaves_nothing(control, tmp_path):
    assert erased(control, image(tmp_path / "disk")) == bytes(BLOCKS * 512)


def test_boot_code_and_other_partitions_are_not_the_tables(control, tmp_path):
    path = image(tmp_path / "disk")
    other = gpt.MBR_ENTRY.pack(0x80, b"\0\2\0", 0x83, b"\0\2\0", 2048, 2048)
    put(path, (0, b"GRUB" * 100), (446 + 16, other))
    left = erased(control, path)
    assert left[:400] == b"GRUB" * 100
    assert left[446:512] == bytes(16) + other + bytes(32) + b"\x55\xaa"
    assert left[512:] == bytes(BLOCKS * 512 - 512)


def test_a_file_system_is_nobodys_table(control, tmp_path):
    path = boot_sector(image(tmp_path / "disk", PARTS))
    before = path.read_bytes()
    attach(control, path)
    assert control.fails("bdev_gpt_delete", base_bdev="Disk") == NO_ENTRY
    assert "FAT at byte 54" in control.detail
    assert path.read_bytes() == before
    control.call("bdev_gpt_delete", base_bdev="Disk", overwrite=True)
    left = path.read_bytes()
    assert (left[:512], left[512:]) == (before[:512], bytes(BLOCKS * 512 - 512))


def test_a_damaged_table_is_erased_on_request(control, tmp_path):
    path = image(tmp_path / "disk")
    damage(path, BLOCKS - 1)
    before = path.read_bytes()
    names = attach(control, path)
    assert control.fails("bdev_gpt_delete", base_bdev="Disk") == CLAIMED
    assert "secondary table: header CRC" in control.detail
    assert control.names() == names  # a refusal takes no bdev away
    assert path.read_bytes() == before
    control.call("bdev_gpt_delete", base_bdev="Disk", overwrite=True)
    left = path.read_bytes()
    assert left[: 34 * 512] == bytes(34 * 512)
    assert left[-512:] == bytes(512)


def test_nothing_to_erase(control, tmp_path):
    attach(control, put(tmp_path / "disk"))
    for overwrite in (False, True):
        wrong = {"base_bdev": "Disk", "overwrite": overwrite}
        assert control.fails("bdev_gpt_delete", **wrong) == NO_ENTRY


# Power cuts


class Journal(VirtualBdev):
    """A disk with a cache that forgets: it keeps what was written, FLUSH by FLUSH."""

    kind = "journal"
    product_name = "journal"
    ops = Passthru.ops

    async def start(self):
        self.epochs = [[]]

    async def handle(self, _channel, io):
        if io.op is Op.WRITE:
            data = b"".join(bytes(piece) for piece in io.data())
            self.epochs[-1].append((io.offset_blocks, data))
        elif io.op is Op.FLUSH:
            self.epochs.append([])
        await io.forward()


def states(before, epochs):
    """Give each disk that a power cut may leave: any part of what no FLUSH has made stable."""
    disk = bytearray(before)
    for epoch in epochs:
        for kept in itertools.product((0, 1, 2), repeat=len(epoch)):
            cut = bytearray(disk)
            for (lba, data), share in zip(epoch, kept, strict=True):
                part = data[: len(data) * share // 2 // 512 * 512]
                cut[lba * 512 : lba * 512 + len(part)] = part
            yield bytes(cut)
        for lba, data in epoch:
            disk[lba * 512 : lba * 512 + len(data)] = data
    yield bytes(disk)


def journal_of(control, path, method, **params):
    before = path.read_bytes()
    control.call("bdev_gpt_set_options", partition_types=[])
    attach(control, path)
    control.registry.add_module(Journal)
    journal = control.stack.layer(Journal, base="Disk", name="Top")
    control.call(method, base_bdev="Top", **params)
    epochs = journal.epochs
    control.stack.delete("Top")
    control.call("bdev_aio_delete", name="Disk")
    control.call("bdev_gpt_set_options", any_type=True)
    return set(states(before, epochs))


OLD = ["Disk", "Diskp1", "Diskp2", "Diskp5"]
NEW = ["Disk", "Diskp1"]


@pytest.mark.parametrize("broken", [None, 1, 2, BLOCKS - 1, BLOCKS - 33])
def test_a_power_cut_leaves_the_old_table_or_the_new_one(control, tmp_path, broken):
    path = image(tmp_path / "disk")
    if broken is not None:
        damage(path, broken)
    new = {"partitions": [{"size_mb": 1, "type_guid": str(LINUX)}], "overwrite": True}
    seen = set()
    for state in journal_of(control, path, "bdev_gpt_create", **new):
        path.write_bytes(state)
        names = attach(control, path)
        assert names in (OLD, NEW)
        seen.add(len(names))
        control.call("bdev_aio_delete", name="Disk")
    assert seen == {len(OLD), len(NEW)}


def test_a_power_cut_leaves_the_dos_table_or_a_whole_new_one(control, tmp_path):
    path = dos(tmp_path / "disk", 0x83)
    new = {"partitions": [{"size_mb": 1, "type_guid": str(LINUX)}], "overwrite": True}
    for state in journal_of(control, path, "bdev_gpt_create", **new):
        path.write_bytes(state)
        names = attach(control, path)
        assert names == NEW or (names == ["Disk"] and gpt.mbr_types(state[:512]) == [0x83])
        control.call("bdev_aio_delete", name="Disk")


def test_a_power_cut_leaves_the_table_or_none(control, tmp_path):
    path = image(tmp_path / "disk")
    for state in journal_of(control, path, "bdev_gpt_delete"):
        path.write_bytes(state)
        assert attach(control, path) in (OLD, ["Disk"])
        control.call("bdev_aio_delete", name="Disk")
