"""The registry: names, waiting for a base, claims, removal from the top, and no ghosts.

Method: bdevs and vbdevs on a bare Stack, on virtual time; tests named `test_fault_NN` hold what
SPDK's passthru gets wrong (numbered as in the list of its faults) right here.
"""

import errno
import logging
import uuid

import pytest

from support.stack import Stack, Stub, layer
from vbdev.bdev import BdevError, BdevEvent, BdevState
from vbdev.bdev.claim import Claim
from vbdev.bdev.contract import INHERITED
from vbdev.bdev.entry import entry_of
from vbdev.modules.malloc import Malloc
from vbdev.modules.null import Null
from vbdev.modules.passthru import Passthru
from vbdev.registry.claims import claim_bdev
from vbdev.vocab import MAX_STACK_DEPTH, DifCheck, Op, Status

U1 = uuid.UUID("11111111-2222-4333-8444-555555555555")
U2 = uuid.UUID("aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee")


@pytest.fixture
def stack():
    made = Stack()
    yield made
    made.close()


def refused(number, action, *args, **params):
    """Call and return the message of the BdevError with this errno."""
    with pytest.raises(BdevError) as caught:
        action(*args, **params)
    assert caught.value.errno == number, caught.value
    return str(caught.value)


def names(stack):
    return [bdev.name for bdev in stack.registry]


# Names


@pytest.mark.rule(
    "A.1.4",
    "A.1.5",
    "A.1.6",
    "A.1.16",
    "A.1.17",
    "A.1.18",
    "A.2.3",
    "E.bdev_ut.bdev_register_uuid_alias",
)
def test_names_aliases_and_uuids_are_one_name_space(stack):
    disk = stack.disk(uuid=U1)
    assert disk.aliases == [str(U1)]
    assert stack.registry.get("Disk") is stack.registry.get(str(U1)) is disk
    for clash in ({"name": "Disk"}, {"name": str(U1)}, {"name": "Other", "uuid": U1}):
        message = refused(errno.EEXIST, stack.disk, **clash)
        assert "<malloc bdev Disk>" in message
    assert names(stack) == ["Disk"]
    assert "no bdev 'disk'" in refused(errno.ENODEV, stack.registry.get, "disk")
    stack.disk(name=str(U2), uuid=U2)
    assert stack.registry.get(str(U2)).aliases == []


def test_aliases_of_a_module_count_too(stack):
    class Aliased(Null):
        async def start(self):
            await super().start()
            self.aliases.append("Disk")

    stack.disk()
    refused(errno.EEXIST, stack.disk, Aliased, name="Other")
    assert stack.registry.get("Disk").kind == "malloc"
    stack.delete("Disk")
    stack.disk(Aliased, name="Other")
    assert stack.registry.get("Disk").name == "Other"
    stack.delete("Other")
    assert stack.registry.find("Disk") is None


@pytest.mark.rule("A.1.1", "A.20.11")
def test_names_that_are_made_up(stack):
    assert stack.create(Malloc, num_blocks=8, block_size=512).name == "Malloc0"
    stack.disk(name="Malloc1")
    stack.layer(name="Malloc2", base="Absent")
    assert stack.create(Malloc, num_blocks=8, block_size=512).name == "Malloc3"
    refused(errno.EINVAL, stack.disk, Null, name="")


@pytest.mark.rule("A.1.3", "A.20.9")
def test_uuid_rules(stack):
    assert stack.disk(name="A", uuid=U1).uuid == U1
    zeroes = stack.disk(name="B", uuid=uuid.UUID(int=0)).uuid
    none = stack.disk(name="C").uuid
    assert len({zeroes, none, uuid.UUID(int=0)}) == 3
    assert zeroes.version == none.version == 4


