"""Stacks in this process, loaded by the project's own generator: no socket, no other process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bench.runner import Plan
from vbdev.bdev import Bdev, BdevParams, VirtualBdevParams
from vbdev.bench.load import BenchParams, BenchResult, run
from vbdev.core.engine.engine import Engine
from vbdev.modules.passthru import Passthru
from vbdev.reactor.reactor import Reactor
from vbdev.registry import Registry

__all__ = ["WARMUP_S", "Stacks", "run_seconds", "stacks"]

WARMUP_S = 0.05


def run_seconds(plan: Plan) -> float:
    """Return how long to load a null bdev: it has done a million I/Os by then."""
    return min(plan.seconds, 0.1 if plan.quick else 0.5)


class Stacks:
    """Bdevs on one reactor of this thread."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    def create(self, cls: type[Bdev], params: BdevParams) -> str:
        """Create a bdev; return its name."""
        reactor = self.registry.reactor
        reactor.run_until_complete(self.registry.create(cls, params))
        return str(params.name)

    def pile(self, base: str, layers: int) -> str:
        """Put passthrus on a bdev; return the name of the topmost."""
        top = base
        for layer in range(layers):
            name = f"{base}-{layers}-{layer}"
            top = self.create(Passthru, VirtualBdevParams(name=name, base_bdev_name=top))
        return top

    def load(
        self, bdev: str, workload: str, queue_depth: int, seconds: float, seed: int = 1
    ) -> BenchResult:
        """Load a bdev with I/Os of 4 KiB. RuntimeError when one fails."""
        params = BenchParams(
            bdev=bdev,
            workload=workload,
            queue_depth=queue_depth,
            seconds=seconds,
            warmup_seconds=WARMUP_S,
            seed=seed,
        )
        result = run(self.registry, params)
        if not result.ok:
            raise RuntimeError(f"{result.errors} I/Os failed: {result.errors_by_status}")
        return result

    def hold_open(self, bdev: str) -> None:
        """Open a bdev, with a channel, until it is removed; nothing is done with it."""
        with self.registry.reactor.here():
            descriptor = self.registry.open(
                bdev, write=False, on_event=lambda _event: descriptor.close(), holder="bench"
            )
            descriptor.get_channel()

    def fill(self, bdev: str) -> None:
        """Write all of a bdev once, so that no READ is of memory that nobody has touched."""
        size = 1 << 18
        count = self.registry.get(bdev).size_bytes // size
        params = BenchParams(
            bdev=bdev, workload="write", io_size=size, queue_depth=4, num_ios=count
        )
        run(self.registry, params)


@contextlib.contextmanager
def stacks() -> Iterator[Stacks]:
    """Lend a registry; RuntimeError when I/Os or buffers are left over at the end."""
    reactor = Reactor()
    engine = reactor.engine = Engine()
    registry = Registry(reactor)
    try:
        yield Stacks(registry)
    finally:
        reactor.run_until_complete(registry.close())
        reactor.close()
    if engine.ios_in_use or engine.buffers.live_buffers:
        raise RuntimeError("I/Os or buffers are left over")
