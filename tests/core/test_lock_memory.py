"""A lock waits for I/O under way; what holds all memory meanwhile may wait for the lock."""

from support.stack import Stub, layer, stack
from vbdev.bdev.entry import entry_of
from vbdev.vocab import Op, Status

PAGE = 4096


def copying(_self, channel, ios):
    ios.copy_data(Op.WRITE)
    channel.base.submit(ios)


def test_a_lock_does_not_wait_for_those_that_wait_for_it():
    class Aligned(Stub):
        required_alignment = 12

    async def any_alignment(self):
        self.required_alignment = 0

    with stack(buffer_limit_bytes=4 * PAGE) as made:
        disk = made.disk(Aligned, block_size=PAGE)
        made.layer(layer(copying, kind="copying", start=any_alignment))
        top, low = made.open("Top"), made.open("Disk", write=False)
        odd = memoryview(bytearray(PAGE + 1))[1:]
        blocked = []

        def next_ones(_request):
            # The memory of those that have ended goes to writes that meet the lock.
            while len(blocked) < 4:
                blocked.append(top.submit(Op.WRITE, 1 + len(blocked), 1, bytes(PAGE)))

        held = [top.submit(Op.WRITE, 100 + n, 1, bytes(PAGE), callback=next_ones) for n in range(4)]
        first = low.submit(Op.READ, 0, 1, odd)
        assert (len(disk.held), made.engine.waiting) == (4, 1)
        lock = made.reactor.spawn(entry_of(disk).control.lock(0, 10, quiesce=True))
        made.settle()
        disk.complete()
        made.settle()
        assert len(blocked) == 4
        assert made.engine.buffers.used_bytes >= 4 * PAGE
        for _ in range(10):
            made.pass_time(100)
            disk.complete()
            made.settle()
        assert lock.done
        assert first.status == Status.SUCCESS
        made.run(entry_of(disk).control.unlock(lock.result()))
        for _ in range(10):
            disk.complete()
            made.settle()
        assert {one.status for one in (*held, *blocked)} == {Status.SUCCESS}
