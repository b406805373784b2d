"""The reactor: time from its clock alone, nothing lost between threads, no work while idle."""

import os
import socket
import sys
import threading
import time

import pytest

from vbdev.reactor.clock import VirtualClock
from vbdev.reactor.reactor import MESSAGES_PER_TURN, TASKS_PER_TURN, Reactor
from vbdev.reactor.task import Future, gather


@pytest.fixture
def reactor():
    reactor = Reactor()
    yield reactor
    reactor.close()


@pytest.fixture
def virtual():
    reactor = Reactor(clock=VirtualClock())
    yield reactor
    reactor.close()


@pytest.fixture
def running(reactor):
    """A reactor that turns in a thread of its own."""
    thread = threading.Thread(target=reactor.run)
    thread.start()
    yield reactor
    reactor.stop()
    thread.join(10)
    assert not thread.is_alive()


def ask(reactor, function=lambda: None):
    """Run a function on the reactor's thread, wait, and return its result."""
    box, done = [], threading.Event()
    reactor.send_msg(lambda: (box.append(function()), done.set()))
    assert done.wait(10)
    return box[0]


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


# Time


@pytest.mark.rule("A.8.6", "E.thread_ut.multi_timed_pollers_have_same_expiration")
def test_timers_run_in_order_of_deadline_then_of_asking(virtual):
    seen = []
    for name, delay_us in [("c", 30), ("a", 10), ("b1", 20), ("b2", 20)]:
        virtual.call_later(delay_us, lambda name=name: seen.append((name, virtual.clock.now_ns())))
    virtual.run_until_complete(_sleep(virtual, 50))
    assert seen == [("a", 10_000), ("b1", 20_000), ("b2", 20_000), ("c", 30_000)]


async def _sleep(reactor, delay_us):
    await reactor.sleep(delay_us)
    return reactor.clock.now_ns()


def test_virtual_time_costs_no_real_time(virtual):
    start = time.monotonic()
    assert virtual.run_until_complete(_sleep(virtual, 3600e6)) == 3600 * 10**9
    assert time.monotonic() - start < 5


def test_cancelled_timers_do_not_run(virtual):
    seen = []
    timer = virtual.call_later(10, lambda: seen.append(1))
    timer.cancel()
    timer.cancel()
    assert not virtual.advance()
    virtual.call_later(20, lambda: seen.append(2))
    virtual.run_until_complete(_sleep(virtual, 30))
    assert seen == [2]


def test_a_timer_of_no_delay_runs_next_turn(virtual):
    seen = []
    virtual.call_later(0, lambda: virtual.call_later(0, lambda: seen.append(1)))
    virtual.run_until_complete(_sleep(virtual, 1))
    assert seen == [1]


def test_waiting_for_what_can_not_come_is_an_error(virtual):
    async def forever():
        await Future()

    with pytest.raises(RuntimeError, match="can not come"):
        virtual.run_until_complete(forever())


def test_only_a_virtual_clock_is_advanced(reactor):
    with pytest.raises(TypeError):
        reactor.advance()


def test_real_timer(reactor):
    start = time.monotonic()
    reactor.run_until_complete(_sleep(reactor, 20_000))
    assert 0.02 <= time.monotonic() - start < 5


# Pollers


@pytest.mark.rule("A.8.8")
def test_timed_poller(virtual):
    seen = []
    poller = virtual.register_poller(lambda: seen.append(virtual.clock.now_ns()) or 1, 10)
    virtual.run_until_complete(_sleep(virtual, 35))
    assert seen == [10_000, 20_000, 30_000]
    assert (poller.run_count, poller.busy_count) == (3, 3)
    poller.unregister()
    poller.unregister()
    virtual.run_until_complete(_sleep(virtual, 100))
    assert len(seen) == 3


@pytest.mark.rule("A.8.9")
@pytest.mark.parametrize("period_us", [0, 10])
def test_poller_unregisters_itself(virtual, period_us):
    seen = []

    def once():
        seen.append(1)
        poller.unregister()
        return 1

    poller = virtual.register_poller(once, period_us)
    virtual.run_until_complete(_sleep(virtual, 100))
    assert seen == [1]


def raises():
    raise ValueError("broken")


@pytest.mark.parametrize("function", [raises, lambda: None])
def test_poller_that_fails_is_logged_and_goes_on(virtual, caplog, function):
    """One that does not say how much it did is no better."""
    poller = virtual.register_poller(function, 10, "bad")
    virtual.run_until_complete(_sleep(virtual, 25))
    assert poller.run_count == 2
    assert poller.busy_count == 0
    assert "bad" in caplog.text


# Futures and tasks


