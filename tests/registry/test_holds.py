"""Holds and plans: several vbdevs on one base, opened and claimed once."""

import errno

import pytest

from support.stack import Stack, Stub, forward, layer
from vbdev.bdev import ALL_OPS, BdevError, BdevEvent, VirtualBdev, VirtualBdevParams, uuid5
from vbdev.bdev.entry import entry_of
from vbdev.vocab import Op, Status


class PairParams(VirtualBdevParams, kw_only=True):
    name: str = ""
    parts: int = 2


class Part(VirtualBdev):
    """As split will be: its creation belongs to the base's name, its parts have names by it."""

    kind = "pair"
    product_name = "pair"
    Params = PairParams
    ops = ALL_OPS
    submit = forward
    broken = None
    order = None

    def __init__(self, params, number=0):
        super().__init__(params)
        self.name = f"{params.base_bdev_name}p{number}"
        self.number = number

    @classmethod
    def creation_key(cls, params):
        return f"pair of {params.base_bdev_name}"

    @classmethod
    def plan(cls, params, base):
        return [cls(params, number) for number in range(params.parts)]

    def inherit(self):
        self.uuid = uuid5(self.uuid_namespace, self.base.uuid)
        self.uuid = uuid5(self.uuid, type(self.uuid)(int=self.number))
        super().inherit()

    async def start(self):
        if self.broken == self.number:
            raise OSError(errno.ENOSPC, "no room")

    async def stop(self):
        if self.order is not None:
            self.order.append(self.name)


@pytest.fixture
def stack():
    made = Stack()
    yield made
    made.close()


def names(stack):
    return [bdev.name for bdev in stack.registry]


def pair(stack, cls=Part, **more):
    params = cls.Params(base_bdev_name="Disk", **more)
    return stack.run(stack.registry.create_virtual(cls, params))


@pytest.mark.rule("E.part_ut.part_test")
def test_the_parts_of_a_plan_share_their_base(stack):
    disk = stack.disk(Stub)
    creation = pair(stack, parts=3)
    assert names(stack) == ["Disk", "Diskp0", "Diskp1", "Diskp2"]
    assert [part.name for part in creation.vbdevs] == names(stack)[1:]
    assert disk.holders() == ["pair vbdevs of Disk"]
    assert (entry_of(disk).claim.holder, entry_of(disk).claim.modules) == (
        "pair vbdevs of Disk",
        ["pair"],
    )
    opened = [stack.open(f"Diskp{number}") for number in range(3)]
    requests = [one.submit(Op.READ, number) for number, one in enumerate(opened)]
    disk.complete()
    stack.settle()
    assert [request.status for request in requests] == [Status.SUCCESS] * 3
    opened[1].close()
    stack.run(stack.registry.delete("Diskp1", "pair"))
    assert (disk.holders(), len(creation.vbdevs)) == (["pair vbdevs of Disk"], 2)
    stack.run(stack.registry.delete_creation(creation))
    assert (names(stack), disk.holders(), entry_of(disk).claim) == (["Disk"], [], None)
    assert stack.registry.creations == {}


def test_all_parts_hear_of_their_base(stack):
    disk = stack.disk(Stub)
    pair(stack)
    opened = [stack.open(f"Diskp{number}") for number in range(2)]
    disk.notify_blockcnt_change(4096)
    stack.settle()
    assert [one.events for one in opened] == [[BdevEvent.RESIZE]] * 2
    stack.delete("Disk")
    assert [one.events for one in opened] == [[BdevEvent.RESIZE, BdevEvent.REMOVE]] * 2
    assert names(stack) == []
    stack.disk(Stub)
    assert names(stack) == ["Disk", "Diskp0", "Diskp1"]


@pytest.mark.rule("A.5.5")
def test_a_wish_that_ends_with_its_base(stack):
    once = type("Once", (Part,), {"survives_base": False})
    stack.disk()
    pair(stack, once)
    stack.delete("Disk")
    assert stack.registry.creations == {}
    stack.disk()
    assert names(stack) == ["Disk"]


