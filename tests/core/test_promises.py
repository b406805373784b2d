"""What a module says of an I/O that it completes is checked once, and all above may trust it."""

import errno

import pytest

from vbdev.bdev import ALL_OPS
from vbdev.bdev.entry import entry_of
from vbdev.core.engine.engine import BrokenPromiseError
from vbdev.modules.null import Null
from vbdev.testing import Stub, gather, layer, stack
from vbdev.vocab import Op, Status

BAD = (Status.FAILED, errno.EIO)
NONE = 2**64 - 1


def lying(which, answer=None, **attributes):
    """Return a vbdev that answers I/Os of these types itself, with SUCCESS."""

    def submit(_self, channel, ios):
        mine = ios.take(which)
        if answer is not None and mine:
            answer(mine)
        mine.complete(Status.SUCCESS)
        channel.base.submit(ios)

    return layer(submit, gives_read_buffers=True, **attributes)


def told(rig):
    """Return what was reported, by the bdevs' names."""
    assert all(type(error) is BrokenPromiseError for _, error, _ in rig.errors)
    return [(name, str(error), n) for name, error, n in rig.errors]


async def _says_success(_self, _channel, _io):
    return Status.SUCCESS


def _completed(_self, _channel, ios):
    ios.complete()  # as it went below


LIARS = {
    "submit": lying(Op.READ),
    "handle": layer(handle=_says_success, gives_read_buffers=True),
}


@pytest.mark.parametrize("how", LIARS)
@pytest.mark.parametrize("above", [0, 1, 3])
@pytest.mark.parametrize("data", [None, "its own"])
def test_a_read_without_data(how, above, data):
    """Named is who said so, and not who is above; one with its reader's own buffer is whole."""
    with stack() as rig:
        rig.disk(Null)
        rig.layer(LIARS[how], name="Liar")
        base = "Liar"
        for n in range(above):
            seen = _completed if n == 1 else None
            rig.layer(layer(completed=seen, gives_read_buffers=True), name=f"L{n}", base=base)
            base = f"L{n}"
        top = rig.open(base)
        request = top.io(Op.READ, 3, 2, data and bytearray(1024))
        if data:
            assert request.status == Status.SUCCESS
            assert rig.errors == []
        else:
            assert (request.status, request.errno) == BAD
            assert told(rig) == [
                ("Liar", "completed read as SUCCESS with 0 bytes of data for 2 blocks", 1)
            ]


def test_in_a_batch_only_those_without_data_fail():
    def submit(_self, channel, ios):
        ios.take([n % 3 == 0 for n in range(len(ios))]).complete(Status.SUCCESS)
        channel.base.submit(ios)

    with stack() as rig:
        rig.disk(Null)
        rig.layer(layer(submit, gives_read_buffers=True))
        batch = gather(9)
        batch.gives_read_buffers = True
        rig.layer(batch, name="Nine", base="Top")
        top = rig.open("Nine")
        requests = [top.submit(Op.READ, n, 1) for n in range(9)]
        rig.settle()
        assert [r.status for r in requests] == [-1, 1, 1] * 3
        assert [(name, n) for name, _, n in told(rig)] == [("Top", 3)]


@pytest.mark.parametrize(
    ("op", "result", "good"),
    [
        (Op.SEEK_DATA, 5, True),
        (Op.SEEK_DATA, 1023, True),
        (Op.SEEK_DATA, NONE, True),
        (Op.SEEK_DATA, 1024, False),
        (Op.SEEK_DATA, 4, False),
        (Op.SEEK_DATA, 10**15, False),
        (Op.SEEK_HOLE, 5, True),
        (Op.SEEK_HOLE, 1024, True),
        (Op.SEEK_HOLE, NONE, True),
        (Op.SEEK_HOLE, 1025, False),
        (Op.SEEK_HOLE, 0, False),
        (Op.ZONE_APPEND, 5, True),
        (Op.ZONE_APPEND, 1022, True),
        (Op.ZONE_APPEND, 1023, False),
        (Op.ZONE_APPEND, 4, False),
        (Op.ZONE_APPEND, NONE, False),
    ],
)
@pytest.mark.parametrize("above", [False, True])
def test_results_that_can_not_be(op, result, good, above):
    def answer(ios):
        ios.results = [result] * len(ios)

    with stack() as rig:
        rig.disk(Stub)
        rig.layer(lying(op, answer, ops=ALL_OPS))
        if above:
            rig.layer(layer(completed=_completed), name="Above", base="Top")
        top = rig.open("Above" if above else "Top")
        count, data = (2, bytes(1024)) if op == Op.ZONE_APPEND else (1, None)
        request = top.io(op, 5, count, data)
        if good:
            assert (request.status, request.result) == (Status.SUCCESS, result)
            assert rig.errors == []
        else:
            assert (request.status, request.errno) == BAD
            ((name, what, n),) = told(rig)
            assert (name, n) == ("Top", 1)
            assert f"with the result {result}" in what


