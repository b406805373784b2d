"""What calls cost, as counts: turns of the loop, objects, memory, descriptors. Time is for bench/.

A turn is the unit of waiting: while the data path is busy each is as long as a thousand I/Os.
"""

import gc
import json

import pytest

from support.raw_rpc import RawRpc

PAIRS = 5000
CREATE = {"name": "Top", "base_bdev_name": "Disk"}
KIB_PER_PAIR = 0.25
"""More than this for each pair is growth; what allocators keep is the same for any number."""


@pytest.fixture
def app(local_app):
    """An app with a disk, whose control plane listens."""
    local_app.app.create("malloc", {"name": "Disk", "num_blocks": 2048, "block_size": 512})
    local_app.rpc_path = local_app.socket.replace("local", "rpc")
    local_app.app.rpc.listen(local_app.rpc_path)
    local_app.start()
    return local_app


@pytest.fixture
def client(app):
    with RawRpc(app.rpc_path) as client:
        client.call("spdk_get_version")
        yield client


def pairs(client, count):
    for _ in range(count):
        assert client.call("bdev_passthru_create", **CREATE)["result"] == "Top"
        assert client.call("bdev_passthru_delete", name="Top")["result"] is True


def test_a_call_is_answered_in_the_turn_in_which_it_comes(app, client):
    reactor = app.app.reactor
    before = reactor.busy_turns
    for _ in range(200):
        client.call("spdk_get_version")
    assert reactor.busy_turns - before <= 200 + 20  # timers have turns of their own


def test_calls_that_come_together_are_answered_together(app, client):
    """One piece read, some calls a turn, one piece written for each turn."""
    reactor = app.app.reactor
    call = b'{"id":1,"method":"spdk_get_version"}'
    before = reactor.busy_turns
    client.send(call * 800)
    for _ in range(800):
        assert client.line()["result"]
    assert (
        reactor.busy_turns - before <= 800 / 8 + 20
    )  # 16 a turn, unless the machine makes it slow


def test_a_pair_of_create_and_delete_takes_few_turns(app, client):
    reactor = app.app.reactor
    pairs(client, 20)
    before = reactor.busy_turns
    pairs(client, 200)
    assert (reactor.busy_turns - before) / 200 <= 12


def test_pairs_leave_no_object_behind(client):
    pairs(client, 1100)  # notifications are kept, up to 1024 of them
    gc.collect()
    before = len(gc.get_objects())
    pairs(client, 500)
    gc.collect()
    assert len(gc.get_objects()) - before < 100


def test_pairs_over_one_connection_take_no_more_memory_or_descriptors(serve):
    daemon = serve("malloc:1MiB,name=Disk")
    with RawRpc(daemon.rpc_socket) as client:
        pairs(client, 1100)
        descriptors, before = daemon.fd_count(), daemon.rss_kib()
        pairs(client, PAIRS)
        assert daemon.fd_count() == descriptors
        assert daemon.rss_kib() - before < PAIRS * KIB_PER_PAIR
        assert [bdev["name"] for bdev in client.call("bdev_get_bdevs")["result"]] == ["Disk"]
        stats = client.call("thread_get_io_channels")["result"]["threads"]
        assert "Top" not in json.dumps(stats)
        assert not daemon.stderr, "each pair says something in the log"
    daemon.stop()
