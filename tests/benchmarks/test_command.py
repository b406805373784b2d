"""The command, and what it starts: a real row, servers that do not start, nothing left behind."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bench import __main__ as command
from bench import servers
from bench.clients import run
from bench.figures import load
from bench.report import BEGIN, END
from bench.rows import ROWS, scale
from bench.rows.nbd import running
from bench.runner import Plan
from bench.servers import Server, peer, spawn, start, vbdev

ROOT = Path(command.__file__).parents[1]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(servers, "SIZE_BYTES", 1 << 20)


@pytest.fixture
def plan(tmp_path):
    return Plan(runs=1, seconds=0.1, quick=True, directory=tmp_path, disk_directory=tmp_path)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_quick_rows_end_to_end(tmp_path, monkeypatch, capsys):
    page, file = tmp_path / "page.md", tmp_path / "bench.json"
    page.write_text(f"{BEGIN}\n{END}\n")
    words = ["--quick", "--rows", "2", "--runs", "2", "--seconds", "0.05"]
    words += ["--page", str(page), "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["bench", *words])
    assert command.main() == 0
    session = load(file)
    (eight,) = session.of_row("2")
    assert len(eight.ours.samples) == 2
    assert all(sample.value > 0 and sample.more["batch"] == 32 for sample in eight.ours.samples)
    assert "| 8 passthrus over null, queue depth 32 | million IOPS |" in page.read_text()
    assert (tmp_path / "page.svg").read_text().startswith("<svg")
    assert not (tmp_path / "scale.svg").exists()  # that row was not asked for
    before = page.read_text()
    monkeypatch.setattr(sys, "argv", ["bench", "--report", *words[-4:]])
    assert command.main() == 0  # again, without measuring
    assert page.read_text() == before
    assert "8 passthrus" in capsys.readouterr().err


def test_a_page_without_marks_is_found_out_before_measuring(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("mine\n")
    monkeypatch.setattr(sys, "argv", ["bench", "--page", str(page)])
    monkeypatch.setattr(command, "measure", pytest.fail)
    with pytest.raises(ValueError, match="no place"):
        command.main()


@pytest.mark.parametrize("words", [["--rows", "1,77"], ["--runs", "0"], ["--seconds", "0"]])
def test_words_that_mean_nothing(words, capsys):
    with pytest.raises(SystemExit):
        command.parse_args(words)
    assert "error:" in capsys.readouterr().err


def test_all_rows_of_the_table_are_there():
    assert list(ROWS) == ["1", "2", "3", "4", "5", "6", "6b", "7", "8", "9", "10", "rpc",
                          "client", "scale"]  # fmt: skip
    arguments = command.parse_args([])
    assert (arguments.rows, arguments.runs) == (list(ROWS), 5)


def test_rows_without_any_peer_say_so(plan, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    for number in ("5", "6", "6b", "7", "9"):
        works = ROWS[number].works(plan)
        for work in works:
            assert work.sides or "not built" in work.problem
            assert all("is not installed" in side.missing for side in work.sides), work.name
    with running(plan, pytest.fail, "nbdkit memory", client="sh") as found:
        assert set(found.values()) == {"sh is not installed"}


def test_a_server_that_does_not_start_is_told_and_gone(plan, monkeypatch):
    monkeypatch.setitem(servers.PEERS, "sh broken", ["sh", "-c", "echo no such disk; exit 3"])
    with contextlib.ExitStack() as stack:
        found = start(stack, lambda: peer(plan.directory, "sh broken"))
    assert found == "does not start: it does not serve: no such disk"


def test_a_stack_that_can_not_be_built_is_told(plan):
    with contextlib.ExitStack() as stack:
        found = start(stack, lambda: vbdev(plan.directory, "nonsense:1"))
    assert isinstance(found, str)
    assert found.startswith("does not start: ")


def test_a_program_ends_with_all_that_it_started(tmp_path, monkeypatch):
    """Also one that does not obey, when the block that it is used in fails."""
    monkeypatch.setattr(servers, "STOP_TIMEOUT_S", 0.1)
    child = tmp_path / "child"
    words = ["sh", "-c", f"trap '' TERM; sleep 60 & echo $! >{child}; wait; sleep 60"]

    def use():
        with spawn(words, tmp_path / "log"):
            wait_for(lambda: child.exists() and child.read_text())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        use()
    wait_for(lambda: not is_alive(int(child.read_text())))


def test_a_program_ends_with_us(tmp_path):
    """Also when the bench is killed."""
    code = (
        "import sys, time; from pathlib import Path; from bench.servers import spawn\n"
        "with spawn(['sleep', '60'], Path(sys.argv[1])) as process:\n"
        "    print(process.pid, flush=True); time.sleep(60)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    bench = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "log"], stdout=subprocess.PIPE, env=environment
    )
    with bench:
        pid = int(bench.stdout.readline())
        assert is_alive(pid)
        bench.kill()
    wait_for(lambda: not is_alive(pid))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_session_leaves_nothing_running(tmp_path, number):
    page, mark = tmp_path / "page.md", f"mark-{os.getpid()}-{number}"
    page.write_text(f"{BEGIN}\n{END}\n")
    words = ["--quick", "--rows", "2,rpc", "--page", page, "--json", tmp_path / "bench.json"]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "BENCH_MARK": mark,
    }
    bench = subprocess.Popen(
        [sys.executable, "-m", "bench", *words],
        cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    with bench:
        for line in bench.stderr:
            if "rpc" in line:  # its daemon runs
                break
        assert len(marked(mark)) > 1
        bench.send_signal(number)
        rest = bench.stderr.read()
    assert bench.returncode == 128 + number
    assert "`python -m bench --report` writes what is measured" in rest
    assert "Traceback" not in rest
    assert load(tmp_path / "bench.json").works[0].row == "2"
    assert page.read_text() == f"{BEGIN}\n{END}\n"
    wait_for(lambda: not marked(mark))


def marked(mark):
    """Return the processes that have a mark in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"BENCH_MARK={mark}".encode() in path.read_bytes().split(b"\0"):
                found.append(path.parent.name)
    return found


def test_growth_end_to_end(tmp_path, monkeypatch):
    """Few of each: every figure of the row is there, and both files have it."""
    monkeypatch.setattr(scale, "QUICK", ((2, 4), (1, 2)))
    page, file = tmp_path / "page.md", tmp_path / "bench.json"
    page.write_text(f"{BEGIN}\n{END}\n")
    words = ["--quick", "--rows", "scale", "--runs", "1", "--seconds", "0.02"]
    monkeypatch.setattr(sys, "argv", ["bench", *words, "--page", str(page), "--json", str(file)])
    assert command.main() == 0
    works = load(file).of_row("scale")
    assert len(works) > 20
    for work in works:
        assert not work.problem, work
        for side in work.sides:
            assert not side.problem, (work.name, side)
            assert side.median is not None
    assert "](scale.svg)" in page.read_text()
    assert (tmp_path / "scale.svg").read_text().startswith("<svg")


@pytest.mark.client
@pytest.mark.usefixtures("small")
@pytest.mark.skipif(shutil.which("nbd-server") is None, reason="nbd-server is not installed")
def test_a_peer_that_is_a_daemon_ends_too(plan):
    with peer(plan.directory, "nbd-server") as server:
        assert isinstance(server, Server)
        assert is_alive(server.pid)
    wait_for(lambda: not is_alive(server.pid))


def test_a_client_that_fails_says_why():
    with pytest.raises(RuntimeError, match="sh failed: no such export"):
        run(["sh", "-c", "echo no such export >&2; exit 1"], 1)
