"""Standard streams that are closed, full, gone or of another encoding, and text made to deceive.

Method: commands as a shell starts them, with redirections; one daemon serves all that only read.
"""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.raw_rpc import RawRpc
from vbdev.client import Client

VBDEV = f"{sys.executable} -m vbdev"
EVIL = "x\x1b]0;title\x07\x1b[2J\r\nFake  malloc  1 TiB\x9b31m\u202eback\u2028\x7f"


def shell(command, env=None, cwd=None):
    return subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        timeout=60,
        check=False,
        cwd=cwd,
        env=os.environ | (env or {}),
    )


@pytest.fixture(scope="module")
def socket_path(tmp_path_factory):
    """Return where a daemon listens that has bdevs of all sorts of names."""
    place = tmp_path_factory.mktemp("streams")
    path = place / "r.sock"
    words = [sys.executable, "-m", "vbdev", "serve", "--rpc-socket", path]
    with (place / "log").open("wb") as log, subprocess.Popen(words, stderr=log, stdout=log) as it:
        with Client.connect(str(path)) as client:
            for name in ("größe日本", EVIL):
                client.call("bdev_null_create", name=name, num_blocks=8, block_size=512)
        yield path
        it.terminate()
        assert it.wait(20) == 0


# Results


@pytest.mark.parametrize(
    "words",
    [
        "--help",
        "--version",
        "ls -s {}",
        "ls --json -s {}",
        "rpc -s {} spdk_get_version",
        "rpc -s {} --help",
        "rpc -s {} bdev_get_bdevs --help",
        "serve --help",
        "spdk-tgt --version",
        "completion bash",
        "__complete ls -",
        "bench null:1MiB -n 100",
        "bench null:1MiB -n 100 --json",
    ],
)
@pytest.mark.parametrize(
    ("where", "why"),
    [(">&-", "Bad file descriptor"), (">/dev/full", "No space left on device")],
)
def test_what_can_not_be_written_fails_in_words(socket_path, words, where, why):
    done = shell(f"{VBDEV} {words.format(socket_path)} {where}")
    assert done.returncode == 1
    *_, last = done.stderr.decode().splitlines()
    assert last.startswith("vbdev")
    assert last.endswith(f": output: {why}")
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


@pytest.mark.parametrize("where", ["2>&-", "2>/dev/full", "2>&- <&-"])
@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("ls -s {}", 0),
        ("ls -s /nowhere/r.sock", 1),
        ("rpc -s {} nonsense", 1),
        ("rpc", 2),
        ("bench", 2),
        ("nonsense", 2),
        ("config check /nowhere", 1),
        ("serve malloc:1KiB,block_size=3 --rpc-socket {}2", 1),
    ],
)
def test_talk_that_can_not_be_written_changes_nothing(socket_path, words, status, where):
    done = shell(f"{VBDEV} {words.format(socket_path, socket_path)} {where}")
    assert done.returncode == status
    assert done.stderr == b""


