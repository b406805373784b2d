"""A server that refuses what it offers, or offers it no more: done otherwise where that can be.

Method: a LinkRig, in which the test is the server. `Disk` answers by a list of what it refuses and
keeps what was written, so that a test compares commands and data both.
"""

import errno
import itertools

import pytest

from support.link_rig import ALL_FLAGS, LinkRig
from vbdev.vocab import IoFlag, NbdError, Op, Status
from vbdev.wire.nbd import Command, CommandFlag, TransmissionFlag, encode_simple_reply

Flag = TransmissionFlag
MIB = 1 << 20
CAN_NOT = (NbdError.EINVAL, NbdError.ENOTSUP, 38, 25, 19)
"""The errors that say so: ENOSYS, ENOTTY and ENODEV are numbers that the protocol does not know."""
ZEROES = (Command.WRITE_ZEROES, None)
NO_HOLE = (Command.WRITE_ZEROES, CommandFlag.NO_HOLE)
FAST_ZERO = (Command.WRITE_ZEROES, CommandFlag.FAST_ZERO)
TRIM = (Command.TRIM, None)
WRITE_FUA = (Command.WRITE, CommandFlag.FUA)
ANY_FUA = (None, CommandFlag.FUA)


@pytest.fixture
def rig(request):
    made = LinkRig(**getattr(request, "param", {}))
    yield made
    made.close()


class Disk:
    """The server's end, carrying out what it does not refuse.

    refuses: (command or None for any, flag or None) and the error that it is answered with.
    """

    def __init__(self, end, size, refuses):
        self.end = end
        self.content = bytearray(b"x" * size)
        self.refuses = refuses
        self.asked = []

    def turn(self):
        """Answer all that was asked; say whether there was anything."""
        requests = self.end.requests()
        for asked, payload in requests:
            self.asked.append((asked.command, asked.flags))
            self.end.say(encode_simple_reply(asked.cookie, self._do(asked, payload)))
        return bool(requests)

    def _do(self, asked, payload):
        for (command, flag), error in self.refuses.items():
            if command in (None, asked.command) and (flag is None or asked.flags & flag):
                return error
        at = slice(asked.offset_bytes, asked.offset_bytes + asked.length_bytes)
        if asked.command == Command.WRITE:
            self.content[at] = payload
        elif asked.command in (Command.WRITE_ZEROES, Command.TRIM):
            self.content[at] = bytes(asked.length_bytes)
        return 0

    def carry_out(self, request):
        """Answer until the request has ended; return what was asked for meanwhile."""
        self.asked = []
        while not request.done:
            assert self.turn()
        return self.asked


def serve(rig, refuses, *, size=4 * MIB, flags=ALL_FLAGS):
    return Disk(rig.connect(flags=flags, size=size, buffer=8 * MIB), size, refuses)


@pytest.mark.parametrize("error", CAN_NOT)
def test_zeroes_are_written_and_asked_for_once(rig, error):
    disk = serve(rig, {ZEROES: error})
    first = disk.carry_out(rig.submit(Op.WRITE_ZEROES, 1, 100))
    assert first == [(Command.WRITE_ZEROES, 0), (Command.WRITE, 0)]
    assert disk.content[: 102 * 512] == b"x" * 512 + bytes(100 * 512) + b"x" * 512
    for n in (200, 300):
        request = rig.submit(Op.WRITE_ZEROES, n, 7)
        assert disk.carry_out(request) == [(Command.WRITE, 0)]
        assert request.status == Status.SUCCESS
        assert disk.content[n * 512 : (n + 8) * 512] == bytes(7 * 512) + b"x" * 512
    assert rig.refused == [1]


