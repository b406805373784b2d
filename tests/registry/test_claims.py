"""Claims: the five types, what each refuses and to whom, and who is named.

Method: descriptors of one bdev on a bare Stack. A writer is a descriptor opened for writing.
"""

import errno
import uuid
from itertools import product

import pytest

from support.stack import Stack, Stub, layer
from support.told import describe
from vbdev.bdev import BdevError
from vbdev.bdev.entry import entry_of
from vbdev.modules.passthru import Passthru
from vbdev.registry.claims import claim_bdev, claim_descriptor, release_bdev
from vbdev.vocab import WRITE_OPS, ClaimType, Op, Status

V1 = ClaimType.EXCLUSIVE_WRITE
RWO = ClaimType.READ_MANY_WRITE_ONE
ROM = ClaimType.READ_MANY_WRITE_NONE
RWM = ClaimType.READ_MANY_WRITE_SHARED
U1, U2 = uuid.uuid4(), uuid.uuid4()
V2 = (RWO, ROM, RWM)


@pytest.fixture
def stack():
    made = Stack()
    made.disk()
    yield made
    made.close()


def claim(opened, kind, module="mod", **more):
    if kind is RWM:
        more.setdefault("key", 7)
    claim_descriptor(opened.descriptor, kind, module, **more)


def refused(number, *args, **more):
    with pytest.raises(BdevError) as caught:
        claim(*args, **more)
    assert caught.value.errno == number, caught.value
    return str(caught.value)


def disk(stack):
    return stack.registry.get("Disk")


@pytest.mark.rule("A.3.1", "A.3.2", "A.3.3", "A.3.4", "A.2.15", "E.bdev_ut.claim_test")
def test_the_first_kind_is_the_modules_until_it_releases(stack):
    bdev = disk(stack)
    writer = stack.open("Disk", holder="a writer")
    reader = stack.open("Disk", write=False)
    assert reader.io(Op.WRITE, 0, 1, bytes(512)).errno == errno.EBADF
    claim_bdev(bdev, reader.descriptor, "raid")
    assert reader.io(Op.WRITE, 0, 1, bytes(512)).status == Status.SUCCESS
    assert writer.io(Op.WRITE, 0, 1, bytes(512)).status == Status.SUCCESS
    for descriptor, module in ((None, "raid"), (writer.descriptor, "delay")):
        with pytest.raises(BdevError) as caught:
            claim_bdev(bdev, descriptor, module)
        assert caught.value.errno == errno.EPERM
        assert str(caught.value) == (
            "bdev Disk already claimed: type exclusive_write by module raid"
        )
    reader.close()
    assert entry_of(bdev).claim.kind is V1
    with pytest.raises(BdevError, match="its claim is exclusive_write by module raid"):
        release_bdev(bdev, "delay")
    release_bdev(bdev, "raid")
    assert entry_of(bdev).claim is None
    with pytest.raises(BdevError, match="its claim is nobody's"):
        release_bdev(bdev, "raid")


@pytest.mark.rule("A.3.16")
def test_what_is_no_claim(stack):
    one = stack.open("Disk", write=False)
    for kind in ("bogus", ClaimType.NOT_CLAIMED):
        assert "module mod" in refused(errno.ENOTSUP, one, kind)
    for kind in (V1, *V2):
        with pytest.raises(BdevError) as caught:
            claim_descriptor(None, kind, "mod")
        assert caught.value.errno == errno.EINVAL
    assert entry_of(disk(stack)).claim is None


@pytest.mark.rule("A.3.5", "A.3.8", "A.3.11")
def test_keys_belong_to_shared_claims_alone(stack):
    one = stack.open("Disk", write=False)
    assert "takes no key; it is 5" in refused(errno.EINVAL, one, RWO, key=5)
    assert "takes no key; it is 5" in refused(errno.EINVAL, one, ROM, key=5)
    assert "needs a key; it is 0" in refused(errno.EINVAL, one, RWM, key=0)
    assert entry_of(disk(stack)).claim is None


