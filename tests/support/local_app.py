"""LocalApp: an App in this process on a thread of its own, for tests that look inside."""

from __future__ import annotations

import threading

from support.nbd_client import NbdClient
from vbdev.app import App

WAIT_S = 20


class LocalApp:
    """An App whose reactor runs on a thread; `ask` runs a function there."""

    def __init__(self, directory):
        self.app = App()
        self.socket = str(directory / "local.sock")
        self._clients = []
        self._thread = None

    def serve(self, num_blocks=2048, block_size=512, kind="malloc", **options):
        """Create a bdev `Disk`, export it, and start to serve."""
        params = {"name": "Disk", "num_blocks": num_blocks, "block_size": block_size}
        self.app.create(kind, params)
        export = self.app.nbd.add_export("Disk", **options)
        self.app.nbd.listen(f"unix:{self.socket}")
        self._thread = threading.Thread(target=self.app.reactor.run)
        self._thread.start()
        return export

    def client(self, **options):
        """Connect a client, which is closed with the app."""
        client = NbdClient(self.socket, **options)
        self._clients.append(client)
        return client

    def ask(self, function):
        """Run a function on the reactor's thread and return its result."""
        box, done = [], threading.Event()
        self.app.reactor.send_msg(lambda: (box.append(function()), done.set()))
        assert done.wait(WAIT_S), "the reactor does not answer"
        return box[0]

    def wait_until(self, condition):
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
            assert held.wait(WAIT_S), "it does not come true"
        finally:
            given_up.set()

    def wait_idle(self):
        """Wait until no I/O is in use, no connection is left and no buffer is out."""
        engine, nbd = self.app.engine, self.app.nbd
        self.wait_until(
            lambda: (
                (engine.ios_in_use, engine.buffers.live_buffers, nbd.connection_count) == (0, 0, 0)
            )
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
        assert app.engine.ios_in_use == 0
        assert app.engine.buffers.live_buffers == 0
        assert not app.registry.bdevs
        app.reactor.close()
