"""I/Os that a bdev can not take whole: where they are cut, and what their pieces mean for them.

Method: a Stub with limits shows the children that arrive and ends them one by one; a malloc disk
with limits shows that the data of any I/O arrives in its place, whatever it is made of.
"""

import errno
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.stack import Stack, Stub, describe, stack
from vbdev.bdev.entry import entry_of
from vbdev.modules.malloc import Malloc
from vbdev.vocab import Op, Status

READ, WRITE, UNMAP, ZEROES, COPY = Op.READ, Op.WRITE, Op.UNMAP, Op.WRITE_ZEROES, Op.COPY


def limited(cls=Stub, **limits):
    """Return a class of bdev with these limits."""
    return type("Limited", (cls,), limits)


def data_for(op, count, size=512):
    return bytearray(count * size) if op in (READ, WRITE) else None


def children(disk):
    """Return (offset, count) of what arrived, all of one type."""
    assert len({op for op, _, _ in disk.arrived}) <= 1
    return [(offset, count) for _, offset, count in disk.arrived]


def split(limits, op, offset, count, data=None, **more):
    """Submit one I/O, complete its children, and return where they were."""
    with stack() as made:
        disk = made.disk(limited(**limits))
        top = made.open("Disk")
        request = top.submit(
            op, offset, count, data_for(op, count) if data is None else data, **more
        )
        made.settle()
        while disk.held:
            assert not request.done
            disk.complete()
            made.settle()
        made.turn_until(lambda: request.done)
        assert request.status == Status.SUCCESS
        return children(disk)


BOUNDARY = {"optimal_io_boundary": 8, "split_on_optimal_io_boundary": True}
UNIT = {"write_unit_size": 4, "split_on_write_unit": True}


@pytest.mark.rule("A.11.3", "E.bdev_ut.bdev_io_boundary_split_test")
@pytest.mark.parametrize("op", [READ, WRITE])
@pytest.mark.parametrize(
    ("offset", "count", "expected"),
    [
        (6, 4, [(6, 2), (8, 2)]),
        (0, 24, [(0, 8), (8, 8), (16, 8)]),
        (7, 18, [(7, 1), (8, 8), (16, 8), (24, 1)]),
    ],
)
def test_at_the_boundary(op, offset, count, expected):
    assert split(BOUNDARY, op, offset, count) == expected


@pytest.mark.rule("A.11.3", "E.bdev_ut.bdev_io_spans_split_test")
@pytest.mark.parametrize(
    ("limits", "op", "offset", "count"),
    [
        (BOUNDARY, READ, 0, 8),
        (BOUNDARY, WRITE, 8, 8),
        (BOUNDARY, READ, 11, 5),
        (BOUNDARY, UNMAP, 6, 100),
        ({**BOUNDARY, "split_on_optimal_io_boundary": False}, READ, 6, 100),
        ({**UNIT, "split_on_write_unit": False}, WRITE, 3, 9),
        (UNIT, READ, 3, 9),
        ({"max_rw_size": 10}, READ, 3, 10),
        ({"max_unmap": 10, "max_unmap_segments": 2}, UNMAP, 3, 20),
        ({"max_unmap": 10, "max_unmap_segments": 2}, READ, 3, 40),
        ({"max_write_zeroes": 10}, ZEROES, 3, 10),
        ({"max_copy": 10}, COPY, 3, 10),
    ],
)
def test_what_keeps_the_limits_stays_whole(limits, op, offset, count):
    more = {"src_offset_blocks": 500} if op == COPY else {}
    assert split(limits, op, offset, count, **more) == [(offset, count)]


@pytest.mark.rule("A.11.1", "A.11.4", "E.bdev_ut.bdev_io_write_unit_split_test")
def test_at_the_write_unit():
    assert split(UNIT, WRITE, 4, 12) == [(4, 4), (8, 4), (12, 4)]
    both = {**BOUNDARY, **UNIT}
    assert split(both, WRITE, 0, 12) == [(0, 4), (4, 4), (8, 4)]
    assert split(both, READ, 0, 12) == [(0, 8), (8, 4)]


@pytest.mark.rule("A.11.2", "E.bdev_ut.bdev_io_write_unit_split_test")
@pytest.mark.parametrize(("offset", "count"), [(0, 2), (4, 3), (2, 2), (2, 8), (0, 7)])
def test_no_whole_write_unit(offset, count):
    with stack() as made:
        disk = made.disk(limited(**UNIT))
        top = made.open("Disk")
        request = top.submit(WRITE, offset, count, bytes(count * 512))
        while not request.done:
            made.settle()
            disk.complete()
        assert request.status == Status.FAILED
        assert all(n % 4 == 0 for _, n in children(disk))


