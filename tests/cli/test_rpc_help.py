"""`vbdev rpc`: help from what is declared, parameters typed by it, and a start without either."""

import json
import socket
import subprocess
import sys

import pytest

from vbdev.cli import rpc_help
from vbdev.daemon.app import App
from vbdev.rpc.describing.schema_words import default_of, near, type_words
from vbdev.testing.daemon import Daemon

MODULE = '''
"""A module of somebody else's."""

from typing import Literal

from vbdev.bdev import VirtualBdev, VirtualBdevParams


class TintParams(VirtualBdevParams, kw_only=True, forbid_unknown_fields=True):
    """Tint what is read."""

    colour: Literal["0", "1"] = "1"
    """Which colour."""
    depth: int = 5
    """How deep."""


class Tint(VirtualBdev):
    kind = "tint"
    Params = TintParams

    def submit(self, channel, ios):
        channel.base.submit(ios)
'''

STRING = {"type": "string"}
ABOVE_4 = {"type": "integer", "minimum": 5}


def vbdev(*words, expect=0):
    done = subprocess.run(
        [sys.executable, "-m", "vbdev", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == expect, done.stderr
    return done


@pytest.fixture
def daemon(serve, tmp_path):
    (tmp_path / "tint_for_help.py").write_text(MODULE)
    return serve("malloc:1MiB", "--module", tmp_path / "tint_for_help.py")


@pytest.fixture
def rpc(daemon):
    def call(*words, expect=0):
        return vbdev("rpc", "-s", daemon.rpc_socket, *words, expect=expect)

    return call


def test_help_lists_every_method(tmp_path):
    done = vbdev("rpc", "-s", tmp_path / "none.sock", "--help")
    assert done.stdout.startswith("usage: vbdev rpc")
    assert f"no daemon answers on {tmp_path / 'none.sock'}" in done.stdout
    app = App()
    listed = [line.strip() for line in done.stdout.splitlines()]
    assert set(app.dispatcher.names()) <= set(listed)
    groups = [
        line.strip()
        for line in done.stdout.split("):\n")[1].splitlines()
        if line[:3].count(" ") == 2
    ]
    assert groups[0] == "bdev"
    assert {"bdev_malloc", "nbd", "framework"} <= set(groups)
    app.close()


def test_help_on_a_method(tmp_path):
    for words in (["bdev_malloc_create", "--help"], ["-h", "bdev_malloc_create"]):
        told = vbdev("rpc", "-s", tmp_path / "none.sock", *words).stdout
        assert "vbdev rpc bdev_malloc_create num_blocks=... block_size=... [key=value ...]" in told
        assert "Create a bdev in memory." in told
        assert "  num_blocks: integer, " in told
        assert "answer: string" in told
        assert "-32603  spdk_json_decode_object failed" in told
        assert "state: RUNTIME" in told


def test_help_shows_what_an_answer_has_in_it(tmp_path):
    told = vbdev("rpc", "-s", tmp_path / "none.sock", "bdev_get_bdevs", "--help").stdout
    assert "answer: list of BdevInfo" in told
    assert "  driver_specific: object" in told
    told = vbdev("rpc", "-s", tmp_path / "none.sock", "bdev_gpt_create", "--help").stdout
    assert "partitions: list of NewPartition; required" in told
    assert "      size_mb: Size in MiB." in told


def test_help_asks_the_daemon(rpc, daemon):
    """So that a module which it has loaded is there."""
    told = rpc("bdev_tint_create", "--help").stdout
    assert "Tint what is read." in told
    assert "colour: one of 0, 1; default 1" in told
    assert f"as the daemon on {daemon.rpc_socket} has it" in told
    assert "bdev_tint_create" in rpc("--help").stdout


def test_a_daemon_that_has_no_method_to_ask():
    with Daemon("--rpcs-allowed", "bdev_get_bdevs") as daemon:
        done = vbdev("rpc", "-s", daemon.rpc_socket, "bdev_get_bdev", expect=1)
        told = vbdev("rpc", "-s", daemon.rpc_socket, "bdev_get_bdevs", "--help").stdout
    assert done.stderr == "vbdev rpc: bdev_get_bdev: Method not found (-32601): bdev_get_bdev\n"
    assert f"this installation has it: the daemon on {daemon.rpc_socket} does not tell: " in told


def test_an_unknown_method_is_told_its_neighbours(rpc, tmp_path):
    done = vbdev("rpc", "-s", tmp_path / "none.sock", "bdev_get_bdev", "--help", expect=2)
    assert "no such method; did you mean bdev_get_bdevs" in done.stderr
    done = rpc("bdev_get_bdev", expect=1)
    assert "Method not found (-32601): did you mean bdev_get_bdevs" in done.stderr
    done = rpc("utterly_different_zzz", expect=1)
    assert done.stderr.endswith("Method not found (-32601): `vbdev rpc --help` lists the methods\n")


def test_text_stays_text_where_it_is_declared(rpc):
    """A name that looks like a number, or like any other JSON; of a module's methods too."""
    for name in ("123", "true", "null", "[1]", "1e3"):
        done = rpc("bdev_malloc_create", f"name={name}", "num_blocks=8", "block_size=512")
        assert json.loads(done.stdout) == name
    made = rpc("bdev_tint_create", "name=7", "base_bdev_name=123", "colour=0", "depth=7")
    assert json.loads(made.stdout) == "7"
    assert json.loads(rpc("bdev_get_bdevs", "name=7").stdout)[0]["name"] == "7"
    refused = rpc("bdev_tint_create", "name=8", "base_bdev_name=true", "colour=2", expect=1)
    assert "colour" in refused.stderr
    assert json.loads(rpc("bdev_get_iostat", 'names=["123"]').stdout)["bdevs"][0]["name"] == "123"


def test_what_is_not_declared_as_text_is_json(rpc):
    assert (
        "num_blocks: expected"
        in rpc("bdev_malloc_create", "num_blocks=many", "block_size=512", expect=1).stderr
    )
    assert json.loads(rpc("rpc_get_methods", "current=true").stdout)


def test_wrong_words(rpc):
    assert "which METHOD?" in rpc(expect=2).stderr
    assert "name is given twice" in rpc("bdev_get_bdevs", "name=a", "name=b", expect=2).stderr
    assert "'=a' is not key=value" in rpc("bdev_get_bdevs", "=a", expect=2).stderr


def test_a_call_imports_nothing_that_it_does_not_need(daemon):
    heavy = [
        "asyncio",
        "vbdev.core",
        "vbdev.api.results",
        "vbdev.rpc.describing.schema",
        "vbdev.client.generated.methods",
    ]
    program = (
        "import sys; from vbdev.cli import main; main(sys.argv[1:]);"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            program,
            "rpc",
            "-s",
            daemon.rpc_socket,
            "bdev_get_bdevs",
            "name=Malloc0",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "minimum": 0, "maximum": 255}, "integer, 0 to 255"),
        ({"type": "integer", "minimum": 0, "maximum": 2**64 - 1}, "integer, 0 to 2^64 - 1"),
        ({"type": "integer", "minimum": -(2**31), "maximum": 5}, "integer, -2^31 to 5"),
        ({"type": "integer", "minimum": 1}, "integer, 1 or more"),
        ({"type": "number", "minimum": 0, "maximum": 1.5}, "number, 0 to 1.5"),
        ({"enum": ["a", 5]}, "one of a, 5"),
        ({"type": "string", "x-names": "bdev"}, "name of a bdev"),
        ({"type": "array", "items": ABOVE_4}, "list of integers, 5 or more"),
        ({"type": "array", "items": STRING, "maxItems": 3}, "list of strings, at most 3"),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, "object of integers"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "string or null"),
        ({"$ref": "#/components/schemas/BdevInfo"}, "BdevInfo"),
        ({}, "anything"),
    ],
)
def test_types_in_words(schema, words):
    assert type_words(schema) == words


def test_defaults_in_words():
    assert [default_of({"default": value}) for value in (None, "", [], 0, False, "none", 0.5)] == [
        *[None] * 3,
        "0",
        "false",
        "none",
        "0.5",
    ]


def test_neighbours():
    names = ["bdev_get_bdevs", "bdev_get_iostat", "nbd_get_exports"]
    assert near("bdev_get_bdev", names)[0] == "bdev_get_bdevs"
    assert near("exports", names) == ["nbd_get_exports"]
    assert near("", names) == near("zzz", names) == []


def test_a_daemon_that_does_not_answer_is_not_waited_for(tmp_path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "mute.sock"))
    listener.listen()
    document, whose = rpc_help.document_of(str(tmp_path / "mute.sock"), 0.05)
    listener.close()
    assert document["methods"]
    assert "no daemon answers" in whose
