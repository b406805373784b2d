"""Rows 5, 6 and 6b: NBD servers over a unix socket."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from functools import partial
from itertools import product

from bench.clients import CLIENTS, fill, fio_syscalls, nbdcopy
from bench.figures import Goal, Role, Sample
from bench.runner import Plan, Row, Side, Work
from bench.servers import SIZE_BYTES, Server, absent, peer, program, start, vbdev

__all__ = ["ROWS", "Running", "random_works", "running"]

GOALS = {1: Goal(1.0, 1.2), 16: Goal(1.5, 2.0), 64: Goal(2.0, 4.0)}
"""{queue depth: goal} of row 5."""
OURS = "vbdev"

Running = dict[str, Server | str]
"""{name: server, or why there is none}."""


def passthru_over(base: str, plan: Plan) -> Callable[[], AbstractContextManager[Server]]:
    """Return what serves a passthru over a base."""
    return lambda: vbdev(plan.directory, base, "--layer", "passthru")


@contextlib.contextmanager
def running(
    plan: Plan,
    ours: Callable[[], AbstractContextManager[Server]],
    *peers: str,
    client: str = "fio",
    filled: bool = True,
) -> Iterator[Running]:
    """Start our server and those of peers; whoever does not start has a reason for its place."""
    with contextlib.ExitStack() as stack:
        servers: Running = {}
        if missing := absent(client):
            yield dict.fromkeys((OURS, *peers), missing)
            return
        servers[OURS] = start(stack, ours)
        for name in peers:
            missing = absent(program(name))
            servers[name] = missing or start(stack, lambda name=name: peer(plan.directory, name))
        for name, server in servers.items():
            if filled and isinstance(server, Server):
                try:
                    fill(server)
                except RuntimeError as error:
                    servers[name] = str(error)
        yield servers


def sides_of(
    servers: Running,
    measure: Callable[[Server], Sample],
    count: Callable[[Server], dict[str, float]] | None = None,
    copies: str = "",
) -> list[Side]:
    """Return a side for each server, in which its client does one run."""
    sides = []
    for name, server in servers.items():
        role: Role = "ours" if name == OURS else "peer"
        if isinstance(server, str):
            sides.append(Side(name=name, role=role, missing=server))
            continue
        sides.append(
            Side(
                name=name,
                role=role,
                measure=lambda server=server: measure(server),
                count=None if count is None else lambda server=server: count(server),
                copies=copies if role == "ours" else "",
            )
        )
    return sides


def random_works(
    servers: Running,
    plan: Plan,
    name: str,
    goal: Goal,
    *,
    rw: str,
    queue_depth: int,
    connections: int = 1,
    copies: str = "1",
) -> Iterator[Work]:
    """Yield a work for each client: the same load, on each server by turns."""
    many = f"{connections} connection{'s' * (connections > 1)}"
    for client, load in CLIENTS.items():
        sides = sides_of(
            servers,
            partial(
                load,
                rw=rw,
                queue_depth=queue_depth,
                connections=connections,
                seconds=plan.seconds,
            ),
            partial(fio_syscalls, rw=rw, queue_depth=queue_depth, connections=connections)
            if client == "fio"
            else None,
            copies,
        )
        yield Work(
            name=f"{name} {rw}, queue depth {queue_depth}, {many}, {client}",
            unit="thousand IOPS",
            goal=goal,
            sides=sides,
        )


def random_io(plan: Plan) -> Generator[Work]:
    """Measure random I/O on disks in memory."""
    base = f"malloc:{SIZE_BYTES},block_size=4096"
    peers = ("nbdkit memory", "qemu-nbd", "nbd-server")
    with running(plan, passthru_over(base, plan), *peers) as servers:
        loads = list(product((1, 4), ("randread", "randwrite"), GOALS))
        if plan.quick:
            loads = [(1, "randread", 1), (1, "randread", 64), (1, "randwrite", 64)]
        for connections, rw, depth in loads:
            yield from random_works(
                servers,
                plan,
                "NBD",
                GOALS[depth],
                rw=rw,
                queue_depth=depth,
                connections=connections,
            )


def null_io(plan: Plan) -> Generator[Work]:
    """Measure servers that have no disk behind them."""
    with running(
        plan,
        passthru_over(f"null:{SIZE_BYTES},block_size=4096", plan),
        "qemu-storage-daemon null-co",
        filled=False,
    ) as servers:
        for rw in ("randread",) if plan.quick else ("randread", "randwrite"):
            yield from random_works(
                servers,
                plan,
                "NBD over null,",
                Goal(1.0, 1.5),
                rw=rw,
                queue_depth=16,
                copies="none",
            )


def sequential(plan: Plan) -> Generator[Work]:
    """Measure nbdcopy from and to disks in memory."""
    source = plan.directory / "source.img"
    try:
        with (
            source.open("wb") as file,
            running(
                plan,
                passthru_over(f"malloc:{SIZE_BYTES},block_size=4096", plan),
                "nbdkit memory",
                client="nbdcopy",
            ) as servers,
        ):
            for _ in range(SIZE_BYTES >> 20):
                file.write(b"\x5a" * (1 << 20))
            file.flush()
            for connections in (1,) if plan.quick else (1, 4):
                many = f"{connections} connection{'s' * (connections > 1)}"
                reads = sides_of(
                    servers,
                    lambda server, connections=connections: nbdcopy(
                        server.uri, "null:", connections
                    ),
                    copies="1",
                )
                yield _copy_work(f"nbdcopy reads, {many}", reads)
                writes = sides_of(
                    servers,
                    lambda server, connections=connections: nbdcopy(
                        str(source), server.uri, connections
                    ),
                    copies="1",
                )
                yield _copy_work(f"nbdcopy writes, {many}", writes)
    finally:
        source.unlink(missing_ok=True)


def _copy_work(name: str, sides: list[Side]) -> Work:
    return Work(name=name, unit="MB/s", goal=Goal(1.0, 1.3), sides=sides)


def clients(plan: Plan) -> Generator[Work]:
    """Measure the two clients themselves, on the same servers."""
    base = f"malloc:{SIZE_BYTES},block_size=4096"
    with running(plan, passthru_over(base, plan), "nbdkit memory") as servers:
        for (name, server), depth in product(servers.items(), (1, 64) if plan.quick else GOALS):
            work = Work(
                name=f"clients of {name}, randread, queue depth {depth}", unit="thousand IOPS"
            )
            if isinstance(server, str):
                work.problem = server
            else:
                work.sides = [
                    Side(
                        name=client,
                        role="peer" if client == "fio" else "ours",
                        measure=partial(load, server, "randread", depth, 1, plan.seconds),
                    )
                    for client, load in CLIENTS.items()
                ]
            yield work


ROWS = [
    Row("5", "NBD, passthru over malloc, 4 KiB", "nbdkit memory, qemu-nbd, nbd-server", random_io),
    Row("6", "NBD, passthru over null, 4 KiB", "qemu-storage-daemon with null-co", null_io),
    Row("6b", "NBD, sequential", "nbdkit memory", sequential),
    Row("client", "The nbd module, a client", "fio's nbd engine", clients),
]
