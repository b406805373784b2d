"""error: a disk that fails as it is told. READ, WRITE, UNMAP and FLUSH, a number of times.

An injection is kept for an I/O type and a range of blocks (all of them, as a rule); another one
for the same takes its place. The oldest one that hits decides what happens to an I/O. Which I/Os a
chance hits follows from its seed, so that a failed test can be run again.

As long as nothing is injected, batches pass as they are. While something is, each I/O is looked at
in Python: this is a device for tests, not for speed.
"""

from __future__ import annotations

import errno
import random
import threading
from collections.abc import Sequence
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec

from vbdev.api.methods import DECODE_OBJECT_INVALID, ModuleMethod, NamedParams, Refusal, failures
from vbdev.api.params import BdevName, Params, Uint8, Uint32, Uint64
from vbdev.bdev import ALL_OPS, Bdev, BdevError, BdevParams, VirtualBdev
from vbdev.bdev.channels import after_each_channel, for_each_channel
from vbdev.bdev.part import PART_NAMESPACE, part_uuid
from vbdev.core.engine.batch import IOBatch, load_columns
from vbdev.core.engine.channel import Channel
from vbdev.registry import Registry
from vbdev.vocab import Op, Status

STATUS_NEEDED = Refusal(
    -errno.EINVAL,
    "nvme_sct or nvme_sc should be specified for NVMe error injection",
)
TYPES = {"read": Op.READ, "write": Op.WRITE, "unmap": Op.UNMAP, "flush": Op.FLUSH}
END = 1 << 64
"""Where a range without a length ends: behind every block."""


class ErrorCreateParams(Params, kw_only=True, frozen=True):
    """Create a bdev `EE_<base>` that fails on request."""

    base_name: BdevName
    """Name, alias or UUID of the base bdev, which may arrive later."""
    uuid: UUID | None = None
    """UUID of the error bdev; follows from the base's when absent."""
    name: str = ""
    """Another name. (Not SPDK's.)"""


class ErrorParams(BdevParams, kw_only=True, forbid_unknown_fields=True):
    """Create an error bdev."""

    name: str = ""
    """Name of the bdev; `EE_` and what the base was called when absent."""
    base_name: BdevName
    """Name, alias or UUID of the base bdev, which may arrive later."""


class InjectParams(Params, kw_only=True, frozen=True):
    """Let I/Os fail. The parameters after corrupt_value are not SPDK's."""

    name: BdevName
    """Name of the error bdev."""
    io_type: Literal["clear", "read", "write", "unmap", "flush", "all"]
    """Which I/Os; `clear` forgets all injections, `all` makes one for each of the four types."""
    error_type: Literal["failure", "pending", "corrupt_data", "nomem", "nvme_failure"]
    """What happens to them: FAILED; held until a RESET or bdev_error_resume_pending; a byte of
    their data changes (READ, WRITE); NOMEM, which is tried again; NVMe status."""
    nvme_sct: Uint32 = 0
    """nvme_failure: status code type."""
    nvme_sc: Uint32 = 0
    """nvme_failure: status code."""
    num: Uint32 = 1
    """How many I/Os; 0 takes the injection back."""
    queue_depth: Uint64 = 0
    """Only while the base has so many I/Os of the channel."""
    corrupt_offset: Uint64 = 0
    """corrupt_data: the byte of the I/O's data that is changed."""
    corrupt_value: Uint8 = 0
    """corrupt_data: what it is XORed with; not 0."""
    offset_blocks: Uint64 = 0
    """Only I/Os that touch the range that starts here, in blocks."""
    num_blocks: Uint64 = 0
    """Length of the range in blocks; 0: up to the end."""
    nth: Annotated[int, msgspec.Meta(ge=1, le=(1 << 32) - 1)] = 1
    """Only each nth of the I/Os that the above applies to."""
    probability: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    """Only with this chance."""
    seed: Uint64 = 0
    """Which ones the chance hits: the same for the same sequence of I/Os."""


