"""What the control plane does in a second, and how long a call waits while the data path is busy.

    python bench/rpc.py [--runs 5] [--pairs 2000] [--calls 5000]

Rows: pairs of bdev_passthru_create and bdev_passthru_delete one at a time over one connection;
spdk_get_version in a pipeline of 10,000; single calls at rest, and while a load generator in the
daemon keeps 32 random reads of 4 KiB in flight on a passthru. Each figure is the median of the
runs, with the worst beside it. The client is a socket and prepared bytes, in a process of its own;
it shares the machine with the daemon.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

QUEUE_DEPTH = 32
PIPELINE = 10_000
START_TIMEOUT_S = 30
FOREVER_S = 86_400


def parse_args() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description="Measure the control plane.")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=2000, help="per run")
    parser.add_argument("--calls", type=int, default=5000, help="single calls per run")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--daemon", metavar="SOCKET", help=argparse.SUPPRESS)
    parser.add_argument("--busy", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


# The daemon


def serve(path: str, *, busy: bool) -> int:
    """Serve a malloc disk's control plane until SIGTERM; `busy`: with I/O all the time."""
    from vbdev.app import App
    from vbdev.bench import Bench, BenchParams

    app = App()
    app.create("malloc", {"name": "Disk", "num_blocks": 16384, "block_size": 4096})
    app.create("passthru", {"name": "Busy", "base_bdev_name": "Disk"})
    app.create("malloc", {"name": "Base", "num_blocks": 16384, "block_size": 4096})
    app.rpc.listen(path)
    app.start_reactors()
    if busy:
        params = BenchParams(bdev="Busy", queue_depth=QUEUE_DEPTH, seconds=FOREVER_S)
        app.reactor.spawn(Bench(app.registry, params).run(), "load")
    print("ready", flush=True)
    return app.run()


class Daemon:
    """This script as a daemon in a process of its own, until the end of the block."""

    def __init__(self, path: Path, *, busy: bool) -> None:
        self._path = str(path)
        words = [sys.executable, __file__, "--daemon", self._path, *(["--busy"] * busy)]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE)

    def __enter__(self) -> Caller:
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            raise SystemExit("the daemon did not start")
        return Caller(self._path, self._process.pid)

    def __exit__(self, *_: object) -> None:
        self._process.kill()  # one whose load never ends has nothing to save
        self._process.communicate()


# The client


def request(method: str, **params: Any) -> bytes:
    """Render a call with the id 1."""
    call = {"jsonrpc": "2.0", "id": 1, "method": method}
    return json.dumps(call | ({"params": params} if params else {})).encode()


class Caller:
    """A socket, and answers counted by their newlines."""

    def __init__(self, path: str, pid: int) -> None:
        self._stat = Path(f"/proc/{pid}/stat")
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(START_TIMEOUT_S)
        self._socket.connect(path)

    def cpu_s(self) -> float:
        """Return the CPU time that the daemon has had, in seconds."""
        fields = self._stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def call(self, call: bytes) -> bytes:
        """Make one call, and return its answer."""
        self._socket.sendall(call)
        answer = self._socket.recv(1 << 16)
        while not answer.endswith(b"\n"):
            answer += self._socket.recv(1 << 16)
        if b'"error"' in answer:
            raise SystemExit(answer.decode())
        return answer

    def pipeline(self, call: bytes, count: int) -> None:
        """Send all calls, then read all answers."""
        self._socket.setblocking(False)
        unsent, answered = memoryview(call * count), 0
        while answered < count:
            if unsent:
                with contextlib.suppress(BlockingIOError):
                    unsent = unsent[self._socket.send(unsent[: 1 << 16]) :]
            try:
                answered += self._socket.recv(1 << 16).count(b"\n")
            except BlockingIOError:
                if not unsent:
                    time.sleep(0.0002)
        self._socket.settimeout(START_TIMEOUT_S)


def pairs_per_s(caller: Caller, pairs: int) -> tuple[float, float]:
    """Create and delete a passthru, again and again; return the rate, and the daemon's CPU in us.

    The latter is for a pair, and hardly changes when others keep the machine busy.
    """
    create = request("bdev_passthru_create", name="Top", base_bdev_name="Base")
    delete = request("bdev_passthru_delete", name="Top")
    start, cpu_s = time.perf_counter(), caller.cpu_s()
    for _ in range(pairs):
        caller.call(create)
        caller.call(delete)
    seconds = time.perf_counter() - start
    return pairs / seconds, (caller.cpu_s() - cpu_s) / pairs * 1e6


def pipelined_per_s(caller: Caller) -> float:
    """Ask for the version in a pipeline."""
    start = time.perf_counter()
    caller.pipeline(request("spdk_get_version"), PIPELINE)
    return PIPELINE / (time.perf_counter() - start)


def latencies_us(caller: Caller, calls: int) -> tuple[float, float]:
    """Return the median and the 99th percentile of single calls, in us."""
    call = request("spdk_get_version")
    taken = []
    for _ in range(calls):
        start = time.perf_counter_ns()
        caller.call(call)
        taken.append((time.perf_counter_ns() - start) / 1000)
    taken.sort()
    return taken[calls // 2], taken[calls * 99 // 100]


def under_load(caller: Caller, calls: int) -> tuple[float, float, float]:
    """Return `latencies_us`, and the thousands of I/Os a second that were done meanwhile."""
    ask = request("bdev_get_iostat", names=["Busy"])

    def reads() -> tuple[int, float]:
        stat = json.loads(caller.call(ask))["result"]
        return stat["bdevs"][0]["num_read_ops"], time.perf_counter()

    ops_before, before = reads()
    p50, p99 = latencies_us(caller, calls)
    ops_after, after = reads()
    return p50, p99, (ops_after - ops_before) / (after - before) / 1000


def main() -> None:
    """Measure, and print a Markdown table."""
    args = parse_args()
    if args.daemon is not None:
        sys.exit(serve(args.daemon, busy=args.busy))
    figures: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        figures.setdefault(name, []).append(value)

    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for run in range(args.runs):
            with Daemon(directory / f"idle{run}", busy=False) as caller:
                rate, cpu_us = pairs_per_s(caller, args.pairs)
                note("create/delete pairs a second", rate)
                note("CPU of the daemon for a pair, us", cpu_us)
                note("pipelined calls a second", pipelined_per_s(caller))
                p50, p99 = latencies_us(caller, args.calls)
                note("call at rest, p50 us", p50)
                note("call at rest, p99 us", p99)
            with Daemon(directory / f"busy{run}", busy=True) as caller:
                p50, p99, kiops = under_load(caller, args.calls)
                note(f"call under load of QD {QUEUE_DEPTH}, p50 us", p50)
                note(f"call under load of QD {QUEUE_DEPTH}, p99 us", p99)
                note("the load meanwhile, kIOPS", kiops)
    rows = {
        row: {
            "median": round(statistics.median(values), 1),
            "worst": round(max(values) if row.endswith(" us") else min(values), 1),
        }
        for row, values in figures.items()
    }
    if args.json:
        print(json.dumps(rows, indent=2))
        return
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, load {load}, {args.runs} runs\n")
    print("| what | median | worst |\n| --- | --- | --- |")
    for row, figure in rows.items():
        print(f"| {row} | {figure['median']:,} | {figure['worst']:,} |")


if __name__ == "__main__":
    main()
