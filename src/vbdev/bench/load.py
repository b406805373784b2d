"""The load generator's control: one workload on one bdev, for a time or a number of I/Os.

    result = run(registry, BenchParams(bdev="Null0", workload="randread", seconds=1))
    result.iops, result.latency_us.p99, result.batch_mean

It does bdevperf's job. The bdev is opened through the registry as any client opens it, and the
I/Os are made by `vbdev.core.load.loadgen`. The run ends orderly whatever ends it: no more is
submitted, what is in flight comes back, the descriptor is closed. What does not come back within
`drain_seconds` is left to who holds it, and the result names them.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Sequence

from vbdev.bdev import Bdev, BdevError, BdevEvent
from vbdev.bdev.descriptor import Descriptor
from vbdev.bench.results import (
    BenchParams,
    BenchResult,
    Ended,
    Held,
    Latency,
    Layer,
    Mismatch,
    Progress,
)
from vbdev.core.engine.engine import Engine
from vbdev.core.load.loadgen import WORKLOADS, LoadGenerator
from vbdev.reactor.reactor import Reactor
from vbdev.reactor.task import Future, wake
from vbdev.reactor.timers import MAX_DELAY_US, Timer
from vbdev.registry import Registry
from vbdev.vocab import Op, Status

__all__ = ["Bench", "run"]

log = logging.getLogger(__name__)

NS_PER_S = 1_000_000_000
US_PER_S = 1_000_000
PROGRESS_US = US_PER_S
READ_ONLY = frozenset({"read", "randread"})
MIXED = frozenset({Op.READ, Op.WRITE})

STALLED_LOOKS = 5
"""After how many looks, PROGRESS_US apart, without any I/O that ended a warning says who has them;
and again after as many more. For runs that no time limit ends."""
ANSWER_US = 500_000
"""How long a reactor may take to say what its modules hold."""


class Bench:
    """One run: `await bench.run()` on the registry's reactor, once. `stop` ends it early.

    Parameters
    ----------
    registry: where the bdev is.
    params: what to run.
    on_progress: called every second with a `Progress`, on the reactor.
    reactors: who submits, each with the whole queue depth; the registry's alone by default.

    """

    def __init__(
        self,
        registry: Registry,
        params: BenchParams,
        on_progress: Callable[[Progress], object] | None = None,
        reactors: Sequence[Reactor] = (),
    ) -> None:
        self.params = params
        self._registry = registry
        self._reactor = registry.reactor
        self._on_progress = on_progress
        self._reactors = list(reactors) or [self._reactor]
        self._parts: list[tuple[Reactor, LoadGenerator]] = []
        self._running = 0
        self._idle: Future[None] = Future()
        self._ended: Ended | None = None
        self._timers: list[Timer] = []
        self._drain: Timer | None = None
        self._held: tuple[Held, ...] = ()

    def hurry(self) -> None:
        """End the run now, whatever is in flight. As `stop` otherwise."""
        self._reactor.send_msg(self._end, "stopped")
        self._reactor.send_msg(self._give_up)

    def stop(self) -> None:
        """End the run when what is in flight has come back, or `drain_seconds` later.

        Any thread may call, and a signal handler: `run` then returns what was measured so far.
        """
        self._reactor.send_msg(self._end, "stopped")

    async def run(self) -> BenchResult:
        """Open the bdev, run, close it; return what was measured.

        BdevError where the bdev can not be opened or can not do the workload, ValueError where
        the parameters do not fit it.
        """
        params = self.params
        if self._reactor.clock.virtual and (not params.num_ios or params.warmup_seconds):
            raise ValueError(
                "on a virtual clock time passes only while nothing is to do:"
                f" num_ios is {params.num_ios}, and must say when to stop;"
                f" warmup_seconds is {params.warmup_seconds}, and must be 0"
            )
        if params.workload == "verify" and len(self._reactors) > 1:
            raise ValueError(
                f"verify on {len(self._reactors)} reactors: each would overwrite what others read"
            )
        check_ops(self._registry.get(params.bdev), params.workload)
        descriptor = self._registry.open(
            params.bdev,
            write=params.workload not in READ_ONLY,
            on_event=self._on_event,
            holder="bench",
            hide_metadata=self._registry.get(params.bdev).md_interleave,
        )
        parts: list[tuple[Reactor, LoadGenerator]] = []
        try:
            for number, reactor in enumerate(self._reactors):
                generator = await reactor.ask(self._make, reactor, descriptor, number)
                parts.append((reactor, generator))
            self._parts = parts
            return await self._measure()
        finally:
            self._parts = []
            if not self._held:
                for reactor, generator in parts:
                    await reactor.ask(generator.close)
                await descriptor.close()

    def _make(self, reactor: Reactor, descriptor: Descriptor, number: int) -> LoadGenerator:
        """Make a reactor's part of the load, on that reactor."""
        engine, params = reactor.engine, self.params
        if not isinstance(engine, Engine):
            raise TypeError(f"reactor {reactor.name} drives no engine")
        return LoadGenerator(
            engine,
            descriptor.get_channel(),
            workload=params.workload,
            io_size=params.io_size,
            queue_depth=params.queue_depth,
            rwmixread=params.rwmixread,
            seed=(params.seed + number) % (1 << 64) if number else params.seed,
            max_failures=params.max_failures,
            on_end=lambda: self._reactor.exec_msg(self._on_end),
        )

    async def _measure(self) -> BenchResult:
        params = self.params
        if params.warmup_seconds and self._ended is None:
            await self._phase(params.warmup_seconds, 0)
            if self._ended == "time":
                self._ended = None
                for reactor, generator in self._parts:
                    await reactor.ask(generator.reset_counters)
        before = await self._layers()
        if self._ended is None:
            if self._on_progress is not None:
                self._timers.append(self._reactor.call_later(PROGRESS_US, self._progress))
            await self._phase(params.seconds, params.num_ios)
        if self._held:  # and perhaps a reactor that does not answer: its figures are read from here
            after = added([part.layers() for _, part in self._parts])
        else:
            after = await self._layers()
        all_of_it = self._parts[0][1]
        for _, generator in self._parts[1:]:
            all_of_it.add(generator)
        return result_of(
            all_of_it,
            params,
            self._ended or "count",
            before,
            after,
            held=self._held,
            ended_ns=self._reactor.clock.now_ns() if self._held else 0,
        )

    async def _layers(self) -> list[tuple[Bdev, int, int]]:
        """Return (bdev, batches, I/Os in them) of each layer, all reactors together."""
        return added([await reactor.ask(part.layers) for reactor, part in self._parts])

    async def _phase(self, seconds: float, num_ios: int) -> None:
        """Run until the time is over, the I/Os are done, or something ends it."""
        self._idle = Future()
        if seconds:
            self._timers.append(
                self._reactor.call_later(
                    min(seconds * US_PER_S, MAX_DELAY_US), lambda: self._end("time")
                )
            )
        try:
            await self._start(num_ios)
        finally:
            for timer in self._timers:
                timer.cancel()
            self._timers.clear()
            if self._drain is not None:
                self._drain.cancel()
                self._drain = None
        failures = sum(generator.failures for _, generator in self._parts)
        if self._parts[0][1].mismatch or failures > params_limit(self.params):
            self._ended = "failures"

    async def _start(self, num_ios: int) -> None:
        """Start all parts, with their shares of the I/Os, and wait until all have ended."""
        each, more = divmod(num_ios, len(self._parts))
        shares = [each + (number < more) for number in range(len(self._parts))]
        working = [
            part for part, share in zip(self._parts, shares, strict=True) if share or not num_ios
        ]
        self._running = len(working)
        for number, (reactor, generator) in enumerate(working):
            try:
                await reactor.ask(generator.start, shares[number])
            except Exception:
                self._running -= len(working) - number
                if self._running:
                    self._end("failures")
                    await self._idle
                raise
        if num_ios and not self._reactor.clock.virtual:
            self._watch_count(num_ios, -1)
        await self._idle

    def _watch_count(self, num_ios: int, ended_before: int, looks: int = 0) -> None:
        """Begin the drain when all have been submitted and none has ended for a while.

        looks: how often in a row none had, with others still to be submitted.
        """
        ended = sum(generator.ios + generator.failures for _, generator in self._parts)
        in_flight = self.params.queue_depth * len(self._parts)
        if ended == ended_before and num_ios - ended <= in_flight:
            self._end("count")
            return
        looks = looks + 1 if ended == ended_before else 0
        if looks == STALLED_LOOKS:
            looks = 0
            self._reactor.spawn(self._tell_stalled(ended), "holders")
        self._timers.append(
            self._reactor.call_later(PROGRESS_US, lambda: self._watch_count(num_ios, ended, looks))
        )

    async def _tell_stalled(self, ended: int) -> None:
        """Say who has what does not come back; there is no time at which the run would end."""
        held = await self._find_held()
        now = sum(generator.ios + generator.failures for _, generator in self._parts)
        if self._parts and now == ended:
            log.warning(
                "no I/O has ended for %d s, and the run has no time limit: %s",
                STALLED_LOOKS * PROGRESS_US // US_PER_S,
                "; ".join(map(str, held)) or "nobody below says that it has any",
            )

    def _end(self, why: Ended) -> None:
        if self._ended is None:
            self._ended = why
        for reactor, generator in self._parts:
            reactor.exec_msg(generator.stop)
        if self._drain is None and self._parts:
            delay_us = self.params.drain_seconds * US_PER_S
            self._drain = self._reactor.call_later(delay_us, self._give_up)

    def _on_end(self) -> None:
        self._running -= 1
        if not self._running and not self._idle.done:
            self._idle.set_result(None)

    def _give_up(self) -> None:
        if self._parts and not self._idle.done:
            self._reactor.spawn(self._end_without(), "holders")

    async def _end_without(self) -> None:
        """End the run without those that do not come back, and find out who has them."""
        held = await self._find_held()
        if not self._idle.done:  # the last has not come back meanwhile
            self._held = held or by_bdev([Held(self.params.bdev, "unknown", 1, 0.0)])
            self._idle.set_result(None)

    async def _find_held(self) -> tuple[Held, ...]:
        """Ask all reactors what modules hold there; those that answer within ANSWER_US count."""
        held: list[Held] = []
        unasked = [reactor for reactor, _ in self._parts]
        answered: Future[None] = Future()

        def ask(reactor: Reactor) -> None:
            found = holders(reactor)
            self._reactor.send_msg(take, reactor, found)

        def take(reactor: Reactor, found: list[Held]) -> None:
            held.extend(found)
            unasked.remove(reactor)
            if not unasked:
                wake(answered)

        timer = self._reactor.call_later(ANSWER_US, lambda: wake(answered))
        for reactor, _ in self._parts:
            reactor.exec_msg(ask, reactor)
        await answered
        timer.cancel()
        return by_bdev(held)

    def _on_event(self, event: BdevEvent) -> None:
        if event is BdevEvent.REMOVE:
            self._end("removed")

    def _progress(self) -> None:
        if self._parts and self._on_progress is not None:
            self._timers.append(self._reactor.call_later(PROGRESS_US, self._progress))
            self._reactor.spawn(self._tell_progress(self._on_progress), "progress")

    async def _tell_progress(self, tell: Callable[[Progress], object]) -> None:
        ios, started_ns = 0, self._parts[0][1].started_ns
        for reactor, generator in self._parts:
            ios += await reactor.ask(lambda generator=generator: generator.ios)
        seconds = (self._reactor.clock.now_ns() - started_ns) / NS_PER_S
        tell(Progress(seconds, ios, ios / seconds))


