"""Bdevs as block devices of this machine: /dev/nbdN, attached to the kernel's nbd driver.

The kernel is a client like any other, without a handshake: it is told by ioctl what others
negotiate, and its end of a socket pair. The other end is served by a `Session`, on the reactor
with the fewest clients. A device has a thread, which sets it up and then stays in the kernel for as
long as it runs (NBD_DO_IT); it alone touches the device, but for the disconnect.
"""

from __future__ import annotations

import errno
import itertools
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from vbdev.bdev import BdevError, BdevEvent
from vbdev.bdev.entry import entry_of
from vbdev.reactor.task import Future, gather, wake
from vbdev.reactor.threads import NamedThread
from vbdev.reactor.timers import Timer
from vbdev.targets.nbd.devices import NoDeviceError, device_number
from vbdev.targets.nbd.export import Export
from vbdev.targets.nbd.kernel import NO_DRIVER, KernelDevice, KernelNbd, Setup, sector_bytes
from vbdev.targets.nbd.nbd_server import NbdServer
from vbdev.targets.nbd.poll_group import PollGroup
from vbdev.targets.nbd.session import Session
from vbdev.vocab import Op
from vbdev.wire.nbd import Transmission

__all__ = ["KernelDisks"]

log = logging.getLogger(__name__)

BUSY_WAIT_S = 1.0
"""How long a device that was just given up is waited for (SPDK: 1 s)."""
BUSY_LOOK_S = 0.02
RUNNING_LOOK_US = 1000
RUNNING_WAIT_US = 1_000_000
"""How long the kernel may take to say that a device runs, and to give it its size; it is taken to
run all the same then."""
LOOK_WAIT_US = 5_000_000
"""How long its first open may take, in which the kernel reads the partition table."""
DRAIN_US = 5_000_000
"""How long the kernel has to disconnect by itself, before its connection is dropped."""
WAIT_US = 10_000_000
"""How long a device may take to be set up, and to end (SPDK: 10 s)."""
CLEANUP_US = 1_000_000