@pytest.mark.parametrize(
    ("op", "limits"),
    [
        (ZEROES, {"max_write_zeroes": 6}),
        (ZEROES, {"max_write_zeroes": 3}),
        (COPY, {"max_copy": 6}),
        (COPY, {"max_copy": 3}),
    ],
)
def test_what_is_emulated_writes_whole_units(op, limits):
    # Whatever the limit of the type that stands for it: a WRITE of parts of units would fail.
    more = {"src_offset_blocks": 100} if op == COPY else {}
    with stack() as made:
        disk = made.disk(limited(ops=frozenset({READ, WRITE}), **UNIT, **limits))
        request = made.open("Disk").submit(op, 8, 12, **more)
        made.settle()
        while disk.held:
            disk.complete()
            made.settle()
        assert request.status == Status.SUCCESS
        writes = [(at, n) for kind, at, n in disk.arrived if kind == WRITE]
        assert sorted(writes) == [(8, 4), (12, 4), (16, 4)]


@pytest.mark.parametrize(("op", "limit"), [(ZEROES, "max_write_zeroes"), (COPY, "max_copy")])
def test_whole_units_for_whoever_emulates_it_further_down(op, limit):
    more = {"src_offset_blocks": 100} if op == COPY else {}
    assert split({**UNIT, limit: 6}, op, 8, 12, **more) == [(8, 4), (12, 4), (16, 4)]
    assert split({**UNIT, limit: 3}, op, 8, 6, **more) == [(8, 3), (11, 3)]


@pytest.mark.rule("A.11.5")
@pytest.mark.parametrize("op", [READ, WRITE])
def test_at_the_longest_read_or_write(op):
    assert split({"max_rw_size": 5}, op, 3, 12) == [(3, 5), (8, 5), (13, 2)]


@pytest.mark.rule("A.11.7", "E.bdev_ut.bdev_unmap")
def test_unmap_by_segments():
    limits = {"max_unmap": 10, "max_unmap_segments": 2}
    assert split(limits, UNMAP, 5, 45) == [(5, 20), (25, 20), (45, 5)]


@pytest.mark.rule("A.11.8", "E.bdev_ut.bdev_write_zeroes_split_test")
def test_write_zeroes():
    assert split({"max_write_zeroes": 10}, ZEROES, 5, 25) == [(5, 10), (15, 10), (25, 5)]


@pytest.mark.rule("A.11.9", "E.bdev_ut.bdev_copy_split_test")
def test_copy_moves_both_ends():
    with stack() as made:
        disk = made.disk(limited(max_copy=10))
        top = made.open("Disk")
        request = top.submit(COPY, 5, 25, src_offset_blocks=500)
        made.settle()
        assert children(disk) == [(5, 10), (15, 10), (25, 5)]
        sources = [int(one.src_offset_blocks[0]) for one in disk.held]
        assert sources == [500, 510, 520]
        disk.complete()
        made.settle()
        assert request.status == Status.SUCCESS


# By pieces of memory


class Pieces(Stub):
    """Notes how long the pieces of memory of each I/O are."""

    async def start(self):
        await super().start()
        self.pieces = []

    def submit(self, channel, ios):
        for one in ios.split():
            self.pieces.append([len(view) for view in one.data(READ, WRITE)])
            super().submit(channel, one)