def test_a_pipe_that_does_not_block_is_waited_for(socket_path):
    """Whoever shares it has made it so; a slow reader loses nothing."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writer, False)
    words = [sys.executable, "-m", "vbdev", "rpc", "-s", socket_path, "rpc_get_schema"]
    with subprocess.Popen(words, stdout=writer) as command:
        os.close(writer)
        time.sleep(0.5)
        with os.fdopen(reader, "rb") as pipe:
            assert json.loads(pipe.read())["openrpc"]
        assert command.wait(20) == 0


@pytest.mark.parametrize(
    ("env", "shown"),
    [
        ({"PYTHONIOENCODING": "ascii"}, b"gr\\xf6\\xdfe\\u65e5\\u672c  null"),
        ({"PYTHONIOENCODING": "latin-1"}, b"gr\xf6\xdfe\\u65e5\\u672c  null"),
        (
            {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
            b"gr\\xf6\\xdfe\\u65e5\\u672c  null",
        ),
    ],
)
def test_output_of_another_encoding(socket_path, env, shown):
    done = shell(f"{VBDEV} ls -s {socket_path}", env)
    assert done.returncode == 0
    assert any(line.startswith(shown) for line in done.stdout.splitlines())
    done = shell(f"{VBDEV} rpc -s {socket_path} bdev_get_bdevs name=größe日本", env)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["name"] == "größe日本"
    done = shell(f"{VBDEV} rpc -s {socket_path} bdev_get_bdevs name=fehlt日本", env)
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr


# Names


def test_one_bdev_is_one_line(socket_path):
    done = shell(f"{VBDEV} ls -s {socket_path}")
    assert done.returncode == 0
    lines = done.stdout.decode().splitlines()
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)
    assert lines[1].startswith(r"x\x1b]0;title\x07\x1b[2J\r\nFake  malloc  1 TiB\x9b31m\u202eback")


def test_json_stays_exact(socket_path):
    done = shell(f"{VBDEV} ls --json -s {socket_path}")
    assert [one["name"] for one in json.loads(done.stdout)] == ["größe日本", EVIL]


def test_errors_are_one_line(socket_path):
    done = subprocess.run(
        [sys.executable, "-m", "vbdev", "rpc", "-s", socket_path, EVIL, f"{EVIL}=1"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr[:-1].isprintable()


def test_completion_offers_no_name_that_moves_the_cursor(socket_path):
    words = ["__complete", "rpc", "-s", socket_path, "bdev_get_bdevs", "name="]
    done = subprocess.run(
        [sys.executable, "-m", "vbdev", *words], capture_output=True, text=True, check=True
    )
    assert "größe日本" in done.stdout
    assert "Fake" not in done.stdout


def test_a_name_is_no_line_of_the_log(serve):
    """Neither in a message nor in a traceback."""
    fake = "2026-01-01 00:00:00,000 NOTICE vbdev.daemon.app FAKE"
    daemon = serve("malloc:1MiB", "--log-level", "debug")
    name = f"x\n{fake}\x1b[31m\r{EVIL}"
    with RawRpc(daemon.rpc_socket) as client:
        client.call("bdev_malloc_create", name=name, num_blocks=8, block_size=512)
        client.call("nbd_export_add", bdev_name=name, export_name=f"y\n{fake}")
        client.call(f"m\n{fake}")
    text = daemon.stderr_file.read_bytes().decode(errors="surrogateescape")
    assert f"x\\n{fake}\\x1b[31m\\r" in text
    assert not [line for line in text.split("\n") if line.startswith(("2026-01-01", "FAKE"))]
    assert all(line.isprintable() for line in text.split("\n"))


@pytest.mark.parametrize(
    "words",
    [
        [b"bad\xff.img"],
        [b"aio:bad\xff.img"],
        ["malloc:1MiB", "--layer", b"passthru,name=\xff"],
        ["malloc:1MiB", "--nbd", b"unix:x\xff.sock"],
    ],
)
def test_what_json_can_not_name_is_refused_where_it_is_given(tmp_path, words):
    (tmp_path / os.fsdecode(b"bad\xff.img")).write_bytes(bytes(1 << 20))
    done = subprocess.run(
        [sys.executable, "-m", "vbdev", "serve", *words, "--rpc-socket", "r.sock"],
        capture_output=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert b"not UTF-8" in done.stderr
    assert b"\\xff" in done.stderr
    assert b"Traceback" not in done.stderr
    assert [one.name for one in tmp_path.iterdir()] == [os.fsdecode(b"bad\xff.img")]


# Daemons


@contextlib.contextmanager
def started(place, command, redirections, env=None):
    """Start a daemon as a shell does, and tell when it answers."""
    path = place / "r.sock"
    words = f"{VBDEV} {command.format(path)} {redirections}"
    process = subprocess.Popen(
        ["bash", "-c", f"exec {words}"], cwd=place, env=os.environ | (env or {})
    )
    try:
        with Client.connect(str(path)) as client:
            yield process, client
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("command", ["serve d.img --nbd unix:n.sock -s {}", "spdk-tgt -r {}"])
@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", "2>&-", ">&- 2>err", ">/dev/full 2>/dev/full"])
def test_a_daemon_with_closed_or_full_streams(tmp_path, command, closed):
    (tmp_path / "d.img").write_bytes(bytes(1 << 20))
    with started(tmp_path, command, closed) as (process, client):
        assert client.call("spdk_get_version")
        client.call("log_set_print_level", level="INFO")
        client.call("bdev_null_create", name="N", num_blocks=8, block_size=512)
        for descriptor in range(3):
            assert str(Path(f"/proc/{process.pid}/fd/{descriptor}").readlink()).startswith("/")
        process.terminate()
        assert process.wait(20) == 0
    assert not list(tmp_path.glob("*.sock*"))
    log = tmp_path / "err"
    assert not log.exists() or "Traceback" not in log.read_text()


def test_a_daemon_whose_readers_have_gone(tmp_path):
    with started(tmp_path, "serve -s {}", "2>&1 | true; exit ${PIPESTATUS[0]}") as (_, client):
        client.call("log_set_print_level", level="INFO")
        for name in ("A", "B"):
            client.call("bdev_null_create", name=name, num_blocks=8, block_size=512)
        client.call("spdk_kill_instance", sig_name="SIGTERM")
        client.close()
        deadline = time.monotonic() + 20
        while (tmp_path / "r.sock").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_daemon_whose_full_pipe_does_not_block(tmp_path):
    """It starts, although nobody reads what it says of that."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(writer, bytes(4096)):
            pass
    path = tmp_path / "r.sock"
    for blocking in (False, True):
        os.set_blocking(writer, blocking)
        words = [sys.executable, "-m", "vbdev", "serve", "--rpc-socket", path]
        with subprocess.Popen(words, stdout=writer, stderr=writer) as process:
            try:
                with Client.connect(str(path)) as client:
                    assert client.call("spdk_get_version")
                process.terminate()
                assert process.wait(20) == 0
            finally:
                process.kill()
    os.close(reader)
    os.close(writer)


