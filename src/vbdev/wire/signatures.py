"""Signatures: what a disk is in use as, by the magic numbers that each format has at its place.

The formats, places and numbers are libblkid's (util-linux, libblkid/src/superblocks and
libblkid/src/partitions) and SPDK's own. libblkid itself is not asked: it reads file descriptors,
which a bdev has none of, and what is refused must not depend on which libraries a machine has.

A signature shows that somebody has used a disk, and no more: it may be a left-over. So it is enough
to refuse to write, and too little to believe in what else stands there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

__all__ = ["Signature", "signatures"]

KIB: Final = 1 << 10
MIB: Final = 1 << 20
SECTOR: Final = 512
"""Offsets in sectors are in these, whatever the disk's blocks are: so the formats have it."""


class Signature(NamedTuple):
    """A magic number, and where on a disk it stands (bytes)."""

    name: str
    offset: int
    magic: bytes


def both_ways(value: int) -> tuple[bytes, bytes]:
    """Return a 32-bit number as machines of either byte order write it."""
    return value.to_bytes(4, "little"), value.to_bytes(4, "big")


FROM_START: Final[tuple[tuple[str, tuple[int, ...], tuple[bytes, ...]], ...]] = (
    ("ext2, ext3 or ext4", (0x438,), (b"\x53\xef",)),
    ("XFS", (0,), (b"XFSB",)),
    ("XFS log", (0,), (b"\xfe\xed\xba\xbe",)),
    ("Btrfs", (0x10040,), (b"_BHRfS_M",)),
    ("FAT", (0x36,), (b"FAT12   ", b"FAT16   ", b"FAT     ", b"MSDOS")),
    ("FAT", (0x52,), (b"FAT32   ", b"MSWIN")),
    ("NTFS", (3,), (b"NTFS    ",)),
    ("exFAT", (3,), (b"EXFAT   ",)),
    ("BitLocker", (3,), (b"-FVE-FS-",)),
    ("HPFS", (0x2000,), (b"\x49\xe8\x95\xf9",)),
    ("ISO 9660", (0x8001,), (b"CD001",)),
    ("High Sierra", (0x8009,), (b"CDROM",)),
    ("UDF", (0x8001,), (b"BEA01", b"BOOT2", b"CDW02", b"NSR02", b"NSR03", b"TEA01")),
    ("ReiserFS", (0x2014, 0x2034, 0x10014, 0x10034), (b"ReIsEr",)),
    ("Reiser4", (0x10000,), (b"ReIsEr4",)),
    ("JFS", (0x8000,), (b"JFS1",)),
    ("HFS or HFS+", (0x400,), (b"BD", b"H+", b"HX")),
    ("APFS", (0x20,), (b"NXSB",)),
    ("UFS", tuple(n * KIB + 1372 for n in (0, 8, 64, 256)), both_ways(0x00011954)),
    ("UFS2", tuple(n * KIB + 1372 for n in (0, 8, 64, 256)), both_ways(0x19540119)),
    ("NILFS2", (0x406,), (b"\x34\x34",)),
    ("F2FS", (0x400,), (b"\x10\x20\xf5\xf2",)),
    ("EROFS", (0x400,), (b"\xe2\xe1\xf5\xe0",)),
    ("GFS2", (0x10000,), (b"\x01\x16\x19\x70",)),
    ("OCFS2", (KIB, 2 * KIB, 4 * KIB, 8 * KIB), (b"OCFSV2",)),
    ("OCFS", (8,), (b"OracleCFS",)),
    ("Oracle ASM", (32,), (b"ORCLDISK",)),
    ("Minix", (0x410,), (b"\x7f\x13", b"\x8f\x13", b"\x68\x24", b"\x78\x24")),
    ("Minix", (0x418,), (b"\x5a\x4d",)),
    ("VxFS", (0x400, 0x2000), both_ways(0xA501FCF5)),
    ("BeFS", (32, 544), (b"BFS1", b"1SFB")),
    ("SquashFS", (0,), (b"hsqs", b"sqsh")),
    ("cramfs", (0, 512), both_ways(0x28CD3D45)),
    ("romfs", (0,), (b"-rom1fs-",)),
    ("zonefs", (0,), (b"SFOZ",)),
    ("UBI", (0,), (b"UBI#",)),
    ("UBIFS", (0,), (b"\x31\x18\x10\x06",)),
    ("VMFS volume", (MIB,), (b"\x0d\xd0\x01\xc0",)),
    ("VMFS", (2 * MIB,), (b"\x5e\xf1\xab\x2f",)),
    ("NetWare", (0x1000,), (b"SPB5",)),
    (
        "swap",
        tuple(page * KIB - 10 for page in (4, 8, 16, 32, 64)),
        (b"SWAP-SPACE", b"SWAPSPACE2", b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"LINHIB0001"),
    ),
    ("LUKS", (0,), (b"LUKS\xba\xbe",)),
    (
        "LUKS second header",
        tuple(n * KIB for n in (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)),
        (b"SKUL\xba\xbe",),
    ),
    ("LVM2", tuple(n * SECTOR for n in range(4)), (b"LABELONE",)),
    ("LVM1", (0,), (b"HM\x01\x00", b"HM\x02\x00")),
    ("md RAID", (0, 4 * KIB), both_ways(0xA92B4EFC)),
    (
        "bcache or bcachefs",
        (4 * KIB + 24,),
        (
            bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81"),
            bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef"),
        ),
    ),
    ("Stratis", (SECTOR + 4, 9 * SECTOR + 4), (b"!Stra0tis\x86\xff\x02^\x41rh",)),
    ("Ceph BlueStore", (0,), (b"bluestore block device",)),
    ("dm-verity", (0,), (b"verity\0\0",)),
    ("dm-integrity", (0,), (b"integrt\0",)),
    ("VDO", (0,), (b"dmvdo001",)),
    ("dm-snapshot", (0,), (b"SnAp",)),
    ("SPDK blobstore", (0,), (b"SPDKBLOB",)),
    ("SPDK RAID", (0,), (b"SPDKRAID",)),
    ("HighPoint RAID", (9 * SECTOR + 32,), (b"\xf0\x16\x78\x5a", b"\xfd\x16\x78\x5a")),
    ("GPT header of 512-byte blocks", (512,), (b"EFI PART",)),
    ("GPT header of 4096-byte blocks", (4096,), (b"EFI PART",)),
    ("BSD disklabel", (0, SECTOR, 64), both_ways(0x82564557)),
    ("Sun disklabel", (508,), (b"\xda\xbe",)),
    ("SGI disklabel", (0,), (b"\x0b\xe5\xa9\x41",)),
    ("AIX disk", (0,), (b"\xc9\xc2\xd4\xc1",)),
    ("Apple partition map", (512,), (b"PM\0\0",)),
    ("Amiga partition table", tuple(n * SECTOR for n in range(16)), (b"RDSK",)),
)
"""(name, its places in bytes from the start, its magic numbers)."""

