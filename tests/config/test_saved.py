"""What is saved, where the order matters: partitions, vbdevs that nobody examines, lost bases."""

import json

import pytest

from support.config import call, fresh_app, load, save
from vbdev.api.methods import State

PARTITION = "7c5222bd-8f5d-4087-9c00-bf9843c7b58c"
DISK_SIZE = 8 << 20
LATENCIES = dict.fromkeys(
    ("avg_read_latency", "p99_read_latency", "avg_write_latency", "p99_write_latency"), 7
)


@pytest.fixture
def app():
    with fresh_app() as app:
        yield app


def bdev_calls(text):
    (config,) = [
        one["config"] for one in json.loads(text)["subsystems"] if one["subsystem"] == "bdev"
    ]
    return config


def in_short(text):
    """Return method and name of each call."""
    return [
        (one["method"].removeprefix("bdev_"), (one.get("params") or {}).get("name"))
        for one in bdev_calls(text)
    ]


def carried_out_one_by_one(text):
    """Do what `spdk-rpc load_config` does to a daemon that runs; return what that saves."""
    with fresh_app() as app:
        for subsystem in json.loads(text)["subsystems"]:
            for one in subsystem["config"]:
                if app.dispatcher.get(one["method"]).states != State.STARTUP:
                    call(app, one["method"], **one.get("params", {}))
        return save(app)


def partitioned(app, base):
    parts = [{"num_blocks": 2048, "type_guid": PARTITION} for _ in range(2)]
    return call(app, "bdev_gpt_create", base_bdev=base, partitions=parts)


@pytest.mark.rule("A.5.9", "A.22.3", "A.22.6")
def test_what_is_set_on_partitions_waits_for_them(app, tmp_path):
    (tmp_path / "disk").write_bytes(bytes(DISK_SIZE))
    for name in ("First", "Second"):
        call(app, "bdev_null_create", name=name, num_blocks=64, block_size=512)
    call(app, "bdev_uring_create", name="Disk", filename=str(tmp_path / "disk"), block_size=512)
    assert partitioned(app, "Disk") == ["Diskp1", "Diskp2"]
    call(app, "bdev_passthru_create", name="Top", base_bdev_name="Diskp2")
    for name in ("Diskp1", "Top", "Second"):
        call(app, "bdev_set_qos_limit", name=name, rw_ios_per_sec=1000)
    call(app, "nbd_export_add", bdev_name="Top")
    saved = save(app)
    app.reactor.run_until_complete(app.stop())  # the file is locked
    assert in_short(saved) == [
        ("set_options", None),
        ("passthru_create", "Top"),
        ("null_create", "First"),
        ("null_create", "Second"),
        ("set_qos_limit", "Second"),
        ("uring_create", "Disk"),
        ("wait_for_examine", None),
        ("set_qos_limit", "Diskp1"),
        ("set_qos_limit", "Top"),
        ("wait_for_examine", None),
    ]
    assert carried_out_one_by_one(saved) == saved
    with fresh_app() as again:
        load(again, saved, tmp_path / "c.json")
        assert save(again) == saved


