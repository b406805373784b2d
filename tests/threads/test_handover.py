"""Reactors count themselves, so that threads look for each other only while there are several."""

import pytest

from support.local_app import LocalApp
from vbdev.bench.load import Bench, BenchParams
from vbdev.core.base import handover
from vbdev.core.engine.engine import Engine
from vbdev.modules.malloc import Malloc
from vbdev.reactor.reactor import Reactor
from vbdev.reactor.reactors import MAX_FAILURES, Reactors


def crowd():
    """Return how many threads run a reactor beside the first."""
    handover.joined()
    return handover.parted()


@pytest.mark.parametrize("number", [1, 3])
def test_reactors_count_themselves(tmp_path, number):
    before = crowd()
    app = LocalApp(tmp_path, num_reactors=number)
    app.start()
    assert crowd() == before + number - 1
    app.close()
    assert crowd() == before


def test_one_that_fails_for_good_is_counted_no_more():
    before = crowd()
    failures = []
    group = Reactors(Reactor(), 2, Engine, lambda _reactor, error: failures.append(error))
    group.start()

    def fail():
        raise SystemExit

    for _ in range(MAX_FAILURES):
        list(group)[1].send_msg(fail)

    async def wait():
        while len(failures) < MAX_FAILURES:
            await group.first.sleep(1000)
        return await group.stop()

    assert group.run_until_complete(wait()) == []
    assert crowd() == before
    group.close()
    group.first.close()


@pytest.mark.parametrize("io_size", [512, 4096])
def test_checked_writes_by_several(threads, io_size):
    """Every section without the GIL under load, while another reactor only sleeps and wakes."""
    threads.start()
    registry = threads.app.registry
    params = Malloc.Params(
        name="Disk", num_blocks=1024, block_size=512, md_size=8, md_interleave=False, dif_type=1
    )
    threads.run(registry.create(Malloc, params))
    load = Bench(
        registry,
        BenchParams(
            bdev="Disk", workload="randwrite", io_size=io_size, queue_depth=8, num_ios=40_000
        ),
        None,
        threads.reactors[:2],
    )
    result = threads.run(load.run(), timeout_s=60)
    assert (result.ios, result.errors) == (40_000, 0)
