"""What comes just before a reactor goes to sleep, and descriptors that were closed too early."""

import gc
import os
import signal
import threading
import time

import pytest

from vbdev.reactor.reactor import Reactor

ALARMS = 10
AGAIN_S = 0.3


@pytest.fixture
def reactor():
    reactor = Reactor()
    yield reactor
    reactor.close()


def test_a_message_that_python_code_sends_while_the_loop_looks_for_its_deadline():
    """As the handler of a signal does, which may run in any Python code."""

    class Interrupted(Reactor):
        def _run_timers(self, now_ns):
            did = super()._run_timers(now_ns)
            self.stop()
            return did

    late = []
    reactor = Interrupted()
    late_stop = threading.Timer(3, lambda: (late.append(True), reactor.stop()))
    late_stop.start()
    with reactor.here():
        reactor.call_later(1e9, list).cancel()
    reactor.run()
    late_stop.cancel()
    late_stop.join()
    reactor.close()
    assert not late


def test_a_signal_that_comes_while_a_reactor_polls_before_it_sleeps():
    """Its handler is not put off until something else happens: here, until it comes again.

    One that comes between the last look and the sleep is; an App is woken then, too.
    """

    class Alarmed(Reactor):
        def _run_timers(self, now_ns):
            did = super()._run_timers(now_ns)
            signal.setitimer(signal.ITIMER_REAL, 10e-6, AGAIN_S)
            return did

    before = signal.signal(signal.SIGALRM, lambda *_: reactor.stop())
    late = 0
    try:
        for _ in range(ALARMS):
            reactor = Alarmed()  # one that has polled in vain does so less often
            reactor.call_later(1e9, list).cancel()
            began = time.monotonic()
            reactor.run()
            signal.setitimer(signal.ITIMER_REAL, 0)
            late += time.monotonic() - began >= AGAIN_S
            reactor.close()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert late < ALARMS / 2


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
