"""vbdev.testing.daemon: a daemon serves when `start` returns, and is gone whatever happens."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vbdev.testing.daemon import Daemon, DaemonError

NULL = {"method": "bdev_null_create", "params": {"name": "N", "num_blocks": 8, "block_size": 512}}


def is_there(pid):
    """Tell whether a process runs (and is no zombie)."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def wait_gone(pid, timeout_s=10):
    deadline = time.monotonic() + timeout_s
    while is_there(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.01)


def test_in_a_directory_of_its_own():
    with Daemon("-m", "0x1", config={"subsystems": [{"subsystem": "bdev", "config": [NULL]}]}) as d:
        assert [bdev["name"] for bdev in d.client.call("bdev_get_bdevs")] == ["N"]
        assert d.is_running
        assert d.exit_status is None
        assert d.directory.stat().st_mode & 0o077 == 0
    assert not d.is_running
    assert d.exit_status == 0
    assert not d.directory.exists()
    assert not is_there(d.pid)
    d.close()


def test_again_after_its_end(tmp_path):
    """Also after a crash, which leaves its socket."""
    daemon = Daemon(directory=tmp_path, command="serve")
    pids = set()
    for end in (daemon.stop, daemon.kill, daemon.close):
        daemon.start()
        pids.add(daemon.pid)
        assert daemon.client.call("bdev_get_bdevs") == []
        end()
        end()
        assert not daemon.is_running
    assert len(pids) == 3
    assert tmp_path.exists()


def test_started_twice(tmp_path):
    with (
        Daemon(directory=tmp_path) as daemon,
        pytest.raises(DaemonError, match=f"runs already.*pid {daemon.pid}"),
    ):
        daemon.start()


def test_does_not_start(tmp_path):
    daemon = Daemon("-m", "nonsense", directory=tmp_path)
    with pytest.raises(DaemonError, match=r"(?s)status 1 before it served.*is no set of CPUs"):
        daemon.start()
    daemon.close()


def test_never_serves(tmp_path):
    """What hangs at the start is killed, with what it has started itself."""
    child = tmp_path / "child"
    script = f"sleep 60 & echo $! >{child}; wait"
    daemon = Daemon(directory=tmp_path, wrapper=["sh", "-c", script], start_timeout_s=2)
    with pytest.raises(DaemonError, match=r"does not serve after 2 s"):
        daemon.start()
    assert not daemon.is_running
    wait_gone(int(child.read_text()))
    daemon.close()


def test_interrupted_start(tmp_path, monkeypatch):
    def interrupt(_seconds):
        raise KeyboardInterrupt

    daemon = Daemon(directory=tmp_path)
    monkeypatch.setattr("vbdev.testing.daemon.time.sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        daemon.start()
    assert not is_there(daemon.pid)


def test_hangs_at_the_end(tmp_path):
    daemon = Daemon(directory=tmp_path, stop_timeout_s=0.3)
    daemon.start()
    os.kill(daemon.pid, signal.SIGSTOP)
    with pytest.raises(DaemonError, match=r"ran on for 0\.3 s after SIGTERM, and was killed"):
        daemon.stop()
    assert not is_there(daemon.pid)
    daemon.close()


def test_ends_by_itself(tmp_path):
    daemon = Daemon(directory=tmp_path)
    daemon.start()
    os.kill(daemon.pid, signal.SIGKILL)
    wait_gone(daemon.pid)
    with pytest.raises(DaemonError, match="ended by itself, with status -9"):
        daemon.close()
    daemon.close()


def test_an_end_that_is_waited_for(tmp_path):
    with Daemon(directory=tmp_path) as daemon:
        with pytest.raises(DaemonError, match=r"still runs after 0\.1 s"):
            daemon.wait(0.1)
        daemon.client.call("spdk_kill_instance", sig_name="SIGKILL")
        assert daemon.wait() == -signal.SIGKILL


def test_a_path_that_is_too_long(tmp_path):
    directory = tmp_path / ("x" * 100)
    directory.mkdir()
    with pytest.raises(ValueError, match="too long a path"):
        Daemon(directory=directory)


def test_it_has_to_serve_rpc(tmp_path):
    with pytest.raises(ValueError, match="--no-rpc-server"):
        Daemon("--no-rpc-server", directory=tmp_path)


def test_a_long_temporary_directory(tmp_path, monkeypatch):
    directory = tmp_path / ("x" * 100)
    directory.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(directory))
    with Daemon() as daemon:
        assert daemon.client.call("bdev_get_bdevs") == []


STARTER = """
import os, subprocess, sys, threading, time
from vbdev.testing.daemon import Daemon

daemon = Daemon(directory={directory!r})
thread = threading.Thread(target=daemon.start)  # which ends: the daemon is the process's
thread.start()
thread.join()
other = subprocess.Popen(["sleep", "60"], close_fds=False)  # it has no hold on the daemon
print(daemon.pid, other.pid, flush=True)
time.sleep(60)
"""


def test_ends_with_who_started_it(tmp_path):
    """SIGKILL gives nobody the time to clean up, and other children live on."""
    words = [sys.executable, "-c", STARTER.format(directory=str(tmp_path))]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as starter:
        pid, other = map(int, starter.stdout.readline().split())
        try:
            time.sleep(0.2)
            assert is_there(pid)
            starter.kill()
            starter.wait()
            wait_gone(pid)
            assert is_there(other)
        finally:
            os.kill(other, signal.SIGKILL)
