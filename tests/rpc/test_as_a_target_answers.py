"""What SPDK's clients look for in a target besides the methods: names, lists, notices.

Method: the dispatcher of an App that does not run, or that of a bare stack.
"""

import logging

import pytest

from support.control import INVALID, Control
from support.rooms import register_rooms
from vbdev.api.methods import Method, RpcError
from vbdev.daemon.app import App
from vbdev.modules.null import Null
from vbdev.reports.logs import NOTICE
from vbdev.rpc.methods import nothing as nothing_methods
from vbdev.rpc.serving.dispatch import Dispatcher

UNDECODED = (-32603, "spdk_json_decode_object failed")
UNPARSED = (-32700, "spdk_json_decode_object failed")


@pytest.fixture
def control():
    made = Control()
    register_rooms(made.dispatcher, nothing_methods)
    yield made
    made.stack.close()


@pytest.fixture
def app():
    made = App()
    yield made
    made.close()


def call(app, method, **params):
    return app.reactor.run_until_complete(app.dispatcher.call(method, params or None))


# bdevs


@pytest.mark.rule("A.21.9")
def test_memory_domains(control):
    """malloc takes memory of every kind that there is; null and AIO name none."""
    control.malloc()
    control.malloc("Checked", md_size=8, dif_type=1)
    control.call("bdev_null_create", name="Null", num_blocks=8, block_size=512)
    control.passthru()
    every = [{"dma_device_type": 1}, {"dma_device_type": 2}]
    assert control.told("Disk")["memory_domains"] == every
    assert control.told("Top")["memory_domains"] == every
    assert "memory_domains" not in control.told("Checked")
    assert "memory_domains" not in control.told("Null")
    control.passthru("TopNull", "Null")
    assert "memory_domains" not in control.told("TopNull")


def test_a_malloc_bdev_of_no_name(control):
    """To name none is one thing, to give an empty name another."""
    sizes = {"num_blocks": 8, "block_size": 512}
    assert control.fails("bdev_malloc_create", name="", **sizes) == INVALID
    assert control.names() == []
    assert control.call("bdev_malloc_create", **sizes) == "Malloc0"


@pytest.mark.rule("A.21.10")
def test_a_delay_bdev_tells_its_uuid(control):
    control.malloc()
    latencies = [f"{kind}_{verb}_latency" for verb in ("read", "write") for kind in ("avg", "p99")]
    control.call(
        "bdev_delay_create", name="Slow", base_bdev_name="Disk", **dict.fromkeys(latencies, 1)
    )
    told = control.told("Slow")
    assert list(told["driver_specific"]["delay"]) == ["name", "base_bdev_name", "uuid", *latencies]
    assert told["driver_specific"]["delay"]["uuid"] == told["uuid"]


def notices(caplog):
    found = [record for record in caplog.records if record.name == "vbdev.modules.passthru"]
    assert {record.levelno for record in found} <= {NOTICE}
    return [record.getMessage() for record in found]


@pytest.mark.rule("Db.7")
def test_a_passthru_says_what_operators_look_for(control, caplog):
    caplog.set_level(logging.INFO)
    control.malloc()
    control.passthru()
    match, opened, made, claimed, registered, created = notices(caplog)
    assert match == "Match on Disk"
    assert opened == "base bdev opened"
    assert made.startswith("io_device created at: 0x")
    assert int(made.rpartition(" ")[2], 16)
    assert claimed == "bdev claimed"
    assert registered == "pt_bdev registered"
    assert created == "created pt_bdev for: Top"


@pytest.mark.rule("Db.7")
def test_a_passthru_that_waits_says_so(control, caplog):
    caplog.set_level(NOTICE)
    control.passthru()
    deferred = "vbdev creation deferred pending base bdev arrival"
    assert [r.levelno for r in caplog.records if r.getMessage().startswith(deferred)] == [NOTICE]
    assert notices(caplog) == []
    control.malloc()
    assert notices(caplog)[-1] == "created pt_bdev for: Top"


def test_a_passthru_that_fails_does_not_say_that_it_is_there(control, caplog):
    caplog.set_level(NOTICE)
    control.malloc()
    control.passthru()
    caplog.clear()
    control.fails("bdev_passthru_create", name="Second", base_bdev_name="Disk")
    assert not any("pt_bdev" in message for message in notices(caplog))


