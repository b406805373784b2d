"""Examination: who is asked about a new bdev, in which order, and who waits for whom.

Method: modules that note each call, on a bare Stack; `Disk` is the bdev that is new.
"""

import errno
import logging

import pytest

from support.stack import Stack, Stub, layer
from vbdev.bdev import BdevError, VirtualBdev
from vbdev.reactor.task import Future
from vbdev.registry.claims import claim_bdev, claim_descriptor, release_bdev
from vbdev.vocab import ClaimType, Op, Status


@pytest.fixture
def stack():
    made = Stack()
    made.calls = []
    yield made
    made.close()


def taster(stack, kind, *, config=None, disk=None, only_config=False):
    """Add a module that notes what it is asked; `config` and `disk` are what it does then."""

    class Taster(VirtualBdev):
        @classmethod
        def examine_config(cls, registry, bdev):
            stack.calls.append((kind, "config", bdev.name))
            if config is not None:
                config(bdev)

    Taster.kind = Taster.product_name = kind

    async def examine_disk(_cls, registry, bdev):
        stack.calls.append((kind, "disk", bdev.name))
        if disk is not None:
            await disk(registry, bdev)

    if not only_config:
        Taster.examine_disk = classmethod(examine_disk)
    stack.registry.add_module(Taster)
    return Taster


def calls(stack, phase):
    stack.settle()
    return [kind for kind, what, _ in stack.calls if what == phase]


@pytest.mark.rule("A.4.1", "A.4.4", "A.4.5", "A.4.12", "A.4.13")
def test_each_module_is_asked_once_in_order_config_first(stack):
    for kind in "abc":
        taster(stack, kind, only_config=kind == "b")
    stack.disk()
    stack.settle()
    assert stack.calls == [
        ("a", "config", "Disk"),
        ("b", "config", "Disk"),
        ("c", "config", "Disk"),
        ("a", "disk", "Disk"),
        ("c", "disk", "Disk"),
    ]
    stack.settle()
    assert len(stack.calls) == 5


@pytest.mark.rule("A.4.2")
def test_what_can_not_be_read_is_not_examined(stack):
    class WriteOnly(Stub):
        ops = frozenset({Op.WRITE})

    taster(stack, "a")
    stack.layer()
    stack.disk(WriteOnly)
    assert calls(stack, "config") == calls(stack, "disk") == []
    assert stack.registry.find("Top") is None


@pytest.mark.rule("A.4.6", "A.4.11", "E.bdev_ut.examine_claimed")
def test_a_claimed_disk_is_tasted_by_its_claimer_alone(stack):
    taster(stack, "a")
    taster(stack, "b", config=lambda bdev: claim_bdev(bdev, None, "b"))
    taster(stack, "c")
    disk = stack.disk()
    assert calls(stack, "config") == ["a", "b", "c"]
    assert calls(stack, "disk") == ["b"]
    release_bdev(disk, "b")
    stack.delete("Disk")
    stack.calls.clear()
    stack.layer()  # configured: its base is hidden from all
    taster(stack, "d")
    stack.registry.examiner.modules[1].examine_config = classmethod(lambda *_: None)
    stack.disk()
    stack.settle()
    assert [name for _, what, name in stack.calls if what == "config"].count("Disk") == 3
    assert {(kind, name) for kind, what, name in stack.calls if what == "disk"} == {
        (kind, "Top") for kind in "abcd"
    }


@pytest.mark.rule("A.4.7", "E.bdev_ut.examine_claimed")
def test_a_disk_that_several_claim_is_tasted_by_these(stack):
    opened = []

    def claim(kind):
        def config(_bdev):
            opened.append(stack.open("Disk", write=False))
            claim_descriptor(opened[-1].descriptor, ClaimType.READ_MANY_WRITE_NONE, kind)

        return config

    taster(stack, "a", config=claim("a"))
    taster(stack, "b")
    taster(stack, "c", config=claim("c"))
    stack.disk()
    assert calls(stack, "disk") == ["a", "c"]


