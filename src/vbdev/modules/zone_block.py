"""zone_block: a zoned disk on one that is not. Zones are written in order, at a write pointer.

A zone takes the next power of two of its capacity on the base. All start FULL, so that what the
base holds can be read; a zone is reset before it is written. The zones' states live in memory: they
begin anew when the bdev does.

A write pointer moves when a write is accepted, before the base has done it, so that a writer may
have several under way; where one fails, the zone has a gap, as on a real disk. Channels of several
reactors share the zones: whatever moves a write pointer does so under one lock, for a whole batch.
"""

from __future__ import annotations

import errno
import struct
import threading
import uuid
from array import array
from typing import Any

from vbdev.api.methods import Refusal
from vbdev.api.params import Uint64
from vbdev.bdev import BdevError, BdevParams, VirtualBdev
from vbdev.core.engine.batch import IOBatch, load_columns
from vbdev.core.engine.channel import Channel
from vbdev.core.engine.requests import Request, Requests
from vbdev.reactor.reactor import Reactor
from vbdev.vocab import ZONE_INFO, ZONE_INFO_BYTES, Op, Status, ZoneAction, ZoneState, ZoneType
from vbdev.wire.jsonrpc import INTERNAL_ERROR

ZONES_AT_ONCE = 128
"""Told in one go, some 100 us; others run in between."""
MAX_ZONES = 1 << 22
"""Zones of one bdev: 9 bytes of memory each."""
FORWARDED = frozenset({Op.FLUSH, Op.RESET, Op.ABORT})
OPEN_STATES = (ZoneState.IMP_OPEN, ZoneState.EXP_OPEN)
WRITABLE_STATES = (ZoneState.EMPTY, ZoneState.CLOSED, *OPEN_STATES)


class ZoneBlockParams(BdevParams, kw_only=True, forbid_unknown_fields=True):
    """Create a zoned bdev on a base that is not."""

    base_bdev: str
    """Name, alias or UUID of the base bdev, which may arrive later."""
    zone_capacity: Uint64
    """Blocks that can be written in each zone."""
    optimal_open_zones: Uint64
    """How many zones to write at once for the best speed; a hint."""


class Zones:
    """Write pointers and states of all zones, and the rules by which they change."""

    def __init__(self, num_zones: int, size: int, capacity: int) -> None:
        self.size = size
        """Blocks from one zone's start to the next one's; a power of two."""
        self.capacity = capacity
        """Blocks of a zone that can be written."""
        self.lock = threading.Lock()
        """Over all that is below; held by the callers of what changes it."""
        self._pointers = array("Q")
        """Blocks from the zone's start to its write pointer."""
        self._states = bytearray()
        self._resetting: set[int] = set()
        self.grow(num_zones)

    def __len__(self) -> int:
        return len(self._states)

    def grow(self, num_zones: int) -> None:
        """Add zones at the end, FULL."""
        more = num_zones - len(self)
        self._pointers.extend(array("Q", [self.capacity]) * more)
        self._states.extend(bytes([ZoneState.FULL]) * more)

    def at_start(self, offset_blocks: int) -> int | None:
        """Return the zone that starts here, if one does."""
        number, inside = divmod(offset_blocks, self.size)
        return number if not inside and number < len(self) else None

    def info(self, number: int) -> bytes:
        """Return what GET_ZONE_INFO tells of a zone."""
        start = number * self.size
        pointer = start + self._pointers[number]
        state = self._states[number]
        return struct.pack(ZONE_INFO, start, pointer, self.capacity, state, ZoneType.SEQWR)

    def write(self, offset_blocks: int, num_blocks: int) -> bool:
        """Move a zone's write pointer over a write that starts at it. False: it may not be."""
        number, inside = divmod(offset_blocks, self.size)
        if (
            number >= len(self)  # of no blocks, behind the last one
            or self._states[number] not in WRITABLE_STATES
            or number in self._resetting
            or inside != self._pointers[number]
            or inside + num_blocks > self.capacity
        ):
            return False
        self._pointers[number] = inside + num_blocks
        full = inside + num_blocks == self.capacity
        self._states[number] = ZoneState.FULL if full else ZoneState.IMP_OPEN
        return True

    def append(self, number: int, num_blocks: int) -> int | None:
        """Move a zone's write pointer; return the block where it was, None where it may not be."""
        at = number * self.size + self._pointers[number]
        return at if self.write(at, num_blocks) else None

    def take_back(self, number: int, at: int, num_blocks: int) -> None:
        """Undo an `append` of which nothing has reached the base, unless another one followed."""
        inside = at % self.size
        if self._pointers[number] == inside + num_blocks:
            self._pointers[number] = inside
            self._states[number] = ZoneState.IMP_OPEN

    def manage(self, number: int, action: int) -> bool:
        """Open, close or finish a zone. False: its state does not allow that."""
        state = self._states[number]
        if number in self._resetting:
            return False
        if action == ZoneAction.OPEN and state in WRITABLE_STATES:
            self._states[number] = ZoneState.IMP_OPEN
        elif action == ZoneAction.CLOSE and state in (ZoneState.CLOSED, *OPEN_STATES):
            self._states[number] = ZoneState.CLOSED
        elif action == ZoneAction.FINISH:
            self._states[number] = ZoneState.FULL
            self._pointers[number] = self.capacity
        else:
            return False
        return True

    def begin_reset(self, number: int) -> bool:
        """Keep everybody from a zone that is being reset. False: another reset is under way."""
        if number in self._resetting:
            return False
        self._resetting.add(number)
        return True

    def end_reset(self, number: int, done: bool) -> None:
        """Empty a zone, if that was done, and open it to writers again."""
        self._resetting.discard(number)
        if done:
            self._states[number] = ZoneState.EMPTY
            self._pointers[number] = 0


