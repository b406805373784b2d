"""A start that fails: who waits for it is told, and what still holds a bdev does not keep it up."""

import contextlib
import json
import signal
import subprocess
import sys
import time

import pytest

from support.raw_rpc import RawRpc

HOUR_US = 3_600_000_000
DISK = {
    "method": "bdev_malloc_create",
    "params": {"name": "M", "num_blocks": 2048, "block_size": 512},
}
SLOW = {
    "method": "bdev_delay_create",
    "params": {
        "name": "D",
        "base_bdev_name": "M",
        "avg_read_latency": HOUR_US,
        "p99_read_latency": HOUR_US,
        "avg_write_latency": 0,
        "p99_write_latency": 0,
    },
}
START, WAIT = "framework_start_init", "framework_wait_init"
FAILED = {"code": -32603, "message": "framework_initialization failed"}


class Started:
    """A daemon that is on its way, or on its way out."""

    def __init__(self, directory, command, calls, *words):
        config = directory / "c.json"
        config.write_text(json.dumps({"subsystems": [{"subsystem": "bdev", "config": calls}]}))
        self.path, self.log = directory / "r.sock", directory / "log"
        line = [command, "--json", config, "--rpc-socket", self.path, *words]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vbdev", *map(str, line)], stderr=log, stdout=log
            )

    def connect(self):
        """Connect as soon as it listens."""
        deadline = time.monotonic() + 20
        while True:
            try:
                return RawRpc(self.path)
            except OSError:
                assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.01)

    def told(self, text):
        """Wait until the log says something."""
        deadline = time.monotonic() + 20
        while text not in self.log.read_text():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.01)


@pytest.fixture
def started(tmp_path):
    with contextlib.ExitStack() as stack:

        def start(*words):
            made = Started(tmp_path, *words)
            stack.enter_context(made.process)
            stack.callback(made.process.kill)
            return made

        yield start


def test_a_signal_ends_what_can_not_end_in_order(started):
    """The bdev is being examined, and its first block comes in an hour."""
    daemon = started("serve", [DISK, SLOW, DISK])
    daemon.told("bdev name 'M' already exists")
    daemon.process.send_signal(signal.SIGTERM)  # changes nothing: the stop is under way
    daemon.process.send_signal(signal.SIGINT)
    assert daemon.process.wait(10) == 1
    assert "Traceback" not in daemon.log.read_text()


@pytest.mark.parametrize("command", ["serve", "spdk-tgt"])
def test_who_waits_for_the_start_is_told(started, command):
    daemon = started(command, [DISK, DISK], "--wait-for-rpc")
    with daemon.connect() as waiting, daemon.connect() as starting:
        waiting.send({"id": 1, "method": "spdk_get_version"}, {"id": 2, "method": WAIT})
        assert waiting.line()["id"] == 1
        for client, answer in ((starting, starting.call(START)), (waiting, waiting.line())):
            assert answer["error"].items() >= FAILED.items()
            assert "bdev name 'M' already exists" in answer["error"]["data"]
            assert client.rest() == []
    assert daemon.process.wait(4) == 1
