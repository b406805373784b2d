"""Vbdevs on several bases: each is held by itself, and it comes when the last of them is there.

The vbdev here is a mirror in its barest form: it writes to all of its bases and reads the first.
"""

import errno

import pytest

from support.stack import Stack
from vbdev.bdev import BdevError, BdevParams, VirtualBdev
from vbdev.bdev.entry import entry_of
from vbdev.modules.malloc import Malloc
from vbdev.vocab import Op, Status


class TwinParams(BdevParams, kw_only=True):
    base_bdevs: list[str]


class Twins(VirtualBdev):
    """Two of the same, kept alike by a coroutine for each I/O."""

    kind = "twins"
    product_name = "twins"
    Params = TwinParams
    base_param = "base_bdevs"
    ops = frozenset({Op.READ, Op.WRITE, Op.FLUSH})
    is_layer = False

    @classmethod
    def base_name_of(cls, params):
        return params.base_bdevs[0]

    @classmethod
    def base_names_of(cls, params):
        return tuple(params.base_bdevs)

    def inherit(self):
        super().inherit()
        self.num_blocks = min(base.num_blocks for base in self.bases)
        self.gives_read_buffers = False

    def create_channel(self, channel):
        return [one.get_channel() for one in self.base_descriptors[1:]]

    def destroy_channel(self, channel):
        for one, other in zip(self.base_descriptors[1:], channel.context, strict=True):
            one.put_channel(other)

    async def handle(self, channel, io):
        if io.op != Op.READ:
            for other in channel.context:
                await io.child(other)
        await io.forward()


@pytest.fixture
def stack():
    made = Stack()
    yield made
    made.close()


def ask(stack, *bases, name="Top"):
    params = TwinParams(name=name, base_bdevs=list(bases))
    return stack.run(stack.registry.create_virtual(Twins, params))


def disk(stack, name, num_blocks=64):
    return stack.disk(Malloc, name=name, num_blocks=num_blocks)


def test_it_comes_with_the_last_of_its_bases(stack):
    disk(stack, "A")
    creation = ask(stack, "A", "B")
    assert creation.waiting
    assert stack.registry.get("A").holders() == []
    disk(stack, "B", num_blocks=32)
    (top,) = creation.vbdevs
    assert [base.name for base in top.bases] == ["A", "B"]
    assert (top.base.name, top.num_blocks) == ("A", 32)
    holds = stack.registry.holds_of(top)
    assert [(hold.base.name, hold.descriptor.write) for hold in holds] == [("A", True), ("B", True)]
    assert [entry_of(base).claim.modules for base in top.bases] == [["twins"], ["twins"]]


def test_all_its_channels_are_its_own(stack):
    disk(stack, "A")
    disk(stack, "B")
    ask(stack, "A", "B")
    opened = stack.open("Top")
    assert [len(entry_of(stack.registry.get(name)).channels()) for name in "AB"] == [1, 1]
    assert opened.io(Op.WRITE, 3, 1, b"x" * 512).status == Status.SUCCESS
    opened.close()
    for name in "AB":
        found, reader = bytearray(512), stack.open(name, write=False)
        assert reader.io(Op.READ, 3, 1, found).status == Status.SUCCESS
        assert found == b"x" * 512
        reader.close()
    stack.settle()
    assert [entry_of(stack.registry.get(name)).channels() for name in "AB"] == [[], []]


@pytest.mark.parametrize("gone", ["A", "B"])
def test_it_goes_with_any_of_them_and_comes_back(stack, gone):
    for name in "AB":
        disk(stack, name)
    creation = ask(stack, "A", "B")
    stack.delete(gone)
    kept = "B" if gone == "A" else "A"
    assert [bdev.name for bdev in stack.registry] == [kept]
    assert (stack.registry.get(kept).holders(), entry_of(stack.registry.get(kept)).claim) == (
        [],
        None,
    )
    assert creation.waiting
    disk(stack, gone)
    assert [layer.name for layer in creation.vbdevs] == ["Top"]


@pytest.mark.parametrize("taken", ["A", "B"])
def test_all_of_it_or_nothing(stack, taken):
    for name in "AB":
        disk(stack, name)
    writer = stack.layer(name="Other", base=taken)
    assert writer.base.name == taken
    with pytest.raises(BdevError, match=f"bdev {taken} ") as caught:
        ask(stack, "A", "B")
    assert caught.value.errno == errno.EPERM
    free = "B" if taken == "A" else "A"
    assert (stack.registry.get(free).holders(), entry_of(stack.registry.get(free)).claim) == (
        [],
        None,
    )
    assert "Top" not in stack.registry.creations


def test_it_can_not_be_one_of_its_own_bases(stack):
    disk(stack, "A")
    with pytest.raises(BdevError, match="can not be its own base"):
        ask(stack, "A", "Top")


def test_it_is_saved_where_all_its_bases_are(stack):
    for name in "AB":
        disk(stack, name)
    ask(stack, "B", "A")
    saved = stack.registry.config()
    assert {
        "method": "bdev_twins_create",
        "params": {
            "base_bdevs": ["B", "A"],
            "name": "Top",
            "uuid": str(stack.registry.get("Top").uuid),
        },
    } in saved
    assert stack.registry.comes_back(stack.registry.get("Top"))


def test_its_depth_is_that_of_the_deepest(stack):
    disk(stack, "A")
    disk(stack, "B")
    stack.layer(name="L1", base="B")
    stack.layer(name="L2", base="L1")
    (top,) = ask(stack, "A", "L2").vbdevs
    assert entry_of(top).depth == 4
