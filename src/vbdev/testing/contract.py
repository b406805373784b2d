"""What every bdev module owes, as tests: subclass `ContractSuite` in a file that pytest collects.

One room: the suite is a list of promises, each with its check, that a module meets as one class.

    class TestMyDisk(ContractSuite):
        module = MyDisk

        def params(self):
            return {"num_blocks": 256, "block_size": 512}

A vbdev subclasses `LayerContractSuite`, and needs no `params` where its base is its only
parameter. What a module does differently on purpose is said by an attribute (`forgets`) or by
overriding the test that holds it. The methods take no fixtures, and nothing of pytest is imported:
any runner that knows `setup_method` and `teardown_method` will do.
"""

from __future__ import annotations

import errno
import tempfile
import uuid
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from vbdev.bdev import Bdev, BdevError, BdevEvent, VirtualBdev
from vbdev.bdev.entry import entry_of
from vbdev.rpc.bdev_info import describe
from vbdev.testing.stack import Opened, Stack
from vbdev.testing.stub import Stub, gather, layer
from vbdev.vocab import WRITE_OPS, IoFlag, Op, Status

__all__ = ["ContractSuite", "LayerContractSuite"]

DATA_OPS = frozenset({Op.READ, Op.WRITE, Op.COMPARE})
SPECIAL_OPS = frozenset(
    {
        Op.ABORT,
        Op.NVME_ADMIN,
        Op.NVME_IO,
        Op.NVME_IO_MD,
        Op.NVME_IOV_MD,
        Op.NVME_NSSR,
        Op.GET_ZONE_INFO,
        Op.ZONE_MANAGEMENT,
        Op.ZONE_APPEND,
        Op.COMPARE_AND_WRITE,
        Op.WRITE_UNCORRECTABLE,
    }
)
"""What takes more than a range: `arguments` has to be overridden for these to be tried."""