@pytest.mark.rule("D.1", "A.20.2", "A.20.3", "A.20.9")
def test_fault_01_the_users_uuid_is_kept(stack):
    stack.disk(uuid=U1)
    assert stack.layer(uuid=U2).uuid == U2
    assert stack.registry.get("Top").aliases == [str(U2)]
    stack.delete("Top")
    # UUIDv5 of the base's 16 bytes, in the namespace 7e25812e-c8c0-4d3f-8599-16d790555b85.
    assert str(stack.layer().uuid) == "04636583-270a-552b-bb7f-4b567401d48a"


# Opening, claims


@pytest.mark.rule("A.2.3", "A.2.5", "A.2.6", "A.2.7", "A.3.3", "A.3.4")
def test_open_rules(stack):
    stack.disk()
    assert "'Nobody'" in refused(errno.ENODEV, stack.open, "Nobody")
    writers = [stack.open("Disk") for _ in range(2)]
    top = stack.layer()
    message = refused(errno.EPERM, stack.open, "Disk", holder="somebody")
    assert "passthru vbdev Top" in message
    assert "somebody" in message
    reader = stack.open("Disk", write=False)
    assert stack.registry.get("Disk").holders() == ["test", "test", "passthru vbdev Top", "test"]
    assert entry_of(top).claim is None
    for opened in (*writers, reader):
        opened.close()


@pytest.mark.rule("A.2.18", "A.2.19", "A.2.21", "E.bdev_mt.event_notify_and_close")
def test_events_come_by_message_and_not_to_those_who_closed(stack):
    stack.disk(Stub)
    stays, leaves = stack.open("Disk"), stack.open("Disk")
    task = stack.reactor.spawn(stack.registry.delete("Disk", "stub"))
    assert (stays.events, leaves.events) == ([], [])
    leaves.close()
    stack.settle()
    assert task.done
    assert (stays.events, leaves.events) == ([BdevEvent.REMOVE], [])


@pytest.mark.rule("D.2")
def test_fault_02_a_name_that_is_taken_frees_the_base(stack):
    stack.disk(uuid=U1)
    stack.disk(name="Other")
    for name, given in (("Disk", None), ("Other", None), ("New", U1), (str(U1), None)):
        refused(errno.EEXIST, stack.layer, name=name, base="Disk", uuid=given)
        assert entry_of(stack.registry.get("Disk")).claim is None
        assert entry_of(stack.registry.get("Disk")).openers == []
        assert stack.registry.creations == {}
    assert stack.layer().name == "Top"


@pytest.mark.rule("D.2", "A.1.22")
def test_fault_02_also_where_the_clash_shows_late(stack):
    """The name is free when the creation begins, and taken when the module has started."""
    stopped = []

    async def start(self):
        await self.base_descriptor.reactor.sleep(100)

    async def stop(self):
        stopped.append(self.name)

    stack.disk(uuid=U1)
    slow = layer(start=start, stop=stop)
    task = stack.reactor.spawn(
        stack.registry.create(slow, slow.Params(name="Top", base_bdev_name="Disk", uuid=U2))
    )
    stack.settle()
    stack.disk(name="Thief", uuid=U2)
    task.add_done_callback(lambda _task: None)
    stack.pass_time(200)
    assert refused(errno.EEXIST, task.result)
    assert (entry_of(stack.registry.get("Disk")).claim, stack.registry.creations) == (None, {})
    assert stopped == ["Top"]


@pytest.mark.rule("D.3")
def test_fault_03_a_failed_creation_leaves_no_ghost(stack):
    stack.disk()
    stack.layer(name="First")
    refused(errno.EPERM, stack.layer, name="Second")
    assert "no passthru bdev 'Second'" in refused(
        errno.ENODEV, lambda: stack.run(stack.registry.delete("Second", "passthru"))
    )
    stack.delete("First")
    assert stack.layer(name="Second").name == "Second"
    stack.delete("Disk")
    stack.disk()
    assert names(stack) == ["Disk", "Second"]