FROM_END_SECTORS: Final[tuple[tuple[str, tuple[int, ...], tuple[bytes, ...]], ...]] = (
    ("GPT header of 512-byte blocks", (1,), (b"EFI PART",)),
    ("GPT header of 4096-byte blocks", (8,), (b"EFI PART",)),
    ("DDF RAID", (1, 257), both_ways(0xDE11DE11)),
    ("Intel RAID", (2,), (b"Intel Raid ISM Cfg Sig.",)),
    ("LSI RAID", (1,), (b"$XIDE$",)),
    ("NVIDIA RAID", (2,), (b"NVIDIA",)),
    ("JMicron RAID", (1,), (b"JM",)),
    ("Adaptec RAID", (1,), (b"DPTM",)),
    (
        "Promise RAID",
        (63, 255, 256, 16, 399, 591, 675, 735, 911, 974, 991, 951, 3087),
        (b"Promise Technology, Inc.",),
    ),
)
"""(name, its places in sectors from the end, its magic numbers)."""

ZFS_LABEL: Final = 256 * KIB
ZFS_UBERBLOCKS: Final = 128 * KIB
"""Where in a label the ring of uberblocks is; it goes to the label's end."""
ZFS_MAGIC: Final = tuple((0x00BAB10C).to_bytes(8, order) for order in ("little", "big"))


def signatures(size_bytes: int) -> Iterator[Signature]:
    """Give every signature that a disk of this size may have, each within the disk."""
    for one in _everywhere(size_bytes):
        if 0 <= one.offset <= size_bytes - len(one.magic):
            yield one


def _everywhere(size_bytes: int) -> Iterator[Signature]:
    for name, places, magics in FROM_START:
        for place in places:
            for magic in magics:
                yield Signature(name, place, magic)
    sectors = size_bytes // SECTOR
    for name, places, magics in FROM_END_SECTORS:
        for place in places:
            for magic in magics:
                yield Signature(name, (sectors - place) * SECTOR, magic)
    yield from _with_sums(size_bytes)


def _with_sums(size_bytes: int) -> Iterator[Signature]:
    """Give those whose place depends on the size in another way."""
    sectors = size_bytes // SECTOR
    for magic in both_ways(0xA92B4EFC):
        # MD_NEW_SIZE_SECTORS, and super_1_load with minor version 0.
        yield Signature("md RAID", (sectors & ~127) * SECTOR - 64 * KIB, magic)
        yield Signature("md RAID", ((sectors - 16) & ~7) * SECTOR, magic)
    for magic in (b"\x83\x74\x02\x67", b"\x83\x74\x02\x6b", b"\x83\x74\x02\x6d"):
        yield Signature("DRBD", (size_bytes & ~(4 * KIB - 1)) - 4 * KIB + 60, magic)
    # NILFS_SB2_OFFSET_BYTES
    yield Signature("NILFS2", ((size_bytes >> 12) - 1) * 4 * KIB + 6, b"\x34\x34")
    whole = size_bytes & ~(ZFS_LABEL - 1)
    for label in (0, ZFS_LABEL, whole - 2 * ZFS_LABEL, whole - ZFS_LABEL):
        for place in range(ZFS_UBERBLOCKS, ZFS_LABEL, KIB):
            for magic in ZFS_MAGIC:
                yield Signature("ZFS", label + place, magic)
