"""A daemon that is a client of another one: `vbdev serve` on an NBD URI.

Method: two daemons, or a server of somebody else's and one daemon, as users start them; what comes
through is compared with NBD's own tools.
"""

import os

import pytest

from support.clients import requires, run
from support.daemon import Daemon
from vbdev.client import RpcError


@pytest.fixture
def daemons(tmp_path):
    made = []

    def start(name, *words):
        directory = tmp_path / name
        directory.mkdir(exist_ok=True)
        made.append(Daemon(directory, *words))
        made[-1].start()
        return made[-1]

    yield start
    for daemon in reversed(made):  # those in front first: they FLUSH what is behind them
        daemon.stop()
        daemon.close()


def uri_of(daemon, **params):
    more = "".join(f",{key}={value}" for key, value in params.items())
    return f"nbd+unix:///?socket={daemon.socket}{more}"


@pytest.mark.parametrize("reactors", [1, 2])
@pytest.mark.parametrize("connections", [1, 3])
def test_a_copy_through_two_daemons(daemons, tmp_path, connections, reactors):
    requires("nbdcopy", "nbdinfo")
    far = daemons("far", "malloc:32MiB")
    near = daemons(
        "near",
        uri_of(far, connections=connections),
        "--layer",
        "passthru",
        "--reactors",
        str(reactors),
    )
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(os.urandom(32 << 20))
    front = f"nbd+unix:///?socket={near.socket}"
    run("nbdcopy", "--flush", source, front)
    run("nbdcopy", front, back)
    assert back.read_bytes() == source.read_bytes()
    run("nbdcopy", f"nbd+unix:///?socket={far.socket}", back)
    assert back.read_bytes() == source.read_bytes()
    said = run("nbdinfo", front)
    for what in ("can_flush: true", "can_fua: true", "can_trim: true", "can_multi_conn: true"):
        assert what in said
    (info,) = near.client.bdev_get_bdevs(name="Nbd0")
    assert info.driver_specific["nbd"]["connected"] >= connections


def test_a_configuration_comes_back(daemons, tmp_path):
    far = daemons("far", "malloc:16MiB")
    near = daemons("near")
    wanted = {
        "name": "N0",
        "uri": f"nbd+unix:///?socket={far.socket}",
        "uuid": "2f7a0c6e-9c1c-4d05-8a7e-0f5d6c1b9a33",
        "connections": 2,
        "reconnect_delay": 7,
        "timeout": 9,
        "keeps_writes": True,
    }
    assert near.client.call("bdev_nbd_create", **wanted) == "N0"
    saved = near.client.call("framework_get_config", name="bdev")
    (entry,) = (one for one in saved if one["method"] == "bdev_nbd_create")
    assert entry["params"] == wanted
    assert near.client.call("bdev_nbd_delete", name="N0") is True
    near.client.call("bdev_nbd_create", **entry["params"])
    assert near.client.call("framework_get_config", name="bdev") == saved
    for params, code in (
        ({"name": "N0", "uri": wanted["uri"]}, -17),
        ({"name": "N1", "uri": "nbds://far/"}, -22),
        ({"name": "N1", "uri": f"unix:{tmp_path}/none"}, -2),
        ({"name": "N1", "uri": wanted["uri"], "connections": 0}, -32602),
        ({"name": "N1"}, -32602),
    ):
        with pytest.raises(RpcError) as caught:
            near.client.call("bdev_nbd_create", **params)
        assert caught.value.code == code


def test_the_other_daemon_is_killed(daemons, tmp_path):
    """A client in front waits, and notices nothing, as long as all is flushed."""
    requires("nbdcopy")
    disk = tmp_path / "disk"
    disk.write_bytes(os.urandom(4 << 20))
    far = daemons("far", str(disk))
    near = daemons("near", uri_of(far, reconnect_delay=15))
    front = f"nbd+unix:///?socket={near.socket}"
    back = tmp_path / "back"
    run("nbdcopy", front, back)
    far.kill()
    far = daemons("far", str(disk))
    run("nbdcopy", front, back)
    assert back.read_bytes() == disk.read_bytes()
