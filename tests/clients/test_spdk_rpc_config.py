"""SPDK's own client saves a daemon's configuration; another daemon that loads it is the same.

Method: `spdk-rpc` as PyPI has it against `vbdev serve`; what it saves is compared as bytes, what
there is as bdev_get_bdevs tells it.
"""

import json
import random

import pytest

from support.clients import run

pytestmark = [pytest.mark.client, pytest.mark.rule("A.22.5", "A.22.6", "A.22.8")]

LATENCIES = dict.fromkeys(
    ("avg_read_latency", "p99_read_latency", "avg_write_latency", "p99_write_latency"), 7
)
UUID = "00000001-0000-4000-8000-000000000000"
DIF = {"md_size": 8, "dif_type": 1, "md_interleave": True}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "saved.json"


def spdk_rpc(daemon, *words, **options):
    return run("spdk-rpc", "-s", daemon.rpc_socket, *words, **options)


def fill(daemon, directory):
    """Make a stack of all modules, on bases that are there, come later, and never come."""
    (directory / "disk").write_bytes(bytes(4 << 20))
    call = daemon.rpc.call
    call("bdev_passthru_create", name="Top", base_bdev_name="Slow", uuid=UUID)
    call("bdev_delay_create", name="Slow", base_bdev_name="M", **LATENCIES)
    call("bdev_passthru_create", name="Waits", base_bdev_name="Absent")
    call("bdev_split_create", base_bdev="Void", split_count=2)
    call("bdev_malloc_create", name="M", num_blocks=2048, block_size=4096)
    call("bdev_malloc_create", name="Checked", num_blocks=64, block_size=512, **DIF)
    call("bdev_null_create", name="N", num_blocks=8192, block_size=512)
    call("bdev_uring_create", name="U", filename=str(directory / "disk"))
    call("bdev_split_create", base_bdev="U", split_count=2, split_size_mb=1)
    call("bdev_error_create", base_name="N")
    call("bdev_error_inject_error", name="EE_N", io_type="read", error_type="failure", num=3)
    zones = {"zone_capacity": 1000, "optimal_open_zones": 2}
    call("bdev_zone_block_create", name="Z", base_bdev="EE_N", **zones)
    call("bdev_set_qos_limit", name="Top", rw_ios_per_sec=5000, w_mbytes_per_sec=3)
    call("bdev_enable_histogram", name="Up1", enable=True, opc="write", granularity=5)
    call("nbd_export_add", bdev_name="Top", export_name="top", description="of the stack")


def what_is_there(daemon):
    bdevs = {bdev["name"]: bdev for bdev in daemon.rpc.call("bdev_get_bdevs")}
    waiting = {one["name"] for one in daemon.rpc.call("vbdev_get_stack")} - bdevs.keys()
    assert waiting == {"Waits", "split of Void"}
    return bdevs, daemon.rpc.call("nbd_get_exports")


def waiting_daemon(serve, *words):
    return serve("--wait-for-rpc", *words, nbd=[])


def test_save_and_load(serve, path, tmp_path):
    first = serve(nbd=[])
    fill(first, tmp_path)
    saved, told = spdk_rpc(first, "save_config"), what_is_there(first)
    first.stop()
    path.write_text(saved)
    second = serve(nbd=[])
    said = spdk_rpc(second, "load_config", "-j", path)
    # bdev_set_options comes too late for a daemon that runs; SPDK's client says so of SPDK's too.
    assert said.startswith("Some configs were skipped")
    assert (spdk_rpc(second, "save_config"), what_is_there(second)) == (saved, told)
    second.stop()
    third = serve("--json", path, nbd=[])
    assert (spdk_rpc(third, "save_config"), what_is_there(third)) == (saved, told)


def test_options_are_loaded_before_the_start(serve, path, tmp_path):
    options = {"bdev_io_pool_size": 5000, "bdev_io_cache_size": 10}
    first = waiting_daemon(serve)
    first.rpc.call("bdev_set_options", **options)
    first.rpc.call("iobuf_set_options", large_pool_count=512)
    first.rpc.call("framework_start_init")
    fill(first, tmp_path)
    saved = spdk_rpc(first, "save_config", "-i", "-1")
    first.stop()
    set_first = {
        one["subsystem"]: one["config"][0]["params"]
        for one in json.loads(saved)["subsystems"]
        if one["config"]
    }
    assert options.items() <= set_first["bdev"].items()
    assert set_first["iobuf"]["large_pool_count"] == 512
    path.write_text(saved)
    second = waiting_daemon(serve)
    assert spdk_rpc(second, "load_config", "-j", path) == ""
    assert spdk_rpc(second, "save_config", "-i", "-1") == saved


