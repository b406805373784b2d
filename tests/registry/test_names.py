"""Names: what may be registered, under which names, and with which defaults."""

import errno
import uuid

import pytest

from support.stack import Stack, Stub, layer
from vbdev.bdev import BdevError
from vbdev.bdev.entry import entry_of
from vbdev.modules.null import Null
from vbdev.vocab import Op

U1 = uuid.UUID("aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee")


@pytest.fixture
def stack():
    made = Stack()
    yield made
    made.close()


def refused(number, action, *args, **more):
    with pytest.raises(BdevError) as caught:
        action(*args, **more)
    assert caught.value.errno == number, caught.value
    return str(caught.value)


def made_to(**attributes):
    """Return a class of bdevs with these attributes."""

    async def start(self):
        await Stub.start(self)
        for name, value in attributes.items():
            setattr(self, name, value)

    return type("MadeTo", (Stub,), {"start": start})


@pytest.mark.rule("A.1.1", "A.1.2", "A.1.22")
def test_what_can_not_be_registered(stack):
    for number, attributes in (
        (errno.EINVAL, {"name": ""}),
        (errno.EINVAL, {"block_size": 0}),
        (errno.EINVAL, {"num_blocks": 0}),
    ):
        refused(number, stack.disk, made_to(**attributes))
        assert list(stack.registry) == []
    # The name is looked at first, then the block size, then whether somebody has the name.
    assert "needs a name" in refused(errno.EINVAL, stack.disk, made_to(name="", block_size=0))
    stack.disk(Null, "Other")
    late = made_to(name="Other", block_size=0)
    assert "block size 0" in refused(errno.EINVAL, stack.disk, late)


@pytest.mark.rule("A.1.8", "A.1.10", "A.1.11")
@pytest.mark.parametrize(
    ("given", "expected"),
    [((0, 0, 0), (1, 1, 4096)), ((8, 0, 0), (8, 8, 4096)), ((8, 4, 8192), (8, 4, 8192))],
)
def test_defaults(stack, given, expected):
    unit, acwu, phys = given
    disk = stack.disk(
        made_to(write_unit_size=unit, acwu=acwu, phys_block_size=phys), block_size=4096
    )
    assert (disk.write_unit_size, disk.acwu, disk.phys_block_size) == expected


@pytest.mark.rule("A.1.7")
def test_what_io_types_there_are_is_settled_at_registration(stack):
    disk = stack.disk(Stub)
    top = stack.layer(layer())
    assert Op.COMPARE in top.ops
    disk.ops = disk.ops - {Op.COMPARE}
    assert Op.COMPARE in top.ops


@pytest.mark.rule("A.1.4", "A.1.5", "A.20.9", "E.bdev_ut.bdev_register_uuid_alias")
def test_the_uuid_is_an_alias(stack):
    disk = stack.disk(Stub, uuid=U1)
    assert disk.aliases == [str(U1)]
    assert stack.registry.find(str(U1)) is disk
    assert stack.registry.find(str(U1).upper()) is None
    assert "<stub bdev Disk>" in refused(errno.EEXIST, stack.disk, Stub, "Two", uuid=U1)
    stack.delete("Disk")
    assert stack.registry.find(str(U1)) is None
    assert stack.disk(Stub, "Two", uuid=U1).uuid == U1


@pytest.mark.rule("A.1.18", "A.1.19", "A.1.20", "A.1.21", "E.bdev_ut.alias_add_del_test")
def test_aliases_come_and_go(stack):
    disk, other = stack.disk(Stub), stack.disk(Stub, "Other")
    registry = stack.registry
    for nothing in ("", None):
        refused(errno.EINVAL, registry.add_alias, disk, nothing)
    registry.add_alias(disk, "a/1")
    registry.add_alias(disk, "a/2")
    for bdev, taken in (
        (other, "a/1"),
        (disk, "a/1"),
        (disk, "Disk"),
        (disk, "Other"),
        (other, str(disk.uuid)),
    ):
        refused(errno.EEXIST, registry.add_alias, bdev, taken)
    assert disk.aliases == [str(disk.uuid), "a/1", "a/2"]
    stack.open("a/2").close()
    refused(errno.EEXIST, stack.disk, Stub, "a/1")
    for bdev, absent in ((disk, "nobody's"), (disk, "Disk"), (other, "a/1")):
        refused(errno.ENOENT, registry.drop_alias, bdev, absent)
    registry.drop_alias(disk, "a/1")
    refused(errno.ENOENT, registry.drop_alias, disk, "a/1")
    assert (registry.find("a/1"), registry.find("a/2")) == (None, disk)
    stack.delete("Disk")
    assert (registry.find("a/2"), disk.aliases) == (None, [])
    stack.disk(Stub, "a/2")


@pytest.mark.rule("E.bdev_ut.alias_add_del_all_test")
def test_all_aliases_go_at_once(stack):
    disk, other = stack.disk(Stub), stack.disk(Stub, "Other")
    for number in range(3):
        stack.registry.add_alias(disk, f"a{number}")
    stack.registry.add_alias(other, "b")
    stack.registry.drop_aliases(disk)
    assert disk.aliases == []
    assert stack.registry.find("a1") is stack.registry.find(str(disk.uuid)) is None
    assert stack.registry.find("b") is other
    assert stack.registry.find("Disk") is disk


def test_an_alias_can_not_be_the_name_of_what_waits(stack):
    disk = stack.disk(Stub)
    stack.layer(name="Waits", base="Absent")
    assert "configured" in refused(errno.EEXIST, stack.registry.add_alias, disk, "Waits")


@pytest.mark.rule("A.20.2", "A.20.10")
def test_two_vbdevs_of_one_module_on_one_base_need_uuids_of_their_own(stack):
    """Version 5 of the same base's UUID is the same twice."""
    from vbdev.vocab import ClaimType

    look = layer(kind="look", base_claim=ClaimType.READ_MANY_WRITE_NONE)
    stack.disk(uuid=U1)
    first = stack.layer(look, "L1").uuid
    assert first.version == 5
    assert "<look bdev L1>" in refused(errno.EEXIST, stack.layer, look, "L2")
    assert entry_of(stack.registry.get("Disk")).claim.holder == "look vbdev L1"
    stack.layer(look, "L2", uuid=uuid.uuid4())
    stack.delete("Disk")
    stack.disk(uuid=U1)
    assert stack.registry.get("L1").uuid == first
