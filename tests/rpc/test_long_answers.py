"""Answers about thousands of bdevs: built and rendered in many turns, and right about what goes.

Method: the virtual clock, where each look at the time counts as a little work.
"""

from __future__ import annotations

import json
import socket

import pytest

from support.control import Control
from support.rooms import register_rooms
from vbdev.api.methods import Method
from vbdev.modules.null import Null
from vbdev.modules.passthru import Passthru
from vbdev.reactor.clock import VirtualClock
from vbdev.reactor.reactor import Reactor
from vbdev.rpc.methods import framework
from vbdev.rpc.serving.dispatch import Dispatcher
from vbdev.rpc.serving.rpc_connection import Connection
from vbdev.rpc.serving.turns import ClientTurns

MANY = 1000
METHODS = {
    "bdev_get_bdevs": {},
    "vbdev_get_stack": None,
    "framework_get_config": {"name": "bdev"},
}


@pytest.fixture
def control():
    """1000 disks, a vbdev on every second one, and 100 that wait for disks."""
    made = Control()
    subsystems = {"bdev": ([], made.registry.subsystem_calls)}
    register_rooms(made.dispatcher, framework, reactors=made.stack.reactors, subsystems=subsystems)
    for n in range(MANY):
        made.stack.disk(Null, name=f"Disk{n}", num_blocks=8)
    for n in range(0, MANY, 2):
        made.stack.layer(Passthru, name=f"Top{n}", base=f"Disk{n}")
    for n in range(100):
        made.stack.layer(Passthru, name=f"Later{n}", base=f"None{n}")
    yield made
    made.stack.close()


def names(method, answer):
    if method == "framework_get_config":
        return [call.params.get("name") for call in answer if call.params]
    return [one.name for one in answer]


@pytest.mark.parametrize("method", METHODS)
def test_a_long_answer_takes_many_turns_and_leaves_out_what_has_gone(control, method):
    reactor, registry = control.stack.reactor, control.registry
    asking = reactor.spawn(control.dispatcher.call(method, METHODS[method]))
    turns = 0
    while not asking.done:
        turns += 1
        reactor.poll()
        if turns == 2:
            gone = ["Disk999", "Top998", "Later99"]
            deleting = [
                reactor.spawn(registry.delete("Disk999", "null")),
                reactor.spawn(registry.delete("Top998", "passthru")),
                reactor.spawn(registry.delete("Later99", "passthru")),
            ]
    assert turns > 10
    assert all(one.done for one in deleting)
    told = names(method, asking.result())
    assert len(told) > MANY
    if method != "framework_get_config":  # wishes come first there, and are told by then
        assert not set(gone) & set(told)
    assert "Disk999" not in told
    assert {"Disk0", "Disk998", "Top0", "Top996"} <= set(told)


def test_a_long_answer_is_rendered_in_many_turns():
    reactor, dispatcher = Reactor(clock=VirtualClock()), Dispatcher()
    numbers = list(range(100_000))

    async def count(_on, _params):
        return numbers

    dispatcher.register(Method("count", None, count, result=list[int]), None)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    connection = Connection(
        reactor, theirs, dispatcher, lambda _connection: None, turns=ClientTurns(reactor)
    )
    ours.send(b'{"id":1,"method":"count"}')
    turns, got = 0, b""
    while not got.endswith(b"}\n"):
        reactor.poll()
        turns += not got
        try:
            got += ours.recv(1 << 20)
        except BlockingIOError:
            continue
    assert turns > 20
    assert json.loads(got) == {"jsonrpc": "2.0", "id": 1, "result": numbers}
    connection.drop("the end")
    ours.close()
    reactor.close()
