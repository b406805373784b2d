"""nbd: a disk that an NBD server has, over a unix socket or TCP."""

from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from vbdev.api.params import Uint32
from vbdev.bdev import Bdev, BdevError, BdevParams, BdevState
from vbdev.core.engine.batch import IOBatch
from vbdev.core.engine.channel import Channel
from vbdev.core.engine.engine import Engine
from vbdev.reactor.reactor import Reactor
from vbdev.vocab import NBD_MAX_PAYLOAD_BYTES, WRITE_OPS, Op

if TYPE_CHECKING:
    from vbdev.core.nbd.client.path import NbdPath
    from vbdev.modules.nbd.lane import Lane, Remote
    from vbdev.modules.nbd.uri import Server
    from vbdev.wire.nbd import ExportInfo

__all__ = ["Nbd"]

log = logging.getLogger(__name__)

MIN_BLOCK_SIZE = 512
MAX_SEGMENTS = 256
MAX_UNMAP_BYTES = 128 << 20
"""Most that one TRIM or WRITE_ZEROES asks for: a server that has to write does so in time."""


class NbdParams(BdevParams, kw_only=True, forbid_unknown_fields=True):
    """Create a bdev on an export of an NBD server."""

    uri: str
    """The server: `nbd://host:port/export`, `nbd+unix:///export?socket=/path`, `unix:/path` or
    `tcp:host:port`."""
    export_name: str = ""
    """Name of the export, where the URI has none. Absent: the server's default export."""
    connections: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1
    """Connections for each reactor that uses the bdev. A server without CAN_MULTI_CONN gets one."""
    reconnect_delay: Uint32 = 0
    """Seconds that I/O waits for a lost server to come back. 0: it fails at once. Attempts to
    connect again go on either way."""
    timeout: Uint32 = 60
    """Seconds within which a request is answered; a connection that takes longer is given up.
    0: there is no limit."""
    readonly: bool = False
    """Never write, even where the server would allow it."""
    keeps_writes: bool = False
    """The server keeps what it has acknowledged when a connection, or its process, ends. Without
    this, acknowledged writes that no FLUSH has covered count as lost with their connection: every
    later FLUSH and FUA fails."""