def test_whatever_fails_behind_the_first_listener_there_is_an_orderly_stop(tmp_path):
    """Errors in what is told when all is there: of a call in one line, others in the log."""
    critical = "CRITICAL vbdev.daemon.app stopping, because of"
    for raised, told in (
        ("OSError(5, 'no')", "vbdev serve: can not start: no\n"),
        ("SystemExit(0)", critical),
        ("UnicodeEncodeError('a', 'b', 0, 1, 'c')", critical),
    ):
        code = (
            "import sys\n"
            "from vbdev.cli import main, serve\n"
            f"def describe(*_): raise {raised}\n"
            "serve.describe = describe\n"
            "sys.exit(main(sys.argv[1:]))\n"
        )
        words = ["serve", "malloc:1MiB", "--nbd", "unix:n.sock", "--rpc-socket", "r.sock"]
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1
        assert told in done.stderr
        assert "never awaited" not in done.stderr
        assert not list(tmp_path.iterdir())


def test_no_file_gets_a_standard_descriptor():
    code = (
        "import os, socket; from vbdev.cli.streams import hold_standard_descriptors as hold;"
        " hold(); s = socket.socket(); os._exit(s.fileno() < 3)"
    )
    for closed in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-", "<&- 2>&-"):
        assert shell(f"exec {sys.executable} -c '{code}' {closed}").returncode == 0, closed


def test_messages_that_are_lost_are_counted(tmp_path):
    """On a disk that is full for a while."""
    import logging

    from vbdev.reports.logs import ConsoleHandler, LineFormatter

    with Path("/dev/full").open("w") as full, (tmp_path / "log").open("w") as log:
        handler = ConsoleHandler(full)
        handler.setFormatter(LineFormatter("%(message)s"))
        for number in range(5):
            handler.emit(logging.makeLogRecord({"msg": f"lost {number}", "levelno": 40}))
        assert handler.lost == 5
        os.dup2(log.fileno(), full.fileno())
        handler.emit(logging.makeLogRecord({"msg": "told", "levelno": 40}))
        assert handler.lost == 0
    text = (tmp_path / "log").read_text()
    assert text == "\n[5 messages were dropped: they could not be written]\ntold\n"


def test_signals_are_the_same_without_streams(tmp_path):
    with started(tmp_path, "serve -s {}", "<&- >&- 2>&-") as (process, _):
        process.send_signal(signal.SIGHUP)
        assert process.wait(20) == 0
