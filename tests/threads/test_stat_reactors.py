"""Rate limits, histograms, counters and timeouts where a bdev's channels are on several reactors.

Method: an application with two reactors on the virtual clock, polled by hand; and, for the races,
one with three threads, where I/O, channels that come and go, and changes of limits and histograms
run into each other for a while. At the end every I/O has ended and nothing is left.
"""

import contextlib
import time

import numpy as np  # noqa: F401 - the first batch a stub describes would import it, slowly
import pytest

from support.told import as_declared
from vbdev.api.errors import RpcError
from vbdev.bdev import BdevError
from vbdev.bdev.figures.histograms import disable_histogram, enable_histogram, get_histogram
from vbdev.bdev.figures.rates import set_rate_limits
from vbdev.daemon.app import App
from vbdev.reactor.clock import VirtualClock
from vbdev.reactor.reactor import Reactor
from vbdev.reactor.task import Future
from vbdev.testing import Stub
from vbdev.vocab import Op, Status

MS = 1_000_000
SECOND = 1_000_000_000


class Two:
    """An application with two reactors, and a stub that is open on both."""

    def __init__(self):
        self.app = App(Reactor(clock=VirtualClock()), num_reactors=2)
        self.app.add_module(Stub)
        self.app.registry.examiner.auto = False  # a stub would never answer
        self.first, self.second = self.app.reactors
        self.app.create("stub", {"name": "Disk", "num_blocks": 1024, "block_size": 512})
        self.disk = self.app.registry.get("Disk")
        self.opened = self.app.registry.open(
            "Disk", write=True, on_event=lambda _event: None, holder="test"
        )
        self.ended = []

    def run(self, coroutine):
        return self.app.reactors.run_until_complete(coroutine)

    def call(self, method, **params):
        result = self.run(self.app.dispatcher.call(method, params))
        return as_declared(result, self.app.dispatcher.get(method).result)

    def submit(self, reactor, op=Op.READ, offset=0):
        data = bytes(512) if op == Op.WRITE else None
        with reactor.here():
            return self.opened.submit(op, offset, 1, data, callback=self.ended.append)

    def settle(self):
        while self.app.reactors.poll():
            pass

    def pass_time(self, ns):
        until = self.first.clock.now_ns() + ns
        self.first.call_later(ns // 1000, lambda: None)
        while self.first.clock.now_ns() < until:
            self.settle()
            self.app.reactors.advance()
        self.settle()

    def complete(self):
        held, self.disk.held = self.disk.held, []
        for ios in held:
            ios.complete()
        self.settle()

    def close(self):
        self.complete()
        self.opened.close()
        self.settle()
        self.run(self.app.stop())
        assert [r.engine.ios_in_use for r in self.app.reactors] == [0, 0]
        self.app.close()


@pytest.fixture
def two():
    made = Two()
    yield made
    made.close()


@pytest.mark.rule("A.17.5", "E.bdev_mt.basic_qos")
def test_two_reactors_draw_from_one_quota(two):
    two.call("bdev_set_qos_limit", name="Disk", rw_ios_per_sec=2000)
    for reactor in (two.first, two.second):
        for _ in range(3):
            two.submit(reactor)
    assert len(two.disk.arrived) == 2
    for total in (4, 6):
        two.pass_time(MS)
        assert len(two.disk.arrived) == total
    two.call("bdev_set_qos_limit", name="Disk", rw_ios_per_sec=0)
    for _ in range(10):
        two.submit(two.second)
    assert len(two.disk.arrived) == 16


@pytest.mark.rule("E.bdev_mt.qos_dynamic_enable")
def test_switching_off_lets_go_on_every_reactor(two):
    two.call("bdev_set_qos_limit", name="Disk", rw_ios_per_sec=1000)
    for reactor in (two.first, two.second):
        for _ in range(5):
            two.submit(reactor)
    assert len(two.disk.arrived) == 1
    two.call("bdev_set_qos_limit", name="Disk", rw_ios_per_sec=0)
    two.settle()
    assert len(two.disk.arrived) == 10
    two.complete()
    assert [request.status for request in two.ended] == [Status.SUCCESS] * 10


@pytest.mark.rule("E.bdev_mt.unregister_and_qos_poller")
def test_removal_while_two_reactors_wait_for_their_rate(two):
    two.call("bdev_set_qos_limit", name="Disk", rw_ios_per_sec=1000)
    for reactor in (two.first, two.second):
        for _ in range(3):
            two.submit(reactor)
    with two.first.here():
        removal = two.first.spawn(two.app.registry.delete("Disk", "stub"))
        removal.add_done_callback(lambda _task: None)
    for _ in range(8):
        two.pass_time(MS)
        two.complete()
    assert len(two.ended) == 6
    assert not removal.done
    two.opened.close()
    two.pass_time(MS)
    assert removal.done


@pytest.mark.rule("A.17.8", "A.18.4")
@pytest.mark.parametrize(
    ("method", "params", "code", "text"),
    [
        (
            "bdev_set_qos_limit",
            {"rw_ios_per_sec": 1000},
            -32602,
            "Failed to configure rate limit: Resource temporarily unavailable",
        ),
        ("bdev_enable_histogram", {"enable": True}, -11, "Resource temporarily unavailable"),
    ],
)
def test_of_two_changes_at_once_the_second_is_refused(two, method, params, code, text):
    two.submit(two.second)
    with two.first.here():
        calls = [
            two.first.spawn(two.app.dispatcher.call(method, {"name": "Disk", **params}))
            for _ in range(2)
        ]
    for call in calls:
        call.add_done_callback(lambda _task: None)
    two.settle()
    assert calls[0].result() is True
    with pytest.raises(RpcError) as caught:
        calls[1].result()
    assert (caught.value.code, caught.value.message) == (code, text)
    assert two.call(method, name="Disk", **params) is True
    if method == "bdev_set_qos_limit":
        two.call(method, name="Disk", rw_ios_per_sec=0)


@pytest.mark.rule("E.bdev_mt.bdev_histograms_mt")
def test_a_histogram_adds_up_reactors(two):
    two.call("bdev_enable_histogram", name="Disk", enable=True)
    for reactor, count in ((two.first, 2), (two.second, 3)):
        for _ in range(count):
            two.submit(reactor)
    two.pass_time(MS)
    two.complete()
    assert two.run(get_histogram(two.disk)).total == 5
    two.call("bdev_enable_histogram", name="Disk", enable=False)
    two.submit(two.second)
    two.complete()
    two.call("bdev_enable_histogram", name="Disk", enable=True)
    assert two.run(get_histogram(two.disk)).total == 0


@pytest.mark.rule("A.18.13")
def test_counters_by_reactor_have_its_number(two):
    for reactor, count in ((two.first, 1), (two.second, 2)):
        for _ in range(count):
            two.submit(reactor)
    two.complete()
    answer = two.call("bdev_get_iostat", names=["Disk"], per_channel=True, reset_mode="all")
    assert [(c["thread_id"], c["num_read_ops"]) for c in answer["channels"]] == [(1, 1), (2, 2)]
    answer = two.call("bdev_get_iostat", names=["Disk"])
    assert answer["bdevs"][0]["num_read_ops"] == 0


@pytest.mark.rule("A.18.16")
def test_queue_depth_is_that_of_all_reactors(two):
    two.call("bdev_set_qd_sampling_period", name="Disk", period=100)
    for reactor, count in ((two.first, 1), (two.second, 2)):
        for _ in range(count):
            two.submit(reactor)
    two.pass_time(MS // 4)
    shown = two.call("bdev_get_iostat", names=["Disk"])["bdevs"][0]
    assert (shown["queue_depth"], shown["io_time"], shown["weighted_io_time"]) == (3, 200, 600)
    two.call("bdev_set_qd_sampling_period", name="Disk", period=0)


@pytest.mark.rule("E.bdev_mt.bdev_set_io_timeout_mt")
def test_timeouts_look_at_the_descriptors_own_reactor(two):
    heard = []
    with two.first.here():
        two.opened.set_timeout(1, heard.append)
    two.submit(two.first, offset=1)
    two.submit(two.second, offset=2)
    two.pass_time(SECOND * 3 // 2)
    assert [overdue.offset_blocks for overdue in heard] == [1]


@pytest.mark.rule(
    "E.bdev_mt.qos_bdev_open_close_data_race", "E.bdev_mt.bdev_unregister_open_qos_data_race"
)
def test_channels_come_and_go_while_limits_and_histograms_change(caplog):
    """On threads: I/O on three reactors through descriptors of their own, for half a second."""
    app = App(num_reactors=3)
    app.create("malloc", {"name": "Disk", "num_blocks": 1024, "block_size": 512})
    app.start_reactors()
    registry = app.registry
    until = time.monotonic() + 0.5
    counts = [0, 0, 0]

    async def one_io(opened):
        future = Future()
        opened.submit(Op.READ, 0, 1, callback=future.set_result)
        assert (await future).status == Status.SUCCESS

    async def come_and_go(number, reactor):
        while True:
            try:
                opened = await registry.reactor.ask(
                    lambda: registry.open(
                        "Disk",
                        write=True,
                        on_event=lambda _event: None,
                        holder=reactor.name,
                        reactor=reactor,
                    )
                )
            except BdevError:
                return  # it is being removed
            for _ in range(3):
                await one_io(opened)
                counts[number] += 1
            await opened.close()

    async def change():
        disk = registry.get("Disk")
        turn = 0
        while time.monotonic() < until:
            turn += 1
            await set_rate_limits(disk, {"rw_ios_per_sec": (20_000, 0, 5_000)[turn % 3]})
            if turn % 2:
                await enable_histogram(disk, granularity=turn % 8)
                await get_histogram(disk)
            else:
                await disable_histogram(disk)
            await app.reactor.sleep(200)
        await set_rate_limits(disk, {"rw_ios_per_sec": 1000})
        await registry.delete("Disk", "malloc")
        return turn

    async def everything():
        walkers = []
        for number, reactor in enumerate(app.reactors):
            done = Future()

            def start(number=number, reactor=reactor, done=done):
                async def walk():
                    failure = None
                    try:
                        await come_and_go(number, reactor)
                    except BaseException as error:  # noqa: BLE001 - raised where it is awaited
                        failure = error
                    app.reactor.send_msg(done.set_result, failure)

                reactor.spawn(walk())

            reactor.send_msg(start)
            walkers.append(done)
        turns = await change()
        for done in walkers:
            failure = await done
            if failure is not None:
                raise failure
        return turns

    with contextlib.closing(app):
        try:
            turns = app.reactor.run_until_complete(everything())
        finally:
            app.reactor.run_until_complete(app.stop())
        assert turns > 3
        assert all(counts), counts
        assert [r.engine.ios_in_use for r in app.reactors] == [0, 0, 0]
        assert not registry.bdevs
    assert "Traceback" not in caplog.text
