"""The loads: stacks with a known number of I/Os in flight, driven by one thread, turn by turn.

A round is a batch as large as the queue depth: submitted at once, complete before the next one.
So the same happens in each round, on any machine and beside any other work. Disks are in memory,
or in a file whose pages are, which the kernel reads at once; else it completes when it likes.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from costs.client_load import ClientLoad
from costs.idle import IdleLoad
from vbdev.bdev import VirtualBdev
from vbdev.core.engine.engine import Engine
from vbdev.core.load.loadgen import LoadGenerator
from vbdev.daemon.app import App
from vbdev.modules.file.service import FileService
from vbdev.modules.malloc import Malloc
from vbdev.modules.null import Null
from vbdev.modules.passthru import Passthru
from vbdev.modules.uring import Uring
from vbdev.reactor.reactor import Reactor
from vbdev.registry import Registry
from vbdev.wire.nbd import (
    NEED_DATA,
    ClientHandshake,
    Command,
    DataChunk,
    ReplyParser,
    Request,
    SimpleReply,
    Transmission,
)
from vbdev.wire.nbd.constants import REQUEST_HEADER, REQUEST_MAGIC

IO_SIZE = 4096
BULK_SIZE = 256 << 10
NUM_BLOCKS = 4096
KINDS = {cls.kind: cls for cls in (Null, Malloc)}
SOCKET_BYTES = 1 << 20


class UnavailableError(Exception):
    """A load can not be had here, which is nobody's fault; the message says why."""


class DirectLoad:
    """The load generator on a stack in this process.

    layers: vbdevs of class `layer` on a bdev of `kind`. workload: of the load generator.
    """

    def __init__(
        self,
        probe: AbstractContextManager[None],
        *,
        queue_depth: int,
        kind: str = "null",
        layers: int = 0,
        workload: str = "randread",
        layer: type[VirtualBdev] = Passthru,
    ) -> None:
        self.queue_depth = queue_depth
        self._probe = probe
        self._reactor = Reactor()
        self._engine = self._reactor.engine = Engine()
        self._registry = Registry(self._reactor)
        self._reactor.run_until_complete(self._build(kind, layers, layer))
        self._ended: list[bool] = []
        with self._reactor.here():
            self._descriptor = self._registry.open(
                "Top", write=True, on_event=lambda _event: None, holder="costs"
            )
            self._generator = LoadGenerator(
                self._engine,
                self._descriptor.get_channel(),
                workload=workload,
                io_size=IO_SIZE,
                queue_depth=queue_depth,
                on_end=lambda: self._ended.append(True),
            )

    async def _build(self, kind: str, layers: int, layer: type[VirtualBdev]) -> None:
        await make_stack(self._registry, kind, layers, layer)

    def run(self, rounds: int) -> None:
        """Run so many rounds."""
        self._ended.clear()
        drain = self._engine.drain
        with self._reactor.here(), self._probe:
            self._generator.start(rounds * self.queue_depth)
            while not self._ended:
                if not drain():
                    self._reactor.poll()  # what a kernel has not completed at once

    def batches(self) -> list[tuple[int, int]]:
        """Return (batches, I/Os in them) of each layer from the top, since the start."""
        return [(batches, ios) for _bdev, batches, ios in self._generator.layers()]

    def close(self) -> None:
        """Take everything down; nothing may be left, and no I/O may have failed."""
        assert not self._generator.failures
        with self._reactor.here():
            self._generator.close()
            self._reactor.run_until_complete(close(self._descriptor, self._registry))
        assert self._engine.ios_in_use == 0
        self._reactor.close()