class KernelDisk:
    """A bdev attached to one device. Belongs to the server's reactor, but for what its thread does.

    `ended` is resolved when the bdev is free again, and the device too unless `hung`.
    """

    def __init__(
        self, server: NbdServer, kernel: KernelNbd, path: str, number: int, export: Export
    ) -> None:
        self.path = path
        self.number = number
        self.export = export
        self.ended: Future[None] = Future()
        self.stopping = False
        self.hung = False
        """The kernel does not let go of it."""
        self._server = server
        self._reactor = server.reactor
        self._kernel = kernel
        self._started: Future[BdevError | None] = Future()
        self._session: Session | None = None
        self._failure: BdevError | None = None
        """Why its thread ended."""
        self._session_over: Future[None] = Future()
        self._thread_over: Future[None] = Future()
        self._timers: list[Timer] = []
        self._near, self._far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._near.setblocking(False)  # the kernel does not ask whether its end is
        self._device: KernelDevice | None = None
        self._lock = threading.Lock()
        """Over `_device`: a disconnect must not reach a descriptor that is closed."""

    async def start(self) -> None:
        """Attach it, and wait until it runs. BdevError: why it does not, and nothing is left."""
        descriptor = self.export.descriptor
        block_size = sector_bytes(descriptor.block_size)
        setup = Setup(
            socket_fd=self._far.fileno(),
            block_size=block_size,
            num_blocks=descriptor.size_bytes // block_size,
            flags=self.export.flags(),
        )
        # A daemon: a device that hangs in the kernel must not keep the process from ending.
        thread = NamedThread(
            target=self._work, args=(setup,), name=self.path.removeprefix("/dev/"), daemon=True
        )
        late = self._reactor.call_later(WAIT_US, self._not_set_up)
        self._reactor.spawn(self._live(), f"life of {self.path}")
        try:
            thread.start()
        except RuntimeError as error:
            self._far.close()
            self._thread_ended(
                BdevError(errno.EAGAIN, f"{self.path}: there is no thread for it: {error}")
            )
        failure = await self._started
        late.cancel()
        if failure is None:
            failure = await self._running(setup.num_blocks * setup.block_size)
        if failure is not None:
            self.request_stop()
            await self.ended
            raise failure
        log.info("nbd disk started device=%s bdev=%s", self.path, self.export.bdev.name)

    def _settle(self, failure: BdevError | None) -> None:
        if not self._started.done:
            self._started.set_result(failure)

    def _not_set_up(self) -> None:
        self._settle(
            BdevError(
                errno.ETIMEDOUT,
                f"{self.path}: opening it, or setting it up, takes more than"
                f" {WAIT_US // 1_000_000} s",
            )
        )

    async def _running(self, size_bytes: int) -> BdevError | None:
        """Wait until it can be used: it runs, has its size, and its partitions are there."""
        give_up_ns = self._reactor.clock.now_ns() + RUNNING_WAIT_US * 1000
        while self._reactor.clock.now_ns() < give_up_ns:
            if self._thread_over.done:
                return self._failure
            try:
                runs = self._kernel.owner(self.number) is not None
            except BdevError as error:
                return error
            if runs and self._kernel.size_bytes(self.number) == size_bytes:
                return await self._looked_at()
            await self._reactor.sleep(RUNNING_LOOK_US)
        log.warning(
            "nbd device does not say that it runs device=%s bytes=%s of=%d",
            self.path,
            self._kernel.size_bytes(self.number),
            size_bytes,
        )
        return None

    async def _looked_at(self) -> BdevError | None:
        """Have it opened once, on a thread of its own: the kernel reads from it meanwhile."""
        over: Future[None] = Future()
        name = f"{self.path.removeprefix('/dev/')} look"
        try:
            threading.Thread(target=self._look, args=(over,), name=name, daemon=True).start()
        except RuntimeError as error:
            log.warning("nbd device not looked at device=%s error=%s", self.path, error)
            return None
        late = self._reactor.call_later(LOOK_WAIT_US, lambda: self._late_look(over))
        self._thread_over.add_done_callback(lambda _over: wake(over))
        await over
        late.cancel()
        return self._failure if self._thread_over.done else None

    def _late_look(self, over: Future[None]) -> None:
        if not over.done:
            log.warning("nbd device takes long to be opened device=%s", self.path)
            wake(over)

    # On its thread

    def _work(self, setup: Setup) -> None:
        # One that reached this thread would end the device in the middle of its I/O.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        failure: BdevError | None = None
        mine = False
        try:
            with self._far:  # the kernel has a reference of its own from set_socket on
                device = self._kernel.open(self.path)
                with self._lock:
                    self._device = device
                self._acquire(device, setup)
                mine = True
                device.set_up(setup)
            self._tell(self._serve, set())
            device.run()
        except BdevError as error:
            failure = error
        except Exception as error:
            log.exception("nbd device failed device=%s", self.path)
            failure = BdevError(errno.EIO, f"{self.path}: {error!r}")
        finally:
            self._release(clear=mine)
            self._tell(self._thread_ended, failure)

    def _look(self, over: Future[None]) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._kernel.look(self.path)
        except BdevError as error:
            log.warning("nbd device not looked at: %s", error)
        self._tell(wake, over)

    def _acquire(self, device: KernelDevice, setup: Setup) -> None:
        give_up = time.monotonic() + BUSY_WAIT_S
        while True:
            try:
                device.set_socket(setup)
            except BdevError as error:
                if error.errno != errno.EBUSY or time.monotonic() >= give_up:
                    raise
                time.sleep(BUSY_LOOK_S)  # whoever had it may be about to leave it
            else:
                return

    def _release(self, *, clear: bool) -> None:
        """Give the device up; one that has been somebody else's all the time stays as it is."""
        with self._lock:
            device, self._device = self._device, None
        if device is None:
            return
        try:
            if clear:
                device.clear()
        except BdevError as error:
            log.warning("nbd device not cleared: %s", error)
        finally:
            device.close()

    def _disconnect(self) -> None:
        try:
            with self._lock:
                if self._device is not None:
                    self._device.disconnect()
        except BdevError as error:  # it has ended by itself, or never ran
            log.info("nbd device not disconnected: %s", error)

    def _tell(self, function: Callable[..., object], *args: Any) -> None:
        self._reactor.send_msg(function, *args)  # where that is gone, nobody waits

    # The session

    def _serve(self, tried: set[PollGroup]) -> None:
        """Let the reactor with the fewest clients serve; where that one can not, the next."""
        group = None if self.stopping else self._server.pick(tried)
        if group is None:
            why = "it was stopped while it started" if self.stopping else "no reactor can serve it"
            self._settle(BdevError(errno.EIO, f"{self.path}: {why}"))
            self._no_session()
            return
        tried.add(group)
        session = self._session = Session(
            group,
            self._near,
            peer=self.path,
            export=self.export,
            over=Transmission(
                self.path, self.export.info(), structured_replies=False, meta_contexts=()
            ),
            on_end=lambda: self._reactor.exec_msg(self._session_ended, group),
            on_refusal=lambda: self._reactor.exec_msg(self._refused, group, tried),
        )
        if not group.reactor.exec_msg(self._start_session, session):
            self._refused(group, tried)

    def _start_session(self, session: Session) -> None:
        """Start it, and say so. On its reactor; a refusal comes before that."""
        session.start(b"")
        self._reactor.exec_msg(self._served, session)

    def _served(self, session: Session) -> None:
        if self._session is session:
            self._settle(None)

    def _refused(self, group: PollGroup, tried: set[PollGroup]) -> None:
        group.placed -= 1
        self._session = None
        self._serve(tried)

    def _session_ended(self, group: PollGroup) -> None:
        group.placed -= 1
        self._session = None
        self._no_session()

    def _no_session(self) -> None:
        """Let the kernel see the end of its connection."""
        self._near.close()
        wake(self._session_over)

    def _drop(self, reason: str) -> None:
        if self._session is not None:
            self._session.group.reactor.exec_msg(self._session.drop, reason)

    def _thread_ended(self, failure: BdevError | None) -> None:
        if self._started.done and failure is not None:
            log.error("nbd device ended: %s", failure)
        self._failure = failure or BdevError(errno.EIO, f"{self.path}: the kernel let go of it")
        self._settle(self._failure)
        wake(self._thread_over)
        if self._session is None:
            self._no_session()
        else:
            self._drop("the kernel let go of it")

    # The end

    async def _live(self) -> None:
        """Free the bdev, and the device's name, when both ends are over, whoever ended them."""
        await self._session_over
        self._timers.append(self._reactor.call_later(WAIT_US, self._give_up))
        await self._thread_over
        await self.export.descriptor.close()
        for timer in self._timers:
            timer.cancel()
        log.info("nbd disk ended device=%s bdev=%s", self.path, self.export.bdev.name)
        wake(self.ended)

    def _give_up(self) -> None:
        """Leave a thread that does not come back from the kernel."""
        if not self._thread_over.done:
            self.hung = True
            log.error("nbd device hangs: %s", self.obstacle())
            self._settle(BdevError(errno.ETIMEDOUT, self.obstacle()))
            wake(self._thread_over)

    def request_stop(self) -> None:
        """Begin to detach it: the kernel is to disconnect, and made to where it does not."""
        if self.stopping:
            return
        self.stopping = True
        if self._session is None and not self._session_over.done and self._started.done:
            self._no_session()  # it was never set up
        if self._thread_over.done:
            return
        users = self._kernel.users(self.number)
        if users:
            log.warning("nbd disk stops in use device=%s by=%s", self.path, ", ".join(users))
        self._timers.append(
            self._reactor.call_later(
                DRAIN_US,
                lambda: self._drop(f"not disconnected within {DRAIN_US // 1_000_000} s"),
            )
        )
        try:
            # Of its own, because it may block until what the kernel has written is stable.
            NamedThread(target=self._disconnect, daemon=True).start()
        except RuntimeError:
            self._drop("there is no thread to disconnect it")

    async def stop(self) -> None:
        """Detach it, and wait until that is done.

        BdevError ETIMEDOUT where it is not within 10 s, and why; it goes on then.
        """
        self.request_stop()
        told: Future[None] = Future()
        timer = self._reactor.call_later(WAIT_US + CLEANUP_US, lambda: wake(told))
        self.ended.add_done_callback(lambda _ended: wake(told))
        await told
        timer.cancel()
        if self.hung or not self.ended.done:
            raise BdevError(errno.ETIMEDOUT, self.obstacle())

    def obstacle(self) -> str:
        """Say what keeps it from ending."""
        if not self._session_over.done:
            bdev = self.export.bdev
            outstanding = entry_of(bdev).outstanding
            return f"{self.path}: {outstanding} I/Os are outstanding on bdev {bdev.name}"
        users = ", ".join(self._kernel.users(self.number)) or "nobody that can be seen"
        return f"{self.path}: the kernel does not let go of it; in use by {users}"