def cut(limits, lengths):
    """WRITE pieces of these lengths; return each child's, and how the I/O ended."""
    with stack() as made:
        disk = made.disk(limited(Pieces, **limits))
        top = made.open("Disk")
        request = top.submit(WRITE, 0, sum(lengths) // 512, [bytes(n) for n in lengths])
        while not request.done:
            disk.complete()
            made.settle()
        return disk.pieces, (request.status, request.errno)


@pytest.mark.rule("A.11.6", "A.11.12", "E.bdev_ut.bdev_io_max_size_and_segment_split_test")
@pytest.mark.parametrize(
    ("limits", "lengths", "expected"),
    [
        ({"max_num_segments": 2}, [512] * 5, [[512, 512], [512, 512], [512]]),
        ({"max_num_segments": 2}, [256, 256, 512], [[256, 256], [512]]),
        ({"max_num_segments": 3}, [100, 412, 1024, 512], [[100, 412, 1024], [512]]),
        ({"max_segment_size": 1024}, [2048, 512], [[1024, 1024, 512]]),
        ({"max_segment_size": 1024, "max_num_segments": 1}, [2048], [[1024], [1024]]),
        # The tail of the second piece goes into the next child, whose blocks so stay whole.
        ({"max_num_segments": 2}, [512, 700, 324 + 512], [[512, 512], [188, 836]]),
    ],
)
def test_by_pieces_of_memory(limits, lengths, expected):
    assert cut(limits, lengths) == (expected, (Status.SUCCESS, 0))


@pytest.mark.rule("A.11.11", "E.bdev_ut.bdev_io_max_size_and_segment_split_test")
@pytest.mark.parametrize(
    ("limits", "lengths"),
    [
        ({"max_num_segments": 1}, [300, 212, 512]),
        ({"max_num_segments": 2}, [512, 512, 100, 100, 312]),
        ({"max_segment_size": 256, "max_num_segments": 1}, [512]),
    ],
)
def test_a_child_of_less_than_a_block_fails(limits, lengths):
    _, (status, number) = cut(limits, lengths)
    assert (status, number) == (Status.FAILED, errno.EINVAL)


@pytest.mark.rule("E.bdev_ut.bdev_io_mix_split_test")
def test_by_boundary_and_by_pieces():
    limits = {**BOUNDARY, "max_num_segments": 2}
    with stack() as made:
        disk = made.disk(limited(Pieces, **limits))
        top = made.open("Disk")
        request = top.submit(WRITE, 5, 10, [bytes(n * 512) for n in (2, 2, 1, 5)])
        while not request.done:
            disk.complete()
            made.settle()
        # 5-7 up to the boundary takes the first piece and half of the second.
        assert children(disk) == [(5, 3), (8, 2), (10, 5)]
        assert disk.pieces == [[1024, 512], [512, 512], [2560]]


offsets = st.integers(0, 63)
limits = st.fixed_dictionaries(
    {
        "optimal_io_boundary": st.sampled_from([0, 1, 3, 8]),
        "split_on_optimal_io_boundary": st.booleans(),
        "max_rw_size": st.sampled_from([0, 1, 5, 16]),
        "max_num_segments": st.sampled_from([0, 4, 7]),
        "max_segment_size": st.sampled_from([0, 512, 2048]),
        "max_unmap": st.sampled_from([0, 3]),
        "max_unmap_segments": st.sampled_from([0, 2]),
        "max_write_zeroes": st.sampled_from([0, 7]),
        "max_copy": st.sampled_from([0, 4]),
        "required_alignment": st.sampled_from([0, 0, 9]),
    }
)


@pytest.mark.rule(
    "A.11.10",
    "A.11.21",
    "E.bdev_ut.bdev_io_alignment_with_boundary",
    "E.bdev_ut.bdev_io_split_with_io_wait",
)
@settings(max_examples=150, deadline=None)
@given(
    limits=limits,
    pool_size=st.sampled_from([1, 2, 5, 100]),
    steps=st.lists(
        st.tuples(
            st.sampled_from([READ, WRITE, WRITE, UNMAP, ZEROES, COPY]),
            offsets,
            st.integers(1, 40),
            offsets,
            st.lists(st.integers(0, 40), max_size=5),
        ),
        min_size=1,
        max_size=8,
    ),
    through=st.booleans(),
)
def test_any_io_over_any_limits(limits, pool_size, steps, through):
    """Over random limits, with pools down to one BdevIO, against a bytearray."""

    class Recorder(Malloc):
        async def start(self):
            await super().start()
            vars(self).update(limits)

        def submit(self, channel, ios):
            self.seen = [*getattr(self, "seen", []), *describe(ios)]
            super().submit(channel, ios)

    made = Stack(pool_size=pool_size)
    disk = made.disk(Recorder, num_blocks=128)
    if through:
        made.layer()
    top = made.open("Top" if through else "Disk")
    model = bytearray(128 * 512)
    for number, (op, offset, count, source, cuts) in enumerate(steps, 1):
        span = slice(offset * 512, (offset + count) * 512)
        payload = bytearray([number]) * (count * 512)
        edges = sorted({0, count, *(cut % (count + 1) for cut in cuts)})
        view = memoryview(payload)
        pieces = [view[a * 512 : b * 512] for a, b in pairwise(edges)]
        data = pieces if op in (READ, WRITE) else None
        if limits["max_num_segments"] and len(pieces) > limits["max_num_segments"]:
            data = [view] if data else None
        request = top.io(op, offset, count, data, src_offset_blocks=source)
        assert request.status == Status.SUCCESS, (op.name, request.errno)
        if op == READ:
            assert payload == model[span]
        elif op == WRITE:
            model[span] = payload
        elif op == COPY:
            model[span] = model[source * 512 : (source + count) * 512]
        else:
            model[span] = bytes(count * 512)
    got = bytearray(128 * 512)
    assert top.io(READ, 0, 128, got).status == Status.SUCCESS
    assert got == model
    for op, offset, count in disk.seen:
        assert fits(limits, op, offset, count), (Op(op).name, offset, count)
    made.close()


def fits(limits, op, offset, count):
    """Whether a child keeps the limits that are about blocks."""
    if op in (READ, WRITE):
        boundary = limits["split_on_optimal_io_boundary"] and limits["optimal_io_boundary"]
        if boundary and offset // boundary != (offset + count - 1) // boundary:
            return False
        return not limits["max_rw_size"] or count <= limits["max_rw_size"]
    if op == UNMAP:
        most = limits["max_unmap"] * limits["max_unmap_segments"]
    else:
        most = limits["max_write_zeroes"] if op == ZEROES else limits["max_copy"]
    return not most or count <= most


# Children and their parent


@pytest.mark.rule("A.11.13")
@pytest.mark.parametrize(
    ("op", "limits"),
    [
        (UNMAP, {"max_unmap": 1, "max_unmap_segments": 1}),
        (ZEROES, {"max_write_zeroes": 1}),
        (COPY, {"max_copy": 1}),
    ],
)
def test_at_most_eight_at_once(op, limits):
    with stack() as made:
        disk = made.disk(limited(**limits))
        top = made.open("Disk")
        request = top.submit(op, 0, 20, src_offset_blocks=100)
        made.settle()
        assert len(disk.held) == 8
        disk.complete([3])
        made.settle()
        assert len(disk.held) == 8
        assert len(disk.arrived) == 9
        while not request.done:
            disk.complete()
            made.settle()
            assert len(disk.held) <= 8
        assert [offset for offset, _ in children(disk)] == list(range(20))


@pytest.mark.rule("A.11.15")
@pytest.mark.parametrize("op", [ZEROES, UNMAP])
def test_the_first_failure_stops_it_and_is_the_parents(op):
    with stack() as made:
        disk = made.disk(limited(max_write_zeroes=1, max_unmap=1, max_unmap_segments=1))
        top = made.open("Disk")
        request = top.submit(op, 0, 20)
        made.settle()
        disk.complete([2], Status.AIO_ERROR, errno.EREMOTEIO)
        disk.complete([0], Status.FAILED, errno.ENOSPC)
        made.settle()
        assert (len(disk.held), request.done) == (6, False)
        disk.complete()
        made.settle()
        assert len(disk.arrived) == 8
        assert (request.status, request.errno) == (Status.AIO_ERROR, errno.EREMOTEIO)


@pytest.mark.rule("A.11.14", "E.bdev_ut.bdev_io_split_with_io_wait")
@pytest.mark.parametrize("pool_size", [1, 2, 3])
def test_a_pool_too_small_for_all_children(pool_size):
    with stack(pool_size=pool_size) as made:
        disk = made.disk(limited(max_rw_size=1))
        top = made.open("Disk")
        request = top.submit(READ, 0, 10, bytearray(5120))
        for _ in range(100):
            assert len(disk.held) <= max(pool_size - 1, 1)
            disk.complete()
            made.settle()
        assert request.status == Status.SUCCESS
        assert [offset for offset, _ in children(disk)] == list(range(10))


@pytest.mark.rule("A.11.18")
def test_children_are_counted_and_their_parent_is_not():
    with stack() as made:
        disk = made.disk(limited(max_rw_size=4))
        made.layer()
        top = made.open("Top")
        request = top.submit(WRITE, 0, 16, bytes(16 * 512))
        while not request.done:
            disk.complete()
            made.settle()
        counted = {bdev.name: entry_of(bdev).iostat().stats["write"][:2] for bdev in made.registry}
        # The layer has its base's limits, and so splits before the base has to.
        assert counted == {"Disk": (4, 16), "Top": (4, 16)}


@pytest.mark.rule("A.11.21", "D.11")
def test_a_layer_splits_as_its_base_would():
    with stack() as made:
        disk = made.disk(limited(**BOUNDARY))
        made.layer(name="P1")
        made.layer(name="P2", base="P1")
        top = made.open("P2")
        request = top.submit(READ, 6, 4, bytearray(2048))
        made.settle()
        disk.complete()
        made.settle()
        assert request.status == Status.SUCCESS
        assert children(disk) == [(6, 2), (8, 2)]
