"""What answers are held to here is what SPDK's documentation shows of them, field by field.

Method: `results.toml` against the shapes of the cases, and against what the handlers declare.
"""

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from spdk_client.run import CASES
from spdk_client.shapes import ANY, Is, OneOf, Rest
from vbdev.daemon.app import App

SHOWN = tomllib.loads(Path(__file__).with_name("results.toml").read_text())
_TOKEN = re.compile(r"\s*([\w.]+|[\[\]{},:])")

MORE = {
    # Fields that the source writes and the documentation's example has not (lib/event/app_rpc.c,
    # lib/bdev/bdev_rpc.c, bdev.c).
    "framework_get_reactors": {"in_interrupt", "irq", "sys", "usr", "core_freq"},
    "bdev_get_iostat": {"ticks", "io_error", "driver_specific", "name", "thread_id", "channels"},
    "spdk_get_version": {"commit"},
}


def parsed(text):
    """Return a shape as it is shown: str, [shape], {name: shape}; None where it is cut off."""
    tokens = _TOKEN.findall(text)

    def value():
        token = tokens.pop(0)
        if token == "[":
            inner = None if tokens[0] == "]" else value()
            assert tokens.pop(0) == "]"
            return [inner]
        if token != "{":
            return token
        fields = {}
        while tokens[0] != "}":
            name = tokens.pop(0)
            if name == "..":
                continue
            assert tokens.pop(0) == ":"
            fields[name] = value()
            if tokens[0] == ",":
                tokens.pop(0)
        tokens.pop(0)
        return fields or None

    return value()


def lacks(shown, shape, at="result"):
    """Yield what is shown and is not in a shape, or is of another type there."""
    if shown is None or shape is ANY:
        return
    if isinstance(shape, Is):
        plain = {bool: "bool", str: "str", int: "u64"}
        value = shape.value
        shape = [plain[type(value[0])]] if isinstance(value, list) else plain[type(value)]
    if isinstance(shown, list):
        if not isinstance(shape, list):
            yield f"{at}: a list is shown"
        else:
            yield from lacks(shown[0], shape[0], f"{at}[]")
        return
    if isinstance(shown, dict):
        if isinstance(shape, Rest):
            shape = {**shape.head, **dict.fromkeys(shown, ANY)}
        if not isinstance(shape, dict):
            yield f"{at}: an object is shown"
            return
        known = {name.removesuffix("?"): inner for name, inner in shape.items()}
        for name, inner in shown.items():
            if name not in known:
                yield f"{at}.{name}: is shown, and not asked for"
            else:
                yield from lacks(inner, known[name], f"{at}.{name}")
        return
    fits = {
        "string": ("str", "uuid", "hex"),
        "bool": ("bool",),
        "int": ("u8", "u32", "u64", "i32", "i64"),
        "int32": ("i32",),
    }[shown]
    if not isinstance(shape, OneOf) and shape not in fits:
        yield f"{at}: {shown} is shown, and {shape} asked for"


@pytest.mark.parametrize("method", SHOWN)
def test_what_is_shown_is_asked_for(method):
    assert not list(lacks(parsed(SHOWN[method]), CASES[method].result))


def names(shown):
    """Return the names of all fields of what is shown, however deep."""
    if isinstance(shown, list):
        return names(shown[0])
    if isinstance(shown, dict):
        return set(shown).union(*map(names, shown.values()))
    return set()


def declared(type_):
    """Return the names of all fields that a handler's result may have."""
    found = set()

    def collect(info):
        if isinstance(info, msgspec.inspect.StructType):
            found.update(field.encode_name for field in info.fields)
            for field in info.fields:
                collect(field.type)
        elif isinstance(info, msgspec.inspect.UnionType):
            for one in info.types:
                collect(one)
        elif isinstance(info, msgspec.inspect.ListType):
            collect(info.item_type)

    collect(msgspec.inspect.type_info(type_))
    return found


HELD = """
thread_get_stats framework_get_reactors iobuf_get_stats thread_get_pollers thread_get_io_channels
nbd_get_disks framework_get_subsystems notify_get_notifications framework_monitor_context_switch
spdk_get_version
"""


@pytest.mark.parametrize("method", HELD.split())
def test_no_handler_answers_with_fields_that_spdk_has_not(method):
    """A client that decodes strictly, as SPDK's own programs do, stops at one more or one less."""
    app = App()
    try:
        result = declared(app.dispatcher.get(method).result)
    finally:
        app.close()
    cut_off = {"name", "id", "cpumask", "elapsed", "state", "run_count", "busy_count",
               "period_ticks", "ref"}  # fmt: skip
    shown = names(parsed(SHOWN[method])) | MORE.get(method, set())
    assert result - shown <= cut_off
    assert shown - result <= {"core_freq", "commit"}  # of governors, and of git
