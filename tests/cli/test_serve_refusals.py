"""`vbdev serve`: what it refuses, and what it says then.

Method: the command as a user types it, in a subprocess. A refusal is one message on stderr that
names the thing and the bound, exit status 1 (2 for wrong usage), no traceback, no socket left.
"""

import json
import os
import socket
import subprocess
import sys

import pytest

from support.nbd_client import NbdClient

MALLOC = "malloc:1MiB"


@pytest.fixture
def refused(tmp_path):
    """Return a function that runs `vbdev serve`, which has to refuse, and returns the message."""

    def run(*words, status=1, nbd=True):
        command = [sys.executable, "-m", "vbdev", "serve", *map(str, words)]
        command += ["--rpc-socket", str(tmp_path / "r.sock")] * ("--rpc-socket" not in words)
        command += ["--nbd", f"unix:{tmp_path}/v.sock"] if nbd else []
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=False, cwd=tmp_path
        )
        assert done.returncode == status, done.stderr + done.stdout
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
        assert not list(tmp_path.glob("*.sock")), "a socket is left"
        if status == 1:
            assert done.stderr.startswith("vbdev serve: ")
            assert done.stderr.count("\n") == 1, "one message, one line"
        return done.stderr

    return run


@pytest.fixture
def config(tmp_path):
    """Return a function that writes a configuration file, of text or of bdev calls."""

    def write(content):
        path = tmp_path / "config.json"
        if not isinstance(content, str):
            calls = [{"method": method, "params": params} for method, params in content]
            content = json.dumps({"subsystems": [{"subsystem": "bdev", "config": calls}]})
        path.write_text(content)
        return path

    return write


def malloc(name, blocks=2048):
    return ("bdev_malloc_create", {"name": name, "num_blocks": blocks, "block_size": 512})


def passthru(name, base):
    return ("bdev_passthru_create", {"name": name, "base_bdev_name": base})


# Configuration files


def test_config_syntax_error(refused, config):
    path = config('{\n  "subsystems": [\n    {"subsystem": bdev}\n  ]\n}\n')
    assert f"{path}:3:19: 'bdev' is no value" in refused("--config", path)


def test_config_unknown_method(refused, config):
    message = refused("--config", config([malloc("A"), ("bdev_florp_create", {})]))
    assert "config.json:1: subsystem bdev, entry 2: bdev_florp_create: " in message
    assert "not found" in message.lower()


def test_config_bad_parameter(refused, config):
    message = refused("--config", config([("bdev_malloc_create", {"nmae": "A"})]))
    assert "entry 1: bdev_malloc_create: " in message
    assert "nmae" in message or "num_blocks" in message


@pytest.mark.parametrize(
    ("name", "said"), [("absent", "absent: No such file or directory"), ("", ": Is a directory")]
)
def test_config_that_is_no_file(refused, tmp_path, name, said):
    assert f"{tmp_path / name}{said.removeprefix(name)}" in refused("--config", tmp_path / name)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", ':1:1: an object with a list "subsystems" is expected'),
        ('{"subsystems": [1]}', ":1:16: subsystem 1 is no object"),
        ('{"subsystems": [{}]}', ':1:17: subsystem 1 has no name in "subsystem"'),
        (
            '{"subsystems": [{"subsystem": "bdev", "config": [{}]}]}',
            'not an object with a "method"',
        ),
        ('{"subsystems": [], "subsystems": []}', ":1:20: key 'subsystems' stands twice"),
        ("[" * 100_000, ":1:65: nested deeper than 64"),
        (
            '{"subsystems": [{"subsystem": "bdev",\n"config": [{"method": "x",\n "param": {}}]}]}',
            ":3:11: subsystem bdev, entry 1: unknown key 'param'",
        ),
        (
            '{"subsystems": [{"subsystem": "bdev", "config": [{"method": "x", "params": [1]}]}]}',
            ':1:76: subsystem bdev, entry 1: "params" is no object',
        ),
        ('{"subsystems": {}}', ':1:16: "subsystems" is no list'),
    ],
    ids=["list", "number", "subsystem", "method", "twice", "deep", "key", "params", "object"],
)
def test_config_of_another_form(refused, config, text, said):
    assert said in refused("--config", config(text))


def test_two_bdevs_of_one_name(refused, config):
    message = refused("--config", config([malloc("A"), malloc("A")]))
    assert "entry 2: bdev_malloc_create: " in message
    assert "File exists" in message or "'A' already exists" in message


def test_base_claimed_already(refused, config):
    message = refused("--config", config([malloc("A"), passthru("P", "A"), passthru("Q", "A")]))
    assert "entry 3: bdev_passthru_create: " in message


# Bases and layers


def test_missing_file(refused):
    message = refused("absent.img")
    assert "absent.img: No such file or directory" in message


def test_directory(refused, tmp_path):
    message = refused(tmp_path)
    assert f"{tmp_path} is a directory; a regular file or a block device is needed" in message


