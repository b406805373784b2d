"""FileBdev: a bdev on a regular file or a block device. `uring` and `aio` differ in parameters.

The file's size is the bdev's and is never changed; a file is never created. What a FLUSH promises,
and why one that failed fails for ever, is told in `vbdev.core.file.queue`.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

from vbdev.api.methods import ModuleMethod, NamedParams, failures
from vbdev.bdev import Bdev, BdevError, BdevState
from vbdev.core.engine.batch import IOBatch
from vbdev.core.engine.channel import Channel
from vbdev.core.file.queue import FilePath, OpenFile
from vbdev.files import access
from vbdev.files.access import Call
from vbdev.files.opening import FileError, FileGeometry, FileLockedError
from vbdev.modules.file.service import FileService
from vbdev.reactor.blocking import CALL_US, BlockedError, call_blocking
from vbdev.reactor.reactor import Reactor
from vbdev.registry import Registry
from vbdev.vocab import WRITE_OPS, Op

__all__ = ["FileBdev"]

T = TypeVar("T")

log = logging.getLogger(__name__)

UNMAP_OPS = frozenset({Op.UNMAP, Op.WRITE_ZEROES})
LOCK_WAIT_US = 2_000_000
"""How long a locked file is waited for."""
LOCK_RETRY_US = 20_000
LAST_SYNC_US = 25_000_000
"""How long the last sync of a file is waited for whose mount or disk may hang."""
SEEK_OPS = frozenset({Op.SEEK_DATA, Op.SEEK_HOLE})


class FileBdev(Bdev):
    """A disk in a file. A subclass has the parameters and calls `open` in its `start`."""

    ops = frozenset({Op.READ, Op.WRITE, Op.FLUSH, Op.RESET, Op.ABORT}) | UNMAP_OPS | SEEK_OPS
    write_cache = True
    fua = True

    _geometry: FileGeometry
    _file: OpenFile
    _filename: str
    _followed: int = 0
    """How often the file's size was followed."""
    _used: bool = False
    """Whether any reactor ever had a channel. It becomes true once, and is looked at when none has
    one any more."""

    async def open(
        self,
        filename: str,
        *,
        block_size: int,
        readonly: bool,
        direct: bool | None,
        deallocate: bool,
        devices_only: str = "",
    ) -> None:
        """Open the file and take its geometry. deallocate: whether UNMAP and zeroing are wanted.

        block_size: bytes; 0 for what the file asks for. A file that another program has locked is
        waited for, LOCK_WAIT_US at most; one that does not open, because its mount hangs, for
        `blocking.CALL_US`. devices_only: see `open_file`.
        """
        # One piece: what is acquired is given back in the same place.
        who = f"{self.kind} bdev {self.name!r}"
        give_up_ns = self.reactor.clock.now_ns() + LOCK_WAIT_US * 1000

        while True:
            call = access.opening(
                who,
                filename,
                readonly=readonly,
                direct=direct,
                block_size=block_size or None,
                devices_only=devices_only,
            )
            try:
                geometry = await self._beside(f"{who}: opening {filename}", call, _give_back)
                break
            except FileLockedError as error:
                # A ring of a process that was killed keeps its files until the kernel is done
                # with it: whoever restarts a daemon at once must not be refused for that.
                if self.reactor.clock.now_ns() >= give_up_ns:
                    raise BdevError(error.errno, str(error)) from error
                await self.reactor.sleep(LOCK_RETRY_US)
            except FileError as error:
                raise BdevError(error.errno, str(error)) from error
        self._geometry = geometry
        self._filename = filename
        self.block_size = geometry.block_size
        self.num_blocks = geometry.size // geometry.block_size
        self.phys_block_size = geometry.phys_block_size
        self.required_alignment = geometry.alignment.bit_length() - 1
        self.remote = geometry.may_hang
        self.fast_zero = geometry.fast_zero and deallocate and not readonly
        self.ops = type(self).ops
        if readonly:
            self.ops -= WRITE_OPS
        if not deallocate:
            self.ops -= UNMAP_OPS
        if not geometry.can_unmap:
            self.ops -= {Op.UNMAP}
        if not geometry.can_seek:
            self.ops -= SEEK_OPS
        self._file = OpenFile(
            geometry.fd,
            block_size=self.block_size,
            num_blocks=self.num_blocks,
            is_device=geometry.is_device,
            direct=geometry.direct,
            dsync=geometry.dsync,
        )

    async def _beside(
        self,
        what: str,
        call: Call[T],
        give_back: Callable[[T], object] = lambda _value: None,
    ) -> T:
        """Make a call that may hang on a thread; BdevError where it is given up."""
        try:
            return await call_blocking(
                self.reactor, what, call.run, give_back=give_back, give_up=call.give_up
            )
        except BlockedError as error:
            raise BdevError(error.errno or errno.EIO, error.strerror or str(error)) from error

    def create_channel(self, channel: Channel) -> FilePath:
        """Go through the ring of the channel's reactor."""
        self._used = True
        return self._service(channel).attach(self._file, self, self._geometry)

    def destroy_channel(self, channel: Channel) -> None:
        """Leave the reactor's ring."""
        self._service(channel).detach(channel.context)

    def _service(self, channel: Channel) -> FileService:
        reactor = Reactor.current()
        assert reactor is not None
        is_apart = self._geometry.may_hang and not self._geometry.is_device
        return FileService.of(reactor, channel.engine, self._file if is_apart else None)

    def submit(self, channel: Channel, ios: IOBatch) -> None:
        """Hand everything to the ring, or to workers."""
        channel.context.submit(ios)

    @classmethod
    def rpc_methods(cls) -> Sequence[ModuleMethod]:
        """Return `bdev_<kind>_rescan`."""

        async def rescan(registry: Registry, params: NamedParams) -> bool:
            """Follow a file's new size; a device that has none any more is hot-removed."""
            bdev = registry.get(params.name, cls.kind)
            assert isinstance(bdev, FileBdev)
            if bdev.state is not BdevState.READY:
                raise BdevError(errno.ENODEV, f"bdev {bdev.name} is being removed")
            size = await bdev.newest_size()
            if size and bdev.state is BdevState.READY:
                bdev.rescan(size)
            elif size:
                raise BdevError(errno.ENODEV, f"bdev {bdev.name} was removed meanwhile")
            elif bdev.state is BdevState.READY:
                log.error("file is gone, and its bdev with it bdev=%s", bdev.name)
                registry.hot_remove(bdev)
            return True

        errors = failures(errno.ENODEV, errno.EBUSY, errno.EINVAL)
        name = f"bdev_{cls.kind}_rescan"
        return (ModuleMethod(name, NamedParams, rescan, errors=errors),)

    async def newest_size(self) -> int:
        """Return how many bytes the file has, looked at after all sizes that others have followed.

        Each look but the last is one that somebody else's success has made old, so they end.
        """
        while True:
            followed = self._followed
            size = await self.file_size()
            if followed == self._followed:
                self._followed += 1
                return size

    async def file_size(self) -> int:
        """Return how many bytes the file has now."""
        return await self._beside(
            f"{self.kind} bdev {self.name!r}: asking for the size of {self._filename}",
            access.asking_size(self._geometry),
        )

    def rescan(self, size: int) -> None:
        """Follow a size in bytes that somebody else has made (bdev_aio_rescan, bdev_uring_rescan).

        What is no whole block at the end of the file is left out.
        """
        num_blocks = size // self.block_size
        if not num_blocks:
            raise BdevError(
                errno.EINVAL,
                f"{self.kind} bdev {self.name!r}: {self._filename} now has {size} bytes, which is"
                f" less than one block of {self.block_size}",
            )
        if num_blocks > self.num_blocks:  # before anybody can ask where there is data
            self._file.resize(num_blocks)
        self.notify_blockcnt_change(num_blocks)
        self._file.resize(num_blocks)

    async def stop(self) -> None:
        """Make everything stable, then close the file: closing alone syncs nothing.

        BdevError where that fails; the file is closed all the same.
        """
        answers = True
        try:
            if Op.FLUSH in self.ops:
                await self._sync()
        except OSError as error:
            number = error.errno or errno.EIO
            answers = number != errno.ETIMEDOUT
            message = (
                f"{self.kind} bdev {self.name!r}: {self._filename} could not be synced at the end:"
                f" {os.strerror(number)}; data written since the last FLUSH may be lost"
            )
            log.critical("%s", message)
            raise BdevError(number, message) from error
        finally:
            await self._close(CALL_US if answers else 0)

    async def _sync(self) -> None:
        """Run fdatasync on a thread, so that other bdevs' I/O goes on meanwhile.

        What it writes is worth waiting for, and who waits can say so: there is no deadline. But
        there is one of LAST_SYNC_US where a mount may hang; then it goes on in its own process.
        """
        if not self._used:  # nobody ever had a channel, so nothing was written
            return
        call = access.syncing(self._geometry)
        what = f"{self.kind} bdev {self.name!r}: the last sync of {self._filename}"
        timeout_us = LAST_SYNC_US if self._geometry.may_hang else None
        try:
            await call_blocking(
                self.reactor, what, call.run, give_up=call.give_up, timeout_us=timeout_us
            )
        except BlockedError as error:
            if error.errno != errno.EAGAIN:
                raise
            # No thread to be had: better late than not at all.
            os.fdatasync(self._geometry.sync_fd)

    async def _close(self, timeout_us: int) -> None:
        """Close the file, on a thread too: a mount's server may be asked for that."""
        what = f"{self.kind} bdev {self.name!r}: closing {self._filename}"
        try:
            call = access.closing(self._geometry)
            await call_blocking(
                self.reactor, what, call.run, give_up=call.give_up, timeout_us=timeout_us
            )
        except OSError as error:
            log.warning("%s", error.strerror)


def _give_back(geometry: FileGeometry) -> None:
    access.closing(geometry).run()