@pytest.mark.rule("D.4", "A.3.1")
def test_fault_04_the_second_vbdev_learns_who_has_the_base(stack):
    stack.disk()
    stack.layer(name="First")
    message = refused(errno.EPERM, stack.layer, name="Second")
    assert "claimed (exclusive_write) by passthru vbdev First" in message
    held = refused(errno.EPERM, claim_bdev, stack.registry.get("Disk"), None, "me")
    assert held == "bdev Disk already claimed: type exclusive_write by passthru vbdev First"
    assert isinstance(entry_of(stack.registry.get("Disk")).claim, Claim)


def test_a_module_that_does_not_start_leaves_nothing(stack):
    stopped = []

    async def start(_self):
        raise OSError(errno.ENOSPC, "no room")

    async def stop(self):
        stopped.append(self.name)

    bad = layer(start=start, stop=stop)
    stack.disk()
    for _ in range(2):
        with pytest.raises(OSError, match="no room"):
            stack.layer(bad)
    assert (
        entry_of(stack.registry.get("Disk")).claim,
        entry_of(stack.registry.get("Disk")).openers,
    ) == (None, [])
    assert (stack.registry.creations, stopped) == ({}, [])
    stack.layer()


@pytest.mark.rule("A.1.22")
def test_a_bdev_whose_registration_fails_is_stopped(stack):
    stopped = []

    class Sizeless(Null):
        async def start(self):
            self.num_blocks = 0

        async def stop(self):
            stopped.append(self.name)

    class Odd(Sizeless):
        async def start(self):
            self.num_blocks, self.block_size = 8, 1 << 33

    assert "has no blocks" in refused(errno.EINVAL, stack.disk, Sizeless)
    assert "no multiple of 512 up to" in refused(errno.EINVAL, stack.disk, Odd)
    assert (stopped, names(stack)) == (["Disk", "Disk"], [])


# Waiting for a base


@pytest.mark.rule("D.5", "A.5.11")
def test_fault_05_a_creation_that_waits_can_be_cancelled(stack):
    assert stack.layer() is None
    assert refused(errno.EEXIST, stack.layer)
    stack.run(stack.registry.delete("Top", "passthru"))
    stack.disk()
    assert names(stack) == ["Disk"]
    assert stack.registry.creations == {}


def test_cancelling_needs_the_right_kind(stack):
    stack.layer()
    for kind in ("malloc", "stub"):
        refused(errno.ENODEV, lambda kind=kind: stack.run(stack.registry.delete("Top", kind)))
    assert list(stack.registry.creations) == ["Top"]


def test_the_name_of_a_creation_that_waits_is_taken(stack):
    """Otherwise the one could not be cancelled, and the other not be saved."""
    stack.layer(base="Absent")
    assert "configured" in refused(errno.EEXIST, stack.disk, name="Top")
    assert len(stack.registry.config()) == 1
    stack.run(stack.registry.delete("Top", "passthru"))
    stack.disk(name="Top")


@pytest.mark.rule("A.4.14")
def test_stacks_that_wait_build_up_in_one_go(stack):
    for number in range(5, 0, -1):
        assert (
            stack.layer(name=f"P{number}", base=f"P{number - 1}" if number > 1 else "Disk") is None
        )
    stack.disk()
    assert names(stack) == ["Disk", "P1", "P2", "P3", "P4", "P5"]


@pytest.mark.rule("A.4.21")
def test_a_creation_that_fails_when_its_base_comes_waits_on(stack, caplog):
    stack.layer(name="First")
    stack.layer(name="Second")
    with caplog.at_level(logging.WARNING):
        stack.disk()
    assert names(stack) == ["Disk", "First"]
    assert "name=Second base=Disk" in caplog.text
    stack.delete("First")
    stack.delete("Disk")
    stack.disk()
    assert names(stack) == ["Disk", "Second"]


@pytest.mark.rule("A.4.21")
def test_a_bug_in_a_waiting_module_is_not_its_bases(stack, caplog):
    async def start(_self):
        raise ZeroDivisionError

    stack.layer(layer(start=start), name="Bad")
    stack.layer(name="Good")
    with caplog.at_level(logging.ERROR):
        stack.disk()
    assert names(stack) == ["Disk", "Good"]
    assert "ZeroDivisionError" in caplog.text
    assert stack.open("Good").io(Op.READ).status == Status.SUCCESS


