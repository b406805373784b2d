"""A signal while the start waits for a file or a name: it ends promptly, and in order.

Method: files that are pipes without a writer; names that a stand-in for the resolver does not find.
"""

import os
import signal
import subprocess
import sys
import time

import pytest

WAIT_S = 20
SLOW = """
import socket, sys, time
from vbdev.cli import main
def getaddrinfo(*_args, **_more):
    print("asked", flush=True)
    while True:  # as glibc does after EINTR
        time.sleep(60)
socket.getaddrinfo = getaddrinfo
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "words",
    [
        ["serve", "--json", "pipe"],
        ["spdk-tgt", "-c", "pipe"],
    ],
)
def test_a_file_that_is_not_read(tmp_path, words, number):
    os.mkfifo(tmp_path / "pipe")
    line = [sys.executable, "-m", "vbdev", *words, "--rpc-socket", "r.sock"]
    with subprocess.Popen(line, cwd=tmp_path, stderr=subprocess.PIPE) as process:
        fd = os.open(tmp_path / "pipe", os.O_WRONLY)  # waits until it is being read
        time.sleep(0.2)
        process.send_signal(number)
        assert process.wait(WAIT_S) == 0
        os.close(fd)
        assert b"Traceback" not in process.stderr.read()
    assert not list(tmp_path.glob("*.sock*"))


@pytest.mark.parametrize("words", [["--nbd", "tcp:far.example:0"], ["-r", "tcp:far.example:0"]])
def test_a_name_that_is_not_found(tmp_path, words):
    line = [sys.executable, "-c", SLOW, "serve", "malloc:1MiB", *words]
    if words[0] == "--nbd":
        line += ["--rpc-socket", "r.sock"]
    else:
        line[-2] = "--rpc-socket"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(line, cwd=tmp_path, **pipes) as process:
        assert process.stdout.readline() == b"asked\n"
        time.sleep(0.2)
        process.terminate()
        assert process.wait(WAIT_S) == 0
        assert b"Traceback" not in process.stderr.read()
    assert not list(tmp_path.glob("*.sock*"))
