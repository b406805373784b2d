"""What a module may do with the memory of the I/Os that it has."""

import pytest

from support.stack import layer, stack
from vbdev.testing import Stub
from vbdev.vocab import Op, Status

FULL = bytes(range(256)) * 2


def scribble(_self, channel, ios):
    for view in ios.data():
        view[:1] = b"!"
    channel.base.submit(ios)


def scribble_on_a_copy(_self, channel, ios):
    ios.copy_data(Op.WRITE)
    scribble(_self, channel, ios)


def test_a_writers_data_can_not_be_written_to():
    with stack() as s:
        s.disk()
        s.layer(layer(scribble))
        top = s.open("Top")
        assert top.io(Op.WRITE, 0, 1, FULL).status == Status.FAILED
        assert [type(error) for _who, error, _n in s.errors] == [TypeError]


def test_zeroes_of_the_core_can_not_be_written_to():
    with stack() as s:
        s.disk(type("Plain", (Stub,), {"ops": frozenset({Op.READ, Op.WRITE})}))
        s.layer(layer(scribble))
        top = s.open("Top")
        assert top.io(Op.WRITE_ZEROES, 0, 8).status == Status.FAILED


@pytest.mark.parametrize("op", [Op.READ, Op.WRITE])
def test_data_of_ones_own_can(op):
    with stack() as s:
        s.disk()
        s.layer(layer(scribble_on_a_copy))
        top = s.open("Top")
        assert top.io(op, 0, 1, bytearray(FULL)).status == Status.SUCCESS
        assert s.errors == []
        got = bytearray(512)
        s.open("Disk", write=False).io(Op.READ, 0, 1, got)
        assert got[0] == (ord("!") if op == Op.WRITE else 0)
