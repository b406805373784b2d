"""QoS in the channels: what waits, in which order it goes on, what ends it, how it is switched.

Method: a stub or a null disk under rate limits, on the virtual clock; a timeslice is a
millisecond. The numbers themselves are in test_rate_limits.
"""

import errno

import pytest

from support.stack import Stub
from support.stack import stack as new_stack
from vbdev.bdev import BdevError
from vbdev.bdev.entry import entry_of
from vbdev.bdev.figures.rates import limits_of, set_rate_limits
from vbdev.modules.malloc import Malloc
from vbdev.vocab import IoFlag, Op, Status

MS = 1000


def limit(stack, bdev, **limits):
    stack.run(set_rate_limits(bdev, limits))


def limited(stack, cls=Stub, *, num_blocks=1024, **limits):
    """Return a disk with these limits, and two descriptors of it."""
    disk = stack.disk(cls, num_blocks=num_blocks)
    limit(stack, disk, **limits)
    return disk, stack.open("Disk"), stack.open("Disk")


def offsets(disk):
    return [offset for _, offset, _ in disk.arrived]


def let_all_go(stack, disk, ms=100):
    for _ in range(ms):
        stack.pass_time(MS)
        disk.complete()
        stack.settle()


@pytest.mark.rule("A.17.1", "A.17.5", "E.bdev_mt.basic_qos")
def test_channels_share_the_quota_and_wait_for_the_next_timeslice(stack):
    disk, one, other = limited(stack, rw_ios_per_sec=2000)
    for offset in range(3):
        one.submit(Op.READ, offset)
        other.submit(Op.WRITE, 100 + offset, 1, bytes(512))
    assert len(disk.arrived) == 2
    assert one.channel.waiting + other.channel.waiting == 4
    stack.pass_time(MS)
    assert len(disk.arrived) == 4
    stack.pass_time(MS)
    assert len(disk.arrived) == 6
    disk.complete()
    stack.settle()


@pytest.mark.rule("E.bdev_mt.io_during_qos_queue")
def test_what_waits_goes_on_in_order_and_then_what_came_later(stack):
    disk, one, _ = limited(stack, rw_ios_per_sec=1000)
    for offset in range(4):
        one.submit(Op.READ, offset)
    assert offsets(disk) == [0]
    for ms in range(1, 4):
        one.submit(Op.READ, 10 + ms)
        stack.pass_time(MS)
    assert offsets(disk) == [0, 1, 2, 3]
    let_all_go(stack, disk)
    assert offsets(disk) == [0, 1, 2, 3, 11, 12, 13]


def test_channels_take_turns(stack):
    """A deep queue on one channel does not starve a shallow one."""
    disk, deep, shallow = limited(stack, rw_ios_per_sec=1000)
    for _ in range(200):
        deep.submit(Op.READ, 0)
    ended = []

    def again(_request=None):
        if len(ended) < 10:
            ended.append(stack.reactor.clock.now_ns())
            shallow.submit(Op.READ, 1, callback=again)

    again()
    let_all_go(stack, disk, ms=60)
    assert len(ended) == 10
    let_all_go(stack, disk, ms=200)


def test_reads_that_wait_do_not_hold_writes_up(stack):
    disk, one, _ = limited(stack, r_mbytes_per_sec=1)
    one.submit(Op.READ, 0, 8)
    one.submit(Op.READ, 8, 8)
    one.submit(Op.WRITE, 16, 8, bytes(4096))
    assert offsets(disk) == [0, 16]
    stack.pass_time(10 * MS)
    assert offsets(disk) == [0, 16, 8]
    disk.complete()


@pytest.mark.rule("A.17.6")
def test_only_reads_writes_and_the_start_of_zcopy_count(stack):
    disk, one, _ = limited(stack, rw_ios_per_sec=1000)
    one.submit(Op.READ, 0)
    one.submit(Op.READ, 1)
    for op in (Op.UNMAP, Op.WRITE_ZEROES, Op.FLUSH, Op.SEEK_DATA):
        one.submit(op, 2)
    one.submit(Op.COPY, 3, src_offset_blocks=8)
    assert [op for op, _, _ in disk.arrived] == [
        Op.READ,
        Op.UNMAP,
        Op.WRITE_ZEROES,
        Op.FLUSH,
        Op.SEEK_DATA,
        Op.COPY,
    ]
    stack.pass_time(MS)
    disk.complete()
    stack.settle()
    assert one.channel.outstanding == 0


