"""`vbdev serve --wait-for-rpc`: options first, all else at framework_start_init."""

import json
import threading

import pytest

from support.daemon import Daemon
from vbdev.api.errors import RpcError
from vbdev.client import Client


@pytest.mark.rule("A.6.2", "A.6.3", "A.6.4", "A.6.12", "A.6.13")
def test_options_come_first(tmp_path):
    config = {
        "subsystems": [
            {
                "subsystem": "bdev",
                "config": [
                    {
                        "method": "bdev_null_create",
                        "params": {"name": "N", "num_blocks": 8, "block_size": 512},
                    },
                    {
                        "method": "bdev_set_options",
                        "params": {"bdev_io_pool_size": 4000, "bdev_auto_examine": False},
                    },
                ],
            }
        ]
    }
    (tmp_path / "c.json").write_text(json.dumps(config))
    daemon = Daemon(tmp_path, "malloc:1MiB", "--config", tmp_path / "c.json", "--wait-for-rpc")
    daemon.start()
    early = daemon.rpc
    methods = early.call("rpc_get_methods", current=True)
    assert {"spdk_get_version", "framework_start_init", "bdev_set_options"} <= set(methods)
    assert not {"bdev_get_bdevs", "bdev_malloc_create", "nbd_server_start"} & set(methods)
    with pytest.raises(RpcError, match="only be called after framework is initialized"):
        early.call("bdev_get_bdevs")
    for params, told in (
        ({"bdev_io_pool_size": 300}, "Pool size 300 too small for cache size 256"),
        ({"bdev_io_pool_size": 0, "bdev_io_cache_size": 0}, "Pool size 0 too small"),
        ({"bdev_io_pool_size": -1}, "Invalid parameters"),
    ):
        with pytest.raises(RpcError, match=told) as caught:
            early.call("bdev_set_options", **params)
        assert caught.value.code == -32602
    assert early.call("bdev_set_options", bdev_io_pool_size=5, bdev_io_cache_size=1) is True
    waiting = []

    def wait():
        with Client(daemon.rpc_socket, 20) as client:
            waiting.append(client.call("framework_wait_init"))

    second = threading.Thread(target=wait)
    second.start()
    assert early.call("framework_start_init") is True
    second.join()
    assert waiting == [True]
    assert [bdev["name"] for bdev in early.call("bdev_get_bdevs")] == ["Malloc0", "N"]
    for method in ("framework_start_init", "bdev_set_options"):
        with pytest.raises(RpcError, match="only be called before framework is initialized"):
            early.call(method)
    assert early.call("framework_wait_init") is True
    assert early.call("framework_get_config", name="bdev")[0] == {
        "method": "bdev_set_options",
        "params": {
            "bdev_io_pool_size": 5,
            "bdev_io_cache_size": 1,
            "bdev_auto_examine": False,
            "iobuf_small_cache_size": 128,
            "iobuf_large_cache_size": 16,
        },
    }
    daemon.stop()


def test_a_signal_ends_the_wait(tmp_path):
    daemon = Daemon(tmp_path, "malloc:1MiB", "--wait-for-rpc")
    daemon.start()
    daemon.stop()
    assert "export" not in daemon.stdout
