"""Bytes that arrived and are not yet understood."""

from __future__ import annotations

from typing import TypeAlias

__all__ = ["BytesLike", "ReceiveBuffer"]

BytesLike: TypeAlias = "bytes | bytearray | memoryview"
"""What `feed` takes; nothing of it is kept beyond the call except by copy."""


class ReceiveBuffer:
    """A queue of bytes that can also swallow bytes which have not arrived yet.

    `take` gives all or nothing, so that a message is looked at only once it is whole. Each byte
    is copied in once and out once: time is linear in the bytes, however they were cut.
    """

    __slots__ = ("_data", "_skip_bytes")

    def __init__(self) -> None:
        self._data = bytearray()
        self._skip_bytes = 0

    def __len__(self) -> int:
        return len(self._data)

    @property
    def at_boundary(self) -> bool:
        """Whether the last byte that arrived was also the last one of what was asked."""
        return not self._data and not self._skip_bytes

    def feed(self, data: BytesLike) -> None:
        """Append `data`, less what is to be skipped."""
        if self._skip_bytes:
            skipped = min(self._skip_bytes, len(data))
            self._skip_bytes -= skipped
            data = memoryview(data)[skipped:]
        self._data += data

    def skip(self, length_bytes: int) -> None:
        """Drop the next `length_bytes`, those that have not arrived included."""
        here = min(length_bytes, len(self._data))
        del self._data[:here]
        self._skip_bytes += length_bytes - here

    def take(self, length_bytes: int) -> bytes | None:
        """Return and remove the next `length_bytes`, or None where fewer have arrived."""
        if len(self._data) < length_bytes:
            return None
        with memoryview(self._data) as view:
            taken = bytes(view[:length_bytes])
        del self._data[:length_bytes]
        return taken

    def rest(self) -> bytes:
        """Return, without removing it, all that has arrived."""
        return bytes(self._data)
