"""SPDK's own client drives split, delay, error, zone_block and the methods of null and aio.

Method: `spdk-rpc` as PyPI has it against a daemon; what it prints is what its user sees.
"""

import json
import os

import pytest

from support.clients import run
from support.nbd_client import NbdClient, NbdFailedError

pytestmark = pytest.mark.client


@pytest.fixture
def rpc(serve):
    """Return a function that calls spdk-rpc and returns what it printed, as JSON if it is."""
    daemon = serve("malloc:16MiB")

    def call(*words, ok=0):
        printed = run("spdk-rpc", "-s", daemon.rpc_socket, *words, ok=ok).strip()
        try:
            return json.loads(printed)
        except json.JSONDecodeError:
            return printed

    call.daemon = daemon
    call("bdev_malloc_create", "-b", "M0", "64", "512")
    return call


def names(rpc):
    return [bdev["name"] for bdev in rpc("bdev_get_bdevs")][1:]


def test_split(rpc):
    assert rpc("bdev_split_create", "M0", "3").split() == ["M0p0", "M0p1", "M0p2"]
    assert names(rpc) == ["M0", "M0p0", "M0p1", "M0p2"]
    said = rpc("bdev_split_create", "M0", "2", ok=1)
    assert "Failed to create 2 split bdevs from 'M0': File exists" in said
    rpc("bdev_split_delete", "M0")
    assert rpc("bdev_split_create", "M0", "4", "-s", "8").split() == [f"M0p{n}" for n in range(4)]
    (part,) = rpc("bdev_get_bdevs", "-b", "M0p3")
    assert part["num_blocks"] == 16384


def test_delay(rpc):
    latencies = ("-r", "10", "-t", "20", "-w", "30", "-n", "40")
    assert rpc("bdev_delay_create", "-b", "M0", "-d", "D0", *latencies) == "D0"
    assert rpc("bdev_delay_update_latency", "D0", "p99_read", "50") is True
    (told,) = rpc("bdev_get_bdevs", "-b", "D0")
    assert told["driver_specific"]["delay"]["p99_read_latency"] == 50
    said = rpc("bdev_delay_update_latency", "M0", "p99_read", "50", ok=1)
    assert "The requested bdev is not a delay bdev." in said
    rpc("bdev_delay_delete", "D0")
    assert names(rpc) == ["M0"]


def test_error(rpc):
    rpc("bdev_error_create", "M0")
    rpc.daemon.rpc.call("nbd_export_add", bdev_name="EE_M0")
    with NbdClient(rpc.daemon.socket, "EE_M0") as client:
        client.write(0, b"x" * 512)
        rpc("bdev_error_inject_error", "EE_M0", "read", "failure", "-n", "1")
        with pytest.raises(NbdFailedError):
            client.read(0, 512)
        assert client.read(0, 512) == b"x" * 512
        rpc("bdev_error_inject_error", "EE_M0", "read", "corrupt_data", "-o", "3", "-v", "1")
        assert client.read(0, 512)[:5] == b"xxxyx"
        rpc(
            "bdev_error_inject_error", "EE_M0", "all", "nvme_failure", "--nvme-sct=2", "--nvme-sc=5"
        )
        rpc("bdev_error_inject_error", "EE_M0", "clear", "failure")
        assert client.read(0, 512) == b"x" * 512
    said = rpc("bdev_error_inject_error", "M0", "read", "failure", ok=1)
    assert "No such device" in said
    rpc.daemon.rpc.call("nbd_export_remove", export_name="EE_M0")
    rpc("bdev_error_delete", "EE_M0")
    assert names(rpc) == ["M0"]


def test_zone_block(rpc):
    words = ("-n", "M0", "-b", "Z0", "-z", "1000", "-o", "1")
    assert rpc("bdev_zone_block_create", *words) == "Z0"
    (told,) = rpc("bdev_get_bdevs", "-b", "Z0")
    assert (told["zoned"], told["zone_size"]) == (True, 1024)
    said = rpc("bdev_zone_block_create", *words, ok=1)
    assert "Failed to create block zoned vbdev: File exists" in said
    rpc("bdev_zone_block_delete", "Z0")


def test_resize_and_rescan(rpc, tmp_path):
    rpc("bdev_null_create", "N0", "8", "512")
    assert rpc("bdev_null_resize", "N0", "16") is True
    path = tmp_path / "disk"
    path.write_bytes(bytes(1 << 20))
    rpc("bdev_aio_create", path, "A0", "512")
    os.truncate(path, 2 << 20)
    rpc("bdev_aio_rescan", "A0")
    sizes = {bdev["name"]: bdev["num_blocks"] for bdev in rpc("bdev_get_bdevs")}
    assert (sizes["N0"], sizes["A0"]) == (32768, 4096)


def test_a_configuration_comes_back(rpc, serve, tmp_path):
    rpc("bdev_split_create", "M0", "2")
    rpc("bdev_error_create", "M0p0")
    rpc(
        "bdev_delay_create", "-b", "M0p1", "-d", "D0", *("-r", "1", "-t", "1", "-w", "1", "-n", "1")
    )
    rpc("bdev_split_create", "Absent", "4")
    config = tmp_path / "config.json"
    config.write_text(run("spdk-rpc", "-s", rpc.daemon.rpc_socket, "save_config"))
    before = names(rpc)
    rpc.daemon.stop()
    again = serve("--config", config)
    printed = run("spdk-rpc", "-s", again.rpc_socket, "bdev_get_bdevs")
    assert {bdev["name"] for bdev in json.loads(printed)} >= set(before)
