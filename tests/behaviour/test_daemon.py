"""What a client of the daemon can ask about it, and what it sees of a bdev's new size."""

import json
import re

import pytest

from support.nbd_client import NbdClient, NbdFailedError
from vbdev.vocab import NbdError


@pytest.mark.rule("A.23.13")
def test_version_and_methods(serve):
    rpc = serve("malloc:1MiB").rpc
    version = rpc.call("spdk_get_version")
    assert re.match(r"SPDK v\d\d\.\d\d", version["version"])
    assert set(version["fields"]) == {"major", "minor", "patch", "suffix"}
    methods = rpc.call("rpc_get_methods")
    assert {"spdk_get_version", "rpc_get_methods", "bdev_get_bdevs"} <= set(methods)
    assert set(rpc.call("rpc_get_methods", current=True)) <= set(methods)


@pytest.mark.rule("A.22.1", "A.22.2", "A.6.10")
def test_subsystems_and_their_configuration(serve):
    """In the order in which they start: what a subsystem needs comes before it."""
    rpc = serve("malloc:1MiB", "--layer", "passthru,name=Top").rpc
    seen = []
    for entry in rpc.call("framework_get_subsystems"):
        assert list(entry) == ["subsystem", "depends_on"]
        assert set(entry["depends_on"]) <= set(seen)
        seen.append(entry["subsystem"])
    assert seen.index("bdev") < seen.index("nbd")
    for name in seen:
        for call in rpc.call("framework_get_config", name=name):
            assert set(call) <= {"method", "params"}
            assert isinstance(call["method"], str)
    methods = [call["method"] for call in rpc.call("framework_get_config", name="bdev")]
    assert {"bdev_malloc_create", "bdev_passthru_create"} <= set(methods)


@pytest.mark.rule("A.22.3")
def test_the_order_of_a_saved_configuration(serve, tmp_path):
    """Options, vbdevs, then bdevs and what is set on them; the wait for examination last."""
    options = {"method": "bdev_set_options", "params": {"bdev_auto_examine": False}}
    config = {"subsystems": [{"subsystem": "bdev", "config": [options]}]}
    (tmp_path / "c.json").write_text(json.dumps(config))
    rpc = serve("--config", tmp_path / "c.json").rpc
    rpc.call("bdev_examine", name="Disk")
    rpc.call("bdev_passthru_create", name="Top", base_bdev_name="Disk")
    rpc.call("bdev_malloc_create", name="Disk", num_blocks=64, block_size=512)
    rpc.call("bdev_set_qos_limit", name="Disk", rw_ios_per_sec=1000)
    calls = rpc.call("framework_get_config", name="bdev")
    assert [call["method"] for call in calls] == [
        "bdev_set_options",
        "bdev_examine",
        "bdev_passthru_create",
        "bdev_malloc_create",
        "bdev_set_qos_limit",
        "bdev_wait_for_examine",
    ]
    assert "params" not in calls[-1]


@pytest.mark.rule("A.2.26")
def test_a_new_size_reaches_those_who_connect_afterwards(local_app):
    """NBD has no message for the others: they keep the size that they were told."""
    local_app.serve(num_blocks=1024, kind="null")
    old = local_app.client()
    bdev = local_app.app.registry.get("Disk")
    local_app.ask(lambda: bdev.notify_blockcnt_change(4096))
    new = local_app.client()
    assert (old.size, new.size) == (1024 * 512, 4096 * 512)
    assert new.read(4095 * 512, 512) == bytes(512)
    assert old.read(1023 * 512, 512) == bytes(512)
    with pytest.raises(NbdFailedError) as caught:
        NbdClient.read(old, 4096 * 512, 512)
    assert caught.value.error == NbdError.EINVAL
