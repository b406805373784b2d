"""The dispatcher: SPDK's codes and texts letter for letter, the detail beside them."""

import errno
import functools
import importlib
import os
import pkgutil
from typing import Annotated, Any

import msgspec
import pytest

from vbdev.api.errors import RpcError, error_from_errno, error_from_exception
from vbdev.api.methods import DECODE_OBJECT_FAILED, Method, Refusal, State
from vbdev.api.params import Uint64
from vbdev.reactor.clock import VirtualClock
from vbdev.reactor.reactor import Reactor
from vbdev.rpc import methods
from vbdev.rpc.methods import METHODS, SUBSTITUTES
from vbdev.rpc.serving.dispatch import Dispatcher
from vbdev.wire.jsontext import decode


class Params(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    name: str
    num_blocks: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 1
    size: Uint64 = 1
    ratio: float = 0.5
    label: str | None = None
    ready: bool = False
    names: list[str] = []
    inner: dict[str, int] = {}


async def echo(_on, params):
    return params


def run(dispatcher, name, params=None):
    reactor = Reactor(clock=VirtualClock())
    try:
        return reactor.run_until_complete(dispatcher.call(name, params))
    finally:
        reactor.close()


def failure(dispatcher, name, params=None):
    with pytest.raises(RpcError) as found:
        run(dispatcher, name, params)
    return (found.value.code, found.value.message, found.value.data)


@pytest.fixture
def dispatcher():
    dispatcher = Dispatcher()
    dispatcher.register(Method("echo", Params, echo), None)
    dispatcher.register(Method("bare", None, echo), None)
    dispatcher.register(Method("passthru", Params, echo, DECODE_OBJECT_FAILED), None)
    return dispatcher


def test_table(dispatcher):
    assert dispatcher.names() == ["echo", "bare", "passthru"]
    assert dispatcher.get("bare").params is None
    assert dispatcher.get("none") is None
    with pytest.raises(ValueError, match="echo is registered already"):
        dispatcher.register(Method("echo", None, echo), None)
    dispatcher.unregister("echo")
    assert failure(dispatcher, "echo") == (-32601, "Method not found", "echo")
    with pytest.raises(KeyError):
        dispatcher.unregister("echo")
    dispatcher.register(Method("echo", None, echo), None)


@pytest.mark.rule("A.23.9")
@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("1e3", "num_blocks", 1000),
        ("10.0", "num_blocks", 10),
        ("2", "ratio", 2.0),
        ("2.0", "ratio", 2.0),
        ("true", "ready", True),
        ('["a"]', "names", ["a"]),
    ],
)
def test_decoding(dispatcher, text, field, value):
    params = decode(f'{{"name":"n","{field}":{text}}}'.encode())
    found = getattr(run(dispatcher, "echo", params), field)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.rule("A.23.9")
@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ('{"name":1}', "name: expected str, got int"),
        ('{"name":null}', "name: expected str, got null"),
        ('{"name":"n","num_blocks":"x"}', "num_blocks: expected int, got str"),
        ('{"name":"n","num_blocks":1.5}', "num_blocks: expected int, got float"),
        ('{"name":"n","num_blocks":true}', "num_blocks: expected int, got bool"),
        ('{"name":"n","num_blocks":-1}', "num_blocks: expected int >= 0"),
        ('{"name":"n","num_blocks":1e6}', "num_blocks: expected int <= 100000"),
        ('{"name":"n","ready":1}', "ready: expected bool, got int"),
        ('{"name":"n","ready":"true"}', "ready: expected bool, got str"),
        ('{"name":"n","names":["a",2]}', "names[1]: expected str, got int"),
        ('{"name":"n","width":1}', "width: unknown parameter"),
        ('{"name":"n","label":null}', "label: null is no value; leave it out"),
        ('{"name":"n\\u0000"}', "name: holds a NUL character"),
        ('{"name":"n","names":["n\\u0000"]}', "names: holds a NUL character"),
        (
            '{"name":"n","size":18446744073709551616}',
            "size: 18446744073709551616 does not fit in 64 bits",
        ),
        ("{}", "name: required, and missing"),
        ("null", "name: required, and missing"),
        ("[]", "params: expected object, got array"),
        ('{"name":"a","name":"b"}', "duplicate key 'name'"),
        ('{"name":"n","inner":{"a":1,"a":2}}', "inner: expected object, got DuplicateKey"),
    ],
)
def test_decode_errors_name_the_field(dispatcher, text, detail):
    params = decode(text.encode())
    assert failure(dispatcher, "echo", params) == (-32602, "Invalid parameters", detail)
    assert failure(dispatcher, "passthru", params) == (
        -32603,
        "spdk_json_decode_object failed",
        detail,
    )


def test_a_method_is_described_by_its_handler_or_its_parameters():
    class Described(msgspec.Struct):
        """Parameters."""

    async def handler(_on, params):
        """Do it."""

    async def bare(_on, params):
        return params

    assert Method("m", Described, handler).summary == "Do it."
    assert Method("m", Described, functools.partial(handler)).summary == "Do it."
    assert Method("m", Described, bare).summary == "Parameters."
    assert Method("m", None, bare).summary == ""


