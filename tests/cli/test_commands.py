"""`vbdev rpc`, `ls`, `bench` and `demo` as a person calls them."""

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vbdev import __version__
from vbdev.cli import main

CONFIG = """{"subsystems": [{"subsystem": "bdev", "config": [{"method": "bdev_null_create",
"params": {"name": "N", "num_blocks": 8, "block_size": 512}}]}]}"""
EXAMPLES = Path(__file__).parents[2] / "examples"


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


@pytest.mark.parametrize("command", ["rpc", "ls"])
def test_no_daemon(tmp_path, command):
    words = ["spdk_get_version"] if command == "rpc" else []
    done = vbdev(command, "-s", tmp_path / "none.sock", *words, expect=1)
    assert "no vbdev daemon listens on" in done.stderr
    assert done.stdout == ""


def test_ls_of_nothing_is_nothing(serve):
    assert vbdev("ls", "-s", serve().rpc_socket).stdout == ""


def test_rpc_wants_key_value(tmp_path):
    done = vbdev("rpc", "-s", tmp_path / "none.sock", "spdk_get_version", "name", expect=2)
    assert "'name' is not key=value" in done.stderr


@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "inf", "1e300", "soon"])
def test_rpc_wants_a_time_to_wait(tmp_path, timeout):
    words = ["rpc", "-s", tmp_path / "none.sock", f"--timeout={timeout}", "spdk_get_version"]
    done = vbdev(*words, expect=2)
    assert f"argument --timeout: {timeout!r} is no number of seconds above 0" in done.stderr


@pytest.mark.parametrize("words", [["\udcff"], ["bdev_get_bdevs", "name=\udcff"]])
def test_rpc_wants_utf_8(tmp_path, words):
    done = vbdev("rpc", "-s", tmp_path / "none.sock", *words, expect=2)
    assert done.stderr == f"vbdev rpc: {words[-1]!r} is not UTF-8\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_told_in_a_line(tmp_path, unbuffered):
    (tmp_path / "c.json").write_text(CONFIG)
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "vbdev", "config", "check", tmp_path / "c.json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "vbdev config: output: No space left on device\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_whoever_has_seen_enough_is_no_reason_to_complain(tmp_path, unbuffered):
    (tmp_path / "c.json").write_text(CONFIG)
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "vbdev", "config", "check", tmp_path / "c.json"],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            timeout=60,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_an_unknown_option_is_told_with_the_usage_of_its_command():
    done = vbdev("ls", "--nonsense", expect=2)
    assert done.stderr.startswith("usage: vbdev ls [-h]")
    assert done.stderr.endswith("vbdev ls: error: unrecognized arguments: --nonsense\n")


def test_an_interrupt_while_a_command_is_imported_is_no_traceback(monkeypatch):
    def interrupted(_name):
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib, "import_module", interrupted)
    assert main(["ls"]) == 130


def test_wrong_usage():
    assert "invalid choice" in vbdev("nonsense", expect=2).stderr
    assert "BASE" in vbdev("bench", expect=2).stderr


def test_bench_json():
    done = vbdev("bench", "null:1TiB", "--layer", "passthru", "-n", "20000", "-q", "32", "--json")
    result = json.loads(done.stdout)
    assert list(result)[:5] == ["iops", "mib_per_s", "latency_us", "batch_mean", "ios"]
    assert list(result["latency_us"]) == ["mean", "p50", "p99", "p99_9"]
    assert result["ios"] == 20000
    assert result["batch_mean"] > 16


def test_bench_for_a_person():
    done = vbdev("bench", "malloc:16MiB", "-w", "rw", "-n", "1000", "-o", "8KiB")
    assert "rw, 8192 B, queue depth 32" in done.stdout
    assert "p99.9" in done.stdout


PLAIN = """
from vbdev.bdev import VirtualBdev


class Plain(VirtualBdev):
    kind = product_name = "plain"

    def submit(self, channel, ios):
        channel.base.submit(ios)
"""
DELAYS = ",".join(f"{p}_{rw}_latency=1" for p in ("avg", "p99") for rw in ("read", "write"))