@pytest.mark.parametrize("seed", range(3))
def test_what_makes_bdevs_in_any_order(serve, path, tmp_path, seed):
    first = serve(nbd=[])
    fill(first, tmp_path)
    saved, told = json.loads(spdk_rpc(first, "save_config")), what_is_there(first)
    first.stop()
    chance = random.Random(seed)
    bdev = next(one for one in saved["subsystems"] if one["subsystem"] == "bdev")
    makes = [entry for entry in bdev["config"] if entry["method"].endswith("_create")]
    chance.shuffle(makes)
    rest = [entry for entry in bdev["config"] if entry not in makes]
    bdev["config"] = [*makes, *rest]
    path.write_text(json.dumps(saved))
    second = serve(nbd=[])
    spdk_rpc(second, "load_config", "-j", path)
    assert what_is_there(second) == told
    again = json.loads(spdk_rpc(second, "save_config"))
    assert in_order(again) == in_order(saved)


def in_order(saved):
    return {
        one["subsystem"]: sorted(json.dumps(entry) for entry in one["config"])
        for one in saved["subsystems"]
    }


def test_batches(serve, path):
    first = serve(nbd=[])
    for name in ("A", "B"):
        first.rpc.call("bdev_malloc_create", name=name, num_blocks=64, block_size=512)
    first.rpc.call("bdev_null_create", name="C", num_blocks=64, block_size=512)
    first.rpc.call("bdev_set_qos_limit", name="C", rw_ios_per_sec=1000)
    first.rpc.call("bdev_null_create", name="D", num_blocks=64, block_size=512)
    saved = spdk_rpc(first, "save_config", "--with-batches")
    flat = spdk_rpc(first, "save_config")
    first.stop()
    bdev = next(one for one in json.loads(saved)["subsystems"] if one["subsystem"] == "bdev")
    shape = [len(one) if isinstance(one, list) else one["method"] for one in bdev["config"]]
    assert shape == [
        "bdev_set_options",
        3,
        "bdev_set_qos_limit",
        "bdev_null_create",
        "bdev_wait_for_examine",
    ]
    path.write_text(saved)
    second = waiting_daemon(serve)
    spdk_rpc(second, "load_config", "-j", path)
    assert spdk_rpc(second, "save_config", "--with-batches") == saved
    second.stop()
    third = serve("--config", path, nbd=[])
    assert spdk_rpc(third, "save_config") == flat


def test_one_subsystem(serve, path, tmp_path):
    first = serve(nbd=[])
    fill(first, tmp_path)
    saved = spdk_rpc(first, "save_subsystem_config", "-n", "bdev")
    assert "Subsystem 'nvmf' not found" in spdk_rpc(
        first, "save_subsystem_config", "-n", "nvmf", ok=1
    )
    only = json.loads(spdk_rpc(first, "save_config", "-s", "nbd"))
    assert [one["subsystem"] for one in only["subsystems"]][-2:] == ["bdev", "nbd"]
    told = what_is_there(first)[0]
    first.stop()
    path.write_text(saved)
    second = serve(nbd=[])
    said = spdk_rpc(second, "load_subsystem_config", "-j", path)
    assert said.startswith("Some configs were skipped")
    assert spdk_rpc(second, "save_subsystem_config", "-n", "bdev") == saved
    claimed = [bdev for bdev in told if told[bdev]["claimed"]]
    assert claimed
    assert what_is_there(second)[0] == told


def test_a_mistake_is_told(serve, path):
    """SPDK's client ends with the daemon's words; a method that nobody has it finds itself."""
    entry = {"method": "bdev_malloc_create", "params": {"nmae": "A"}}
    path.write_text(json.dumps({"subsystems": [{"subsystem": "bdev", "config": [entry]}]}))
    daemon = serve(nbd=[])
    assert "spdk_json_decode_object failed" in spdk_rpc(daemon, "load_config", "-j", path, ok=1)
    entry["method"] = "bdev_florp_create"
    path.write_text(json.dumps({"subsystems": [{"subsystem": "bdev", "config": [entry]}]}))
    assert "Unknown method" in spdk_rpc(daemon, "load_config", "-j", path, ok=1)
