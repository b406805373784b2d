"""The load generator: what it submits, what it counts, what it notices, and how it ends.

Method: small malloc and null bdevs, with vbdevs made here that damage data, fail or delay. A
fixture checks after every test that no BdevIO, buffer, channel or descriptor is left over.
"""

from __future__ import annotations

import errno
import json
import signal
import threading

import pytest

from vbdev.bdev import ALL_OPS, BdevError, VirtualBdev
from vbdev.bdev.entry import entry_of
from vbdev.bench.load import Bench, BenchParams, run
from vbdev.core.engine.engine import Engine
from vbdev.core.load.loadgen import WORKLOADS, LoadGenerator
from vbdev.modules.malloc import Malloc, MallocParams
from vbdev.modules.null import Null, NullParams
from vbdev.modules.passthru import Passthru
from vbdev.reactor.clock import VirtualClock
from vbdev.reactor.reactor import Reactor
from vbdev.registry import Registry
from vbdev.vocab import Op, Status

BLOCK_SIZE = 512
NUM_BLOCKS = 2048
SIZE_BYTES = BLOCK_SIZE * NUM_BLOCKS


class Damage(Passthru):
    """Flips one bit of the READ after `good` READs that it leaves alone."""

    kind = "damage"
    gives_read_buffers = False
    good = 100
    at_byte = 1234

    def completed(self, channel, ios):
        for view in ios.data(Op.READ):
            self.good -= 1
            if self.good < 0:
                view[self.at_byte] ^= 1


class Failing(Passthru):
    """Fails every READ."""

    kind = "failing"

    def submit(self, channel, ios):
        ios.take(Op.READ).complete(Status.FAILED, errno.EIO)
        channel.base.submit(ios)


class Later(VirtualBdev):
    """Forwards every batch after `delay_us`."""

    kind = "later"
    ops = ALL_OPS
    reactor: Reactor
    delay_us = 100

    def submit(self, channel, ios):
        held = ios.take()
        self.reactor.call_later(self.delay_us, lambda: channel.base.submit(held))


class Stack:
    """A registry with Malloc0 and Null0, on a real or a virtual clock."""

    def __init__(self, *, virtual=False, **engine_options):
        self.reactor = Reactor(clock=VirtualClock() if virtual else None)
        self.engine = Engine(virtual=virtual, **engine_options)
        self.reactor.engine = self.engine
        self.registry = Registry(self.reactor)
        geometry = {"num_blocks": NUM_BLOCKS, "block_size": BLOCK_SIZE}
        self.create(Malloc, MallocParams(name="Malloc0", **geometry))
        self.create(Null, NullParams(name="Null0", **geometry))

    def create(self, cls, params):
        return self.reactor.run_until_complete(self.registry.create(cls, params))

    def put_on(self, base, cls, name="Top0"):
        return self.create(cls, cls.Params(name=name, base_bdev_name=base))

    def run(self, on_progress=None, **params):
        return run(self.registry, BenchParams(**params), on_progress)

    def bench(self, act, delay_us=20_000, **params):
        """Run, and call `act(bench)` a while after the start."""
        bench = Bench(self.registry, BenchParams(**params))
        self.reactor.call_later(delay_us, lambda: act(bench))
        return self.reactor.run_until_complete(bench.run())

    def check_clean(self):
        assert self.engine.ios_in_use == 0
        assert self.engine.buffers.live_buffers == 0
        assert self.engine.misused == 0
        for bdev in self.registry:
            assert all(holder.split()[-2] == "vbdev" for holder in bdev.holders())
        self.reactor.run_until_complete(self.registry.close())
        self.reactor.close()


@pytest.fixture
def make():
    made = []

    def build(**options):
        made.append(Stack(**options))
        return made[-1]

    yield build
    for stack in made:
        stack.check_clean()


@pytest.fixture
def stack(make):
    return make()


@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("queue_depth", [1, 7, 64])
def test_count_is_exact(stack, workload, queue_depth):
    result = stack.run(
        bdev="Malloc0", workload=workload, io_size=4096, queue_depth=queue_depth, num_ios=500
    )
    assert (result.ios, result.errors, result.ended) == (500, 0, "count")
    assert result.ok
    assert result.seconds > 0
    assert result.iops == pytest.approx(result.ios / result.seconds)


@pytest.mark.parametrize("num_ios", [2, 30, 64, 66])
def test_fewer_than_the_queue_holds(stack, num_ios):
    for workload in ("randread", "verify"):
        result = stack.run(bdev="Malloc0", workload=workload, queue_depth=64, num_ios=num_ios)
        assert result.ios == num_ios


