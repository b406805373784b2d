"""`vbdev serve --json`, and `--json-ignore-init-errors`, as a user types them."""

import json

from vbdev.testing.daemon import Daemon

CALLS = [
    ("bdev_null_create", {"name": "A", "num_blocks": 64, "block_size": 512}),
    ("bdev_null_create", {"name": "A", "num_blocks": 64, "block_size": 512}),
    ("bdev_florp_create", {}),
    ("bdev_set_options", {"bdev_io_pool_size": 1}),
    ("bdev_null_create", {"name": "B", "num_blocks": 64, "block_size": 512}),
]


def test_what_goes_wrong_is_logged_and_the_others_serve(tmp_path):
    entries = ",\n".join(json.dumps({"method": m, "params": p}) for m, p in CALLS)
    path = tmp_path / "c.json"
    path.write_text(f'{{"subsystems": [{{"subsystem": "bdev", "config": [\n{entries}]}}]}}')
    words = ("--json", path, "--json-ignore-init-errors")
    with Daemon(*words, command="serve", directory=tmp_path) as daemon:
        assert [bdev.name for bdev in daemon.client.bdev_get_bdevs()] == ["A", "B"]
        said = [line for line in daemon.stderr.splitlines() if " ERROR " in line]
    where = f"ERROR vbdev.daemon.startup {path}"
    small = "bdev_set_options: Pool size 1 too small for cache size 256 (-32602)"
    taken = "bdev name 'A' already exists: it belongs to <null bdev A>"
    assert [line.partition(" ")[2].partition(" ")[2] for line in said] == [
        f"{where}:4: subsystem bdev, entry 3: bdev_florp_create: Method not found (-32601)",
        f"{where}:5: subsystem bdev, entry 4: {small}",
        f"{where}:3: subsystem bdev, entry 2: bdev_null_create: File exists (-17): {taken}",
    ]