@pytest.mark.rule("D.7", "A.5.12")
@pytest.mark.parametrize("by", ["name", "alias", "uuid"])
def test_fault_07_the_base_is_found_by_any_of_its_names(stack, by):
    class Aliased(Malloc):
        async def start(self):
            await super().start()
            self.aliases.append("Nick")

    base = {"name": "Disk", "alias": "Nick", "uuid": str(U1)}[by]
    assert stack.layer(base=base) is None
    for _ in range(3):
        stack.disk(Aliased, uuid=U1)
        assert names(stack) == ["Disk", "Top"]
        stack.delete("Disk")
        assert names(stack) == []
    stack.disk(Aliased, uuid=U1)
    alias = str(stack.registry.get("Top").uuid)
    stack.run(stack.registry.delete(alias, "passthru"))
    stack.delete("Disk")
    stack.disk(Aliased, uuid=U1)
    assert names(stack) == ["Disk"], "deleted by its UUID, it stays away"


@pytest.mark.rule("A.5.10", "A.20.10")
def test_a_creation_survives_hot_removal_with_its_identity(stack):
    stack.disk(uuid=U1)
    first = stack.layer()
    stack.layer(name="Given", base="Top", uuid=U2)
    stack.delete("Disk")
    assert (names(stack), len(stack.registry.creations)) == ([], 2)
    stack.disk(uuid=U1)
    again = stack.registry.get("Top")
    assert again is not first
    assert (again.uuid, stack.registry.get("Given").uuid) == (first.uuid, U2)


def test_a_vbdev_is_not_its_own_base(stack):
    refused(errno.EINVAL, stack.layer, name="Top", base="Top")
    stack.layer(name="A", base="B")
    stack.layer(name="B", base="A")
    assert names(stack) == []


def test_the_deepest_stack(stack):
    stack.disk(Null)
    base = "Disk"
    for number in range(1, MAX_STACK_DEPTH):
        stack.layer(name=f"P{number}", base=base)
        base = f"P{number}"
    message = refused(errno.ELOOP, stack.layer, base=base)
    assert f"layer {MAX_STACK_DEPTH + 1}; {MAX_STACK_DEPTH} are the most" in message
    assert entry_of(stack.registry.get(base)).claim is None
    stack.delete("Disk")
    assert names(stack) == []


# Starting takes its time


def slow_layer():
    async def start(self):
        await self.base_descriptor.reactor.sleep(1000)

    return layer(start=start)


def test_the_base_goes_while_a_vbdev_starts(stack):
    slow = slow_layer()
    stack.disk()
    creating = stack.reactor.spawn(
        stack.registry.create(slow, slow.Params(name="Top", base_bdev_name="Disk"))
    )
    creating.add_done_callback(lambda _task: None)
    stack.settle()
    deleting = stack.reactor.spawn(stack.registry.delete("Disk", "malloc"))
    stack.pass_time(2000)
    assert "is being removed" in refused(errno.ENODEV, creating.result)
    assert (deleting.done, names(stack), stack.registry.creations) == (True, [], {})


def test_the_base_grows_while_a_vbdev_starts(stack):
    slow = slow_layer()
    disk = stack.disk(Null, num_blocks=100)
    creating = stack.reactor.spawn(
        stack.registry.create(slow, slow.Params(name="Top", base_bdev_name="Disk"))
    )
    stack.settle()
    disk.notify_blockcnt_change(200)
    stack.pass_time(2000)
    assert creating.result() == "Top"
    assert stack.registry.get("Top").num_blocks == 200


