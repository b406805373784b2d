"""What is counted, for n of something: each step of a group, with what the steps before it left.

A step of n costs n times something. One `among` n is about a single one, or about nothing at all,
while n others are there: it costs the same whatever n is.
"""

from __future__ import annotations

import contextlib
import json
import socket
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from vbdev.daemon.app import App
from vbdev.daemon.config import read_config
from vbdev.reactor.clock import VirtualClock
from vbdev.reactor.reactor import Reactor
from vbdev.vocab import Op
from vbdev.wire.jsonrpc import encode_result
from vbdev.wire.nbd import NEED_DATA, ClientHandshake, Command, Transmission
from vbdev.wire.nbd.constants import REQUEST_HEADER, REQUEST_MAGIC

__all__ = ["GROUPS", "Group"]

BLOCK = 512
DISK = {"num_blocks": 8192, "block_size": BLOCK}
TURNS = 64
"""Of an idle loop: one alone would be few instructions beside what a step itself costs."""
REPLY_BYTES = 16

Step = Callable[[str], AbstractContextManager[None]]
"""`with step(name):` encloses what is counted."""
Group = Callable[[Step, int], None]


class Here:
    """An application on this thread, turned by whoever calls."""

    def __init__(self, reactor: Reactor | None = None) -> None:
        self.app = App(reactor)
        self.reactor = self.app.reactor
        self.registry = self.app.registry

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Turn until it is done."""
        return self.reactor.run_until_complete(work)

    async def call(self, method: str, **params: Any) -> Any:
        """Call a method of the control plane."""
        return await self.app.dispatcher.call(method, params or None)

    async def calls(self, *calls: tuple[str, dict[str, Any]]) -> None:
        """Call methods, one after the other."""
        for method, params in calls:
            await self.call(method, **params)

    def settle(self) -> None:
        """Turn until there is nothing to do; what was examined is done by then."""
        self.run(self.call("bdev_wait_for_examine"))
        while self.reactor.poll():
            pass

    def stacks(self, n: int) -> None:
        """Make n stacks: null bdevs, a passthru on each."""
        for kind in (null, passthru):
            self.run(self.calls(*map(kind, range(n))))
        self.settle()

    def close(self) -> None:
        """Take everything down; nothing may be left."""
        self.run(self.app.stop())
        assert self.app.exit_status == 0
        assert self.app.engine.ios_in_use == 0
        self.app.close()


@contextlib.contextmanager
def application(reactor: Reactor | None = None) -> Iterator[Here]:
    """Lend an application that has done everything once: first calls cost more than others."""
    here = Here(reactor)
    here.stacks(2)
    here.run(here.calls(("bdev_passthru_delete", {"name": "Top0"}), passthru(0)))
    answers(here)
    here.run(here.registry.close())
    yield here
    here.close()


def null(number: int) -> tuple[str, dict[str, Any]]:
    """Return the call that makes a null bdev."""
    return "bdev_null_create", {"name": f"Disk{number}", **DISK}


def passthru(number: int) -> tuple[str, dict[str, Any]]:
    """Return the call that puts a passthru on it."""
    return "bdev_passthru_create", {"name": f"Top{number}", "base_bdev_name": f"Disk{number}"}


def answers(here: Here) -> dict[str, Callable[[], bytes]]:
    """Return what lists everything there is, rendered."""
    asked = {
        "listed": ("bdev_get_bdevs", {}),
        "counters shown": ("bdev_get_iostat", {}),
        "shown with holders": ("vbdev_get_stack", {}),
        "holders": ("vbdev_get_holders", {}),
        "saved": ("framework_get_config", {"name": "bdev"}),
        "channels shown": ("thread_get_io_channels", {}),
    }

    def ask(method: str, params: dict[str, Any]) -> bytes:
        return encode_result(1, here.run(here.call(method, **params)))

    return {name: lambda call=call: ask(*call) for name, call in asked.items()}


def bdevs(step: Step, n: int) -> None:
    """Stacks of two, by the control plane."""
    with application() as here:
        with step("null bdevs created"):
            here.run(here.calls(*map(null, range(n))))
            here.settle()
        with step("passthrus created"):
            here.run(here.calls(*map(passthru, range(n))))
            here.settle()
        for name, ask in answers(here).items():
            with step(f"bdevs {name}"):
                ask()
        middle = n // 2
        here.run(here.calls(("bdev_passthru_delete", {"name": f"Top{middle}"})))
        here.settle()
        with step("one more, among"):
            here.run(here.calls(passthru(middle)))
            here.settle()
        with step("one less, among"):
            here.run(here.calls(("bdev_passthru_delete", {"name": f"Top{middle}"})))
            here.settle()
        for setting, params in (
            ("bdev_enable_histogram", {"enable": True}),
            ("bdev_set_qos_limit", {"rw_ios_per_sec": 10_000}),
        ):
            with step(f"{setting} of bdevs"):
                here.run(here.calls(*((setting, {"name": f"Disk{i}", **params}) for i in range(n))))
        with step("null bdevs removed, oldest first, with what is on them"):
            here.run(here.calls(*(("bdev_null_delete", {"name": f"Disk{i}"}) for i in range(n))))
            here.settle()
        assert not here.registry.bdevs
        with step("wishes deleted that wait for bases"):
            here.run(
                here.calls(
                    *(
                        ("bdev_passthru_delete", {"name": f"Top{i}"})
                        for i in range(n)
                        if i != middle
                    )
                )
            )
        assert not here.registry.creations


def names(step: Step, n: int) -> None:
    """Bdevs that nobody has named."""
    with application() as here:
        malloc = ("bdev_malloc_create", {"num_blocks": 8, "block_size": BLOCK})
        with step("bdevs without a name created"):
            here.run(here.calls(*[malloc] * n))
            here.settle()
        assert f"Malloc{n - 1}" in here.registry.bdevs
        some = [f"Malloc{i}" for i in range(0, n, 2)]
        with step("every second one deleted"):
            here.run(here.calls(*(("bdev_malloc_delete", {"name": name}) for name in some)))
        with step("as many created without a name"):
            here.run(here.calls(*[malloc] * len(some)))
            here.settle()
        assert sorted(here.registry.bdevs) == sorted(f"Malloc{i}" for i in range(n))
        with step("bdevs closed at the end"):
            here.run(here.registry.close())


def wishes(step: Step, n: int) -> None:
    """What is asked for of bases that are not there, and of bdevs that are to be examined."""
    with application() as here:
        on_one = [
            ("bdev_passthru_create", {"name": f"Top{i}", "base_bdev_name": "Nowhere"})
            for i in range(n)
        ]
        with step("passthrus wished for on one base"):
            here.run(here.calls(*on_one))
        with step("wishes for one base deleted, newest first"):
            here.run(
                here.calls(
                    *(("bdev_passthru_delete", {"name": f"Top{i}"}) for i in reversed(range(n)))
                )
            )
        here.registry.examiner.auto = False  # as bdev_set_options does before the start
        with step("examinations asked for"):
            here.run(here.calls(*(("bdev_examine", {"name": f"Disk{i}"}) for i in range(n))))
        with step("examined as they come"):
            here.run(here.calls(*map(null, range(n))))
            here.settle()
        with step("unregistered, with what was asked for"):
            here.run(here.registry.close())
        assert not here.registry.examiner.requested


def parts(step: Step, n: int) -> None:
    """Many vbdevs on one base."""
    with application() as here:
        here.run(here.calls(("bdev_null_create", {"name": "Disk", **DISK})))
        with step("parts of a split created"):
            split = {"base_bdev": "Disk", "split_count": n}
            here.run(here.calls(("bdev_split_create", split)))
            here.settle()
        with step("parts of a split deleted"):
            here.run(here.calls(("bdev_split_delete", {"base_bdev": "Disk"})))
            here.settle()


def configuration(step: Step, n: int) -> None:
    """A start from a saved configuration."""
    with application() as here, tempfile.TemporaryDirectory() as directory:
        calls = [*map(passthru, range(n)), *map(null, reversed(range(n)))]
        entries = [{"method": method, "params": params} for method, params in calls]
        file = Path(directory) / "config.json"
        file.write_text(json.dumps({"subsystems": [{"subsystem": "bdev", "config": entries}]}))
        with step("stacks of a configuration created"):
            here.app.begin_config(read_config(str(file)))
            here.app.finish_config()
            here.settle()
        assert len(here.registry.bdevs) == 2 * n


def exports(step: Step, n: int) -> None:
    """Exports of an NBD server."""
    with application() as here:
        here.stacks(n)
        with step("exports added"):
            here.run(here.calls(*(("nbd_export_add", {"bdev_name": f"Top{i}"}) for i in range(n))))
        with step("exports listed"):
            here.run(here.call("nbd_get_exports"))
        with step("exports saved"):
            here.run(here.call("framework_get_config", name="nbd"))
        with step("exports removed"):
            here.run(
                here.calls(*(("nbd_export_remove", {"export_name": f"Top{i}"}) for i in range(n)))
            )


class Clients:
    """NBD clients of an application on the same thread."""

    def __init__(self, here: Here, path: str) -> None:
        self._here = here
        self._path = path
        self.sockets: list[socket.socket] = []

    def connect(self) -> socket.socket:
        """Connect one; it is in transmission when this returns."""
        client = socket.socket(socket.AF_UNIX)
        client.connect(self._path)
        client.setblocking(False)
        self.sockets.append(client)
        handshake = ClientHandshake("", structured_replies=False)
        while True:
            event = handshake.next_event()
            if data := handshake.data_to_send():
                client.sendall(data)
            self.serve()
            if isinstance(event, Transmission):
                return client
            if event is NEED_DATA:
                with contextlib.suppress(BlockingIOError):
                    handshake.feed(client.recv(1 << 16))

    def serve(self) -> None:
        """Turn until there is nothing to do."""
        while self._here.reactor.poll():
            pass

    def read(self, client: socket.socket) -> None:
        """Read the first block."""
        client.sendall(REQUEST_HEADER.pack(REQUEST_MAGIC, 0, Command.READ, 1, 0, BLOCK))
        self.serve()
        assert len(client.recv(1 << 16)) == REPLY_BYTES + BLOCK

    def leave(self) -> None:
        """Hang up, all of them."""
        for client in self.sockets:
            client.close()
        self.serve()


def clients(step: Step, n: int) -> None:
    """NBD clients of one export."""
    with application() as here, tempfile.TemporaryDirectory() as directory:
        here.stacks(1)
        path = str(Path(directory) / "s")
        here.app.nbd.add_export("Top0")
        here.app.nbd.listen(f"unix:{path}")
        some = Clients(here, path)
        reader = some.connect()
        for _ in range(20):
            some.read(reader)
        with step("clients connected"):
            for _ in range(n):
                some.connect()
        with step("a block read, among clients"):
            some.read(reader)
        with step("idle turns, among clients"):
            idle(here)
        with step("channels of clients shown"):
            here.run(here.call("thread_get_io_channels"))
        with step("clients gone"):
            some.leave()
        for _ in range(n):
            some.connect()
        with step("clients told to go, at the end"):
            here.run(here.app.nbd.close())


def idle(here: Here) -> None:
    """Turn a loop that has nothing to do."""
    for _ in range(TURNS):
        assert not here.reactor.poll()


def among(step: Step, n: int) -> None:
    """One stack at work while n others are open, and do nothing."""
    with application(Reactor(clock=VirtualClock())) as here:  # on which a limit holds
        here.stacks(n + 1)
        opened = []
        with here.reactor.here():
            for i in range(n + 1):
                opened.append(open_bdev(here, f"Top{i}"))
        first = opened[0]
        data = bytearray(BLOCK)

        async def read() -> None:
            await first.io(Op.READ, 0, 1, data)

        for _ in range(20):
            here.run(read())
        here.settle()
        with step("idle turns, among open bdevs"):
            idle(here)
        with step("a block read, among open bdevs"):
            here.run(read())
        here.run(here.call("bdev_set_qos_limit", name="Top0", rw_ios_per_sec=1000))
        for _ in range(2):
            waiting = here.reactor.spawn(first_come(first, data))
            here.reactor.poll()
            with step("turns of a bdev at its limit, among open bdevs"):
                for _ in range(TURNS):
                    here.reactor.poll()
            assert not waiting.done, "the limit did not hold it up"
            here.reactor.run_until_complete(ended(waiting))
        with step("open bdevs removed"):
            here.run(here.registry.close())


async def first_come(descriptor: Any, data: bytearray) -> None:
    """Read more than a rate limit lets through at once."""
    futures = [descriptor.io(Op.READ, 0, 1, data) for _ in range(64)]
    for future in futures:
        await future


async def ended(task: Any) -> None:
    """Await a task."""
    await task


def open_bdev(here: Here, name: str) -> Any:
    """Open a bdev, with a channel; who is told that it goes lets go."""
    descriptor = here.registry.open(
        name, write=False, on_event=lambda _event: descriptor.close(), holder="growth"
    )
    descriptor.get_channel()
    return descriptor


def depth(step: Step, n: int) -> None:
    """One stack of n layers."""
    with application() as here:
        here.run(here.calls(("bdev_null_create", {"name": "Disk", **DISK})))
        bases = ["Disk", *(f"Layer{i}" for i in range(n - 1))]
        layers = [
            ("bdev_passthru_create", {"name": f"Layer{i}", "base_bdev_name": base})
            for i, base in enumerate(bases)
        ]
        with step("layers put on each other"):
            here.run(here.calls(*layers))
        here.settle()
        top = f"Layer{n - 1}"
        data = bytearray(BLOCK)
        with here.reactor.here(), step("channels of a stack made"):
            descriptor = here.registry.open(
                top, write=True, on_event=lambda _event: descriptor.close(), holder="growth"
            )
            descriptor.get_channel()
        for op in (Op.READ, Op.WRITE, Op.RESET):

            async def one(op: Op = op) -> None:
                await descriptor.io(op, 0, 1, None if op is Op.RESET else data)

            here.run(one())
            with step(f"{op.name} through a stack"):
                here.run(one())
        for name, ask in answers(here).items():
            with step(f"stack {name}"):
                ask()
        with step("a stack resized from below"):
            here.run(here.calls(("bdev_null_resize", {"name": "Disk", "new_size": 8})))
            here.settle()
        assert here.registry.get(top).size_bytes == 8 << 20
        with step("a stack removed from below"):
            here.run(here.calls(("bdev_null_delete", {"name": "Disk"})))
            here.settle()
        assert not here.registry.bdevs


GROUPS: dict[str, tuple[Group, int]] = {
    "bdevs": (bdevs, 30),
    "names": (names, 30),
    "wishes": (wishes, 30),
    "parts": (parts, 50),
    "configuration": (configuration, 30),
    "exports": (exports, 30),
    "clients": (clients, 30),
    "among": (among, 30),
    "depth": (depth, 6),
}
"""{name: (what does the steps, few)}."""
