"""Every request header: the compiled stream's verdict equals that of a plain-Python oracle.

The oracle is built on `decode_request_header` and the text of proto.md ("Request types",
"Command flags", "Transmission flags"). Hypothesis chooses headers near all bounds, negotiated
flags and geometry.
"""

import functools
import operator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.nbd_client import header
from support.stream_rig import ALL_FLAGS, StreamRig
from vbdev.vocab import NbdError
from vbdev.wire.nbd import (
    COMMAND_FLAGS,
    Command,
    CommandFlag,
    TransmissionFlag,
    decode_request_header,
)

MAX_PAYLOAD = 32 << 20
NUM_BLOCKS = 160  # so that lengths on both sides of what fits are short enough to send
HUGE_BLOCKS = (MAX_PAYLOAD >> 12) * 4  # so that lengths beyond MAX_PAYLOAD are inside the bdev

NEEDED = {
    Command.FLUSH: TransmissionFlag.SEND_FLUSH,
    Command.TRIM: TransmissionFlag.SEND_TRIM,
    Command.CACHE: TransmissionFlag.SEND_CACHE,
    Command.WRITE_ZEROES: TransmissionFlag.SEND_WRITE_ZEROES,
}
CHANGING = {Command.WRITE, Command.TRIM, Command.WRITE_ZEROES}
WITH_PAYLOAD = {Command.READ, Command.WRITE, Command.CACHE}


def oracle(data, offered, *, structured, num_blocks, block_size):
    """Return the error that a request deserves."""
    request = decode_request_header(data)
    if request.command not in set(Command) or request.command == Command.DISC:
        return NbdError.EINVAL
    command = Command(request.command)
    if NEEDED.get(command, offered) & offered == 0:
        read_only = TransmissionFlag.READ_ONLY in offered and command in CHANGING
        return NbdError.EPERM if read_only else NbdError.EINVAL
    if command is Command.BLOCK_STATUS and not structured:
        return NbdError.EINVAL
    if request.flags & ~allowed_flags(command, offered, structured=structured):
        return NbdError.EINVAL
    if command is Command.FLUSH:
        ranged = request.offset_bytes or request.length_bytes
        return NbdError.EINVAL if ranged else NbdError.OK
    if command in CHANGING and TransmissionFlag.READ_ONLY in offered:
        return NbdError.EPERM
    offset, length = request.offset_bytes, request.length_bytes
    if not length or offset % block_size or length % block_size:
        return NbdError.EINVAL
    if offset + length > num_blocks * block_size:
        grows = command in (Command.WRITE, Command.WRITE_ZEROES)
        return NbdError.ENOSPC if grows else NbdError.EINVAL
    if length > MAX_PAYLOAD and command in WITH_PAYLOAD:
        return NbdError.EINVAL
    return NbdError.OK


def allowed_flags(command, offered, *, structured):
    """Return the flags that a command may carry, of those that were offered."""
    allowed = int(COMMAND_FLAGS[command])
    # "Command flags": FUA is valid with any command where NBD_FLAG_SEND_FUA was set.
    allowed |= int(CommandFlag.FUA)
    if TransmissionFlag.SEND_FUA not in offered:
        allowed &= ~int(CommandFlag.FUA)
    if not structured:
        allowed &= ~int(CommandFlag.DF)
    if TransmissionFlag.SEND_FAST_ZERO not in offered:
        allowed &= ~int(CommandFlag.FAST_ZERO)
    return allowed


def near(*points):
    """Return a strategy for numbers at some points and beside them."""
    beside = st.sampled_from([-4096, -512, -1, 0, 1, 512, 4096])
    return st.builds(lambda point, by: max(0, point + by), st.sampled_from(points), beside)


def headers(block_size, num_blocks):
    """Return a strategy for (command, flags, offset, length)."""
    size = num_blocks * block_size
    blocks = st.integers(0, num_blocks + 2).map(lambda n: n * block_size)
    offset = blocks | near(0, size, 1 << 32, (1 << 63) - 1, (1 << 64) - 8192)
    length = blocks | near(0, size, 65536, MAX_PAYLOAD, (1 << 32) - 8192)
    command = st.sampled_from([*(set(Command) - {Command.DISC}), 8, 9, 1 << 15, (1 << 16) - 1])
    bits = st.sampled_from([0, 1, 2, 4, 8, 16, 32, 1 << 15])
    flags = st.just(0) | bits | st.builds(int.__or__, bits, bits)
    return st.tuples(command, flags, offset, length)


@pytest.fixture(
    scope="module", params=[(512, NUM_BLOCKS), (4096, HUGE_BLOCKS)], ids=["512", "4096"]
)
def rig(request):
    block_size, num_blocks = request.param
    rig = StreamRig(num_blocks, block_size)
    rig.block_size, rig.num_blocks = block_size, num_blocks
    yield rig
    rig.close()


OFFERED = st.just(ALL_FLAGS) | st.sets(st.sampled_from(list(TransmissionFlag))).map(
    lambda flags: functools.reduce(operator.or_, flags, TransmissionFlag.HAS_FLAGS)
)


@settings(
    max_examples=600,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(data=st.data(), offered=OFFERED, structured=st.booleans())
def test_random_headers(rig, data, offered, structured):
    compare(rig, data.draw(headers(rig.block_size, rig.num_blocks)), offered, structured=structured)


@pytest.mark.parametrize("offered", [ALL_FLAGS, ALL_FLAGS | TransmissionFlag.READ_ONLY])
@pytest.mark.parametrize("command", sorted(set(Command) - {Command.DISC}))
def test_all_bounds(rig, command, offered):
    """Each command, with each flag, on both sides of each end."""
    size, step = rig.num_blocks * rig.block_size, rig.block_size
    ranges = [
        (offset, length)
        for offset in (0, 1, size - step, size, size + step, 1 << 63)
        for length in (0, 1, step, 2 * step)
    ]
    for offset, length in [*ranges, (0, size + step), (step, size)]:
        for flags in (0, 1, 2, 4, 8, 16, 32):
            compare(rig, (command, flags, offset, length), offered, structured=True)


def compare(rig, request, offered, *, structured):
    """Hold the stream's verdict on one request against the oracle's."""
    command, flags, offset, length = request
    message = header(command, 7, offset, length, flags)
    expected = oracle(
        message,
        offered,
        structured=structured,
        num_blocks=rig.num_blocks,
        block_size=rig.block_size,
    )
    rig.connect(flags=offered, structured=structured)
    rig.expect(message)
    assert verdict(rig, message, command, length) == expected
    rig.disconnect()


def verdict(rig, message, command, length):
    """Feed a header, and of a WRITE as much payload as it takes to have an answer."""
    rig.feed(message)
    payload = length if command == Command.WRITE else 0
    events = rig.replies()
    if not events and payload:
        # Accepted, as far as it looks: an error is answered before its payload.
        assert payload <= MAX_PAYLOAD
        rig.feed(bytes(payload))
        events = rig.replies()
    (event,) = events
    return getattr(event, "error", NbdError.OK)
