"""RpcTarget: bytes into a whole control plane whose clock stands still; what comes out is checked.

What the fuzzer runs, and what replays its finds. Each input has an application of its own, with all
methods there are, a disk and a layer; nothing outside of the process is touched. An input holds if

- each request has its one answer, a notification none or an error, what is no request a refusal;
- every answer is of the type that its method declares, or an error;
- nothing is logged as an error and no answer is an internal one, as bugs are;
- the application ends in order afterwards, with nothing in use.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import threading
import time
from dataclasses import replace

import msgspec

from vbdev.api.errors import INTERNAL_ERROR
from vbdev.api.methods import State
from vbdev.daemon.app import App
from vbdev.reactor.clock import VirtualClock
from vbdev.reactor.listen import ListenError
from vbdev.reactor.reactor import Reactor
from vbdev.reactor.task import wake
from vbdev.vocab.address import parse_address
from vbdev.wire.jsonrpc import Batch, Malformed, Request, ServerCodec

MAX_TURNS = 3000
"""How long a stream is served; only what waits for what does not come takes more."""
MAX_STOP_TURNS = 50_000
THREAD_S = 10.0
"""How long a method may take that works on a thread."""
WAITING = frozenset({"bdev_get_bdevs", "framework_wait_init"})
"""May take as long as they are asked to, which can be for ever."""
ENDING = frozenset({"spdk_kill_instance"})
OUTSIDE = frozenset(
    {"nbd_start_disk", "nbd_stop_disk", "thread_set_cpumask", "nbd_server_start", "nbd_server_stop"}
)
"""Would reach the kernel's block devices, the machine's CPUs, or the file system."""


class Logged(logging.Handler):
    """Keeps what is logged as an error."""

    def __init__(self):
        super().__init__(logging.ERROR)
        self.records = []

    def emit(self, record):
        self.records.append(self.format(record))


def make_harmless(app):
    """Let methods that act outside of the process decode their parameters and do nothing."""
    dispatcher = app.dispatcher

    async def refuse(_on, params):
        if hasattr(params, "address"):
            try:
                parse_address(params.address)
            except ListenError as error:
                raise OSError(error.errno, str(error)) from error
        raise OSError(errno.ENODEV, "not here")

    async def agree(_on, _params):
        return True

    for name in dispatcher.names():
        method = dispatcher.get(name)
        fields = getattr(method.params, "__struct_fields__", ())
        handler = None
        if name in OUTSIDE or "filename" in fields:
            handler = refuse
        elif name in ENDING:
            handler = agree
        if handler is not None:
            dispatcher.unregister(name)
            dispatcher.register(replace(method, handler=handler), None)


def make_app():
    """Return an application with a disk of 64 KiB, a layer on it, and a bigger disk."""
    app = App(Reactor(clock=VirtualClock()))
    app.create("malloc", {"name": "Disk", "num_blocks": 128, "block_size": 512})
    app.create("passthru", {"name": "Top", "base_bdev_name": "Disk"})
    app.create("malloc", {"name": "Big", "num_blocks": 8192, "block_size": 512})
    make_harmless(app)
    return app


def events(stream):
    """Return what the codec finds in a stream."""
    codec = ServerCodec()
    codec.feed(stream)
    return list(iter(codec.next_event, None))


class RpcTarget:
    """One input: `check(stream)` raises AssertionError where it does not hold."""

    def __init__(self, stream):
        self.stream = stream
        self.app = make_app()
        # A stream that calls it begins before it; the others find all there.
        if b"framework_start_init" in stream:
            self.app.dispatcher.state = State.STARTUP
        else:
            wake(self.app.initialized)

    def check(self):
        """Feed the stream, as one piece, and hold everything against it that is to hold."""
        logged = Logged()
        logger = logging.getLogger("vbdev")
        before = logger.level, logger.propagate
        logger.addHandler(logged)
        logger.propagate = False
        try:
            answers, closed, waiting = self._serve()
            self._end()
        finally:
            logger.removeHandler(logged)
            logger.setLevel(before[0])
            logger.propagate = before[1]
        assert not logged.records, logged.records
        self._compare(answers, closed, waiting)
        return answers

    def _serve(self):
        app, reactor = self.app, self.app.reactor
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        with reactor.here():
            app.rpc._connected(theirs)
        (connection,) = app.rpc._connections
        unsent, received = memoryview(self.stream), bytearray()
        threads = threading.active_count()
        turns, deadline = 0, time.monotonic() + THREAD_S
        while turns < MAX_TURNS:
            turns += 1
            gone = not app.rpc.connection_count
            if unsent and not gone:
                try:
                    unsent = unsent[ours.send(unsent) :]
                except BlockingIOError:
                    pass
                except OSError:
                    unsent = unsent[:0]
            did = reactor.poll()
            if app._start_init.done and app.dispatcher.state is State.STARTUP:
                app.dispatcher.state = State.RUNTIME
                wake(app.initialized)
                app.rpc.release()
            try:
                while data := ours.recv(1 << 20):
                    received += data
                    did = 1
            except (BlockingIOError, ConnectionResetError):
                pass
            if not did:
                if gone or not (unsent or connection.in_flight):
                    break
                if threading.active_count() > threads:  # no clock hurries those
                    assert time.monotonic() < deadline, "a thread does not end"
                    time.sleep(0.001)
                    turns -= 1
                    continue
                with reactor.here():
                    if not (reactor.poll() or reactor.advance()):
                        break
        waiting, closed = connection.in_flight, not app.rpc.connection_count
        if not closed:
            with reactor.here():
                connection.drop("the input ends")
        ours.close()
        assert received[-1:] in (b"", b"\n"), received[-200:]
        return [json.loads(line) for line in received.splitlines()], closed, waiting

    def _end(self):
        app = self.app
        with app.reactor.here():
            task = app.reactor.spawn(app.stop(), "stop")
        for _ in range(MAX_STOP_TURNS):
            if task.done:
                break
            if not app.reactor.poll():
                with app.reactor.here():
                    assert app.reactor.advance(), "the stop waits for what can not come"
        assert task.done, "the stop does not end"
        assert app.exit_status == 0
        assert not app.registry.bdevs
        assert app.engine.ios_in_use == 0
        app.close()

    def _compare(self, answers, closed, waiting):
        expected = events(self.stream)
        requests = [
            item
            for event in expected
            for item in (event.requests if isinstance(event, Batch) else (event,))
            if isinstance(item, Request)
        ]
        may_wait = sum(map(self._may_wait, expected))
        assert waiting <= may_wait, f"{waiting} requests have no answer"
        refused = [event for event in expected if isinstance(event, Malformed) and event.close]
        assert closed is bool(refused) or waiting
        due = sum(self._due(event) for event in expected)
        optional = sum(self._optional(event) for event in expected)
        assert due - waiting <= len(answers) <= due + optional, (due, optional, waiting, answers)
        methods = {}
        for request in requests:
            key = repr(request.id)
            methods[key] = None if key in methods else request.method
        for answer in answers:
            for one in answer if isinstance(answer, list) else (answer,):
                self._hold(one, methods)

    @staticmethod
    def _may_wait(event):
        """Return how many are in flight while this one is; a batch is until all of it has ended."""
        items = event.requests if isinstance(event, Batch) else (event,)
        waits = any(isinstance(item, Request) and item.method in WAITING for item in items)
        return len(items) * waits

    @staticmethod
    def _due(event):
        if isinstance(event, Batch):
            return any(isinstance(r, Malformed) or not r.is_notification for r in event.requests)
        return isinstance(event, Malformed) or not event.is_notification

    @staticmethod
    def _optional(event):
        return 1 - RpcTarget._due(event)

    def _hold(self, answer, methods):
        assert answer.keys() in ({"jsonrpc", "id", "result"}, {"jsonrpc", "id", "error"}), answer
        assert answer["jsonrpc"] == "2.0"
        if "error" in answer:
            error = answer["error"]
            assert error.keys() <= {"code", "message", "data"}
            assert isinstance(error["code"], int)
            assert error["code"]
            assert isinstance(error["message"], str)
            is_bug = error["code"] == INTERNAL_ERROR and error["message"] == "Internal error"
            assert not is_bug or "longer than" in error["data"], answer
            return
        method = self.app.dispatcher.get(methods.get(repr(answer["id"])) or "")
        if method is not None:
            msgspec.convert(answer["result"], method.result)


def check(stream):
    """Run one input; AssertionError (or whatever a bug raises) where it does not hold."""
    os.environ.setdefault("NO_COLOR", "1")
    return RpcTarget(bytes(stream)).check()