def test_a_plan_that_waits(stack):
    creation = pair(stack)
    assert not creation.vbdevs
    with pytest.raises(BdevError, match="configured already"):
        pair(stack)
    assert stack.registry.config() == [
        {"method": "bdev_pair_create", "params": {"base_bdev_name": "Disk"}}
    ]
    stack.disk()
    assert names(stack) == ["Disk", "Diskp0", "Diskp1"]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_all_parts_or_none(stack, number):
    """Whether a later part does not start, or finds its name taken: the earlier ones go again."""
    disk = stack.disk(Stub)
    order = []
    broken = type("Broken", (Part,), {"broken": number, "order": order})
    with pytest.raises(OSError, match="no room"):
        pair(stack, broken, parts=3)
    assert order == [f"Diskp{n}" for n in reversed(range(number))]
    assert (names(stack), disk.holders(), entry_of(disk).claim) == (["Disk"], [], None)
    assert stack.registry.creations == {}
    stack.disk(Stub, f"Diskp{number}")
    with pytest.raises(BdevError) as caught:
        pair(stack, parts=3)
    assert caught.value.errno == errno.EEXIST
    assert (names(stack), disk.holders(), entry_of(disk).claim) == (
        ["Disk", f"Diskp{number}"],
        [],
        None,
    )
    stack.delete(f"Diskp{number}")
    pair(stack, parts=3)


def test_an_empty_plan_builds_nothing(stack):
    disk = stack.disk()
    assert not pair(stack, parts=0).vbdevs
    assert (names(stack), disk.holders(), entry_of(disk).claim) == (["Disk"], [], None)


@pytest.mark.rule("E.part_ut.part_free_test")
def test_a_hold_lasts_as_long_as_somebody_needs_it(stack):
    disk = stack.disk(Stub)
    registry = stack.registry

    async def find():
        async with registry.hold(disk, "pair", holder="pair of Disk") as hold:
            for number in range(2):
                await registry.build(Part(PairParams(base_bdev_name="Disk"), number), hold)
            with pytest.raises(BdevError, match="already exists"):
                await registry.build(Part(PairParams(base_bdev_name="Disk"), 1), hold)

    stack.run(find())
    assert (names(stack), disk.holders()) == (["Disk", "Diskp0", "Diskp1"], ["pair of Disk"])
    assert [call["method"] for call in registry.config()] == ["bdev_stub_create"]
    with pytest.raises(BdevError, match=r"claimed \(exclusive_write\) by pair of Disk"):
        stack.layer()
    stack.run(registry.delete("Diskp0", "pair"))
    assert disk.holders() == ["pair of Disk"]
    stack.run(registry.delete("Diskp1", "pair"))
    assert (disk.holders(), entry_of(disk).claim) == ([], None)
    stack.delete("Disk")


def test_a_hold_that_nobody_uses_is_closed(stack):
    disk = stack.disk()

    async def nothing():
        async with stack.registry.hold(disk, "pair", holder="pair of Disk"):
            assert disk.holders() == ["pair of Disk"]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stack.run(nothing())
    assert (disk.holders(), entry_of(disk).claim) == ([], None)


def test_a_base_goes_while_its_parts_are_built(stack):
    """The first part is there already and hears REMOVE; the second is refused; nothing is left."""

    class Slow(Part):
        async def start(self):
            if self.number:
                await self.reactor.sleep(1000)

    stack.disk(Stub)
    task = stack.reactor.spawn(
        stack.registry.create_virtual(Slow, Slow.Params(base_bdev_name="Disk"))
    )
    task.add_done_callback(lambda _task: None)
    stack.settle()
    assert names(stack) == ["Disk", "Diskp0"]
    deleting = stack.reactor.spawn(stack.registry.delete("Disk", "stub"))
    stack.pass_time(2000)
    with pytest.raises(BdevError, match="is being removed"):
        task.result()
    assert (deleting.done, names(stack), stack.registry.creations) == (True, [], {})


def test_io_of_the_module_itself_is_waited_for(stack):
    """It stops, and has not looked after what it sent to its base."""

    async def start(self):
        self.base_descriptor.submit(Op.READ, 0, 1, bytearray(512), callback=lambda _request: None)

    disk = stack.disk(Stub)
    stack.layer(layer(start=start))
    task = stack.reactor.spawn(stack.registry.delete("Top", "layer"))
    stack.pass_time(50_000)
    assert not task.done
    assert disk.holders() == ["layer vbdev Top"]
    assert entry_of(disk).claim is not None
    disk.complete()
    stack.pass_time(2_000)
    assert task.done
    assert (disk.holders(), entry_of(disk).claim) == ([], None)