class Injection:
    """What happens to the I/Os of one type that touch one range. Counts as it hits."""

    def __init__(self, params: InjectParams) -> None:
        self.params = params
        self.left = params.num
        self.first = params.offset_blocks
        self.end = params.offset_blocks + params.num_blocks if params.num_blocks else END
        self._seen = 0
        self._chance = random.Random(params.seed)  # noqa: S311 - chance, no secret

    def hits(self, first: int, num_blocks: int, in_flight: int) -> bool:
        """Say whether it hits an I/O of its type, and count it then."""
        params = self.params
        # A FLUSH of no blocks is one of all blocks.
        touches = first < self.end and (first + num_blocks > self.first or not num_blocks)
        if not self.left or in_flight < params.queue_depth or not touches:
            return False
        self._seen += 1
        if self._seen % params.nth or self._chance.random() >= params.probability:
            return False
        self.left -= 1
        return True


class ErrorChannel:
    """What one channel holds."""

    def __init__(self) -> None:
        self.pending: list[IOBatch] = []
        """I/Os that are held, in order, in batches."""
        self.corrupted: dict[int, Injection] = {}
        """READs that are under way and shall come back changed, by their `IOBatch.ids`."""

    def num_pending(self) -> int:
        """Return how many I/Os are held."""
        return sum(map(len, self.pending))

    def abort(self, aborts: IOBatch) -> None:
        """End the victims of these ABORTs; those whose victim is not held stay in the batch."""
        for ios in self.pending:
            victims, hits = ios.take_victims(aborts)
            victims.complete(Status.ABORTED)
            hits.complete(Status.SUCCESS)

    def abort_all(self) -> None:
        """End all that is held as ABORTED."""
        pending, self.pending = self.pending, []
        for ios in pending:
            ios.complete(Status.ABORTED)


