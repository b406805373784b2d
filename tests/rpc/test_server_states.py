"""STARTUP, the time in between, RUNTIME: what clients meet who call then, alone and together."""

import contextlib
import json
import threading
import time

import pytest

from support.daemon import Daemon
from support.raw_rpc import RawRpc

SLOW = """
from vbdev.modules.null import Null
from vbdev.reactor.reactor import Reactor

class Slow(Null):
    kind = "slow"
    @classmethod
    def rpc_methods(cls):
        return ()
    async def start(self):
        await Reactor.current().sleep(500_000)
        await super().start()
"""
BEFORE = (
    "Method may only be called before framework is initialized. Use --wait-for-rpc command line"
    " parameter and then issue this RPC before the framework_start_init RPC."
)
START = {"id": 1, "method": "framework_start_init"}
WAIT = {"id": 2, "method": "framework_wait_init"}
OPTIONS = {"id": 3, "method": "bdev_set_options", "params": {"bdev_auto_examine": False}}
BDEVS = {"id": 4, "method": "bdev_get_bdevs"}
VERSION = {"id": 5, "method": "spdk_get_version"}


@pytest.fixture
def slow(tmp_path):
    """A daemon that takes half a second to build its stack."""
    (tmp_path / "slow.py").write_text(SLOW)
    calls = [
        {
            "method": f"bdev_{kind}_create",
            "params": {"name": kind, "num_blocks": 8, "block_size": 512},
        }
        for kind in ("slow", "null")
    ]
    config = {"subsystems": [{"subsystem": "bdev", "config": calls}]}
    (tmp_path / "c.json").write_text(json.dumps(config))
    daemon = Daemon(tmp_path, "--module", tmp_path / "slow.py", "--config", tmp_path / "c.json")
    yield daemon
    daemon.close()


@pytest.fixture
def connect(slow):
    """Return a function that connects; all connections end with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(RawRpc(slow.rpc_socket))


def names(answer):
    return [bdev["name"] for bdev in answer["result"]]


@pytest.mark.rule("A.6.12", "A.6.13")
def test_what_comes_while_the_framework_starts_meets_the_finished_one(slow, connect):
    slow.command.append("--wait-for-rpc")
    slow.start()
    first, second, third = connect(), connect(), connect()
    third.send(WAIT, VERSION)
    assert list(third.answers(1)) == [5]  # one waits, the other does not
    first.send(START, BDEVS, OPTIONS)
    time.sleep(0.1)
    second.send(START, VERSION)
    late = connect()
    late.send(BDEVS)
    assert second.is_quiet()
    answers = first.answers(3)
    assert answers[1]["result"] is True
    assert names(answers[4]) == ["slow", "null"]
    assert answers[3]["error"] == {"code": -1, "message": BEFORE, "data": "bdev_set_options"}
    answers = second.answers(2)
    assert answers[1]["error"]["message"] == BEFORE
    assert answers[5]["result"]
    assert third.answers(1)[2]["result"] is True
    assert names(late.answers(1)[4]) == ["slow", "null"]


def test_a_batch_that_starts_the_framework(slow, connect):
    slow.command.append("--wait-for-rpc")
    slow.start()
    client = connect()
    client.send([OPTIONS, START, BDEVS, OPTIONS])
    settled, started, bdevs, late = client.line()
    assert (settled["result"], started["result"]) == (True, True)
    assert names(bdevs) == ["slow", "null"]
    assert late["error"]["message"] == BEFORE


def test_nobody_sees_a_half_built_stack(slow, connect):
    asked = []

    def ask():  # as soon as there is a socket
        while not asked:
            with contextlib.suppress(OSError):
                asked.append(connect())
            time.sleep(0.002)
        asked[0].send(BDEVS, WAIT, START)

    thread = threading.Thread(target=ask)
    thread.start()
    slow.start()
    thread.join()
    answers = asked[0].answers(3)
    assert names(answers[4]) == ["slow", "null"]
    assert answers[2]["result"] is True
    assert answers[1]["error"]["message"] == BEFORE


def test_a_client_that_leaves_meanwhile_has_asked_all_the_same(slow, connect):
    slow.command.append("--wait-for-rpc")
    slow.start()
    first, second = connect(), connect()
    first.send(START)
    time.sleep(0.1)
    create = {"name": "Late", "num_blocks": 8, "block_size": 512}
    second.send({"method": "bdev_null_create", "params": create})
    second.close()
    ticks = slow.cpu_ticks()
    assert first.answers(1)[1]["result"] is True
    assert slow.cpu_ticks() - ticks < 30, "it spins"
    client, deadline = connect(), time.monotonic() + 10
    while "Late" not in names(client.call("bdev_get_bdevs")):
        assert time.monotonic() < deadline
    assert client.call("framework_start_init")["error"]["message"] == BEFORE


def test_a_stop_meanwhile(slow, connect):
    slow.command.append("--wait-for-rpc")
    slow.start()
    client = connect()
    client.send(START, BDEVS)
    time.sleep(0.1)
    slow.stop()
