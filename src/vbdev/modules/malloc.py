"""malloc: a disk in memory, zero at the start, gone at the end."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from functools import partial
from pathlib import Path

import msgspec

from vbdev.api.methods import DECODE_OBJECT_FAILED
from vbdev.api.params import UINT64_MAX, Int32, Uint32
from vbdev.bdev import Bdev, BdevError, BdevParams, Unnamed
from vbdev.bdev.geometry import SizedParams, set_geometry
from vbdev.core.engine.batch import IOBatch
from vbdev.core.engine.channel import Channel
from vbdev.core.ram.disk import RamDisk
from vbdev.reactor.blocking import call_blocking
from vbdev.vocab import DmaDeviceType, Op

log = logging.getLogger(__name__)

FORMAT_BYTES = 4 << 20
"""Memory touched at a time, about 1 ms."""
GIVE_BACK_BYTES = 16 << 20
"""Memory returned to the kernel at a time, 1 ms at most."""
TURN_NS = 500_000
"""After so long others run in between."""
POPULATE_BYTES = 16 << 20
"""Memory taken at a time on a thread, some 5 ms; what is left is compared before each."""
CGROUPS = Path("/sys/fs/cgroup")
ANY_NODE = -1


class MallocParams(SizedParams, kw_only=True, forbid_unknown_fields=True):
    """Create a bdev in memory."""

    name: str = msgspec.field(default_factory=Unnamed)
    """Name of the bdev; `Malloc<n>` when absent."""
    optimal_io_boundary: Uint32 = 0
    """Blocks; I/O that crosses a multiple of it is split there. 0: none is."""
    md_interleave: bool = False
    """Metadata is part of each block, not in a buffer of its own."""
    numa_id: Int32 = -1
    """NUMA node whose memory is preferred; -1 for any."""
    reserve: bool = False
    """Refuse a disk of more memory than is available now; by default the log says so."""
    populate: bool = False
    """Take all of its memory at creation, or fail; UNMAP gives it back all the same."""


class Malloc(Bdev):
    """A memory disk. Nothing survives it, so nothing is ever lost to a missing FLUSH."""

    kind = "malloc"
    product_name = "Malloc disk"
    keeps_data = False
    auto_name = "Malloc"
    Params = MallocParams
    saved_params = (
        "name",
        "num_blocks",
        "block_size",
        "physical_block_size",
        "uuid",
        "optimal_io_boundary",
        "md_size",
        "dif_type",
        "dif_is_head_of_md",
        "dif_pi_format",
        "numa_id",
    )
    undecoded = DECODE_OBJECT_FAILED
    create_errnos = (*Bdev.create_errnos, errno.ENOMEM)
    ops = frozenset(
        {
            Op.READ,
            Op.WRITE,
            Op.UNMAP,
            Op.FLUSH,
            Op.RESET,
            Op.WRITE_ZEROES,
            Op.ZCOPY,
            Op.COMPARE,
            Op.ABORT,
            Op.COPY,
            Op.SEEK_HOLE,
            Op.SEEK_DATA,
        }
    )
    fast_zero = True
    fua = True
    params: MallocParams

    async def start(self) -> None:
        """Reserve the memory; pages are touched as they are written."""
        params = self.params
        who = f"malloc bdev {self.name!r}"
        set_geometry(self, params, md_interleave=params.md_interleave, too_large=errno.ENOMEM)
        nodes = online_nodes()
        if params.numa_id not in (ANY_NODE, *nodes):
            raise BdevError(
                errno.EINVAL,
                f"{who}: numa_id is {params.numa_id}; the machine has {', '.join(map(str, nodes))}",
            )
        self.numa_id = params.numa_id  # shown even where it is ANY_NODE, as SPDK's is
        self.optimal_io_boundary = params.optimal_io_boundary
        self.split_on_optimal_io_boundary = self.optimal_io_boundary > 0
        # Protection information is checked where the data is mapped, which a domain's is not.
        self.memory_domains = () if self.dif_type else tuple(DmaDeviceType)
        await self._reserve(who, len(nodes))

    async def _reserve(self, who: str, num_nodes: int) -> None:
        # What is written at once has to be there at once: the kernel would not refuse it, and kill.
        each = self.block_size if self.md_interleave else self.md_len
        written, available = self.num_blocks * each if self.dif_type else 0, available_bytes()
        if written > available:
            raise BdevError(
                errno.ENOMEM,
                f"{who}: protection information is written to all of its blocks, which takes"
                f" {written} bytes of memory; {available} are available",
            )
        promised = self.num_blocks * (self.block_size + (0 if self.md_interleave else self.md_len))
        if promised > available:
            promise = f"{who}: {promised} bytes are promised, and {available} are available"
            if self.params.reserve or self.params.populate:
                raise BdevError(errno.ENOMEM, promise)
            log.warning("%s; the kernel may kill vbdev when they are written", promise)
        try:
            self._ram = RamDisk(self.num_blocks, self.block_size, self.metadata_layout())
        except (MemoryError, OverflowError) as error:
            raise BdevError(
                errno.ENOMEM, f"{who}: no memory for {self.size_bytes} bytes"
            ) from error
        if self.numa_id is not None and self.numa_id != ANY_NODE and num_nodes > 1:
            number = self._ram.prefer_node(self.numa_id)
            if number:
                raise BdevError(
                    number, f"{who}: no memory of NUMA node {self.numa_id}: {os.strerror(number)}"
                )
        try:
            if self.params.populate:
                await self._populate(who)
            if self.dif_type:
                await self._format()
        except BaseException:
            await self.stop()
            raise

    async def _populate(self, who: str) -> None:
        """Take the memory, a piece at a time on a thread, so that nobody waits for it.

        The kernel does not refuse what it lacks, but kills; so it is asked before each piece.
        What guarantees progress: a piece is bounded, and needs nothing but memory.
        """
        ram = self._ram
        for offset in range(0, ram.held_bytes, POPULATE_BYTES):
            left, available = ram.held_bytes - offset, available_bytes()
            number = errno.ENOMEM
            if left <= available:
                take = partial(ram.populate, offset, POPULATE_BYTES)
                what = f"populating {who}"
                try:
                    number = await call_blocking(self.reactor, what, take, timeout_us=None)
                except OSError as error:  # no thread to be had, or the application ends
                    number = error.errno or errno.EIO
            if number:
                raise BdevError(
                    number,
                    f"{who}: populating its {ram.held_bytes} bytes: {os.strerror(number)};"
                    f" {left} bytes are missing, and {available} are available",
                )

    async def _format(self) -> None:
        """Write the first protection information, a piece at a time: others run in between."""
        blocks = max(1, FORMAT_BYTES // (self.block_size if self.md_interleave else self.md_len))
        for offset in range(0, self.num_blocks, blocks):
            self._ram.format(offset, min(blocks, self.num_blocks - offset))
            await self.reactor.sleep(0)

    async def stop(self) -> None:
        """Give the memory back now, whoever still knows the bdev; a piece at a time as above."""
        began_ns = self.reactor.clock.now_ns()
        for offset in range(0, self._ram.mapped_bytes, GIVE_BACK_BYTES):
            if self.reactor.clock.now_ns() - began_ns > TURN_NS:  # pages never written take none
                await self.reactor.sleep(0)
                began_ns = self.reactor.clock.now_ns()
            self._ram.give_back(offset, GIVE_BACK_BYTES)
        del self._ram

    def current_params(self) -> BdevParams:
        """Return the parameters, those that were left out too."""
        return msgspec.structs.replace(
            super().current_params(),
            physical_block_size=self.phys_block_size,
            optimal_io_boundary=self.optimal_io_boundary,
        )

    def submit(self, channel: Channel, ios: IOBatch) -> None:
        """Copy, compare, clear; everything completes here."""
        self._ram.execute(ios)


def available_bytes() -> int:
    """Return how much memory there is for the taking: MemAvailable of proc(5), or a cgroup's."""
    available = UINT64_MAX
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) << 10
    return min([available, *_cgroups_leave()])


def _cgroups_leave(groups: Path = Path("/proc/self/cgroup"), root: Path = CGROUPS) -> list[int]:
    """Return what each limit of this process's control groups leaves (cgroups(7))."""
    left: list[int] = []
    try:
        lines = groups.read_text().splitlines()
    except (OSError, ValueError):
        return left
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top, most, used = root, "memory.max", "memory.current"
        if controllers:
            top, most, used = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        group = top / path.lstrip("/")
        for place in (group, *group.parents):
            with contextlib.suppress(OSError, ValueError):  # "max": there is no limit
                limit = int((place / most).read_text())
                # Pages of files go as soon as somebody wants their memory.
                stat = dict(one.split() for one in (place / "memory.stat").read_text().splitlines())
                files = int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
                left.append(max(0, limit - int((place / used).read_text()) + files))
            if place == top:
                break
    return left


def online_nodes() -> list[int]:
    """Return the machine's NUMA nodes; where the kernel knows of none, there is node 0."""
    try:
        text = Path("/sys/devices/system/node/online").read_text(encoding="ascii").strip()
    except OSError:
        return [0]
    nodes: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        nodes += range(int(first), int(last or first) + 1)
    return nodes