class ZoneBlock(VirtualBdev):
    """Zones on a base. READs that stay in a zone pass, and WRITEs at a write pointer."""

    kind = "zone_block"
    product_name = "zone_block"
    uuid_namespace = uuid.UUID("5f3f485a-d6bb-4443-9de7-023683b77389")
    base_param = "base_bdev"
    Params = ZoneBlockParams
    saved_params = ("base_bdev", "name", "zone_capacity", "optimal_open_zones")
    create_failure = Refusal(INTERNAL_ERROR, "Failed to create block zoned vbdev: {reason}")
    ops = frozenset({Op.READ, Op.WRITE}) | FORWARDED
    gives_read_buffers = True
    params: ZoneBlockParams

    def __init__(self, params: BdevParams) -> None:
        super().__init__(params)
        for name in ("zone_capacity", "optimal_open_zones"):
            if not getattr(params, name):
                raise BdevError(errno.EINVAL, f"zone_block vbdev {params.name!r}: {name} is 0")

    def inherit(self) -> None:
        """Take the base over in whole zones. EEXIST where it is zoned, EINVAL where none fits."""
        base, capacity = self.base, self.params.zone_capacity
        if base.zoned:
            raise BdevError(errno.EEXIST, f"base bdev {base.name} is zoned already")
        size = 1 << (capacity - 1).bit_length()
        num_zones = base.num_blocks // size
        if not 0 < num_zones <= MAX_ZONES:
            raise BdevError(
                errno.EINVAL,
                f"zone_block vbdev {self.name!r}: {num_zones} zones of {size} blocks on"
                f" {base.name} with its {base.num_blocks} blocks; 1 to {MAX_ZONES}",
            )
        super().inherit()
        self.ops |= {Op.GET_ZONE_INFO}
        if Op.WRITE in self.ops:
            self.ops |= {Op.ZONE_MANAGEMENT, Op.ZONE_APPEND}
        if self.md_len and not self.md_interleave:
            self.ops -= {Op.ZONE_APPEND}  # the WRITE that it becomes would leave metadata behind
        self.zones = Zones(num_zones, size, capacity)
        self.num_blocks = num_zones * size
        self.zoned = True
        self.zone_size = size
        self.optimal_open_zones = self.params.optimal_open_zones
        self.max_open_zones = self.max_active_zones = self.max_zone_append_size = 0

    def base_resized(self) -> None:
        """Have the zones that fit now; new ones are FULL, as all are in the beginning."""
        num_zones = min(self.base.num_blocks // self.zones.size, MAX_ZONES)
        if num_zones <= len(self.zones):
            return
        with self.zones.lock:
            self.zones.grow(num_zones)
        self.notify_blockcnt_change(num_zones * self.zones.size)

    def current_params(self) -> BdevParams:
        """Return what was asked for: SPDK saves no UUID that follows from the base's."""
        return self.params

    async def start(self) -> None:
        """Every batch is looked at by its columns."""
        load_columns()

    def create_channel(self, channel: Channel) -> Requests:
        """Have something to write and unmap with on the base."""
        return Requests(channel.engine)

    def destroy_channel(self, channel: Channel) -> None:
        """Leave the engine."""
        channel.context.close()

    def submit(self, channel: Channel, ios: IOBatch) -> None:
        """Forward what may be; zone commands are carried out one by one, with I/Os of their own."""
        commands = ios.take({Op.GET_ZONE_INFO, Op.ZONE_MANAGEMENT, Op.ZONE_APPEND})
        reads = ios.take(Op.READ)
        if reads:
            inside = reads.offset_blocks % self.zones.size
            beyond = reads.take(inside + reads.num_blocks > self.zones.capacity)
            beyond.complete(Status.FAILED, errno.EINVAL)
            channel.base.submit(reads)
        writes = ios.take(Op.WRITE)
        if writes:
            places = zip(writes.offset_blocks.tolist(), writes.num_blocks.tolist(), strict=True)
            with self.zones.lock:
                refused = [not self.zones.write(offset, count) for offset, count in places]
            if any(refused):
                writes.take(refused).complete(Status.FAILED, errno.EINVAL)
            channel.base.submit(writes)
        channel.base.submit(ios)
        for one in commands.split() if commands else ():
            self._command(channel, one)

    def _command(self, channel: Channel, one: IOBatch) -> None:
        (op,), (offset,), (count,) = one.ops, one.offset_blocks.tolist(), one.num_blocks.tolist()
        number = self.zones.at_start(offset)
        if number is None:
            one.complete(Status.FAILED, errno.EINVAL)
        elif op == Op.GET_ZONE_INFO:
            self._get_zone_info(channel.reactor, one, number)
        elif op == Op.ZONE_APPEND:
            self._append(channel, one, number, count)
        elif one.args[0] == ZoneAction.RESET:
            self._reset_zone(channel, one, number)
        else:
            with self.zones.lock:
                done = self.zones.manage(number, int(one.args[0]))
            if done:
                one.complete()
            else:
                one.complete(Status.FAILED, errno.EINVAL)

    def _get_zone_info(self, reactor: Reactor, one: IOBatch, number: int) -> None:
        end = number + int(one.args[0])
        views = one.data(Op.GET_ZONE_INFO)
        room = sum(map(len, views))
        if end > len(self.zones) or room < (end - number) * ZONE_INFO_BYTES:
            one.complete(Status.FAILED, errno.EINVAL)
            return
        reactor.begin(self._tell(reactor, one, views, range(number, end)), "zone info")

    async def _tell(
        self, reactor: Reactor, one: IOBatch, views: list[memoryview], numbers: range
    ) -> None:
        """Answer GET_ZONE_INFO, each zone as it is when its turn comes."""
        place = 0  # in the first of the views that are not full
        for at in range(0, len(numbers), ZONES_AT_ONCE):
            with self.zones.lock:
                told = b"".join(map(self.zones.info, numbers[at : at + ZONES_AT_ONCE]))
            while told:
                some = min(len(told), len(views[0]) - place)
                views[0][place : place + some] = told[:some]
                told, place = told[some:], place + some
                if place == len(views[0]):
                    views, place = views[1:], 0
            await reactor.breathe()
        one.complete()

    def _append(self, channel: Channel, one: IOBatch, number: int, count: int) -> None:
        with self.zones.lock:
            at = self.zones.append(number, count)
        if at is None:
            one.complete(Status.FAILED, errno.EINVAL)
            return

        def ended(request: Request) -> None:
            one.results = [at]
            complete_like(one, request)

        flags = int(one.flags[0])
        data = one.data(Op.ZONE_APPEND)
        request = channel.context.submit(
            channel.base, Op.WRITE, at, count, data, callback=ended, flags=flags
        )
        if request is None:  # no BdevIO is free: it comes once more
            with self.zones.lock:
                self.zones.take_back(number, at, count)
            one.complete(Status.NOMEM, errno.ENOMEM)

    def _reset_zone(self, channel: Channel, one: IOBatch, number: int) -> None:
        """Empty a zone. Where the base can, its blocks are given back before it is written anew."""
        with self.zones.lock:
            begun = self.zones.begin_reset(number)
            if begun and Op.UNMAP not in self.base.ops:
                self.zones.end_reset(number, done=True)
                one.complete()
                return
        if not begun:
            one.complete(Status.FAILED, errno.EINVAL)
            return

        def ended(request: Request) -> None:
            with self.zones.lock:
                self.zones.end_reset(number, done=request.status == Status.SUCCESS)
            complete_like(one, request)

        start, length = number * self.zones.size, self.zones.capacity
        request = channel.context.submit(channel.base, Op.UNMAP, start, length, callback=ended)
        if request is None:
            with self.zones.lock:
                self.zones.end_reset(number, done=False)
            one.complete(Status.NOMEM, errno.ENOMEM)

    def dump_info(self) -> dict[str, Any]:
        """Return what `bdev_get_bdevs` shows as `driver_specific`."""
        return {
            "zoned_block": {
                "name": self.name,
                "base_bdev": self.base.name,
                "zone_capacity": self.params.zone_capacity,
                "optimal_open_zones": self.params.optimal_open_zones,
            }
        }


def complete_like(one: IOBatch, request: Request) -> None:
    """Complete an I/O as the one ended that was carried out for it, detail and all."""
    status, detail = Status(request.status), request.detail
    if status is Status.NVME_ERROR:
        one.complete(status, nvme=(detail >> 8, detail & 0xFF), cdw0=request.cdw0)
    elif status is Status.SCSI_ERROR:
        sc, sk, asc, ascq = (detail >> shift & 0xFF for shift in (24, 16, 8, 0))
        one.complete(status, scsi=(sc, sk, asc, ascq))
    else:
        one.complete(status, request.errno)
