"""NBD servers of others, as processes on one disk file, which can be killed and started again."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from urllib.parse import quote

from support.clients import find, requires

SIZE = 16 << 20
READY_S = 10


class ForeignServer:
    """nbdkit, qemu-nbd or nbd-server. export: a name, where the server has it from its caller."""

    def __init__(self, kind, directory, *, tcp=False, export="", size=SIZE):
        requires(kind)
        self.kind = kind
        self.export = export or ("disk" if kind == "nbd-server" else "")
        self.path = directory / f"{kind}.sock"
        self.file = directory / f"{kind}.disk"
        self.config = directory / f"{kind}.conf"
        self.port = free_port() if tcp else 0
        self.pidfile = directory / f"{kind}.pid"
        self.process = None
        self.daemon = 0
        with self.file.open("wb") as file:
            file.truncate(size)
        self.start()

    @property
    def uri(self):
        name = quote(self.export, safe="")
        if self.port:
            return f"nbd://127.0.0.1:{self.port}/{name}"
        return f"nbd+unix:///{name}?socket={self.path}"

    def start(self):
        self.path.unlink(missing_ok=True)
        words = [find(self.kind), *map(str, getattr(self, WORDS[self.kind])())]
        if self.kind == "nbd-server":  # which serves several clients as a daemon only
            subprocess.run(words, check=True)
            until = time.monotonic() + READY_S
            while not self.pidfile.exists() or not self.pidfile.read_text():
                assert time.monotonic() < until
                time.sleep(0.01)
            self.daemon = int(self.pidfile.read_text())
        else:
            self.process = subprocess.Popen(words)
        self.wait_ready()

    def _nbdkit(self):
        where = ["-i", "127.0.0.1", "-p", self.port] if self.port else ["-U", self.path]
        return ["-f", *where, "file", self.file]

    def _qemu_nbd(self):
        where = ["-b", "127.0.0.1", "-p", self.port] if self.port else ["-k", self.path]
        name = ["-x", self.export] if self.export else []
        return ["-t", "-e", "16", "-f", "raw", "--discard=unmap", *where, *name, self.file]

    def _nbd_server(self):
        self.config.write_text(
            f"[generic]\nunixsock = {self.path}\nallowlist = true\nmax_threads = 4\n"
            f"[{self.export}]\nexportname = {self.file}\nflush = true\nfua = true\ntrim = true\n"
        )
        return ["-C", self.config, "-p", self.pidfile]

    def wait_ready(self):
        """Wait until it listens; its socket's file is there a little earlier."""
        until = time.monotonic() + READY_S
        while True:
            with contextlib.suppress(OSError), self._probe():
                return
            assert time.monotonic() < until
            assert self.process is None or self.process.poll() is None
            time.sleep(0.01)

    def _probe(self):
        if self.port:
            return socket.create_connection(("127.0.0.1", self.port))
        probe = socket.socket(socket.AF_UNIX)
        try:
            probe.connect(str(self.path))
        except OSError:
            probe.close()
            raise
        return probe

    def kill(self):
        if self.daemon:
            os.killpg(self.daemon, signal.SIGKILL)
            self.daemon = 0
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


WORDS = {"nbdkit": "_nbdkit", "qemu-nbd": "_qemu_nbd", "nbd-server": "_nbd_server"}


def free_port():
    """Return a port of 127.0.0.1 that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]
