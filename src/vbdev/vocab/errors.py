"""What fails, in words and as an errno: of the control path, and of an I/O that is awaited."""

from __future__ import annotations

__all__ = ["BdevError", "IoError"]


class BdevError(Exception):
    """A control-path failure: `errno` as SPDK would return it, and a sentence for a person."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.errno = number


class IoError(BdevError):
    """An awaited I/O ended with another status than SUCCESS."""

    def __init__(self, status: int, number: int, message: str) -> None:
        super().__init__(number, message)
        self.status = status
