"""What was acknowledged as stable is there after a crash, and stability is more than a promise.

Method: a writer stamps blocks of a file-backed disk with growing numbers, through FUA writes, or
through writes that a FLUSH then covers, and notes what was acknowledged. The daemon is killed in
the middle, started again, and no block may be older than its acknowledgement.

SIGKILL leaves the page cache alone, so that alone proves little. The second half therefore looks
at the system calls (strace, with threads instead of io_uring): data reach the disk before the
reply to a FLUSH, or to a FUA write, is sent.
"""

import random
import re
import struct
import threading
import time
from pathlib import Path

import pytest

from support.clients import requires
from support.nbd_client import NbdClient
from vbdev.vocab import NbdError
from vbdev.wire.nbd import Command, CommandFlag, TransmissionFlag

pytestmark = pytest.mark.client

BLOCK = 4096
NUM_BLOCKS = 256
DEPTH = 16
STAMP = struct.Struct(">QQ")


@pytest.fixture
def disk(tmp_path):
    """Return a file of NUM_BLOCKS blocks."""
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(NUM_BLOCKS * BLOCK))
    return path


class Writer(threading.Thread):
    """Writes stamps until the daemon dies. `stable[block]` is the newest acknowledged stamp."""

    def __init__(self, client, seed, first_stamp, *, fua):
        super().__init__()
        self.client = client
        self.random = random.Random(seed)
        self.fua = fua
        self.stamp = first_stamp
        self.stable = {}
        self.sent = {}

    def run(self):
        try:
            while True:
                self._round()
        except (ConnectionError, BrokenPipeError):
            pass

    def _round(self):
        """Write a few blocks at once; with a FLUSH when all of them are acknowledged."""
        client, messages, written = self.client, [], {}
        for block in self.random.sample(range(NUM_BLOCKS), DEPTH):
            self.stamp += 1
            written[block] = self.sent[block] = self.stamp
            data = STAMP.pack(block, self.stamp) * (BLOCK // STAMP.size)
            flags = CommandFlag.FUA if self.fua else 0
            messages.append(client.message(Command.WRITE, block * BLOCK, 0, flags, data))
        client.send(b"".join(messages))
        replies = client.wait_all()
        assert all(reply.error is NbdError.OK for reply in replies.values())
        if not self.fua:
            client.flush()
        self.stable.update(written)


@pytest.mark.parametrize("fua", [True, False], ids=["fua", "flush"])
@pytest.mark.parametrize("environment", [{}, {"VBDEV_NO_IO_URING": "1"}], ids=["ring", "threads"])
def test_kill_under_load(serve, disk, fua, environment):
    seed = 20 + fua
    daemon = serve(disk, "--layer", "passthru", env=environment)
    stable, sent, stamp, delay = {}, {}, 0, random.Random(seed)
    for _ in range(4):
        with NbdClient(daemon.socket) as client:
            writer = Writer(client, seed, stamp, fua=fua)
            writer.start()
            time.sleep(delay.uniform(0.02, 0.25))
            daemon.kill()
            writer.join(10)
            assert not writer.is_alive()
            assert writer.stable, "nothing was acknowledged before the kill"
        stable.update(writer.stable)
        sent.update(writer.sent)
        stamp = writer.stamp
        daemon.start()  # on the same sockets, whose files the crash has left
        with NbdClient(daemon.socket) as client:
            check(client.read(0, NUM_BLOCKS * BLOCK), stable, sent)


def check(data, stable, sent):
    """Each block holds one stamp (no older than what is stable, no newer than what was sent)."""
    for block in range(NUM_BLOCKS):
        content = data[block * BLOCK : (block + 1) * BLOCK]
        number, stamp = STAMP.unpack_from(content)
        assert stable.get(block, 0) <= stamp <= sent.get(block, 0), f"block {block}"
        if stamp:
            assert number == block
        # A page of the cache is not torn by SIGKILL.
        assert content == content[: STAMP.size] * (BLOCK // STAMP.size), f"block {block} is torn"


# System calls


class Trace:
    """Runs a daemon under strace; `between` gives the calls from one write to its reply."""

    def __init__(self, serve, disk, tmp_path, *, direct):
        requires("strace")
        self.file = tmp_path / "trace"
        calls = "trace=fdatasync,fsync,sync_file_range,pwritev2,pwritev,sendmsg,recvmsg,fallocate"
        # %fd shows what a descriptor is; whole structures would take their time.
        wrapper = ["strace", "-f", "-y", "-s", "0", "-e", calls, "-o", str(self.file)]
        self.daemon = serve(
            f"uring:{disk},direct={direct}", wrapper=wrapper, env={"VBDEV_NO_IO_URING": "1"}
        )
        self.seen = 0

    def calls(self):
        """Return (call, line) of those that have ended since the last time, in order."""
        lines = self.file.read_text().rpartition("\n")[0].splitlines()  # whole ones
        new, self.seen = lines[self.seen :], len(lines)
        found = []
        for line in new:
            if "<unfinished" in line:
                continue  # counts where it is resumed, with its result
            name = re.search(r"(\w+)(?:\(| resumed>)", line)
            if name and "= -1" not in line:
                found.append((name.group(1), line))
        return found

    def until_reply(self, act):
        """Do something with one reply, and return the calls that came before that was sent."""
        time.sleep(0.05)
        self.calls()
        act()
        names, deadline = [], time.monotonic() + 5
        while "sendmsg" not in [name for name, _ in names]:
            assert time.monotonic() < deadline, f"no reply in the trace: {names}"
            names += self.calls()
            time.sleep(0.005)
        end = [name for name, _ in names].index("sendmsg")
        return names[:end]


def names(calls):
    return [name for name, _ in calls]


@pytest.mark.parametrize("direct", ["false", "true"])
def test_flush_is_an_fdatasync_before_the_reply(serve, disk, tmp_path, direct):
    trace = Trace(serve, disk, tmp_path, direct=direct)
    with NbdClient(trace.daemon.socket) as client:
        write = trace.until_reply(lambda: client.write(0, b"\x01" * BLOCK))
        assert "fdatasync" not in names(write)
        flush = trace.until_reply(client.flush)
        assert names(flush)[-1:] == ["fdatasync"]
        again = trace.until_reply(client.flush)
        assert "fdatasync" in names(again), (
            "a FLUSH is one whether there is anything to sync or not"
        )


def test_fua_write_around_the_cache_is_dsync(serve, disk, tmp_path):
    trace = Trace(serve, disk, tmp_path, direct="true")
    with NbdClient(trace.daemon.socket) as client:
        assert TransmissionFlag.SEND_FUA in client.flags
        calls = trace.until_reply(lambda: client.write(0, b"\x02" * BLOCK, CommandFlag.FUA))
        (line,) = [line for name, line in calls if name == "pwritev2"]
        assert "RWF_DSYNC" in line or "resumed" in line
        assert f"= {BLOCK}" in line
        assert "RWF_DSYNC" in trace.file.read_text()


def test_fua_write_through_the_cache_is_followed_by_fdatasync(serve, disk, tmp_path):
    trace = Trace(serve, disk, tmp_path, direct="false")
    with NbdClient(trace.daemon.socket) as client:
        calls = trace.until_reply(lambda: client.write(0, b"\x03" * BLOCK, CommandFlag.FUA))
        order = [name for name in names(calls) if name in ("pwritev", "pwritev2", "fdatasync")]
        assert order[0].startswith("pwritev")
        assert order[-1] == "fdatasync"


@pytest.mark.parametrize("command", [Command.TRIM, Command.WRITE_ZEROES])
def test_fua_of_zeroes_is_followed_by_fdatasync(serve, disk, tmp_path, command):
    trace = Trace(serve, disk, tmp_path, direct="true")
    with NbdClient(trace.daemon.socket) as client:
        client.write(0, b"\x04" * BLOCK)
        calls = trace.until_reply(lambda: client.ask(command, 0, BLOCK, CommandFlag.FUA))
        order = [name for name in names(calls) if name in ("fallocate", "fdatasync")]
        assert order == ["fallocate", "fdatasync"]


def test_orderly_end_is_stable_too(serve, disk, tmp_path):
    """Nobody flushed: the daemon does, before it closes the file."""
    trace = Trace(serve, disk, tmp_path, direct="false")
    with NbdClient(trace.daemon.socket) as client:
        client.write(0, b"\x05" * BLOCK)
        client.disconnect()
    trace.calls()
    trace.daemon.stop()
    assert "fdatasync" in names(trace.calls())
    assert disk.read_bytes()[:BLOCK] == b"\x05" * BLOCK


def test_kill_leaves_no_lock(serve, disk):
    """The lock ends with the crash; the sockets' files do not, and are taken over."""
    daemon = serve(disk)
    daemon.kill()
    assert Path(daemon.socket).exists()
    daemon.start()
    with NbdClient(daemon.socket) as client:
        assert client.size == NUM_BLOCKS * BLOCK
