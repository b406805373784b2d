"""What is forgotten without being closed: no crash, whatever the collector takes first.

Method: objects in cycles, dropped and collected, in this process.
"""

import gc
import mmap
import socket
import weakref
from pathlib import Path

from support.stack import Stack, Stub
from vbdev.core.engine.channel import Channel
from vbdev.core.engine.engine import Engine
from vbdev.core.engine.requests import Requests
from vbdev.core.nbd.server.stream import NbdStream
from vbdev.vocab import Op


class Marker:
    """Dies with what refers to it."""


def test_a_stream_with_a_buffer():
    """It gives the buffer back to an engine that is garbage as well."""
    marker = Marker()
    gone = weakref.ref(marker)
    engine = Engine()
    engine.on_module_error = marker
    channel = Channel(engine, None)
    near, far = socket.socketpair()
    stream = NbdStream(
        engine,
        channel,
        near.fileno(),
        transmission_flags=1,
        structured=False,
        nbd_error=lambda _status, _errno: 0,
        on_change=lambda: None,
        early=b"the beginning of a request",
    )
    assert engine.buffers.live_buffers == 1
    near.close()
    far.close()
    del engine, channel, stream, marker
    gc.collect()
    assert gone() is None


def test_a_stack_with_ios_in_flight():
    marker = Marker()
    gone = weakref.ref(marker)
    stack = Stack(buffer_limit_bytes=8192)
    stack.disk(Stub)
    stack.layer()
    top = stack.open("Top")
    for n in range(6):
        top.submit(Op.READ, n)
    stack.engine.on_module_error = marker
    stack.reactor.close()
    del stack, top, marker
    gc.collect()
    assert gone() is None


def test_requests_that_nobody_closed():
    marker = Marker()
    gone = weakref.ref(marker)
    engine = Engine()
    engine.on_module_error = marker
    for _ in range(10):
        Requests(engine)
    del engine, marker
    gc.collect()
    assert gone() is None


def test_an_engine_that_is_forgotten_gives_its_address_space_back():
    def mapped_bytes():
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE

    Engine()
    before = mapped_bytes()
    for _ in range(50):
        Engine(pool_size=256)
    assert mapped_bytes() - before < 32 << 20
