"""The load generator on several reactors."""

import json
import subprocess
import sys

import pytest

from vbdev.bdev import BdevError
from vbdev.bench.load import Bench, BenchParams
from vbdev.modules.malloc import Malloc
from vbdev.modules.passthru import Passthru
from vbdev.testing import layer
from vbdev.vocab import Status


@pytest.fixture
def app(threads):
    """Return the App, running, with a layer on a disk of 1024 blocks."""
    threads.start()
    registry = threads.app.registry
    params = Malloc.Params(name="Disk", num_blocks=1024, block_size=512)
    threads.run(registry.create(Malloc, params))
    threads.run(registry.create(Passthru, Passthru.Params(name="Top", base_bdev_name="Disk")))
    return threads


def run(app, bdev="Top", on_progress=None, **params):
    bench = Bench(
        app.app.registry, BenchParams(bdev=bdev, **params), on_progress, list(app.app.reactors)
    )
    return app.run(bench.run())


@pytest.mark.parametrize("num_ios", [3001, 3000, 2, 1])
def test_ios_are_shared_out(app, num_ios):
    result = run(app, workload="randrw", io_size=512, queue_depth=8, num_ios=num_ios)
    assert (result.ios, result.errors, result.ended) == (num_ios, 0, "count")
    assert [layer.bdev for layer in result.layers] == ["Top", "Disk"]
    assert result.latency_us.p50 <= result.latency_us.p99
    assert app.ask(lambda: app.app.registry.get("Top").holders()) == []


def test_time_ends_all_of_them(app):
    seen = []
    result = run(
        app,
        on_progress=seen.append,
        workload="randread",
        io_size=512,
        seconds=1.1,
        warmup_seconds=0.1,
    )
    assert result.ended == "time"
    assert result.ios > 100
    assert len(seen) == 1
    assert 0 < seen[0].ios <= result.ios


def test_failures_end_all_of_them(app):
    failing = layer(lambda _self, _channel, ios: ios.complete(Status.FAILED), kind="failing")
    registry = app.app.registry
    app.run(registry.create(failing, failing.Params(name="Bad", base_bdev_name="Top")))
    result = run(app, "Bad", workload="randread", io_size=512, seconds=30)
    assert result.ended == "failures"
    assert result.errors >= 3


def test_removal_ends_all_of_them(app):
    registry = app.app.registry

    async def remove():
        bench = Bench(
            registry,
            BenchParams(bdev="Top", io_size=512, seconds=30),
            reactors=list(app.app.reactors),
        )
        task = app.app.reactor.spawn(bench.run())
        await app.app.reactor.sleep(50_000)
        await registry.delete("Disk", "malloc")
        return await task

    assert app.run(remove()).ended == "removed"


def test_verify_wants_one_reactor(app):
    with pytest.raises(ValueError, match="verify on 3 reactors"):
        run(app, workload="verify", io_size=512, num_ios=10)
    with pytest.raises(BdevError):
        run(app, "Nobody", num_ios=10)


def test_a_part_that_can_not_start_ends_the_others(app):
    """The pool of the last reactor is too small for its queue depth."""
    engine = app.reactors[2].engine
    with pytest.raises(ValueError, match="the size of the pool"):
        run(app, io_size=512, queue_depth=engine.pool_size + 1, num_ios=10)
    assert app.ask(lambda: app.app.registry.get("Top").holders()) == []


def test_the_command():
    words = ["null:1MiB", "--layer", "passthru", "-n", "9000", "--reactors", "3"]
    command = [sys.executable, "-m", "vbdev", "bench", *words]
    done = subprocess.run(
        [*command, "--json"], capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(done.stdout)["ios"] == 9000
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "queue depth 32 on each of 3 reactors" in done.stdout
