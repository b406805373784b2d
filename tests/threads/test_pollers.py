"""Pollers: order, states, pauses, statistics."""

import pytest

from vbdev.reactor.clock import VirtualClock
from vbdev.reactor.poller import PollerState
from vbdev.reactor.reactor import Reactor


@pytest.fixture
def reactor():
    made = Reactor(clock=VirtualClock())
    yield made
    made.close()


def pass_time(reactor, us):
    async def sleep():
        await reactor.sleep(us)

    reactor.run_until_complete(sleep())


def note(seen, what, did=1):
    return lambda: seen.append(what) or did


@pytest.mark.rule("A.8.5")
def test_a_turn_runs_messages_then_pollers_then_timers(reactor):
    seen = []
    reactor.call_later(0, note(seen, "timer"))
    poller = reactor.register_poller(note(seen, "poller"))
    reactor.send_msg(note(seen, "message"))
    reactor.poll()
    poller.unregister()
    assert seen == ["message", "poller", "timer"]


@pytest.mark.rule("E.thread_ut.thread_poller")
def test_pollers_of_each_turn_run_newest_first(reactor):
    seen = []
    pollers = [reactor.register_poller(note(seen, n)) for n in range(3)]
    reactor.poll()
    reactor.poll()
    assert seen == [2, 1, 0, 2, 1, 0]
    for poller in pollers:
        poller.unregister()
    reactor.poll()
    assert len(seen) == 6


@pytest.mark.rule("A.8.9")
def test_pollers_that_come_and_go_in_a_turn(reactor):
    """Nobody is called twice, nobody who has gone is called, who has come waits for the next."""
    seen, pollers = [], {}

    def busy():
        seen.append("c")
        if "d" not in pollers:
            pollers["a"].unregister()
            pollers["d"] = reactor.register_poller(note(seen, "d"))
        return 1

    pollers["a"] = reactor.register_poller(note(seen, "a"))
    pollers["b"] = reactor.register_poller(note(seen, "b"))
    pollers["c"] = reactor.register_poller(busy)
    reactor.poll()
    assert seen == ["c", "b"]
    reactor.poll()
    assert seen[2:] == ["d", "c", "b"]
    for poller in pollers.values():
        poller.unregister()


@pytest.mark.rule("A.8.6", "E.thread_ut.multi_timed_pollers_have_same_expiration")
def test_timed_pollers_that_are_due_together_run_in_order_of_registration(reactor):
    seen = []
    pollers = [reactor.register_poller(note(seen, n), 10) for n in range(4)]
    pass_time(reactor, 25)
    assert seen == [0, 1, 2, 3] * 2
    for poller in pollers:
        poller.unregister()


@pytest.mark.rule("A.8.7")
def test_a_late_poller_runs_once_and_then_a_period_later(reactor):
    times = []
    poller = reactor.register_poller(lambda: times.append(reactor.clock.now_ns()) or 1, 10)
    reactor.clock.advance_to(95_000)
    reactor.poll()
    pass_time(reactor, 12)
    assert times == [95_000, 105_000]
    poller.unregister()


@pytest.mark.rule("A.8.10", "E.thread_ut.poller_pause")
@pytest.mark.parametrize("period_us", [0, 10])
def test_pause_and_resume(reactor, period_us):
    seen = []
    poller = reactor.register_poller(note(seen, 1, did=0), period_us)
    poller.pause()
    poller.pause()
    assert poller.state is PollerState.PAUSED
    pass_time(reactor, 25)
    assert seen == []
    poller.resume()
    poller.resume()
    assert poller.state is PollerState.WAITING
    pass_time(reactor, 15)
    assert seen
    poller.unregister()


@pytest.mark.rule("A.8.10", "E.thread_ut.poller_pause")
@pytest.mark.parametrize("period_us", [0, 10])
def test_pause_and_resume_from_inside(reactor, period_us):
    states = []

    def once():
        states.append(poller.state)
        poller.pause()
        states.append(poller.state)
        poller.resume()
        states.append(poller.state)
        poller.pause()
        return 1

    poller = reactor.register_poller(once, period_us)
    pass_time(reactor, 100)
    assert states == [PollerState.RUNNING, PollerState.PAUSING, PollerState.RUNNING]
    assert poller.state is PollerState.PAUSED
    poller.unregister()
    assert poller.state is PollerState.UNREGISTERED
    poller.resume()
    pass_time(reactor, 100)
    assert poller.state is PollerState.UNREGISTERED
    assert len(states) == 3


@pytest.mark.rule("A.8.10")
def test_a_paused_poller_keeps_nobody_awake(reactor):
    poller = reactor.register_poller(lambda: 0)
    assert reactor.turn_pollers
    poller.pause()
    assert not reactor.turn_pollers
    poller.unregister()


@pytest.mark.rule(
    "A.8.8",
    "A.8.11",
    "E.thread_ut.poller_get_name",
    "E.thread_ut.poller_get_id",
    "E.thread_ut.poller_get_state_str",
    "E.thread_ut.poller_get_period_ticks",
    "E.thread_ut.poller_get_stats",
)
def test_what_can_be_asked_of_a_poller(reactor):
    answers = iter([1, 0, -1])
    states = []
    one = reactor.register_poller(
        lambda: states.append(one.state.value) or next(answers), 10, "one"
    )
    two = reactor.register_poller(lambda: 0)
    assert (one.name, one.period_ticks, two.period_ticks) == ("one", 10_000, 0)
    assert one.id != two.id
    assert one.state.value == "waiting"
    two.unregister()
    pass_time(reactor, 35)
    assert states == ["running"] * 3
    assert one.stats == (3, 1)
    one.unregister()
    assert (one.state.value, two.state.value) == ("unregistered", "unregistered")
