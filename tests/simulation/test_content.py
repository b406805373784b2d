"""The model itself: what it lets through, and what not."""

import numpy as np
import pytest

from simulation.content import SECTOR, Content


@pytest.fixture
def content():
    return Content(number=7, sectors=64, most=64)


def words(content, first, count, *numbers):
    data = b"".join(content.payload(number, 1) if number else bytes(SECTOR) for number in numbers)
    return content.judge_data(first, data, content.look(first, count))


def test_a_new_disk_is_zeroes(content):
    assert not words(content, 0, 2, 0, 0)


def test_what_is_acknowledged_is_read(content):
    number = content.write(3, 2)
    content.written(number, done=True)
    assert not words(content, 3, 2, number, number)
    assert "holds zeroes" in words(content, 3, 2, number, 0)


def test_what_is_under_way_may_be_read_or_not(content):
    number = content.write(0, 1)
    assert not words(content, 0, 1, 0)
    assert not words(content, 0, 1, number)


def test_of_writes_under_way_together_either_may_stay(content):
    first, second = content.write(0, 1), content.write(0, 1)
    content.written(second, done=True)
    content.written(first, done=True)
    assert not words(content, 0, 1, first)
    assert not words(content, 0, 1, second)


def test_a_later_write_makes_the_earlier_one_old(content):
    first = content.write(0, 1)
    content.written(first, done=True)
    second = content.write(0, 1)
    assert not words(content, 0, 1, first)
    content.written(second, done=True)
    assert "write 1" in words(content, 0, 1, first)


def test_a_read_that_was_asked_for_before_may_bring_the_old(content):
    floor = content.look(0, 1)
    number = content.write(0, 1)
    content.written(number, done=True)
    assert not content.judge_data(0, bytes(SECTOR), floor)
    assert not content.judge_data(0, content.payload(number, 1), floor)


def test_one_that_failed_may_be_there_or_not(content):
    number = content.write(0, 1)
    content.written(number, done=False)
    assert not words(content, 0, 1, number)
    assert not words(content, 0, 1, 0)


def test_zeroes_are_as_old_as_the_last_that_made_them(content):
    number = content.write(0, 4)
    content.written(number, done=True)
    assert words(content, 0, 1, 0)
    cleared = content.clear(0, 2)
    other = content.clear(1, 2)
    content.cleared(cleared, done=True)
    assert not words(content, 0, 1, 0)
    assert words(content, 0, 1, number)
    assert not words(content, 2, 1, number)
    assert not words(content, 2, 1, 0)
    content.cleared(other, done=True)
    assert words(content, 2, 1, number)


def test_what_nobody_wrote_there_is_wrong(content):
    number = content.write(0, 1)
    content.written(number, done=True)
    assert words(content, 1, 1, number)
    assert words(content, 0, 1, number + 1000)
    other = Content(number=8, sectors=64, most=64)
    assert words(content, 0, 1, other.write(0, 1))


def test_a_torn_sector_is_wrong(content):
    number = content.write(0, 1)
    torn = np.frombuffer(content.payload(number, 1), "<u8").copy()
    torn[40:] = 0
    assert "of several writes" in content.judge_data(0, torn.tobytes(), content.look(0, 1))