class FileLoad(DirectLoad):
    """The load generator on a file in the page cache, through the ring.

    UnavailableError where the kernel (or a container) has no io_uring, or the file system does not
    answer a read at once although it could.
    """

    def __init__(self, probe: AbstractContextManager[None], *, queue_depth: int) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="vbdev-costs-")
        self._path = Path(self._directory.name) / "disk"
        self._path.write_bytes(bytes(range(256)) * (NUM_BLOCKS * IO_SIZE // 256))
        super().__init__(probe, queue_depth=queue_depth)
        try:
            self._look_at_kernel()
        except UnavailableError:
            self.close()
            raise

    async def _build(self, kind: str, layers: int, layer: type[VirtualBdev]) -> None:
        del kind, layers, layer
        path = str(self._path)
        params = Uring.Params(name="Top", filename=path, block_size=IO_SIZE, direct=False)
        await self._registry.create(Uring, params)

    def _look_at_kernel(self) -> None:
        if self._reactor.locals[FileService].engine.ring is None:
            raise UnavailableError("there is no io_uring")
        with self._path.open("rb") as file:
            try:
                os.preadv(file.fileno(), [bytearray(IO_SIZE)], 0, os.RWF_NOWAIT)
            except OSError as error:
                raise UnavailableError(f"cached reads may wait: {error.strerror}") from None

    def run(self, rounds: int) -> None:
        """Run so many rounds, with all of the file in the page cache."""
        self._path.read_bytes()
        super().run(rounds)

    def close(self) -> None:
        """Take everything down, the file too."""
        super().close()
        self._directory.cleanup()


class NbdLoad:
    """A client over a unix socket and the server in this process, which take turns.

    The client sends a batch of requests; the server turns until nothing is left for it to do;
    the client takes the replies. Only the server's turns are counted.
    """

    def __init__(
        self,
        probe: AbstractContextManager[None],
        *,
        queue_depth: int,
        kind: str = "malloc",
        layers: int = 1,
        workload: str = "read",
        layer: type[VirtualBdev] = Passthru,
        io_size: int = IO_SIZE,
    ) -> None:
        self.queue_depth = queue_depth
        self._io_size = io_size
        self._probe = probe
        self._command = Command.READ if workload == "read" else Command.WRITE
        self._ended = False
        self._directory = tempfile.TemporaryDirectory(prefix="vbdev-costs-")
        path = str(Path(self._directory.name) / "s")
        app = self._app = App()
        self._reactor = app.reactor
        self._reactor.run_until_complete(make_stack(app.registry, kind, layers, layer))
        self._export = app.nbd.add_export("Top")
        app.nbd.listen(f"unix:{path}")
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
        self._socket.connect(path)
        self._socket.setblocking(False)
        with self._reactor.here():
            self._parser = self._handshake()
            self._sent = b"".join(map(self._request, range(queue_depth)))
            self._reply_bytes = self._look_at_replies()
            channel = self._export.descriptor.get_channel()
            self._counters = LoadGenerator(  # for what it knows of channels: it never runs
                app.engine, channel, workload="read", io_size=IO_SIZE, queue_depth=1
            )
            self._export.descriptor.put_channel(channel)

    # The client

    def _handshake(self) -> ReplyParser:
        handshake = ClientHandshake("", structured_replies=True)
        while True:
            event = handshake.next_event()
            if data := handshake.data_to_send():
                self._socket.sendall(data)
            self._serve()
            if isinstance(event, Transmission):
                assert event.structured_replies
                return ReplyParser(structured_replies=True)
            if event is NEED_DATA:
                handshake.feed(self._received())

    def _received(self) -> bytes:
        with contextlib.suppress(BlockingIOError):
            data = self._socket.recv(SOCKET_BYTES)
            assert data, "the server hung up"
            return data
        return b""

    def _request(self, cookie: int) -> bytes:
        where = self._offset_of(cookie), self._io_size
        head = REQUEST_HEADER.pack(REQUEST_MAGIC, 0, self._command, cookie, *where)
        return head + bytes(self._io_size if self._command == Command.WRITE else 0)

    def _offset_of(self, cookie: int) -> int:
        """Return where a request goes: all over the disk, each to another place."""
        return cookie * 7919 % (NUM_BLOCKS * IO_SIZE // self._io_size) * self._io_size

    def _look_at_replies(self) -> int:
        """Send one batch and hold that all of it succeeds; return how long the replies are."""
        for cookie in range(self.queue_depth):
            request = Request(self._command, 0, cookie, self._offset_of(cookie), self._io_size)
            self._parser.expect(request)
        unsent, received, done = memoryview(self._sent), 0, 0
        while done < self.queue_depth:
            unsent = self._send(unsent)
            self._serve()
            data = self._received()
            received += len(data)
            self._parser.feed(data)
            while (event := self._parser.next_event()) is not NEED_DATA:
                assert isinstance(event, DataChunk | SimpleReply), event
                assert not isinstance(event, SimpleReply) or not event.error, event
                done += event.done
        return received

    def _send(self, data: memoryview) -> memoryview:
        with contextlib.suppress(BlockingIOError):
            while data:
                data = data[self._socket.send(data) :]
        return data

    # The server

    def _serve(self) -> None:
        """Let it turn until it has nothing more to do; that turn is the last one."""
        turn = self._reactor._loop.turn
        with self._probe:
            while turn():
                pass

    def run(self, rounds: int) -> None:
        """Run so many rounds."""
        with self._reactor.here():
            for _ in range(rounds):
                unsent, missing = memoryview(self._sent), self._reply_bytes
                while missing:
                    unsent = self._send(unsent)
                    self._serve()
                    while data := self._received():
                        missing -= len(data)

    def batches(self) -> list[tuple[int, int]]:
        """Return (batches, I/Os in them) of each layer from the top, since the start."""
        return [(batches, ios) for _bdev, batches, ios in self._counters.layers()]

    def close(self) -> None:
        """Take everything down; nothing may be left."""
        self._counters.close()
        self._socket.close()
        self._reactor.run_until_complete(self._app.stop())
        assert self._app.exit_status == 0
        assert self._app.engine.ios_in_use == 0
        self._app.close()
        self._directory.cleanup()


class Nothing:
    """What the probe itself costs, which is taken off from what it encloses."""

    queue_depth = 1

    def __init__(self, probe: AbstractContextManager[None]) -> None:
        self._probe = probe

    def run(self, rounds: int) -> None:
        """Enclose nothing."""
        for _ in range(rounds):
            with self._probe:
                pass

    def batches(self) -> list[tuple[int, int]]:
        """Return none."""
        return []

    def close(self) -> None:
        """Nothing to do."""


async def make_stack(registry: Registry, kind: str, layers: int, layer: type[VirtualBdev]) -> None:
    """Make a bdev with vbdevs on it, the last of which is `Top`."""
    below = ["Disk", *(f"Layer{n}" for n in range(1, layers))] if layers else []
    names = [*below, "Top"]
    cls: Any = KINDS[kind]
    params = cls.Params(name=names[0], num_blocks=NUM_BLOCKS, block_size=IO_SIZE)
    await registry.create(cls, params)
    for base, name in itertools.pairwise(names):
        await registry.create(layer, layer.Params(name=name, base_bdev_name=base))


async def close(descriptor: Any, registry: Registry) -> None:
    """Close a descriptor and unregister everything."""
    await descriptor.close()
    await registry.close()


class Watching(Passthru):
    """Is shown what has completed, as a layer that changes data is."""

    def completed(self, channel: Any, ios: Any) -> None:
        """Look on."""


class Awaiting(VirtualBdev):
    """Handles each I/O in a coroutine of its own."""

    kind = "awaiting"
    product_name = "awaiting"
    ops = Passthru.ops
    gives_read_buffers = True

    async def handle(self, _channel: Any, io: Any) -> None:
        """Forward, and wait."""
        await io.forward()


class Looking(Passthru):
    """Looks at offsets, as a column."""

    seen = 0

    def submit(self, channel: Any, ios: Any) -> None:
        """Count those in the first quarter."""
        self.seen += int(np.count_nonzero(ios.offset_blocks < NUM_BLOCKS // 4))
        channel.base.submit(ios)


LAYERS = {"watching": Watching, "awaiting": Awaiting, "looking": Looking}
"""Kinds of layers besides passthru."""
Load = DirectLoad | FileLoad | IdleLoad | NbdLoad | ClientLoad | Nothing
LOADS: dict[str, dict[str, Any]] = {"nothing": {}}
for crowd in (1, 1000):
    LOADS[f"idle turn, crowd {crowd}"] = {"queue_depth": 1, "crowd": crowd}
"""Name: keywords of its class, which is told from the first word of the name."""
for depth in (1, 32):
    for count in (0, 1, 5):
        LOADS[f"null, layers {count}, QD {depth}"] = {"queue_depth": depth, "layers": count}
    for count in (1, 5):
        for what, layer_class in LAYERS.items():
            LOADS[f"null, {what} layers {count}, QD {depth}"] = {
                "queue_depth": depth,
                "layers": count,
                "layer": layer_class,
            }
for depth in (1, 16, 32, 64):
    for work in ("randread", "randwrite"):
        LOADS[f"malloc, {work}, QD {depth}"] = {
            "queue_depth": depth,
            "kind": "malloc",
            "layers": 2,
            "workload": work,
        }
for depth in (1, 16, 64):
    for work in ("read", "write"):
        for disk in KINDS:
            LOADS[f"nbd, {disk}, {work}, QD {depth}"] = {
                "queue_depth": depth,
                "kind": disk,
                "workload": work,
            }
        LOADS[f"client, {work}, QD {depth}"] = {"queue_depth": depth, "workload": work}
LOADS["client, read backwards, QD 64"] = {"queue_depth": 64, "backwards": True}
for work in ("read", "write"):
    LOADS[f"nbd, malloc, {work} 256 KiB, QD 16"] = {
        "queue_depth": 16,
        "workload": work,
        "io_size": BULK_SIZE,
    }
for depth in (1, 32):
    LOADS[f"uring, randread, QD {depth}"] = {"queue_depth": depth}
KIND = {
    "nothing": Nothing,
    "nbd": NbdLoad,
    "client": ClientLoad,
    "uring": FileLoad,
    "idle turn": IdleLoad,
}


def make(name: str, probe: AbstractContextManager[None], **more: Any) -> Load:
    """Make a load by its name."""
    cls: Any = KIND.get(name.split(",", maxsplit=1)[0], DirectLoad)
    stacked = cls in (DirectLoad, NbdLoad)  # others have no layer to put another one in place of
    load: Load = cls(probe, **{**LOADS[name], **(more if stacked else {})})
    return load


def chosen(beginnings: str) -> Iterator[str]:
    """Yield the names of loads that begin with one of these, separated by semicolons."""
    for name in LOADS:
        if any(name.startswith(beginning) for beginning in beginnings.split(";")):
            yield name
