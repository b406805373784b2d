"""Row 10: two reactors beside one."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Generator
from functools import partial

from bench.clients import fill, fio, fio_syscalls, run
from bench.figures import Goal, Role, Sample
from bench.rows.files import disk_file
from bench.runner import Plan, Row, Side, Work
from bench.servers import SIZE_BYTES, Server, absent, start, vbdev

__all__ = ["ROWS"]

SIDES: dict[int, tuple[str, Role]] = {
    2: ("vbdev, two reactors", "ours"),
    1: ("vbdev, one reactor", "peer"),
}
"""{number of reactors: (name, role)}."""
QUEUE_DEPTH = 32
WARMUP_S = 0.3


def load(words: list[str], workload: str, io_size: str, reactors: int, seconds: float) -> Sample:
    """Load a passthru for a while, each reactor with a queue of its own; thousand IOPS."""
    command = [
        sys.executable, "-m", "vbdev", "bench", *words, "-w", workload, "-q", str(QUEUE_DEPTH),
        "-o", io_size, "-t", str(seconds), "--warmup", str(WARMUP_S), "--reactors", str(reactors),
        "--json",
    ]  # fmt: skip
    result = json.loads(run(command, seconds))
    more = {"p99 us": result["latency_us"]["p99"], "batch": result["batch_mean"]}
    return Sample(result["iops"] / 1000, more)


def two_reactors(plan: Plan) -> Generator[Work]:
    """Measure two connections, then reactors that make their load themselves."""
    with disk_file(plan) as file:
        bases = {
            "malloc": (f"malloc:{SIZE_BYTES},block_size=4096",),
            # Several daemons have the file at once, so all only read.
            "uring in page cache": (f"uring:{file},block_size=4096,direct=no", "--read-only"),
        }
        for name, base in bases.items():
            words = [*base, "--layer", "passthru"]
            # A disk in memory that nobody has written is one page of zeroes, which stays in cache.
            workload = "randwrite" if name == "malloc" else "randread"
            yield from over_nbd(plan, name, words)
            for io_size in ("4KiB",) if plan.quick else ("4KiB", "64KiB"):
                yield Work(
                    name=f"{name}, {workload} {io_size}, queue depth {QUEUE_DEPTH} each",
                    unit="thousand IOPS",
                    goal=Goal(1.5, 1.9),
                    sides=[
                        Side(
                            name=side,
                            role=role,
                            measure=partial(load, words, workload, io_size, number, plan.seconds),
                        )
                        for number, (side, role) in SIDES.items()
                    ],
                )


def over_nbd(plan: Plan, name: str, words: list[str]) -> Generator[Work]:
    """Measure two daemons, with two reactors and with one, under two connections."""
    missing = absent("fio")
    with contextlib.ExitStack() as stack:
        sides = []
        for number, (side, role) in SIDES.items():
            server: Server | str = missing or start(
                stack,
                lambda number=number: vbdev(plan.directory, *words, "--reactors", str(number)),
            )
            if isinstance(server, str):
                sides.append(Side(name=side, role=role, missing=server))
                continue
            if name == "malloc":
                fill(server)
            sides.append(
                Side(
                    name=side,
                    role=role,
                    measure=lambda server=server: fio(
                        server, "randread", QUEUE_DEPTH, 2, plan.seconds
                    ),
                    count=lambda server=server: fio_syscalls(server, "randread", QUEUE_DEPTH, 2),
                )
            )
        yield Work(
            name=f"{name}, NBD randread, queue depth {QUEUE_DEPTH}, 2 connections, fio",
            unit="thousand IOPS",
            goal=Goal(1.5, 1.9),
            sides=sides,
        )


ROWS = [Row("10", "Two reactors", "one", two_reactors)]