def test_a_long_range_is_written_piece_by_piece(rig):
    disk = serve(rig, {ZEROES: NbdError.ENOTSUP})
    request = rig.submit(Op.WRITE_ZEROES, 3, 4 * MIB // 512 - 5)
    assert disk.carry_out(request) == [(Command.WRITE_ZEROES, 0), *[(Command.WRITE, 0)] * 4]
    assert request.status == Status.SUCCESS
    end = len(disk.content)
    assert disk.content == b"x" * 3 * 512 + bytes(end - 5 * 512) + b"x" * 2 * 512


@pytest.mark.parametrize("rig", [{"max_bytes": 1536}], indirect=True)
def test_a_piece_is_what_the_server_takes(rig):
    disk = serve(rig, {ZEROES: NbdError.ENOTSUP})
    request = rig.submit(Op.WRITE_ZEROES, 0, 8)
    assert disk.carry_out(request)[1:] == [(Command.WRITE, 0)] * 3
    assert disk.content[: 9 * 512] == bytes(8 * 512) + b"x" * 512


def test_one_that_may_have_been_too_long_says_nothing_of_others(rig):
    disk = serve(rig, {ZEROES: NbdError.EINVAL}, size=33 * MIB)
    request = rig.submit(Op.WRITE_ZEROES, 0, 33 * MIB // 512)
    assert disk.carry_out(request) == [(Command.WRITE_ZEROES, 0), *[(Command.WRITE, 0)] * 33]
    assert disk.content == bytes(33 * MIB)
    assert rig.disk.refusals == 0


def test_a_piece_that_fails_fails_the_whole_and_nothing_is_concluded(rig):
    disk = serve(rig, {ZEROES: NbdError.EINVAL, (Command.WRITE, None): NbdError.ENOSPC})
    request = rig.submit(Op.WRITE_ZEROES, 0, 8)
    disk.carry_out(request)
    assert request.errno == errno.ENOSPC
    assert rig.disk.refusals == 0
    assert disk.carry_out(rig.submit(Op.WRITE_ZEROES, 0, 8))[0] == (Command.WRITE_ZEROES, 0)


@pytest.mark.parametrize("error", [NbdError.EIO, NbdError.ENOSPC, NbdError.ENOMEM])
def test_a_failure_is_no_refusal(rig, error):
    disk = serve(rig, {ZEROES: error, TRIM: error, ANY_FUA: error})
    for op, flags in ((Op.WRITE_ZEROES, 0), (Op.UNMAP, 0), (Op.WRITE, IoFlag.FUA)):
        data = bytearray(512) if op is Op.WRITE else None
        request = rig.submit(op, 0, 1, data, flags=flags)
        assert len(disk.carry_out(request)) == 1
        assert request.errno == int(error)
    assert rig.disk.refusals == 0


def test_no_permission_to_zero_is_tried_as_a_write(rig):
    disk = serve(rig, {ZEROES: NbdError.EPERM})
    request = rig.submit(Op.WRITE_ZEROES, 0, 8)
    disk.carry_out(request)
    assert request.status == Status.SUCCESS
    assert disk.content[: 9 * 512] == bytes(8 * 512) + b"x" * 512


def test_no_hole_alone(rig):
    """What may leave a hole is still asked for, and what may not is written."""
    disk = serve(rig, {NO_HOLE: NbdError.EINVAL})
    asked = disk.carry_out(rig.submit(Op.WRITE_ZEROES, 0, 8, flags=IoFlag.NO_HOLE))
    assert asked == [(Command.WRITE_ZEROES, CommandFlag.NO_HOLE), (Command.WRITE, 0)]
    asked = disk.carry_out(rig.submit(Op.WRITE_ZEROES, 8, 8))
    assert asked == [(Command.WRITE_ZEROES, 0)]
    asked = disk.carry_out(rig.submit(Op.WRITE_ZEROES, 16, 8, flags=IoFlag.NO_HOLE))
    assert asked == [(Command.WRITE, 0)]
    assert disk.content[: 25 * 512] == bytes(24 * 512) + b"x" * 512


def test_fast_zero_is_never_written(rig):
    disk = serve(rig, {FAST_ZERO: NbdError.ENOTSUP})
    for _ in range(2):  # another range may be fast
        request = rig.submit(Op.WRITE_ZEROES, 0, 8, flags=IoFlag.FAST_ZERO)
        asked = disk.carry_out(request)
        assert asked == [(Command.WRITE_ZEROES, CommandFlag.FAST_ZERO)]
        assert request.errno == errno.EOPNOTSUPP
    disk.refuses = {FAST_ZERO: NbdError.EINVAL}
    request = rig.submit(Op.WRITE_ZEROES, 0, 8, flags=IoFlag.FAST_ZERO)
    assert len(disk.carry_out(request)) == 1
    assert request.errno == errno.EOPNOTSUPP
    request = rig.submit(Op.WRITE_ZEROES, 0, 8, flags=IoFlag.FAST_ZERO)
    assert (request.done, request.errno) == (True, errno.EOPNOTSUPP)
    assert disk.carry_out(rig.submit(Op.WRITE_ZEROES, 0, 8)) == [(Command.WRITE_ZEROES, 0)]


def test_fast_zero_where_zeroes_are_refused(rig):
    disk = serve(rig, {ZEROES: NbdError.EINVAL})
    disk.carry_out(rig.submit(Op.WRITE_ZEROES, 0, 8))
    request = rig.submit(Op.WRITE_ZEROES, 0, 8, flags=IoFlag.FAST_ZERO)
    assert (request.done, request.errno) == (True, errno.EOPNOTSUPP)


@pytest.mark.parametrize("error", CAN_NOT)
@pytest.mark.parametrize("fua", [0, IoFlag.FUA])
def test_an_unmap_that_is_refused_does_nothing(rig, error, fua):
    disk = serve(rig, {TRIM: error})
    request = rig.submit(Op.UNMAP, 0, 8, flags=fua)
    disk.carry_out(request)
    assert request.status == Status.SUCCESS
    request = rig.submit(Op.UNMAP, 0, 8, flags=fua)
    assert (request.done, request.status) == (True, Status.SUCCESS)
    assert disk.content == b"x" * len(disk.content)
    assert rig.refused == [8]


def test_what_was_refused_is_not_in_the_servers_cache(rig):
    """Nothing was acknowledged: a connection that is lost then has lost nothing."""
    disk = serve(rig, {TRIM: NbdError.EINVAL})
    disk.carry_out(rig.submit(Op.UNMAP, 0, 8))
    assert not disk.end.link.dirty
    disk.end.hang_up()
    assert not rig.disk.lost


@pytest.mark.parametrize("error", CAN_NOT)
def test_fua_that_is_refused_is_a_write_and_a_flush(rig, error):
    disk = serve(rig, {ANY_FUA: error})
    request = rig.submit(Op.WRITE, 0, 1, bytearray(b"y" * 512), flags=IoFlag.FUA)
    assert disk.carry_out(request) == [WRITE_FUA, (Command.WRITE, 0), (Command.FLUSH, 0)]
    assert disk.content[:1024] == b"y" * 512 + b"x" * 512
    request = rig.submit(Op.WRITE, 1, 1, bytearray(b"y" * 512), flags=IoFlag.FUA)
    assert disk.carry_out(request) == [(Command.WRITE, 0), (Command.FLUSH, 0)]
    for op, command in ((Op.WRITE_ZEROES, Command.WRITE_ZEROES), (Op.UNMAP, Command.TRIM)):
        request = rig.submit(op, 0, 1, flags=IoFlag.FUA)
        assert disk.carry_out(request) == [(command, 0), (Command.FLUSH, 0)]
        assert request.status == Status.SUCCESS
    assert rig.refused == [16]


def test_fua_that_is_refused_for_zeroes_first(rig):
    """It is FUA that the server has not, and not zeroes."""
    disk = serve(rig, {ANY_FUA: NbdError.EINVAL})
    asked = disk.carry_out(rig.submit(Op.WRITE_ZEROES, 0, 8, flags=IoFlag.FUA))
    assert asked == [
        (Command.WRITE_ZEROES, CommandFlag.FUA),
        WRITE_FUA,
        (Command.WRITE, 0),
        (Command.FLUSH, 0),
    ]
    assert disk.carry_out(rig.submit(Op.WRITE_ZEROES, 0, 8)) == [(Command.WRITE_ZEROES, 0)]


def test_zeroes_with_fua_are_written_with_it(rig):
    disk = serve(rig, {ZEROES: NbdError.ENOTSUP})
    asked = disk.carry_out(rig.submit(Op.WRITE_ZEROES, 0, 8, flags=IoFlag.FUA))
    assert asked == [(Command.WRITE_ZEROES, CommandFlag.FUA), WRITE_FUA]
    assert not disk.end.link.dirty


def test_fua_without_fua_or_flush_is_no_promise(rig):
    disk = serve(rig, {ANY_FUA: NbdError.EINVAL}, flags=ALL_FLAGS & ~Flag.SEND_FLUSH)
    request = rig.submit(Op.WRITE, 0, 1, bytearray(512), flags=IoFlag.FUA)
    assert disk.carry_out(request) == [WRITE_FUA]
    assert request.errno == errno.EINVAL


def test_a_flush_that_is_refused_fails(rig):
    disk = serve(rig, {ANY_FUA: NbdError.EINVAL, (Command.FLUSH, None): NbdError.EINVAL})
    request = rig.submit(Op.FLUSH, 0, 0)
    disk.carry_out(request)
    assert request.errno == errno.EINVAL
    request = rig.submit(Op.WRITE, 0, 1, bytearray(512), flags=IoFlag.FUA)
    disk.carry_out(request)
    assert request.errno == errno.EINVAL
    assert rig.disk.refusals == 0


def test_a_connection_that_offers_less_than_the_first(rig):
    less = ALL_FLAGS & ~(Flag.SEND_WRITE_ZEROES | Flag.SEND_TRIM | Flag.SEND_FAST_ZERO)
    disk = serve(rig, {}, flags=less)
    assert disk.carry_out(rig.submit(Op.WRITE_ZEROES, 0, 8)) == [(Command.WRITE, 0)]
    assert disk.content[: 9 * 512] == bytes(8 * 512) + b"x" * 512
    request = rig.submit(Op.UNMAP, 0, 8)
    assert (request.done, request.status) == (True, Status.SUCCESS)


def test_zeroes_that_are_written_when_the_connection_is_lost(rig):
    """From the start, on the next connection: half of it may have been written."""
    rig.path.resend = True
    disk = serve(rig, {ZEROES: NbdError.ENOTSUP})
    request = rig.submit(Op.WRITE_ZEROES, 0, 4 * MIB // 512)
    for _ in range(3):
        disk.turn()
    rig.path.holding = True
    disk.end.hang_up()
    assert not request.done
    again = serve(rig, {ZEROES: NbdError.ENOTSUP})
    again.carry_out(request)
    assert request.status == Status.SUCCESS
    assert again.content == bytes(4 * MIB)


def test_a_refusal_that_comes_before_all_was_sent(rig):
    """Nothing is asked for instead until the data of the first try has left."""
    end = rig.connect(buffer=4096)
    request = rig.submit(Op.WRITE, 0, 1024, bytearray(1024 * 512), flags=IoFlag.FUA)
    cookie = end.peek().cookie
    end.say(encode_simple_reply(cookie, NbdError.EINVAL))
    commands = []
    for _ in itertools.repeat(None, 2000):
        for asked, _payload in end.requests():
            commands.append((asked.command, asked.flags))
            if asked.cookie != cookie:
                end.say(encode_simple_reply(asked.cookie))
        if request.done:
            break
        if end.link.wants_write:  # the reactor calls it then, and not otherwise
            end.link.send()
    assert request.status == Status.SUCCESS
    assert commands == [WRITE_FUA, (Command.WRITE, 0), (Command.FLUSH, 0)]
