"""A FLUSH, or a FUA, that is under way on one connection while another one loses writes.

What was acknowledged is gone then, and no server's answer makes it come back: from that moment on
nothing that promises durability succeeds, whichever connection it is on and whenever it was sent.
"""

import errno

import pytest

from support.link_rig import ALL_FLAGS, LinkRig
from vbdev.vocab import IoFlag, Op, Status
from vbdev.wire.nbd import Command, TransmissionFlag, encode_simple_reply


@pytest.fixture
def make():
    made = []

    def build(**options):
        made.append(LinkRig(**options))
        return made[-1]

    yield build
    for one in made:
        one.close()


def write(rig, **more):
    return rig.submit(Op.WRITE, 0, 1, bytearray(512), **more)


def answer(end):
    for asked, _ in end.requests():
        end.say(encode_simple_reply(asked.cookie))


def lose_a_write(rig, end):
    """Have a write acknowledged on a connection, which is the one that is free, and then end it."""
    lost = write(rig)
    assert end.link.in_flight == 1
    answer(end)
    assert lost.status == Status.SUCCESS
    end.hang_up()
    assert rig.disk.lost


@pytest.mark.parametrize("resend", [False, True])
def test_a_flush_under_way_on_another_connection_is_no_success(make, resend):
    rig = make(resend=resend)
    end, other = rig.connect(), None
    write(rig)
    answer(end)
    flush = rig.submit(Op.FLUSH, 0, 0)
    (asked, _) = end.request()
    assert asked.command == Command.FLUSH
    other = rig.connect()
    lose_a_write(rig, other)
    end.say(encode_simple_reply(asked.cookie))
    assert (flush.status, flush.errno) == (Status.AIO_ERROR, errno.EIO)


def test_neither_is_one_that_other_reactors_ask_for(make):
    rig = make()
    end = rig.connect()
    write(rig)
    answer(end)
    said = []
    rig.path.flush_dirty(said.append)
    (asked, _) = end.request()
    lose_a_write(rig, rig.connect())
    end.say(encode_simple_reply(asked.cookie))
    assert said == [errno.EIO]


@pytest.mark.parametrize("at_the_write", [True, False])
@pytest.mark.parametrize("op", [Op.WRITE, Op.UNMAP, Op.WRITE_ZEROES])
def test_a_fua_that_is_a_flush_behind_a_write_is_no_success(make, op, at_the_write):
    rig = make()
    end = rig.connect(flags=ALL_FLAGS & ~TransmissionFlag.SEND_FUA)
    data = bytearray(512) if op is Op.WRITE else None
    request = rig.submit(op, 0, 1, data, flags=IoFlag.FUA)
    (asked, _) = end.request()
    if at_the_write:
        lose_a_write(rig, rig.connect())
    end.say(encode_simple_reply(asked.cookie))
    (asked, _) = end.request()
    assert asked.command == Command.FLUSH
    if not at_the_write:
        lose_a_write(rig, rig.connect())
    end.say(encode_simple_reply(asked.cookie))
    assert (request.status, request.errno) == (Status.AIO_ERROR, errno.EIO)


@pytest.mark.parametrize("resend", [False, True])
def test_without_a_connection_it_fails_at_once_and_does_not_wait_for_one(make, resend):
    rig = make(resend=resend)
    lose_a_write(rig, rig.connect())
    assert rig.submit(Op.FLUSH, 0, 0).errno == errno.EIO
    for op in (Op.WRITE, Op.UNMAP, Op.WRITE_ZEROES):
        data = bytearray(512) if op is Op.WRITE else None
        assert rig.submit(op, 0, 1, data, flags=IoFlag.FUA).errno == errno.EIO
    assert not write(rig).done


def test_nor_does_one_that_was_under_way_on_the_connection_that_lost_it(make):
    """Another one would carry it out again; what it was to make stable is gone."""
    rig = make(resend=True)
    end = rig.connect()
    write(rig)
    answer(end)
    fua, plain = write(rig, flags=IoFlag.FUA), write(rig)
    end.hang_up()
    assert (fua.status, fua.errno) == (Status.AIO_ERROR, errno.EIO)
    assert not plain.done
