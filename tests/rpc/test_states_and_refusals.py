"""When each method may be called, and what it says to parameters it does not know: SPDK's answers.

Method: an App with all its methods, and SPDK's facts as a table. A method that is served and is
SPDK's has to be in the table; ours are listed, so that none is forgotten.
"""

import pytest

from vbdev.api.methods import RpcError, State
from vbdev.daemon.app import App

BOTH = State.STARTUP | State.RUNTIME
PARAMS = (-32602, "Invalid parameters")
OBJECT = (-32602, "spdk_json_decode_object failed")
INTERNAL = (-32603, "spdk_json_decode_object failed")
UNPARSED = (-32700, "spdk_json_decode_object failed")
IGNORED = "parameters are ignored"


def none(text):
    """Say what is answered to parameters where there are none to give."""
    return (-32602, text)


SPDK = {
    "spdk_kill_instance": (State.RUNTIME, PARAMS),
    "spdk_get_version": (BOTH, none("spdk_get_version method requires no parameters")),
    "rpc_get_methods": (BOTH, PARAMS),
    "framework_start_init": (State.STARTUP, none("framework_start_init requires no parameters")),
    "framework_wait_init": (BOTH, IGNORED),
    "framework_get_subsystems": (
        State.RUNTIME,
        none("'framework_get_subsystems' requires no arguments"),
    ),
    "framework_get_config": (State.RUNTIME, (-32602, "Invalid arguments")),
    "framework_get_reactors": (
        State.RUNTIME,
        none("`framework_get_reactors` requires no arguments"),
    ),
    "framework_monitor_context_switch": (State.RUNTIME, PARAMS),
    "framework_set_scheduler": (BOTH, PARAMS),
    "framework_get_scheduler": (BOTH, none("'rpc_get_scheduler' requires no arguments")),
    "framework_get_governor": (State.RUNTIME, none("'rpc_get_governor' requires no arguments")),
    "thread_get_stats": (State.RUNTIME, none("'thread_get_stats' requires no arguments")),
    "thread_get_pollers": (State.RUNTIME, none("'thread_get_pollers' requires no arguments")),
    "thread_get_io_channels": (
        State.RUNTIME,
        none("'thread_get_io_channels' requires no arguments"),
    ),
    "thread_set_cpumask": (State.RUNTIME, OBJECT),
    "log_set_print_level": (BOTH, INTERNAL),
    "log_get_print_level": (BOTH, none("log_get_print_level requires no parameters")),
    "log_set_level": (BOTH, INTERNAL),
    "log_get_level": (BOTH, none("log_get_level requires no parameters")),
    "log_set_flag": (BOTH, INTERNAL),
    "log_clear_flag": (BOTH, INTERNAL),
    "log_get_flags": (BOTH, none("log_get_flags requires no parameters")),
    "log_enable_timestamps": (State.RUNTIME, OBJECT),
    "notify_get_types": (State.RUNTIME, none("No parameters required")),
    "notify_get_notifications": (State.RUNTIME, (-32602, "Invalid argument")),
    "iobuf_set_options": (State.STARTUP, OBJECT),
    "iobuf_get_stats": (State.RUNTIME, IGNORED),
    "bdev_set_options": (State.STARTUP, PARAMS),
    "bdev_get_bdevs": (State.RUNTIME, INTERNAL),
    "bdev_examine": (State.RUNTIME, OBJECT),
    "bdev_wait_for_examine": (
        State.RUNTIME,
        none("bdev_wait_for_examine requires no parameters"),
    ),
    "bdev_get_iostat": (State.RUNTIME, INTERNAL),
    "bdev_nvme_get_controllers": (State.RUNTIME, INTERNAL),
    "bdev_nvme_get_discovery_info": (State.RUNTIME, IGNORED),
    "bdev_raid_get_bdevs": (State.RUNTIME, UNPARSED),
    "bdev_lvol_get_lvstores": (State.RUNTIME, INTERNAL),
    "bdev_lvol_get_lvols": (State.RUNTIME, INTERNAL),
    "accel_crypto_keys_get": (State.RUNTIME, UNPARSED),
    "bdev_reset_iostat": (State.RUNTIME, INTERNAL),
    "bdev_enable_histogram": (State.RUNTIME, INTERNAL),
    "bdev_get_histogram": (State.RUNTIME, INTERNAL),
    "bdev_get_histogram_borders": (State.RUNTIME, INTERNAL),
    "bdev_set_qos_limit": (State.RUNTIME, INTERNAL),
    "bdev_set_qd_sampling_period": (State.RUNTIME, INTERNAL),
    **{
        f"bdev_{kind}_{verb}": (State.RUNTIME, INTERNAL)
        for kind, verbs in (
            ("malloc", "create delete"),
            ("null", "create delete resize"),
            ("aio", "create delete rescan"),
            ("uring", "create delete rescan"),
            ("passthru", "create delete"),
            ("delay", "create delete update_latency"),
        )
        for verb in verbs.split()
    },
    **{
        f"bdev_error_{verb}": (State.RUNTIME, OBJECT)
        for verb in ("create", "delete", "inject_error", "resume_pending")
    },
    **{
        f"bdev_{kind}_{verb}": (State.RUNTIME, PARAMS)
        for kind in ("split", "zone_block")
        for verb in ("create", "delete")
    },
    **{
        f"nbd_{verb}": (State.RUNTIME, INTERNAL)
        for verb in ("start_disk", "stop_disk", "get_disks")
    },
}
OURS = (
    "rpc_get_schema",
    "bdev_gpt_create",
    "bdev_gpt_delete",
    "bdev_gpt_set_options",
    "bdev_nbd_create",
    "bdev_nbd_delete",
    "nbd_server_start",
    "nbd_server_stop",
    "nbd_export_add",
    "nbd_export_remove",
    "nbd_get_exports",
    "vbdev_get_stack",
    "vbdev_get_holders",
    "vbdev_unregister",
)
AFTER = "Method may only be called after framework is initialized using framework_start_init RPC."
BEFORE = (
    "Method may only be called before framework is initialized. Use --wait-for-rpc command line"
    " parameter and then issue this RPC before the framework_start_init RPC."
)
UNKNOWN = {"there_is_no_such_parameter": 1}


