"""GUID partition tables: bytes to partitions and back (UEFI specification 2.10, chapter 5).

    LBA 0        protective MBR: one partition of type 0xEE
    LBA 1        primary header          entries' place, number, size and CRC; its own CRC
    LBA 2..      primary entries         128 of 128 bytes, as a rule
    ...          usable blocks
    last - n..   secondary entries       the same
    last LBA     secondary header        points to its own copy of the entries

All numbers are little-endian. A table comes from a disk that anybody may have written: every number
is checked against the disk before it is used, and what is wrong is told in a `GptError`. Nothing
larger than `MAX_ENTRIES_BYTES` is ever asked for.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final
from uuid import UUID

__all__ = [
    "MAX_ENTRIES_BYTES",
    "SIGNATURE",
    "GptError",
    "Mbr",
    "Partition",
    "TableHeader",
    "build_table",
    "header_of_other_size",
    "layout",
    "mbr_types",
    "parse_entries",
    "parse_header",
    "parse_mbr",
    "without_protection",
]

MBR_BYTES: Final = 512
MBR_SIGNATURE: Final = b"\x55\xaa"
MBR_DISK_ID: Final = 440
MBR_PARTITIONS: Final = 446
MBR_ENTRY: Final = struct.Struct("<B3sB3sII")
"""Status, first CHS, type, last CHS, first LBA, number of blocks."""
PROTECTIVE_TYPE: Final = 0xEE

SIGNATURE: Final = b"EFI PART"
REVISION: Final = 0x00010000
HEADER: Final = struct.Struct("<8sIIIIQQQQ16sQIII")
"""Signature, revision, header size, header CRC, reserved, own LBA, the other header's LBA, first
and last usable LBA, disk GUID, entries' LBA, number of entries, size of an entry, entries' CRC."""
HEADER_BYTES: Final = 92
CRC_AT: Final = 16

ENTRY: Final = struct.Struct("<16s16sQQQ72s")
"""Type GUID, unique GUID, first LBA, last LBA, attributes, name in UTF-16LE."""
ENTRY_BYTES: Final = 128
NUM_ENTRIES: Final = 128
MAX_ENTRIES_BYTES: Final = 1 << 20
"""Longest array of entries that is read, in bytes: 8192 entries of the usual size."""
NAME_UNITS: Final = 36
"""UTF-16 code units of a partition's name."""


class GptError(Exception):
    """What is wrong with a table, for a person."""


class Mbr(Enum):
    """What the first block says."""

    NONE = "no MBR"
    """Nothing, or garbage. GPT headers on the disk are left-overs."""
    PROTECTIVE = "protective MBR"
    HYBRID = "hybrid MBR"
    """A protective partition, and others beside it that the table may have as well."""
    OTHER = "DOS partition table"
    """The disk is partitioned the old way; GPT headers on it are left-overs."""

    @property
    def protects(self) -> bool:
        """Whether the disk is one with a GUID partition table (UEFI 2.10, 5.2.3)."""
        return self in (Mbr.PROTECTIVE, Mbr.HYBRID)