def test_future():
    future = Future()
    seen = []
    future.add_done_callback(lambda f: seen.append(f.result()))
    with pytest.raises(RuntimeError):
        future.result()
    future.set_result(5)
    future.add_done_callback(lambda f: seen.append(f.result()))
    assert seen == [5, 5]
    with pytest.raises(RuntimeError):
        future.set_result(6)


def test_a_failing_done_callback_harms_nobody_else(caplog):
    future, seen = Future(), []
    future.add_done_callback(lambda _: 1 / 0)
    future.add_done_callback(lambda _: seen.append(1))
    future.set_result(None)
    assert seen == [1]
    assert "ZeroDivisionError" in caplog.text


def test_tasks_await_each_other(virtual):
    async def child(n):
        await virtual.sleep(10 * n)
        if n == 2:
            raise ValueError("two")
        return n

    async def parent():
        tasks = [virtual.spawn(child(n)) for n in (3, 1)]
        values = await gather(list(tasks))
        failing = [virtual.spawn(child(2)), virtual.spawn(child(1))]
        with pytest.raises(ValueError, match="two"):
            await gather(list(failing))
        assert failing[1].done
        return values

    assert virtual.run_until_complete(parent()) == [3, 1]


def test_a_task_that_nobody_awaits_logs_its_failure(virtual, caplog):
    async def fail():
        raise ValueError("lonely")

    virtual.spawn(fail(), "orphan")
    virtual.run_until_complete(_sleep(virtual, 1))
    assert "orphan" in caplog.text
    assert "lonely" in caplog.text


def test_a_foreign_awaitable_fails_its_task_and_nothing_else(virtual, caplog):
    class Foreign:
        def __await__(self):
            yield "not ours"

    async def confused():
        await Foreign()

    with pytest.raises(TypeError, match="no Future"):
        virtual.run_until_complete(confused())
    assert "not ours" in caplog.text
    assert virtual.run_until_complete(_sleep(virtual, 1)) == 1000


# Messages and sleep


@pytest.mark.rule("A.8.4")
def test_messages_wake_a_sleeping_reactor(running):
    thread_ids = {ask(running, threading.get_ident) for _ in range(50)}
    assert len(thread_ids) == 1
    assert thread_ids != {threading.get_ident()}