@pytest.fixture
def app():
    made = App()
    yield made
    made.close()


def fails(app, name, params):
    with pytest.raises(RpcError) as caught:
        app.reactor.run_until_complete(app.dispatcher.call(name, params))
    return caught.value.code, caught.value.message


def test_every_method_is_in_the_table(app):
    assert sorted([*SPDK, *OURS]) == sorted(app.dispatcher.names())


@pytest.mark.parametrize("name", SPDK)
def test_when_it_may_be_called(app, name):
    states, _ = SPDK[name]
    for state, refusal in ((State.STARTUP, AFTER), (State.RUNTIME, BEFORE)):
        app.dispatcher.state = state
        assert (name in app.dispatcher.names(current=True)) == (state in states)
        if state not in states:
            # The state is looked at first, whatever the parameters.
            for params in (None, {}, UNKNOWN):
                assert fails(app, name, params) == (-1, refusal)


@pytest.mark.parametrize("name", [name for name, (_, told) in SPDK.items() if told != IGNORED])
def test_what_an_unknown_parameter_is_answered_with(app, name):
    states, told = SPDK[name]
    app.dispatcher.state = State.RUNTIME if State.RUNTIME in states else State.STARTUP
    assert fails(app, name, UNKNOWN) == told
    assert fails(app, name, [1]) == told
    assert fails(app, name, []) == told


def test_where_parameters_are_not_looked_at(app):
    app.dispatcher.state = State.RUNTIME
    assert app.reactor.run_until_complete(app.dispatcher.call("iobuf_get_stats", UNKNOWN))
