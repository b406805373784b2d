"""`vbdev log` as a person calls it, on logs that others wrote."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.sample_logs import MIB, unpack


def log(*words, expect=0):
    done = subprocess.run(
        [sys.executable, "-m", "vbdev", "log", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == expect, done.stderr
    return done.stdout if expect == 0 else done.stderr


@pytest.fixture
def kernels(tmp_path):
    return unpack("kernel-512.log", tmp_path)


def test_show(kernels):
    lines = log("show", kernels).splitlines()
    assert len(lines) == 18
    assert lines[1].split() == ["1", "mark", "before-flush"]
    assert lines[6].split() == ["6", "write", "fua", "16384", "+4096"]
    assert lines[11].split() == ["11", "discard", "65536", "+16384"]
    assert log("show", kernels, "--until", "before-flush").splitlines() == lines[:2]


def test_show_as_json(kernels):
    told = [json.loads(line) for line in log("show", "--json", kernels).splitlines()]
    assert told[0] == {
        "entry": 0,
        "at": 512,
        "sector": 0,
        "num_sectors": 0,
        "sector_bytes": 512,
        "flags": ["mark"],
        "counted": True,
        "mark": "start",
    }
    assert [one["flags"] for one in told[6:9]] == [["fua"], [], ["flush"]]


def test_verify(kernels, tmp_path):
    assert log("verify", kernels).splitlines() == [
        "sectors of 512 bytes; 18 entries",
        "         1 discard",
        "         4 flush",
        "         6 mark",
        "         6 write",
        "         1 write fua",
        "the disk has 200 KiB or more",
    ]
    stale = unpack("qemu-stale-tail.log", tmp_path)
    assert "30208 bytes behind the last entry are not looked at" in log("verify", stale)


def test_replay_and_trim(kernels, tmp_path):
    image, cut = tmp_path / "disk", tmp_path / "cut.log"
    assert log("replay", kernels, image, "--create", "1MiB", "--until", "m-2") == "16 entries\n"
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    assert (image.stat().st_size, digest[:16]) == (MIB, "4fad06f98f7c2603")
    assert log("trim", kernels, cut, "--until", "mark:m-2") == "16 entries\n"
    assert "16 entries" in log("verify", cut)
    again = tmp_path / "again"
    log("replay", cut, again, "--create", "1MiB")
    assert again.read_bytes() == image.read_bytes()


def test_salvage(tmp_path):
    killed = unpack("qemu-killed.log", tmp_path)
    assert len(log("show", killed).splitlines()) == 7
    lines = log("show", "--salvage", killed).splitlines()
    assert [line.endswith(" (not counted)") for line in lines] == [False] * 7 + [True] * 3
    none = unpack("qemu-no-super.log", tmp_path)
    assert "its writer died before its first super" in log("show", none, expect=1)
    assert len(log("show", "--salvage", "--sector-size", "512", none).splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["show", "none"], "vbdev log show: none: No such file or directory"),
        (["verify", "garbage"], "vbdev log verify: garbage: byte 0: no log of dm-log-writes"),
        (["show", "LOG", "--until", "nowhere"], "has no mark 'nowhere'"),
        (["replay", "LOG", "none"], "none: No such file or directory"),
        (["replay", "LOG", "small"], "ends at byte 4096 of the disk, and small has 1000"),
        (["trim", "LOG", "small"], "small: File exists"),
    ],
)
def test_refusals(kernels, tmp_path, monkeypatch, words, wrong):
    monkeypatch.chdir(tmp_path)
    Path("garbage").write_bytes(b"x" * 4096)
    Path("small").write_bytes(bytes(1000))
    said = log(*(kernels if word == "LOG" else word for word in words), expect=1)
    assert wrong in said
    assert Path("small").read_bytes() == bytes(1000)


def test_wrong_words(kernels):
    assert "'much' is no size" in log("replay", kernels, "disk", "--create", "much", expect=2)
    assert "required" in log(expect=2)