@pytest.mark.parametrize(
    "layer",
    ["passthru", f"delay,{DELAYS}", "error", "zone_block,zone_capacity=1Ki,optimal_open_zones=4"],
)
def test_every_layer_can_be_asked_for(layer):
    """Their parameters come as words, and have bounds that are not words'."""
    done = vbdev("bench", "malloc:1MiB", "--layer", layer, "-n", "100", "-q", "4", "--json")
    assert json.loads(done.stdout)["ios"] >= 100


@pytest.mark.parametrize(
    ("words", "loaded"),
    [
        (["--layer", "passthru"], False),
        (["--layer", "error"], True),
        (["--layer", f"delay,{DELAYS}"], True),
        (["--module", "plain.py", "--layer", "plain"], True),
    ],
)
def test_columns_are_there_before_the_first_io(words, loaded, tmp_path):
    """What they are made of takes 0.1 s to import: too long for a reactor that serves others."""
    (tmp_path / "plain.py").write_text(PLAIN)
    program = (
        "import sys; from vbdev.cli import main; main(sys.argv[1:]); print('numpy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "bench", "null:1GiB", *words, "-n", "1", "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )
    assert done.stdout.splitlines()[-1] == str(loaded), done.stderr


def test_bench_needs_what_the_bdev_has():
    done = vbdev("bench", "null:1GiB", "-w", "flush", "-n", "1", expect=1)
    assert "FLUSH" in done.stderr


@pytest.mark.parametrize("size", ["1000", "3MiB"])
def test_bench_size_has_to_fit(size):
    done = vbdev("bench", "malloc:1MiB", "-o", size, "-n", "1", expect=1)
    assert size[0] in done.stderr


def test_example_xor_keeps_data():
    xor = ["--module", EXAMPLES / "xor.py", "--layer", "xor,key=0x5a"]
    done = vbdev("bench", "malloc:8MiB", *xor, "-w", "verify", "-n", "20000", "--json")
    assert json.loads(done.stdout)["errors"] == 0


def test_example_xor_changes_what_is_stored(tmp_path):
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    xor = ["--module", EXAMPLES / "xor.py", "--layer", "xor,key=0x5a"]
    done = vbdev("bench", disk, *xor, "-w", "read", "-o", "4096", "-n", "256", "--json")
    assert json.loads(done.stdout)["ios"] == 256
    assert disk.read_bytes() == bytes(1 << 20)  # reading through it writes nothing
    vbdev("bench", disk, *xor, "-w", "verify", "-n", "2000")
    assert disk.read_bytes() != bytes(1 << 20)


def test_example_mirror_keeps_data_when_one_half_goes_bad(tmp_path):
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(2 << 20))
    mirror = ["--module", EXAMPLES / "mirror.py", "--layer", "mirror"]
    done = vbdev("bench", disk, *mirror, "-w", "verify", "-n", "4000", "--json")
    assert json.loads(done.stdout)["errors"] == 0
    data = disk.read_bytes()
    assert data[: 1 << 20] == data[1 << 20 :] != bytes(1 << 20)


@pytest.mark.parametrize("example", ["xor", "mirror"])
def test_examples_are_the_tutorials(example):
    tutorial = (EXAMPLES.parent / "docs" / "tutorial.md").read_text()
    body = (EXAMPLES / f"{example}.py").read_text().split('"""\n', 1)[-1].strip()
    assert body in tutorial


@pytest.mark.parametrize("client", ["own"])
def test_demo(client):
    done = vbdev("demo", "--client", client)
    assert "what was read back equals what was written, all 64 MiB" in done.stdout
    assert "the daemon has stopped, exit status 0" in done.stdout


INTERRUPTED = """
import os, runpy, signal, sys
class Interrupt:
    def find_spec(name, *_more):
        if name == "vbdev.cli.talk":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt)
sys.argv[:] = ["vbdev", "--version"]
runpy.run_module("vbdev", run_name="__main__")
"""


@pytest.mark.parametrize("ignored", [False, True])
def test_an_interrupt_while_it_is_imported(ignored):
    """As of a program in C; nohup(1) and shells ignore it for what runs in the background."""
    trap = "trap '' INT; " if ignored else ""
    ended = subprocess.run(
        ["sh", "-c", f'{trap}exec "$@"', "sh", sys.executable, "-c", INTERRUPTED],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    status, output = (0, f"vbdev {__version__}\n") if ignored else (-signal.SIGINT, "")
    assert (ended.returncode, ended.stdout, ended.stderr) == (status, output, "")
