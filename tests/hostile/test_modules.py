"""Modules that break every rule: whose fault it is is said, their I/Os fail, the rest goes on."""

import errno
import threading
import time

import pytest

from support.stack import layer, stack
from vbdev.bdev import BdevError
from vbdev.bdev.entry import entry_of
from vbdev.core.engine.batch import IOBatch
from vbdev.testing import Stub, forward, gather
from vbdev.vocab import Op, Status

DATA = bytes(range(256)) * 2


def boom(*_arguments):
    raise ZeroDivisionError("a bug in a module")


def check_bystander(s):
    """Another stack of the same engine works as if nothing had happened."""
    if s.registry.find("Other") is None:
        s.disk(name="Other")
    opened = s.open("Other")
    assert opened.io(Op.WRITE, 1, 1, DATA).status == Status.SUCCESS
    got = bytearray(512)
    assert opened.io(Op.READ, 1, 1, got).status == Status.SUCCESS
    assert got == DATA
    opened.close()


@pytest.mark.parametrize(
    "hooks", [{"submit": boom}, {"completed": boom}], ids=["submit", "completed"]
)
def test_one_that_raises_is_named_and_its_ios_fail(hooks):
    with stack() as s:
        s.disk()
        s.layer(layer(**hooks))
        top = s.open("Top")
        assert top.io(Op.READ, 0, 1, bytearray(512)).status == Status.FAILED
        ((who, error, count),) = s.errors
        assert (who, type(error), count) == ("Top", ZeroDivisionError, 1)
        check_bystander(s)


def test_one_that_raises_after_it_sent_some_on_fails_only_what_it_holds():
    def half(_self, channel, ios):
        channel.base.submit(ios.take(Op.READ))
        boom()

    with stack() as s:
        s.disk()
        s.layer(layer(half), name="Half")
        s.layer(gather(2), base="Half")
        top = s.open("Top")
        ends = [top.submit(Op.READ, 0, 1, bytearray(512)), top.submit(Op.WRITE, 1, 1, DATA)]
        s.settle()
        assert [end.status for end in ends] == [Status.SUCCESS, Status.FAILED]


@pytest.mark.parametrize("hook", ["create_channel", "start", "inherit"])
def test_hooks_that_raise_leave_nothing_open(hook):
    async def start(_self):
        boom()

    with stack() as s:
        s.disk()
        cls = layer(**{hook: start if hook == "start" else boom})
        with pytest.raises((ZeroDivisionError, BdevError), match="a bug"):
            s.open(s.layer(cls).name)
        if s.registry.find("Top"):
            s.delete("Top")
        assert entry_of(s.registry.get("Disk")).claim is None
        assert s.registry.get("Disk").holders() == []
        check_bystander(s)


def test_what_was_failed_for_a_module_it_can_not_complete_any_more():
    kept = IOBatch()

    def keep_and_raise(_self, _channel, ios):
        kept.extend(ios.take())
        boom()

    with stack() as s:
        s.disk()
        s.layer(layer(keep_and_raise))
        top = s.open("Top")
        assert top.io(Op.READ, 0, 1, bytearray(512)).status == Status.FAILED
        again = top.submit(Op.READ, 1, 1, bytearray(512))  # perhaps the same BdevIO
        kept.complete()
        s.settle()
        assert again.status == Status.FAILED
        assert len(kept) == 0


def test_what_was_handed_over_is_no_longer_ones_own():
    def hand_over_and_complete(_self, channel, ios):
        channel.base.submit(ios)
        ios.complete()

    with stack() as s:
        disk = s.disk(Stub)
        s.layer(layer(hand_over_and_complete))
        request = s.open("Top").submit(Op.READ, 0, 1, bytearray(512))
        s.settle()
        assert not request.done
        disk.complete()
        s.settle()
        assert request.status == Status.SUCCESS


