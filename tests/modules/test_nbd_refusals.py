"""An nbd bdev on a server that refuses what it offers: nbdkit, with filters and a plugin that do.

Method: as in test_nbd.py, a stack in this process on the real clock and a server of its own. What
each refusal becomes on the wire is in tests/core/test_nbd_refusals.py.
"""

import contextlib
import logging
import os
import socket
import subprocess
import time

import pytest

from support.clients import find, requires
from vbdev.modules.nbd.disk import Nbd
from vbdev.testing import Stack
from vbdev.vocab import IoFlag, Op, Status

KIB, MIB = 1 << 10, 1 << 20
SIZE = 4 * MIB


@pytest.fixture
def serve(tmp_path):
    """Start nbdkit with these words; return a stack that has it as bdev N0."""
    requires("nbdkit")
    stacks, processes = [], []
    # A sanitizer that is preloaded here would judge the shells and tools of its scripts.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}

    def start(*words, **params):
        path = tmp_path / f"{len(processes)}.sock"
        words = [find("nbdkit"), "-f", "-U", path, *map(str, words)]
        processes.append(subprocess.Popen(words, env=environment))
        until = time.monotonic() + 10
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(path))
                break
            assert processes[-1].poll() is None
            time.sleep(0.01)
        stacks.append(Stack(real_clock=True))
        stacks[-1].create(Nbd, name="N0", uri=f"nbd+unix:///?socket={path}", **params)
        return stacks[-1]

    yield start
    for stack in stacks:
        stack.close()
        assert not stack.errors
    for process in processes:
        process.kill()
        process.wait()


def plugin(file, *, before_write="", flush="exit 0"):
    """Return the words of a plugin that has a file, and does all that it is asked for."""
    at = "iflag=count_bytes,skip_bytes oflag=seek_bytes status=none"
    can = [f"can_{what}=exit 0" for what in ("write", "flush")]
    return [
        "eval",
        f"get_size=stat -c %s {file}",
        *can,
        "can_fua=echo native",
        f"pread=dd if={file} skip=$4 count=$3 {at}",
        f"pwrite={before_write}dd of={file} seek=$4 conv=notrunc {at}",
        f"flush={flush}",
    ]


def read(opened, at, blocks):
    into = bytearray(blocks * 512)
    assert opened.io(Op.READ, at, blocks, into).status == Status.SUCCESS
    return into


@pytest.mark.parametrize("error", ["EINVAL", "EPERM"])
def test_zeroes_and_trims_that_are_refused(serve, caplog, error):
    caplog.set_level(logging.WARNING, logger="vbdev")
    # Without permission an UNMAP fails: only what can not be is passed over.
    stack = serve("--filter=error", "memory", SIZE, f"error-zero={error}", "error-zero-rate=100%",
                  "error-trim=EINVAL", "error-trim-rate=100%")  # fmt: skip
    bdev = stack.registry.get("N0")
    assert {Op.WRITE_ZEROES, Op.UNMAP} <= bdev.ops
    opened = stack.open("N0")
    data = bytearray(b"x" * SIZE)
    assert opened.io(Op.WRITE, 0, SIZE // 512, data).status == Status.SUCCESS
    for flags in (0, IoFlag.NO_HOLE, IoFlag.FUA):
        assert opened.io(Op.WRITE_ZEROES, 3, 4100, flags=flags).status == Status.SUCCESS
    assert read(opened, 2, 4102) == b"x" * 512 + bytes(4100 * 512) + b"x" * 512
    assert opened.io(Op.WRITE_ZEROES, 0, 8, flags=IoFlag.FAST_ZERO).status != Status.SUCCESS
    assert opened.io(Op.UNMAP, 5000, 100).status == Status.SUCCESS
    assert read(opened, 5000, 100) == b"x" * 100 * 512
    assert opened.io(Op.FLUSH, 0, 0).status == Status.SUCCESS
    told = [one.getMessage() for one in caplog.records if "refuses" in one.getMessage()]
    for what in ("refused=WRITE_ZEROES", "refused=TRIM"):
        assert len([text for text in told if text.endswith(what)]) == 1, told


def test_fua_that_is_refused(serve, tmp_path, caplog):
    caplog.set_level(logging.WARNING, logger="vbdev")
    file, calls = tmp_path / "disk", tmp_path / "calls"
    file.write_bytes(bytes(64 * KIB))
    stack = serve(
        *plugin(
            file,
            before_write=f"echo write $5 >> {calls}; case $5 in"
            " *fua*) cat > /dev/null; echo EINVAL no >&2; exit 1 ;; esac; ",
            flush=f"echo flush >> {calls}",
        )
    )
    opened = stack.open("N0")
    for n in range(3):
        data = bytearray(bytes([n + 1]) * 512)
        assert opened.io(Op.WRITE, n, 1, data, flags=IoFlag.FUA).status == Status.SUCCESS
    assert calls.read_text().split("\n")[:-1] == ["write fua", *["write", "flush"] * 3]
    assert file.read_bytes()[:1536] == b"\1" * 512 + b"\2" * 512 + b"\3" * 512
    told = [one.getMessage() for one in caplog.records if "refuses" in one.getMessage()]
    assert [text.rpartition(" ")[2] for text in told] == ["refused=FUA"]


def test_several_connections_that_are_refused(serve, caplog):
    """CAN_MULTI_CONN is offered, and one connection is all that there is."""
    caplog.set_level(logging.WARNING, logger="vbdev")
    stack = serve("--filter=limit", "memory", SIZE, "limit=1", connections=4)
    opened = stack.open("N0")
    data = bytearray(b"y" * 64 * KIB)
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        assert opened.io(Op.WRITE, 8, 128, data).status == Status.SUCCESS
        assert read(opened, 8, 128) == data
        assert opened.io(Op.FLUSH, 0, 0).status == Status.SUCCESS
    told = [one for one in caplog.records if "can not be reached" in one.getMessage()]
    assert len(told) <= 3  # once for each connection that it does not get
