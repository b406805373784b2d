"""StandInKernel: the kernel's nbd driver as far as a user of its devices sees it.

It does what the ioctls of linux/nbd.h say, and speaks the transmission phase over the socket that
it is given, as the driver does: simple replies, one reader, EIO for what is in flight at the end. A
device has its size some time after its process is named, and its partitions when it is opened then.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import threading

from support.nbd_client import NbdClient, header
from vbdev.bdev import BdevError
from vbdev.targets.nbd.kernel import (
    NBD_CLEAR_SOCK,
    NBD_DISCONNECT,
    NBD_DO_IT,
    NBD_SET_BLKSIZE,
    NBD_SET_FLAGS,
    NBD_SET_SIZE_BLOCKS,
    NBD_SET_SOCK,
    NBD_SET_TIMEOUT,
    KernelDevice,
    KernelNbd,
)
from vbdev.wire.nbd import Command, ReplyParser

WAIT_S = 20
PAGE_BYTES = 4096
SIZE_DELAY_S = 0.03
"""How long a device that runs has no size yet (6.12: up to some milliseconds)."""


class Device(NbdClient):
    """One device. `calls` are the ioctls that it got, `refuse` what they are to answer."""

    def __init__(self):
        self.calls = []
        self.refuse = {}
        self.pid = None
        self.hang = threading.Event()
        """Set: DO_IT does not come back. Clear it to let it."""
        self.deaf = False
        """DISCONNECT sends nothing."""
        self.scan = False
        """It reads its partition table before it says that it runs."""
        self.sized = False
        self.sizeless = False
        """It never gets a size."""
        self.slow_look = threading.Event()
        """Set: whoever opens it waits. Clear it to let them."""
        self.looks = 0
        self.partitions = None
        """The type of each partition that the kernel has found."""
        self.block_size = self.num_blocks = self.set_flags = self.timeout_s = 0
        self.opens = 0
        self.socket = None
        self._changed = threading.Condition(threading.RLock())
        self._sending = threading.Lock()

    # What the driver does

    def set_socket(self, number):
        if self.socket is not None:
            return errno.EBUSY
        self.socket = socket.socket(fileno=os.dup(number))
        self._cookie, self._open, self._ended = 0, {}, {}
        self.parser = ReplyParser(structured_replies=False, context_ids=[])
        return 0

    def set_block_size(self, size):
        if not 512 <= size <= PAGE_BYTES or size & (size - 1):
            return errno.EINVAL
        self.block_size = size
        return 0

    def do_it(self):
        if self.pid is not None:
            return errno.EBUSY
        if self.socket is None:
            return errno.EINVAL
        self.signals_blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        scan = self.start(Command.READ, 0, PAGE_BYTES) if self.scan else None
        if scan is None:
            self._run()
        while data := self._receive():
            with self._changed:
                self.parser.feed(data)
                while self._take_event():
                    pass
                self._changed.notify_all()
                if scan is not None and scan in self._ended:
                    self.table = bytes(self._ended.pop(scan).data)
                    scan = None
                    self._run()
        with self._changed:
            self.pid = None
            self.sized, self.partitions = False, None
            self._changed.notify_all()
        while self.hang.is_set():
            threading.Event().wait(0.005)
        return 0

    def _run(self):
        with self._changed:
            self.pid = os.getpid()
            self._changed.notify_all()
        if not self.sizeless:
            timer = threading.Timer(SIZE_DELAY_S, self._get_size)
            timer.daemon = True
            timer.start()

    def _get_size(self):
        with self._changed:
            self.sized = self.pid is not None

    def look(self):
        """What an open of a device that runs makes the kernel do."""
        self.looks += 1
        while self.slow_look.is_set():
            threading.Event().wait(0.005)
        if not self.size:
            return
        table = self.ask(Command.READ, 0, PAGE_BYTES).data
        if table[510:512] == b"\x55\xaa":
            self.partitions = [kind for kind in table[450:510:16] if kind]

    def _receive(self):
        try:
            return self.socket.recv(1 << 20)
        except OSError:
            return b""

    def send_disconnect(self):
        if self.socket is None:
            return errno.EINVAL
        if not self.deaf:
            with self._sending, contextlib.suppress(OSError):  # as the driver: nobody may be there
                self.socket.sendall(header(Command.DISC, 0))
        return 0

    def clear(self):
        if self.socket is not None:
            self.socket.close()
        self.socket = None
        return 0

    # What a user of the device does

    @property
    def size(self):
        """Size in bytes; none as long as it does not run."""
        return self.block_size * self.num_blocks if self.sized else 0

    def ask(self, command, offset=0, length=0, flags=0, data=b""):
        """Carry out one request; any number of threads may."""
        with self._changed:
            if self.pid is None:
                raise OSError(errno.EIO, "the device does not run")
            message = self.message(command, offset, length, flags, data)
            cookie, connection = self._cookie, self.socket
        try:
            with self._sending:
                connection.sendall(message)
        except OSError as error:
            raise OSError(errno.EIO, "the device ended") from error
        with self._changed:
            over = self._changed.wait_for(
                lambda: cookie in self._ended or self.pid is None, timeout=WAIT_S
            )
            assert over, "no reply"
            if cookie not in self._ended:
                raise OSError(errno.EIO, "the device ended")
            return self._ended.pop(cookie)

    def wait_until_over(self):
        """Wait until nobody runs it, and nobody has it open."""
        with self._changed:
            assert self._changed.wait_for(lambda: not self.opens, timeout=WAIT_S)


class OpenDevice(KernelDevice):
    """A device as its server has it."""

    def __init__(self, path, device):
        super().__init__(path, -1)
        self._device = device
        with device._changed:
            device.opens += 1

    def ioctl(self, request, value):
        device = self._device
        device.calls.append((request, value))
        if request in device.refuse:
            return device.refuse[request]
        if request == NBD_SET_SOCK:
            return device.set_socket(value)
        if request == NBD_SET_BLKSIZE:
            return device.set_block_size(value)
        if request == NBD_DO_IT:
            return device.do_it()
        if request == NBD_DISCONNECT:
            return device.send_disconnect()
        if request == NBD_CLEAR_SOCK:
            return device.clear()
        field = {
            NBD_SET_SIZE_BLOCKS: "num_blocks",
            NBD_SET_TIMEOUT: "timeout_s",
            NBD_SET_FLAGS: "set_flags",
        }[request]
        setattr(device, field, value)
        return 0

    def close(self):
        with self._device._changed:
            self._device.opens -= 1
            self._device._changed.notify_all()


class StandInKernel(KernelNbd):
    """A machine with so many devices. `owners`: processes that run some; `mounts`: users."""

    def __init__(self, count=2):
        self.devices = {f"/dev/nbd{number}": Device() for number in range(count)}
        self.owners = {}
        self.mounts = {}

    def __getitem__(self, number):
        return self.devices[f"/dev/nbd{number}"]

    def exists(self, path):
        return path in self.devices

    def owner(self, number):
        device = self.devices.get(f"/dev/nbd{number}")
        return self.owners.get(number, device and device.pid)

    def size_bytes(self, number):
        device = self.devices.get(f"/dev/nbd{number}")
        return device and device.size

    def look(self, path):
        try:
            self.devices[path].look()
        except OSError as error:
            raise BdevError(error.errno, str(error)) from error

    def users(self, number):
        return self.mounts.get(number, [])

    def open(self, path):
        if path not in self.devices:
            return super().open(f"{path}-nowhere")
        return OpenDevice(path, self.devices[path])
