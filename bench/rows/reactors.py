"""Row 10: two reactors beside one.

Loads that the reactors make themselves show what two can do. Over NBD clients want CPUs too: on two
CPUs, with a client that takes as much of them as the server, one reactor has the machine's limit
already. So the CPU time that both take for each I/O stands beside those figures.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path

from bench.clients import CLIENTS, fill, fio_syscalls, run
from bench.figures import Goal, Role, Sample
from bench.rows.files import disk_file
from bench.runner import Plan, Row, Side, Work
from bench.servers import SIZE_BYTES, Server, absent, start, vbdev
from vbdev.core.load.copy_limit import CopyLimit

__all__ = ["ROWS"]

SIDES: dict[int, tuple[str, Role]] = {
    2: ("vbdev, two reactors", "ours"),
    1: ("vbdev, one reactor", "peer"),
}
"""{number of reactors: (name, role)}."""
GOAL = Goal(1.5, 1.9)
QUEUE_DEPTH = 32
WARMUP_S = 0.3
BLOCK_SIZE = 4096
DISK_BYTES = 128 << 20
"""More than caches hold, and little enough for the warm-up to write all of it once."""
CHECKED = "md_size=8,md_interleave=false,dif_type=1"
COPIES = 4096
"""Blocks that are copied between two looks at the clock."""


def load(words: list[str], workload: str, reactors: int, seconds: float) -> Sample:
    """Load a passthru for a while, each reactor with a queue of its own; thousand IOPS."""
    command = [
        sys.executable, "-m", "vbdev", "bench", *words, "-w", workload, "-q", str(QUEUE_DEPTH),
        "-o", str(BLOCK_SIZE), "-t", str(seconds), "--warmup", str(WARMUP_S),
        "--reactors", str(reactors), "--json",
    ]  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_nvcsw
    result = json.loads(run(command, seconds))
    switches = resource.getrusage(resource.RUSAGE_CHILDREN).ru_nvcsw - before
    return Sample(
        result["iops"] / 1000,
        {
            "p99 us": result["latency_us"]["p99"],
            "batch": result["batch_mean"],
            "switches of threads per thousand I/Os": 1000 * switches / result["ios"],
        },
    )


def by_themselves(plan: Plan, name: str, words: list[str], workload: str) -> Work:
    """Return a work in which reactors make their load themselves."""
    seconds = min(plan.seconds, 1.0)
    words = [*words, "--layer", "passthru"]
    return Work(
        name=f"{name}, {workload}, queue depth {QUEUE_DEPTH} each",
        unit="thousand IOPS",
        goal=GOAL,
        sides=[
            Side(name=side, role=role, measure=partial(load, words, workload, number, seconds))
            for number, (side, role) in SIDES.items()
        ],
    )


def copied(limits: list[CopyLimit], seconds: float) -> Sample:
    """Write blocks in a thread for each memory; thousands a second, all together."""
    done = [0] * len(limits)
    end = time.perf_counter() + seconds

    def work(index: int) -> None:
        while time.perf_counter() < end:
            limits[index].run(COPIES, True)
            done[index] += COPIES

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(limits))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Sample(sum(done) / seconds / 1000)


def memcpy_alone(plan: Plan) -> Work:
    """Return a work that shows what a second CPU is worth here where nothing is shared."""
    limits = [CopyLimit(DISK_BYTES, BLOCK_SIZE, QUEUE_DEPTH) for _ in SIDES]
    for limit in limits:
        limit.fill()
    seconds = min(plan.seconds, 0.5)
    return Work(
        name="memcpy alone, write: what this machine has for two",
        unit="thousand blocks of 4 KiB a second",
        sides=[
            Side(name="two threads", role="ours", measure=partial(copied, limits, seconds)),
            Side(name="one thread", measure=partial(copied, limits[:1], seconds)),
        ],
    )


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def with_cpu_time(server: Server, measure: Callable[[], Sample], seconds: float) -> Sample:
    """Measure, and say how much CPU time client and server took for each I/O."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    of_server = cpu_seconds(server.pid)
    sample = measure()
    of_server = cpu_seconds(server.pid) - of_server
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    of_client = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    ios = sample.value * 1000 * seconds
    more = {
        "server's CPU time for an I/O, us": of_server / ios * 1e6,
        "client's": of_client / ios * 1e6,
    }
    return Sample(sample.value, sample.more | more)


@contextlib.contextmanager
def servers(plan: Plan, words: list[str], *, filled: bool) -> Iterator[dict[int, Server | str]]:
    """Serve a disk with two reactors and with one; a number's server, or why there is none."""
    missing = absent("fio")
    with contextlib.ExitStack() as stack:
        found: dict[int, Server | str] = {}
        for number in SIDES:
            words_of = [*words, "--layer", "passthru", "--reactors", str(number)]
            server: Server | str = missing or start(
                stack, lambda words_of=words_of: vbdev(plan.directory, *words_of)
            )
            if filled and isinstance(server, Server):
                fill(server)
            found[number] = server
        yield found


def over_nbd(
    plan: Plan,
    found: dict[int, Server | str],
    name: str,
    client: str,
    goal: Goal | None,
    io_size: int = BLOCK_SIZE,
) -> Work:
    """Return a work in which two connections read."""
    sides = []
    for number, (side, role) in SIDES.items():
        server = found[number]
        if isinstance(server, str):
            sides.append(Side(name=side, role=role, missing=server))
            continue

        def measure(server: Server = server) -> Sample:
            one = partial(
                CLIENTS[client], server, "randread", QUEUE_DEPTH, 2, plan.seconds, io_size=io_size
            )
            return with_cpu_time(server, one, plan.seconds)

        def count(server: Server = server) -> dict[str, float]:
            return fio_syscalls(server, "randread", QUEUE_DEPTH, 2)

        plain = client == "fio" and io_size == BLOCK_SIZE
        sides.append(Side(name=side, role=role, measure=measure, count=count if plain else None))
    return Work(
        name=f"{name}, NBD randread {io_size >> 10} KiB, 2 connections, {client}",
        unit="thousand IOPS",
        goal=goal,
        sides=sides,
    )


def two_reactors(plan: Plan) -> Generator[Work]:
    """Measure reactors that make their load themselves, then two connections."""
    memory = f"malloc:{DISK_BYTES},block_size={BLOCK_SIZE}"
    # Of a disk in memory that nobody has written one would read a single page, out of cache.
    yield by_themselves(plan, "malloc", [memory], "randwrite")
    yield by_themselves(plan, "malloc", [memory], "randrw")
    yield by_themselves(plan, "malloc with checksums", [f"{memory},{CHECKED}"], "randwrite")
    with disk_file(plan) as file:
        # Several daemons have the file at once, so all only read.
        cached = [f"uring:{file},block_size={BLOCK_SIZE},direct=no", "--read-only"]
        yield by_themselves(plan, "uring in page cache", cached, "randread")
        yield memcpy_alone(plan)
        if not plan.quick:
            with servers(plan, cached, filled=False) as found:
                yield over_nbd(plan, found, "uring in page cache", "fio", GOAL)
    disk = f"malloc:{SIZE_BYTES},block_size={BLOCK_SIZE}"
    with servers(plan, [disk], filled=True) as found:
        for client in CLIENTS:
            yield over_nbd(plan, found, "malloc", client, GOAL)
    with servers(plan, [f"{disk},{CHECKED}"], filled=True) as found:
        for client in CLIENTS:
            yield over_nbd(plan, found, "malloc with checksums", client, GOAL, 64 << 10)


ROWS = [Row("10", "Two reactors", "one", two_reactors)]
