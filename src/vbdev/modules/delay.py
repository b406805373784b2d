"""delay: a slow disk. READs and WRITEs are done at once and held for a while before they go up.

Each channel has four queues, of reads and writes, of the average and the slow ones (one in a
hundred). A queue is strictly first in, first out: where the latency is lowered, new I/O still waits
behind what was held before.
"""

from __future__ import annotations

import errno
import math
import random
import uuid
from collections import deque
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from vbdev.api.methods import DECODE_OBJECT_FAILED, ModuleMethod, Refusal
from vbdev.api.params import BdevName, Params, Uint64
from vbdev.bdev import ALL_OPS, BdevError, BdevParams, VirtualBdev, VirtualBdevParams
from vbdev.bdev.channels import after_each_channel
from vbdev.core.engine.batch import IOBatch, load_columns
from vbdev.core.engine.channel import Channel
from vbdev.reactor.reactor import Reactor
from vbdev.reactor.timers import Timer
from vbdev.registry import Registry
from vbdev.vocab import Op, Status
from vbdev.wire.jsonrpc import INVALID_PARAMS, INVALID_REQUEST

SLOW_SHARE = 0.01
"""The share of I/Os that take the p99 latency (SPDK: one in a hundred, by chance)."""
LOOK_AGAIN_US = 3_600_000_000
"""Longest that a timer is set for: I/O may be held longer than a kernel can be told to sleep."""

NO_SUCH_BDEV = Refusal(INVALID_PARAMS, "The requested bdev does not exist.")
NO_DELAY_BDEV = Refusal(INVALID_REQUEST, "The requested bdev is not a delay bdev.")

Microseconds = Uint64


class DelayParams(VirtualBdevParams, kw_only=True, forbid_unknown_fields=True):
    """Create a vbdev whose READs and WRITEs take longer."""

    avg_read_latency: Microseconds
    """How long 99 of 100 READs are held after the base has done them, in us."""
    p99_read_latency: Microseconds
    """How long the others are held, in us; not less than the average."""
    avg_write_latency: Microseconds
    """The same of WRITEs, in us."""
    p99_write_latency: Microseconds
    """The same of WRITEs, in us."""
    seed: Uint64 | None = None
    """Which of the I/Os are slow: the same ones for the same seed and the same sequence of I/Os.
    Follows from the UUID when absent. (Not SPDK's.)"""


class UpdateLatencyParams(Params, kw_only=True, frozen=True):
    """Change one of a delay bdev's latencies. What is held already keeps its own."""

    delay_bdev_name: BdevName
    """Name of the delay bdev."""
    latency_type: Literal["avg_read", "p99_read", "avg_write", "p99_write"]
    """Which one."""
    latency_us: Microseconds
    """The new latency, in us."""


class HeldQueue:
    """Batches that wait for their time, in order."""

    def __init__(self, reactor: Reactor) -> None:
        self.batches: deque[tuple[int, IOBatch]] = deque()
        self._reactor = reactor
        self._timer: Timer | None = None

    def hold(self, ios: IOBatch, latency_us: int) -> None:
        """Keep a batch for `latency_us`, and until those in front of it have gone."""
        self.batches.append((self._reactor.clock.now_ns() + latency_us * 1000, ios))
        if self._timer is None:
            self._wait()

    def _wait(self) -> None:
        left_ns = max(0, self.batches[0][0] - self._reactor.clock.now_ns())
        self._timer = self._reactor.call_later(min(left_ns / 1000, LOOK_AGAIN_US), self._due)

    def _due(self) -> None:
        self._timer = None
        now_ns = self._reactor.clock.now_ns()
        while self.batches and self.batches[0][0] <= now_ns:
            self.batches.popleft()[1].complete()
        if self.batches:
            self._wait()

    def abort_all(self) -> None:
        """End all that is held as ABORTED."""
        while self.batches:
            self.batches.popleft()[1].complete(Status.ABORTED)

    def close(self) -> None:
        """Forget the timer. Nothing is held any more."""
        if self._timer is not None:
            self._timer.cancel()


class HeldIos:
    """What one channel holds: the four queues, and how many I/Os pass until the next slow one."""

    def __init__(self, reactor: Reactor, seed: int) -> None:
        kinds = ("avg_read", "p99_read", "avg_write", "p99_write")
        self.queues = {kind: HeldQueue(reactor) for kind in kinds}
        self._chance = random.Random(seed)  # noqa: S311 - chance, no secret
        self._until_slow = self._draw()

    def _draw(self) -> int:
        # How often one tries until a chance of SLOW_SHARE comes true: one draw for a hundred I/Os.
        return 1 + int(math.log(1.0 - self._chance.random()) / math.log(1.0 - SLOW_SHARE))

    def take_slow(self, ios: IOBatch) -> IOBatch | None:
        """Move those that take the p99 latency into a batch of their own."""
        if self._until_slow > len(ios):
            self._until_slow -= len(ios)
            return None
        slow = [False] * len(ios)
        position = -1
        while position + self._until_slow < len(ios):
            position += self._until_slow
            slow[position] = True
            self._until_slow = self._draw()
        self._until_slow -= len(ios) - 1 - position
        return ios.take(slow)

    def abort(self, aborts: IOBatch) -> None:
        """End the victims of these ABORTs; those whose victim is not held stay in the batch."""
        for queue in self.queues.values():
            for _, ios in queue.batches:
                if not aborts:
                    return
                victims, hits = ios.take_victims(aborts)
                victims.complete(Status.ABORTED)
                hits.complete(Status.SUCCESS)

    def abort_all(self) -> None:
        """End all that is held as ABORTED."""
        for queue in self.queues.values():
            queue.abort_all()

    def __bool__(self) -> bool:
        return any(queue.batches for queue in self.queues.values())