def test_a_batch_kept_from_completed_ends_nobody_elses_io():
    kept = []

    def keep(_self, _channel, ios):
        kept.append(ios)

    with stack() as s:
        disk = s.disk(Stub)
        s.layer(layer(completed=keep))
        top = s.open("Top")
        first = top.submit(Op.READ, 0, 1, bytearray(512))
        s.settle()
        disk.complete()
        s.settle()
        assert first.status == Status.SUCCESS
        second = top.submit(Op.READ, 1, 1, bytearray(512))
        for ios in kept:
            ios.complete(Status.FAILED)
        s.settle()
        assert not second.done
        disk.complete()
        s.settle()
        assert second.status == Status.SUCCESS


def test_a_batch_for_ones_own_channel_goes_round_until_it_is_refused():
    with stack() as s:
        s.disk()
        s.layer(layer(lambda _self, channel, ios: channel.submit(ios)))
        request = s.open("Top").io(Op.READ, 0, 1, bytearray(512))
        assert (request.status, request.errno) == (Status.FAILED, errno.ELOOP)
        check_bystander(s)


def test_a_batch_for_another_bdev_is_checked_there():
    with stack() as s:
        s.disk()
        s.disk(name="Small", num_blocks=8)
        small = s.open("Small")
        s.layer(layer(lambda _self, _channel, ios: small.channel.submit(ios)))
        top = s.open("Top")
        assert top.io(Op.READ, 7, 1, bytearray(512)).status == Status.SUCCESS
        request = top.io(Op.READ, 8, 1, bytearray(512))
        assert (request.status, request.errno) == (Status.FAILED, errno.EINVAL)
        check_bystander(s)


def test_a_batch_for_the_channel_of_another_reactor_is_refused():
    channels = []

    def remember(_self, channel):
        channels.append(channel)

    def cross(_self, _channel, ios):
        channels[0].base.submit(ios)

    with stack(reactors=2) as s:
        s.disk()
        s.layer(layer(cross, create_channel=remember))
        first, second = s.open("Top"), s.open("Top", on=1)
        assert first.io(Op.READ, 0, 1, bytearray(512)).status == Status.SUCCESS
        assert second.io(Op.READ, 0, 1, bytearray(512)).status == Status.FAILED
        assert [(who, type(error)) for who, error, _ in s.errors] == [("Top", RuntimeError)]


@pytest.mark.parametrize("verb", ["submit", "complete"])
def test_a_thread_of_the_modules_own_is_refused(verb):
    kept, raised = [], []

    def keep(_self, channel, ios):
        kept.append((channel, ios.take()))

    def elsewhere():
        ((channel, ios),) = kept
        try:
            if verb == "submit":
                channel.base.submit(ios)
            else:
                ios.complete()
        except RuntimeError as error:
            raised.append(error)

    with stack() as s:
        s.disk()
        s.layer(layer(keep))
        request = s.open("Top").submit(Op.READ, 0, 1, bytearray(512))
        s.settle()
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        s.settle()
        assert len(raised) == 1
        assert "thread" in str(raised[0])
        assert not request.done
        kept[0][1].complete()  # on the right thread it is the module's as before
        s.settle()
        assert request.status == Status.SUCCESS


def test_one_that_never_completes_is_told_as_who_keeps_the_bdev():
    with stack() as s:
        s.disk(Stub)
        s.layer(layer(forward), name="Top")
        top = s.open("Top")
        request = top.submit(Op.READ, 0, 1, bytearray(512))
        disk = s.registry.get("Disk")
        with pytest.raises(BdevError, match="Top"):
            s.run(s.registry.unregister(disk, timeout_ms=10))
        check_bystander(s)
        assert not request.done
        disk.complete()
        s.settle()
        assert request.status == Status.SUCCESS


def test_one_that_blocks_is_named():
    named = []
    with stack(real_clock=True) as s:
        s.engine.on_slow_module = lambda channel, ns: named.append((channel.bdev.name, ns))
        s.disk()

        def block(_self, channel, ios):
            time.sleep(0.3)
            channel.base.submit(ios)

        s.layer(layer(block), name="Slow")
        s.layer(base="Slow")
        assert s.open("Top").io(Op.READ, 0, 1, bytearray(512)).status == Status.SUCCESS
    ((who, ns),) = named
    assert who == "Slow"
    assert ns > 200_000_000
