"""A claim of a bdev, as it stands: who keeps others from writing it, and how.

How claims are made and given back is `vbdev.registry.claims`.
"""

from __future__ import annotations

from dataclasses import dataclass

from vbdev.bdev.host import Opener
from vbdev.vocab import ClaimType

__all__ = ["Claim", "ClaimHold"]


@dataclass(frozen=True, slots=True)
class ClaimHold:
    """One module's part in a claim."""

    module: str
    """Kind of the module."""
    name: str
    """Whom log lines and refusals name."""
    descriptor: Opener | None
    """What the claim ends with; None for `exclusive_write`, which is released."""


class Claim:
    """What stands in a claimed bdev's `Entry.claim`."""

    __slots__ = ("holds", "key", "kind")

    def __init__(self, kind: ClaimType, key: int = 0) -> None:
        self.kind = kind
        self.key = key
        """The key that those who share `read_many_write_shared` have agreed on."""
        self.holds: list[ClaimHold] = []

    @property
    def holder(self) -> str:
        """Say who holds it."""
        return ", ".join(hold.name for hold in self.holds)

    @property
    def modules(self) -> list[str]:
        """Kinds of the modules that hold it, each once, in the order they came."""
        return list(dict.fromkeys(hold.module for hold in self.holds))

    def of(self, descriptor: Opener) -> ClaimHold | None:
        """Return what a descriptor holds of it."""
        return next((hold for hold in self.holds if hold.descriptor is descriptor), None)