class KernelDisks:
    """The bdevs that are attached to devices, by device. Belongs to the server's reactor."""

    def __init__(self, server: NbdServer, kernel: KernelNbd | None = None) -> None:
        self.disks: dict[str, KernelDisk] = {}
        self.kernel = kernel or KernelNbd()
        self._server = server

    async def start(self, bdev_name: str, device: str | None = None) -> str:
        """Attach a bdev to a device, the first that is free where none is given; return its path.

        BdevError: IllegalDeviceError, NoDeviceError (see `devices`); EBUSY for a device in use;
        ENOENT for one that is not there; ENODEV without such a bdev, EPERM where a module has
        claimed it; what the kernel answers.
        """
        if device is not None:
            return await self._attach(bdev_name, device, self._free_number(device))
        busy: BdevError | None = None
        for number in itertools.count():
            path = f"/dev/nbd{number}"
            if not self.kernel.exists(path):
                break
            try:
                self._free_number(path)
                return await self._attach(bdev_name, path, number)
            except BdevError as error:
                if error.errno != errno.EBUSY:
                    raise
                busy = error
        if busy is None:
            raise NoDeviceError(errno.ENODEV, f"there is no /dev/nbd0: {NO_DRIVER}")
        raise NoDeviceError(errno.ENODEV, f"no device of {number} is free; the last one: {busy}")

    def _free_number(self, path: str) -> int:
        """Return the number of a device that nobody is known to use."""
        number = device_number(path)
        disk = self.disks.get(path)
        if disk is not None:
            what = "still ends; it was" if disk.stopping else "is"
            raise BdevError(errno.EBUSY, f"{path} {what} attached to bdev {disk.export.bdev.name}")
        owner = self.kernel.owner(number)
        if owner is not None:
            raise BdevError(errno.EBUSY, f"{path} is run by process {owner}")
        return number

    async def _attach(self, bdev_name: str, path: str, number: int) -> str:
        registry = self._server.registry
        bdev = registry.get(bdev_name)
        read_only = Op.WRITE not in bdev.ops
        descriptor = registry.open(
            bdev_name,
            write=not read_only,
            on_event=lambda event: self._bdev_event(disk, event),
            holder=f"nbd disk {path}",
            hide_metadata=bdev.md_interleave,  # the kernel has no place for it
        )
        export = Export(path, descriptor, read_only=read_only, description="")
        try:
            disk = KernelDisk(self._server, self.kernel, path, number, export)
        except OSError:  # no descriptors for a socket pair
            await descriptor.close()
            raise
        self.disks[path] = disk
        disk.ended.add_done_callback(lambda _ended: self._forget(path))
        await disk.start()
        return path

    def _forget(self, path: str) -> None:
        del self.disks[path]

    def _bdev_event(self, disk: KernelDisk, event: BdevEvent) -> None:
        if event is BdevEvent.REMOVE:
            disk.request_stop()
        elif event is BdevEvent.RESIZE:
            # The size of a connection is the one that the kernel was told.
            log.warning(
                "nbd disk keeps its size until it is started again device=%s bytes=%d",
                disk.path,
                disk.export.descriptor.size_bytes,
            )

    async def stop(self, device: str) -> None:
        """Detach a device; BdevError ENODEV where nothing is attached to it, ETIMEDOUT with why."""
        await self.get(device).stop()

    def get(self, device: str) -> KernelDisk:
        """Return what is attached to a device; BdevError ENODEV where nothing is."""
        disk = self.disks.get(device)
        if disk is None:
            known = ", ".join(self.disks) or "none"
            raise BdevError(errno.ENODEV, f"no bdev is attached to {device!r}; devices: {known}")
        return disk

    async def close(self) -> None:
        """Detach all; what does not end is told of, and left."""
        for disk in list(self.disks.values()):
            disk.request_stop()  # all at once
        try:
            await gather([disk.stop() for disk in list(self.disks.values())])
        except BdevError as error:
            log.error("nbd disk does not end: %s", error)  # noqa: TRY400 - a sentence says it

    def config(self) -> list[dict[str, object]]:
        """Return the RPC calls that attach the same bdevs again (spdk_nbd_write_config_json)."""
        return [
            {
                "method": "nbd_start_disk",
                "params": {"nbd_device": path, "bdev_name": disk.export.bdev.name},
            }
            for path, disk in self.disks.items()
            if self._server.registry.comes_back(disk.export.bdev)
        ]
