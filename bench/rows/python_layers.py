"""Rows 7 and 8: layers that their user wrote in Python, beside nbdkit's Python plugin."""

from __future__ import annotations

from collections.abc import Generator

from bench.figures import Goal
from bench.rows.nbd import random_works, running
from bench.runner import Plan, Row, Work
from bench.servers import SERVED, SIZE_BYTES, vbdev

__all__ = ["ROWS"]

QUEUE_DEPTH = 64
PEER = "nbdkit python"


def columns(plan: Plan) -> Generator[Work]:
    """Measure a vbdev that looks at each I/O's offset, batch by batch."""
    with running(
        plan,
        lambda: vbdev(
            plan.directory,
            f"malloc:{SIZE_BYTES},block_size=4096",
            *("--module", str(SERVED / "columns.py"), "--layer", "columns"),
        ),
        PEER,
    ) as servers:
        for rw in ("randread",) if plan.quick else ("randread", "randwrite"):
            yield from random_works(
                servers,
                plan,
                "Python looks at offsets, NBD",
                Goal(4, 10),
                rw=rw,
                queue_depth=QUEUE_DEPTH,
            )


def coroutines(_plan: Plan) -> Generator[Work]:
    """Say that there is no such thing yet."""
    yield Work(
        name=f"one coroutine for each I/O, NBD, queue depth {QUEUE_DEPTH}",
        unit="thousand IOPS",
        goal=Goal(2, 4),
        problem="not built: a vbdev is handed batches, and no coroutine for each I/O",
    )


ROWS = [
    Row("7", "A vbdev in plain Python, by columns", "nbdkit's Python plugin", columns),
    Row("8", "A vbdev of coroutines", "nbdkit's Python plugin", coroutines),
]
