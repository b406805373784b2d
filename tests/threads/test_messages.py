"""Messages and questions between reactors, and how reactors begin and end."""

import errno
import threading
import time

import pytest

from vbdev.reactor.clock import VirtualClock
from vbdev.reactor.questions import ReactorStoppedError
from vbdev.reactor.reactor import Reactor
from vbdev.reactor.reactors import Reactors


class Engines:
    """Stands in for the compiled part."""

    def drain(self):
        return 0

    @property
    def deadline_ns(self):
        return 0

    def set_virtual_time(self, now_ns):
        pass


@pytest.fixture
def make():
    """Return a function that makes reactors on threads, which end with the test."""
    made = []

    def make(count, on_failure=lambda _reactor, _error: None):
        group = Reactors(Reactor(), count, Engines, on_failure)
        made.append(group)
        group.start()
        return group

    yield make
    for group in made:
        assert group.run_until_complete(group.stop()) == []
        group.close()
        group.first.close()


@pytest.mark.rule("E.thread_ut.thread_name", "E.thread_ut.thread_alloc")
def test_names_and_ids(make):
    group = make(3)
    assert [(r.id, r.name) for r in group] == [(1, "reactor_0"), (2, "reactor_1"), (3, "reactor_2")]
    assert Reactor.current() is None

    def who(reactor):
        return Reactor.current() is reactor, threading.get_ident(), reactor.native_id

    found = group.run_until_complete(group.for_each(who))
    assert all(right for right, _, _ in found)
    assert len({ident for _, ident, _ in found}) == 3
    assert len({native for _, _, native in found}) == 3


@pytest.mark.rule("A.8.1", "E.thread_ut.thread_send_msg")
def test_a_message_never_runs_in_the_senders_call(make):
    group = make(2)
    one, two = group
    seen = []

    async def main():
        one.send_msg(seen.append, "own")
        assert seen == []
        for n in range(100):
            two.send_msg(seen.append, n)
        return await two.ask(lambda: [n for n in seen if n != "own"])

    assert group.run_until_complete(main()) == list(range(100))
    assert "own" in seen


def test_exec_msg_runs_at_once_where_it_is(make):
    group = make(2)
    one, two = group
    seen = []

    async def main():
        one.exec_msg(seen.append, "here")
        assert seen == ["here"]
        assert two.exec_msg(lambda: seen.append(Reactor.current()))
        await two.ask(lambda: None)

    group.run_until_complete(main())
    assert seen == ["here", two]


@pytest.mark.rule("E.thread_ut.thread_for_each")
def test_for_each_in_order_and_the_errors_of_who_was_asked(make):
    group = make(3)
    seen = []
    assert group.run_until_complete(group.for_each(lambda r: seen.append(r.id) or r.id)) == [
        1,
        2,
        3,
    ]
    assert seen == [1, 2, 3]

    async def fails():
        await list(group)[2].ask(lambda: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        group.run_until_complete(fails())


def test_only_a_reactor_asks():
    reactor = Reactor()
    with pytest.raises(RuntimeError, match="no reactor"):
        reactor.ask(lambda: None)
    reactor.close()


@pytest.mark.rule("A.8.3", "E.thread_ut.for_each_thread_and_thread_exit_race")
def test_a_reactor_that_has_ended_refuses(make):
    group = make(3)
    last = list(group)[2]
    last.stop()

    async def main():
        while last.send_msg(lambda: None):
            await group.first.sleep(1000)
        with pytest.raises(ReactorStoppedError) as raised:
            await last.ask(lambda: None)
        assert raised.value.errno == errno.ESHUTDOWN
        return await group.for_each(lambda r: r.id)

    assert group.run_until_complete(main()) == [1, 2]


@pytest.mark.rule("E.thread_ut.thread_exit_test")
def test_what_was_accepted_before_the_end_runs(make):
    """From several senders, while it ends: each message runs, or its sender is told."""
    group = make(2)
    _, two = group
    ran, accepted = [], []

    def send(sender):
        n = 0
        while two.send_msg(ran.append, (sender, n)):
            accepted.append((sender, n))
            n += 1

    senders = [threading.Thread(target=send, args=(n,)) for n in range(3)]
    for sender in senders:
        sender.start()
    time.sleep(0.02)
    assert group.run_until_complete(group.stop()) == []
    for sender in senders:
        sender.join()
    assert len(ran) > 100
    assert sorted(ran) == sorted(accepted)
    for sender in range(3):
        assert [n for s, n in ran if s == sender] == list(range(sum(s == sender for s, _ in ran)))


def test_a_loop_that_fails_is_told_and_goes_on(make, caplog):
    failed = []
    group = make(2, lambda reactor, error: failed.append((reactor.id, type(error))))
    two = list(group)[1]

    def leave():
        raise SystemExit(3)

    async def main():
        two.send_msg(leave)
        return await two.ask(lambda: "goes on")

    assert group.run_until_complete(main()) == "goes on"
    group.first.poll()
    assert failed == [(2, SystemExit)]
    assert "reactor failed" in caplog.text


def test_reactors_that_can_not_all_start(monkeypatch):
    """The third has no thread: the second ends again."""
    group = Reactors(Reactor(), 4, Engines, lambda *_: None)
    start = threading.Thread.start

    def limited(thread):
        if thread.name == "reactor_2":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    before = threading.active_count()
    with pytest.raises(RuntimeError, match=r"reactor_2 \(3 of 4\) can not start"):
        group.start()
    assert threading.active_count() == before
    group.close()
    group.first.close()


def test_reactors_that_can_not_all_be_made():
    made = []

    def engine():
        if len(made) == 2:
            raise MemoryError("no pool")
        made.append(1)
        return Engines()

    first = Reactor()
    with pytest.raises(MemoryError):
        Reactors(first, 5, engine, lambda *_: None)
    first.close()


@pytest.mark.rule("E.thread_ut.thread_update_stats_test")
def test_busy_and_idle_time(make):
    group = make(2)
    two = list(group)[1]

    async def main():
        await two.ask(lambda: None)
        await group.first.sleep(30_000)
        idle = await two.ask(two.times_ns)
        await two.ask(lambda: time.sleep(0.03))
        return idle, await two.ask(two.times_ns)

    before, after = group.run_until_complete(main())
    assert before[1] >= 20_000_000
    assert after[0] - before[0] >= 30_000_000
    assert after[1] - before[1] < 20_000_000


def test_virtual_reactors_share_their_clock():
    first = Reactor(clock=VirtualClock())
    group = Reactors(first, 2, Engines, lambda *_: None)
    group.start()
    two = list(group)[1]
    seen = []
    two.call_later(50, lambda: seen.append(first.clock.now_ns()))

    async def main():
        await first.sleep(100)
        return await two.ask(lambda: "answer")

    assert group.run_until_complete(main()) == "answer"
    assert seen == [50_000]
    group.close()
    first.close()


def test_idle_reactors_sleep(make):
    group = make(3)
    group.run_until_complete(group.for_each(lambda _: None))
    time.sleep(0.05)
    others = list(group)[1:]
    before = [(r.sleeps, r.idle_turns) for r in others]
    cpu = time.process_time()
    time.sleep(0.3)
    assert [(r.sleeps, r.idle_turns) for r in others] == before
    assert time.process_time() - cpu < 0.1
