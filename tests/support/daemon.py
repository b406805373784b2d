"""Daemon: `vbdev serve` as a user starts it, on private sockets, watched and always ended."""

from __future__ import annotations

import signal
from pathlib import Path

from vbdev.client import Client
from vbdev.testing import daemon

TIMEOUT_S = 20


class Daemon(daemon.Daemon):
    """One process of `vbdev serve` that has nothing to complain about.

    words: as on the command line. nbd: addresses to serve on; by default a unix socket.
    wrapper: a command to run it under (strace). env: more environment.
    """

    def __init__(self, directory, *words, nbd=None, **options):
        self.socket = str(Path(directory) / "v.sock")
        for address in [f"unix:{self.socket}"] if nbd is None else nbd:
            words += ("--nbd", address)
        super().__init__(
            *words,
            command="serve",
            directory=directory,
            start_timeout_s=TIMEOUT_S,
            stop_timeout_s=TIMEOUT_S,
            **options,
        )

    def stop(self, number=signal.SIGTERM):
        """End it in order: status 0, sockets gone, nothing to complain about."""
        if not self.is_running:
            return
        super().stop(number)
        self.check_log()
        left = [p.name for p in self.directory.glob("*.sock*")]
        assert not left, f"sockets left behind: {left}"

    # What tests look at

    @property
    def rpc(self) -> Client:
        """A client of its control plane."""
        return self.client

    def uri(self, export="") -> str:
        """Return the NBD URI of an export on the unix socket."""
        return f"nbd+unix:///{export}?socket={self.socket}"

    def check_log(self):
        """Nothing went wrong inside: no traceback, nothing logged as an error."""
        for word in ("Traceback", " ERROR ", " CRITICAL ", "Exception ignored"):
            assert word not in self.stderr, self.stderr

    @property
    def pid(self) -> int:
        """The process, where a wrapper is the parent: its child."""
        pid = super().pid
        if "strace" not in self.command[0]:
            return pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def status(self, field: str) -> int:
        """Return a number of /proc/PID/status: VmRSS (KiB), voluntary_ctxt_switches..."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1])
        raise KeyError(field)

    def rss_kib(self) -> int:
        """Return its resident memory in KiB."""
        return self.status("VmRSS")

    def fd_count(self) -> int:
        """Return how many descriptors it has open."""
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    def cpu_ticks(self) -> int:
        """Return the CPU time it has had, in clock ticks."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])