def test_a_coroutine_that_finds_data_behind_the_end():
    async def handle(_self, _channel, io):
        io.result = 10**15
        return Status.SUCCESS

    with stack() as rig:
        rig.disk(Stub)
        rig.layer(layer(handle=handle))
        request = rig.open("Top").io(Op.SEEK_DATA, 5)
        assert (request.status, request.errno) == BAD


def test_what_a_larger_base_finds_behind_the_end_is_no_lie():
    """The layer is shorter than its base: nothing, or its own end, is what is found there."""

    def completed(_self, _channel, ios):
        ios.complete()

    with stack() as rig:
        disk = rig.disk(Stub)
        short = rig.layer(layer(completed=completed))
        short.num_blocks = 100
        top = rig.open("Top")
        for op, expected in ((Op.SEEK_DATA, NONE), (Op.SEEK_HOLE, 100)):
            request = top.submit(op, 5)
            disk.held[0].results = [700]
            disk.complete()
            rig.settle()
            assert (request.status, request.result) == (Status.SUCCESS, expected)


@pytest.mark.parametrize("status", [0, 2, 127, -9, -128, 1000])
def test_the_control_path_gives_final_statuses_only(status):
    with stack() as rig:
        disk = rig.disk(Stub)
        kept = []
        top = rig.open("Disk")
        entry_of(disk).control = None
        top.channel.configure(
            submit=disk.submit,
            completed=None,
            supported_mask=1 << Op.RESET,
            ops_mask=1 << Op.RESET,
            num_blocks=1024,
            block_size=512,
            required_alignment=1,
            refused_flags=0,
            gives_read_buffers=True,
            control=lambda _channel, ios: kept.append(ios.take()),
        )
        request = top.submit(Op.RESET, 0, 0)
        with pytest.raises(ValueError, match="no final status"):
            top.channel.finish(kept[0], status)
        top.channel.finish(kept[0], Status.SUCCESS)
        rig.settle()
        assert request.status == Status.SUCCESS


def test_a_buffer_of_the_bases_blocks_is_not_taken_for_the_layers():
    """A layer of 4096-byte blocks that forwards a READ unchanged to a base of 512-byte blocks."""
    with stack() as rig:
        rig.disk(Null)
        big = rig.layer(layer(gives_read_buffers=True))
        big.block_size = 4096
        big.num_blocks = 128
        request = rig.open("Top").io(Op.READ, 1, 2)
        assert (request.status, request.errno) == (Status.FAILED, errno.EINVAL)


def test_what_was_held_and_is_let_go_without_data():
    """A READ that `submit` kept, and that `completed` leaves in a batch of others, has no data."""
    held = []

    def submit(_self, channel, ios):
        if not held:
            held.append(ios.take())
        channel.base.submit(ios)

    def completed(_self, _channel, ios):
        ios.extend(held[0])

    with stack() as rig:
        rig.disk(Null)
        rig.layer(layer(submit, completed=completed, gives_read_buffers=True))
        top = rig.open("Top")
        kept, other = top.submit(Op.READ, 0, 1), top.submit(Op.READ, 1, 1)
        rig.settle()
        assert other.status == Status.SUCCESS
        assert (kept.status, kept.errno) == BAD
        assert [(name, n) for name, _, n in told(rig)] == [("Top", 1)]
