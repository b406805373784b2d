"""System calls that a limit or a sandbox refuses at the start: one line that says so, and status 1.

Method: strace refuses one call of a real process; nothing may be left of it afterwards.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.clients import find, requires

SERVE = ("serve", "malloc:1MiB", "--rpc-socket", "rpc.sock", "--nbd", "unix:nbd.sock")
TARGET = ("spdk-tgt", "-r", "rpc.sock")


def refused(directory, words, call, error, when="1+", **options):
    """Start vbdev with a call refused; return the process."""
    requires("strace")
    inject = f"inject={call}:error={error}:when={when}"
    command = [find("strace"), "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject]
    return subprocess.Popen(
        [*command, sys.executable, "-m", "vbdev", *words],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.parametrize("words", [SERVE, TARGET], ids=["serve", "spdk-tgt"])
@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        ("epoll_create1", "EMFILE", "can not start: epoll_create1: Too many open files"),
        ("eventfd2", "EMFILE", "can not start: eventfd: Too many open files"),
        ("eventfd2", "ENOSYS", "can not start: eventfd: Function not implemented"),
        ("epoll_ctl", "ENOSPC", "can not start: epoll_ctl: No space left on device"),
        ("pipe2", "EMFILE", "can not start: pipe2: Too many open files"),
        ("socket", "EMFILE", "unix:rpc.sock: Too many open files"),
        ("bind", "EACCES", "unix:rpc.sock: Permission denied"),
        ("listen", "EADDRINUSE", "unix:rpc.sock: Address already in use"),
        ("fchmod", "EPERM", "unix:rpc.sock: Operation not permitted"),
    ],
)
def test_what_it_can_not_do_without(tmp_path, words, call, error, said):
    process = refused(tmp_path, words, call, error)
    _, told = process.communicate(timeout=60)
    # SPDK's names begin its log before there is anything to be refused.
    lines = [line for line in told.splitlines() if " NOTICE " not in line and " INFO " not in line]
    assert [line.partition(": ")[2] for line in lines] == [said], told
    assert process.returncode == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("nth", "what"), [(2, "can not start"), (3, "unix:rpc.sock"), (4, "unix:nbd.sock")]
)
def test_a_watch_that_is_refused_later(tmp_path, nth, what):
    """Sockets and their lock are there by then: they go again."""
    process = refused(tmp_path, SERVE, "epoll_ctl", "ENOSPC", str(nth))
    _, told = process.communicate(timeout=60)
    assert told == f"vbdev serve: {what}: epoll_ctl: No space left on device\n"
    assert process.returncode == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("call", "error"),
    [("sched_getaffinity", "EPERM"), ("prlimit64", "EPERM"), ("sched_setaffinity", "EPERM")],
)
def test_what_it_can_do_without(tmp_path, call, error):
    process = refused(tmp_path, SERVE, call, error)
    assert process.stdout.readline().startswith("vbdev ")
    os.kill(_child_of(process.pid), signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert "Traceback" not in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", ["ENOLCK", "EOPNOTSUPP", "ENOSYS"])
def test_a_file_system_without_locks(tmp_path, error):
    """It is told, and whoever listens already is found by connecting."""
    first = refused(tmp_path, SERVE, "flock", error)
    assert first.stdout.readline().startswith("vbdev ")
    second = refused(tmp_path, SERVE, "flock", error)
    _, told = second.communicate(timeout=60)
    assert second.returncode == 1
    assert "address in use by a living server" in told.splitlines()[-1]
    os.kill(_child_of(first.pid), signal.SIGTERM)
    _, told = first.communicate(timeout=60)
    (warning,) = told.splitlines()
    assert "no lock: there are none here" in warning
    assert list(tmp_path.iterdir()) == []


def _child_of(pid):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if words := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            return int(words[0])
    raise AssertionError("no child")


@pytest.mark.parametrize(
    "words", [("serve", "--config", ""), ("spdk-tgt", "-c", "")], ids=["serve", "spdk-tgt"]
)
def test_an_empty_name_of_a_configuration(tmp_path, words):
    done = subprocess.run(
        [sys.executable, "-m", "vbdev", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("the name of the configuration file is empty")


def test_no_memory_for_the_pools(tmp_path):
    done = subprocess.run(
        ["sh", "-c", 'ulimit -v 150000; exec "$@"', "sh", sys.executable, "-m", "vbdev", *SERVE],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert list(tmp_path.iterdir()) == []