@pytest.mark.rule("A.8.1")
def test_messages_keep_their_order_and_none_is_lost(running):
    seen = []

    def send(sender):
        for n in range(2000):
            running.send_msg(seen.append, (sender, n))

    senders = [threading.Thread(target=send, args=(n,)) for n in range(4)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    until(lambda: len(seen) == 8000)
    for sender in range(4):
        assert [n for s, n in seen if s == sender] == list(range(2000))


@pytest.mark.rule("A.8.2")
def test_a_flood_of_messages_leaves_room_for_the_rest_of_the_turn(reactor):
    seen = []
    for n in range(MESSAGES_PER_TURN + 1):
        reactor.send_msg(seen.append, n)
    reactor.poll()
    assert len(seen) == MESSAGES_PER_TURN


def test_what_thousands_of_tasks_wait_for_leaves_room_for_the_rest_of_the_turn(reactor):
    event, seen = Future(), []

    async def wait(number):
        await event
        seen.append(number)

    for number in range(TASKS_PER_TURN + 1):
        reactor.begin(wait(number))
    event.set_result(None)
    reactor.poll()
    assert seen == list(range(TASKS_PER_TURN))
    reactor.poll()
    assert seen == list(range(TASKS_PER_TURN + 1))


def test_a_failing_message_is_logged(running, caplog):
    running.send_msg(lambda: 1 / 0)
    ask(running)
    assert "ZeroDivisionError" in caplog.text


def test_an_idle_reactor_does_not_wake(running):
    ask(running)
    until(lambda: running.sleeps)
    ask(running, lambda: running.call_later(50_000, lambda: None).cancel())
    time.sleep(0.05)
    sleeps, turns = running.sleeps, running.idle_turns
    cpu_start = time.process_time()
    time.sleep(0.3)
    assert running.sleeps == sleeps
    assert running.idle_turns == turns
    assert time.process_time() - cpu_start < 0.1


def test_what_a_callback_sends_to_its_own_reactor_costs_no_wake_up(running):
    ask(running)
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        seen = []

        def readable():
            near.recv(1)
            running.send_msg(seen.append, "message")
            with pytest.raises(BlockingIOError):
                os.eventfd_read(running._wake_fd)
            seen.append("callback")

        watch = ask(running, lambda: running.watch(near.fileno(), readable=readable))
        time.sleep(0.05)
        far.send(b"x")
        until(lambda: len(seen) == 2)
        ask(running, watch.close)
    assert seen == ["callback", "message"]


def test_stop_before_run_is_not_lost(reactor):
    reactor.stop()
    reactor.run()  # returns
    thread = threading.Thread(target=reactor.run)
    thread.start()
    ask(reactor)  # and the next one runs again
    reactor.stop()
    thread.join(10)
    assert not thread.is_alive()


# Descriptors


@pytest.fixture
def pair():
    near, far = socket.socketpair()
    near.setblocking(False)
    with near, far:
        yield near, far


def test_watch_reads_and_writes(reactor, pair):
    near, far = pair
    seen = []
    watch = reactor.watch(
        near.fileno(),
        readable=lambda: seen.append(near.recv(10)),
        writable=lambda: seen.append("writable") or watch.update(read=True, write=False),
    )
    reactor.poll()
    assert seen == []
    far.send(b"a")
    watch.update(read=True, write=True)
    reactor.poll()
    assert seen == [b"a", "writable"]
    watch.update(read=False, write=False)
    far.send(b"b")
    reactor.poll()
    assert len(seen) == 2
    watch.close()
    watch.close()


def test_a_watch_closed_by_another_callback_is_not_called(reactor):
    pairs = [socket.socketpair() for _ in range(2)]
    seen, watches = [], []

    def close_all():
        seen.append(1)
        for watch in watches:
            watch.close()

    watches += [reactor.watch(near.fileno(), readable=close_all) for near, _ in pairs]
    for _, far in pairs:
        far.send(b"x")
    reactor.poll()
    reactor.poll()
    assert seen == [1]
    for near, far in pairs:
        near.close()
        far.close()


def test_a_watch_closed_by_its_own_readable_is_not_called_as_writable(reactor, pair):
    near, far = pair
    seen = []
    watch = reactor.watch(
        near.fileno(),
        readable=lambda: (seen.clear(), watch.close()),
        writable=lambda: seen.append(1),
    )
    watch.update(read=True, write=True)
    far.send(b"x")
    reactor.poll()
    assert seen == []


def test_a_hang_up_is_reported_to_whom_waits(reactor, pair):
    near, far = pair
    seen = []
    watch = reactor.watch(near.fileno(), readable=lambda: seen.append(near.recv(1)))
    far.close()
    reactor.poll()
    assert seen == [b""]
    watch.close()


def test_a_hang_up_is_reported_once_to_whom_wants_nothing(reactor, pair):
    """And again to whoever wants something again. The kernel repeats it for ever."""
    near, far = pair
    told = []
    watch = reactor.watch(near.fileno(), readable=lambda: told.append(1))
    watch.update(read=False, write=False)
    far.send(b"x")
    assert reactor.poll() == 0
    far.close()
    assert [reactor.poll() for _ in range(3)] == [1, 0, 0]
    watch.update(read=False, write=False)
    assert reactor.poll() == 0
    assert told == [1]
    watch.update(read=True, write=False)
    assert [reactor.poll() for _ in range(3)] == [1, 1, 1]
    watch.update(read=False, write=False)
    assert [reactor.poll() for _ in range(3)] == [1, 0, 0]
    watch.close()


def test_a_hang_up_is_reported_to_whom_wants_to_write_alone(reactor, pair):
    """Else a peer that is gone while nothing can be sent wakes the loop for ever."""
    near, far = pair
    told = []
    watch = reactor.watch(
        near.fileno(),
        readable=lambda: told.append("readable"),
        writable=lambda: told.append("writable"),
    )
    watch.update(read=False, write=True)
    far.close()
    reactor.poll()
    assert told == ["writable"]
    watch.close()


def test_a_file_that_epoll_refuses_leaves_nothing_behind(reactor, tmp_path):
    fd = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)

    def callback():
        raise AssertionError

    before = sys.getrefcount(callback)
    with pytest.raises(PermissionError):
        reactor.watch(fd, readable=callback)
    assert sys.getrefcount(callback) == before
    os.close(fd)


def test_a_message_to_a_closed_reactor_touches_no_descriptor(tmp_path):
    reactor = Reactor()
    number = reactor._wake_fd
    with (tmp_path / "other").open("wb") as other:
        reactor.close()
        os.dup2(other.fileno(), number)  # whoever opens a file next may get the number
        try:
            thread = threading.Thread(target=reactor.send_msg, args=(print,))
            thread.start()
            thread.join()
        finally:
            os.close(number)
    assert (tmp_path / "other").read_bytes() == b""


def test_a_poller_without_a_period_keeps_the_reactor_awake():
    reactor = Reactor()
    calls = 0

    def poll():
        nonlocal calls
        calls += 1
        if calls == 1000:
            reactor.stop()
        return 0

    reactor.register_poller(poll)
    reactor.run()
    assert (calls, reactor.sleeps) == (1000, 0)
    reactor.close()