def test_a_vbdev_is_deleted_while_it_starts(stack):
    """It waited for its base; deleting it finds no bdev, and still counts."""
    slow = slow_layer()
    stack.layer(slow)
    creating = stack.reactor.spawn(
        stack.registry.create(Malloc, Malloc.Params(name="Disk", num_blocks=8, block_size=512))
    )
    stack.settle()
    stack.run(stack.registry.delete("Top", "layer"))
    stack.pass_time(2000)
    assert (creating.result(), names(stack)) == ("Disk", ["Disk"])
    assert entry_of(stack.registry.get("Disk")).claim is None


# Removal


@pytest.mark.rule("A.7.11", "A.2.21")
def test_a_stack_unwinds_from_the_top(stack):
    order = []

    async def stop(self):
        order.append(self.name)

    noted = layer(stop=stop)
    stack.disk()
    stack.layer(noted, name="P1")
    stack.layer(noted, name="P2", base="P1")
    stack.layer(noted, name="P3", base="P2")
    opened = [stack.open("P3"), stack.open("P3")]
    stack.delete("Disk")
    assert order == ["P3", "P2", "P1"]
    assert [o.events for o in opened] == [[BdevEvent.REMOVE]] * 2
    assert len(stack.registry.creations) == 3


@pytest.mark.rule("A.2.4", "A.7.1", "A.7.8", "A.25.10", "E.bdev_ut.bdev_open_while_hotremove")
def test_removal_waits_for_io_and_says_for_whom(stack):
    disk = stack.disk(Stub)
    stack.layer()
    top = stack.open("Top", holder="a reader")
    request = top.submit(Op.READ)
    task = stack.reactor.spawn(stack.registry.delete("Disk", "stub"))
    stack.settle()
    assert not task.done
    assert disk.state is BdevState.REMOVING
    for name in ("Disk", "Top"):
        assert "is being removed" in refused(errno.ENODEV, stack.open, name)
    twice = refused(errno.EBUSY, lambda: stack.run(stack.registry.delete("Disk", "stub")))
    assert "held by passthru vbdev Top" in twice
    disk.complete()
    stack.settle()
    assert (task.done, request.status, names(stack)) == (True, Status.SUCCESS, [])


@pytest.mark.rule("A.0.5", "A.7.12", "A.7.13", "E.bdev_ut.bdev_unregister_by_name")
def test_delete_of_the_wrong_kind(stack):
    stack.disk()
    stack.layer()
    for name, kind in (("Disk", "passthru"), ("Top", "malloc"), ("Nobody", "malloc")):
        refused(errno.ENODEV, lambda n=name, k=kind: stack.run(stack.registry.delete(n, k)))
    assert names(stack) == ["Disk", "Top"]


@pytest.mark.rule("D.15")
def test_fault_15_deleting_during_hot_removal_is_not_forgotten(stack):
    disk = stack.disk(Stub)
    stack.layer()
    stack.open("Top").submit(Op.READ)
    task = stack.reactor.spawn(stack.registry.delete("Disk", "stub"))
    stack.settle()
    refused(errno.EBUSY, lambda: stack.run(stack.registry.delete("Top", "passthru")))
    disk.complete()
    stack.settle()
    assert task.done
    stack.disk(Stub)
    assert names(stack) == ["Disk"], "the vbdev was deleted, and does not return with its base"


def test_a_vbdev_asked_for_while_its_base_goes_waits_for_the_next(stack):
    disk = stack.disk(Stub)
    stack.open("Disk").submit(Op.READ)
    task = stack.reactor.spawn(stack.registry.delete("Disk", "stub"))
    stack.settle()
    assert stack.layer() is None
    disk.complete()
    stack.settle()
    assert task.done
    stack.disk(Stub)
    assert names(stack) == ["Disk", "Top"]