def test_no_permission(refused, tmp_path):
    path = tmp_path / "secret.img"
    path.write_bytes(bytes(4096))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("nothing is forbidden to root")
    assert f"{path}: Permission denied" in refused(path)


def test_size_no_multiple_of_the_block_size(refused, tmp_path):
    path = tmp_path / "odd.img"
    path.write_bytes(bytes(1000))
    message = refused(path)
    assert f"{path}: its size of 1000 bytes is no multiple of the block size of 512" in message


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("malloc:1000", "1000 bytes are no multiple of the block size 512"),
        ("malloc:0", "num_blocks is 0; at least 1"),
        ("malloc:lots", "'lots' is no size; write 4096, 64KiB, 64M or 1TiB"),
        ("malloc:1MiB,block_size=1000", "no multiple of the block size 1000"),
        ("malloc:1MiB,block_size=256", "block_size 256 is no multiple of 512"),
        ("malloc:1MiB,block_size=010", "block_size"),
        ("malloc:1MiB,colour=red", "malloc: unknown key 'colour'; keys: "),
        ("malloc:1MiB,name", "'name' is not key=value"),
        ("malloc:1MiB,name=A,name=B", "name is given twice"),
        ("malloc:1MiB,uuid=x", "malloc: "),
        ("malloc:9000000TiB", "more than 9223372036854775808 bytes"),
    ],
)
def test_bad_base(refused, base, said):
    assert said in refused(base)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ("florp", "unknown kind 'florp'; kinds: "),
        ("malloc", "--layer malloc: malloc is a base and no layer"),
        ("passthru,colour=red", "passthru: unknown key 'colour'; keys: name, uuid"),
        ("passthru,name=Malloc0", "'Malloc0'"),
        ("passthru,base_bdev_name=Other", "base_bdev_name"),
        ("", "unknown kind ''"),
        ("zone_block", "zone_block: zone_capacity: required, and missing"),
        ("zone_block,zone_capacity=8,optimal_open_zones=x", "optimal_open_zones: 'x' is no size"),
    ],
)
def test_bad_layer(refused, layer, said):
    assert said in refused(MALLOC, "--layer", layer)


def test_layer_without_base(refused):
    assert "--layer needs a BASE to stand on" in refused("--layer", "passthru")


def test_usage(refused):
    assert "invalid choice: 'loud'" in refused(MALLOC, "--log-level", "loud", status=2)
    assert "unrecognized arguments: --florp" in refused(MALLOC, "--florp", status=2)


# Modules of one's own


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("class :\n", "SyntaxError"),
        ("raise OSError('no luck')\n", "OSError: no luck"),
        ("import florp\n", "No module named 'florp'"),
        ("x = 1\n", "defines no subclass of Bdev or VirtualBdev"),
        ("from vbdev.bdev import Bdev\nclass A(Bdev): pass\n", "kind is None; give it a name"),
        (
            "from vbdev.bdev import Bdev\nclass A(Bdev):\n    kind = 'malloc'\n",
            "module kind 'malloc' of ",
        ),
    ],
)
def test_broken_module(refused, tmp_path, source, said):
    path = tmp_path / "mine.py"
    path.write_text(source)
    message = refused(MALLOC, "--module", path)
    assert said in message
    assert "mine" in message


def test_missing_module(refused):
    assert "module file absent.py: no such file" in refused(MALLOC, "--module", "absent.py")


# Addresses


@pytest.mark.parametrize("address", ["v.sock", "tcp:127.0.0.1", "tcp:127.0.0.1:99999", "unix:"])
def test_no_address(refused, address):
    assert address in refused(MALLOC, "--nbd", address, nbd=False)


def test_tcp_address_in_use(refused):
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"tcp:127.0.0.1:{other.getsockname()[1]}"
        assert f"{address}: Address already in use" in refused(MALLOC, "--nbd", address)


def test_live_sockets_are_refused(serve, refused):
    daemon = serve(MALLOC)
    message = refused(MALLOC, "--nbd", f"unix:{daemon.socket}", nbd=False)
    assert f"{daemon.socket}: address in use by a living server (process {daemon.pid})" in message
    message = refused(MALLOC, "--rpc-socket", daemon.rpc_socket)
    assert f"{daemon.rpc_socket}: address in use by a living server" in message
    with NbdClient(daemon.socket) as client:
        assert client.read(0, 512) == bytes(512)


def test_second_daemon_finds_out_before_it_touches_a_file(serve, refused, tmp_path):
    """The RPC socket comes first: with the same one, the file is not even opened."""
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    daemon = serve(path)
    assert "address in use" in refused(path, "--rpc-socket", daemon.rpc_socket)
    assert "another program has it" in refused(path)


def test_file_in_a_sockets_place(refused, tmp_path):
    path = tmp_path / "precious"
    path.write_text("data")
    message = refused(MALLOC, "--nbd", f"unix:{path}", nbd=False)
    assert f"{path}: there is a file, and it is no socket" in message
    assert path.read_text() == "data"
