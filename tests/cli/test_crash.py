"""`vbdev crash` as a person calls it."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from support.sample_logs import unpack
from vbdev.crash.log import LogWriter
from vbdev.wire.log_writes import LogEntry, LogFlag


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
    return done.stdout + done.stderr


def test_verify(tmp_path):
    log, image = unpack("kernel-512.log", tmp_path), tmp_path / "disk"
    vbdev("log", "replay", log, image, "--create", "1MiB", "--until", "after-flush")
    at_the_mark = ("crash", "verify", log, image, "--until", "after-flush")
    assert vbdev(*at_the_mark).startswith("legal: ")
    said = vbdev("crash", "verify", log, image, expect=1).splitlines()
    assert said[0] == (
        "sector 32 (byte 16384): holds what was there before the log, and a later version is"
        " durable; it may hold entry 6 or entry 7"
    )
    assert said[-1].startswith("not legal: ")
    assert len(said) == 17
    with image.open("r+b") as file:
        file.seek(512)
        file.write(b"?")
    (first, last) = vbdev(*at_the_mark, expect=1).splitlines()
    assert first == "sector 1 (byte 512): holds what was never there; it may hold entry 2"
    assert last == "not legal: 1 sectors"
    told = json.loads(vbdev(*at_the_mark, "--json", expect=1))
    assert told == {
        "legal": False,
        "illegal_sectors": [{"sector": 1, "offset": 512, "holds": None, "allowed": [2]}],
    }


def test_refusals(tmp_path):
    log, image = unpack("kernel-512.log", tmp_path), tmp_path / "disk"
    assert f"{image}: No such file or directory" in vbdev("crash", "verify", log, image, expect=1)
    image.write_bytes(bytes(512))
    assert "and " in (said := vbdev("crash", "verify", log, image, expect=1))
    assert "vbdev crash verify: " in said
    assert "is of a disk of 204800 bytes or more" in said
    assert "required" in vbdev("crash", expect=2)


CHECK = 'sh -c \'test "$VBDEV_MARK" != ack-3 || grep -qa "record 3" {disk}\''


@pytest.fixture
def forgetful(tmp_path):
    """The log of a program that says that it has a record which it has not flushed."""
    path = tmp_path / "log"
    with LogWriter(str(path), 512) as writer:
        for number in range(4):
            writer.append(LogEntry(number, 1, LogFlag(0)))
            writer.write(f"record {number}".encode().ljust(512, b"\0"))
            if number < 3:
                writer.append(LogEntry(0, 0, LogFlag.FLUSH))
            writer.append(LogEntry(0, 0, LogFlag.MARK, f"ack-{number}".encode()))
    return path


def test_explore_and_make(forgetful, tmp_path):
    words = ("crash", "explore", forgetful, "--size", "1MiB", "--check", CHECK)
    lines = vbdev(*words, expect=1).splitlines()
    assert lines[0] == "cut behind entry 10, mark 'ack-3': the check ended with 1"
    assert lines[1] == "  where these sectors are lost: 3=base"
    assert lines[-1].endswith("different disks checked: 1 fail")
    again = lines[2].split()[1:]
    image = tmp_path / "image"
    vbdev(*(str(image) if word == "IMAGE" else word for word in again))
    assert image.stat().st_size == 1 << 20
    assert image.read_bytes().count(b"record") == 3
    assert vbdev("crash", "verify", forgetful, image).startswith("legal")
    told = json.loads(vbdev(*words, "--json", "--jobs", "1", expect=1))
    (failure,) = told["failures"]
    assert (failure["until"], failure["mark"], failure["status"]) == (11, "ack-3", 1)
    assert failure["small"]["lost"] == ["3=base"]
    assert (told["failed"], told["interrupted"]) == (1, False)
    assert vbdev(*words, "--until", "ack-2").endswith("checked: 0 fail\n")


def test_what_a_check_says_is_told_and_harmless(forgetful):
    said = vbdev(
        *("crash", "explore", forgetful, "--size", "1MiB", "--no-shrink"),
        *("--check", "sh -c 'printf \"\\033[2Jlost\\n\"; exit 3'"),
        expect=1,
    )
    assert "the check ended with 3" in said
    assert "lost" in said
    assert "\x1b" not in said


def test_an_interruption_tells_what_was_found(forgetful, tmp_path):
    words = ["--size", "1MiB", "--check", f"sh -c 'touch {tmp_path}/began; sleep 60'"]
    process = subprocess.Popen(
        [sys.executable, "-m", "vbdev", "crash", "explore", str(forgetful), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    while not (tmp_path / "began").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.endswith("0 fail, interrupted\n")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["began", "log"]


def test_explore_refuses(forgetful, tmp_path):
    def refused(*words, expect=1):
        return vbdev("crash", *words, expect=expect)

    size = ("--size", "1MiB")
    explore = ("explore", forgetful, *size, "--check")
    assert "no/such: No such file or directory" in refused(*explore, "no/such")
    assert "a check needs a command" in refused(*explore, "")
    assert "1536 bytes or more" in refused(
        "explore", forgetful, "--size", "1024", "--check", "true"
    )
    assert "one of the arguments --base --size" in refused(
        "explore", forgetful, "--check", "true", expect=2
    )
    make = ("make", forgetful, tmp_path / "image", *size)
    assert "sector 3 can not have what entry 2 wrote" in refused(*make, "--lost", "3=2")
    assert "'3' is no SECTOR=ENTRY" in refused(*make, "--lost", "3", expect=2)
    assert not (tmp_path / "image").exists()
    (tmp_path / "image").write_bytes(b"somebody's")
    assert "File exists" in refused(*make)
    assert (tmp_path / "image").read_bytes() == b"somebody's"
