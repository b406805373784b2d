"""The plain-Python twin of `vbdev.core.memory.dif`: bit by bit, from the formats' definitions.

NVM Command Set Specification 1.0, 5.2.1: 16b guard (T10 SBC-4: polynomial 8BB7h), 32b guard
(CRC-32C, 1EDC6F41h), 64b guard (AD93D23594C93659h), reflected but for the first.
"""

from __future__ import annotations

from dataclasses import dataclass

from vbdev.vocab import DifCheck

WIDTHS = (16, 32, 64)
POLYNOMIALS = (0x8BB7, 0x1EDC6F41, 0xAD93D23594C93659)
REF_TAG_BITS = (32, 64, 48)


def _reflect(value, width):
    return int(format(value, f"0{width}b")[::-1], 2)


def _table(pi_format):
    width, poly = WIDTHS[pi_format], POLYNOMIALS[pi_format]
    out = []
    for byte in range(256):
        if pi_format == 0:
            crc = byte << 8
            for _ in range(8):
                crc = ((crc << 1) ^ (poly if crc & 0x8000 else 0)) & 0xFFFF
        else:
            crc = byte
            for _ in range(8):
                crc = (crc >> 1) ^ (_reflect(poly, width) if crc & 1 else 0)
        out.append(crc)
    return out


TABLES = [_table(f) for f in range(3)]


def guard(pi_format, data):
    """One byte at a time."""
    table = TABLES[pi_format]
    if pi_format == 0:
        crc = 0
        for byte in data:
            crc = ((crc << 8) & 0xFFFF) ^ table[(crc >> 8) ^ byte]
        return crc
    ones = (1 << WIDTHS[pi_format]) - 1
    crc = ones
    for byte in data:
        crc = (crc >> 8) ^ table[(crc ^ byte) & 0xFF]
    return crc ^ ones


@dataclass(frozen=True)
class Twin:
    """The arguments of `Dif`; the methods work on one block's data and metadata."""

    block_size: int
    md_len: int
    md_interleave: bool
    dif_type: int
    dif_is_head_of_md: bool
    dif_check_flags: int
    dif_pi_format: int

    @property
    def data_size(self):
        return self.block_size - (self.md_len if self.md_interleave else 0)

    @property
    def pi_size(self):
        return (8, 16, 16)[self.dif_pi_format]

    @property
    def pi_at(self):
        return 0 if self.dif_is_head_of_md else self.md_len - self.pi_size

    def ref_mask(self):
        return (1 << REF_TAG_BITS[self.dif_pi_format]) - 1

    def pack(self, guard_value, app_tag, ref_tag):
        """Protection information as bytes."""
        ref_tag &= self.ref_mask()
        app = app_tag.to_bytes(2, "big")
        if self.dif_pi_format == 0:
            return guard_value.to_bytes(2, "big") + app + ref_tag.to_bytes(4, "big")
        if self.dif_pi_format == 1:
            return guard_value.to_bytes(4, "big") + app + bytes(2) + ref_tag.to_bytes(8, "big")
        return guard_value.to_bytes(8, "big") + app + ref_tag.to_bytes(6, "big")

    def unpack(self, md):
        """Return (guard, application tag, reference tag)."""
        pi = md[self.pi_at : self.pi_at + self.pi_size]
        size = WIDTHS[self.dif_pi_format] // 8
        tag = pi[-(REF_TAG_BITS[self.dif_pi_format] // 8) :]
        return (
            int.from_bytes(pi[:size], "big"),
            int.from_bytes(pi[size : size + 2], "big"),
            int.from_bytes(tag, "big"),
        )

    def tag_of(self, first, index):
        return (first + (index if self.dif_type != 3 else 0)) & self.ref_mask()

    def covered(self, data, md):
        return data + md[: self.pi_at]

    def generate(self, data, md, index, ref_tag, app_tag=0, escape=False):
        """Return the block's metadata with protection information in it."""
        value = guard(self.dif_pi_format, self.covered(data, md))
        tag = self.ref_mask() if escape else self.tag_of(ref_tag, index)
        pi = self.pack(value, 0xFFFF if escape else app_tag, tag)
        return md[: self.pi_at] + pi + md[self.pi_at + self.pi_size :]

    def escaped(self, md):
        _, app, ref = self.unpack(md)
        return app == 0xFFFF and (self.dif_type != 3 or ref == self.ref_mask())

    def verify(self, data, md, index, ref_tag, app_tag=0, app_mask=0xFFFF, exclude=0):
        """Return None or (index, check, expected, actual)."""
        checks = self.dif_check_flags & ~exclude
        got_guard, app, ref = self.unpack(md)
        if self.escaped(md):
            return None
        want = guard(self.dif_pi_format, self.covered(data, md))
        if checks & DifCheck.GUARD and got_guard != want:
            return index, DifCheck.GUARD, want, got_guard
        if checks & DifCheck.APPTAG and app & app_mask != app_tag:
            return index, DifCheck.APPTAG, app_tag, app & app_mask
        tag = self.tag_of(ref_tag, index)
        if checks & DifCheck.REFTAG and self.dif_type != 3 and ref != tag:
            return index, DifCheck.REFTAG, tag, ref
        return None

    def blocks(self, data, md):
        """Split one buffer (and separate metadata) into [(data, metadata)]."""
        out = []
        for i in range(len(data) // self.block_size):
            block = bytes(data[i * self.block_size : (i + 1) * self.block_size])
            if self.md_interleave:
                out.append((block[: self.data_size], block[self.data_size :]))
            else:
                out.append((block, bytes(md[i * self.md_len : (i + 1) * self.md_len])))
        return out

    def join(self, blocks):
        """Undo `blocks`."""
        if self.md_interleave:
            return b"".join(d + m for d, m in blocks), b""
        return b"".join(d for d, _ in blocks), b"".join(m for _, m in blocks)
