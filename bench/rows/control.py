"""Row 9, I/O while the control plane works; and what the control plane does in a second."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Generator, Iterator

from bench.caller import Caller, Pace, request
from bench.clients import fio
from bench.figures import Goal, Sample
from bench.rows.nbd import OURS, passthru_over, running
from bench.runner import Plan, Row, Side, Work
from bench.servers import SERVED, SIZE_BYTES, Server, spawn, wait_for

__all__ = ["ROWS"]

CALLS_PER_S = 1000
PIPELINE = 10_000
SPDK_PAIRS = 63.0
"""SPDK looks for requests every 4 ms."""
SPDK_PIPELINE = [500 / 0.014, 500 / 0.011]


def latency_under_calls(plan: Plan) -> Generator[Work]:
    """Measure reads at a queue depth of 1 while calls come, and those of an nbdkit in peace."""
    base = f"malloc:{SIZE_BYTES},block_size=4096"
    with running(plan, passthru_over(base, plan), "nbdkit memory") as servers:

        def p99(server: Server) -> Sample:
            sample = fio(server, "randread", 1, 1, plan.seconds)
            return Sample(sample.more["p99 us"], {"thousand IOPS": sample.value})

        def called(server: Server) -> Sample:
            pace = Pace(server.rpc_socket, server.pid, CALLS_PER_S)
            with pace.running():
                sample = p99(server)
            return Sample(sample.value, sample.more | {"RPCs a second": pace.calls_per_s})

        sides = []
        for name, server in servers.items():
            role, measure = ("ours", called) if name == OURS else ("peer", p99)
            sides.append(
                Side(
                    name=name if role == "ours" else f"{name}, idle",
                    role="ours" if role == "ours" else "peer",
                    missing=server if isinstance(server, str) else "",
                    measure=None
                    if isinstance(server, str)
                    else lambda server=server, measure=measure: measure(server),
                )
            )
        yield Work(
            name=f"NBD randread, queue depth 1, p99, {CALLS_PER_S} RPCs a second",
            unit="us",
            goal=Goal(1.5, 1.0, at_most=True),
            sides=sides,
        )


@contextlib.contextmanager
def daemon(plan: Plan, *words: str) -> Iterator[Caller]:
    """Run served/daemon.py, and lend a connection to it."""
    path = plan.directory / f"{'busy' if words else 'rest'}.rpc"
    log = path.with_suffix(".log")
    command = [sys.executable, str(SERVED / "daemon.py"), str(path), *words]
    with spawn(command, log) as process:
        wait_for(path, process, log)
        with Caller(str(path), process.pid) as caller:
            yield caller


def pairs(caller: Caller, count: int) -> Sample:
    """Create and delete a passthru, again and again; pairs a second."""
    create = request("bdev_passthru_create", name="Top", base_bdev_name="Base")
    delete = request("bdev_passthru_delete", name="Top")
    start, cpu_s = time.perf_counter(), caller.cpu_s()
    for _ in range(count):
        caller.call(create)
        caller.call(delete)
    seconds = time.perf_counter() - start
    return Sample(count / seconds, {"CPU us of a pair": (caller.cpu_s() - cpu_s) / count * 1e6})


def pipelined(caller: Caller) -> Sample:
    """Ask for the version in a pipeline; calls a second."""
    start = time.perf_counter()
    caller.pipeline(request("spdk_get_version"), PIPELINE)
    return Sample(PIPELINE / (time.perf_counter() - start))


def single_calls(caller: Caller, count: int) -> Sample:
    """Make calls one at a time; the median in us, and with it the 99th percentile."""
    call = request("spdk_get_version")
    taken = []
    for _ in range(count):
        start = time.perf_counter_ns()
        caller.call(call)
        taken.append((time.perf_counter_ns() - start) / 1000)
    taken.sort()
    return Sample(taken[count // 2], {"p99 us": taken[count * 99 // 100]})


def calls_under_load(caller: Caller, count: int) -> Sample:
    """Make calls one at a time, and look how much I/O was done meanwhile."""
    ask = request("bdev_get_iostat", names=["Busy"])

    def reads() -> tuple[int, float]:
        stat = json.loads(caller.call(ask))["result"]
        return stat["bdevs"][0]["num_read_ops"], time.perf_counter()

    ops_before, before = reads()
    sample = single_calls(caller, count)
    ops_after, after = reads()
    kiops = (ops_after - ops_before) / (after - before) / 1000
    return Sample(sample.value, sample.more | {"thousand IOPS meanwhile": kiops})


def control_plane(plan: Plan) -> Generator[Work]:
    """Measure calls at rest and under load."""
    many = 200 if plan.quick else 2000

    def work(name: str, unit: str, measure: Callable[[], Sample], recorded: list[float]) -> Work:
        sides = [Side(name=OURS, role="ours", measure=measure)]
        if recorded:
            sides.append(Side(name="SPDK, recorded", role="recorded", recorded=recorded))
        return Work(name=name, unit=unit, sides=sides)

    with daemon(plan) as caller:
        yield work(
            "bdev_passthru_create and _delete, one call at a time",
            "pairs a second",
            lambda: pairs(caller, many),
            [SPDK_PAIRS],
        )
        yield work(
            f"spdk_get_version, {PIPELINE:,} in a pipeline",
            "calls a second",
            lambda: pipelined(caller),
            SPDK_PIPELINE,
        )
        yield work("one call at rest", "us", lambda: single_calls(caller, many), [])
    with daemon(plan, "busy") as caller:
        yield work(
            "one call during reads at queue depth 32",
            "us",
            lambda: calls_under_load(caller, many),
            [],
        )


ROWS = [
    Row("9", "Reads while the control plane works", "nbdkit idle", latency_under_calls),
    Row("rpc", "The control plane", "SPDK on a machine of this kind", control_plane),
]