@pytest.mark.rule("A.3.7", "A.3.15", "A.2.5", "A.2.6", "A.2.14", "E.bdev_ut.claim_v2_rwo")
def test_one_writes(stack):
    one = stack.open("Disk", write=False, holder="one")
    claim(one, RWO, name="the one")
    assert one.io(Op.WRITE, 0, 1, bytes(512)).status == Status.SUCCESS
    two = stack.open("Disk", write=False)
    assert two.io(Op.WRITE, 0, 1, bytes(512)).errno == errno.EBADF
    already = "bdev Disk already claimed: type read_many_write_one by the one"
    for opened, kind in ((two, RWO), (one, RWO)):
        assert refused(errno.EPERM, opened, kind) == already
    with pytest.raises(BdevError, match=r"claimed \(read_many_write_one\) by the one"):
        stack.open("Disk")
    assert (describe(disk(stack))["claimed"], describe(disk(stack))["claim_type"]) == (
        True,
        "read_many_write_one",
    )
    one.close()
    assert entry_of(disk(stack)).claim is None
    claim(two, RWO)


@pytest.mark.rule("A.3.8", "A.3.9", "A.3.10", "A.3.18", "E.bdev_ut.claim_v2_rom")
def test_nobody_writes(stack):
    readers = [stack.open("Disk", write=False, holder=f"r{n}") for n in range(3)]
    writer = stack.open("Disk", holder="a writer")
    assert "who has it open for writing" in refused(errno.EINVAL, writer, ROM)
    assert "open for writing by a writer" in refused(errno.EPERM, readers[0], ROM)
    writer.close()
    for number, reader in enumerate(readers):
        claim(reader, ROM, module=f"m{number % 2}", name=f"reader {number}")
        assert reader.io(Op.WRITE, 0, 1, bytes(512)).errno == errno.EBADF
    assert entry_of(disk(stack)).claim.modules == ["m0", "m1"]
    assert entry_of(disk(stack)).claim.holder == "reader 0, reader 1, reader 2"
    assert "claimed it already: reader 1" in refused(errno.EPERM, readers[1], ROM)
    for reader in readers:
        with pytest.raises(BdevError):
            stack.open("Disk")
        reader.close()
    assert entry_of(disk(stack)).claim is None
    stack.open("Disk")


@pytest.mark.rule("A.3.12", "A.3.13", "A.3.15", "A.3.18", "E.bdev_ut.claim_v2_rwm")
def test_those_write_who_share_a_key(stack):
    readers = [stack.open("Disk", write=False, holder=f"r{n}") for n in range(3)]
    writer = stack.open("Disk", holder="a writer")
    assert "open for writing by a writer" in refused(errno.EPERM, readers[0], RWM)
    writer.close()
    claim(readers[0], RWM, key=7, name="first")
    claim(readers[1], RWM, key=7, name="second")
    message = refused(errno.EPERM, readers[2], RWM, key=8)
    assert message.endswith("by first, second, with another key")
    assert "claimed it already: first" in refused(errno.EPERM, readers[0], RWM, key=7)
    for number, reader in enumerate(readers):
        expected = Status.SUCCESS if number < 2 else Status.FAILED
        assert reader.io(Op.WRITE, 0, 1, bytes(512)).status == expected
    readers[0].close()
    assert entry_of(disk(stack)).claim.holder == "second"
    readers[1].close()
    assert entry_of(disk(stack)).claim is None
    claim(readers[2], RWM, key=8)


@pytest.mark.rule("A.3.6", "A.3.9", "A.3.13", "E.bdev_ut.claim_v2_existing_writer")
@pytest.mark.parametrize("kind", V2)
def test_a_writer_is_in_the_way(stack, kind):
    writer = stack.open("Disk", holder="a writer")
    reader = stack.open("Disk", write=False)
    assert "open for writing by a writer" in refused(errno.EPERM, reader, kind)
    if kind is not ROM:  # its own writing is in nobody's way
        claim(writer, kind)
    assert reader.descriptor.write is False


@pytest.mark.rule("A.3.14", "E.bdev_ut.claim_v2_existing_v1", "E.bdev_ut.claim_v1_existing_v2")
@pytest.mark.parametrize(
    ("there", "asked"), [(a, b) for a, b in product((V1, *V2), repeat=2) if a is not b]
)
def test_types_exclude_each_other(stack, there, asked):
    one, two = (stack.open("Disk", write=False) for _ in range(2))
    claim(one, there, name="the first")
    message = refused(errno.EPERM, two, asked)
    assert message == f"bdev Disk already claimed: type {there} by the first"
    assert entry_of(disk(stack)).claim.kind is there
    assert two.descriptor.write is False
    if there is V1:
        release_bdev(disk(stack), "mod")