class Nbd(Bdev):
    """An NBD client. What it can do is what the server's transmission flags offer."""

    kind = "nbd"
    product_name = "NBD disk"
    Params = NbdParams
    saved_params = ("name", "uri", "uuid")
    remote = True
    create_errnos = (
        *Bdev.create_errnos,
        errno.ENOENT,
        errno.EACCES,
        errno.ECONNREFUSED,
        errno.EHOSTUNREACH,
        errno.ETIMEDOUT,
        errno.EPROTO,
    )
    params: NbdParams

    _remote: Remote

    async def start(self) -> None:
        """Connect, and take what the server says of the export."""
        # Here, because who never has an NBD server need not wait for these at the start.
        from vbdev.core.nbd.client.queue import RemoteDisk
        from vbdev.modules.nbd.dialing import Dial
        from vbdev.modules.nbd.lane import DIAL_US, Remote
        from vbdev.modules.nbd.uri import parse_server

        params, who = self.params, f"nbd bdev {self.name!r}"
        server = parse_server(who, params.uri, params.export_name)
        try:
            dialed = await Dial(self.reactor, server, DIAL_US).run()
        except (OSError, BdevError) as error:
            number = error.errno or errno.EIO
            text = error.strerror if isinstance(error, OSError) else str(error)
            raise BdevError(number, f"{who}: {server}: {text}") from error
        info = dialed.over.info
        try:
            self._take_geometry(who, server, info)
            self._remote = Remote(
                self,
                server,
                info,
                RemoteDisk(
                    block_size=self.block_size,
                    keeps_writes=params.keeps_writes,
                    max_bytes=self.max_rw_size * self.block_size,
                ),
                home=self.reactor,
                connections=params.connections,
                reconnect_delay_s=params.reconnect_delay,
                timeout_s=params.timeout,
                on_size=self._server_resized,
            )
            engine = self.reactor.engine
            assert isinstance(engine, Engine)
            lane = self._remote.lane(self.reactor, engine)
        except BaseException:
            dialed.socket.close()
            raise
        if params.connections > 1 and not self._remote.can_multi_conn:
            log.warning(
                "nbd server gets one connection: it does not offer several bdev=%s server=%s",
                self.name,
                server,
            )
        lane.start(dialed)

    def _take_geometry(self, who: str, server: Server, info: ExportInfo) -> None:
        """Follow from what the server says what the bdev is and can do."""
        from vbdev.wire.nbd import TransmissionFlag as Flag

        flags, sizes = info.flags, info.block_sizes
        minimum = sizes.minimum_bytes if sizes is not None else 1
        preferred = sizes.preferred_bytes if sizes is not None else 4096
        maximum = min(
            sizes.maximum_bytes if sizes is not None else NBD_MAX_PAYLOAD_BYTES,
            NBD_MAX_PAYLOAD_BYTES,
        )
        self.block_size = max(MIN_BLOCK_SIZE, minimum)
        self.num_blocks = info.size_bytes // self.block_size
        if not self.num_blocks:
            raise BdevError(
                errno.EINVAL,
                f"{who}: {server} has {info.size_bytes} bytes, which is less than one block of"
                f" {self.block_size}",
            )
        if maximum < self.block_size:
            raise BdevError(
                errno.EINVAL,
                f"{who}: {server} takes {maximum} bytes at once, which is less than one block of"
                f" {self.block_size}",
            )
        if info.size_bytes % self.block_size:
            log.warning(
                "the end of an nbd export is no whole block and left out bdev=%s bytes=%d",
                self.name,
                info.size_bytes % self.block_size,
            )
        self.phys_block_size = max(self.block_size, min(preferred, maximum))
        self.max_rw_size = maximum // self.block_size
        self.max_num_segments = MAX_SEGMENTS
        self.max_unmap = self.max_write_zeroes = MAX_UNMAP_BYTES // self.block_size
        self.max_unmap_segments = 1
        ops = {Op.READ, Op.WRITE, Op.RESET, Op.ABORT}
        if flags & Flag.SEND_FLUSH:
            ops.add(Op.FLUSH)
        if flags & Flag.SEND_TRIM:
            ops.add(Op.UNMAP)
        if flags & Flag.SEND_WRITE_ZEROES:
            ops.add(Op.WRITE_ZEROES)
        if self.params.readonly or flags & Flag.READ_ONLY:
            ops -= WRITE_OPS
        self.ops = frozenset(ops)
        # A server that knows no FLUSH leaves open what it has in a cache: FUA alone is a promise.
        self.write_cache = Op.WRITE in ops
        self.fua = bool(flags & (Flag.SEND_FUA | Flag.SEND_FLUSH))
        self.fast_zero = Op.WRITE_ZEROES in ops and bool(flags & Flag.SEND_FAST_ZERO)

    def create_channel(self, channel: Channel) -> NbdPath:
        """Go through the connections of the channel's reactor."""
        reactor = Reactor.current()
        assert reactor is not None
        lane = self._remote.lane(reactor, channel.engine)
        lane.start()
        return lane.path

    def submit(self, channel: Channel, ios: IOBatch) -> None:
        """Ask the server."""
        channel.context.submit(ios)

    def _server_resized(self, size_bytes: int) -> None:
        """Follow the size that a later connection was told."""
        num_blocks = size_bytes // self.block_size
        if self.state is not BdevState.READY or num_blocks == self.num_blocks:
            return
        if num_blocks > self.num_blocks:
            self.notify_blockcnt_change(num_blocks)
            log.info("nbd server's export has grown bdev=%s num_blocks=%d", self.name, num_blocks)
        else:
            log.error(
                "nbd server's export has shrunk; I/O beyond its end fails bdev=%s num_blocks=%d"
                " was=%d",
                self.name,
                num_blocks,
                self.num_blocks,
            )

    def dump_info(self) -> dict[str, Any]:
        """Return `driver_specific` of `bdev_get_bdevs`."""
        remote = self._remote
        return {
            "nbd": {
                "uri": self.params.uri,
                "export_name": remote.server.export_name,
                "connections": self.params.connections,
                "connected": sum(lane.num_connected for lane in remote.lanes),
                "reconnect_delay": self.params.reconnect_delay,
                "timeout": self.params.timeout,
                "readonly": self.params.readonly,
                "keeps_writes": self.params.keeps_writes,
                "writes_lost": remote.core.lost,
            }
        }

    async def sync(self) -> None:
        """FLUSH where writes may be in the server's cache: it may be one that ends with us."""
        await self._remote.flush_dirty(self.reactor)

    async def stop(self) -> None:
        """Make everything stable, then disconnect. BdevError where writes may be lost."""
        failed = 0
        for lane in self._remote.lanes:
            if lane.reactor is self.reactor:
                number = await lane.close()
            else:
                number = await self._close_elsewhere(lane)
            failed = failed or number
        if self._remote.core.lost:
            failed = failed or errno.EIO
        if failed and Op.FLUSH in self.ops:
            message = (
                f"nbd bdev {self.name!r}: {self._remote.server} could not be synced at the end:"
                f" {os.strerror(failed)}; data written since the last FLUSH may be lost"
            )
            log.critical("%s", message)
            raise BdevError(failed, message)

    async def _close_elsewhere(self, lane: Lane) -> int:
        """Close another reactor's lane on its own thread."""
        from vbdev.reactor.task import Future

        home = self.reactor
        done: Future[int] = Future()

        async def work() -> None:
            number = errno.EIO
            try:
                number = await lane.close()
            finally:
                home.send_msg(done.set_result, number)

        if not lane.reactor.send_msg(
            lambda: lane.reactor.spawn(work(), f"end of nbd bdev {self.name}")
        ):
            return 0
        return await done
