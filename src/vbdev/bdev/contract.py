"""What a block device is: the contract that every bdev module fulfils.

One room: whoever writes a module finds all that she may write, and all that she may ask, here.

A module is one class. A *bdev* (`Bdev`) does the work itself; a *vbdev* (`VirtualBdev`) is
stacked on a base bdev and forwards. Both receive I/O in batches:

    class Passthru(VirtualBdev):
        kind = "passthru"

        def submit(self, channel, ios):
            channel.base.submit(ios)

The framework owns the life cycle (`vbdev.registry`): finding or awaiting the base, opening and
claiming it, channels, hot removal, deletion, the RPC methods and the saved configuration. A
module owns `submit` and, where it wants to see I/Os on their way up, `completed`. Or, where
convenience matters more than speed, `handle`: a coroutine for each I/O.

    class Mirror(VirtualBdev):
        kind = "mirror"

        async def handle(self, channel, io): ...

Rules for all three, which run on the channel's thread: never block; own what you
received until it is forwarded or completed, each I/O once; an exception fails the I/Os that the
module still holds and is logged with the bdev's name.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self
from uuid import UUID

import msgspec

from vbdev.api.methods import INVALID_PARAMETERS, ModuleMethod
from vbdev.api.params import BdevName
from vbdev.bdev.host import BdevState, Host, Opener
from vbdev.core.memory.dif import Dif
from vbdev.reactor.reactor import Reactor
from vbdev.vocab import WRITE_OPS, ClaimType, IoFlag, Op, Status
from vbdev.vocab.errors import BdevError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from vbdev.bdev.host import BdevEvent
    from vbdev.core.coroutine.runner import BdevIO, ChildIO
    from vbdev.core.engine.batch import IOBatch
    from vbdev.core.engine.channel import Channel
    from vbdev.core.engine.requests import Request
    from vbdev.reactor.task import Future

__all__ = [
    "Bdev",
    "BdevParams",
    "Hold",
    "Layer",
    "Opened",
    "VirtualBdev",
    "VirtualBdevParams",
]

ALL_OPS = frozenset(Op)
BASIC_OPS = frozenset({Op.READ, Op.WRITE, Op.FLUSH, Op.RESET, Op.ABORT})

INHERITED = (
    "block_size",
    "num_blocks",
    "phys_block_size",
    "write_cache",
    "fua",
    "multi_conn",
    "remote",
    "required_alignment",
    "optimal_io_boundary",
    "split_on_optimal_io_boundary",
    "write_unit_size",
    "split_on_write_unit",
    "max_rw_size",
    "max_segment_size",
    "max_num_segments",
    "max_unmap",
    "max_unmap_segments",
    "max_write_zeroes",
    "max_copy",
    "acwu",
    "preferred_write_alignment",
    "preferred_write_granularity",
    "optimal_write_size",
    "preferred_unmap_alignment",
    "preferred_unmap_granularity",
    "fast_zero",
    "md_len",
    "md_interleave",
    "dif_type",
    "dif_is_head_of_md",
    "dif_check_flags",
    "dif_pi_format",
    "zoned",
    "zone_size",
    "max_zone_append_size",
    "max_open_zones",
    "max_active_zones",
    "optimal_open_zones",
    "media_events",
    "reset_io_drain_timeout",
    "numa_id",
    "nsid",
    "ctratt",
)
"""What a vbdev has of its base unless it says otherwise. Data-buffer rules are not among them:
only a module that never looks at data may leave the choice of buffers to its base."""


class Unnamed(str):
    """The name of a bdev whose creator has given none: not the same as giving an empty one."""

    __slots__ = ()


class BdevParams(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Parameters every bdev takes. A module's own Params add to them."""

    name: str
    """Name of the bdev, unique among names, aliases and UUIDs."""
    uuid: UUID | None = None
    """UUID of the bdev; made by the bdev layer when absent."""


class VirtualBdevParams(BdevParams, kw_only=True, forbid_unknown_fields=True):
    """Parameters every vbdev takes."""

    base_bdev_name: BdevName
    """Name, alias or UUID of the base bdev, which may arrive later."""