def test_a_mix_follows_its_percentage(stack):
    for percent, low, high in ((0, 0, 0), (30, 2700, 3300), (100, 10_000, 10_000)):
        bdev = stack.registry.get("Malloc0")
        before = entry_of(bdev).totals.stats["read"][0] if entry_of(bdev).totals.stats else 0
        stack.run(bdev="Malloc0", workload="randrw", rwmixread=percent, num_ios=10_000)
        assert low <= entry_of(bdev).totals.stats["read"][0] - before <= high


def test_sequential_writes_cover_the_bdev(stack):
    stack.run(bdev="Malloc0", workload="write", io_size=4096, num_ios=SIZE_BYTES // 4096)
    data = bytearray(SIZE_BYTES)
    read_all(stack, "Malloc0", data)
    assert all(any(data[at : at + 512]) for at in range(0, SIZE_BYTES, 512))


def test_a_mix_never_writes_what_it_read(stack):
    # The bdev is zero at first: a buffer shared by READ and WRITE would bring zeroes back.
    result = stack.run(bdev="Malloc0", workload="rw", queue_depth=4, num_ios=10_000)
    assert result.ok
    data = bytearray(SIZE_BYTES)
    read_all(stack, "Malloc0", data)
    assert all(any(data[at : at + 4096]) for at in range(0, SIZE_BYTES, 4096))


def read_all(stack, name, data):
    descriptor = stack.registry.open(name, write=False, on_event=lambda _: None, holder="reader")

    async def read():
        await descriptor.io(Op.READ, 0, NUM_BLOCKS, data)

    stack.reactor.run_until_complete(read())
    descriptor.close()


@pytest.mark.parametrize("io_size", [512, 4096, 65536])
def test_verify_passes_through_layers(stack, io_size):
    stack.put_on("Malloc0", Passthru, "P0")
    stack.put_on("P0", Passthru, "P1")
    result = stack.run(bdev="P1", workload="verify", io_size=io_size, queue_depth=16, num_ios=4000)
    assert result.ok
    assert result.mismatch is None
    assert [layer.bdev for layer in result.layers] == ["P1", "P0", "Malloc0"]


def test_verify_passes_with_a_warmup_and_a_time(stack):
    result = stack.run(
        bdev="Malloc0", workload="verify", queue_depth=8, seconds=0.05, warmup_seconds=0.02
    )
    assert result.ok
    assert result.ended == "time"
    assert 0.04 < result.seconds < 1


def test_verify_notices_one_bit(stack):
    stack.put_on("Malloc0", Damage)
    result = stack.run(bdev="Top0", workload="verify", queue_depth=1, num_ios=100_000)
    assert not result.ok
    assert (result.ended, result.errors) == ("failures", 1)
    assert result.mismatch.offset % 4096 == Damage.at_byte & ~15
    changed = [a ^ b for a, b in zip(result.mismatch.expected, result.mismatch.found, strict=True)]
    assert changed == [int(i == Damage.at_byte % 16) for i in range(16)]
    assert str(result.mismatch.offset) in str(result.mismatch)
    # 100 good READs and the bad one, in windows of 8 WRITEs and 8 READs.
    assert result.ios == 100 + 13 * 8


def test_verify_notices_a_read_that_brings_nothing(stack):
    result = stack.run(bdev="Null0", workload="verify", queue_depth=4, num_ios=1000)
    assert result.ended == "failures"
    assert result.mismatch.found == b"\xa5" * 16


def test_failures_are_counted_by_status(stack):
    stack.put_on("Malloc0", Failing)
    result = stack.run(
        bdev="Top0", workload="randrw", queue_depth=8, num_ios=1000, max_failures=1000
    )
    assert result.ios + result.errors == 1000
    assert 300 < result.errors < 700
    assert result.errors_by_status == {"FAILED": result.errors}
    assert result.ended == "count"


def test_too_many_failures_end_the_run(stack):
    stack.put_on("Malloc0", Failing)
    result = stack.run(
        bdev="Top0", workload="randread", queue_depth=8, num_ios=100_000, max_failures=20
    )
    assert (result.ended, result.ios) == ("failures", 0)
    assert 20 < result.errors <= 20 + 8
    for workload in ("verify", "read"):
        result = stack.run(bdev="Top0", workload=workload, queue_depth=1, num_ios=1000)
        assert (result.ended, result.errors) == ("failures", 1)


def test_latencies_are_exact_on_a_virtual_clock(make):
    stack = make(virtual=True)
    Later.reactor = stack.reactor
    stack.put_on("Malloc0", Later)
    result = stack.run(bdev="Top0", workload="verify", queue_depth=4, num_ios=64)
    latency = result.latency_us
    assert (latency.mean, latency.p50, latency.p99, latency.p99_9) == (100, 100, 100, 100)
    assert result.seconds == pytest.approx(64 / 4 * 100e-6)
    assert result.iops == pytest.approx(4 / 100e-6)


def test_time_ends_a_run_on_a_virtual_clock(make):
    stack = make(virtual=True)
    Later.reactor = stack.reactor
    stack.put_on("Malloc0", Later)
    result = stack.run(bdev="Top0", queue_depth=4, seconds=0.00105, num_ios=10_000)
    assert (result.ended, result.ios) == ("time", 4 * 11)


def test_the_same_seed_submits_the_same_ios(make):
    def trace(seed):
        seen = []

        class Watch(Passthru):
            kind = "watch"

            def submit(self, channel, ios):
                seen.append((ios.ops.tolist(), ios.offset_blocks.tolist()))
                channel.base.submit(ios)

        stack = make(virtual=True)
        stack.put_on("Malloc0", Watch)
        stack.run(bdev="Top0", workload="randrw", queue_depth=8, num_ios=400, seed=seed)
        stack.run(bdev="Top0", workload="verify", queue_depth=8, num_ios=400, seed=seed)
        return seen

    assert trace(1) == trace(1) == trace(1)
    assert trace(1) != trace(2)


def test_ios_in_flight_of_verify_do_not_overlap(stack):
    class Watch(Passthru):
        kind = "watch"

        def submit(self, channel, ios):
            offsets = ios.offset_blocks.tolist()
            assert len(set(offsets)) == len(offsets)
            assert all(offset % 8 == 0 for offset in offsets)
            channel.base.submit(ios)

    stack.put_on("Malloc0", Watch)
    assert stack.run(bdev="Top0", workload="verify", queue_depth=256, num_ios=20_000).ok


def test_latencies_are_in_order(stack):
    latency = stack.run(bdev="Malloc0", workload="randrw", seconds=0.05).latency_us
    assert 0 < latency.p50 <= latency.p99 <= latency.p99_9
    assert latency.mean > 0


def test_a_batch_is_the_queue(stack):
    stack.put_on("Null0", Passthru)
    result = stack.run(bdev="Top0", workload="randread", queue_depth=48, num_ios=48 * 200)
    assert result.batch_mean == 48
    assert [layer.batch_mean for layer in result.layers] == [48, 48]


def test_the_json_object(stack):
    result = stack.run(bdev="Null0", workload="randread", num_ios=1000).to_dict()
    assert list(result)[:4] == ["iops", "mib_per_s", "latency_us", "batch_mean"]
    assert list(result["latency_us"]) == ["mean", "p50", "p99", "p99_9"]
    assert result["mib_per_s"] == pytest.approx(result["iops"] / 256, abs=0.01)
    assert json.loads(json.dumps(result)) == result


def test_progress_comes_every_second(make):
    stack = make(virtual=True)
    Later.reactor = stack.reactor
    stack.put_on("Malloc0", Later)
    seen = []
    stack.run(seen.append, bdev="Top0", queue_depth=1, num_ios=35_000)
    assert [p.seconds for p in seen] == [1, 2, 3]
    assert [p.ios for p in seen] == pytest.approx([10_000, 20_000, 30_000], abs=1)
    assert all(p.iops == pytest.approx(10_000, rel=1e-3) for p in seen)


def test_stop_brings_everything_back(stack):
    Later.reactor = stack.reactor
    stack.put_on("Malloc0", Later)
    for workload in ("randrw", "verify"):
        result = stack.bench(Bench.stop, bdev="Top0", workload=workload, seconds=60)
        assert result.ended == "stopped"
        assert result.ok
        assert result.ios > 0
        assert result.ios % 32 == 0


def test_stop_before_the_start(stack):
    bench = Bench(stack.registry, BenchParams(bdev="Malloc0", seconds=60))
    bench.stop()
    result = stack.reactor.run_until_complete(bench.run())
    assert (result.ended, result.errors) == ("stopped", 0)
    assert result.seconds < 10


def test_stop_during_the_warmup(stack):
    result = stack.bench(Bench.stop, bdev="Malloc0", seconds=60, warmup_seconds=60)
    assert result.ended == "stopped"


def test_stop_from_a_signal_and_from_a_thread(stack):
    Later.reactor = stack.reactor
    top = stack.put_on("Malloc0", Later)

    def by_signal(bench):
        old = signal.signal(signal.SIGINT, lambda *_: (bench.stop(), signal.signal(2, old)))
        signal.raise_signal(signal.SIGINT)

    def by_thread(bench):
        threading.Thread(target=bench.stop).start()

    for act in (by_signal, by_thread):
        assert stack.bench(act, bdev=top, seconds=60).ended == "stopped"


def test_removal_ends_the_run(stack):
    Later.reactor = stack.reactor
    stack.put_on("Malloc0", Later)

    def remove(_bench):
        stack.reactor.spawn(stack.registry.unregister(stack.registry.get("Malloc0")))

    result = stack.bench(remove, bdev="Top0", workload="randwrite", seconds=60)
    assert result.ended == "removed"
    assert result.ok
    stack.reactor.run_until_complete(wait_until_gone(stack, "Malloc0"))


async def wait_until_gone(stack, name):
    while stack.registry.find(name) is not None:
        await stack.reactor.sleep(100)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"io_size": SIZE_BYTES + 512}, [SIZE_BYTES + 512, SIZE_BYTES]),
        ({"io_size": 1000}, [1000, BLOCK_SIZE]),
        ({"io_size": 0}, ["io_size is 0", BLOCK_SIZE]),
        ({"queue_depth": 0}, ["queue_depth is 0", 1, 1000]),
        ({"queue_depth": 1001}, [1001, 1000]),
        ({"queue_depth": 1000, "io_size": 65536}, [1000, 65536, 4 << 20]),
        ({"queue_depth": 300, "workload": "verify"}, [300, 256]),
        ({"num_ios": 5, "workload": "verify"}, [5, "even"]),
        ({"rwmixread": 101}, [101, 100]),
        ({"seed": -1}, [-1, 2**64 - 1]),
        ({"max_failures": -1}, [-1, 0]),
        ({"workload": "trim"}, ["trim", "unmap"]),
        ({"num_ios": -1}, ["num_ios is -1"]),
        ({"num_ios": 0}, ["seconds", "num_ios"]),
    ],
)
def test_parameters_that_do_not_fit(make, params, words):
    stack = make(pool_size=1000, buffer_limit_bytes=4 << 20)
    with pytest.raises(ValueError, match=r".") as caught:
        stack.run(**{"bdev": "Malloc0", "num_ios": 10, **params})
    for word in words:
        assert str(word) in str(caught.value)


