"""`vbdev crash verify` as a person calls it."""

import json
import subprocess
import sys

from support.sample_logs import unpack


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
