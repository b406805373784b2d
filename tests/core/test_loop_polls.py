"""Before it sleeps a loop polls, unless that is in vain time and again."""

import ctypes
import os
import threading
from collections import deque

import pytest

from vbdev.core.loop.loop import Loop
from vbdev.reactor.clock import RealClock

LIBC = ctypes.CDLL(None, use_errno=True)
CLOCK = RealClock()
WAITS = 200
FEW = 50
"""Of so many waits a long row in vain polls in 8, and more only where the machine is slow."""


class Timer:
    callback = print


@pytest.fixture
def loop():
    """Return a loop with a timer, whose deadline the test sets, and nothing else."""
    timers = []
    loop = Loop(
        messages=deque(),
        tasks=deque(),
        pollers={},
        timers=timers,
        run_messages=int,
        run_tasks=int,
        run_pollers=int,
        run_timers=lambda _now: 0,
        on_error=print,
        main_thread=threading.get_ident(),
    )

    def wait(delay_us):
        timers[:] = [(CLOCK.now_ns() + delay_us * 1000, 0, Timer)]
        return loop.turn(wait=True)

    loop_and_wait = loop, wait
    yield loop_and_wait
    loop.close()


def polls_of(loop, step):
    """Return in how many of WAITS steps it polls."""
    before = loop.polls
    for _ in range(WAITS):
        step()
    return loop.polls - before


def test_polls_in_vain_become_rare(loop):
    loop, wait = loop
    assert 0 < polls_of(loop, lambda: wait(1000)) <= FEW
    assert loop.sleeps > WAITS - FEW


def test_a_deadline_too_near_to_sleep_for_is_polled_for(loop):
    loop, wait = loop
    polls_of(loop, lambda: wait(1000))
    sleeps = loop.sleeps
    # A turn that comes too late for its deadline does not wait.
    assert polls_of(loop, lambda: wait(20)) > FEW
    assert loop.sleeps - sleeps <= FEW


class Spec(ctypes.Structure):
    _fields_ = [(name, ctypes.c_long) for name in ("every_s", "every_ns", "first_s", "first_ns")]


def test_one_poll_that_finds_something_brings_them_back(loop):
    loop, wait = loop
    fd = LIBC.timerfd_create(1, os.O_NONBLOCK)
    try:
        loop.watch(fd, lambda: os.read(fd, 8), None)
        polls_of(loop, lambda: wait(1000))

        def soon():
            LIBC.timerfd_settime(fd, 0, ctypes.byref(Spec(0, 0, 0, 15_000)), None)
            wait(1_000_000)

        for _ in range(5):  # each may be too late
            polls = polls_of(loop, soon)
        assert polls > FEW
    finally:
        os.close(fd)