class ContractSuite:
    """The contract of a bdev module. See the module docstring for how to use it.

    module: the class under test.
    num_blocks: what the bdev that `params` makes has at least, and what a vbdev's base gets.
    forgets: reads do not bring what was written (null).
    real_clock: the module waits for a kernel, so that time has to go by itself.
    heights: how many vbdevs stand on the bdev, one after another, in the tests that care.
    """

    module: ClassVar[type[Bdev]]
    num_blocks: ClassVar[int] = 256
    forgets: ClassVar[bool] = False
    real_clock: ClassVar[bool] = False
    heights: ClassVar[tuple[int, ...]] = (0, 1, 2, 5)

    stack: Stack
    directory: Path
    """An empty directory, removed after the test."""

    # What a subclass says about its module

    def params(self) -> dict[str, Any]:
        """Return the parameters of `bdev_<kind>_create` for a bdev that works, but for its name.

        Called for every bdev that is made; so files may be made here, in `self.directory`.
        """
        return {}

    def make_base(self) -> None:
        """Make what the bdev stands on, unless it is there; here nothing."""

    def create(self, name: str = "Disk", **params: Any) -> Bdev:
        """Make a bdev of the module and return it. `params` go before those of `params()`."""
        self.make_base()
        made = self.stack.create(self.module, name=name, **{**self.params(), **params})
        assert isinstance(made, Bdev), f"{self.module.kind}: no bdev {name!r} was made"
        return made

    def arguments(self, op: Op, bdev: Bdev) -> dict[str, Any] | None:
        """Return keywords for `Opened.io` with which an op must succeed, or None not to try it."""
        if op in SPECIAL_OPS:
            return None
        if op in (Op.FLUSH, Op.RESET):
            return {"offset_blocks": 0, "num_blocks": 0}
        more: dict[str, Any] = {"offset_blocks": 16, "num_blocks": 4}
        if op in DATA_OPS:
            more["data"] = bytearray(4 * bdev.block_size)
        if op == Op.COPY:
            more["src_offset_blocks"] = bdev.num_blocks - 4
        return more

    # Around each test

    def setup_method(self) -> None:
        """Make an empty stack."""
        self._directory = tempfile.TemporaryDirectory(prefix="vbdev-contract-")
        self.directory = Path(self._directory.name)
        self.stack = Stack(real_clock=self.real_clock)

    def teardown_method(self) -> None:
        """Hold that nothing is left in use and that no module raised."""
        try:
            self.stack.close()
            assert not self.stack.errors, f"modules raised: {self.stack.errors}"
        finally:
            self._directory.cleanup()

    def raised(self, bdev: Bdev, height: int) -> Opened:
        """Open the bdev through as many vbdevs that only forward."""
        base = bdev.name
        for number in range(height):
            self.stack.layer(name=f"Layer{number}", base=base)
            base = f"Layer{number}"
        return self.stack.open(base)

    def lower(self, opened: Opened, height: int) -> None:
        """Take away what `raised` built."""
        opened.close()
        for number in reversed(range(height)):
            self.stack.delete(f"Layer{number}")

    def can(self, bdev: Bdev, op: Op) -> bool:
        """Say whether an op is carried out, by the module or for it."""
        return bdev.can(op)

    # What it is

    def test_it_describes_itself(self) -> None:
        """Its geometry makes a disk, and all that is shown of it is JSON."""
        bdev = self.create()
        assert bdev.kind.isidentifier(), f"kind {bdev.kind!r} becomes part of method names"
        assert bdev.product_name
        assert bdev.name == "Disk"
        assert bdev.num_blocks > 0
        assert bdev.block_size > 0
        assert bdev.size_bytes == bdev.num_blocks * bdev.block_size
        assert bdev.phys_block_size % 512 == 0
        assert isinstance(bdev.uuid, uuid.UUID)
        assert str(bdev.uuid) in bdev.aliases
        assert Op.READ in bdev.ops
        assert bdev.ops <= set(Op)
        assert msgspec.json.encode(describe(bdev))

    def test_the_creators_uuid_is_kept(self) -> None:
        """A UUID that is given is the bdev's, and a name it can be opened by."""
        given = uuid.UUID("7a1c9c52-9e2b-4f57-a3a3-0c5d2a4f8e11")
        assert self.create(uuid=given).uuid == given
        assert self.stack.open(str(given), write=False).descriptor.bdev.name == "Disk"

    def test_a_name_that_is_taken_leaves_nothing(self) -> None:
        """EEXIST; what is there is as it was."""
        self.make_base()
        self.stack.disk(Stub, name="Disk")
        before = self.state()
        number = 0
        try:
            self.stack.create(self.module, name="Disk", **self.params())
        except BdevError as error:
            number = error.errno
        assert number == errno.EEXIST, f"a second bdev 'Disk' gave errno {number}"
        assert self.state() == before

    def state(self) -> list[object]:
        """Return what a failed attempt must not change."""
        registry = self.stack.registry
        claims = [(bdev.name, entry_of(bdev).claim is None, bdev.holders()) for bdev in registry]
        return [claims, registry.config()]

    def test_configuration_makes_the_same_again(self) -> None:
        """What is saved is JSON, and creates the same bdevs with the same identity."""
        self.create()
        registry = self.stack.registry
        saved, told = registry.config(), [describe(bdev) for bdev in registry]
        assert msgspec.json.decode(msgspec.json.encode(saved)) == saved
        self.stack.run(registry.close())
        registry.creations.clear()
        kinds = {module.kind: module for module in (*self.other_modules(), self.module)}
        for call in saved:
            kind = call["method"].removeprefix("bdev_").removesuffix("_create")
            if kind in kinds:
                params = msgspec.convert(call["params"], kinds[kind].Params)
                self.stack.run(registry.create(kinds[kind], params))
        assert registry.config() == saved
        assert [describe(bdev) for bdev in registry] == told

    def other_modules(self) -> tuple[type[Bdev], ...]:
        """Return the modules that `make_base` uses; all that come with vbdev."""
        from vbdev.modules import MODULES

        return MODULES

    # What it does

    def test_every_op_that_is_named_succeeds(self) -> None:
        """What `ops` names is carried out, also through vbdevs."""
        for height in self.heights:
            bdev = self.create() if self.stack.registry.find("Disk") is None else self.disk()
            top = self.raised(bdev, height)
            for op in sorted(bdev.ops):
                arguments = self.arguments(op, bdev)
                if arguments is None:
                    continue
                request = top.io(op, **arguments)
                assert request.status == Status.SUCCESS, f"{op.name}: {outcome(request)}"
                if op == Op.ZCOPY:
                    lent = sum(len(view) for view in request.zcopy_data)
                    assert lent == arguments["num_blocks"] * bdev.block_size
                    top.zcopy_end(request, commit=False)
                    assert request.status == Status.SUCCESS, f"ZCOPY's end: {outcome(request)}"
            self.lower(top, height)

    def disk(self) -> Bdev:
        """Return the bdev that `create` made."""
        return self.stack.registry.get("Disk")

    def test_ops_that_are_not_named_are_refused(self) -> None:
        """With ENOTSUP, before they reach the module."""
        bdev = self.create()
        for height in (0, 1):
            top = self.raised(bdev, height)
            for op in sorted(set(Op) - SPECIAL_OPS):
                arguments = self.arguments(op, bdev)
                if arguments is not None and not self.can(bdev, op):
                    request = top.io(op, **arguments)
                    assert request.errno == errno.ENOTSUP, f"{op.name}: {outcome(request)}"
            self.lower(top, height)

    def test_a_range_outside_is_refused(self) -> None:
        """With EINVAL; the last block is still there."""
        bdev = self.create()
        last = bdev.num_blocks
        for height in (0, 2):
            top = self.raised(bdev, height)
            for offset, count in ((last, 1), (last - 1, 2), (2**64 - 1, 1), (1, 2**64 - 1)):
                for op in (Op.READ, Op.UNMAP, Op.WRITE_ZEROES, Op.COPY):
                    if op in bdev.ops:
                        request = top.io(op, offset, count)
                        assert request.errno == errno.EINVAL, (
                            f"{op.name} of {count} blocks at {offset}: {outcome(request)}"
                        )
            request = top.io(Op.READ, last - 1, 1, bytearray(bdev.block_size))
            assert request.status == Status.SUCCESS, f"the last block: {outcome(request)}"
            self.lower(top, height)

    def test_what_was_written_is_read(self) -> None:
        """In pieces of any length and memory of any alignment; zeroes and copies count too."""
        bdev = self.create()
        block = bdev.block_size
        for height in self.heights:
            top = self.raised(bdev, height)
            self.change(top, bdev, bytes((n * 7 + height) % 251 for n in range(32 * block)))
            self.lower(top, height)

    def change(self, top: Opened, bdev: Bdev, pattern: bytes) -> None:
        """Write 32 blocks of a pattern, change some, and hold what is read against a model."""
        block = bdev.block_size
        before = bytearray(64 * block)
        self.succeed(top, Op.READ, 0, 64, before)
        view = memoryview(bytearray(b"?" + pattern))[1:]
        pieces = [view[: block // 2], view[block // 2 : 9 * block + 3], view[9 * block + 3 :]]
        self.succeed(top, Op.WRITE, 8, 32, pieces)
        expected = bytearray(before)
        if not self.forgets:
            expected[8 * block : 40 * block] = pattern
        for op, offset in ((Op.UNMAP, 10), (Op.WRITE_ZEROES, 20)):
            if self.can(bdev, op):
                self.succeed(top, op, offset, 4)
                expected[offset * block : (offset + 4) * block] = bytes(4 * block)
        if self.can(bdev, Op.COPY):
            self.succeed(top, Op.COPY, 50, 8, src_offset_blocks=8)
            expected[50 * block : 58 * block] = expected[8 * block : 16 * block]
        if self.can(bdev, Op.FLUSH):
            self.succeed(top, Op.FLUSH, 0, 0)
        got = memoryview(bytearray(64 * block + 3))[3:]
        got[:] = before
        self.succeed(top, Op.READ, 0, 64, [got[:700], got[700:]])
        assert got == expected, f"block {differing(got, expected, block)} reads otherwise"
        if self.can(bdev, Op.COMPARE):
            self.succeed(top, Op.COMPARE, 0, 64, bytes(expected))
            expected[-1] ^= 1
            request = top.io(Op.COMPARE, 0, 64, bytes(expected))
            assert request.status == Status.MISCOMPARE, outcome(request)

    def succeed(
        self, top: Opened, op: Op, offset: int, count: int, data: Any = None, **more: Any
    ) -> None:
        """Submit one I/O and hold that it succeeds."""
        request = top.io(op, offset, count, data, **more)
        assert request.status == Status.SUCCESS, (
            f"{op.name} of {count} blocks at {offset}: {outcome(request)}"
        )

    def test_many_at_once(self) -> None:
        """Each of 200 I/Os under way ends once, with its own data."""
        bdev = self.create()
        block, number = bdev.block_size, min(200, bdev.num_blocks)
        top = self.raised(bdev, 1)
        ended: list[Any] = []
        writes = [
            top.submit(Op.WRITE, n, 1, bytes([n]) * block, callback=ended.append)
            for n in range(number)
        ]
        self.stack.turn_until(lambda: len(ended) >= number)
        buffers = [bytearray(block) for _ in range(number)]
        reads = [
            top.submit(Op.READ, n, 1, buffers[n], callback=ended.append) for n in range(number)
        ]
        self.stack.turn_until(lambda: len(ended) >= 2 * number)
        self.stack.settle()
        assert len(ended) == 2 * number, f"{len(ended)} I/Os ended of {2 * number}"
        assert {r.status for r in writes + reads} == {Status.SUCCESS}
        if not self.forgets:
            wrong = [n for n in range(number) if buffers[n] != bytes([n]) * block]
            assert not wrong, f"blocks {wrong} hold another's data"

    def test_batches_are_taken_whole(self) -> None:
        """A batch of several I/Os of several types does what they would do one by one."""
        bdev = self.create()
        block, number = bdev.block_size, 16
        self.stack.layer(gather(number), name="Gather", base="Disk")
        top = self.stack.open("Gather")
        data = [bytes([n + 1]) * block for n in range(number)]
        writes = [top.submit(Op.WRITE, n, 1, data[n]) for n in range(number)]
        self.stack.turn_until(lambda: all(r.done for r in writes))
        got = [bytearray(block) for _ in range(number)]
        mixed = [
            top.submit(Op.WRITE, 32 + n, 1, data[n]) if n % 2 else top.submit(Op.READ, n, 1, got[n])
            for n in range(number)
        ]
        self.stack.turn_until(lambda: all(r.done for r in mixed))
        assert {r.status for r in writes + mixed} == {Status.SUCCESS}
        if not self.forgets:
            assert [bytes(got[n]) for n in range(0, number, 2)] == data[::2]

    def test_flags_are_kept_or_refused(self) -> None:
        """FUA is carried out or refused with ENOTSUP, never ignored."""
        bdev = self.create()
        refused = bdev.write_cache and not bdev.fua
        for height in (0, 1):
            top = self.raised(bdev, height)
            fua = top.io(Op.WRITE, 0, 1, bytes(bdev.block_size), flags=IoFlag.FUA)
            assert fua.errno == (errno.ENOTSUP if refused else 0), outcome(fua)
            if Op.WRITE_ZEROES in bdev.ops:
                self.succeed(top, Op.WRITE_ZEROES, 0, 8, flags=IoFlag.NO_HOLE)
                request = top.io(Op.WRITE_ZEROES, 0, 8, flags=IoFlag.FAST_ZERO)
                allowed = (0,) if bdev.fast_zero else (0, errno.ENOTSUP)
                assert request.errno in allowed, outcome(request)
            self.lower(top, height)

    def test_a_reader_writes_nothing(self) -> None:
        """Through a descriptor that may only read, every kind of write is EBADF."""
        bdev = self.create()
        reader = self.stack.open("Disk", write=False)
        for op in sorted(WRITE_OPS & bdev.ops):
            arguments = self.arguments(op, bdev)
            if arguments is not None:
                request = reader.io(op, **arguments)
                assert request.errno == errno.EBADF, f"{op.name}: {outcome(request)}"
        request = reader.io(Op.READ, 0, 1, bytearray(bdev.block_size))
        assert request.status == Status.SUCCESS, outcome(request)

    # How I/O and bdevs end

    def test_abort_ends_once_and_so_does_its_victim(self) -> None:
        """Whoever wins, both end, each once; a victim that was aborted says so."""
        bdev = self.create()
        top = self.raised(bdev, 1)
        ended: list[Any] = []
        data = bytearray(bdev.block_size)
        victim = top.submit(Op.READ, 0, 1, data, callback=ended.append)
        abort = top.submit(Op.ABORT, 0, 0, victim=victim, callback=ended.append)
        self.stack.turn_until(lambda: len(ended) >= 2)
        self.stack.settle()
        assert sorted(map(id, ended)) == sorted(map(id, (victim, abort)))
        if abort.status == Status.SUCCESS:
            assert victim.status == Status.ABORTED, outcome(victim)
        else:
            # A kernel that says it is too late may call the I/O back all the same.
            assert victim.status in (Status.SUCCESS, Status.ABORTED), outcome(victim)

    def test_reset_leaves_a_working_bdev(self) -> None:
        """With I/O under way: all of it ends, the RESET too, and the next I/O succeeds."""
        bdev = self.create()
        top = self.raised(bdev, 1)
        if not self.can(bdev, Op.RESET):
            assert top.io(Op.RESET, 0, 0).errno == errno.ENOTSUP
            return
        data = bytes(bdev.block_size)
        under_way = [top.submit(Op.WRITE, n, 1, data) for n in range(20)]
        reset = top.io(Op.RESET, 0, 0)
        assert reset.status == Status.SUCCESS, outcome(reset)
        self.stack.turn_until(lambda: all(r.done for r in under_way))
        assert {r.status for r in under_way} <= {Status.SUCCESS, Status.ABORTED}
        self.succeed(top, Op.READ, 0, 1, bytearray(bdev.block_size))

    def test_hot_removal_with_io_under_way(self) -> None:
        """Every opener hears of it once, all I/O ends, and nothing of the bdev is left."""
        bdev = self.create()
        top, other = self.raised(bdev, 2), self.stack.open("Disk", write=False)
        buffers = [bytearray(bdev.block_size) for _ in range(20)]
        under_way = [top.submit(Op.READ, n, 1, buffers[n]) for n in range(20)]
        self.stack.delete("Disk")
        assert all(request.done for request in under_way)
        assert top.events == other.events == [BdevEvent.REMOVE]
        assert self.stack.registry.find("Disk") is None
        assert self.stack.registry.find("Layer1") is None
        self.stack.registry.creations.clear()

    def test_create_and_delete_leave_nothing(self) -> None:
        """Again and again, with I/O in between."""
        self.make_base()
        before = self.state()
        for _ in range(5):
            bdev = self.create()
            top = self.raised(bdev, 2)
            self.succeed(top, Op.READ, 0, 1, bytearray(bdev.block_size))
            self.lower(top, 2)
            self.stack.delete("Disk")
            assert self.state() == before
        assert self.stack.engine.buffers.live_buffers == 0

    # What stands on it

    def test_capabilities_pass_through_layers(self) -> None:
        """A vbdev on it that only forwards can do, and is, what it can and is."""
        base = self.create()
        own = {"name", "aliases", "uuid", "product_name", "claimed", "claim_type"}
        for height in (1, 5):
            opened = self.raised(base, height)
            top, told = describe(opened.descriptor.bdev), describe(base)
            names = top.__struct_fields__
            differing = {name for name in names if getattr(top, name) != getattr(told, name)}
            assert differing <= {*own, "driver_specific"}
            self.lower(opened, height)

    def test_a_layer_that_takes_part_of_the_ops_narrows(self) -> None:
        """What a layer does not name is refused above it, whatever the base can."""
        base = self.create()
        some = frozenset({Op.READ, Op.WRITE, Op.ZONE_APPEND})
        self.stack.layer(layer(ops=some), name="Narrow", base="Disk")
        assert self.stack.registry.get("Narrow").ops == some & base.ops
        request = self.stack.open("Narrow").io(Op.FLUSH, 0, 0)
        assert request.errno == errno.ENOTSUP, outcome(request)


class LayerContractSuite(ContractSuite):
    """The contract of a vbdev module: that of any bdev, and what it owes to its base."""

    module: ClassVar[type[VirtualBdev]]

    def params(self) -> dict[str, Any]:
        """Return the parameters of `bdev_<kind>_create`, but for the name."""
        return {"base_bdev_name": "Below"}

    def make_base(self) -> None:
        """Make a malloc disk `Below`, unless it is there."""
        if self.stack.registry.find("Below") is None:
            self.stack.disk(name="Below", num_blocks=self.num_blocks)

    def test_a_failing_base_is_not_hidden(self) -> None:
        """Status and errno of a base that fails reach the top."""
        below = self.stack.disk(Stub, name="Below", num_blocks=self.num_blocks)
        bdev = self.create()
        top = self.stack.open("Disk")
        for status in (Status.FAILED, Status.ABORTED, Status.AIO_ERROR):
            data = bytearray(bdev.block_size)
            ended: list[Any] = []
            request = top.submit(Op.READ, 0, 1, data, callback=ended.append)
            self.stack.turn_until(lambda: below.held)
            below.complete(None, status, errno.EREMOTEIO)
            self.stack.turn_until(ended.copy)
            assert (request.status, request.errno) == (status, errno.EREMOTEIO), outcome(request)

    def test_a_base_that_is_slow_is_waited_for(self) -> None:
        """Removal takes place when the base has completed what the layer gave it."""
        below = self.stack.disk(Stub, name="Below", num_blocks=self.num_blocks)
        bdev = self.create()
        top = self.stack.open("Disk")
        request = top.submit(Op.READ, 0, 1, bytearray(bdev.block_size))
        self.stack.turn_until(lambda: below.held)
        removal = self.stack.reactor.spawn(self.stack.registry.delete("Below", "stub"))
        self.stack.settle()
        assert not removal.done, "the base went away under an I/O"
        assert not request.done
        below.complete()
        self.stack.turn_until(lambda: removal.done)
        assert request.status == Status.SUCCESS, outcome(request)
        assert self.stack.registry.find("Disk") is None
        self.stack.registry.creations.clear()

    def test_it_holds_its_base(self) -> None:
        """Nobody else writes to its base; when it goes, the base is free."""
        self.create()
        base = self.stack.registry.get("Below")
        assert entry_of(base).claim is not None, f"{self.module.kind} does not claim its base"
        self.stack.delete("Disk")
        assert entry_of(base).claim is None
        assert base.holders() == []
        self.stack.open("Below").close()

    def test_it_comes_and_goes_with_its_base(self) -> None:
        """It waits for a base, survives the base's removal, and stays away once deleted."""
        self.stack.create(self.module, name="Disk", **self.params())
        assert self.stack.registry.find("Disk") is None
        base = uuid.UUID("3d9c8f0e-52f1-4c55-8f3e-2b1a6f1e0c77")
        identity = set()
        for _ in range(3):
            self.stack.disk(name="Below", num_blocks=self.num_blocks, uuid=base)
            identity.add(self.disk().uuid)
            self.stack.delete("Below")
            assert self.stack.registry.find("Disk") is None
        assert len(identity) == 1, "its UUID changes"
        self.stack.run(self.stack.registry.delete("Disk", self.module.kind))
        self.stack.disk(name="Below", num_blocks=self.num_blocks)
        assert self.stack.registry.find("Disk") is None


def outcome(request: Any) -> str:
    """Say how an I/O ended."""
    name = errno.errorcode.get(request.errno, str(request.errno))
    return f"{Status(request.status).name}, {name}"


def differing(one: Any, other: Any, block_size: int) -> int:
    """Return the first block in which two buffers differ."""
    pairs = zip(bytes(one), bytes(other), strict=True)
    return next(n for n, (a, b) in enumerate(pairs) if a != b) // block_size