@pytest.mark.rule("D.21", "A.6.7")
def test_fault_21_the_end_takes_stacks_down_from_the_top(stack):
    order = []

    class Noted(Null):
        async def stop(self):
            order.append(self.name)

    async def stop(self):
        order.append(self.name)

    noted = layer(stop=stop)
    for number in range(3):
        stack.disk(Noted, name=f"D{number}")
        stack.layer(noted, name=f"L{number}", base=f"D{number}")
        stack.layer(noted, name=f"T{number}", base=f"L{number}")
    stack.run(stack.registry.close())
    assert sorted(order) == ["D0", "D1", "D2", "L0", "L1", "L2", "T0", "T1", "T2"]
    for number in range(3):
        assert order.index(f"T{number}") < order.index(f"L{number}") < order.index(f"D{number}")


@pytest.mark.rule("A.7.7")
def test_the_end_waits_for_what_goes_already_and_goes_on_behind_a_failure(stack):
    class Bad(Null):
        async def stop(self):
            raise OSError(errno.EIO, "the last sync failed")

    disk = stack.disk(Stub)
    stack.disk(Null, name="Other")
    stack.disk(Bad, name="Bad")
    opened = stack.open("Disk")
    opened.submit(Op.READ)
    stack.reactor.spawn(stack.registry.delete("Disk", "stub"))
    stack.settle()
    task = stack.reactor.spawn(stack.registry.close())
    task.add_done_callback(lambda _task: None)
    stack.pass_time(5000)
    assert (task.done, names(stack)) == (False, ["Disk"])
    disk.complete()
    stack.pass_time(5000)
    assert names(stack) == []
    with pytest.raises(OSError, match="the last sync failed"):
        task.result()


@pytest.mark.rule("D.22", "A.7.5", "A.7.10", "A.7.15")
def test_fault_22_a_name_is_free_when_delete_returns(stack):
    stack.disk()
    for number in range(1000):
        top = stack.layer()
        if number % 100 == 0:
            stack.open("Top").io(Op.READ)
        stack.delete("Top")
        assert top.base_descriptor.closed
        assert entry_of(stack.registry.get("Disk")).claim is None
    assert entry_of(stack.registry.get("Disk")).openers == []
    assert stack.engine.ios_in_use == 0


# Size and capabilities


@pytest.mark.rule("D.10", "A.2.22", "A.2.23", "A.2.24", "E.bdev_ut.num_blocks_test")
def test_fault_10_a_new_size_travels_up(stack):
    disk = stack.disk(Null, num_blocks=100)
    stack.layer(name="P1")
    stack.layer(name="P2", base="P1")
    top = stack.open("P2")
    assert top.io(Op.READ, 150).errno == errno.EINVAL
    disk.notify_blockcnt_change(200)
    stack.settle()
    assert [bdev.num_blocks for bdev in stack.registry] == [200] * 3
    assert top.events == [BdevEvent.RESIZE]
    assert top.io(Op.READ, 150).status == Status.SUCCESS
    disk.notify_blockcnt_change(200)
    stack.settle()
    assert top.events == [BdevEvent.RESIZE]
    message = refused(errno.EBUSY, disk.notify_blockcnt_change, 10)
    assert "passthru vbdev P1" in message
    assert disk.num_blocks == 200
    stack.delete("P1")
    disk.notify_blockcnt_change(10)
    assert disk.num_blocks == 10


@pytest.mark.rule("D.11", "D.19")
def test_fault_11_everything_about_the_base_is_copied(stack):
    class Rich(Stub):
        async def start(self):
            await super().start()
            self.block_size += 64  # interleaved metadata
            for number, name in enumerate(INHERITED, 1):
                if isinstance(getattr(self, name), bool):
                    setattr(self, name, not getattr(self, name))
                elif name not in ("block_size", "num_blocks"):
                    setattr(self, name, sound.get(name, number))

    sound = {"phys_block_size": 8192, "md_len": 64, "dif_type": 1, "dif_pi_format": 1}
    sound["dif_check_flags"] = int(DifCheck.GUARD)
    disk = stack.disk(Rich, num_blocks=77, block_size=4096)
    stack.layer(name="P1")
    top = stack.layer(name="P2", base="P1")
    default = Stub(Stub.Params(name="x", num_blocks=1, block_size=512))
    for name in INHERITED:
        assert getattr(top, name) == getattr(disk, name) != getattr(default, name), name
    assert top.ops == disk.ops