class Bdev:
    """A block device. Subclass it for a device that does its own work.

    Class attributes
    ----------------
    kind: the module's name; RPC methods are `bdev_<kind>_create` and `bdev_<kind>_delete`.
    product_name: as `bdev_get_bdevs` shows it.
    auto_name: prefix of the names of bdevs whose creator gave none, so that the `name` of their
        Params is `Unnamed()` by default; "" if one must be given.
    Params: what `bdev_<kind>_create` takes, with a docstring for each field.
    saved_params: those that are saved whatever they are, in this order; the others follow where
        they are not the defaults.
    keeps_data: whether what was written is there when the bdev is made again; so partitions are.
    ops: the I/O types that `submit` handles. Others are refused before they arrive.
    undecoded: code and text of an RPC answer to parameters that do not decode.
    create_failure: code and text of the answer to a create that failed, `{reason}` in the text
        standing for strerror; without it, -errno and strerror.
    create_errnos: the errnos that a create is known to fail with, for help and schema.

    """

    kind: ClassVar[str]
    product_name: ClassVar[str]
    auto_name: ClassVar[str] = ""
    Params: ClassVar[type[BdevParams]] = BdevParams
    saved_params: ClassVar[tuple[str, ...]] = ()
    keeps_data: ClassVar[bool] = True
    ops: frozenset[Op] = BASIC_OPS
    undecoded: ClassVar[tuple[int, str]] = INVALID_PARAMETERS
    create_failure: ClassVar[tuple[int, str] | None] = None
    create_errnos: ClassVar[tuple[int, ...]] = (errno.EEXIST, errno.EINVAL)

    # Geometry and limits, in blocks unless they say otherwise; 0 means "no limit" or "none".
    block_size: int = 512
    """Bytes."""
    num_blocks: int = 0
    phys_block_size: int = 0
    """Bytes; 0 means block_size."""
    write_cache: bool = False
    """Completed writes may be lost at a power cut until a FLUSH completes."""
    fua: bool = False
    """IoFlag.FUA is carried out. Without it, and with a write cache, FUA is refused."""
    fast_zero: bool = False
    """WRITE_ZEROES costs less than writing."""
    remote: bool = False
    """I/Os wait for a server, which may be this process, or wait for it. See docs/design.md,
    "Progress of NBD clients"."""
    multi_conn: bool = True
    """A FLUSH through one channel covers what all channels wrote and saw complete."""
    required_alignment: int = 0
    """log2 of the bytes that data must be aligned to in memory."""
    optimal_io_boundary: int = 0
    split_on_optimal_io_boundary: bool = False
    """READs and WRITEs that cross a multiple of `optimal_io_boundary` are split there."""
    write_unit_size: int = 1
    split_on_write_unit: bool = False
    """WRITEs are split into units of `write_unit_size`; shorter ones fail."""
    max_rw_size: int = 0
    """Longest READ or WRITE; longer ones are split."""
    max_segment_size: int = 0
    """Bytes of one piece of data of a READ or WRITE; longer pieces are cut."""
    max_num_segments: int = 0
    """Pieces of data of a READ or WRITE; those with more are split."""
    max_unmap: int = 0
    """Blocks of one segment of an UNMAP."""
    max_unmap_segments: int = 0
    """Segments of an UNMAP; those longer than all of them are split."""
    max_write_zeroes: int = 0
    max_copy: int = 0
    acwu: int = 0
    """Atomic compare-and-write unit; 0 means write_unit_size."""
    preferred_write_alignment: int = 0
    preferred_write_granularity: int = 0
    optimal_write_size: int = 0
    preferred_unmap_alignment: int = 0
    preferred_unmap_granularity: int = 0
    md_len: int = 0
    """Bytes of metadata of each block; when interleaved they are part of `block_size`."""
    md_interleave: bool = False
    dif_type: int = 0
    """Type of protection information, 0 to 3."""
    dif_is_head_of_md: bool = False
    dif_check_flags: int = 0
    """`DifCheck`: what is checked."""
    dif_pi_format: int = 0
    """0, 1, 2: a guard of 16, 32, 64 bits."""
    zoned: bool = False
    zone_size: int = 0
    max_zone_append_size: int = 0
    max_open_zones: int = 0
    max_active_zones: int = 0
    optimal_open_zones: int = 0
    media_events: int = 0
    """Media management events kept for each descriptor."""
    reset_io_drain_timeout: int = 0
    """Seconds that a RESET waits for outstanding I/O to end by itself; if it does, nothing is
    reset. 0: the module is told at once."""
    nsid: int = 0
    """NVMe namespace identifier."""
    ctratt: int = 0
    """NVMe controller attributes."""
    numa_id: int | None = None
    memory_domains: tuple[int, ...] = ()
    """Kinds of memory (`DmaDeviceType`) that the module uses where it is. Data in other kinds, and
    all if there are none here, comes as a copy in system memory."""
    gives_read_buffers: bool = False
    """A READ may arrive without a buffer; the module (or its base) supplies one."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.handle is not Bdev.handle and cls.completed is not Bdev.completed:
            raise TypeError(
                f"{cls.__name__}: `completed` and `handle`; what `handle` awaits comes back to it"
            )

    def __init__(self, params: BdevParams) -> None:
        self.params = params
        self.name = params.name
        # SPDK takes a UUID of zeroes for none at all.
        self.uuid = params.uuid if params.uuid and params.uuid.int else None
        self.aliases: list[str] = []

    def __repr__(self) -> str:
        return f"<{self.kind} bdev {self.name}>"

    host: Host | None = None
    """Who keeps it, once it is registered."""
    reactor: Reactor
    """Where the control plane runs, and with it `start` and `stop`; there from before `start`."""

    # What a module implements

    def submit(self, channel: Channel, ios: IOBatch) -> None:
        """Carry out, forward or hold a batch; see the module docstring for the rules.

        Without one, each I/O is given to `handle`. One that gives some of a batch to `handle`,
        and all ABORTs among them, calls `super().submit(channel, ios)` with those.
        """
        if channel.coroutines is None:
            raise NotImplementedError(f"{type(self).__name__} has neither `submit` nor `handle`")
        channel.coroutines.submit(channel, ios)

    async def handle(self, channel: Channel, io: BdevIO) -> Status | ChildIO | None:
        """Carry out or forward one I/O, in a coroutine of its own. In the place of `submit`.

        It may await the I/O (`io.forward()`, `io.copy_data()`), children of it (`io.child()`), a
        Future or a Task, another coroutine. Returning ends the I/O: as the Status says that is
        returned, as the child did that is; without either with the first failure of a child,
        else as the base ended it, else with SUCCESS. What is under way then ends first, and
        fails the I/O where it fails.

        Raising fails the I/O. An ABORT, and a RESET, closes the coroutine (GeneratorExit where it
        waits) of an I/O that is not below, and ends that as ABORTED; ABORTs never come here, a
        RESET does after that.
        """
        raise NotImplementedError

    def completed(self, channel: Channel, ios: IOBatch) -> None:
        """Look at I/Os on their way up, before the layer above does. Optional.

        Every I/O that `submit` was given comes by, those that it completed itself too; one that
        this method sends down once more comes by again. What is left in the batch goes on up when
        this returns; what is taken out is the module's again, to be completed or submitted to
        the base once more.
        """

    async def start(self) -> None:
        """Acquire what the bdev needs (files, memory), and set the geometry.

        Raise BdevError or OSError where that fails: the bdev then never existed.
        """

    async def stop(self) -> None:
        """Give back what `start` acquired. No channel is open any more."""

    async def sync(self) -> None:
        """Make stable what was written, where it is not for `stop` alone to do so. Optional.

        Called at the end of the application while all else still runs, for what is kept by
        somebody who may end before the bdev does. `stop` follows, and tells of a failure.
        """

    def create_channel(self, channel: Channel) -> object:
        """Return what `channel.context` shall be. Called on the channel's thread."""
        return None

    def destroy_channel(self, channel: Channel) -> None:
        """Undo `create_channel`. No I/O is outstanding on the channel."""

    @classmethod
    def rpc_methods(cls) -> Sequence[ModuleMethod]:
        """Return the RPC methods that the module has besides create and delete."""
        return ()

    def dump_info(self) -> dict[str, Any]:
        """Return `driver_specific` of `bdev_get_bdevs`."""
        return {}

    def dump_stat(self) -> dict[str, Any]:
        """Return `driver_specific` of `bdev_get_iostat`: what the module counts itself."""
        return {}

    def reset_stat(self) -> None:
        """Set back what `dump_stat` shows."""

    def current_params(self) -> BdevParams:
        """Return the parameters that make the same bdev again, with what has changed since."""
        return msgspec.structs.replace(self.params, uuid=self.uuid)

    def config_params(self) -> dict[str, Any]:
        """Return what `bdev_<kind>_create` is saved with. Nothing that is not there: no nulls."""
        params = self.current_params()
        first = {name: getattr(params, name) for name in self.saved_params}
        saved = msgspec.to_builtins(first) | msgspec.to_builtins(params)
        return {key: value for key, value in saved.items() if value is not None}

    def config_calls(self) -> Sequence[dict[str, Any]]:
        """Return the RPC calls that are saved behind its create: what was set on it since."""
        return ()

    @classmethod
    def examine_config(cls, registry: Layer, bdev: Bdev) -> None:
        """Look whether a new bdev is one that this module waits for. Optional; no I/O.

        Called for every bdev that is registered, before its registration ends. Vbdevs whose
        `Params` name their base need none: the registry builds them itself.
        """

    @classmethod
    async def examine_disk(cls, registry: Layer, bdev: Bdev) -> None:
        """Look at the data of a new bdev that nobody, or this module, has claimed. Optional.

        Open it (`registry.open`) to do I/O, and close it again, at REMOVE too. It runs beside the
        examinations of other modules, one of which may be the first to claim the bdev. What it
        raises is logged.
        """

    # What the framework provides

    @property
    def data_block_size(self) -> int:
        """Bytes of a block without interleaved metadata."""
        return self.block_size - (self.md_len if self.md_interleave else 0)

    def metadata_layout(self) -> Dif | None:
        """Return how the metadata is laid out, None without metadata; ValueError if it can not."""
        if not self.md_len:
            return None
        return Dif(
            block_size=self.block_size,
            md_len=self.md_len,
            md_interleave=self.md_interleave,
            dif_type=self.dif_type,
            dif_is_head_of_md=self.dif_is_head_of_md,
            dif_check_flags=self.dif_check_flags,
            dif_pi_format=self.dif_pi_format,
        )

    @property
    def size_bytes(self) -> int:
        """Capacity in bytes."""
        return self.num_blocks * self.block_size

    @property
    def state(self) -> BdevState:
        """Where it is in its life."""
        return self.host.state if self.host is not None else BdevState.READY

    def holders(self) -> list[str]:
        """Say who has the bdev open."""
        return self.host.holders() if self.host is not None else []

    @property
    def descriptors(self) -> list[Opener]:
        """Who has the bdev open."""
        return self.host.openers if self.host is not None else []

    def channels(self) -> list[Channel]:
        """Return the channels that are open."""
        return self.host.channels() if self.host is not None else []

    def configure_channel(self, channel: Channel) -> None:
        """Have a channel follow what the bdev says of itself by now. On the channel's thread."""
        self._kept().reconfigure(channel)

    def refused_flags(self) -> int:
        """Return the flags whose promise this bdev can not keep."""
        return int(IoFlag.FUA) if self.write_cache and not self.fua else 0

    def sees_completed(self) -> bool:
        """Whether `completed` is to be called; I/Os pass those that are not without any Python."""
        return type(self).completed is not Bdev.completed

    def emulated_ops(self) -> frozenset[Op]:
        """Return the I/O types that its channels carry out by others that the module has."""
        needs = {
            Op.WRITE_ZEROES: {Op.WRITE},
            Op.COMPARE: {Op.READ},
            Op.COMPARE_AND_WRITE: {Op.READ, Op.WRITE},
            Op.COPY: {Op.READ, Op.WRITE},
            Op.SEEK_DATA: {Op.READ},
            Op.SEEK_HOLE: {Op.READ},
        }
        able = self.ops - {Op.WRITE} if self.zoned else self.ops  # writing there has its own rules
        return frozenset(op for op, by in needs.items() if op not in self.ops and by <= able)

    def can(self, op: Op) -> bool:
        """Whether an I/O type is carried out, by the module or by what stands in for it."""
        return op in self.ops or op in self.emulated_ops()

    # What it asks of whoever keeps it

    async def quiesce(
        self, module: type[Bdev], offset_blocks: int = 0, num_blocks: int | None = None
    ) -> None:
        """Let I/O in a range (default: all) end, and hold up what comes (spdk_bdev_quiesce_range).

        For the bdev's own module alone: EINVAL for another, and for a range that is not inside.
        Not from its `handle`, `submit` or `completed`: the I/Os in their hands are among those that
        it waits for, which is refused (EDEADLK); see `BdevIO.lock`.
        """
        await self._kept().quiesce(module, offset_blocks, num_blocks)

    async def unquiesce(
        self, module: type[Bdev], offset_blocks: int = 0, num_blocks: int | None = None
    ) -> None:
        """Undo `quiesce` of exactly this range, else EINVAL (spdk_bdev_unquiesce_range)."""
        await self._kept().unquiesce(module, offset_blocks, num_blocks)

    def notify_blockcnt_change(self, num_blocks: int) -> None:
        """Change the size, in blocks, and tell every opener (SPDK's name and rules).

        Growing always works; shrinking an open bdev is EBUSY.
        """
        if self.host is None:
            self.num_blocks = num_blocks
        else:
            self.host.resize(num_blocks)

    def _kept(self) -> Host:
        if self.host is None:
            raise BdevError(errno.ENODEV, f"bdev {self.name} is not registered")
        return self.host


