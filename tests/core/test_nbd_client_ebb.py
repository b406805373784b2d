"""A server that closes its half of a connection, and may still work on what it was asked for.

Method: a LinkRig whose server shuts down one direction, over a socket pair and over TCP, where that
looks like the end of the process until something is sent.
"""

import errno
import socket
import time

import pytest

from support.link_rig import LinkRig
from vbdev.vocab import Op, Status
from vbdev.wire.nbd import Command, encode_simple_reply


@pytest.fixture
def rig():
    made = LinkRig(resend=True)
    yield made
    made.close()


def write(rig, n=0, size=512):
    return rig.submit(Op.WRITE, n, size // 512, bytearray(size))


def ebb(end):
    """Let the server close its half; what it was asked for has all come."""
    asked = end.requests()
    end.far.shutdown(socket.SHUT_WR)
    end.link.on_readable()
    end.rig.stack.settle()
    return asked


def answer(end):
    for asked, _ in end.requests():
        data = bytes(asked.length_bytes) if asked.command == Command.READ else b""
        end.say(encode_simple_reply(asked.cookie) + data)


def test_what_may_still_be_carried_out_waits(rig):
    """Sent again at once it would come before the first copy, and newer data would be lost."""
    end = rig.connect()
    read, wrote = rig.submit(Op.READ, 3, 1, bytearray(512)), write(rig, 4)
    ebb(end)
    assert end.link.closed
    assert end.link.ebbing
    other = rig.connect()
    assert [one.command for one, _ in other.requests()] == [Command.READ]
    assert not wrote.done
    assert rig.path.outstanding == 2
    end.far.close()
    end.link.on_readable()
    rig.stack.settle()
    assert not end.link.ebbing
    assert [one.command for one, _ in other.requests()] == [Command.WRITE]
    assert not read.done
    rig.path.drop_all(errno.EIO, "test")


def test_nothing_doubtful_is_no_ebb(rig):
    end = rig.connect()
    read = rig.submit(Op.READ, 3, 1, bytearray(512))
    ebb(end)
    assert end.link.closed
    assert not end.link.ebbing
    answer(rig.connect())
    assert read.status == Status.SUCCESS


def test_one_that_is_given_up_fails_what_waits(rig):
    end = rig.connect()
    wrote = write(rig)
    ebb(end)
    rig.connect()
    end.link.lose(errno.ETIMEDOUT, "test")
    rig.stack.settle()
    assert wrote.errno == errno.ETIMEDOUT
    assert rig.path.outstanding == 0


def test_all_are_dropped_with_the_others(rig):
    """A RESET that waits no longer, a deletion."""
    end = rig.connect()
    wrote = write(rig)
    ebb(end)
    other = write(rig, 1)
    rig.connect()
    rig.path.drop_all(errno.ECANCELED, "test")
    rig.stack.settle()
    assert wrote.errno == other.errno == errno.ECANCELED
    assert not end.link.ebbing


def test_acknowledged_writes_are_lost_at_once(rig):
    end = rig.connect()
    write(rig)
    answer(end)
    write(rig, 1)
    ebb(end)
    assert end.link.ebbing
    assert rig.disk.lost


def test_nothing_new_is_begun_in_the_middle_of_a_write(rig):
    """A goodbye there would be taken for its data."""
    end = rig.connect(buffer=4096)
    data = bytearray(range(256)) * 4096
    request = rig.submit(Op.WRITE, 0, len(data) // 512, data)
    rig.submit(Op.READ, 0, 1, bytearray(512))
    assert end.link.wants_write
    end.read()
    end.far.shutdown(socket.SHUT_WR)
    end.link.on_readable()
    end.read()
    assert bytes(end.data[28:]) == bytes(data[: len(end.data) - 28])
    assert not request.done


@pytest.mark.parametrize("died", [True, False])
def test_over_tcp(rig, died):
    """The end of a process looks like half a close there; a goodbye tells them apart."""
    end = rig.connect(family=socket.AF_INET)
    wrote = write(rig)
    assert len(end.requests()) == 1
    if died:
        end.far.close()
    else:
        end.far.shutdown(socket.SHUT_WR)
    until = time.monotonic() + (5 if died else 0.2)
    while time.monotonic() < until and not (end.link.closed and not end.link.ebbing):
        end.link.on_readable()
        time.sleep(0.005)
    rig.stack.settle()
    assert end.link.ebbing is not died
    other = rig.connect()
    assert len(other.requests()) == died
    if not died:
        ((goodbye, _),) = end.requests()
        assert goodbye.command == Command.DISC
        end.link.lose(errno.ETIMEDOUT, "test")
        rig.stack.settle()
        assert wrote.errno == errno.ETIMEDOUT
    else:
        rig.path.drop_all(errno.EIO, "test")


def test_without_resending_it_is_the_end():
    rig = LinkRig()
    end = rig.connect()
    wrote = write(rig)
    ebb(end)
    assert end.link.closed
    assert not end.link.ebbing
    assert wrote.errno == errno.EIO
    rig.close()
