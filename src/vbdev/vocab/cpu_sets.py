"""Sets of CPUs as SPDK's options and methods write them, and the cores that they mean.

0x5  5  [0,2]  [0-3,6]        a mask in hexadecimal, or a list
0,2@(5-7),(0-1)@3,(4,6)       cores (DPDK: lcores), each with the CPUs that it may run on
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final

__all__ = [
    "ANY_NODE",
    "MAX_CPUS",
    "Core",
    "node_of_cpus",
    "parse_core_map",
    "parse_cpu_set",
    "show_cpu_mask",
    "usable_cpus",
]

MAX_CPUS: Final = 1024
"""CPUs are numbered below this (CPU_SETSIZE of sched_setaffinity(2))."""


def usable_cpus() -> set[int]:
    """Return the CPUs that the calling thread may run on; all, where a sandbox does not tell."""
    try:
        return os.sched_getaffinity(0)
    except OSError:
        return set(range(os.cpu_count() or 1))


ANY_NODE: Final = -1
"""What stands for a NUMA node where it may be any (SPDK_ENV_NUMA_ID_ANY)."""
CPU_DIRECTORY: Final = "/sys/devices/system/cpu"

_MASK = re.compile(r"(?:0[xX])?([0-9a-fA-F]+)")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
_CORES = re.compile(r"(\([^()]*\)|[^(),@]+)(?:@(\([^()]*\)|[^(),@]+))?(?:,|$)")


@dataclass(frozen=True, slots=True)
class Core:
    """A number under which a reactor is known (SPDK: lcore), and where it may run.

    No CPUs: wherever the kernel puts it.
    """

    number: int
    cpus: frozenset[int] = frozenset()


def node_of_cpus(cpus: frozenset[int], directory: str = CPU_DIRECTORY) -> int:
    """Return the NUMA node that all of these CPUs belong to, or ANY_NODE where there is none."""
    nodes = set()
    for cpu in cpus:
        try:
            entries = os.listdir(f"{directory}/cpu{cpu}")  # noqa: PTH208 - names are wanted
        except OSError:  # no such CPU here
            return ANY_NODE
        found = [int(name[4:]) for name in entries if re.fullmatch(r"node\d+", name)]
        nodes.update(found or [ANY_NODE])
    return nodes.pop() if len(nodes) == 1 else ANY_NODE


def parse_cpu_set(text: str) -> frozenset[int]:
    """Read a mask (`0x3`) or a list (`[0,1]`, `[0-3]`); at least one CPU. ValueError."""
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        cpus = _ranges(text[1:-1])
    elif found := _MASK.fullmatch(text):
        mask = int(found[1], 16)
        if mask.bit_length() > MAX_CPUS:
            raise ValueError(f"{text!r} has CPUs above {MAX_CPUS - 1}")
        cpus = frozenset(cpu for cpu in range(mask.bit_length()) if mask >> cpu & 1)
    else:
        raise ValueError(f"{text!r} is no set of CPUs; write a mask like 0x3 or a list like [0,1]")
    if not cpus:
        raise ValueError(f"{text!r} has no CPU")
    return cpus


def parse_core_map(text: str) -> list[Core]:
    """Read what DPDK's --lcores takes; the cores by number. ValueError.

    Cores and CPUs are numbers, ranges, or several of them in parentheses. Each core may run on all
    CPUs behind its `@`; without one a core alone runs on the CPU of its number, and those in
    parentheses on the CPUs of all their numbers.
    """
    cores: dict[int, Core] = {}
    position = 0
    text = text.strip()
    while position < len(text):
        found = _CORES.match(text, position)
        if found is None or (found[0].endswith(",") and found.end() == len(text)):
            raise ValueError(f"{text!r} is no map of cores; write one like 0,1@(4-7)")
        position = found.end()
        numbers = _ranges(found[1].strip("()"))
        for number in numbers:
            if number in cores:
                raise ValueError(f"{text!r} has core {number} twice")
            grouped = numbers if found[1].startswith("(") else frozenset({number})
            cores[number] = Core(number, _ranges(found[2].strip("()")) if found[2] else grouped)
    if not cores:
        raise ValueError("there is no core in an empty map")
    return sorted(cores.values(), key=lambda core: core.number)


def show_cpu_mask(cpus: frozenset[int] | set[int]) -> str:
    """Return a set of CPUs as SPDK's answers have it: hexadecimal without a prefix."""
    return f"{sum(1 << cpu for cpu in cpus):x}"


def _ranges(text: str) -> frozenset[int]:
    cpus: set[int] = set()
    for part in text.split(","):
        found = _RANGE.fullmatch(part.strip())
        if found is None:
            raise ValueError(f"{part!r} is no number of a CPU, and no range like 0-3")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise ValueError(f"{part!r} ends before it begins")
        if last >= MAX_CPUS:
            raise ValueError(f"CPU {last}: the last one can be {MAX_CPUS - 1}")
        cpus.update(range(first, last + 1))
    return frozenset(cpus)