@pytest.mark.rule("A.4.10", "E.bdev_ut.examine_locks")
def test_two_find_something_on_one_disk(stack, caplog):
    """Both were asked while nobody had claimed it: one wins, and the other leaves nothing."""

    async def find(kind, registry, bdev):
        descriptor = registry.open(bdev.name, write=False, on_event=print, holder=kind)
        try:
            await registry.reactor.sleep(100)
            async with registry.hold(bdev, kind, holder=f"{kind} of {bdev.name}") as hold:
                made = layer(kind=kind)
                await registry.build(
                    made(made.Params(name=f"{kind}0", base_bdev_name=bdev.name)), hold
                )
        finally:
            await descriptor.close()

    for kind in ("one", "two"):

        async def disk(registry, bdev, kind=kind):
            if bdev.name == "Disk":
                await find(kind, registry, bdev)

        taster(stack, kind, disk=disk)
    with caplog.at_level(logging.WARNING):
        disk = stack.disk()
        stack.pass_time(1000)
    assert [bdev.name for bdev in stack.registry] == ["Disk", "one0"]
    assert disk.holders() == ["one of Disk"]
    assert "bdev=Disk module=two" in caplog.text
    assert "by one of Disk" in caplog.text


@pytest.mark.rule("A.4.8", "A.1.14", "A.4.20")
def test_the_data_can_be_read_and_wait_for_examine_waits_for_it(stack):
    seen = []

    async def disk(registry, bdev):
        descriptor = registry.open(bdev.name, write=False, on_event=print, holder="taster")
        data = bytearray(512)
        request = await descriptor.io(Op.READ, 0, 1, data)
        seen.append(request.status)
        await descriptor.close()

    taster(stack, "a", disk=disk)
    bdev = stack.disk(Stub)  # returns, although the read does not
    stack.settle()
    assert bdev.holders() == ["taster"]
    assert stack.registry.examiner.of(bdev) == ["a"]
    waiting = stack.reactor.spawn(stack.registry.examiner.wait())
    stack.settle()
    assert not waiting.done
    bdev.complete()
    stack.settle()
    assert (seen, waiting.done, waiting.result()) == ([Status.SUCCESS], True, [])
    assert stack.run(stack.registry.examiner.wait()) == []


@pytest.mark.rule("A.4.21", "A.6.6")
def test_a_module_that_never_ends_holds_up_nobody_else(stack, caplog):
    ends = Future()

    async def disk(_registry, _bdev):
        await ends

    taster(stack, "stuck", disk=disk)
    taster(stack, "fine")
    first = stack.disk()
    stack.disk(name="Other")
    assert calls(stack, "disk") == ["stuck", "fine"] * 2
    stack.delete("Other")
    with caplog.at_level(logging.WARNING):
        waiting = stack.reactor.spawn(stack.registry.examiner.wait())
        stack.pass_time(6_000_000)
        assert not waiting.done
        assert "examination goes on: stuck of bdev Disk, stuck of bdev Other" in caplog.text
        caplog.clear()
        closing = stack.reactor.spawn(stack.registry.close())
        stack.pass_time(6_000_000)
    assert closing.done
    assert closing.result() is None
    assert "does not wait any longer for the examination: stuck of bdev Disk" in caplog.text
    assert stack.registry.examiner.of(first) == ["stuck"]
    ends.set_result(None)
    stack.settle()
    assert waiting.done


def test_many_who_wait_long_cost_no_more_than_one(stack, caplog):
    ends = Future()

    async def disk(_registry, _bdev):
        await ends

    taster(stack, "stuck", disk=disk)
    stack.disk()
    examiner = stack.registry.examiner
    with caplog.at_level(logging.WARNING):
        waiting = [stack.reactor.spawn(examiner.wait()) for _ in range(100)]
        stack.pass_time(21_000_000)
    assert caplog.messages == ["examination goes on: stuck of bdev Disk"] * 4
    assert len(examiner._idle) == len(waiting)
    ends.set_result(None)
    stack.settle()
    assert all(task.done for task in waiting)