class VirtualBdev(Bdev):
    """A bdev on a base bdev. Subclass it, set `kind`, write `submit`.

    It has the geometry and limits of its base (`INHERITED`) and those ops of its own list that
    the base has too: capabilities only narrow. `uuid_namespace` makes the UUID follow from the
    base's, so that it survives restarts.
    """

    Params: ClassVar[type[BdevParams]] = VirtualBdevParams
    base_param: ClassVar[str] = "base_bdev_name"
    """The parameter that names the base bdev."""
    create_errnos: ClassVar[tuple[int, ...]] = (errno.EEXIST, errno.EINVAL, errno.EPERM)
    is_layer: ClassVar[bool] = True
    """One is all of its base, so that `vbdev serve --layer` can put it there."""
    uuid_namespace: ClassVar[UUID] = UUID("5d0e5f2e-0f0b-4c0b-9d6b-2c2d8a2e6b61")

    base_claim: ClaimType = ClaimType.EXCLUSIVE_WRITE
    """How the base is claimed. One that only reads sets READ_MANY_WRITE_NONE: its base is opened
    for reading alone, others may do the same, and it has none of the ops that write."""
    base_claim_key: int = 0
    """What those agree on who share READ_MANY_WRITE_SHARED."""
    survives_base: ClassVar[bool] = True
    """When the base is hot-removed, the creation waits for its return; else it ends with it."""
    ends_with_base_in_spdk: ClassVar[bool] = False
    """In SPDK it ends: whoever asks again after a hot removal is right to, and is not told that
    it is configured already (`Creation.renew`)."""

    base: Bdev
    """The base bdev, from before `start` until after `stop`; the first, where there are several."""
    base_descriptor: Opened
    bases: tuple[Bdev, ...] = ()
    """All of them, as `base_names_of` names them."""
    base_descriptors: tuple[Opened, ...] = ()
    """How they are open. A channel has one of the first base; `create_channel` gets the others."""

    @classmethod
    def base_name_of(cls, params: BdevParams) -> str:
        """Return what the base bdev was called by whoever asked."""
        name: str = getattr(params, cls.base_param)
        return name

    @classmethod
    def base_names_of(cls, params: BdevParams) -> tuple[str, ...]:
        """Return what all its bases were called; it is built when the last of them is there."""
        return (cls.base_name_of(params),)

    @classmethod
    def creation_key(cls, params: BdevParams) -> str:
        """Return what a creation is kept and deleted by; the vbdev's name, unless it is many."""
        return params.name

    @classmethod
    def plan(cls, params: BdevParams, base: Bdev) -> list[VirtualBdev]:
        """Return the vbdevs to build on a base that is there: one, or several that share it.

        They are built in this order, all of them or none. base: the first, where there are several.
        """
        return [cls(params)]

    @classmethod
    def creation_config(cls, params: BdevParams, vbdevs: list[VirtualBdev]) -> list[dict[str, Any]]:
        """Return the RPC calls that ask for a creation again; `vbdevs`: what there is of it."""
        source = vbdevs[0] if vbdevs else cls(params)
        return [{"method": f"bdev_{cls.kind}_create", "params": source.config_params()}]

    def config_params(self) -> dict[str, Any]:
        """Return what it is saved with; the base first, as in SPDK, unless the module says else."""
        params = super().config_params()
        if self.base_param not in params or self.saved_params:
            return params
        return {self.base_param: params.pop(self.base_param), **params}

    def inherit(self) -> None:
        """Take geometry, limits and ops over from the base; again when the base is resized."""
        base = self.base
        for name in INHERITED:
            setattr(self, name, getattr(base, name))
        self.ops = type(self).ops & base.ops
        if not self.base_descriptor.write:
            self.ops -= WRITE_OPS
        # Both for one reason: it never looks at data.
        self.gives_read_buffers = type(self).gives_read_buffers and base.gives_read_buffers
        self.memory_domains = base.memory_domains if type(self).gives_read_buffers else ()
        if self.uuid is None:
            assert base.uuid is not None
            self.uuid = uuid5(type(self).uuid_namespace, base.uuid)

    def created(self) -> None:
        """Say what there is to say when it is there; what is raised here is logged."""

    def base_resized(self) -> None:
        """Follow the base's new size. Override it where the sizes differ."""
        self.notify_blockcnt_change(self.base.num_blocks)