def test_what_the_bdev_can_not_do(stack):
    with pytest.raises(BdevError, match=r"UNMAP.*Null0") as caught:
        stack.run(bdev="Null0", workload="unmap", num_ios=1)
    assert caught.value.errno == errno.ENOTSUP
    with pytest.raises(BdevError, match="Nobody0"):
        stack.run(bdev="Nobody0", num_ios=1)
    stack.put_on("Malloc0", Passthru)
    with pytest.raises(BdevError, match="claimed"):
        stack.run(bdev="Malloc0", workload="write", num_ios=1)
    assert stack.run(bdev="Malloc0", workload="read", num_ios=1).ok


def test_virtual_time_needs_a_count(make):
    with pytest.raises(ValueError, match="virtual clock"):
        make(virtual=True).run(bdev="Malloc0", seconds=1)


def test_a_pool_that_others_hold(make):
    stack = make(pool_size=40, buffer_limit_bytes=40 * 4096)
    descriptor = stack.registry.open(
        "Malloc0", write=False, on_event=lambda _: None, holder="other"
    )
    channel = descriptor.get_channel()
    other = LoadGenerator(stack.engine, channel, workload="randread", io_size=4096, queue_depth=20)
    other.start()
    with pytest.raises(RuntimeError, match="only 20"):
        stack.run(bdev="Malloc0", queue_depth=30, num_ios=10)
    with pytest.raises(RuntimeError, match="running"):
        other.close()
    other.stop()
    while other.running:
        stack.reactor.poll()
    assert other.ios % 20 == 0
    other.close()
    descriptor.close()


def test_percentiles_are_close(make):
    # Delays of 1, 2, 3... us one after another: percentile p is p us, to within 1 in 128.
    stack = make(virtual=True)
    Later.reactor = stack.reactor
    stack.put_on("Malloc0", Later)

    def submit(self, channel, ios):
        self.delay_us = self.delay_us % 1000 + 1
        held = ios.take()
        self.reactor.call_later(self.delay_us, lambda: channel.base.submit(held))

    class Growing(Later):
        delay_us = 0

    Growing.submit = submit
    stack.put_on("Null0", Growing, "G0")
    latency = stack.run(bdev="G0", queue_depth=1, num_ios=1000).latency_us
    assert latency.mean == pytest.approx(500.5)
    assert latency.p50 == pytest.approx(500, rel=1 / 128)
    assert latency.p99 == pytest.approx(990, rel=1 / 128)
    assert latency.p99_9 == pytest.approx(999, rel=1 / 128)