def test_a_struct_s_own_check_is_a_decode_error():
    class Checked(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
        low: int
        high: int

        def __post_init__(self):
            if self.low > self.high:
                raise ValueError("low: above high")

    dispatcher = Dispatcher()
    dispatcher.register(Method("m", Checked, echo), None)
    assert failure(dispatcher, "m", {"low": 2, "high": 1})[:2] == (-32602, "Invalid parameters")
    assert "low: above high" in failure(dispatcher, "m", {"low": 2, "high": 1})[2]


def test_nested_errors_name_the_whole_path():
    class Inner(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
        a: int

    class Outer(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
        inner: list[Inner]

    dispatcher = Dispatcher()
    dispatcher.register(Method("m", Outer, echo), None)
    assert failure(dispatcher, "m", {"inner": [{}]})[2] == "inner[0].a: required, and missing"
    assert failure(dispatcher, "m", {"inner": [{"a": 1, "b": 1}]})[2] == (
        "inner[0].b: unknown parameter"
    )


def test_a_method_without_params(dispatcher):
    assert run(dispatcher, "bare") is None
    for params in ({}, {"a": 1}, []):
        assert failure(dispatcher, "bare", params) == (
            -32602,
            "bare requires no parameters",
            None,
        )


class BdevError(Exception):
    def __init__(self, number: Any, text: str) -> None:
        super().__init__(text)
        self.errno = number


def raising(error):
    async def handler(_on, _params):
        raise error

    dispatcher = Dispatcher()
    dispatcher.register(Method("m", None, handler), None)
    return dispatcher


@pytest.mark.rule("A.23.4")
def test_failures():
    missing = raising(BdevError(errno.ENODEV, "bdev Malloc0: no such bdev"))
    assert failure(missing, "m") == (-19, "No such device", "bdev Malloc0: no such bdev")
    file = raising(FileNotFoundError(errno.ENOENT, "No such file or directory", "/x"))
    assert failure(file, "m")[:2] == (-2, os.strerror(errno.ENOENT))
    assert "/x" in failure(file, "m")[2]
    own = RpcError(-32602, "Failed to create 2 split bdevs", "detail")
    assert failure(raising(own), "m") == (-32602, "Failed to create 2 split bdevs", "detail")
    assert str(own) == "Failed to create 2 split bdevs (-32602): detail"


@pytest.mark.parametrize(
    "error", [KeyError("secret"), OSError("no number"), BdevError("5", "x"), BdevError(-5, "x")]
)
def test_bugs_are_internal_errors_and_logged(error, caplog):
    assert failure(raising(error), "m") == (-32603, "Internal error", "m: see the log")
    assert "Traceback" in caplog.text
    assert "method=m" in caplog.text


def test_errno_helpers():
    assert (error_from_errno(17).code, error_from_errno(17).message) == (-17, "File exists")
    assert error_from_exception(ValueError()) is None


@pytest.mark.rule("A.6.12")
def test_states():
    dispatcher = Dispatcher(State.STARTUP)
    dispatcher.register(Method("late", None, echo), None)
    dispatcher.register(Method("early", None, echo, states=State.STARTUP), None)
    dispatcher.register(Method("both", None, echo, states=State.STARTUP | State.RUNTIME), None)
    assert dispatcher.names(current=True) == ["early", "both"]
    assert failure(dispatcher, "late")[:2] == (
        -1,
        "Method may only be called after framework is initialized using framework_start_init RPC.",
    )
    dispatcher.state = State.RUNTIME
    assert dispatcher.names(current=True) == ["late", "both"]
    assert failure(dispatcher, "early")[:2] == (
        -1,
        (
            "Method may only be called before framework is initialized. Use --wait-for-rpc"
            " command line parameter and then issue this RPC before the framework_start_init RPC."
        ),
    )
    assert run(dispatcher, "both") is None


def test_a_handler_is_given_what_its_method_was_registered_with():
    dispatcher = Dispatcher()

    async def which(on, _params):
        return on

    dispatcher.register(Method("one", None, which), 1)
    dispatcher.register(Method("two", None, which), 2)
    dispatcher.register_substitute(Method("three", None, which), 3)
    assert [run(dispatcher, name) for name in dispatcher.names()] == [1, 2, 3]


def test_a_refusal_names_what_a_call_named():
    refusal = Refusal(-32602, "Thread {id} does not exist")
    error = refusal.error("a detail", id=7)
    assert (error.code, error.message, error.data) == (
        -32602,
        "Thread 7 does not exist",
        "a detail",
    )
    assert Refusal(-2, "Nothing").error().data is None


def test_what_is_declared_as_a_pair_is_a_refusal():
    """A module may write (code, text) wherever a Refusal is asked for."""
    method = Method("m", Params, echo, (-7, "Not like that"), errors=((-5, "Poked"),))
    assert method.refusals()[:2] == [(-7, "Not like that"), (-5, "Poked")]
    assert all(isinstance(one, Refusal) for one in method.refusals())
    dispatcher = Dispatcher()
    dispatcher.register(method, None)
    assert failure(dispatcher, "m", {})[:2] == (-7, "Not like that")


def test_every_room_is_in_the_table():
    rooms = [importlib.import_module(f"vbdev.rpc.methods.{one.name}") for one in iter_rooms()]
    declared = [method for room in rooms for method in getattr(room, "METHODS", ())]
    table = [*METHODS, *SUBSTITUTES]
    assert sorted(one.name for one in declared) == sorted(one.name for one in table)
    assert len({one.name for one in table}) == len(table)


def iter_rooms():
    return pkgutil.iter_modules(methods.__path__)
