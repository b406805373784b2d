"""What a structured reply has brought so far, held against its request."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vbdev.wire.nbd.constants import MAX_CHUNK_PIECES, CommandFlag

if TYPE_CHECKING:
    from vbdev.wire.nbd.transmission import Request

__all__ = ["PendingRequest"]


@dataclass(slots=True)
class PendingRequest:
    """A request whose reply has not ended.

    Pieces are the content of a READ, as sorted, disjoint ranges of bytes; neighbours are
    joined, so that a reply in order is one piece.
    """

    request: Request
    failed: bool = False
    contexts: set[int] = field(default_factory=set)
    piece_starts: list[int] = field(default_factory=list)
    piece_ends: list[int] = field(default_factory=list)

    def within(self, start: int, end: int) -> bool:
        """Whether these bytes belong to the request."""
        request = self.request
        return request.offset_bytes <= start <= end <= request.offset_bytes + request.length_bytes

    def add_piece(self, start: int, end: int) -> str | None:
        """Note content from `start` to `end`, joining neighbours; return a fault or None."""
        if start == end or not self.within(start, end):
            return "is empty or outside the request"
        starts, ends = self.piece_starts, self.piece_ends
        if starts and self.request.flags & CommandFlag.DF:
            return "is the second one despite NBD_CMD_FLAG_DF"
        # `at` is the first piece that begins after `start`.
        at = bisect_right(starts, start)
        if (at and ends[at - 1] > start) or (at < len(starts) and starts[at] < end):
            return "overlaps an earlier one"
        first, last = at, at
        if at and ends[at - 1] == start:
            first, start = at - 1, starts[at - 1]
        if at < len(starts) and starts[at] == end:
            last, end = at + 1, ends[at]
        starts[first:last], ends[first:last] = [start], [end]
        return "is one piece too many" if len(starts) > MAX_CHUNK_PIECES else None

    def add_status(self, context_id: int, extents: tuple[tuple[int, int], ...]) -> str | None:
        """Note the status of one context; return a fault or None."""
        length_bytes = self.request.length_bytes
        if context_id in self.contexts:
            return f"repeats context {context_id}"
        self.contexts.add(context_id)
        if not all(length for length, _ in extents):
            return "has an empty extent"
        if self.request.flags & CommandFlag.REQ_ONE:
            too_long = len(extents) > 1 or extents[0][0] > length_bytes
            return "exceeds NBD_CMD_FLAG_REQ_ONE" if too_long else None
        # The sum of all but the last MUST be less than the requested length.
        if len(extents) > 1 and sum(length for length, _ in extents[:-1]) >= length_bytes:
            return "goes on after the end of the request"
        return None

    @property
    def covered(self) -> bool:
        """Whether content has come for every byte of a READ."""
        request = self.request
        whole = request.offset_bytes, request.offset_bytes + request.length_bytes
        return not request.length_bytes or (
            len(self.piece_starts) == 1 and (self.piece_starts[0], self.piece_ends[0]) == whole
        )