WITHOUT_DATA = frozenset(
    {
        Op.UNMAP,
        Op.FLUSH,
        Op.RESET,
        Op.WRITE_ZEROES,
        Op.ZCOPY,
        Op.ZONE_MANAGEMENT,
        Op.ABORT,
        Op.SEEK_HOLE,
        Op.SEEK_DATA,
        Op.COPY,
        Op.NVME_NSSR,
        Op.WRITE_UNCORRECTABLE,
    }
)


@pytest.mark.rule("D.8")
def test_fault_08_what_is_reported_is_carried_out(stack):
    disk = stack.disk(Stub)
    stack.layer()
    top = stack.open("Top")
    assert top.descriptor.bdev.ops == set(Op)
    victim = top.submit(Op.READ, 0, 1, bytearray(512))
    for op in Op:
        data = None if op in WITHOUT_DATA else bytearray(512)
        more = {"cmd": bytes(64)} if op.name.startswith(("NVME_IO", "NVME_ADMIN")) else {}
        if op == Op.COMPARE_AND_WRITE:
            more["write_data"] = bytes(512)
        if op == Op.COPY:
            more["src_offset_blocks"] = 1
        request = top.submit(op, 0, 1, data, victim=victim if op == Op.ABORT else None, **more)
        stack.settle()  # RESET comes by way of the control plane
        assert disk.arrived[-1] == ((op, 0, 1) if op != Op.RESET else (op, 0, 0))
        disk.complete([len(disk.held) - 1])
        stack.settle()
        assert request.status == Status.SUCCESS, op
        if op == Op.ZCOPY:
            top.requests.zcopy_end(request, True)
            disk.complete([len(disk.held) - 1])
            stack.settle()
    disk.complete()


@pytest.mark.rule("D.9", "A.9.8")
def test_fault_09_zcopy_goes_down_in_both_phases(stack):
    stack.disk()
    stack.layer(name="P1")
    stack.layer(name="P2", base="P1")
    top = stack.open("P2")
    request = top.io(Op.ZCOPY, 5, 2)
    request.zcopy_data[0][:] = b"z" * 1024
    assert top.channel.outstanding == 0
    top.zcopy_end(request, commit=True)
    assert request.status == Status.SUCCESS
    got = bytearray(1024)
    top.io(Op.READ, 5, 2, got)
    assert got == b"z" * 1024


@pytest.mark.rule("D.9")
def test_fault_09_a_start_that_fails_is_a_failure_and_no_crash(stack):
    disk = stack.disk(Stub)
    stack.layer()
    top = stack.open("Top")
    request = top.submit(Op.ZCOPY, 5, 2)
    disk.complete(None, Status.FAILED, errno.ENOMEM)
    stack.settle()
    assert (request.done, request.status, request.errno) == (True, Status.FAILED, errno.ENOMEM)
    request = top.submit(Op.ZCOPY, 5, 2)
    for _ in range(2):
        disk.complete()
        stack.settle()
        if request.done and len(disk.arrived) < 3:
            top.requests.zcopy_end(request, True)
    assert [op for op, *_ in disk.arrived] == [Op.ZCOPY] * 3


@pytest.mark.rule("D.12")
@pytest.mark.parametrize(
    "status", [Status.FAILED, Status.AIO_ERROR, Status.ABORTED, Status.MISCOMPARE]
)
def test_fault_12_the_detail_of_an_error_reaches_the_top(stack, status):
    disk = stack.disk(Stub)
    stack.layer(name="P1")
    stack.layer(name="P2", base="P1")
    top = stack.open("P2")
    request = top.submit(Op.READ)
    disk.complete(None, status, errno.EREMOTEIO)
    stack.settle()
    assert (request.status, request.errno) == (status, errno.EREMOTEIO)


