"""Random configurations are saved, loaded and saved again: byte for byte the same.

Method: random calls of all modules' methods, with names that are there, that come later and that
never come; some are refused, as they would be to a user. What is saved then is carried out by an
App that has nothing: the same bdevs are there, and it saves the same bytes. Once more with the
entries in any order: the same bdevs, the same entries.
"""

import json
import os
import re
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import Phase, event, given, settings
from hypothesis import strategies as st

from support.config import call, fresh_app, load, save
from vbdev.api.errors import RpcError
from vbdev.api.methods import State
from vbdev.bdev.entry import entry_of

BASES = [f"B{number}" for number in range(4)]
LAYERS = [f"L{number}" for number in range(5)]
PARTS = ["B0p0", "B1p1", "L0p0"]
NAMES = [*BASES, *LAYERS, *PARTS, "EE_B0", "EE_L1", "Absent"]
UUIDS = [f"{number:08x}-0000-4000-8000-000000000000" for number in range(1, 5)]
EXAMPLES = settings(
    max_examples=int(os.environ.get("VBDEV_CONFIG_EXAMPLES", "60")),
    deadline=None,
    phases=[phase for phase in Phase if phase is not Phase.explain],
)


def params(required, **optional):
    return st.fixed_dictionaries(required, optional=optional)


def of(method, required, **optional):
    return st.tuples(st.just(method), params(required, **optional))


names = st.sampled_from(NAMES)
bases = st.sampled_from([*NAMES, *BASES * 3, *UUIDS])
new_bases = st.sampled_from(BASES)
new_layers = st.sampled_from(LAYERS)
uuids = st.sampled_from(UUIDS)
flags = st.booleans()
blocks = st.sampled_from([64, 2048, 4097])
block_sizes = st.sampled_from([512, 512, 4096])
md_sizes = st.sampled_from([0, 8, 16, 128])
latencies = st.integers(0, 10**6)
counts = st.integers(0, (1 << 64) - 1)
small = st.integers(0, 10)

SIZED = {
    "uuid": uuids,
    "physical_block_size": st.sampled_from([512, 4096]),
    "md_size": md_sizes,
    "dif_type": st.integers(0, 3),
    "dif_is_head_of_md": flags,
    "dif_pi_format": st.integers(0, 2),
}
DISKS = {"num_blocks": blocks, "block_size": block_sizes}

calls = st.one_of(
    of(
        "bdev_malloc_create",
        {**DISKS},
        name=new_bases,
        optimal_io_boundary=small,
        md_interleave=flags,
        numa_id=st.just(-1),
        **SIZED,
    ),
    of(
        "bdev_null_create",
        {**DISKS, "name": new_bases},
        preferred_write_alignment=small,
        optimal_write_size=small,
        preferred_unmap_granularity=small,
        **SIZED,
    ),
    of("bdev_null_resize", {"name": new_bases, "new_size": st.integers(1, 5)}),
    of(
        "bdev_aio_create",
        {"name": new_bases, "filename": st.just("FILE")},
        block_size=st.sampled_from([0, 512, 4096]),
        readonly=flags,
        fallocate=flags,
        uuid=uuids,
    ),
    of(
        "bdev_uring_create",
        {"name": new_bases, "filename": st.just("FILE")},
        block_size=st.sampled_from([512, 4096]),
        readonly=flags,
        direct=st.just(False),
        uuid=uuids,
    ),
    of("bdev_passthru_create", {"name": new_layers, "base_bdev_name": bases}, uuid=uuids),
    of("bdev_passthru_create", {"name": new_layers, "base_bdev_name": bases}),
    of(
        "bdev_delay_create",
        {
            "name": new_layers,
            "base_bdev_name": bases,
            "avg_read_latency": st.just(5),
            "p99_read_latency": latencies.map(lambda us: us + 5),
            "avg_write_latency": st.just(0),
            "p99_write_latency": latencies,
        },
        uuid=uuids,
        seed=small,
    ),
    of(
        "bdev_delay_update_latency",
        {
            "delay_bdev_name": new_layers,
            "latency_type": st.sampled_from(["avg_read", "p99_read", "avg_write", "p99_write"]),
            "latency_us": latencies,
        },
    ),
    of("bdev_error_create", {"base_name": bases}, uuid=uuids, name=new_layers),
    of("bdev_error_create", {"base_name": bases}),
    of(
        "bdev_error_inject_error",
        {
            "name": st.sampled_from(["EE_B0", "EE_L1", *LAYERS]),
            "io_type": st.sampled_from(["read", "write", "unmap", "flush", "all", "clear"]),
            "error_type": st.sampled_from(["failure", "pending", "nomem"]),
        },
        num=st.integers(0, 100),
        queue_depth=small,
        offset_blocks=small,
        num_blocks=small,
        nth=st.integers(1, 3),
        probability=st.sampled_from([0.25, 1.0]),
    ),
    of(
        "bdev_split_create",
        {"base_bdev": bases, "split_count": st.integers(1, 3)},
        split_size_mb=st.integers(0, 2),
    ),
    of(
        "bdev_zone_block_create",
        {
            "name": new_layers,
            "base_bdev": bases,
            "zone_capacity": st.sampled_from([16, 20]),
            "optimal_open_zones": st.integers(1, 3),
        },
        uuid=uuids,
    ),
    of("bdev_set_qos_limit", {"name": names}, rw_ios_per_sec=counts, r_mbytes_per_sec=small),
    of(
        "bdev_enable_histogram",
        {"name": names, "enable": flags},
        opc=st.sampled_from(["read", "write", "unmap"]),
        granularity=st.integers(0, 9),
        min_nsec=st.integers(0, 5000),
        max_nsec=st.integers(5001, 1 << 40),
    ),
    of(
        "nbd_export_add",
        {"bdev_name": names},
        export_name=st.sampled_from(["one", "two", ""]),
        read_only=flags,
        description=st.sampled_from(["", 'a "disk" // of mine \u20ac']),
    ),
    of("nbd_server_start", {"address": st.just("unix:SOCKET")}),
    of("bdev_gpt_set_options", {}, types=st.just([])),
    of("vbdev_unregister", {"name": st.sampled_from([*BASES, *LAYERS])}),
    of("bdev_passthru_delete", {"name": new_layers}),
    of("bdev_examine", {"name": names}),
)
pools = st.none() | params(
    {},
    small_pool_count=st.integers(64, 10000),
    large_pool_count=st.integers(8, 2000),
    small_bufsize=st.sampled_from([4096, 8192]),
    enable_numa=flags,
)
options = params(
    {},
    bdev_io_pool_size=st.integers(3000, 4000),
    bdev_io_cache_size=st.integers(0, 100),
    bdev_auto_examine=st.sampled_from([True, True, False]),
    iobuf_small_cache_size=st.integers(0, 200),
    iobuf_large_cache_size=st.integers(0, 20),
)


