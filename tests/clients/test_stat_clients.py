"""SPDK's own tool against the statistics and the rate limits of a daemon that serves.

Method: `spdk-rpc` sets and reads, an NBD client does the I/O in between.
"""

import base64
import json
import struct
import time

import pytest

from support.clients import run
from support.nbd_client import NbdClient
from vbdev.wire.nbd import Command

pytestmark = pytest.mark.client


@pytest.fixture
def daemon(serve):
    return serve("malloc:16MiB,name=M0", "--layer", "passthru,name=P0")


@pytest.fixture
def rpc(daemon):
    def call(*words, ok=0):
        answer = run("spdk-rpc", "-s", daemon.rpc_socket, *words, ok=ok).strip()
        return json.loads(answer) if answer.startswith(("{", "[")) else answer

    return call


def reads(client, count):
    offsets = range(0, count * 4096, 4096)
    client.send(b"".join(client.message(Command.READ, at, length=4096) for at in offsets))
    assert all(reply.error == 0 for reply in client.wait_all().values())


@pytest.mark.rule("A.18.5", "A.18.6")
def test_histogram(daemon, rpc):
    rpc("bdev_enable_histogram", "P0", "--histogram", "--opc", "read", "--granularity", "5")
    with NbdClient(daemon.socket) as client:
        reads(client, 50)
    answer = rpc("bdev_get_histogram", "P0")
    data = base64.b64decode(answer["histogram"])
    assert sum(struct.unpack(f"<{len(data) // 8}Q", data)) == 50
    assert len(data) == (answer["max_range"] - answer["min_range"] + 1) << (5 + 3)
    borders = rpc("bdev_get_histogram_borders", "P0", "--borders", "1,1000000")
    assert len(borders["borders_count"]) == 3
    assert borders["borders_count"][-1] == 50
    rpc("bdev_enable_histogram", "P0", "--no-histogram")
    assert "Bad address" in rpc("bdev_get_histogram", "P0", ok=1)


@pytest.mark.rule("A.18.13", "A.18.15", "A.18.16")
def test_iostat(daemon, rpc):
    rpc("bdev_set_qd_sampling_period", "P0", "1000")
    rpc("bdev_reset_iostat")  # examination has read from it
    with NbdClient(daemon.socket) as client:
        reads(client, 10)
    (shown,) = rpc("bdev_get_iostat", "--names", "P0", "--reset-mode", "all")["bdevs"]
    assert (shown["num_read_ops"], shown["bytes_read"]) == (10, 40960)
    assert shown["queue_depth_polling_period"] == 1000
    assert rpc("bdev_get_iostat", "--names", "P0")["bdevs"][0]["num_read_ops"] == 0
    rpc("bdev_reset_iostat", "--name", "M0", "--mode", "all")
    assert rpc("bdev_get_iostat", "--names", "M0")["bdevs"][0]["num_read_ops"] == 0
    rpc("bdev_set_qd_sampling_period", "P0", "0")
    with NbdClient(daemon.socket):
        channels = rpc("bdev_get_iostat", "--names", "M0", "--per-channel")["channels"]
        assert [channel["thread_id"] for channel in channels] == [1]


@pytest.mark.rule("A.17.1", "A.17.11", "A.17.12")
def test_rate_limit(daemon, rpc):
    rpc("bdev_set_qos_limit", "P0", "--rw-ios-per-sec", "1000", "--r-mbytes-per-sec", "64")
    (shown,) = rpc("bdev_get_bdevs", "-b", "P0")
    assert shown["assigned_rate_limits"] == {
        "rw_ios_per_sec": 1000,
        "rw_mbytes_per_sec": 0,
        "r_mbytes_per_sec": 64,
        "w_mbytes_per_sec": 0,
    }
    with NbdClient(daemon.socket) as client:
        began = time.monotonic()
        reads(client, 200)
        assert time.monotonic() - began >= 0.19
        saved = rpc("save_config")
        (bdev,) = [s for s in saved["subsystems"] if s["subsystem"] == "bdev"]
        assert {
            "method": "bdev_set_qos_limit",
            "params": {"name": "P0", "rw_ios_per_sec": 1000, "r_mbytes_per_sec": 64},
        } in bdev["config"]
        rpc("bdev_set_qos_limit", "P0", "--rw-ios-per-sec", "0", "--r-mbytes-per-sec", "0")
        reads(client, 200)
    assert "No rate limits specified" in rpc("bdev_set_qos_limit", "P0", ok=1)