# I/O statistics of one bdev


def test_iostat_of_one_by_the_name_that_control_planes_send(control):
    control.malloc()
    control.malloc("Other")
    (told,) = control.call("bdev_get_iostat", name="Disk")["bdevs"]
    assert told["name"] == "Disk"
    assert control.call("bdev_get_iostat", name="Disk", per_channel=True)["name"] == "Disk"
    assert control.fails("bdev_get_iostat", name="Absent") == (-19, "No such device")
    assert control.fails("bdev_get_iostat", name=5) == UNDECODED
    assert control.fails("bdev_get_iostat", name="Disk", names=["Disk"]) == INVALID


# Subsystems


def test_the_configuration_of_accel(app):
    assert call(app, "framework_get_config", name="accel") == []
    told = [(one.subsystem, one.depends_on) for one in call(app, "framework_get_subsystems")]
    assert ("accel", ["iobuf"]) in told
    assert ("bdev", ["accel", "iobuf"]) in told


# Lists of what there is nothing of


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("bdev_nvme_get_controllers", {}),
        ("bdev_nvme_get_discovery_info", {}),
        ("bdev_raid_get_bdevs", {"category": "all"}),
        ("bdev_raid_get_bdevs", {"category": "online"}),
        ("bdev_lvol_get_lvstores", {}),
        ("bdev_lvol_get_lvols", {}),
        ("accel_crypto_keys_get", {}),
    ],
)
def test_there_is_nothing(control, method, params):
    assert control.call(method, **params) == []
    assert method in control.dispatcher.names(current=True)


@pytest.mark.parametrize(
    ("method", "params", "answer"),
    [
        ("bdev_nvme_get_controllers", {"name": "N"}, (22, "Controller N does not exist")),
        ("bdev_nvme_get_controllers", {"nam": "N"}, UNDECODED),
        ("bdev_raid_get_bdevs", None, UNPARSED),
        ("bdev_raid_get_bdevs", {"category": "bogus"}, UNPARSED),
        ("bdev_lvol_get_lvstores", {}, INVALID),
        ("bdev_lvol_get_lvstores", {"lvs_name": "m", "uuid": "x"}, INVALID),
        ("bdev_lvol_get_lvstores", {"lvs_name": "zz"}, (-19, "No such device")),
        ("bdev_lvol_get_lvstores", {"uuid": "zz"}, (-19, "No such device")),
        ("bdev_lvol_get_lvols", {}, INVALID),
        ("bdev_lvol_get_lvols", {"lvs_name": "zz"}, (-19, "No such device")),
        ("accel_crypto_keys_get", {"key_name": "zz"}, (-32602, "key was not found")),
    ],
)
def test_and_none_of_a_name(control, method, params, answer):
    with pytest.raises(RpcError) as caught:
        control.stack.run(control.dispatcher.call(method, params))
    assert (caught.value.code, caught.value.message) == answer
    control.is_declared(method, caught.value)


def test_what_has_such_things_takes_the_place_of_nothing():
    dispatcher = Dispatcher()
    register_rooms(dispatcher, nothing_methods)
    name = "bdev_raid_get_bdevs"
    nothing = dispatcher.get(name)

    async def raids(_on, _params):
        return [{"name": "R"}]

    dispatcher.require_free([name])
    dispatcher.register(Method(name, None, raids), None)
    assert dispatcher.get(name).handler is raids
    assert dispatcher.names().count(name) == 1
    assert [method.name for method in dispatcher.methods()].count(name) == 1
    dispatcher.unregister(name)
    assert dispatcher.get(name) is nothing
    dispatcher.unregister(name)
    assert dispatcher.get(name) is None


def test_null_moves_no_data_whatever_memory_it_is_in():
    """The engine's own kind is not told, and used all the same."""
    made = Control()
    made.call("bdev_null_create", name="Null", num_blocks=8, block_size=512)
    bdev = made.registry.get("Null")
    assert isinstance(bdev, Null)
    assert tuple(bdev.memory_domains) == (1000,)
    made.stack.close()