@dataclass(frozen=True, slots=True)
class TableHeader:
    """A header that has been checked."""

    lba: int
    other_lba: int
    first_usable: int
    last_usable: int
    disk_guid: UUID
    entries_lba: int
    num_entries: int
    entry_bytes: int
    entries_crc: int

    @property
    def entries_bytes(self) -> int:
        """Length of the array of entries."""
        return self.num_entries * self.entry_bytes


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition. `number` counts the slots of the table from 1."""

    number: int
    type_guid: UUID
    unique_guid: UUID
    first_lba: int
    last_lba: int
    name: str
    attributes: int = 0

    @property
    def num_blocks(self) -> int:
        """Length in blocks."""
        return self.last_lba - self.first_lba + 1


def parse_mbr(block: bytes) -> Mbr:
    """Say what kind of MBR the first block of a disk is.

    A protective partition is of type 0xEE and begins at LBA 1; its size is not looked at, since a
    disk may have grown (Linux, block/partitions/efi.c, is_pmbr_valid).
    """
    if len(block) < MBR_BYTES or block[510:512] != MBR_SIGNATURE:
        return Mbr.NONE
    entries = _mbr_entries(block)
    protected = any(kind == PROTECTIVE_TYPE and first == 1 for _, kind, first in entries)
    types = set(mbr_types(block))
    if protected:
        return Mbr.HYBRID if types - {PROTECTIVE_TYPE} else Mbr.PROTECTIVE
    # Boot sectors of file systems have code there: no table (Linux, block/partitions/msdos.c).
    if not types or any(status not in (0, 0x80) for status, _, _ in entries):
        return Mbr.NONE
    return Mbr.OTHER


def mbr_types(block: bytes) -> list[int]:
    """Return the types of the partitions in an MBR, without the empty ones."""
    return [kind for _, kind, _ in _mbr_entries(block) if kind]


def _mbr_entries(block: bytes) -> list[tuple[int, int, int]]:
    """Return (status, type, first LBA) of each of the four."""
    entries = []
    for index in range(4):
        status, _, kind, _, first, _ = MBR_ENTRY.unpack_from(
            block, MBR_PARTITIONS + index * MBR_ENTRY.size
        )
        entries.append((status, kind, first))
    return entries


def without_protection(block: bytes) -> bytes:
    """Return the first block of a disk without its protective partition.

    Whatever else it holds stays: boot code, and the other partitions of a hybrid MBR.
    """
    changed = bytearray(block)
    for index, (_, kind, _) in enumerate(_mbr_entries(block)):
        if kind == PROTECTIVE_TYPE:
            at = MBR_PARTITIONS + index * MBR_ENTRY.size
            changed[at : at + MBR_ENTRY.size] = bytes(MBR_ENTRY.size)
    if not mbr_types(bytes(changed)):
        changed[MBR_DISK_ID:MBR_BYTES] = bytes(MBR_BYTES - MBR_DISK_ID)
    return bytes(changed)


def header_of_other_size(start: bytes, block_size: int) -> int:
    """Return the block size that a table at the start of a disk was written for; 0 for this one."""
    for other in (512, 1024, 2048, 4096):
        if other != block_size and start[other : other + len(SIGNATURE)] == SIGNATURE:
            return other
    return 0


def parse_header(block: bytes, lba: int, num_blocks: int, block_size: int) -> TableHeader:
    """Check the header in a block of the disk, which has `num_blocks` of `block_size` bytes."""
    # One piece: a structure, and its rules in the order of the specification.
    if len(block) < HEADER_BYTES:
        raise GptError(f"a header of {len(block)} bytes; {HEADER_BYTES} at least")
    (
        signature,
        revision,
        header_bytes,
        crc,
        _reserved,
        own_lba,
        other_lba,
        first_usable,
        last_usable,
        disk_guid,
        entries_lba,
        num_entries,
        entry_bytes,
        entries_crc,
    ) = HEADER.unpack_from(block)
    if signature != SIGNATURE:
        raise GptError(f"no signature at LBA {lba}")
    if revision >> 16 != REVISION >> 16:
        raise GptError(f"revision {revision:#x} is not 1.x")
    if not HEADER_BYTES <= header_bytes <= min(block_size, len(block)):
        raise GptError(f"header size {header_bytes} is not {HEADER_BYTES} to {block_size}")
    found = header_crc(block[:header_bytes])
    if crc != found:
        raise GptError(f"header CRC {crc:#010x}, computed {found:#010x}")
    if own_lba != lba:
        raise GptError(f"header at LBA {lba} says that it is at {own_lba}")
    if not first_usable <= last_usable < num_blocks:
        raise GptError(
            f"usable LBAs {first_usable} to {last_usable} on a disk of {num_blocks} blocks"
        )
    if entry_bytes < ENTRY_BYTES or entry_bytes & (entry_bytes - 1):
        raise GptError(f"entry size {entry_bytes} is not {ENTRY_BYTES} times a power of two")
    if not 0 < num_entries * entry_bytes <= MAX_ENTRIES_BYTES:
        raise GptError(
            f"{num_entries} entries of {entry_bytes} bytes; {MAX_ENTRIES_BYTES} bytes at most"
        )
    length = -(-num_entries * entry_bytes // block_size)
    end = entries_lba + length
    before = lba < entries_lba and end <= first_usable
    after = last_usable < entries_lba and end <= (lba if lba > last_usable else num_blocks)
    if not (before or after):
        raise GptError(
            f"{length} blocks of entries at LBA {entries_lba} do not fit beside the header at {lba}"
            f" and the usable LBAs {first_usable} to {last_usable}"
        )
    return TableHeader(
        lba,
        other_lba,
        first_usable,
        last_usable,
        UUID(bytes_le=disk_guid),
        entries_lba,
        num_entries,
        entry_bytes,
        entries_crc,
    )


def parse_entries(header: TableHeader, data: bytes) -> tuple[list[Partition], list[str]]:
    """Return the partitions, and a sentence for each that can not be used.

    data: the array of entries, `header.entries_bytes` long. GptError when its CRC is wrong.
    """
    data = data[: header.entries_bytes]
    found = zlib.crc32(data)
    if len(data) < header.entries_bytes or found != header.entries_crc:
        raise GptError(f"entries' CRC {header.entries_crc:#010x}, computed {found:#010x}")
    partitions: list[Partition] = []
    refused: list[str] = []
    for number in range(1, header.num_entries + 1):
        type_guid, unique_guid, first, last, attributes, name = ENTRY.unpack_from(
            data, (number - 1) * header.entry_bytes
        )
        if not any(type_guid):
            continue
        if not header.first_usable <= first <= last <= header.last_usable:
            refused.append(
                f"partition {number} has LBAs {first} to {last}, usable are"
                f" {header.first_usable} to {header.last_usable}"
            )
            continue
        partitions.append(
            Partition(
                number,
                UUID(bytes_le=type_guid),
                UUID(bytes_le=unique_guid),
                first,
                last,
                decode_name(name),
                attributes,
            )
        )
    return _without_overlaps(partitions, refused), refused


def _without_overlaps(partitions: list[Partition], refused: list[str]) -> list[Partition]:
    """Drop those that share blocks with another, all of them: nobody knows whose they are."""
    shared: dict[int, int] = {}
    widest: Partition | None = None
    for one in sorted(partitions, key=lambda p: p.first_lba):
        if widest is not None and one.first_lba <= widest.last_lba:
            shared.setdefault(widest.number, one.number)
            shared[one.number] = widest.number
        if widest is None or one.last_lba > widest.last_lba:
            widest = one
    refused += [
        f"partition {number} overlaps partition {other}" for number, other in sorted(shared.items())
    ]
    return [one for one in partitions if one.number not in shared]


def decode_name(field: bytes) -> str:
    """Return a name, up to its first NUL; halves of surrogate pairs become U+FFFD."""
    return field.decode("utf-16-le", errors="replace").partition("\0")[0]


def encode_name(name: str) -> bytes:
    """Return a name as it stands in the table; GptError when it is too long for that."""
    try:
        field = name.encode("utf-16-le")
    except UnicodeEncodeError as error:
        raise GptError(f"name {name!r} can not be written in UTF-16") from error
    if len(field) > NAME_UNITS * 2 or "\0" in name:
        raise GptError(f"name {name!r} is longer than {NAME_UNITS} UTF-16 units, or has a NUL")
    return field


def header_crc(header: bytes) -> int:
    """Return the CRC of a header, whose own field counts as zero."""
    return zlib.crc32(header[:CRC_AT] + bytes(4) + header[CRC_AT + 4 :])


def layout(num_blocks: int, block_size: int) -> tuple[int, int]:
    """Return the first and the last usable LBA of a new table; GptError when none is left."""
    entries = -(-NUM_ENTRIES * ENTRY_BYTES // block_size)
    first, last = 2 + entries, num_blocks - 2 - entries
    if first > last or block_size < MBR_BYTES:
        raise GptError(f"a disk of {num_blocks} blocks has no room for a partition table")
    return first, last


def build_table(
    partitions: Sequence[Partition], disk_guid: UUID, num_blocks: int, block_size: int
) -> list[tuple[int, bytes]]:
    """Return (LBA, blocks) of a table, in the order in which they are written safely.

    The secondary table comes first and the protective MBR last, so that a disk on which the power
    failed half-way shows one whole table or none.
    """
    first_usable, last_usable = layout(num_blocks, block_size)
    entries = bytearray(NUM_ENTRIES * ENTRY_BYTES)
    for one in partitions:
        if not 1 <= one.number <= NUM_ENTRIES:
            raise GptError(f"partition {one.number}: a table has {NUM_ENTRIES}")
        ENTRY.pack_into(
            entries,
            (one.number - 1) * ENTRY_BYTES,
            one.type_guid.bytes_le,
            one.unique_guid.bytes_le,
            one.first_lba,
            one.last_lba,
            one.attributes,
            encode_name(one.name),
        )
    length = -(-len(entries) // block_size)
    crc = zlib.crc32(entries)

    def header(lba: int, other_lba: int, entries_lba: int) -> bytes:
        fields = (
            SIGNATURE,
            REVISION,
            HEADER_BYTES,
            0,
            0,
            lba,
            other_lba,
            first_usable,
            last_usable,
            disk_guid.bytes_le,
            entries_lba,
            NUM_ENTRIES,
            ENTRY_BYTES,
            crc,
        )
        block = bytearray(HEADER.pack(*fields))
        struct.pack_into("<I", block, CRC_AT, header_crc(bytes(block)))
        return padded(block, 1, block_size)

    last = num_blocks - 1
    return [
        (last - length, padded(entries, length, block_size)),
        (last, header(last, 1, last - length)),
        (2, padded(entries, length, block_size)),
        (1, header(1, last, 2)),
        (0, padded(protective_mbr(num_blocks), 1, block_size)),
    ]


def protective_mbr(num_blocks: int) -> bytes:
    """Return an MBR whose one partition covers the disk, as far as 32 bits reach."""
    block = bytearray(MBR_BYTES)
    MBR_ENTRY.pack_into(
        block,
        MBR_PARTITIONS,
        0,
        b"\x00\x02\x00",
        PROTECTIVE_TYPE,
        b"\xff\xff\xff",
        1,
        min(num_blocks - 1, 0xFFFFFFFF),
    )
    block[510:512] = MBR_SIGNATURE
    return bytes(block)


def padded(data: Iterable[int], num_blocks: int, block_size: int) -> bytes:
    """Return data with zeroes behind it."""
    data = bytes(data)
    return data + bytes(num_blocks * block_size - len(data))
