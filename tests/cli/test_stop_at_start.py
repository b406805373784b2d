"""A signal while the configuration is carried out: the daemon stops, and does not wait for it."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from vbdev.api.errors import RpcError
from vbdev.client import Client

WAIT_S = 100
NULL = {"method": "bdev_null_create", "params": {"name": "N0", "num_blocks": 8, "block_size": 512}}
WAITS = {"method": "bdev_get_bdevs", "params": {"name": "Nobody", "timeout": WAIT_S * 1000}}
LATE = {"method": "bdev_null_create", "params": {"name": "N1", "num_blocks": 8, "block_size": 512}}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["serve", "spdk-tgt"])
def test_a_call_that_takes_long(tmp_path, command, number):
    file, path, log = (tmp_path / name for name in ("c.json", "r.sock", "log"))
    calls = {"subsystems": [{"subsystem": "bdev", "config": [NULL, WAITS, LATE]}]}
    file.write_text(json.dumps(calls))
    words = [sys.executable, "-m", "vbdev", command, "--json", file, "--rpc-socket", path]
    with log.open("wb") as err, subprocess.Popen(list(map(str, words)), stderr=err) as process:
        deadline = time.monotonic() + 20
        while not path.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.3)
        with pytest.raises((TimeoutError, RpcError)), Client(str(path), timeout_s=0.2) as client:
            client.call("framework_wait_init")
        began = time.monotonic()
        os.kill(process.pid, number)
        assert process.wait(20) == 0, log.read_text()
        assert time.monotonic() - began < WAIT_S / 5
    assert not path.exists()
    assert "Traceback" not in log.read_text()
    assert " ERROR " not in log.read_text()
