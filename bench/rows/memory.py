"""Row 3: a memory disk beside the memcpy that it can not do without, in this process."""

from __future__ import annotations

import time
from collections.abc import Generator

from bench.figures import Goal, Sample
from bench.runner import Plan, Row, Side, Work
from bench.stacks import WARMUP_S, stacks
from vbdev.core.load.copy_limit import CopyLimit
from vbdev.modules.malloc import Malloc, MallocParams

__all__ = ["ROWS"]

SIZE_BYTES = 256 << 20
BLOCK_SIZE = 4096
QUEUE_DEPTH = 32
PIECE = 4096
"""I/Os that are copied between two looks at the clock."""
SPDK_MIOPS = 1.6


def copied(limit: CopyLimit, seconds: float, *, write: bool) -> Sample:
    """Copy blocks for a while; millions a second."""
    for wanted in (WARMUP_S, seconds):
        done, start = 0, time.perf_counter()
        while (taken := time.perf_counter() - start) < wanted:
            limit.run(PIECE, write)
            done += PIECE
    return Sample(done / taken / 1e6)


def memory_disk(plan: Plan) -> Generator[Work]:
    """Measure random I/O on malloc and the copying alone, in memory of the same size."""
    seconds = min(plan.seconds, 1.0)
    with stacks() as lent:
        params = MallocParams(
            name="memory", num_blocks=SIZE_BYTES // BLOCK_SIZE, block_size=BLOCK_SIZE
        )
        name = lent.create(Malloc, params)
        lent.fill(name)
        limit = CopyLimit(SIZE_BYTES, BLOCK_SIZE, QUEUE_DEPTH)
        limit.fill()
        for workload in ("randread", "randwrite"):

            def ours(workload: str = workload) -> Sample:
                result = lent.load(name, workload, QUEUE_DEPTH, seconds)
                return Sample(result.iops / 1e6, {"batch": result.batch_mean})

            def alone(workload: str = workload) -> Sample:
                return copied(limit, seconds, write=workload == "randwrite")

            yield Work(
                name=f"malloc, {workload}, queue depth {QUEUE_DEPTH}",
                unit="million IOPS",
                goal=Goal(0.8, 0.95),
                sides=[
                    Side(name="vbdev", role="ours", measure=ours, copies="1"),
                    Side(name="memcpy alone", measure=alone, copies="1"),
                    Side(name="SPDK, recorded", role="recorded", recorded=[SPDK_MIOPS]),
                ],
            )


ROWS = [
    Row(
        "3",
        "A disk in memory",
        "memcpy of the same blocks in the same order",
        memory_disk,
    )
]
