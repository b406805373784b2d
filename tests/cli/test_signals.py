"""Signals, in each phase of a daemon: none is lost, none runs the stop twice, none kills.

Method: daemons as a user starts them. Signals that come together are sent from a shell's builtin or
one system call behind the other, as timeout(1) does.
"""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from vbdev.client import Client
from vbdev.daemon import signals
from vbdev.daemon.signals import SAME_WISH_S, STOP_SIGNALS, Signals, ignore_signals
from vbdev.reactor.reactor import Reactor

WAIT_S = 20


@pytest.fixture
def daemon(tmp_path):
    """Return a function that starts a daemon in a folder of its own; all end with the test."""
    processes = []

    def start(*words, wrapper=(), ready=True):
        path = tmp_path / "r.sock"
        line = [*wrapper, sys.executable, "-m", "vbdev", *words, "--rpc-socket", path]
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(line, cwd=tmp_path, stdout=log, stderr=log)
        processes.append(process)
        if ready:
            with Client.connect(str(path)) as client:
                client.call("spdk_get_version")
        else:
            wait_until(path.exists)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


def wait_until(condition):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("number", STOP_SIGNALS)
@pytest.mark.parametrize("command", ["serve", "spdk-tgt"])
def test_twice_within_milliseconds(daemon, tmp_path, command, number):
    process = daemon(command)
    process.send_signal(number)
    process.send_signal(number)
    time.sleep(0.002)
    process.send_signal(number)
    assert process.wait(WAIT_S) == 0
    assert not list(tmp_path.glob("*.sock*"))
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("numbers", [[signal.SIGTERM], [signal.SIGHUP, signal.SIGTERM]])
def test_again_and_again_until_it_has_ended(daemon, numbers):
    """As its process ends, too: a handler of Python's is gone before that has."""
    process = daemon("serve", "malloc:1MiB", "--nbd", "unix:n.sock", "--reactors", "2")
    while process.poll() is None:
        for number in numbers:
            process.send_signal(number)
        time.sleep(0.0005)
    assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_timeout_sends_each_twice(daemon, number):
    words = ["timeout", "--preserve-status", "-s", str(int(number)), "60"]
    process = daemon("serve", "malloc:1MiB", wrapper=words)
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT_S) == 0


def test_what_has_no_meaning_ends_nothing(daemon, tmp_path):
    process = daemon("serve")
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE):
        process.send_signal(number)
    wait_until(lambda: "SIGUSR2 has no meaning here" in (tmp_path / "log").read_text())
    with Client(str(tmp_path / "r.sock")) as client:
        assert client.call("spdk_get_version")
    process.terminate()
    assert process.wait(WAIT_S) == 0
    assert "SIGUSR1 has no meaning here" in (tmp_path / "log").read_text()


def test_nohup(daemon):
    process = daemon("serve", wrapper=["nohup"])
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None
    process.terminate()
    assert process.wait(WAIT_S) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_while_a_bdev_is_made(daemon, tmp_path, number):
    """Of a server that never greets."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "server"))
        server.listen(5)
        process = daemon("serve", f"nbd+unix:///?socket={tmp_path}/server", ready=False)
        server.settimeout(WAIT_S)
        connection, _ = server.accept()
        time.sleep(0.2)
        process.send_signal(number)
        assert process.wait(8) in (0, 1)
        connection.close()
    assert not (tmp_path / "r.sock").exists()
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_demo_leaves_nothing_running(tmp_path):
    """Its daemon ends with it, and its directory goes."""
    words = [sys.executable, "-m", "vbdev", "demo", "--client", "own"]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(tmp_path)}
    ) as process:
        for line in process.stdout:
            if "answered after" in line:
                break
        daemon, *_ = children(process.pid)
        process.terminate()
        assert process.wait(WAIT_S) == 128 + signal.SIGTERM
        wait_until(lambda: not is_alive(daemon))
        process.stdout.read()
    assert not list(tmp_path.iterdir())


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:  # noqa: PTH123 - of the kernel's
        return [int(word) for word in file.read().split()]


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# The rules, by hand


@pytest.fixture
def told(monkeypatch):
    """Return what signals have called, on a clock that a test sets; handlers are put back."""
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    reactor = Reactor()
    calls = []
    caught = Signals(
        reactor, lambda n: calls.append(("stop", n)), lambda n: calls.append(("hurry", n))
    )
    now = [100.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    caught.catch()
    yield calls, now, caught
    caught.release()
    reactor.close()
    for number in (*STOP_SIGNALS, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, before[number])
    assert signal.set_wakeup_fd(-1) == -1


def test_a_stop_is_asked_for_once(told):
    calls, now, _ = told
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT):
        signal.raise_signal(number)
        now[0] += 10
    assert calls == [("stop", signal.SIGTERM)]


def test_an_interrupt_behind_it_hurries(told):
    calls, now, _ = told
    signal.raise_signal(signal.SIGINT)
    for _ in range(3):  # each as soon behind the last one
        now[0] += SAME_WISH_S / 2
        signal.raise_signal(signal.SIGINT)
    assert calls == [("stop", signal.SIGINT)]
    now[0] += SAME_WISH_S
    signal.raise_signal(signal.SIGTERM)
    assert calls == [("stop", signal.SIGINT)]
    signal.raise_signal(signal.SIGINT)
    assert calls == [("stop", signal.SIGINT), ("hurry", signal.SIGINT)]


def test_at_the_end_all_are_ignored(told):
    ignore_signals()
    for number in (*STOP_SIGNALS, signal.SIGUSR1, signal.SIGUSR2):
        assert signal.getsignal(number) is signal.SIG_IGN
    assert told[0] == []