class Error(VirtualBdev):
    """Forwards everything that no injection hits."""

    kind = "error"
    ends_with_base_in_spdk = True
    product_name = "Error Injection Disk"
    uuid_namespace = PART_NAMESPACE
    base_param = "base_name"
    Params = ErrorParams
    undecoded = DECODE_OBJECT_INVALID
    ops = ALL_OPS
    params: ErrorParams

    def __init__(self, params: BdevParams) -> None:
        super().__init__(msgspec.structs.replace(params, name=self.creation_key(params)))
        self.injections: dict[int, list[Injection]] = {}
        """By type. Replaced as a whole: who only looks whether it is empty needs no lock."""
        self._lock = threading.Lock()
        """Over the injections and their counts, which all channels draw from."""

    @classmethod
    def creation_key(cls, params: BdevParams) -> str:
        """Return the name, which follows from the base's where none was given."""
        return params.name or f"EE_{cls.base_name_of(params)}"

    @classmethod
    def creation_config(cls, params: BdevParams, vbdevs: list[VirtualBdev]) -> list[dict[str, Any]]:
        """Return the call for what was asked for. Injections are saved behind it."""
        assert isinstance(params, ErrorParams)
        call = {"base_name": params.base_name}
        uuid = params.uuid
        if vbdevs and vbdevs[0].uuid != derived_uuid(vbdevs[0].base):
            uuid = vbdevs[0].uuid  # it follows from the size, which has changed since
        if uuid:
            call["uuid"] = str(uuid)
        if params.name and params.name != f"EE_{params.base_name}":
            call["name"] = params.name
        return [{"method": "bdev_error_create", "params": call}]

    def config_calls(self) -> Sequence[dict[str, Any]]:
        """Return what is injected, for as many I/Os as are left. A chance begins anew."""
        with self._lock:
            left = [
                (name, injection.params, injection.left)
                for name, op in TYPES.items()
                for injection in self.injections.get(op, ())
            ]
        calls = []
        for io_type, params, num in left:
            saved = msgspec.structs.replace(params, name=self.name, io_type=io_type, num=num)
            given = {
                field.name: getattr(saved, field.name)
                for field in msgspec.structs.fields(saved)
                if getattr(saved, field.name) != field.default
            }
            calls.append({"method": "bdev_error_inject_error", "params": given})
        return calls

    def inherit(self) -> None:
        """Be like the base. The UUID is the one of a part of it that is all of it."""
        if self.uuid is None:
            self.uuid = derived_uuid(self.base)
        super().inherit()

    async def start(self) -> None:
        """Injections look at columns."""
        load_columns()

    def create_channel(self, channel: Channel) -> ErrorChannel:
        """Hold nothing yet."""
        return ErrorChannel()

    def submit(self, channel: Channel, ios: IOBatch) -> None:
        """Forward; except what is hit. A RESET ends what is held, and goes no further."""
        here: ErrorChannel = channel.context
        resets = ios.take(Op.RESET)
        if resets:
            after_each_channel(channel, lambda each: each.context.abort_all(), resets.complete)
        if here.pending:
            aborts = ios.take(Op.ABORT)
            here.abort(aborts)
            channel.base.submit(aborts)
        if self.injections:
            self._inject(channel, ios)
        channel.base.submit(ios)

    def _inject(self, channel: Channel, ios: IOBatch) -> None:
        """Take the I/Os that are hit out of the batch, and let happen to them what shall."""
        hit = self._choose(channel, ios)
        for injection in dict.fromkeys(one for one in hit if one is not None):
            chosen = ios.take([one is injection for one in hit])
            hit = [one for one in hit if one is not injection]
            self._apply(channel, ios, chosen, injection)

    def _choose(self, channel: Channel, ios: IOBatch) -> list[Injection | None]:
        hit: list[Injection | None] = []
        below = channel.outstanding - len(ios) - channel.context.num_pending()
        columns = (ios.ops.tolist(), ios.offset_blocks.tolist(), ios.num_blocks.tolist())
        with self._lock:
            for op, first, num_blocks in zip(*columns, strict=True):
                for injection in self.injections.get(op, ()):
                    if injection.hits(first, num_blocks, below):
                        hit.append(injection)
                        below += injection.params.error_type == "corrupt_data"
                        break
                else:
                    hit.append(None)
                    below += 1
            self._forget_spent()
        return hit

    def _forget_spent(self) -> None:
        kept = {op: [one for one in some if one.left] for op, some in self.injections.items()}
        self.injections = {op: some for op, some in kept.items() if some}

    def _apply(self, channel: Channel, ios: IOBatch, chosen: IOBatch, injection: Injection) -> None:
        here: ErrorChannel = channel.context
        params = injection.params
        if params.error_type == "failure":
            chosen.complete(Status.FAILED)
        elif params.error_type == "nomem":
            chosen.complete(Status.NOMEM, errno.ENOMEM)
        elif params.error_type == "nvme_failure":
            chosen.complete(Status.NVME_ERROR, nvme=(params.nvme_sct, params.nvme_sc))
        elif params.error_type == "pending":
            here.pending.append(chosen)
        else:
            self._corrupt(channel, chosen, injection)
            ios.extend(chosen)

    def _corrupt(self, channel: Channel, chosen: IOBatch, injection: Injection) -> None:
        """Change the WRITEs' data now, in a copy, and note the READs for when they come back."""
        reads = chosen.take(Op.READ)
        channel.context.corrupted.update(dict.fromkeys(reads.ids.tolist(), injection))
        writes = chosen.take(Op.WRITE)
        wanted = len(writes)
        writes.copy_data(Op.WRITE)
        self._give_back(injection, wanted - len(writes))
        for one in writes.split():
            corrupt(one, injection.params)
            chosen.extend(one)
        chosen.extend(reads)

    def _give_back(self, injection: Injection, num: int) -> None:
        """Uncount WRITEs that wait for memory: they come to `submit` once more."""
        if not num:
            return
        with self._lock:
            some = self.injections.get(Op.WRITE, [])
            injection.left += num
            self.injections = {**self.injections, Op.WRITE: list(dict.fromkeys([*some, injection]))}

    def completed(self, channel: Channel, ios: IOBatch) -> None:
        """Change the data of the READs that were chosen for it on their way down."""
        here: ErrorChannel = channel.context
        if not here.corrupted:
            return
        chosen = [here.corrupted.pop(number, None) for number in ios.ids.tolist()]
        if not any(chosen):
            return
        reads = ios.take([one is not None for one in chosen])
        for one, injection in zip(reads.split(), filter(None, chosen), strict=True):
            corrupt(one, injection.params)
            ios.extend(one)

    def inject(self, params: InjectParams) -> None:
        """Add an injection in place of the one for the same type and range, or take it back."""
        with self._lock:
            if params.io_type == "clear":
                self.injections = {}
                return
            changed = {op: list(some) for op, some in self.injections.items()}
            for op in TYPES.values() if params.io_type == "all" else (TYPES[params.io_type],):
                new = Injection(params)
                place = (new.first, new.end)
                kept = [one for one in changed.get(op, ()) if (one.first, one.end) != place]
                changed[op] = [*kept, new] if new.left else kept
            self.injections = {op: some for op, some in changed.items() if some}

    def resume(self, channel: Channel) -> None:
        """Submit what a channel holds once more; what is injected by now applies to it."""
        here: ErrorChannel = channel.context
        pending, here.pending = here.pending, []
        for ios in pending:
            self.submit(channel, ios)

    def dump_info(self) -> dict[str, Any]:
        """Return what `bdev_get_bdevs` shows as `driver_specific`."""
        return {"error_disk": {"base_bdev": self.base.name}}

    @classmethod
    def rpc_methods(cls) -> Sequence[ModuleMethod]:
        """Return create, which answers true, and what lets I/Os fail."""
        return (
            ModuleMethod(
                "bdev_error_create", ErrorCreateParams, create, errors=failures(*cls.create_errnos)
            ),
            ModuleMethod(
                "bdev_error_inject_error",
                InjectParams,
                inject_error,
                errors=(STATUS_NEEDED, *failures(errno.EINVAL, errno.ENODEV)),
            ),
            ModuleMethod(
                "bdev_error_resume_pending",
                NamedParams,
                resume_pending,
                errors=failures(errno.ENODEV),
            ),
        )


