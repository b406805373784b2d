"""I/O timeouts: who submitted hears of what takes too long, once a second, and nothing is aborted.

Method: a stub that holds every I/O, on the virtual clock.
"""

import pytest

from support.stack import Stub
from vbdev.bdev import BdevError
from vbdev.vocab import Op, Status

SECOND = 1_000_000


@pytest.fixture
def disk(stack):
    return stack.disk(Stub)


@pytest.fixture
def opened(stack, disk):
    made = stack.open(disk.name)
    made.heard = []
    return made


def seconds(opened):
    return [(io.offset_blocks, round(io.age_ns / 1e9)) for io in opened.heard]


@pytest.mark.rule("A.18.17", "E.bdev_ut.bdev_set_io_timeout")
def test_each_overdue_io_is_told_again_and_again(stack, disk, opened):
    opened.descriptor.set_timeout(3, opened.heard.append)
    opened.submit(Op.READ, 7, 2)
    stack.pass_time(SECOND // 2)
    opened.submit(Op.WRITE, 9, 1, bytes(512))
    stack.pass_time(2 * SECOND)
    assert opened.heard == []
    stack.pass_time(SECOND)
    assert seconds(opened) == [(7, 3)]
    stack.pass_time(SECOND)
    assert seconds(opened) == [(7, 3), (7, 4), (9, 4)]  # the oldest first
    first = opened.heard[0]
    assert (first.op, first.num_blocks) == (Op.READ, 2)
    disk.complete()
    stack.pass_time(5 * SECOND)
    assert len(opened.heard) == 3


@pytest.mark.rule("A.18.17")
def test_nothing_is_aborted_unless_the_callback_does(stack, disk, opened):
    held = opened.descriptor.submit(Op.READ, 0, 1, callback=lambda _request: None)

    def abort(overdue):
        opened.heard.append(overdue)
        if len(opened.heard) == 2:
            opened.descriptor.submit(
                Op.ABORT, victim=overdue.request, callback=lambda _request: None
            )

    opened.descriptor.set_timeout(1, abort)
    stack.pass_time(SECOND * 3 // 2)
    assert opened.heard[0].request is held
    assert not held.done
    stack.pass_time(SECOND)
    assert [op for op, _, _ in disk.arrived] == [Op.READ, Op.ABORT]
    disk.complete([0], Status.ABORTED)
    disk.complete()
    stack.settle()
    assert held.status == Status.ABORTED


@pytest.mark.rule("A.18.18", "E.bdev_ut.bdev_set_io_timeout")
def test_0_ends_it_and_a_new_one_replaces_it(stack, disk, opened):
    opened.submit(Op.READ)
    opened.descriptor.set_timeout(1, opened.heard.append)
    opened.descriptor.set_timeout(0, opened.heard.append)
    stack.pass_time(5 * SECOND)
    assert opened.heard == []
    other = []
    opened.descriptor.set_timeout(1, opened.heard.append)
    opened.descriptor.set_timeout(2, other.append)
    stack.pass_time(SECOND * 3 // 2)
    assert (len(opened.heard), len(other)) == (0, 1)
    disk.complete()
    with pytest.raises(BdevError):
        opened.descriptor.set_timeout(-1, other.append)


def test_only_the_descriptors_own_ios_are_looked_at(stack, disk, opened):
    other = stack.open("Disk")
    other.submit(Op.READ)
    opened.descriptor.set_timeout(1, opened.heard.append)
    stack.pass_time(3 * SECOND)
    assert opened.heard == []
    disk.complete()


def test_what_is_below_a_layer_counts_for_who_submitted_on_top(stack, disk):
    stack.layer()
    top = stack.open("Top")
    heard = []
    top.descriptor.set_timeout(1, heard.append)
    top.submit(Op.READ, 5)
    stack.pass_time(SECOND * 3 // 2)
    assert [overdue.offset_blocks for overdue in heard] == [5]
    disk.complete()


def test_a_callback_that_raises_does_not_keep_the_others_from_theirs(stack, disk, opened, caplog):
    def fails(overdue):
        opened.heard.append(overdue)
        raise ValueError("no")

    opened.descriptor.set_timeout(1, fails)
    opened.submit(Op.READ, 1)
    opened.submit(Op.READ, 2)
    stack.pass_time(SECOND * 3 // 2)
    assert [overdue.offset_blocks for overdue in opened.heard] == [1, 2]
    assert "timeout callback failed" in caplog.text
    disk.complete()


def test_closing_ends_it(stack, opened):
    opened.descriptor.set_timeout(1, opened.heard.append)
    opened.close()
    stack.settle()
    assert not stack.reactor.advance()


@pytest.mark.rule("A.18.18", "E.bdev_ut.bdev_set_io_timeout")
def test_pieces_of_one_that_was_split_are_not_told(stack):
    disk = stack.disk(Stub, "Cut")
    disk.max_rw_size = 4
    opened = stack.open("Cut")
    heard = []
    opened.descriptor.set_timeout(1, heard.append)
    opened.submit(Op.READ, 0, 12)
    stack.settle()
    assert len(disk.held) == 3
    stack.pass_time(SECOND * 3 // 2)
    assert [(overdue.offset_blocks, overdue.num_blocks) for overdue in heard] == [(0, 12)]
    disk.complete()
    stack.settle()