@pytest.mark.rule("A.4.21")
@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), BdevError(errno.EIO, "no table")])
def test_a_module_that_fails_is_named_and_harms_nobody(stack, caplog, error):
    def config(_bdev):
        raise error

    async def disk(_registry, _bdev):
        raise error

    taster(stack, "bad", config=config, disk=disk)
    taster(stack, "good")
    with caplog.at_level(logging.WARNING):
        stack.disk()
        assert calls(stack, "config") == calls(stack, "disk") == ["bad", "good"]
    assert caplog.text.count("bdev=Disk module=bad") == 2
    assert ("Traceback" in caplog.text) is isinstance(error, ZeroDivisionError)
    assert stack.run(stack.registry.examiner.wait()) == []


@pytest.mark.rule("A.4.14")
def test_what_examination_makes_is_examined(stack):
    async def disk(registry, bdev):
        if bdev.name.count(".") < 3:
            made = layer(kind="deep")
            async with registry.hold(bdev, "deep", holder="deep") as hold:
                await registry.build(
                    made(made.Params(name=f"{bdev.name}.x", base_bdev_name=bdev.name)), hold
                )

    taster(stack, "deep", disk=disk)
    stack.disk()
    stack.run(stack.registry.examiner.wait())
    assert [bdev.name for bdev in stack.registry] == ["Disk", "Disk.x", "Disk.x.x", "Disk.x.x.x"]
    stack.delete("Disk")
    assert list(stack.registry) == []
    assert stack.registry.config() == []


# On request


@pytest.fixture
def manual(stack):
    stack.registry.examiner.auto = False
    return stack


def ask(stack, name):
    stack.run(stack.registry.examiner.request(name))


def refused(number, stack, name):
    with pytest.raises(BdevError) as caught:
        ask(stack, name)
    assert caught.value.errno == number


@pytest.mark.rule("A.4.15")
def test_asking_is_refused_where_every_bdev_is_examined(stack):
    stack.disk()
    refused(errno.EINVAL, stack, "Disk")
    assert not stack.registry.examiner.requested


@pytest.mark.rule("A.4.3", "A.4.16", "A.4.17", "A.4.19")
def test_only_what_was_asked_for_is_examined(manual):
    taster(manual, "a")
    manual.layer()
    manual.disk()
    manual.disk(name="Other")
    assert (manual.calls, manual.registry.find("Top")) == ([], None)
    ask(manual, "Disk")
    assert manual.registry.find("Top") is not None
    assert manual.calls[-1] == ("a", "config", "Disk")
    refused(errno.EEXIST, manual, "Disk")
    refused(errno.EEXIST, manual, "Disk")
    ask(manual, "Later")
    refused(errno.EEXIST, manual, "Later")
    manual.calls.clear()
    manual.disk(name="Later")
    assert calls(manual, "disk") == ["a"]
    assert manual.registry.config()[:2] == [
        {"method": "bdev_examine", "params": {"name": "Disk"}},
        {"method": "bdev_examine", "params": {"name": "Later"}},
    ]


@pytest.mark.rule("A.4.3", "A.4.16", "A.4.18")
def test_an_alias_will_do_and_the_wish_goes_with_the_bdev(manual):
    taster(manual, "a")
    disk = manual.disk()
    manual.registry.add_alias(disk, "Nick")
    ask(manual, "Nick")
    assert calls(manual, "disk") == ["a"]
    refused(errno.EEXIST, manual, "Disk")  # the same bdev
    refused(errno.EEXIST, manual, str(disk.uuid))
    manual.delete("Disk")
    assert not manual.registry.examiner.requested
    manual.calls.clear()
    manual.disk()
    assert manual.calls == []
    ask(manual, "Disk")
    assert calls(manual, "disk") == ["a"]


@pytest.mark.rule("E.bdev_ut.examine_claimed_manual", "A.4.6")
def test_a_claimed_disk_that_was_asked_for(manual):
    taster(manual, "a")
    taster(manual, "b")
    disk = manual.disk()
    claim_bdev(disk, None, "b")
    ask(manual, "Disk")
    assert calls(manual, "config") == ["a", "b"]
    assert calls(manual, "disk") == ["b"]
    release_bdev(disk, "b")