@pytest.mark.rule("A.3.19")
def test_claim_types_have_spdks_names(stack):
    assert [str(kind) for kind in ClaimType] == [
        "not_claimed",
        "exclusive_write",
        "read_many_write_one",
        "read_many_write_none",
        "read_many_write_shared",
    ]
    assert describe(disk(stack))["claimed"] is False
    assert "claim_type" not in describe(disk(stack))


def test_a_claim_and_the_channel_made_before_it(stack):
    """A channel learns of the promotion, and of nobody else's."""
    one, two = (stack.open("Disk", write=False) for _ in range(2))
    claim(one, RWO)
    assert one.io(Op.WRITE, 0, 1, bytes(512)).status == Status.SUCCESS
    assert two.io(Op.WRITE, 0, 1, bytes(512)).errno == errno.EBADF


@pytest.mark.rule("A.3.17")
def test_a_claims_name_is_for_people(stack):
    one, two = (stack.open("Disk", write=False) for _ in range(2))
    claim(one, RWO, module="lvol", name="x" * 100)
    assert refused(errno.EPERM, two, RWO, module="lvol", name="x" * 100).endswith("x" * 100)
    assert entry_of(disk(stack)).claim.modules == ["lvol"]


# Vbdevs


@pytest.mark.rule("A.3.20")
def test_passthru_claims_its_base(stack):
    stack.layer()
    assert entry_of(disk(stack)).claim.kind is V1
    assert entry_of(disk(stack)).claim.modules == ["passthru"]


@pytest.mark.rule("D.20")
def test_several_layers_that_only_read_share_their_base(stack):
    look = layer(kind="look", base_claim=ROM)
    first, second = stack.layer(look, "L1"), stack.layer(look, "L2", uuid=U1)
    other = stack.open("Disk", write=False)
    claim(other, ROM)
    assert first.ops == second.ops == disk(stack).ops - WRITE_OPS
    assert Op.READ in first.ops
    opened = stack.open("L1")
    assert opened.io(Op.READ).status == Status.SUCCESS
    assert opened.io(Op.WRITE, 0, 1, bytes(512)).errno == errno.EOPNOTSUPP
    assert entry_of(disk(stack)).claim.holder == "look vbdev L1, look vbdev L2, module mod"
    with pytest.raises(BdevError, match="claimed"):
        stack.layer(Passthru, "Writer")
    stack.delete("L1")
    stack.delete("L2")
    other.close()
    assert (entry_of(disk(stack)).claim, entry_of(disk(stack)).openers) == (None, [])
    stack.layer(Passthru, "Writer")


def test_layers_that_share_writing(stack):
    shared = layer(kind="shared", base_claim=RWM, base_claim_key=3)
    stranger = layer(kind="stranger", base_claim=RWM, base_claim_key=4)
    stack.layer(shared, "S1")
    stack.layer(shared, "S2", uuid=U1)
    with pytest.raises(BdevError, match="another key"):
        stack.layer(stranger, "S3", uuid=U2)
    for name in ("S1", "S2"):
        assert stack.open(name).io(Op.WRITE, 0, 1, bytes(512)).status == Status.SUCCESS


@pytest.mark.parametrize("kind", [ClaimType.NOT_CLAIMED, RWO])
def test_a_layer_with_another_claim(stack, kind):
    stack.layer(layer(kind="other", base_claim=kind), "Other")
    opened = stack.open("Other")
    assert opened.io(Op.READ).status == Status.SUCCESS
    assert (Op.WRITE in opened.descriptor.bdev.ops) is (kind is RWO)
    assert (entry_of(disk(stack)).claim is None) is (kind is ClaimType.NOT_CLAIMED)


def test_a_layer_that_is_refused_leaves_nothing():
    made = Stack()
    made.disk(Stub)
    writer = made.open("Disk")
    look = layer(kind="look", base_claim=ROM)
    with pytest.raises(BdevError, match="open for writing by test"):
        made.layer(look)
    assert made.registry.get("Disk").holders() == ["test"]
    assert made.registry.creations == {}
    writer.close()
    made.layer(look)
    made.close()
