"""What comes just before a reactor goes to sleep, and descriptors that were closed too early."""

import gc
import os
import signal
import threading

import pytest

from vbdev.reactor import Reactor


@pytest.fixture
def reactor():
    reactor = Reactor()
    yield reactor
    reactor.close()


@pytest.fixture
def late(reactor):
    """Ends a sleep that nothing else ends, and says so."""
    said = []

    def give_up():
        said.append(True)
        reactor.stop()

    timer = threading.Timer(3, give_up)
    timer.start()
    yield said
    timer.cancel()
    timer.join()


def test_a_message_that_python_code_sends_while_the_loop_looks_for_its_deadline(late):
    """As the handler of a signal does, which may run in any Python code."""

    class Interrupted(Reactor):
        def _run_timers(self, now_ns):
            did = super()._run_timers(now_ns)
            self.stop()
            return did

    reactor = Interrupted()
    late_stop = threading.Timer(3, lambda: (late.append(True), reactor.send_msg(reactor.stop)))
    late_stop.start()
    with reactor.here():
        reactor.call_later(1e9, list).cancel()
    reactor.run()
    late_stop.cancel()
    late_stop.join()
    reactor.close()
    assert not late


def test_a_signal_that_comes_at_any_moment_before_a_sleep(reactor, late):
    """Its handler is not put off until something else happens."""
    before = signal.signal(signal.SIGALRM, lambda *_: reactor.stop())
    try:
        for n in range(400):
            signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + n % 100))
            reactor.run()
            assert not late, n
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_watch_that_is_closed_behind_its_descriptor(reactor):
    """The file is open elsewhere, as in a child: the kernel has not forgotten it."""
    called = []
    reader, writer = os.pipe()
    elsewhere = os.dup(reader)
    watch = reactor.watch(reader, readable=lambda: called.append(True))
    os.close(reader)
    with pytest.raises(OSError, match="Bad file descriptor"):
        watch.close()
    watch.close()
    del watch
    gc.collect()
    others = [bytearray(80) for _ in range(1000)]
    os.write(writer, b"1")
    reactor.poll()
    assert called == []
    assert len(others) == 1000
    os.close(elsewhere)
    os.close(writer)


def test_a_watch_that_is_closed_behind_its_descriptor_while_events_are_looked_at(reactor):
    called = []
    reader, writer = os.pipe()

    def first():
        os.close(reader)
        with pytest.raises(OSError, match="Bad file descriptor"):
            watches[0].close()
        watches.clear()
        gc.collect()
        called.append(True)

    watches = [reactor.watch(reader, readable=first)]
    os.write(writer, b"1")
    reactor.poll()
    reactor.poll()
    assert called == [True]
    os.close(writer)
