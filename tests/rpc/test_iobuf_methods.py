"""iobuf_set_options, iobuf_get_stats: the bound holds and is saved, the counts are the pools'.

Method: an App whose engines are looked at, and a stack whose I/Os take buffers.
"""

import errno
from types import SimpleNamespace

import pytest

from support.rooms import register_rooms
from support.stack import Stub, stack
from support.told import as_declared
from vbdev.api.methods import RpcError, State
from vbdev.daemon.app import App
from vbdev.registry.options import BdevOptions, IobufOptions
from vbdev.rpc.methods import iobuf
from vbdev.rpc.methods.plane import Iobuf
from vbdev.rpc.serving.dispatch import Dispatcher
from vbdev.vocab import Op

KIB = 1024
UNDECODED = (-32602, "spdk_json_decode_object failed")
INVALID = (-22, "Invalid argument")


@pytest.fixture
def app():
    made = App(num_reactors=3)
    made.dispatcher.state = State.STARTUP
    yield made
    made.close()


def call(app, method, params=None):
    answer = app.reactor.run_until_complete(app.dispatcher.call(method, params))
    return as_declared(answer, app.dispatcher.get(method).result)


def fails(app, method, params=None):
    with pytest.raises(RpcError) as caught:
        call(app, method, params)
    return caught.value.code, caught.value.message


def limits(app):
    return {reactor.engine.buffers.limit_bytes for reactor in app.reactors}


def config(app):
    app.dispatcher.state = State.RUNTIME
    return call(app, "framework_get_config", {"name": "iobuf"})


def test_the_bound(app):
    assert limits(app) == {256 << 20}
    assert call(app, "iobuf_set_options", {}) is True
    assert limits(app) == {8192 * 8192 + 1024 * 135168}
    assert call(app, "iobuf_set_options", {"small_pool_count": 64, "small_bufsize": 4096}) is True
    assert limits(app) == {64 * 4096 + 1024 * 135168}
    # What is absent stays as it is.
    least = {"large_pool_count": 8, "large_bufsize": 8192, "enable_numa": True}
    assert call(app, "iobuf_set_options", least) is True
    assert limits(app) == {64 * 4096 + 8 * 8192}
    assert app.engine is app.reactor.engine
    assert config(app) == [
        {
            "method": "iobuf_set_options",
            "params": {
                "small_pool_count": 64,
                "large_pool_count": 8,
                "small_bufsize": 4096,
                "large_bufsize": 8192,
                "enable_numa": True,
            },
        }
    ]


def test_the_options_of_the_bdev_layer_leave_it_as_it_is(app):
    call(app, "iobuf_set_options", {})
    call(app, "bdev_set_options", {"bdev_io_pool_size": 2048})
    assert limits(app) == {IobufOptions().limit_bytes}
    assert {reactor.engine.pool_size for reactor in app.reactors} == {2048}


def test_nothing_is_saved_where_nothing_was_set(app):
    assert config(app) == []


@pytest.mark.parametrize(
    ("params", "answer"),
    [
        (None, UNDECODED),
        ({"small_pool_count": -1}, UNDECODED),
        ({"small_bufsize": 1 << 32}, UNDECODED),
        ({"enable_numa": 1}, UNDECODED),
        ({"medium": 1}, UNDECODED),
        ({"small_pool_count": 63}, INVALID),
        ({"large_pool_count": 7}, INVALID),
        ({"small_bufsize": 4095}, INVALID),
        ({"large_bufsize": 8191}, INVALID),
        ({"small_pool_count": (1 << 64) - 1}, INVALID),
    ],
)
def test_refusals(app, params, answer):
    assert fails(app, "iobuf_set_options", params) == answer
    assert limits(app) == {256 << 20}
    assert config(app) == []


def test_states(app):
    assert fails(app, "iobuf_get_stats")[0] == -1
    app.dispatcher.state = State.RUNTIME
    assert fails(app, "iobuf_set_options", {})[0] == -1


def test_stats():
    with stack(reactors=2, buffer_limit_bytes=256 * KIB) as made:
        dispatcher = Dispatcher()
        options = BdevOptions(iobuf_small_cache_size=7, iobuf_large_cache_size=3)
        register_rooms(
            dispatcher,
            iobuf,
            reactors=made.reactors,
            iobuf=Iobuf(),
            registry=SimpleNamespace(options=options),
        )

        def stats(params=None):
            answer = made.run(dispatcher.call("iobuf_get_stats", params))
            (told,) = as_declared(answer, dispatcher.get("iobuf_get_stats").result)
            assert list(told) == ["module", "small_pool", "large_pool"]
            assert told["module"] == "bdev"
            for pool in (told["small_pool"], told["large_pool"]):
                assert list(pool) == ["cache", "main", "retry", "cache_size"]
            assert told["small_pool"].pop("cache_size") == 14  # of both reactors
            assert told["large_pool"].pop("cache_size") == 6
            return tuple(told["small_pool"].values()), tuple(told["large_pool"].values())

        assert stats() == ((0, 0, 0), (0, 0, 0))
        stub = made.disk(Stub, block_size=4096, num_blocks=1 << 20)
        top = made.open("Disk")
        for blocks in (2, 3, 64):
            top.submit(Op.READ, 0, blocks)
        small, (cache, main, retry) = stats({"any": "thing"})
        assert (small, cache, main) == ((0, 1, 0), 0, 1)
        assert retry >= 1  # it asks again from time to time
        stub.complete()
        made.settle()
        stub.complete()
        made.settle()
        assert stats()[1][:2] == (0, 2)


def test_a_sum_that_no_machine_has():
    options = IobufOptions(small_pool_count=1 << 40, small_bufsize=1 << 31)
    with pytest.raises(Exception, match="bytes of buffers are more than") as caught:
        options.check()
    assert caught.value.errno == errno.EINVAL