@EXAMPLES
@given(options, pools, st.lists(calls, min_size=10, max_size=40), st.randoms(use_true_random=False))
@pytest.mark.rule("A.22.4", "A.22.5", "A.22.6", "A.22.8", "A.22.9", "A.22.10", "A.22.11")
def test_saved_loaded_and_saved(given_options, given_pools, steps, chance):
    directory = Path(tempfile.mkdtemp(prefix="vbdev-"))
    try:
        with fresh_app() as app:
            app.dispatcher.state = State.STARTUP
            call(app, "bdev_set_options", **given_options)
            if given_pools:
                call(app, "iobuf_set_options", **given_pools)
            app.dispatcher.state = State.RUNTIME
            build(app, steps, directory)
            saved, told = save(app), what_is_there(app)
            order_counts = depends_on_order(app)
            unlike = wants_one_uuid_twice(saved) or lost_what_is_free(app)
        if unlike:
            return
        again(saved, told, directory, saved)
        if not order_counts:
            again(shuffled(saved, chance), told, directory, None)
    finally:
        shutil.rmtree(directory)


def build(app, steps, directory):
    done = 0
    for number, (method, given_params) in enumerate(steps):
        words = dict(given_params)
        if words.get("filename"):
            path = directory / f"file{number}"
            path.write_bytes(bytes(4 << 20))
            words["filename"] = str(path)
        if words.get("address"):
            words["address"] = f"unix:{directory}/nbd.sock"
        if method == "bdev_null_resize" and any(bdev.kind == "split" for bdev in app.registry):
            continue  # parts keep the size that they had: no parameter says which
        try:
            call(app, method, **words)
            done += 1
        except RpcError:
            pass
    call(app, "bdev_wait_for_examine")
    for export in list(app.nbd.exports.values()):
        # It came before the claim, which would refuse it. Two write the bdev: nobody saves that.
        if entry_of(export.bdev).claim is not None and not export.read_only:
            call(app, "nbd_export_remove", export_name=export.name)
    event(f"calls that were not refused: {done // 5 * 5} or more")


def what_is_there(app):
    """Return what is told of bdevs, by name; who waits; and the exports."""
    bdevs = {bdev["name"]: bdev for bdev in call(app, "bdev_get_bdevs")}
    waiting = {one["name"] for one in call(app, "vbdev_get_stack")} - bdevs.keys()
    event(f"bdevs: {len(bdevs)}, waiting: {len(waiting)}")
    exports = {one.pop("export_name"): one for one in call(app, "nbd_get_exports")}
    for export in exports.values():
        del export["default"]
    return bdevs, waiting, exports


def wants_one_uuid_twice(text):
    """Say whether it matters who was first: the other one waits, and may not when it is loaded."""
    wanted = re.findall(r'"uuid": "([^"]*)"', text)
    return len(set(wanted)) < len(wanted)


def lost_bases(app):
    """Return the bases that are there, and yet not for those who wanted them."""
    wishes = [one for one in app.registry.creations.values() if not one.vbdevs]
    return [base for one in wishes if (base := app.registry.find(one.base_name)) is not None]


def lost_what_is_free(app):
    """Say whether somebody would now get the base that it lost: nobody asks again, but a load."""
    return any(entry_of(base).claim is None for base in lost_bases(app))


def depends_on_order(app):
    """Say whether it matters who comes first: nobody examines, or two want one base."""
    return bool(lost_bases(app)) or not app.registry.options.bdev_auto_examine


def again(text, told, directory, expected):
    """Load a configuration where there is nothing; the same is there, and the same is saved."""
    with fresh_app() as app:
        load(app, text, directory / "c.json")
        assert what_is_there(app) == told
        saved = save(app)
    if expected is None:
        assert sorted_entries(saved) == sorted_entries(text)
        again(saved, told, directory, saved)
    else:
        assert saved == expected


def shuffled(text, chance):
    """Return a configuration with its entries, and its subsystems, in another order."""
    document = json.loads(text)
    chance.shuffle(document["subsystems"])
    for subsystem in document["subsystems"]:
        chance.shuffle(subsystem["config"])
    return json.dumps(document)


def sorted_entries(text):
    return {
        one["subsystem"]: sorted(json.dumps(entry) for entry in one["config"])
        for one in json.loads(text)["subsystems"]
    }
