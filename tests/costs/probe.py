"""Probe: says to whatever tool watches this process where to count. The C half is probe.c."""

from __future__ import annotations

import ctypes
import os


class Probe:
    """`with probe:` encloses what is counted; `part` ends a count, and names it."""

    def __init__(self, library: str) -> None:
        self._c = ctypes.CDLL(library)
        self._on, self._off = self._c.costs_on, self._c.costs_off
        self._copied = ctypes.c_ulong.in_dll(self._c, "costs_copied")
        self._allocations = ctypes.c_ulong.in_dll(self._c, "costs_allocations")
        self._times = 0
        self._c.costs_start()

    def __enter__(self) -> None:
        self._times += 1
        self._on()

    def __exit__(self, *_exception: object) -> None:
        self._off()

    def part(self, name: str) -> dict[str, int]:
        """End a count; return the part of it that needs no tool.

        How often it was gone in, and (where the library is preloaded) bytes copied, allocations.
        """
        counts = {
            "times": self._times,
            "bytes copied": self._copied.value,
            "allocations": self._allocations.value,
        }
        self._times = self._copied.value = self._allocations.value = 0
        self._c.costs_part(os.fsencode(name))
        return counts