def run(
    registry: Registry,
    params: BenchParams,
    on_progress: Callable[[Progress], object] | None = None,
    reactors: Sequence[Reactor] = (),
) -> BenchResult:
    """Run to the end on the registry's reactor, which must not be running already.

    Other `reactors` run on their threads already.
    """
    bench = Bench(registry, params, on_progress, reactors)
    return registry.reactor.run_until_complete(bench.run(), f"bench {params.bdev}")


def ops_of(workload: str) -> frozenset[Op]:
    """Return the I/O types that a workload submits."""
    op = WORKLOADS[workload][0]
    return frozenset({Op(op)}) if op else MIXED


def check_ops(bdev: Bdev, workload: str) -> None:
    """Raise BdevError ENOTSUP where the bdev lacks an I/O type that the workload needs."""
    missing = sorted(op.name for op in ops_of(workload) - bdev.ops)
    if missing:
        raise BdevError(
            errno.ENOTSUP,
            f"workload {workload} needs {', '.join(missing)}, which bdev {bdev.name} does not do",
        )


def params_limit(params: BenchParams) -> int:
    """Return how many failures a run survives."""
    return 0 if params.workload == "verify" else params.max_failures


def result_of(
    generator: LoadGenerator,
    params: BenchParams,
    ended: Ended,
    before: list[tuple[Bdev, int, int]],
    after: list[tuple[Bdev, int, int]],
    *,
    held: tuple[Held, ...] = (),
    ended_ns: int = 0,
) -> BenchResult:
    """Turn a generator's counters, and the layers' at both ends of the run, into a result.

    ended_ns: for a generator that has not come to its end.
    """
    seconds = max((ended_ns or generator.ended_ns) - generator.started_ns, 0) / NS_PER_S
    # On a virtual clock no time may have passed; a rate then says nothing.
    iops = generator.ios / seconds if seconds else 0.0
    moved = 0 if params.workload == "flush" else params.io_size
    layers = tuple(
        Layer(layer.name, layer.kind, (ios - ios_before) / (batches - batches_before or 1))
        for (layer, batches, ios), (_, batches_before, ios_before) in zip(
            after, before, strict=True
        )
    )
    mismatch = generator.mismatch
    p50, p99, p99_9 = (generator.latency_percentile_ns(p) / 1000 for p in (50, 99, 99.9))
    return BenchResult(
        iops=iops,
        mib_per_s=iops * moved / (1 << 20),
        latency_us=Latency(generator.latency_mean_ns / 1000, p50, p99, p99_9),
        batch_mean=layers[0].batch_mean,
        ios=generator.ios,
        errors=generator.failures,
        errors_by_status={Status(s).name: n for s, n in generator.errors().items()},
        seconds=seconds,
        ended=ended,
        mismatch=Mismatch(*mismatch) if mismatch else None,
        layers=layers,
        params=params,
        held=held,
    )


def added(parts: list[list[tuple[Bdev, int, int]]]) -> list[tuple[Bdev, int, int]]:
    """Return (bdev, batches, I/Os in them) of each layer, of which each part counted some."""
    return [
        (layers[0][0], sum(one[1] for one in layers), sum(one[2] for one in layers))
        for layers in zip(*parts, strict=True)
    ]


def by_bdev(held: list[Held]) -> tuple[Held, ...]:
    """Return what several channels hold, once for each bdev."""
    found: dict[str, Held] = {}
    for one in held:
        other = found.get(one.bdev, Held(one.bdev, one.kind, 0, 0.0))
        oldest = max(one.oldest_seconds, other.oldest_seconds)
        found[one.bdev] = Held(one.bdev, one.kind, one.ios + other.ios, oldest)
    return tuple(found.values())


def holders(reactor: Reactor) -> list[Held]:
    """Return what the modules of a reactor's bdevs have not completed; on that reactor."""
    engine = reactor.engine
    if not isinstance(engine, Engine):
        return []
    return [
        Held(channel.bdev.name, channel.bdev.kind, ios, age_ns / NS_PER_S)
        for channel, ios, (_op, _offset, _blocks, age_ns) in engine.held_longer(0)
    ]
