"""LocalApp: an App in this process on a thread of its own, for tests that look inside."""

from __future__ import annotations

import threading

from support.nbd_client import NbdClient
from vbdev.daemon.app import App

WAIT_S = 20


class LocalApp:
    """An App whose reactors run on threads; `ask` runs a function on the first, or another."""

    def __init__(self, directory, num_reactors=1):
        self.app = App(num_reactors=num_reactors)
        self.socket = str(directory / "local.sock")
        self._clients = []
        self._thread = None

    def serve(self, num_blocks=2048, block_size=512, kind="malloc", params=None, **options):
        """Create a bdev `Disk` (with more params), export it, and start to serve."""
        sizes = {"name": "Disk", "num_blocks": num_blocks, "block_size": block_size}
        self.app.create(kind, {**sizes, **(params or {})})
        export = self.app.nbd.add_export("Disk", **options)
        self.app.nbd.listen(f"unix:{self.socket}")
        self.start()
        return export

    def start(self):
        """Let the reactors run."""
        self.app.start_reactors()
        self._thread = threading.Thread(target=self.app.reactor.run)
        self._thread.start()

    def client(self, **options):
        """Connect a client, which is closed with the app."""
        client = NbdClient(self.socket, **options)
        self._clients.append(client)
        return client

    @property
    def reactors(self):
        """All reactors, the first first."""
        return list(self.app.reactors)

    def ask(self, function, reactor=None):
        """Run a function on a reactor's thread and return its result, or raise what it raises."""

        async def work():
            return function()

        return self.run(work(), reactor)

    def run(self, coroutine, reactor=None, timeout_s=WAIT_S):
        """Run a coroutine on a reactor's thread and return its result, or raise what it raises."""
        reactor = reactor or self.app.reactor
        ended, done = [], threading.Event()

        def start():
            reactor.spawn(coroutine).add_done_callback(
                lambda task: (ended.append(task), done.set())
            )

        reactor.send_msg(start)
        assert done.wait(timeout_s), f"{reactor} does not answer"
        return ended[0].result()

    def wait_until(self, condition, timeout_s=WAIT_S):
        """Wait until a condition holds on the reactor's thread."""
        held = threading.Event()

        def look():
            if condition():
                held.set()
            elif not given_up.is_set():
                self.app.reactor.call_later(1000, look)

        given_up = threading.Event()
        self.app.reactor.send_msg(look)
        try:
            assert held.wait(timeout_s), "it does not come true"
        finally:
            given_up.set()

    def wait_idle(self):
        """Wait until no I/O is in use, no connection is left and no buffer is out."""
        self.wait_until(lambda: (*self._in_use(), self.app.nbd.connection_count) == (0, 0, 0))

    def _in_use(self):
        engines = [reactor.engine for reactor in self.reactors]
        return (
            sum(engine.ios_in_use for engine in engines),
            sum(engine.buffers.live_buffers for engine in engines),
        )

    def close(self):
        """End in order; nothing may be left in use."""
        for client in self._clients:
            client.close()
        app = self.app
        if self._thread is None:
            app.reactor.run_until_complete(app.stop())
        else:
            app.reactor.send_msg(lambda: app.reactor.spawn(app.stop(), "stop"))
            self._thread.join(WAIT_S)
            assert not self._thread.is_alive(), "the app does not stop"
        assert app.exit_status == 0
        assert self._in_use() == (0, 0)
        assert not app.registry.bdevs
        assert not any(reactor.locals for reactor in app.reactors)
        app.close()
