"""How costs grow with bdevs, layers, connections, size: each of many costs what each of few does.

A work's sides are numbers of the same thing; its figure is for one of them, so that a ratio of 1
between many and few is linear growth, and more is worse than that. What is about one among others
that do nothing costs the same however many these are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from functools import partial

from bench import crowds
from bench.figures import Goal, Sample
from bench.rows.layers import NS_PER_S
from bench.runner import Plan, Row, Side, Work
from bench.stacks import Stacks, run_seconds, stacks
from vbdev.bdev import VirtualBdevParams
from vbdev.modules.null import Null, NullParams
from vbdev.modules.passthru import Passthru
from vbdev.vocab import Op

__all__ = ["ROWS"]

LINEAR = Goal(1.5, 1.0, at_most=True)
"""Many to few; half as much again is what a noisy machine does to equal figures."""
FULL = ((1, 10, 100, 1000), (1, 4, 8, 16, 32, 64))
QUICK = ((10, 100, 300), (1, 8, 32, 64))
"""(how many bdevs, and clients; how many layers)."""
RESETS = 20
TURNS = 2000

Measure = Callable[[int], Sample]


def work(
    panel: str,
    name: str,
    unit: str,
    numbers: tuple[int, ...],
    measure: Measure,
    what: str,
    goal: Goal | None = LINEAR,
) -> Work:
    """Return a work with a side for each number, the largest as ours."""
    return Work(
        name=name,
        unit=unit,
        goal=goal,
        panel=panel,
        sides=[
            Side(
                name=f"{number:,} {what}{'s' * (number > 1)}",
                role="ours" if number == max(numbers) else "peer",
                measure=partial(measure, number),
                number=number,
            )
            for number in sorted(numbers, reverse=True)
        ],
    )


def bdevs(numbers: tuple[int, ...]) -> Iterator[Work]:
    """Measure stacks of a null bdev and a passthru in a daemon."""
    panel = "A stack of null and passthru, by the number of stacks"
    together = crowds.Together(crowds.stacks)
    for figure, name in {
        "created": "created by RPC",
        "listed": "in bdev_get_bdevs",
        "counters": "in bdev_get_iostat",
        "saved": "in a saved configuration",
        "stopped": "taken down at the stop",
    }.items():
        yield work(
            panel, f"stack: {name}", "us", numbers, partial(together.measure, figure), "stack"
        )
    yield work(
        "One is busy, the others do nothing",
        "busy: a passthru made anew (stacks)",
        "us",
        numbers,
        partial(together.measure, "one among"),
        "stack",
    )
    many = numbers[-2:]
    yield work(
        "Memory",
        "memory: a stack",
        "KiB",
        many,
        partial(together.measure, "KiB"),
        "stack",
    )
    configured = crowds.Together(crowds.started)
    yield work(
        panel,
        "stack: in a start's configuration",
        "us",
        many,
        partial(configured.measure, "started"),
        "stack",
    )


def layers(plan: Plan, numbers: tuple[int, ...]) -> Generator[Work]:
    """Measure stacks of so many passthrus over null, in this process and in a daemon."""
    panel = "A layer of one stack, by their number"
    with stacks() as lent:
        params = NullParams(name="bare", num_blocks=1 << 20, block_size=4096)
        bare = lent.create(Null, params)
        tops = {}
        for number in numbers:
            params = NullParams(name=f"null{number}", num_blocks=1 << 20, block_size=4096)
            tops[number] = lent.pile(lent.create(Null, params), number)

        def io(number: int) -> Sample:
            seconds = run_seconds(plan) / 2
            ns = [
                NS_PER_S / lent.load(name, "randread", 32, seconds).iops
                for name in (bare, tops[number])
            ]
            return Sample((ns[1] - ns[0]) / number)

        yield work(panel, "layer: in an I/O, queue depth 32", "ns", numbers, io, "layer")

        def reset(number: int) -> Sample:
            return Sample(resets(lent, tops[number]) / number)

        yield work(panel, "layer: in a RESET", "us", numbers, reset, "layer")
    together = crowds.Together(crowds.deep_stack)
    removed = partial(together.measure, "removed")
    yield work(panel, "layer: removed from below", "us", numbers, removed, "layer")
    # No goal: each is read through when it comes, so one that is high up costs more.
    yield work(
        panel,
        "layer: put on top, and examined",
        "us",
        numbers,
        partial(together.measure, "put on"),
        "layer",
        None,
    )
    yield work(
        "Memory",
        "memory: a layer",
        "KiB",
        numbers[-2:],
        partial(together.measure, "KiB"),
        "layer",
    )


def resets(lent: Stacks, top: str) -> float:
    """Reset a bdev some times; return us each."""
    reactor = lent.registry.reactor

    async def go(times: int) -> None:
        for _ in range(times):
            await descriptor.io(Op.RESET)

    with reactor.here():
        descriptor = lent.registry.open(
            top, write=True, on_event=lambda _event: None, holder="bench"
        )
        reactor.run_until_complete(go(2))
        start = time.process_time_ns()
        reactor.run_until_complete(go(RESETS))
        taken = time.process_time_ns() - start
        descriptor.close()
    return taken / 1000 / RESETS


def among(plan: Plan, numbers: tuple[int, ...]) -> Generator[Work]:
    """Measure one stack, and none, in this process while others are open and do nothing."""
    panel = "One is busy, the others do nothing"
    with ExitStack() as all_:
        crowd = {number: all_.enter_context(stacks()) for number in numbers}
        for number, lent in crowd.items():
            for i in range(number + 1):
                params = NullParams(name=f"n{i}", num_blocks=1 << 20, block_size=4096)
                top = VirtualBdevParams(name=f"p{i}", base_bdev_name=lent.create(Null, params))
                lent.create(Passthru, top)
                if i:
                    lent.hold_open(f"p{i}")

        def turn(number: int) -> Sample:
            poll = crowd[number].registry.reactor.poll
            start = time.process_time_ns()
            for _ in range(TURNS):
                poll()
            return Sample((time.process_time_ns() - start) / TURNS)

        yield work(panel, "busy: none, an idle turn (stacks)", "ns", numbers, turn, "stack")

        def io(number: int) -> Sample:
            result = crowd[number].load("p0", "randread", 1, run_seconds(plan) / 2)
            return Sample(NS_PER_S / result.iops)

        yield work(panel, "busy: an I/O, QD 1 (stacks)", "ns", numbers, io, "stack")


def connections(plan: Plan, numbers: tuple[int, ...]) -> Iterator[Work]:
    """Measure clients of a daemon."""
    panel = "An NBD client, by the number of clients"
    together = crowds.Together(partial(crowds.clients, plan.directory))
    for figure, name in {"connected": "connects", "gone": "hangs up"}.items():
        yield work(
            panel,
            f"client: {name}",
            "us",
            numbers,
            partial(together.measure, figure),
            "client",
        )
    yield work(
        "One is busy, the others do nothing",
        "busy: a READ over NBD (clients)",
        "us",
        numbers,
        partial(together.measure, "one reads"),
        "client",
    )
    yield work(
        "Memory",
        "memory: an NBD client",
        "KiB",
        numbers[-2:],
        partial(together.measure, "KiB"),
        "client",
    )


SIZES = {"8 EiB": 63, "1 PiB": 50, "1 TiB": 40, "1 GiB": 30, "1 MiB": 20}


def sizes(plan: Plan) -> Generator[Work]:
    """Measure null bdevs from 1 MiB to 8 EiB."""
    panel = "A null bdev, by its size"
    chosen = {name: SIZES[name] for name in ("8 EiB", "1 TiB", "1 MiB")} if plan.quick else SIZES

    def of_sizes(name: str, unit: str, measure: Measure) -> Work:
        return Work(
            name=name,
            unit=unit,
            goal=LINEAR,
            panel=panel,
            sides=[
                Side(
                    name=size,
                    role="ours" if shift == max(chosen.values()) else "peer",
                    measure=partial(measure, shift),
                    number=1 << shift,
                )
                for size, shift in chosen.items()
            ],
        )

    with stacks() as lent:
        for shift in chosen.values():
            params = NullParams(name=f"size{shift}", num_blocks=1 << (shift - 12), block_size=4096)
            lent.create(Null, params)

        def io(shift: int) -> Sample:
            seconds = run_seconds(plan) / 2
            return Sample(NS_PER_S / lent.load(f"size{shift}", "randread", 32, seconds).iops)

        yield of_sizes("size: an I/O, queue depth 32", "ns", io)
    together = crowds.Together(crowds.same_size)
    yield of_sizes("size: created by RPC", "us", partial(together.measure, "created"))
    yield of_sizes("size: memory", "KiB", partial(together.measure, "KiB"))


def growth(plan: Plan) -> Generator[Work]:
    """Measure many beside few."""
    numbers, deep = QUICK if plan.quick else FULL
    yield from bdevs(numbers)
    yield from layers(plan, deep)
    yield from connections(plan, numbers)
    yield from among(plan, numbers)
    yield from sizes(plan)


ROWS = [Row("scale", "Growth", "few of the same", growth, grows=True)]
