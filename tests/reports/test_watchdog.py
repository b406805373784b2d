"""The watchdog: names modules that keep I/Os and modules that block, and wakes nobody for nothing.

Method: modules that misbehave. Held I/Os on the virtual clock; blocking is real time, because
that is what it costs.
"""

import logging
import time

import numpy as np  # noqa: F401 - the first batch a stub describes would import it, slowly
import pytest

from support.nbd_client import NbdClient
from vbdev.daemon.app import App
from vbdev.modules.null import Null
from vbdev.reactor.clock import VirtualClock
from vbdev.reactor.reactor import Reactor
from vbdev.reports.watchdog import Watchdog
from vbdev.testing import Stack, Stub, layer
from vbdev.vocab import Op

SECOND = 1_000_000


@pytest.fixture
def stack(caplog):
    caplog.set_level(logging.INFO, "vbdev.reports.watchdog")
    made = Stack()
    made.watchdog = Watchdog(made.engine)
    yield made
    made.close()


@pytest.fixture
def said(caplog):
    """Return what the watchdog has said, each time from the beginning."""

    def look():
        found = [r.message for r in caplog.records if r.name == "vbdev.reports.watchdog"]
        assert all(
            r.levelname == "WARNING" for r in caplog.records if r.name == "vbdev.reports.watchdog"
        )
        return found

    return look


def test_an_io_from_ahead_is_no_age_old(stack, said, monkeypatch):
    """Another thread may have read the clock first: it is not held for 584 years."""
    disk = stack.disk(Stub, "Stuck", num_blocks=4096)
    stack.layer(base="Stuck")
    top = stack.open("Top")
    stack.pass_time(SECOND)
    request = top.submit(Op.READ, 5)
    stack.settle()
    monkeypatch.setattr(stack.reactor.clock, "_now_ns", stack.reactor.clock.now_ns() - 1)
    stack.settle()
    assert stack.engine.held_longer(1) == []
    ((channel, count, oldest),) = stack.engine.held_longer(0)
    assert (channel.bdev.name, count, oldest) == ("Stuck", 1, (Op.READ, 5, 1, 0))
    assert top.channel.overdue(1) == []
    assert [age_ns for *_, age_ns, _number in top.channel.overdue(0)] == [0]
    stack.watchdog._check(stack.engine.clock_ns())
    assert said() == []
    disk.complete()
    stack.settle()
    assert request.done
    for one in (top.channel, channel):
        num_ops, _blocks, latency_ns, most_ns, _least_ns = one.stats()["read"]
        assert (num_ops, latency_ns, most_ns) == (1, 0, 0)


def test_who_keeps_ios_is_named_once_a_minute(stack, said):
    disk = stack.disk(Stub, "Stuck", num_blocks=4096)
    stack.layer(base="Stuck")
    top = stack.open("Top")
    stack.pass_time(SECOND)
    top.submit(Op.WRITE, 77, 4, bytes(2048))
    stack.pass_time(SECOND)
    top.submit(Op.READ, 5)
    stack.pass_time(8 * SECOND)
    assert said() == []
    stack.pass_time(6 * SECOND)
    (warning,) = said()
    assert "bdev=Stuck kind=stub ios=2" in warning
    assert "oldest is write of 4 blocks at 77" in warning
    stack.pass_time(40 * SECOND)
    assert len(said()) == 1
    stack.pass_time(30 * SECOND)
    assert len(said()) == 2
    disk.complete()
    stack.settle()
    stack.pass_time(120 * SECOND)
    assert len(said()) == 2


def test_each_culprit_is_named_for_itself(stack, said):
    one, other = stack.disk(Stub, "One"), stack.disk(Stub, "Other")
    for name in ("One", "Other"):
        stack.open(name).submit(Op.READ)
    stack.pass_time(16 * SECOND)
    assert sorted(line.split("bdev=")[1].split()[0] for line in said()) == ["One", "Other"]
    one.complete()
    other.complete()


def test_a_layer_that_keeps_ios_is_named_and_not_its_base(stack, said):
    kept = []

    def keep(_self, _channel, ios):
        kept.extend(ios.split())

    stack.disk(Stub)
    stack.layer(layer(keep, kind="keeper"))
    stack.open("Top").submit(Op.READ)
    stack.pass_time(16 * SECOND)
    (warning,) = said()
    assert "bdev=Top kind=keeper ios=1" in warning
    for ios in kept:
        ios.complete()


def test_nobody_is_woken_where_nothing_is_outstanding(stack):
    disk = stack.disk(Stub)
    top = stack.open("Disk")
    stack.settle()
    assert not stack.reactor.advance()
    top.submit(Op.READ)
    stack.settle()
    assert stack.reactor.advance()
    disk.complete()
    stack.settle()
    assert not stack.reactor.advance()


@pytest.mark.parametrize("where", ["submit", "completed"])
def test_who_blocks_is_named_with_how_long(stack, said, where):
    def block(_self, channel, ios):
        time.sleep(0.15)
        if where == "submit":
            channel.base.submit(ios)

    disk = stack.disk(Stub)
    submit, completed = (block, None) if where == "submit" else (None, block)
    blocking = layer(submit, completed, kind="sleeper")
    stack.layer(blocking, name="Slow")
    stack.layer(name="Above", base="Slow")
    above = stack.open("Above")
    for _ in range(2):
        above.submit(Op.READ)
        disk.complete()
        stack.settle()
    (warning,) = said()  # the second time is within the same minute
    assert "bdev=Slow kind=sleeper" in warning
    assert 100 <= int(warning.split(" for ")[1].split()[0]) < 10_000


def test_what_is_quick_is_not_named(stack):
    named = []
    stack.engine.on_slow_module = lambda _channel, ns: named.append(ns)
    stack.disk(Null)
    stack.layer()
    top = stack.open("Top")
    for _ in range(1000):
        top.submit(Op.READ)
    stack.settle()
    assert len(named) < 10  # where the machine has other things to do, a call may take long


def test_the_application_has_one(said, caplog):
    caplog.set_level(logging.INFO, "vbdev.reports.watchdog")
    app = App(Reactor(clock=VirtualClock()))
    app.add_module(Stub)
    app.registry.examiner.auto = False  # nobody else shall read the stub
    app.create("stub", {"name": "Stuck", "num_blocks": 64, "block_size": 512})
    opened = app.registry.open("Stuck", write=True, on_event=lambda _event: None, holder="test")
    opened.submit(Op.READ, 0, 1, callback=lambda _request: opened.close())

    async def wait():
        await app.reactor.sleep(16 * SECOND)

    app.reactor.run_until_complete(wait())
    assert "bdev=Stuck kind=stub ios=1" in said()[0]
    app.registry.get("Stuck").complete()
    app.reactor.run_until_complete(app.stop())
    app.reactor.close()


SLEEPY = """
import time

from vbdev.bdev import VirtualBdev


class Sleepy(VirtualBdev):
    kind = "sleepy"

    def submit(self, channel, ios):
        time.sleep(0.25)
        channel.base.submit(ios)
"""


def test_a_daemon_says_who_blocks_and_serves_on(serve, tmp_path):
    module = tmp_path / "sleepy.py"
    module.write_text(SLEEPY)
    daemon = serve("malloc:1MiB", "--module", module, "--layer", "sleepy,name=Slow")
    with NbdClient(daemon.socket) as client:
        for offset in (0, 4096):
            assert client.read(offset, 4096) == bytes(4096)
    assert daemon.stderr.count("module blocked the reactor bdev=Slow kind=sleepy for ") == 1
    daemon.stop()