def derived_uuid(base: Bdev) -> UUID:
    """Return the UUID of an error bdev on a base, where nobody has given one."""
    assert base.uuid is not None
    return part_uuid(base.uuid, 0, base.num_blocks)


def corrupt(one: IOBatch, params: InjectParams) -> None:
    """XOR one byte of an I/O's data; one behind its end is none of it."""
    offset = params.corrupt_offset
    for piece in one.data():
        if offset < len(piece):
            piece[offset] ^= params.corrupt_value
            return
        offset -= len(piece)


async def create(registry: Registry, params: ErrorCreateParams) -> bool:
    """Create an error bdev, now or when its base comes."""
    wish = ErrorParams(name=params.name, uuid=params.uuid, base_name=params.base_name)
    await registry.create(Error, msgspec.structs.replace(wish, name=Error.creation_key(wish)))
    return True


async def inject_error(registry: Registry, params: InjectParams) -> bool:
    """Let I/Os of an error bdev fail."""
    if (params.error_type == "nvme_failure") != bool(params.nvme_sct or params.nvme_sc):
        raise STATUS_NEEDED.error(
            f"error_type {params.error_type}, nvme_sct {params.nvme_sct}, nvme_sc {params.nvme_sc}",
        )
    if max(params.nvme_sct, params.nvme_sc >> 5) > 7:
        raise BdevError(
            errno.EINVAL,
            f"nvme_sct {params.nvme_sct} and nvme_sc {params.nvme_sc}: 7 and 255 at most",
        )
    if params.error_type == "corrupt_data" and not params.corrupt_value:
        raise BdevError(errno.EINVAL, "corrupt_value 0 would change nothing: 1 to 255")
    error_bdev(registry, params.name).inject(params)
    return True


async def resume_pending(registry: Registry, params: NamedParams) -> bool:
    """Let the I/Os go on that an error bdev holds."""
    bdev = error_bdev(registry, params.name)
    await for_each_channel(bdev, bdev.resume)
    return True


def error_bdev(registry: Registry, name: str) -> Error:
    """Return an error bdev; BdevError ENODEV where there is none of this name."""
    bdev = registry.get(name, Error.kind)
    assert isinstance(bdev, Error)
    return bdev