@pytest.mark.rule("A.17.6")
@pytest.mark.parametrize("populate", [IoFlag.ZCOPY_POPULATE, 0])
def test_the_start_of_zcopy_counts_as_the_read_or_the_write_that_it_is(stack, populate):
    limits = {"r_mbytes_per_sec": 1} if populate else {"w_mbytes_per_sec": 1}
    _, one, _ = limited(stack, Malloc, **limits)
    started = one.submit(Op.ZCOPY, 0, 8, flags=populate)
    stack.settle()
    assert started.done
    held = one.submit(Op.ZCOPY, 8, 8, flags=populate)
    stack.settle()
    assert not held.done
    one.zcopy_end(started, commit=True)  # the end is free
    stack.turn_until(lambda: started.done)
    stack.pass_time(10 * MS)
    assert held.done
    one.zcopy_end(held, commit=False)


@pytest.mark.rule("A.17.10", "A.17.9", "E.bdev_mt.qos_dynamic_enable")
def test_switching_on_changing_and_off_under_io(stack):
    disk = stack.disk(Stub)
    one = stack.open("Disk")
    one.submit(Op.READ, 0)
    limit(stack, disk, rw_ios_per_sec=1000, w_mbytes_per_sec=7)
    for offset in range(1, 5):
        one.submit(Op.READ, offset)
    assert offsets(disk) == [0, 1]
    limit(stack, disk, rw_ios_per_sec=2000)  # begins anew, and what waits draws from it
    stack.settle()
    assert offsets(disk) == [0, 1, 2, 3]
    assert limits_of(disk) == {
        "rw_ios_per_sec": 2000,
        "rw_mbytes_per_sec": 0,
        "r_mbytes_per_sec": 0,
        "w_mbytes_per_sec": 7,
    }
    limit(stack, disk, rw_ios_per_sec=0)
    stack.settle()
    assert offsets(disk) == [0, 1, 2, 3, 4]
    limit(stack, disk, w_mbytes_per_sec=0)
    assert entry_of(disk).rate_limits is None
    for offset in range(5, 50):
        one.submit(Op.READ, offset)
    assert offsets(disk) == list(range(50))
    limit(stack, disk, rw_ios_per_sec=1000)
    one.submit(Op.READ, 50)
    one.submit(Op.READ, 51)
    assert offsets(disk) == list(range(51))
    limit(stack, disk, rw_ios_per_sec=0)
    stack.settle()
    assert offsets(disk) == list(range(52))
    disk.complete()


def test_off_without_having_been_on(stack):
    disk = stack.disk(Stub)
    limit(stack, disk, rw_ios_per_sec=0)
    assert entry_of(disk).rate_limits is None


@pytest.mark.rule("A.25.5")
def test_abort_finds_what_waits_for_its_rate(stack):
    disk, one, _ = limited(stack, rw_ios_per_sec=1000)
    one.submit(Op.READ, 0)
    waits = [one.submit(Op.READ, offset) for offset in (1, 2, 3)]
    abort = one.io(Op.ABORT, victim=waits[1])
    assert abort.status == Status.SUCCESS
    assert waits[1].status == Status.ABORTED
    let_all_go(stack, disk)
    assert offsets(disk) == [0, 1, 3]
    assert entry_of(disk).rate_limits.waiting == 0


@pytest.mark.rule("A.25.5", "E.bdev_mt.io_during_qos_reset")
def test_reset_ends_what_waits_for_its_rate(stack):
    disk, one, other = limited(stack, rw_ios_per_sec=1000)
    one.submit(Op.READ, 0)
    waits = [opened.submit(Op.READ, offset) for opened in (one, other) for offset in (1, 2)]
    disk.complete()
    reset = one.submit(Op.RESET, 0, 0)
    stack.settle()
    assert [request.status for request in waits] == [Status.ABORTED] * 4
    disk.complete()
    stack.settle()
    assert reset.status == Status.SUCCESS
    assert entry_of(disk).rate_limits.waiting == 0
    stack.pass_time(5 * MS)
    assert one.submit(Op.READ, 5)
    assert offsets(disk)[-1] == 5
    disk.complete()


@pytest.mark.rule("A.25.6", "E.bdev_mt.unregister_and_qos_poller")
def test_removal_waits_while_what_is_queued_goes_on_at_its_rate(stack):
    disk, one, _ = limited(stack, rw_ios_per_sec=1000)
    requests = [one.submit(Op.READ, offset) for offset in range(4)]
    removal = stack.reactor.spawn(stack.registry.delete("Disk", "stub"))
    stack.settle()
    assert not removal.done
    for ms in range(1, 4):
        disk.complete()
        stack.pass_time(MS)
        assert len(disk.arrived) == ms + 1
    assert not removal.done
    disk.complete()
    stack.settle()
    assert removal.done
    assert [request.status for request in requests] == [Status.SUCCESS] * 4


@pytest.mark.rule("E.bdev_mt.unregister_and_qos_poller")
def test_an_idle_bdev_with_limits_goes_at_once_and_wakes_nobody(stack):
    limited(stack, rw_ios_per_sec=1000)
    stack.settle()
    assert not stack.reactor.advance()
    stack.delete("Disk")


