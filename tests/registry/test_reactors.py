"""The registry is its reactor's; what it knows of has channels on all of them.

Method: a Stack of three reactors, turned by hand; `run_on` runs a function as one reactor's code.
"""

import errno

import pytest

from support.stack import Stack, Stub
from vbdev.bdev import BdevError, BdevEvent
from vbdev.bdev.entry import entry_of
from vbdev.modules.null import Null
from vbdev.registry.claims import claim_descriptor
from vbdev.vocab import ClaimType, Op, Status


@pytest.fixture
def stack():
    made = Stack(reactors=3)
    yield made
    made.close()


def run_on(reactor, function):
    with reactor.here():
        return function()


def refused(number, function):
    with pytest.raises(BdevError) as caught:
        function()
    assert caught.value.errno == number
    return str(caught.value)


@pytest.mark.rule("A.1.25", "A.2.2")
def test_registering_opening_and_removing_are_the_first_reactors(stack):
    other = list(stack.reactors)[1]
    disk = stack.disk(Stub)
    stray = Null(Null.Params(name="Stray", num_blocks=8, block_size=512))
    for number, coroutine in (
        (errno.EINVAL, stack.registry.register(stray)),
        (errno.ENOTSUP, stack.registry.unregister(disk)),
    ):
        message = refused(number, lambda c=coroutine: run_on(other, lambda: c.send(None)))
        assert "off reactor_0, which owns the bdevs" in message
    refused(
        errno.ENOTSUP,
        lambda: run_on(
            other,
            lambda: stack.registry.open("Disk", write=False, on_event=print, holder="stray"),
        ),
    )
    assert [bdev.name for bdev in stack.registry] == ["Disk"]
    assert entry_of(disk).openers == []


class Far:
    """A descriptor that another reactor owns, with a channel there."""

    def __init__(self, stack, reactor, name, *, write):
        self.stack, self.reactor, self.events = stack, reactor, []
        self.descriptor = stack.registry.open(
            name, write=write, on_event=self._event, holder="far", reactor=reactor
        )
        run_on(reactor, self.descriptor.get_channel)

    def _event(self, event):
        self.events.append((event, self.reactor.is_here))

    def submit(self, op):
        data = bytearray(512) if op in (Op.READ, Op.WRITE) else None
        done = []
        run_on(
            self.reactor,
            lambda: self.descriptor.submit(op, 0, 1, data, callback=done.append),
        )
        self.stack.settle()
        return done

    def close(self):
        return run_on(self.reactor, self.descriptor.close)


@pytest.mark.rule(
    "A.7.3", "A.7.6", "A.2.13", "A.2.18", "E.bdev_mt.unregister_and_close_different_threads"
)
def test_a_removal_waits_for_an_owner_on_another_reactor(stack):
    disk = stack.disk(Stub)
    far = Far(stack, list(stack.reactors)[2], "Disk", write=True)
    done = far.submit(Op.READ)
    task = stack.reactor.spawn(stack.registry.delete("Disk", "stub"))
    stack.settle()
    assert far.events == [(BdevEvent.REMOVE, True)]
    assert not task.done
    message = refused(errno.EPERM, lambda: run_on(stack.reactor, far.descriptor.close))
    assert "opened bdev Disk on reactor_2" in message
    refused(errno.EBUSY, far.close)
    run_on(far.reactor, disk.complete)
    stack.settle()
    assert done[0].status == Status.SUCCESS
    assert not task.done
    far.close()
    stack.settle()
    assert task.done
    assert list(stack.registry) == []


@pytest.mark.rule("A.7.3", "A.7.11")
def test_a_stack_unwinds_with_channels_everywhere(stack):
    stack.disk(Null)
    stack.layer(name="P1")
    stack.layer(name="P2", base="P1")
    far = [Far(stack, reactor, "P2", write=False) for reactor in stack.reactors]
    for one in far:
        assert one.submit(Op.READ)[0].status == Status.SUCCESS
    assert len(entry_of(stack.registry.get("Disk")).channels()) == 3
    task = stack.reactor.spawn(stack.registry.delete("Disk", "null"))
    stack.settle()
    for one in far:
        assert not task.done
        one.close()
        stack.settle()
    assert task.done
    assert list(stack.registry) == []


@pytest.mark.rule("A.3.7", "A.2.14", "A.3.18")
def test_a_claim_reaches_the_channels_of_all_reactors_and_ends_with_its_descriptor(stack):
    disk = stack.disk(Null)
    far = Far(stack, list(stack.reactors)[1], "Disk", write=False)
    assert far.submit(Op.WRITE)[0].errno == errno.EBADF
    claim_descriptor(far.descriptor, ClaimType.READ_MANY_WRITE_ONE, "mod")
    stack.settle()
    assert far.submit(Op.WRITE)[0].status == Status.SUCCESS
    far.close()
    stack.settle()
    assert (entry_of(disk).claim, entry_of(disk).openers) == (None, [])
