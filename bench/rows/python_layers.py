"""Rows 7 and 8: layers that their user wrote in Python, beside nbdkit's Python plugin."""

from __future__ import annotations

from collections.abc import Callable, Generator

from bench.figures import Goal
from bench.rows.nbd import random_works, running
from bench.runner import Plan, Row, Work
from bench.servers import SERVED, SIZE_BYTES, vbdev

__all__ = ["ROWS"]

QUEUE_DEPTH = 64
PEER = "nbdkit python"


LOOKS = {
    "columns": ("Python looks at offsets, NBD", Goal(4, 10)),
    "coroutines": ("one coroutine for each I/O, NBD", Goal(2, 4)),
}
"""{what is served: (what it does, what it is to reach)}; the files are in `served`."""


def looking(kind: str) -> Callable[[Plan], Generator[Work]]:
    """Return what measures a vbdev that looks at each I/O's offset, as the peer does."""

    def measure(plan: Plan) -> Generator[Work]:
        name, goal = LOOKS[kind]
        with running(
            plan,
            lambda: vbdev(
                plan.directory,
                f"malloc:{SIZE_BYTES},block_size=4096",
                *("--module", str(SERVED / f"{kind}.py"), "--layer", kind),
            ),
            PEER,
        ) as servers:
            for rw in ("randread",) if plan.quick else ("randread", "randwrite"):
                yield from random_works(servers, plan, name, goal, rw=rw, queue_depth=QUEUE_DEPTH)

    return measure


ROWS = [
    Row("7", "A vbdev in plain Python, by columns", "nbdkit's Python plugin", looking("columns")),
    Row("8", "A vbdev of coroutines", "nbdkit's Python plugin", looking("coroutines")),
]
