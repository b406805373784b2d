"""How costs grow with bdevs, layers, connections, size: each of many costs what each of few does.

A work's sides are numbers of the same thing; its figure is for one of them, so that a ratio of 1
between many and few is linear growth, and more is worse than that.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from bench.figures import Goal, Sample
from bench.rows.layers import NS_PER_S
from bench.runner import Plan, Row, Side, Work
from bench.servers import Server, vbdev
from bench.stacks import run_seconds, stacks
from vbdev.modules.null import Null, NullParams
from vbdev.testing.daemon import Daemon

__all__ = ["ROWS"]

LINEAR = Goal(1.5, 1.0, at_most=True)
"""Many to few; half as much again is what a noisy machine does to equal figures."""
KIB_PER_PAGE = 4
OPTION = struct.Struct(">8sII")
GREETING_BYTES = 18
INFO_BYTES = 10
CLIENT_FLAGS = 3
"""Fixed newstyle, no zeroes behind what EXPORT_NAME is answered with."""


def rss_kib(pid: int) -> int:
    """Return how much memory of a process is there."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * KIB_PER_PAGE


def sides(numbers: tuple[int, ...], measure: Callable[[int], Sample], unit: str) -> list[Side]:
    """Return a side for each number, the largest as ours."""
    return [
        Side(
            name=f"{number:,} {unit}{'s' * (number > 1)}",
            role="ours" if number == max(numbers) else "peer",
            measure=partial(measure, number),
        )
        for number in sorted(numbers, reverse=True)
    ]


def bdevs(number: int) -> Sample:
    """Create so many null bdevs with a passthru in a daemon of its own; us each, by RPC."""
    with Daemon() as daemon:
        before = rss_kib(daemon.pid)
        client = daemon.client
        start = time.perf_counter()
        for i in range(number):
            client.call("bdev_null_create", name=f"n{i}", num_blocks=8192, block_size=512)
            client.call("bdev_passthru_create", name=f"p{i}", base_bdev_name=f"n{i}")
        seconds = time.perf_counter() - start
        grown = rss_kib(daemon.pid) - before
        start = time.perf_counter()
        client.call("bdev_get_bdevs")
        listed_s = time.perf_counter() - start
    return Sample(
        seconds / number * 1e6,
        {"KiB of memory each": grown / number, "us each to list": listed_s / number * 1e6},
    )


def layers(plan: Plan, numbers: tuple[int, ...]) -> Generator[Work]:
    """Measure stacks of so many passthrus over null, in this process."""
    with stacks() as lent:
        params = NullParams(name="bare", num_blocks=1 << 20, block_size=4096)
        bare = lent.create(Null, params)
        tops = {}
        for number in numbers:
            params = NullParams(name=f"null{number}", num_blocks=1 << 20, block_size=4096)
            tops[number] = lent.pile(lent.create(Null, params), number)

        def cost(number: int) -> Sample:
            seconds = run_seconds(plan)
            ns = [
                NS_PER_S / lent.load(name, "randread", 32, seconds).iops
                for name in (bare, tops[number])
            ]
            return Sample((ns[1] - ns[0]) / number)

        yield Work(
            name="a layer of a stack, queue depth 32",
            unit="ns",
            goal=LINEAR,
            sides=sides(numbers, cost, "layer"),
        )


def connect(server: Server) -> socket.socket:
    """Connect a client that is ready for requests, and sends none."""
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(server.socket))
    client.recv(GREETING_BYTES, socket.MSG_WAITALL)
    client.sendall(struct.pack(">I", CLIENT_FLAGS) + OPTION.pack(b"IHAVEOPT", 1, 0))
    if len(client.recv(INFO_BYTES, socket.MSG_WAITALL)) != INFO_BYTES:
        raise RuntimeError("the server did not accept a client")
    return client


def connections(plan: Plan, number: int) -> Sample:
    """Connect so many clients to a daemon of its own; us each."""
    with vbdev(plan.directory, "null:1GiB", "--layer", "passthru") as server, ExitStack() as open_:
        before = rss_kib(server.pid)
        start = time.perf_counter()
        for _ in range(number):
            open_.callback(connect(server).close)
        seconds = time.perf_counter() - start
        grown = rss_kib(server.pid) - before
    return Sample(seconds / number * 1e6, {"KiB of memory each": grown / number})


def sizes(plan: Plan) -> Generator[Work]:
    """Measure null bdevs from 1 MiB to 8 EiB."""
    shifts = {"8 EiB": 63, "1 TiB": 40, "1 MiB": 20}
    with stacks() as lent:
        for shift in shifts.values():
            params = NullParams(name=f"size{shift}", num_blocks=1 << (shift - 12), block_size=4096)
            lent.create(Null, params)

        def cost(shift: int) -> Sample:
            seconds = run_seconds(plan)
            return Sample(NS_PER_S / lent.load(f"size{shift}", "randread", 32, seconds).iops)

        yield Work(
            name="an I/O of a null bdev by its size, queue depth 32",
            unit="ns",
            goal=LINEAR,
            sides=[
                Side(
                    name=name,
                    role="ours" if shift == max(shifts.values()) else "peer",
                    measure=partial(cost, shift),
                )
                for name, shift in shifts.items()
            ],
        )


def growth(plan: Plan) -> Generator[Work]:
    """Measure many beside few."""
    yield Work(
        name="a null bdev and a passthru, created by RPC",
        unit="us",
        goal=LINEAR,
        sides=sides((10, 100) if plan.quick else (1, 10, 100, 1000), bdevs, "stack"),
    )
    yield from layers(plan, (1, 8, 64) if plan.quick else (1, 4, 8, 16, 32, 64))
    yield Work(
        name="an NBD client, connected",
        unit="us",
        goal=LINEAR,
        sides=sides(
            (10, 100) if plan.quick else (1, 10, 100, 1000), partial(connections, plan), "client"
        ),
    )
    yield from sizes(plan)


ROWS = [Row("scale", "Growth", "few of the same", growth)]