@pytest.mark.rule("D.12")
@pytest.mark.parametrize(
    ("status", "detail"),
    [
        (Status.NVME_ERROR, {"nvme": (2, 0x81), "cdw0": 7}),
        (Status.SCSI_ERROR, {"scsi": (2, 3, 0x11, 1)}),
    ],
)
def test_fault_12_a_drives_own_status_reaches_the_top(stack, status, detail):
    disk = stack.disk(Stub)
    stack.layer(name="P1")
    stack.layer(name="P2", base="P1")
    request = stack.open("P2").submit(Op.READ)
    disk.held.pop().complete(status, **detail)
    stack.settle()
    assert request.status == status


@pytest.mark.rule("D.13", "A.12.7", "A.16.11", "A.25.3", "A.25.4", "A.25.15")
@pytest.mark.parametrize("end", ["memory", "abort", "reset", "removal"])
def test_fault_13_what_waits_for_memory_can_be_ended(caplog, end):
    """Nothing is logged for it, and it ends as it would anywhere else."""
    stack = Stack(buffer_limit_bytes=8192)
    disk = stack.disk(Stub)
    stack.layer()
    top = stack.open("Top")
    with caplog.at_level(logging.INFO, "vbdev"):
        requests = [top.submit(Op.READ, n) for n in range(5)]
        assert (len(disk.held), stack.engine.waiting) == (2, 3)
        task = None
        if end == "abort":
            for victim in requests[2:]:
                assert top.io(Op.ABORT, 0, 0, victim=victim).status == Status.SUCCESS
        elif end == "reset":
            top.submit(Op.RESET, 0, 0)
        elif end == "removal":
            task = stack.reactor.spawn(stack.registry.delete("Disk", "stub"))
        stack.settle()
        if end != "memory":
            assert [r.status for r in requests] == [0, 0] + [Status.ABORTED] * 3
        while disk.held:
            disk.complete()
            stack.settle()
        assert all(r.done for r in requests)
        assert not caplog.records or end == "removal"
        assert task is None or task.done
    stack.close()


@pytest.mark.rule("D.16", "A.12.6")
def test_fault_16_a_read_without_memory_waits_and_does_not_fail():
    stack = Stack(buffer_limit_bytes=4096)
    disk = stack.disk(Stub)
    stack.layer()
    top = stack.open("Top")
    requests = [top.submit(Op.READ, n) for n in range(20)]
    while disk.held:
        disk.complete()
        stack.settle()
    assert [r.status for r in requests] == [Status.SUCCESS] * 20
    stack.close()


# Configuration


@pytest.mark.rule("D.6", "A.22.4")
def test_fault_06_waiting_creations_are_saved(stack):
    stack.layer(name="Waits", base="Absent")
    stack.disk(uuid=U1)
    stack.layer(uuid=U2)
    disk = {"name": "Disk", "num_blocks": 1024, "block_size": 512, "physical_block_size": 512}
    disk |= {"uuid": str(U1), "optimal_io_boundary": 0, "md_size": 0, "dif_type": 0}
    disk |= {"dif_is_head_of_md": False, "dif_pi_format": 0, "numa_id": -1}
    assert stack.registry.config() == [
        {"method": "bdev_passthru_create", "params": {"name": "Waits", "base_bdev_name": "Absent"}},
        {
            "method": "bdev_passthru_create",
            "params": {"name": "Top", "uuid": str(U2), "base_bdev_name": "Disk"},
        },
        {"method": "bdev_malloc_create", "params": disk},
    ]
    stack.delete("Disk")
    assert [call["params"]["name"] for call in stack.registry.config()] == ["Waits", "Top"]


def test_passthru_stays_what_people_copy():
    """One screen: no life cycle of its own, but for the words that SPDK's has for it."""
    own = {name for name in vars(Passthru) if not name.startswith("_")}
    assert own == {
        "kind",
        "product_name",
        "uuid_namespace",
        "ops",
        "undecoded",
        "gives_read_buffers",
        "start",
        "created",
        "submit",
        "dump_info",
    }
