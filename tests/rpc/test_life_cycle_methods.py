"""RPC methods about the life of bdevs: examination, options, holders, removal, notifications.

Method: the dispatcher over a registry on a bare Stack, and `vbdev ls` over what it is told.
"""

import errno

import pytest

from support.rooms import register_rooms
from support.stack import Stack, Stub
from support.told import as_json
from vbdev.api.errors import RpcError
from vbdev.api.methods import DECODE_OBJECT_INVALID, State
from vbdev.cli.ls import lines
from vbdev.modules import MODULES
from vbdev.registry.claims import claim_descriptor
from vbdev.registry.options import BdevOptions
from vbdev.rpc.methods import bdev, examine, holder, notify
from vbdev.rpc.methods.bdev import register_module
from vbdev.rpc.serving.dispatch import Dispatcher
from vbdev.vocab import ClaimType, Op


class Control:
    def __init__(self):
        self.stack = Stack()
        self.registry = self.stack.registry
        self.dispatcher = Dispatcher()
        self.applied = []
        register_rooms(
            self.dispatcher,
            *(bdev, examine, holder, notify),
            registry=self.registry,
            reactors=[self.stack.reactor] * 2,
            renew_engines=lambda: self.applied.append(self.registry.options),
        )
        for module in (*MODULES, Stub):
            register_module(self.dispatcher, self.registry, module)

    def begin(self, method, **params):
        task = self.stack.reactor.spawn(self.dispatcher.call(method, params or None))
        task.add_done_callback(lambda _task: None)
        self.stack.settle()
        return task

    def call(self, method, **params):
        return as_json(self.stack.run(self.dispatcher.call(method, params or None)))

    def fails(self, method, **params):
        return told(lambda: self.call(method, **params))


def told(function):
    with pytest.raises(RpcError) as caught:
        function()
    return caught.value.code, caught.value.message, caught.value.data


@pytest.fixture
def control():
    made = Control()
    yield made
    made.stack.close()


# Options


@pytest.mark.rule("A.6.2", "A.6.3", "E.bdev_ut.bdev_set_options_test")
def test_options(control):
    control.dispatcher.state = State.STARTUP
    assert BdevOptions() == BdevOptions(
        bdev_io_pool_size=65535,
        bdev_io_cache_size=256,
        bdev_auto_examine=True,
        iobuf_small_cache_size=128,
        iobuf_large_cache_size=16,
    )
    assert control.call("bdev_set_options") is True
    # Two reactors, and one cache more.
    code, message, _ = control.fails("bdev_set_options", bdev_io_pool_size=767)
    assert (code, message) == (-32602, "Pool size 767 too small for cache size 256")
    assert control.fails("bdev_set_options", bdev_io_cache_size=30000)[0] == -32602
    assert control.registry.options == BdevOptions()
    assert control.call("bdev_set_options", bdev_io_pool_size=768) is True
    assert control.call("bdev_set_options", bdev_auto_examine=False) is True
    assert control.applied[-1] == BdevOptions(bdev_io_pool_size=768, bdev_auto_examine=False)
    assert control.registry.examiner.auto is False
    for bad in ({"bdev_io_pool_size": 1 << 32}, {"bdev_auto_examine": 1}, {"small_buf": 1}):
        assert control.fails("bdev_set_options", **bad)[:2] == (-32602, "Invalid parameters")
    options = {
        "bdev_io_pool_size": 768,
        "bdev_io_cache_size": 256,
        "bdev_auto_examine": False,
        "iobuf_small_cache_size": 128,
        "iobuf_large_cache_size": 16,
    }
    assert list(control.registry.subsystem_calls()) == [
        {"method": "bdev_set_options", "params": options},
        {"method": "bdev_wait_for_examine"},
    ]
    assert list(next(control.registry.subsystem_calls())["params"]) == list(options)
    control.stack.disk()
    assert control.fails("bdev_set_options", bdev_auto_examine=True)[0] == -errno.EPERM


@pytest.mark.rule("A.6.4", "A.6.12")
def test_options_are_too_late(control):
    code, message, _ = control.fails("bdev_set_options", bdev_auto_examine=False)
    assert code == -1
    assert "only be called before framework is initialized" in message


# Examination


@pytest.mark.rule("A.4.15", "A.4.16", "A.4.17")
def test_examine(control):
    assert control.fails("bdev_examine", name="Disk")[:2] == (-22, "Invalid argument")
    assert control.fails("bdev_examine")[:2] == DECODE_OBJECT_INVALID
    control.registry.examiner.auto = False
    assert control.call("bdev_examine", name="Disk") is True
    assert control.fails("bdev_examine", name="Disk")[:2] == (-17, "File exists")
    control.call("bdev_passthru_create", name="Top", base_bdev_name="Disk")
    control.stack.disk()
    assert [bdev["name"] for bdev in control.call("bdev_get_bdevs")] == ["Disk", "Top"]
    assert control.call("bdev_wait_for_examine") is True


