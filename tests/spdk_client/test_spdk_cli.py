"""spdk-cli in vbdev: its tree, and every command of it that has a meaning here.

Method: the shell as PyPI has it, a process for each command; vbdev's client looks what came of it.
"""

import json

import pytest

from support.clients import missing, run
from support.daemon import Daemon

pytestmark = pytest.mark.client


@pytest.fixture
def cli(serve, tmp_path):
    """Return a function that runs one command of the shell and returns what it printed."""
    try:
        import configshell_fb  # noqa: F401
    except ImportError:
        missing("configshell_fb is not installed")
    daemon = serve("malloc:16MiB")
    for name in ("disk", "disk2"):
        (tmp_path / name).write_bytes(bytes(1 << 20))
    # The shell keeps its history and settings in the home directory.
    home = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "TERM": "dumb"}

    def call(*words, address=daemon.rpc_socket):
        return run("spdk-cli", "-s", address, *words, env=home, ok=None)

    call.daemon = daemon
    return call


def names(cli):
    return [bdev["name"] for bdev in cli.daemon.rpc.call("bdev_get_bdevs")][1:]


def test_the_tree(cli):
    shown = cli("ls")
    for node in ("bdevs", "malloc", "aio", "uring", "null", "error", "split_disk"):
        assert f"o- {node} " in shown
    assert "o- Malloc0 " in shown
    assert "Size=16.0M, Not claimed" in shown
    assert "nvmf" not in shown
    assert "iscsi" in shown  # the initiator's node is always drawn


@pytest.mark.parametrize(
    ("node", "create", "name", "delete"),
    [
        ("malloc", "create 8 512 M", "M", "delete M"),
        ("null", "create N 8 512", "N", "delete N"),
        ("aio", "create A $DIR/disk 512", "A", "delete A"),
        ("uring", "create $DIR/disk U 512", "U", "delete U"),
        ("error", "create Malloc0", "EE_Malloc0", "delete EE_Malloc0"),
        (
            "split_disk",
            "bdev_split_create Malloc0 2",
            "Malloc0p0",
            "bdev_split_delete Malloc0",
        ),
    ],
)
def test_create_look_and_delete(cli, tmp_path, node, create, name, delete):
    path = f"/bdevs/{node}"
    cli(path, *create.replace("$DIR", str(tmp_path)).split())
    assert name in names(cli)
    assert f"o- {name} " in cli(path, "ls")
    assert json.loads(cli(f"{path}/{name}", "show_details"))["name"] == name
    assert json.loads(cli(path, "get_bdev_iostat", name))["bdevs"][0]["name"] == name
    cli(path, *delete.split())
    assert names(cli) == []


def test_delete_all(cli):
    for name in ("N1", "N2"):
        cli("/bdevs/null", "create", name, "8", "512")
    assert names(cli) == ["N1", "N2"]
    cli("/bdevs/null", "delete_all")
    assert names(cli) == []


def test_a_refusal_is_shown(cli):
    said = cli("/bdevs/malloc", "delete", "none")
    assert '"code": -19' in said
    assert '"message": "No such device"' in said


@pytest.mark.parametrize(
    "words",
    [
        ("/lvol_stores", "create", "L", "Malloc0"),
        ("/bdevs/nvme", "create", "N", "tcp", "127.0.0.1"),
        ("/bdevs/raid_volume", "create", "R", "0", "Malloc0", "64"),
        ("/bdevs/iscsi", "create", "I", "iscsi://127.0.0.1/iqn/0", "iqn"),
    ],
)
def test_what_is_not_served_is_refused(cli, words):
    said = cli(*words)
    assert '"code": -32601' in said
    assert '"message": "Method not found"' in said


@pytest.fixture
def empty(tmp_path):
    """Return a daemon that waits for its configuration."""
    directory = tmp_path / "empty"
    directory.mkdir()
    daemon = Daemon(directory, "--wait-for-rpc", nbd=[])
    daemon.start()
    yield daemon
    daemon.close()


def test_a_configuration_goes_out_and_in(cli, empty, tmp_path):
    saved = tmp_path / "saved.json"
    cli("/bdevs/null", "create", "N", "8", "512")
    cli("/", "save_config", saved)
    assert '"name": "N"' in saved.read_text()
    cli("/", "load_config", saved, address=empty.rpc_socket)
    assert empty.rpc.call("bdev_get_bdevs") == cli.daemon.rpc.call("bdev_get_bdevs")
