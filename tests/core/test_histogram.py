"""Histogram: the layout that clients decode, ranges, borders, merging.

Method: the layout is computed once more here, in plain Python, from its description; a client
decoder finds each value in the bucket that has it.
"""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbdev.core.counts.histogram import MAX_GRANULARITY, Histogram

TOP = (1 << 64) - 1


def range_of(granularity, value):
    return max(value.bit_length() - granularity, 0)


def bounds(granularity, range_, index):
    if range_ == 0:
        return index, index + 1
    start = (1 << (range_ + granularity - 1)) + (index << (range_ - 1))
    return start, start + (1 << (range_ - 1))


def decoded(made):
    """Return [(start, end, count)] as a client finds them in the bytes."""
    counts = struct.unpack(f"={len(made.tobytes()) // 8}Q", made.tobytes())
    per_range = 1 << made.granularity
    assert len(counts) == (made.max_range - made.min_range + 1) * per_range
    out = []
    for at, count in enumerate(counts):
        if count:
            range_ = made.min_range + at // per_range
            out.append((*bounds(made.granularity, range_, at % per_range), count))
    return out


def test_the_default_has_58_ranges_of_128_buckets():
    made = Histogram()
    assert (made.granularity, made.min_range, made.max_range) == (7, 0, 57)
    assert len(made.tobytes()) == 58 * 128 * 8


@given(st.integers(0, 10), st.lists(st.integers(0, TOP), max_size=40))
@pytest.mark.rule("A.18.5")
def test_each_value_is_in_a_bucket_that_holds_it(granularity, values):
    made = Histogram(granularity=granularity)
    for value in values:
        made.tally(value)
    assert made.total == len(values)
    found = decoded(made)
    assert sum(count for _, _, count in found) == len(values)
    for value in values:
        assert any(start <= value < end for start, end, _ in found)
    assert [(s, e, c) for s, e, c in made.counts() if s] == [f for f in found if f[0]]


@given(st.integers(0, TOP))
def test_a_buckets_width_is_below_a_64th_of_its_value(value):
    made = Histogram()
    made.tally(value)
    ((start, end, _),) = made.counts()
    assert end - start <= max(1, value // 64)


def test_values_outside_count_in_the_first_and_the_last_bucket():
    made = Histogram(min_ns=1 << 9, max_ns=1 << 30)
    assert (made.min_range, made.max_range) == (range_of(7, 1 << 9), range_of(7, (1 << 30) - 1))
    for value in (0, 1 << 8, 1 << 9, (1 << 30) - 1, 1 << 30, TOP):
        made.tally(value)
    counts = decoded(made)
    assert [count for _, _, count in counts] == [3, 3]
    assert counts[0][0] == 1 << 9
    assert counts[1][1] == 1 << 30
    assert made.counts()[0][0] == 0


@pytest.mark.rule("A.18.6")
def test_borders_count_the_bucket_that_they_lie_in():
    made = Histogram()
    for value in [*range(1 << 16), *range(1000, 10_000)]:
        made.tally(value)
    assert made.up_to([1000, 10_000, 10_011, 30_000]) == [
        1008,
        10_048 + 9000,
        10_048 + 9000,
        30_080 + 9000,
        (1 << 16) + 9000,
    ]
    assert made.up_to([0]) == [1, made.total]
    assert made.up_to([1008]) == [1012 + 12, made.total]  # its bucket begins with it
    assert made.up_to([]) == [made.total]
    assert Histogram().up_to([5, 10]) == [0, 0, 0]


def test_adding_up_and_layouts_that_differ():
    one, other = Histogram(min_ns=1000, max_ns=10**9), Histogram(min_ns=1000, max_ns=10**9)
    one.tally(5000)
    other.tally(5000)
    other.tally(9_000_000)
    one.add(other)
    assert [count for *_, count in one.counts()] == [2, 1]
    assert other.total == 2
    for different in ({"granularity": 6}, {"min_ns": 1}, {"max_ns": 10**10}, {"ops": 2}):
        layout = {"min_ns": 1000, "max_ns": 10**9, **different}
        with pytest.raises(ValueError, match="layouts"):
            one.add(Histogram(**layout))
    one.reset()
    assert one.total == 0


@pytest.mark.parametrize(
    "wrong", [{"granularity": MAX_GRANULARITY + 1}, {"min_ns": 5, "max_ns": 5}, {"min_ns": TOP}]
)
def test_a_layout_that_can_not_be(wrong):
    with pytest.raises(ValueError, match="histogram"):
        Histogram(**wrong)
