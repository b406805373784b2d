"""Whatever foreign code raises, and wherever: each I/O keeps one owner, and ends.

KeyboardInterrupt and SystemExit are nobody's failure and reach whoever turns the loop, once; other
BaseExceptions are the failure of the code that raised them.
"""

import threading

import pytest

from vbdev.bdev import BASIC_OPS
from vbdev.core.engine.requests import Requests
from vbdev.testing import Stub, gather, layer, stack
from vbdev.vocab import Op, Status

STOPS = (KeyboardInterrupt, SystemExit)
OTHERS = (GeneratorExit, BaseException, ValueError)
EACH = pytest.mark.parametrize("error", STOPS + OTHERS)


def turn(rig, error):
    """Turn until nothing is left; return how often the loop was left, which only a stop does."""
    left = 0
    for _ in range(200):
        try:
            rig.reactors.poll()
        except STOPS as raised:
            left += type(raised) is error
    return left


def expected(error):
    return int(issubclass(error, STOPS))


def raising_at(number, error):
    """Return a `submit` that forwards all but WRITEs, and raises at this batch of WRITEs."""
    seen = []

    def submit(_self, channel, ios):
        writes = ios.take(Op.WRITE)
        channel.base.submit(ios)
        if writes:
            seen.append(len(writes))
            if len(seen) == number:
                raise error("user code")
            channel.base.submit(writes)

    return submit


@EACH
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize(
    ("op", "more"), [(Op.COPY, {"src_offset_blocks": 0}), (Op.WRITE_ZEROES, {})]
)
def test_children_have_one_owner_whatever_their_module_raises(error, number, op, more):
    with stack(pool_size=64) as rig:
        rig.disk(num_blocks=65536)
        rig.layer(layer(raising_at(number, error), ops=BASIC_OPS))
        top = rig.open("Top")
        request = top.submit(op, 32768, 30000, **more)
        assert turn(rig, error) == expected(error)
        assert request.status == Status.FAILED
        assert (rig.engine.ios_in_use, rig.engine.children.in_flight) == (0, 0)
        # Nothing was given back twice: as many BdevIOs as there are can be had, and no more.
        reads = [top.submit(Op.READ, n, 1, bytearray(512)) for n in range(65)]
        rig.settle()
        assert [r is not None and r.status == Status.SUCCESS for r in reads] == [True] * 64 + [
            False
        ]


@EACH
def test_a_module_that_raises_loses_its_own_ios_only(error):
    """In the middle of a batch of which some are forwarded, some done, and others not looked at."""

    def submit(_self, channel, ios):
        first, second, _held = ios.split()
        channel.base.submit(first)
        second.complete(Status.SUCCESS)
        raise error("user code")

    with stack() as rig:
        rig.disk(Stub)
        rig.layer(layer(submit))
        rig.layer(gather(3), name="Batch", base="Top")
        top = rig.open("Batch")
        requests = [top.submit(Op.FLUSH, 0, 0) for _ in range(3)]
        turn(rig, error)
        rig.registry.get("Disk").complete()
        rig.settle()
        assert [r.status for r in requests] == [1, 1, -1]


@EACH
def test_completed_that_raises(error):
    raised = []

    def completed(_self, _channel, ios):
        if not raised:
            raised.append(len(ios))
            raise error("user code")

    with stack() as rig:
        disk = rig.disk(Stub)
        rig.layer(layer(completed=completed))
        top, other = rig.open("Top"), rig.open("Disk", write=False)
        requests = [top.submit(Op.FLUSH, 0, 0) for _ in range(3)]
        requests.append(other.submit(Op.READ, 0, 1, bytearray(512)))
        disk.complete()
        assert turn(rig, error) == expected(error)
        assert [r.status for r in requests] == [-1, -1, -1, 1]


@EACH
def test_a_coroutine_that_raises(error):
    async def handle(_self, _channel, io):
        if io.offset_blocks == 1:
            raise error("user code")
        await io.forward()

    with stack() as rig:
        rig.disk()
        rig.layer(layer(handle=handle))
        top = rig.open("Top")
        reads = [top.submit(Op.READ, n, 1, bytearray(512)) for n in range(3)]
        assert turn(rig, error) == expected(error)
        assert [r.status for r in reads] == [1, -1, 1]


@EACH
def test_callbacks_that_raise_keep_nobody_elses_from_being_called(error):
    called = []

    def callback(request):
        called.append(request)
        raise error("user code")

    with stack() as rig:
        disk = rig.disk(Stub)
        top = rig.open("Disk")
        requests = [top.submit(Op.FLUSH, 0, 0, callback=callback) for _ in range(5)]
        disk.complete()
        assert turn(rig, error) == expected(error)
        assert called == requests


@EACH
def test_who_waits_for_a_bdev_io_and_raises(error):
    """The next one is asked all the same."""
    with stack(pool_size=1) as rig:
        disk = rig.disk(Stub)
        top = rig.open("Disk")
        top.submit(Op.FLUSH, 0, 0)
        asked = []

        def callback():
            asked.append(1)
            raise error("user code")

        for _ in range(2):
            rig.engine.io_wait(callback)
        disk.complete()
        assert turn(rig, error) >= expected(error)
        assert len(asked) == 2


@pytest.mark.parametrize("error", STOPS)
def test_handlers_that_are_interrupted(error):
    def handler(*_args):
        raise error("a signal came")

    def submit(_self, _channel, _ios):
        raise ValueError("boom")

    with stack() as rig:
        rig.disk()
        rig.layer(layer(submit))
        top = rig.open("Top")
        rig.engine.on_module_error = handler
        request = top.submit(Op.FLUSH, 0, 0)
        assert turn(rig, error) == 1
        assert request.status == Status.FAILED


def test_submitting_on_another_thread_loses_nothing():
    with stack(pool_size=1) as rig:
        rig.disk()
        top = rig.open("Disk")
        rig.settle()
        requests, raised = Requests(rig.engine), []

        def elsewhere():
            try:
                requests.submit(top.channel, Op.FLUSH, 0, 0)
            except RuntimeError as error:
                raised.append(str(error))

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert "another thread" in raised[0]
        assert (rig.engine.ios_in_use, requests.in_flight) == (0, 0)
        assert top.io(Op.FLUSH, 0, 0).status == Status.SUCCESS
        requests.close()
