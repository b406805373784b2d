"""What loads a server, and what counts meanwhile."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.figures import Sample
from bench.servers import SIZE_BYTES, Server, absent, die_with_parent

__all__ = [
    "CLIENTS",
    "fill",
    "fio",
    "fio_job",
    "fio_sample",
    "fio_syscalls",
    "fio_words",
    "nbdcopy",
    "own",
    "run",
]

COUNTED_S = 0.5
WARMUP_S = 0.1


def run(words: list[str], seconds: float) -> str:
    """Run a program that ends by itself after so many seconds; return what it prints.

    RuntimeError with the last line of its messages, when it fails or does not end.
    """
    try:
        answer = subprocess.run(
            words,
            check=True,
            capture_output=True,
            text=True,
            timeout=seconds + 60,
            stdin=subprocess.DEVNULL,
            preexec_fn=die_with_parent,
        )
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or error.stdout).strip().splitlines() or ["no message"]
        raise RuntimeError(f"{words[0]} failed: {lines[-1]}") from None
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{words[0]} did not end") from None
    return answer.stdout


def fio_words(
    rw: str, queue_depth: int, jobs: int, seconds: float, io_size: int = 4096
) -> list[str]:
    """Return the options that all of fio's runs have."""
    return [
        "fio",
        "--name=b",
        f"--rw={rw}",
        f"--bs={io_size}",
        f"--iodepth={queue_depth}",
        f"--numjobs={jobs}",
        "--thread",
        "--group_reporting",
        "--time_based",
        f"--runtime={round(seconds * 1000)}ms",
        f"--size={SIZE_BYTES}",
        "--randrepeat=0",
        "--norandommap",
        "--output-format=json",
    ]


def fio_job(words: list[str], seconds: float) -> dict[str, Any]:
    """Run fio, and return its one job's side that did something: `read` or `write`."""
    out = run(words, seconds)
    job = json.loads(out[out.index("{\n") :])["jobs"][0]
    side: dict[str, Any] = job["write"] if job["write"]["total_ios"] else job["read"]
    return side


def fio_sample(side: dict[str, Any]) -> Sample:
    """Return a side's thousands of I/Os a second, and the 99th percentile of latency."""
    p99_us = side["clat_ns"]["percentile"]["99.000000"] / 1000
    return Sample(side["iops"] / 1000, {"p99 us": p99_us})


def fio(
    server: Server,
    rw: str,
    queue_depth: int,
    connections: int,
    seconds: float,
    io_size: int = 4096,
) -> Sample:
    """Load an NBD server; thousands of I/Os a second, and the 99th percentile of latency."""
    words = [*fio_words(rw, queue_depth, connections, seconds, io_size), "--ioengine=nbd"]
    return fio_sample(fio_job([*words, f"--uri={server.uri}"], seconds))


def own(
    server: Server,
    rw: str,
    queue_depth: int,
    connections: int,
    seconds: float,
    io_size: int = 4096,
) -> Sample:
    """Load an NBD server through the nbd module, as `fio` does: each connection has its queue."""
    words = [
        sys.executable, "-m", "vbdev", "bench", f"{server.uri},connections={connections}",
        "-w", rw, "-o", str(io_size), "-q", str(queue_depth * connections), "-t", str(seconds),
        "--warmup", str(WARMUP_S), "--json",
    ]  # fmt: skip
    result = json.loads(run(words, seconds))
    more = {"p99 us": result["latency_us"]["p99"], "client's batch": result["batch_mean"]}
    return Sample(result["iops"] / 1000, more)


CLIENTS = {"fio": fio, "vbdev bench": own}
"""{name: what loads a server: with what, how deep, over how many connections, how long}."""


def fill(server: Server) -> None:
    """Write all of a disk once, so that no READ is of memory that nobody has touched."""
    run(
        [
            "fio", "--name=fill", "--ioengine=nbd", f"--uri={server.uri}", "--rw=write",
            "--bs=1M", "--iodepth=4", f"--size={SIZE_BYTES}", "--thread",
        ],
        60,
    )  # fmt: skip


def nbdcopy(source: str, target: str, connections: int) -> Sample:
    """Copy a disk; MB a second."""
    words = [
        "nbdcopy", f"--connections={connections}", "--requests=64", "--request-size=262144",
        source, target,
    ]  # fmt: skip
    start = time.perf_counter()
    run(words, 60)
    return Sample(SIZE_BYTES / 1e6 / (time.perf_counter() - start))


def can_count() -> str:
    """Return why system calls can not be counted here; nothing where they can."""
    if missing := absent("perf"):
        return missing
    answer = subprocess.run(
        ["perf", "stat", "-x,", "-e", "raw_syscalls:sys_enter", "true"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return "" if re.search(r"^\d+,", answer.stderr, re.MULTILINE) else "perf may not count"


def syscalls_per_io(pid: int, words: list[str], *, seconds: float = COUNTED_S) -> dict[str, float]:
    """Run fio with these words, and count the system calls of a server meanwhile.

    Nothing where the kernel does not let perf count.
    """
    if can_count():
        return {}
    with tempfile.NamedTemporaryFile("r", suffix=".perf") as counts:
        side = fio_job(
            ["perf", "stat", "-x,", "-e", "raw_syscalls:sys_enter", "-p", str(pid), "-o",
             counts.name, "--", *words],
            seconds,
        )  # fmt: skip
        found = re.search(r"^(\d+),", Path(counts.name).read_text(), re.MULTILINE)
    if found is None or not side["total_ios"]:
        return {}
    return {"system calls per I/O": int(found.group(1)) / side["total_ios"]}


def fio_syscalls(server: Server, rw: str, queue_depth: int, connections: int) -> dict[str, float]:
    """Count a server's system calls for each I/O under fio."""
    words = [*fio_words(rw, queue_depth, connections, COUNTED_S), "--ioengine=nbd"]
    return syscalls_per_io(server.pid, [*words, f"--uri={server.uri}"])
