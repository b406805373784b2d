"""CopyLimit: it copies what a load generator writes, to the same blocks, in the same order."""

import pytest

from vbdev.bench.load import BenchParams, run
from vbdev.core.engine.engine import Engine
from vbdev.core.load.copy_limit import CopyLimit
from vbdev.modules.malloc import Malloc, MallocParams
from vbdev.reactor.reactor import Reactor
from vbdev.registry import Registry
from vbdev.vocab import Op

SIZE = 1 << 20
IO_SIZE = 4096


@pytest.mark.parametrize("queue_depth", [1, 7, 32])
@pytest.mark.parametrize("num_ios", [7 * 32, 1000])
def test_it_writes_what_the_load_generator_writes(queue_depth, num_ios):
    num_ios -= num_ios % queue_depth  # the last ones of a queue end in one batch
    reactor = Reactor()
    engine = reactor.engine = Engine()
    registry = Registry(reactor)
    params = MallocParams(name="Disk", num_blocks=SIZE // IO_SIZE, block_size=IO_SIZE)
    reactor.run_until_complete(registry.create(Malloc, params))
    load = BenchParams(
        bdev="Disk", workload="randwrite", queue_depth=queue_depth, num_ios=num_ios, seed=9
    )
    run(registry, load)
    found = bytearray(SIZE)
    descriptor = registry.open("Disk", write=False, on_event=lambda _: None, holder="reader")

    async def read():
        await descriptor.io(Op.READ, 0, SIZE // IO_SIZE, found)

    reactor.run_until_complete(read())
    descriptor.close()
    reactor.run_until_complete(registry.close())
    reactor.close()
    assert engine.ios_in_use == 0

    limit = CopyLimit(SIZE, IO_SIZE, queue_depth, seed=9)
    limit.run(num_ios, True)
    assert limit.memory == bytes(found)
    assert any(found)


def test_reads_change_nothing_and_later_runs_go_on():
    once, twice = CopyLimit(SIZE), CopyLimit(SIZE)
    once.run(100, True)
    twice.run(50, True)
    twice.run(50, True)
    assert once.memory == twice.memory
    before = once.memory
    once.run(1000, False)
    assert once.memory == before


def test_fill_touches_all():
    limit = CopyLimit(SIZE)
    assert limit.memory == bytes(SIZE)
    limit.fill()
    assert set(limit.memory) == {0xA5}


@pytest.mark.parametrize(
    ("size", "io_size", "queue_depth"),
    [(SIZE, 0, 1), (SIZE, 100, 1), (SIZE, 4096, 0), (4095, 4096, 1)],
)
def test_what_does_not_fit(size, io_size, queue_depth):
    with pytest.raises(ValueError, match=f"{size} bytes"):
        CopyLimit(size, io_size, queue_depth)
