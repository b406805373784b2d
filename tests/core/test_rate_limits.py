"""RateLimits: quotas of a timeslice, what runs over, what is lost, several threads at once.

Method: the numbers alone, with times of the test's own; a twin in plain Python that is polled each
millisecond, as SPDK polls, is the oracle of the one that nobody polls.
"""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbdev.core.counts.rates import RateLimits

MS = 1_000_000
MIB = 1 << 20


def limits(rw_ios=0, rw_bytes=0, r_bytes=0, w_bytes=0, *, now_ns=0):
    made = RateLimits(now_ns)
    made.set([rw_ios, rw_bytes, r_bytes, w_bytes], now_ns)
    return made


def started(made, now_ns, size_bytes=512, *, read=True, tries=100_000):
    """Start I/Os until one may not; return how many did."""
    for count in range(tries):
        if not made.try_start(read, size_bytes, now_ns):
            return count
    return tries


@pytest.mark.rule("A.17.3")
def test_a_timeslice_has_a_thousandth_of_the_limit():
    made = limits(rw_ios=5000)
    assert [started(made, ms * MS) for ms in range(4)] == [5, 5, 5, 5]


def test_within_a_timeslice_nothing_comes_back():
    made = limits(rw_ios=2000)
    assert started(made, 0) == 2
    assert started(made, MS - 1) == 0
    assert started(made, MS) == 2


@pytest.mark.rule("A.17.1")
def test_reads_and_writes_share_the_limit_of_both():
    made = limits(rw_ios=4000)
    assert made.try_start(True, 512, 0)
    assert started(made, 0, read=False) == 3


def test_no_limit_lets_everything_pass():
    assert started(limits(), 0, 1 << 30, tries=1000) == 1000


@pytest.mark.rule("A.17.1")
def test_a_limit_on_reads_does_not_concern_writes():
    made = limits(r_bytes=MIB)
    assert started(made, 0, 4096) == 1
    assert started(made, 0, 4096, read=False, tries=50) == 50
    other = limits(w_bytes=MIB)
    assert started(other, 0, 4096, read=False) == 1
    assert started(other, 0, 4096, tries=50) == 50


@pytest.mark.rule("A.17.3")
def test_the_least_of_a_timeslice_is_one_io_and_512_bytes():
    made = limits(rw_ios=1)
    assert [started(made, ms * MS) for ms in range(3)] == [1, 1, 1]
    assert limits(r_bytes=1).remaining == [0, 0, 512, 0]


@pytest.mark.rule("A.17.4")
def test_an_io_may_run_over_and_the_next_timeslices_pay():
    made = limits(rw_bytes=MIB)  # 1048 bytes a timeslice
    assert made.try_start(True, 4096, 0)
    assert made.remaining[1] == 1048 - 4096
    assert not made.try_start(True, 512, MS)
    assert not made.try_start(True, 512, 2 * MS)
    assert made.try_start(True, 512, 3 * MS)


@pytest.mark.rule("A.17.4")
def test_what_a_timeslice_leaves_is_lost():
    made = limits(rw_ios=3000)
    assert started(made, 0) == 3
    assert started(made, 10_000 * MS) == 3


def test_a_deficit_is_paid_while_nobody_asks():
    made = limits(rw_bytes=MIB)
    made.try_start(True, 10 * 1048, 0)
    assert made.try_start(True, 512, 60_000 * MS)
    assert made.remaining[1] == 1048 - 512


@pytest.mark.rule("A.17.14")
def test_who_waited_gets_every_timeslice_that_passed():
    made = limits(rw_ios=2000)
    assert started(made, 0) == 2
    made.note_waiting(1)
    assert started(made, 10 * MS) == 20
    made.note_waiting(-1)
    assert made.waiting == 0


def test_timeslices_keep_their_beat_when_callers_are_late():
    made = limits(rw_ios=1000)
    assert started(made, MS + MS // 2) == 1
    assert started(made, 2 * MS - 1) == 0
    assert started(made, 2 * MS) == 1


def test_an_io_that_one_limit_refuses_takes_nothing_of_another():
    made = limits(rw_ios=9000, w_bytes=MIB)
    assert made.try_start(False, 4096, 0)
    assert not made.try_start(False, 512, 0)
    assert made.remaining[0] == 8


def test_a_clock_that_stands_still_or_goes_back_refills_nothing():
    made = limits(rw_ios=1000, now_ns=5 * MS)
    assert made.try_start(True, 512, 5 * MS)
    assert not made.try_start(True, 512, 4 * MS)


def test_a_new_limit_begins_anew():
    made = limits(rw_bytes=MIB)
    made.try_start(True, 64 << 20, 0)
    made.set([0, 2 * MIB, 0, 0], 1)
    assert made.limits == [0, 2 * MIB, 0, 0]
    assert made.try_start(True, 512, 1)


def test_huge_limits_and_long_pauses_do_not_overflow():
    made = limits(rw_bytes=(1 << 64) - (1 << 20))
    made.note_waiting(1)
    made.try_start(True, 512, 0)
    assert made.try_start(True, 512, 1 << 62)
    assert 0 < made.remaining[1] <= 1 << 62


class Polled:
    """SPDK's way: a poller that runs in each timeslice, and I/Os that come between its runs."""

    def __init__(self, per_slice):
        self.per_slice = per_slice
        self.remaining = list(per_slice)

    def poll(self):
        self.remaining = [
            min(left, 0) + more for left, more in zip(self.remaining, self.per_slice, strict=True)
        ]

    def try_start(self, read, size_bytes):
        shares = [1, size_bytes, size_bytes if read else 0, 0 if read else size_bytes]
        concerned = [i for i in range(4) if self.per_slice[i] and shares[i]]
        if any(self.remaining[i] <= 0 for i in concerned):
            return False
        for i in concerned:
            self.remaining[i] -= shares[i]
        return True


asked = st.tuples(st.integers(0, 3), st.booleans(), st.sampled_from([512, 4096, 20_000]))


@given(
    st.tuples(
        st.sampled_from([0, 1000, 7000]),
        st.sampled_from([0, MIB, 9 * MIB]),
        st.sampled_from([0, MIB]),
        st.sampled_from([0, 3 * MIB]),
    ),
    st.lists(asked, max_size=200),
)
def test_like_one_that_is_polled_each_timeslice(per_second, steps):
    made = limits(*per_second)
    minimum = (1, 512, 512, 512)
    twin = Polled([max(p // 1000, m) if p else 0 for p, m in zip(per_second, minimum, strict=True)])
    now_ms = 0
    for pause_ms, read, size_bytes in steps:
        for _ in range(pause_ms):
            twin.poll()
        now_ms += pause_ms
        assert made.try_start(read, size_bytes, now_ms * MS) == twin.try_start(read, size_bytes)


@pytest.mark.rule("A.17.5")
def test_threads_share_one_quota():
    """However they interleave, a timeslice never gives out more than its quota."""
    made = limits(rw_ios=2_000_000)
    threads = 4
    counts = [0] * threads
    ready = threading.Barrier(threads)

    def take(number):
        ready.wait()
        for ms in range(20):
            counts[number] += started(made, ms * MS)

    workers = [threading.Thread(target=take, args=(n,)) for n in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    # A thread that lags behind asks with an older time, and finds no quota of its own there.
    assert 2000 <= sum(counts) <= 20 * 2000