class Delay(VirtualBdev):
    """Forwards everything; READs and WRITEs that come back are held."""

    kind = "delay"
    product_name = "delay"
    uuid_namespace = uuid.UUID("4009b574-6430-4f1b-bc40-ace811091027")
    Params = DelayParams
    saved_params = ("name", "base_bdev_name", "uuid")
    undecoded = DECODE_OBJECT_FAILED
    ops = ALL_OPS
    gives_read_buffers = True
    params: DelayParams

    def __init__(self, params: BdevParams) -> None:
        super().__init__(params)
        for verb in ("read", "write"):
            average, slow = (getattr(params, f"{kind}_{verb}_latency") for kind in ("avg", "p99"))
            if slow < average:
                raise BdevError(
                    errno.EINVAL,
                    f"delay vbdev {params.name!r}: p99_{verb}_latency {slow} us is less than"
                    f" avg_{verb}_latency {average} us",
                )

    async def start(self) -> None:
        """Slow I/Os are taken out of a batch by a mask."""
        load_columns()

    def create_channel(self, channel: Channel) -> HeldIos:
        """Make the channel's queues; channels of one seed draw the same lots."""
        assert self.uuid is not None
        seed = self.params.seed
        return HeldIos(channel.reactor, self.uuid.int if seed is None else seed)

    def destroy_channel(self, channel: Channel) -> None:
        """Forget the timers."""
        for queue in channel.context.queues.values():
            queue.close()

    def submit(self, channel: Channel, ios: IOBatch) -> None:
        """Forward; an ABORT finds its victim here first, a RESET ends all that is held."""
        held: HeldIos = channel.context
        if held:
            aborts = ios.take(Op.ABORT)
            held.abort(aborts)
            channel.base.submit(aborts)
        resets = ios.take(Op.RESET)
        if resets:
            after_each_channel(
                channel, lambda each: each.context.abort_all(), lambda: channel.base.submit(resets)
            )
        channel.base.submit(ios)

    def completed(self, channel: Channel, ios: IOBatch) -> None:
        """Hold READs and WRITEs, however the base has ended them."""
        held: HeldIos = channel.context
        for verb, some in (("read", ios.take(Op.READ)), ("write", ios.take(Op.WRITE))):
            if not some:
                continue
            slow = held.take_slow(some)
            for kind, those in ((f"avg_{verb}", some), (f"p99_{verb}", slow)):
                if those:
                    held.queues[kind].hold(those, getattr(self.params, f"{kind}_latency"))

    def current_params(self) -> BdevParams:
        """Return what creates it again: with a p99 that is less than its average, nothing does."""
        params = super().current_params()
        assert isinstance(params, DelayParams)
        return msgspec.structs.replace(
            params,
            p99_read_latency=max(params.p99_read_latency, params.avg_read_latency),
            p99_write_latency=max(params.p99_write_latency, params.avg_write_latency),
        )

    def config_calls(self) -> Sequence[dict[str, Any]]:
        """Return what makes a p99 less than its average once more."""
        return [
            {
                "method": "bdev_delay_update_latency",
                "params": {
                    "delay_bdev_name": self.name,
                    "latency_type": f"p99_{verb}",
                    "latency_us": getattr(self.params, f"p99_{verb}_latency"),
                },
            }
            for verb in ("read", "write")
            if getattr(self.params, f"p99_{verb}_latency")
            < getattr(self.params, f"avg_{verb}_latency")
        ]

    def dump_info(self) -> dict[str, Any]:
        """Return what `bdev_get_bdevs` shows as `driver_specific`."""
        latencies = ("avg_read", "p99_read", "avg_write", "p99_write")
        return {
            "delay": {
                "name": self.name,
                "base_bdev_name": self.base.name,
                "uuid": str(self.uuid),
                **{
                    f"{kind}_latency": getattr(self.params, f"{kind}_latency") for kind in latencies
                },
            }
        }

    @classmethod
    def rpc_methods(cls) -> Sequence[ModuleMethod]:
        """Return `bdev_delay_update_latency`."""
        return (
            ModuleMethod(
                "bdev_delay_update_latency",
                UpdateLatencyParams,
                update_latency,
                errors=(NO_SUCH_BDEV, NO_DELAY_BDEV),
            ),
        )


async def update_latency(registry: Registry, params: UpdateLatencyParams) -> bool:
    """Give a delay bdev another latency, for the I/Os that come. As in SPDK, any: p99 below avg."""
    bdev = registry.find(params.delay_bdev_name)
    if bdev is None:
        raise NO_SUCH_BDEV.error(params.delay_bdev_name)
    if not isinstance(bdev, Delay):
        raise NO_DELAY_BDEV.error(f"{params.delay_bdev_name} is a {bdev.kind} bdev")
    changed = {f"{params.latency_type}_latency": params.latency_us}
    bdev.params = msgspec.structs.replace(bdev.params, **changed)
    return True
