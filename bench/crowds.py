"""Many of the same, and what each costs: stacks, layers, clients, in daemons and in this process.

Times are CPU time of the process that does the work, so that other work on the machine, and the
client that asks for it, are not in them.
"""

from __future__ import annotations

import itertools
import json
import resource
import socket
import struct
import time
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.caller import Caller, request
from bench.figures import Sample
from bench.servers import Server, vbdev
from vbdev.testing.daemon import Daemon

__all__ = [
    "KIB_PER_PAGE",
    "Together",
    "clients",
    "cpu_ns",
    "deep_stack",
    "same_size",
    "stacks",
    "started",
]

KIB_PER_PAGE = 4
CPUCLOCK_SCHED = 2
"""The clock of a process, beside its complemented id (Linux: posix-timers_types.h)."""
PAIRS = 20
"""Stacks that are deleted and made again, among all that there are."""
READS = 300
OPTION = struct.Struct(">8sII")
REQUEST = struct.Struct(">IHHQQI")
REQUEST_MAGIC = 0x25609513
REPLY_BYTES = 16
GREETING_BYTES = 18
INFO_BYTES = 10
CLIENT_FLAGS = 3
"""Fixed newstyle, no zeroes behind what EXPORT_NAME is answered with."""
IO_BYTES = 4096
SAME = 200
"""Bdevs of one size."""

Figures = dict[str, float]


class Together:
    """Figures that one run measures together, handed out one by one.

    Whoever asks for a figure that no run has left over starts the next run.
    """

    def __init__(self, run: Callable[[int], Figures]) -> None:
        self._run = run
        self._left: defaultdict[tuple[str, int], deque[float]] = defaultdict(deque)

    def measure(self, name: str, number: int) -> Sample:
        """Return a figure for so many."""
        left = self._left[name, number]
        if not left:
            for other, value in self._run(number).items():
                self._left[other, number].append(value)
        return Sample(left.popleft())


def rss_kib(pid: int) -> int:
    """Return how much memory of a process is there."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * KIB_PER_PAGE


def cpu_ns(pid: int) -> int:
    """Return the CPU time that a process has had."""
    return time.clock_gettime_ns((~pid << 3) | CPUCLOCK_SCHED)


def of_children_ns() -> int:
    """Return the CPU time of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round((used.ru_utime + used.ru_stime) * 1e9)


def null(number: int, prefix: str = "n") -> tuple[str, dict[str, Any]]:
    """Return the call that makes a null bdev."""
    return "bdev_null_create", {"name": f"{prefix}{number}", "num_blocks": 8192, "block_size": 512}


def passthru(number: int, prefix: str = "n") -> tuple[str, dict[str, Any]]:
    """Return the call that puts a passthru on it."""
    name = f"{prefix}{number}"
    return "bdev_passthru_create", {"name": f"on-{name}", "base_bdev_name": name}


class Watched:
    """A daemon's control plane, and what its calls cost it."""

    def __init__(self, daemon: Daemon, caller: Caller) -> None:
        self.pid = daemon.pid
        self._caller = caller

    def us(self, *calls: tuple[str, dict[str, Any]]) -> float:
        """Make calls one after the other; return the daemon's CPU time, in us."""
        prepared = [request(method, **params) for method, params in calls]
        start = cpu_ns(self.pid)
        for call in prepared:
            self._caller.call(call)
        return (cpu_ns(self.pid) - start) / 1000

    def make(self, number: int, prefix: str = "n") -> float:
        """Make so many stacks, and wait until they are examined; return us."""
        calls = [kind(i, prefix) for i in range(number) for kind in (null, passthru)]
        return self.us(*calls, ("bdev_wait_for_examine", {}))


def watched(stack: ExitStack) -> Watched:
    """Start a daemon that has done everything once: first times cost more than others."""
    daemon = stack.enter_context(Daemon())
    control = Watched(daemon, stack.enter_context(Caller(daemon.rpc_socket, daemon.pid)))
    control.make(4, "first")
    for call in ANSWERS.values():
        control.us(call)
    control.us(*(("bdev_null_delete", {"name": f"first{i}"}) for i in range(4)))
    control.us(*(("bdev_passthru_delete", {"name": f"on-first{i}"}) for i in range(4)))
    return control


ANSWERS: dict[str, tuple[str, dict[str, Any]]] = {
    "listed": ("bdev_get_bdevs", {}),
    "counters": ("bdev_get_iostat", {}),
    "saved": ("framework_get_config", {"name": "bdev"}),
}