class Opened(Opener, Protocol):
    """An open bdev, to do I/O with: see `vbdev.bdev.descriptor`."""

    bdev: Bdev

    def io(
        self, op: Op, offset_blocks: int = 0, num_blocks: int = 0, data: Any = None, **kwargs: Any
    ) -> Future[Request]:
        """Submit one I/O and return a future of it; awaiting a failure raises IoError."""

    def close(self) -> Future[None]:
        """Close it; BdevError EBUSY with I/O outstanding."""


class Hold(Protocol):
    """A base, opened and claimed for one or several vbdevs: see `vbdev.registry.holds`.

    An asynchronous context manager; leaving it gives the caller's share back.
    """

    base: Bdev
    """What is held."""
    vbdevs: dict[VirtualBdev, None]
    """What stands on it."""

    @property
    def descriptor(self) -> Opened:
        """By which it is held."""

    def take(self) -> Self:
        """Count one more user."""

    async def give(self) -> None:
        """Count one user less; the last one waits until the base is closed and unclaimed."""

    async def __aenter__(self) -> Self:
        """Return it."""

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the share back."""


class Layer(Protocol):
    """What the examination of a new bdev may ask of whoever keeps all bdevs (`vbdev.registry`)."""

    reactor: Reactor
    """Where the control plane runs."""
    module_options: dict[str, msgspec.Struct]
    """What `bdev_<kind>_set_options` was given last, by kind."""

    def __iter__(self) -> Iterator[Bdev]:
        """Yield all bdevs, in the order in which they came."""

    def find(self, name: str) -> Bdev | None:
        """Return the bdev with this name, alias or UUID."""

    def get(self, name: str, kind: str | None = None) -> Bdev:
        """Return the bdev of this name (and kind); BdevError ENODEV."""

    def open(
        self, name: str, *, write: bool, on_event: Callable[[BdevEvent], object], holder: str
    ) -> Opened:
        """Open a bdev; see `Registry.open`."""

    def hold(
        self,
        base: Bdev,
        module: str,
        *,
        holder: str,
        claim: ClaimType = ClaimType.EXCLUSIVE_WRITE,
        key: int = 0,
    ) -> Hold:
        """Open and claim a base for vbdevs."""

    async def build(self, layer: VirtualBdev, *holds: Hold) -> None:
        """Start and register a vbdev on bases that are held, without a creation."""

    async def create(self, cls: type[Bdev], params: BdevParams) -> str:
        """Make a bdev and return its name."""

    async def take_away(self, bdev: Bdev) -> None:
        """Unregister a bdev, or wait for the end of its removal."""

    def hot_remove(self, bdev: Bdev) -> None:
        """Begin to remove a bdev that has nothing to stand on any more."""


def uuid5(namespace: UUID, base: UUID, more: bytes = b"") -> UUID:
    """Return the UUIDv5 of a name that is a base's UUID, in 16 bytes, and what follows it."""
    import hashlib

    digest = hashlib.sha1(namespace.bytes + base.bytes + more, usedforsecurity=False).digest()
    return UUID(bytes=digest[:16], version=5)