def test_partitions_of_a_disk_in_memory_do_not_come_back(app, tmp_path):
    """So what was set on them is not saved, and what is saved loads; a vbdev waits for ever."""
    call(app, "bdev_malloc_create", name="Disk", num_blocks=DISK_SIZE // 512, block_size=512)
    partitioned(app, "Disk")
    call(app, "bdev_passthru_create", name="Top", base_bdev_name="Diskp1")
    for name in ("Disk", "Diskp1", "Diskp2", "Top"):
        call(app, "bdev_set_qos_limit", name=name, rw_ios_per_sec=1000)
    call(app, "nbd_export_add", bdev_name="Top")
    saved = save(app)
    assert in_short(saved) == [
        ("set_options", None),
        ("passthru_create", "Top"),
        ("malloc_create", "Disk"),
        ("set_qos_limit", "Disk"),
        ("wait_for_examine", None),
    ]
    with fresh_app() as again:
        load(again, saved, tmp_path / "c.json")
        assert in_short(save(again)) == in_short(saved)


def test_vbdevs_are_behind_bases_that_nobody_examines(app, tmp_path):
    app.dispatcher.state = State.STARTUP
    call(app, "bdev_set_options", bdev_auto_examine=False)
    app.dispatcher.state = State.RUNTIME
    call(app, "bdev_examine", name="Looked")
    call(app, "bdev_passthru_create", name="Waits", base_bdev_name="Disk")
    for name in ("Disk", "Looked"):
        call(app, "bdev_null_create", name=name, num_blocks=64, block_size=512)
    call(app, "bdev_delay_create", name="Slow", base_bdev_name="Disk", **LATENCIES)
    call(app, "bdev_passthru_create", name="Top", base_bdev_name="Slow")
    call(app, "bdev_passthru_create", name="Found", base_bdev_name="Looked")
    saved = save(app)
    assert in_short(saved) == [
        ("set_options", None),
        ("examine", "Looked"),
        ("passthru_create", "Found"),
        ("passthru_create", "Waits"),
        ("null_create", "Disk"),
        ("delay_create", "Slow"),
        ("passthru_create", "Top"),
        ("null_create", "Looked"),
        ("wait_for_examine", None),
    ]
    with fresh_app() as again:
        load(again, saved, tmp_path / "c.json")
        assert save(again) == saved
        assert {bdev["name"] for bdev in call(again, "bdev_get_bdevs")} == {
            bdev["name"] for bdev in call(app, "bdev_get_bdevs")
        }


def test_who_lost_its_base_loses_it_again(app, tmp_path):
    """Though its module's entries stand before those of the winner's."""
    call(app, "bdev_passthru_create", name="Winner", base_bdev_name="Disk")
    call(app, "bdev_delay_create", name="Loser", base_bdev_name="Disk", **LATENCIES)
    call(app, "bdev_null_create", name="Disk", num_blocks=64, block_size=512)
    assert [one["name"] for one in call(app, "bdev_get_bdevs")] == ["Disk", "Winner"]
    saved = save(app)
    assert carried_out_one_by_one(saved) == saved
    with fresh_app() as again:
        load(again, saved, tmp_path / "c.json")
        assert [one["name"] for one in call(again, "bdev_get_bdevs")] == ["Disk", "Winner"]
        assert save(again) == saved


def test_parameters_stand_in_the_order_of_spdk(app, tmp_path):
    (tmp_path / "disk").write_bytes(bytes(DISK_SIZE))
    (tmp_path / "more").write_bytes(bytes(DISK_SIZE))
    call(app, "bdev_malloc_create", name="M", num_blocks=64, block_size=512)
    call(app, "bdev_null_create", name="N", num_blocks=64, block_size=512)
    call(app, "bdev_uring_create", name="U", filename=str(tmp_path / "disk"), block_size=512)
    call(app, "bdev_aio_create", name="A", filename=str(tmp_path / "more"), block_size=512)
    call(app, "bdev_passthru_create", name="P", base_bdev_name="M")
    call(app, "bdev_delay_create", name="D", base_bdev_name="P", **LATENCIES)
    call(app, "bdev_error_create", base_name="N")
    call(app, "bdev_split_create", base_bdev="U", split_count=2)
    call(
        app,
        "bdev_zone_block_create",
        name="Z",
        base_bdev="A",
        zone_capacity=64,
        optimal_open_zones=1,
    )
    call(app, "bdev_set_qos_limit", name="D", w_mbytes_per_sec=1, rw_ios_per_sec=1000)
    call(app, "bdev_enable_histogram", name="D", enable=True, opc="read")
    found = {one["method"]: list(one.get("params", ())) for one in bdev_calls(save(app))}
    geometry = ["name", "num_blocks", "block_size", "physical_block_size"]
    metadata = ["md_size", "dif_type", "dif_is_head_of_md", "dif_pi_format"]
    assert found == {
        "bdev_set_options": [
            "bdev_io_pool_size",
            "bdev_io_cache_size",
            "bdev_auto_examine",
            "iobuf_small_cache_size",
            "iobuf_large_cache_size",
        ],
        "bdev_delay_create": ["name", "base_bdev_name", "uuid", *LATENCIES],
        "bdev_error_create": ["base_name"],
        "bdev_passthru_create": ["base_bdev_name", "name", "uuid"],
        "bdev_split_create": ["base_bdev", "split_count", "split_size_mb"],
        "bdev_zone_block_create": ["base_bdev", "name", "zone_capacity", "optimal_open_zones"],
        "bdev_malloc_create": [*geometry, "uuid", "optimal_io_boundary", *metadata, "numa_id"],
        "bdev_null_create": [*geometry, *metadata, "uuid"],
        "bdev_uring_create": ["name", "block_size", "filename", "uuid"],
        "bdev_aio_create": [
            "name",
            "block_size",
            "filename",
            "readonly",
            "fallocate",
            "uuid",
            "nowait",
        ],
        "bdev_set_qos_limit": ["name", "rw_ios_per_sec", "w_mbytes_per_sec"],
        "bdev_enable_histogram": [
            "name",
            "enable",
            "opc",
            "granularity",
            "min_nsec",
            "max_nsec",
        ],
        "bdev_wait_for_examine": [],
    }


def test_injected_errors_are_not_for_who_examines(app, tmp_path):
    """The first READ of a new bdev is gpt's; what is injected is for somebody else's."""
    call(app, "bdev_error_create", base_name="N")
    call(app, "bdev_null_create", name="N", num_blocks=2048, block_size=512)
    call(app, "bdev_wait_for_examine")
    call(app, "bdev_error_inject_error", name="EE_N", io_type="read", error_type="failure")
    saved = save(app)
    assert in_short(saved)[-3:] == [
        ("wait_for_examine", None),
        ("error_inject_error", "EE_N"),
        ("wait_for_examine", None),
    ]
    assert carried_out_one_by_one(saved) == saved
    document = json.loads(saved)
    for subsystem in document["subsystems"]:
        subsystem["config"].reverse()
    for text in (saved, json.dumps(document)):
        with fresh_app() as again:
            load(again, text, tmp_path / "c.json")
            call(again, "bdev_wait_for_examine")
            assert save(again) == saved