def stacks(number: int) -> Figures:
    """Make so many stacks in a daemon, ask for them in all ways, and stop it."""
    with ExitStack() as stack:
        control = watched(stack)
        before = rss_kib(control.pid)
        found = {"created": control.make(number) / number}
        found["KiB"] = (rss_kib(control.pid) - before) / number
        for name, call in ANSWERS.items():
            found[name] = control.us(call) / number
        middle = number // 2
        gone = ("bdev_passthru_delete", {"name": f"on-n{middle}"})
        found["one among"] = control.us(*[gone, passthru(middle)] * PAIRS) / PAIRS
        ended = of_children_ns() + cpu_ns(control.pid)
    found["stopped"] = (of_children_ns() - ended) / 1000 / number
    return found


def started(number: int) -> Figures:
    """Start a daemon with a configuration of so many stacks, beside one with none; us each."""
    taken = {}
    for many in (0, number):
        calls = [kind(i) for i in range(many) for kind in (null, passthru)]
        entries = [{"method": method, "params": params} for method, params in calls]
        config = {"subsystems": [{"subsystem": "bdev", "config": entries}]}
        with Daemon(config=config) as daemon:
            taken[many] = cpu_ns(daemon.pid)
    return {"started": (taken[number] - taken[0]) / 1000 / number}


def deep_stack(number: int) -> Figures:
    """Put so many layers on a bdev, one call at a time, and remove it from below."""
    with ExitStack() as stack:
        control = watched(stack)
        names = ["base", *(f"layer{i}" for i in range(number))]
        control.us(("bdev_null_create", {**null(0)[1], "name": "base"}))
        before = rss_kib(control.pid)
        found = {
            "put on": control.us(
                *(
                    ("bdev_passthru_create", {"name": name, "base_bdev_name": base})
                    for base, name in itertools.pairwise(names)
                )
            )
            / number
        }
        found["KiB"] = (rss_kib(control.pid) - before) / number
        found["removed"] = control.us(("bdev_null_delete", {"name": "base"})) / number
    return found


def connect(server: Server) -> socket.socket:
    """Connect a client that is ready for requests, and sends none."""
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(server.socket))
    client.recv(GREETING_BYTES, socket.MSG_WAITALL)
    client.sendall(struct.pack(">I", CLIENT_FLAGS) + OPTION.pack(b"IHAVEOPT", 1, 0))
    if len(client.recv(INFO_BYTES, socket.MSG_WAITALL)) != INFO_BYTES:
        raise RuntimeError("the server did not accept a client")
    return client


def read(client: socket.socket, times: int) -> None:
    """Read 4 KiB, again and again."""
    ask = REQUEST.pack(REQUEST_MAGIC, 0, 0, 1, 0, IO_BYTES)
    for _ in range(times):
        client.sendall(ask)
        if len(client.recv(REPLY_BYTES + IO_BYTES, socket.MSG_WAITALL)) != REPLY_BYTES + IO_BYTES:
            raise RuntimeError("the server did not answer a READ")


def clients(directory: Path, number: int) -> Figures:
    """Connect so many clients to a daemon, read as one of them, and hang all of them up."""
    with vbdev(directory, "null:1GiB", "--layer", "passthru") as server, ExitStack() as open_:
        one = open_.enter_context(connect(server))
        read(one, READS)
        before, start = rss_kib(server.pid), cpu_ns(server.pid)
        many = [open_.enter_context(connect(server)) for _ in range(number)]
        found = {"connected": (cpu_ns(server.pid) - start) / 1000 / number}
        found["KiB"] = (rss_kib(server.pid) - before) / number
        read(one, READS)  # which is behind all that the others have left to be done
        start = cpu_ns(server.pid)
        read(one, READS)
        found["one reads"] = (cpu_ns(server.pid) - start) / 1000 / READS
        start = cpu_ns(server.pid)
        for client in many:
            client.close()
        with Caller(server.rpc_socket, server.pid) as caller:
            ask = request("nbd_get_exports")
            while json.loads(caller.call(ask))["result"][0]["connections"] > 1:
                time.sleep(0.001)
        found["gone"] = (cpu_ns(server.pid) - start) / 1000 / number
    return found


def same_size(shift: int) -> Figures:
    """Make bdevs of 2 to the power of `shift` bytes in a daemon; KiB and us each."""
    with ExitStack() as stack:
        control = watched(stack)
        before = rss_kib(control.pid)
        size = {"num_blocks": 1 << (shift - 12), "block_size": 4096}
        us = control.us(*(("bdev_null_create", {"name": f"n{i}", **size}) for i in range(SAME)))
        return {"created": us / SAME, "KiB": (rss_kib(control.pid) - before) / SAME}
