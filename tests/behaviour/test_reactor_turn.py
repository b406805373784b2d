"""A reactor's turn: what runs in which order, and when time has passed it by."""

import threading

import pytest

from vbdev.reactor.clock import VirtualClock
from vbdev.reactor.reactor import Reactor


@pytest.fixture
def reactor():
    made = Reactor(clock=VirtualClock())
    yield made
    made.close()


@pytest.mark.rule("E.thread_ut.thread_alloc", "E.thread_ut.thread_name")
def test_reactors_come_and_go():
    made = [Reactor(f"reactor_{n}") for n in range(3)]
    assert [one.name for one in made] == ["reactor_0", "reactor_1", "reactor_2"]
    for one in made:
        assert one.poll() == 0
        one.close()


@pytest.mark.rule("E.thread_ut.thread_send_msg")
def test_a_message_runs_on_its_reactor_and_not_in_the_senders_call(reactor):
    seen = []
    reactor.send_msg(lambda: seen.append(threading.get_ident()))
    sender = threading.Thread(
        target=reactor.send_msg, args=(lambda: seen.append(threading.get_ident()),)
    )
    sender.start()
    sender.join()
    assert seen == []
    reactor.poll()
    assert seen == [threading.get_ident()] * 2


@pytest.mark.rule("A.8.5", "E.thread_ut.thread_poller")
def test_messages_run_before_pollers(reactor):
    seen = []
    pollers = [
        reactor.register_poller(lambda: seen.append("timed") or 1, 10),
        reactor.register_poller(lambda: seen.append("poller") or 1),
    ]
    for _ in range(2):
        reactor.send_msg(seen.append, "message")
    reactor.poll()
    assert seen == ["message", "message", "poller"]
    reactor.clock.advance_to(10_000)
    del seen[:]
    reactor.send_msg(seen.append, "message")
    reactor.poll()
    assert seen[0] == "message"
    assert sorted(seen[1:]) == ["poller", "timed"]
    for poller in pollers:
        poller.unregister()
    del seen[:]
    reactor.poll()
    assert seen == []


@pytest.mark.rule("A.8.7")
def test_a_timed_poller_that_is_late_runs_once_and_goes_on_from_there(reactor):
    seen = []
    reactor.register_poller(lambda: seen.append(reactor.clock.now_ns()) or 1, 10)
    reactor.clock.advance_to(57_000)
    for _ in range(3):
        reactor.poll()
    assert seen == [57_000]
    reactor.clock.advance_to(66_999)
    reactor.poll()
    assert seen == [57_000]
    reactor.clock.advance_to(67_000)
    reactor.poll()
    assert seen == [57_000, 67_000]


@pytest.mark.rule("E.thread_ut.thread_update_stats_test")
def test_busy_and_idle_turns_are_counted(reactor):
    before = reactor.busy_turns, reactor.idle_turns
    reactor.poll()
    reactor.send_msg(lambda: None)
    reactor.poll()
    reactor.poll()
    assert (reactor.busy_turns - before[0], reactor.idle_turns - before[1]) == (1, 2)
