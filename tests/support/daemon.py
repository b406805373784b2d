"""Daemon: `vbdev serve` as a user starts it, on private sockets, watched and always ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from vbdev.rpc.client import RpcClient

START_TIMEOUT_S = 20
STOP_TIMEOUT_S = 20


class Daemon:
    """One process of `vbdev serve`.

    words: as on the command line. nbd: addresses to serve on; by default a unix socket.
    wrapper: a command to run it under (strace). env: more environment.
    """

    def __init__(self, directory, *words, nbd=None, wrapper=(), env=None):
        self.directory = Path(directory)
        self.socket = str(self.directory / "v.sock")
        self.rpc_socket = str(self.directory / "r.sock")
        self.stdout_file = self.directory / "stdout"
        self.stderr_file = self.directory / "stderr"
        addresses = [f"unix:{self.socket}"] if nbd is None else nbd
        self.command = [*wrapper, sys.executable, "-m", "vbdev", "serve", *map(str, words)]
        for address in addresses:
            self.command += ["--nbd", address]
        self.command += ["--rpc-socket", self.rpc_socket]
        self._env = os.environ | (env or {})
        self._rpc = None
        self.process = None

    # Life

    def start(self, until="try: "):
        """Start it and wait until it serves, or has printed something else; again after its end."""
        with self.stdout_file.open("wb") as out, self.stderr_file.open("ab") as err:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=self.directory,
                env=self._env,
                start_new_session=True,  # so that what a wrapper started ends too
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while until not in self.stdout:
            if self.process.poll() is not None:
                raise AssertionError(f"{self.command} ended at once:\n{self.stderr}")
            assert time.monotonic() < deadline, f"{self.command} does not start:\n{self.stderr}"
            time.sleep(0.005)
        self.rpc.call("spdk_get_version")

    def stop(self, number=signal.SIGTERM):
        """End it in order: status 0, sockets gone, nothing to complain about."""
        self._hang_up()
        os.kill(self.pid, number)
        status = self._ended("the signal to end")
        assert status == 0, f"status {status}:\n{self.stderr}"
        self.check_log()
        left = [p.name for p in self.directory.glob("*.sock")]
        assert not left, f"sockets left behind: {left}"

    def kill(self):
        """End it as a crash would."""
        self._hang_up()
        os.killpg(self.process.pid, signal.SIGKILL)
        self._ended("SIGKILL")

    def close(self):
        """End it whatever happened; one that still runs is told in order first."""
        if self.process is not None and self.process.poll() is None:
            try:
                self.stop()
            finally:
                if self.process.poll() is None:
                    self.kill()
        self._hang_up()

    def _ended(self, by):
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it outlived {by}:\n{self.stderr}") from None

    def _hang_up(self):
        if self._rpc is not None:
            self._rpc.close()
            self._rpc = None

    # What tests look at

    @property
    def rpc(self) -> RpcClient:
        """A client of its control plane."""
        if self._rpc is None:
            self._rpc = RpcClient(self.rpc_socket, 20)
        return self._rpc

    def uri(self, export="") -> str:
        """Return the NBD URI of an export on the unix socket."""
        return f"nbd+unix:///{export}?socket={self.socket}"

    @property
    def stdout(self) -> str:
        """What it has printed."""
        return self.stdout_file.read_text()

    @property
    def stderr(self) -> str:
        """What it has logged."""
        return self.stderr_file.read_text()

    def check_log(self):
        """Nothing went wrong inside: no traceback, nothing logged as an error."""
        for word in ("Traceback", " ERROR ", " CRITICAL ", "Exception ignored"):
            assert word not in self.stderr, self.stderr

    @property
    def pid(self) -> int:
        """The process, where a wrapper is the parent: its child."""
        if "strace" not in self.command[0]:
            return self.process.pid
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return int(children.read_text().split()[0])

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