@pytest.mark.rule("A.4.20")
def test_wait_for_examine_waits_and_ls_says_for_whom(control):
    ended = []

    class Slow(Stub):
        kind = "slow"

        @classmethod
        async def examine_disk(cls, registry, bdev):
            await registry.reactor.sleep(2_000_000)
            ended.append(bdev.name)

    control.registry.add_module(Slow)
    control.stack.disk()
    task = control.begin("bdev_wait_for_examine")
    assert not task.done
    assert control.call("vbdev_get_holders", name="Disk")[0]["examined_by"] == ["slow"]
    assert lines(control.call("vbdev_get_stack")) == [
        "Disk  malloc  512 KiB  (1024 x 512 B)  examined by slow"
    ]
    control.stack.pass_time(2_000_000)
    control.stack.settle()
    assert (task.result(), ended) == (True, ["Disk"])


# Holders


@pytest.mark.rule("A.7.8", "A.7.9", "Dd.13")
def test_who_holds_it(control):
    disk = control.stack.disk(Stub)
    control.call("bdev_passthru_create", name="Top", base_bdev_name="Disk")
    top = control.stack.open("Top", holder="a reader")
    top.submit(Op.READ)
    free = {
        "name": "Top",
        "state": "ready",
        "removing_ms": None,
        "claim_type": None,
        "claims": [],
        "examined_by": [],
    }
    reader = {
        "holder": "a reader",
        "write": True,
        "claim_type": None,
        "outstanding": 1,
        "thread": "reactor_0",
    }
    assert control.call("vbdev_get_holders", name="Top") == [{**free, "holders": [reader]}]
    task = control.begin("vbdev_unregister", name=str(disk.uuid), timeout_ms=1500)
    control.stack.pass_time(1_600_000)
    code, message, detail = told(task.result)
    assert (code, message) == (-110, "Connection timed out")
    assert "held by passthru vbdev Top (1 I/Os)" in detail
    below, above = control.call("vbdev_get_holders")
    assert below["state"] == above["state"] == "removing"
    assert below["removing_ms"] == 1600
    assert below["claim_type"] == "exclusive_write"
    assert below["claims"] == [{"module": "passthru", "name": "passthru vbdev Top"}]
    below, above = lines(control.call("vbdev_get_stack"))
    assert below.split("  ")[4:] == [
        "[removing for 1.6 s]",
        "claimed by passthru vbdev Top",
        "I/Os outstanding: 1 of passthru vbdev Top",
    ]
    assert above.strip().split("  ")[4:] == [
        "[removing for 1.6 s]",
        "open by a reader",
        "I/Os outstanding: 1 of a reader",
    ]
    assert control.fails("vbdev_unregister", name="Disk")[0] == -errno.EBUSY
    assert control.fails("bdev_stub_delete", name="Disk")[0] == -errno.EBUSY
    disk.complete()
    control.stack.settle()
    assert control.call("vbdev_get_holders") == []
    assert control.fails("vbdev_get_holders", name="Disk")[0] == -errno.ENODEV
    assert lines(control.call("vbdev_get_stack")) == ["Top  passthru  [waiting for its base: Disk]"]


def test_unregister_any_kind_for_good(control):
    control.stack.disk()
    control.call("bdev_passthru_create", name="Top", base_bdev_name="Disk")
    assert control.call("vbdev_unregister", name="Top") is True
    assert control.registry.creations == {}
    assert control.call("vbdev_unregister", name="Disk", timeout_ms=0) is True
    assert control.fails("vbdev_unregister", name="Disk")[0] == -errno.ENODEV
    for bad in ({"timeout_ms": -1}, {"timeout_ms": "1"}):
        assert control.fails("vbdev_unregister", name="Disk", **bad)[0] == -32602


@pytest.mark.rule("A.3.19")
def test_claims_of_descriptors_are_shown(control):
    control.stack.disk()
    opened = [control.stack.open("Disk", write=False, holder=f"r{n}") for n in range(2)]
    claim_descriptor(
        opened[1].descriptor, ClaimType.READ_MANY_WRITE_NONE, "lvol", name="the snapshot"
    )
    shown = control.call("vbdev_get_holders")[0]
    assert [one["claim_type"] for one in shown["holders"]] == [None, "read_many_write_none"]
    assert shown["claims"] == [{"module": "lvol", "name": "the snapshot"}]
    assert (
        "claimed (read_many_write_none) by the snapshot"
        in lines(control.call("vbdev_get_stack"))[0]
    )
    info = control.call("bdev_get_bdevs")[0]
    assert (info["claimed"], info["claim_type"]) == (True, "read_many_write_none")


# Notifications


@pytest.mark.rule("A.1.15")
def test_notifications(control):
    assert control.call("notify_get_types") == ["bdev_register", "bdev_unregister", "bdev_resize"]
    assert control.call("notify_get_notifications") == []
    for name in ("A", "B", "C"):
        control.stack.disk(name=name)
    control.stack.delete("B")
    every = control.call("notify_get_notifications")
    assert every == [
        {"type": "bdev_register", "ctx": "A", "id": 0},
        {"type": "bdev_register", "ctx": "B", "id": 1},
        {"type": "bdev_register", "ctx": "C", "id": 2},
        {"type": "bdev_unregister", "ctx": "B", "id": 3},
    ]
    assert control.call("notify_get_notifications", id=1, max=2) == every[1:3]
    assert control.call("notify_get_notifications", id=4) == []
    assert control.fails("notify_get_notifications", id=-1)[0] == -32602
    assert control.fails("notify_get_types", id=1)[:2] == (
        -32602,
        "No parameters required",
    )
