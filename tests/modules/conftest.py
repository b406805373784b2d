"""A stack to test file bdevs on, with a ring and with threads alone.

Every test ends with all BdevIOs and buffers given back, all files closed and all threads ended.
"""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from vbdev.bdev import VirtualBdev
from vbdev.bdev.entry import entry_of
from vbdev.core.engine.engine import Engine
from vbdev.core.file.uring import Ring
from vbdev.files import access, aside
from vbdev.modules.file import service
from vbdev.modules.uring import Uring
from vbdev.reactor.reactor import Reactor
from vbdev.registry import Registry
from vbdev.vocab import Op


def ring_refusal() -> str:
    try:
        Ring(4, 8).close()
    except OSError as error:
        return str(error)
    return ""


class Gather(VirtualBdev):
    """Holds I/Os until `size` have come, then forwards them as one batch."""

    kind = "gather"
    product_name = "gather"
    ops = Uring.ops
    size = 1

    async def start(self):
        self.held = None

    def submit(self, channel, ios):
        if self.held is None:
            self.held = ios.take()
        else:
            self.held.extend(ios)
        # A RESET lets nothing else come: what waits for more would wait for ever.
        if len(self.held) >= self.size or Op.RESET in {op for op, _, _ in self.held.extents()}:
            held, self.held = self.held, None
            channel.base.submit(held)


class Stack:
    """One reactor with its engine and registry, and files in a directory of its own."""

    def __init__(self, directory, mode):
        self.directory = directory
        self.mode = mode
        self.reactor = Reactor()
        self.engine = self.reactor.engine = Engine()
        self.module_errors = []
        self.engine.on_module_error = self.module_failed
        self.registry = Registry(self.reactor)
        self.events = []

    def module_failed(self, _channel, error, _n):
        self.module_errors.append(error)

    def path(self, size_bytes, name="disk"):
        path = self.directory / name
        with path.open("wb") as file:
            file.truncate(size_bytes)
        return str(path)

    def run(self, coroutine):
        return self.reactor.run_until_complete(coroutine)

    def create(self, path, cls=Uring, name="U0", **params):
        self.run(self.registry.create(cls, cls.Params(name=name, filename=path, **params)))
        return self.registry.get(name)

    def open(self, name="U0", *, write=True, on_event=None):
        return self.registry.open(
            name, write=write, on_event=on_event or self.events.append, holder="test"
        )

    def gather(self, size, base="U0"):
        self.run(self.registry.create(Gather, Gather.Params(name="G0", base_bdev_name=base)))
        self.registry.get("G0").size = size
        return self.registry.get("G0")

    @property
    def service(self):
        return self.reactor.locals[service.FileService]

    def close(self):
        for bdev in self.registry:
            for descriptor in list(entry_of(bdev).openers):
                if descriptor.holder == "test":
                    descriptor.close()
        self.run(self.registry.close())
        self.reactor.close()
        assert self.module_errors == []
        assert self.engine.ios_in_use == 0
        assert self.engine.buffers.live_buffers == 0
        assert self.engine.misused == 0
        assert access._open_files == {}
        assert self.reactor.locals == {}
        assert [t for t in threading.enumerate() if "-file-" in t.name] == []


def open_fds():
    own = str(aside._starter)  # stays, once there was a device that may hang
    return {link.name for link in Path("/proc/self/fd").iterdir() if link.exists()} - {own}


@pytest.fixture
def make_stack(tmp_path):
    """Stacks whose directory and mode the test chooses; closed and checked at its end."""
    made = []

    def make(mode, directory=tmp_path):
        if mode == "ring" and (why := ring_refusal()):
            pytest.skip(why)
        if mode == "threads":
            patch.setenv(service.NO_RING_VARIABLE, "1")
        else:
            patch.delenv(service.NO_RING_VARIABLE, raising=False)
        made.append(Stack(directory, mode))
        return made[-1]

    fds = open_fds()
    with pytest.MonkeyPatch.context() as patch:
        yield make
        for stack in made:
            stack.close()
    # Fewer is possible: what an earlier test forgot may have been collected meanwhile.
    assert open_fds() <= fds


@pytest.fixture(params=["ring", "threads"])
def stack(request, make_stack):
    return make_stack(request.param)


@pytest.fixture
def ring_stack(make_stack):
    return make_stack("ring")