@pytest.mark.rule("E.bdev_mt.qos_bdev_open_close_data_race")
def test_descriptors_come_and_go_with_limits_on(stack):
    disk, one, _ = limited(stack, rw_ios_per_sec=1000)
    for turn in range(20):
        late = stack.open("Disk")
        for opened in (one, late):
            opened.submit(Op.READ, turn)
        let_all_go(stack, disk, ms=3)
        late.close()
    assert entry_of(disk).rate_limits.waiting == 0
    assert len(disk.arrived) == 40


@pytest.mark.rule("A.2.29")
def test_limits_stay_with_the_bdev_when_nobody_has_it_open(stack):
    disk, one, other = limited(stack, rw_ios_per_sec=1000)
    one.close()
    other.close()
    assert entry_of(disk).channels() == []
    assert limits_of(disk)["rw_ios_per_sec"] == 1000
    again = stack.open("Disk")
    for offset in range(3):
        again.submit(Op.READ, offset)
    assert (len(disk.arrived), again.channel.waiting) == (1, 2)
    let_all_go(stack, disk, 5)


@pytest.mark.rule("A.17.8")
def test_a_change_during_a_change_is_refused(stack):
    disk = stack.disk(Stub)
    with entry_of(disk).changing_channels("rate limits"):
        with pytest.raises(BdevError) as caught:
            limit(stack, disk, rw_ios_per_sec=1000)
        assert caught.value.errno == errno.EAGAIN
    limit(stack, disk, rw_ios_per_sec=1000)


@pytest.mark.rule("A.17.2", "A.17.13")
def test_rounding_up_and_clamping_are_said(stack, caplog):
    disk = stack.disk(Stub)
    limit(stack, disk, rw_ios_per_sec=1001)
    assert limits_of(disk)["rw_ios_per_sec"] == 2000
    assert [(r.levelname, "2000" in r.message) for r in caplog.records] == [("WARNING", True)]
    caplog.clear()
    limit(stack, disk, rw_ios_per_sec=1, r_mbytes_per_sec=1 << 60)
    assert limits_of(disk)["rw_ios_per_sec"] == 1000
    assert limits_of(disk)["r_mbytes_per_sec"] == ((1 << 64) - 1) >> 20
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    limit(stack, disk, rw_ios_per_sec=(1 << 64) - 2)
    assert limits_of(disk)["rw_ios_per_sec"] % 1000 == 0


def test_the_rate_is_the_limit_on_the_real_clock():
    """A sleeping reactor wakes for each timeslice; nothing spins and nothing is lost."""
    with new_stack(real_clock=True) as stack:
        disk = stack.disk(Malloc)
        one = stack.open("Disk")
        began = stack.reactor.clock.now_ns()  # of the first timeslice, whatever holds us up then
        limit(stack, disk, rw_ios_per_sec=2000)
        requests = [one.submit(Op.READ, offset) for offset in range(100)]

        async def wait():
            while not all(request.done for request in requests):
                await stack.reactor.sleep(2000)

        stack.run(wait())
        took_ms = (stack.reactor.clock.now_ns() - began) / 1e6
        assert 45 <= took_ms < 1000


@pytest.mark.rule("A.17.6")
def test_the_pieces_of_one_that_is_split_count_and_not_itself(stack):
    disk = stack.disk(Stub)
    disk.max_rw_size = 4
    limit(stack, disk, rw_ios_per_sec=2000)
    one = stack.open("Disk")
    request = one.submit(Op.READ, 0, 12)
    stack.settle()
    assert offsets(disk) == [0, 4]
    stack.pass_time(MS)
    assert offsets(disk) == [0, 4, 8]
    disk.complete()
    stack.settle()
    assert request.status == Status.SUCCESS


@pytest.mark.rule("A.17.6")
@pytest.mark.parametrize(
    ("opcode", "limited_by"), [(2, "r_mbytes_per_sec"), (1, "w_mbytes_per_sec")]
)
def test_nvme_commands_count_by_where_their_data_goes(stack, opcode, limited_by):
    disk = stack.disk(Stub)
    limit(stack, disk, **{limited_by: 1})
    one = stack.open("Disk")
    command = bytes([opcode]) + bytes(63)
    for op in (Op.NVME_IO, Op.NVME_IO, Op.NVME_ADMIN):
        one.submit(op, 0, 0, bytearray(4096), cmd=command)
    assert [op for op, _, _ in disk.arrived] == [Op.NVME_IO, Op.NVME_ADMIN]
    stack.pass_time(5 * MS)
    assert [op for op, _, _ in disk.arrived] == [Op.NVME_IO, Op.NVME_ADMIN, Op.NVME_IO]
    disk.complete()
