"""Row 4: a file through io_uring, beside fio's io_uring engine with the same file."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

from bench.clients import fio_job, fio_sample, fio_words, run
from bench.figures import Goal, Sample
from bench.runner import Plan, Row, Side, Work
from bench.servers import SIZE_BYTES, absent

__all__ = ["ROWS"]

QUEUE_DEPTH = 32
WARMUP_S = 0.1


def ours(file: Path, *, direct: bool, seconds: float) -> Sample:
    """Load the uring module for a while; thousands of I/Os a second."""
    words = [
        sys.executable, "-m", "vbdev", "bench", f"uring:{file},block_size=4096,direct={direct}",
        "--read-only", "-w", "randread", "-q", str(QUEUE_DEPTH), "-t", str(seconds),
        "--warmup", str(WARMUP_S), "--json",
    ]  # fmt: skip
    result = json.loads(run(words, seconds))
    more = {"p99 us": result["latency_us"]["p99"], "batch": result["batch_mean"]}
    return Sample(result["iops"] / 1000, more)


def fio(file: Path, *, direct: bool, together: bool, seconds: float) -> Sample:
    """Load the same file with fio. together: it submits and reaps the whole queue at once."""
    words = [
        *fio_words("randread", QUEUE_DEPTH, 1, seconds), "--ioengine=io_uring",
        f"--filename={file}", f"--direct={int(direct)}", "--invalidate=0",
        "--registerfiles", "--fixedbufs", "--nonvectored=1",
    ]  # fmt: skip
    if together:
        words += [
            f"--iodepth_batch_submit={QUEUE_DEPTH}",
            "--iodepth_batch_complete_min=1",
            f"--iodepth_batch_complete_max={QUEUE_DEPTH}",
        ]
    return fio_sample(fio_job(words, seconds))


@contextlib.contextmanager
def disk_file(plan: Plan) -> Iterator[Path]:
    """Make a file full of data, all of it on the disk and in the page cache."""
    file = plan.disk_directory / "bench.img"
    try:
        with file.open("wb") as image:
            piece = bytes(range(256)) * 4096
            for _ in range(SIZE_BYTES // len(piece)):
                image.write(piece)
        run(["sync", "-d", str(file)], 60)
        yield file
    finally:
        file.unlink(missing_ok=True)


def file_disk(plan: Plan) -> Generator[Work]:
    """Measure both ways to a file: through the page cache and past it."""
    missing = absent("fio")
    with disk_file(plan) as file:
        for name, direct in (("page cache", False), ("O_DIRECT", True)):
            if not direct:
                file.read_bytes()
            sides = [
                Side(
                    name="vbdev",
                    role="ours",
                    measure=lambda direct=direct: ours(file, direct=direct, seconds=plan.seconds),
                    copies="none",
                )
            ]
            for peer, together in (("fio io_uring", False), ("fio io_uring in batches", True)):
                sides.append(
                    Side(
                        name=peer,
                        measure=lambda direct=direct, together=together: fio(
                            file, direct=direct, together=together, seconds=plan.seconds
                        ),
                        missing=missing,
                        copies="none",
                    )
                )
            yield Work(
                name=f"uring over a file, {name}, randread, queue depth {QUEUE_DEPTH}",
                unit="thousand IOPS",
                goal=Goal(0.95, 1.05),
                sides=sides,
            )


ROWS = [Row("4", "A file through io_uring", "fio --ioengine=io_uring, same file", file_disk)]
