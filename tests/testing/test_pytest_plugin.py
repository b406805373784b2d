"""The pytest plugin: fixtures that work, reports that help, and no daemon left behind.

Method: pytest runs in a subprocess on tests that are written here, and tells which processes its
daemons were; afterwards none of them may be there.
"""

import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
import time
import tomllib
from pathlib import Path

import pytest

from support.clients import missing

ROOT = Path(__file__).parents[2]
PLUGIN = ["-p", "vbdev.pytest_plugin", "-p", "no:cacheprovider"]
PIDS = """
    import os, pathlib, signal, time, pytest
    PIDS = pathlib.Path(os.environ["PIDS"])
    def note(target):
        with PIDS.open("a") as file:
            file.write(f"{target.pid} {target.rpc_socket}\\n")
"""


@pytest.fixture
def pids(tmp_path, monkeypatch):
    """Return a function that tells of the daemons that inner tests have noted: (pid, socket)."""
    file = tmp_path / "pids"
    monkeypatch.setenv("PIDS", str(file))

    def read():
        lines = file.read_text().splitlines() if file.exists() else []
        return [(int(line.split()[0]), line.split()[1]) for line in lines]

    yield read
    for pid, _ in read():
        assert not is_there(pid), f"process {pid} is left"


def is_there(pid):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def wait_until(condition, timeout_s=20):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.01)


@pytest.fixture
def inner(pytester):
    """Return a function that runs pytest on a file, in a subprocess."""

    def run(source, *words):
        text = textwrap.dedent(PIDS) + textwrap.dedent(source)
        pytester.makepyfile(text)
        return pytester.runpytest_subprocess(*PLUGIN, *words)

    return run


def test_fixtures(inner, pids):
    """One daemon for each test; what a test leaves is not there in the next."""
    result = inner("""
        @pytest.mark.parametrize("turn", [1, 2])
        def test_one(vbdev_target, vbdev_client, turn):
            note(vbdev_target)
            assert vbdev_client.call("bdev_get_bdevs") == []
            vbdev_client.call("bdev_null_create", name="N", num_blocks=8, block_size=512)
            assert [b["name"] for b in vbdev_target.client.call("bdev_get_bdevs")] == ["N"]

        def test_none():
            assert True
    """)
    result.assert_outcomes(passed=3)
    assert len({pid for pid, _ in pids()}) == 2
    assert not [socket for _, socket in pids() if Path(socket).exists()]


@pytest.mark.usefixtures("pids")
def test_options(inner):
    """Of the marker, the class's where a test has none of its own; words of a parameter too."""
    result = inner("""
        CONFIG = {"subsystems": [{"subsystem": "bdev", "config": [
            {"method": "bdev_null_create",
             "params": {"name": "N", "num_blocks": 8, "block_size": 512}}]}]}

        @pytest.mark.vbdev_target(config=CONFIG)
        class TestConfigured:
            def test_it(self, vbdev_client):
                assert vbdev_client.call("bdev_get_bdevs")[0]["name"] == "N"

            @pytest.mark.vbdev_target("--wait-for-rpc")
            def test_other(self, vbdev_client):
                assert "framework_start_init" in vbdev_client.call("rpc_get_methods", current=True)
                vbdev_client.call("framework_start_init")
                assert vbdev_client.call("bdev_get_bdevs") == []

        @pytest.mark.vbdev_target("malloc:1MiB", command="serve")
        def test_serve(vbdev_target, vbdev_client):
            note(vbdev_target)
            assert vbdev_client.call("bdev_get_bdevs")[0]["name"] == "Malloc0"

        @pytest.mark.parametrize(
            "vbdev_target", [["-m", "[500]"], ["-m", "[500,501]"]], indirect=True)
        def test_cores(vbdev_client):
            reactors = vbdev_client.call("framework_get_reactors")["reactors"]
            assert {one["lcore"] for one in reactors} <= {500, 501}
    """)
    result.assert_outcomes(passed=5)


def test_other_scopes(inner, pids):
    result = inner("""
        @pytest.fixture(scope="module")
        def target(vbdev_target_factory):
            with vbdev_target_factory("-m", "[0,1]") as daemon:
                note(daemon)
                yield daemon

        def test_make(target):
            target.client.call("bdev_null_create", name="N", num_blocks=8, block_size=512)

        def test_find(target):
            assert len(target.client.call("bdev_get_bdevs")) == 1

        def test_left_to_the_session(vbdev_target_factory):
            note(vbdev_target_factory())
    """)
    result.assert_outcomes(passed=3)
    assert len(pids()) == 2


@pytest.mark.usefixtures("pids")
def test_a_failed_test_shows_the_log(inner):
    result = inner("""
        @pytest.mark.vbdev_target("--rpcs-allowed", "nonsense")
        def test_fails(vbdev_target):
            note(vbdev_target)
            assert 1 == 2

        @pytest.mark.vbdev_target("--rpcs-allowed", "whatever")
        def test_passes(vbdev_target):
            note(vbdev_target)
    """)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["*vbdev daemon on */rpc.sock: log (call)*", "*methods that are not there: nonsense*"]
    )
    assert "whatever" not in result.stdout.str()


@pytest.mark.usefixtures("pids")
def test_does_not_start(inner):
    result = inner("""
        @pytest.mark.vbdev_target("-m", "nonsense")
        def test_it(vbdev_target):
            raise RuntimeError("never")
    """)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*'nonsense' is no set of CPUs*"])


@pytest.mark.usefixtures("pids")
def test_hung_and_crashed_daemons(inner):
    """They are errors of the teardown, and the next test has a daemon as ever."""
    result = inner("""
        @pytest.mark.vbdev_target("--rpcs-allowed", "nonsense", stop_timeout_s=0.5)
        def test_hangs(vbdev_target):
            note(vbdev_target)
            os.kill(vbdev_target.pid, signal.SIGSTOP)

        def test_crashes(vbdev_target):
            note(vbdev_target)
            os.kill(vbdev_target.pid, signal.SIGSEGV)
            while vbdev_target.is_running:
                time.sleep(0.01)

        def test_ended_by_the_test(vbdev_target):
            note(vbdev_target)
            vbdev_target.kill()

        def test_next(vbdev_client):
            assert vbdev_client.call("bdev_get_bdevs") == []
    """)
    result.assert_outcomes(passed=4, errors=2)
    result.stdout.fnmatch_lines(
        [
            "*it ran on for 0.5 s after SIGTERM, and was killed; its log:*",
            "*methods that are not there: nonsense*",
            "*it had ended by itself, with status -11; its log:*",
        ]
    )


@pytest.mark.parametrize(
    "end", ["raise KeyboardInterrupt", "raise SystemExit", "pytest.exit('enough')", "os._exit(3)"]
)
def test_pytest_ends_in_the_middle(inner, pids, end):
    inner(f"""
        def test_it(vbdev_target):
            note(vbdev_target)
            {end}
    """)
    ((pid, _),) = pids()
    wait_until(lambda: not is_there(pid))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_pytest_is_killed(pytester, pids, number):
    pytester.makepyfile(
        textwrap.dedent(PIDS)
        + textwrap.dedent("""
        def test_it(vbdev_target):
            note(vbdev_target)
            time.sleep(60)
        """)
    )
    words = [sys.executable, "-m", "pytest", *PLUGIN]
    with (pytester.path / "log").open("wb") as log, subprocess.Popen(words, stdout=log) as process:
        try:
            wait_until(pids)
            ((pid, _),) = pids()
            assert is_there(pid)
            process.send_signal(number)
            process.wait(20)
        finally:
            process.kill()
    wait_until(lambda: not is_there(pid))


def test_beside_each_other(inner, pids):
    """pytest-xdist: a socket for each."""
    if importlib.util.find_spec("xdist") is None:
        missing("pytest-xdist is not installed")
    result = inner(
        """
        @pytest.mark.parametrize("turn", range(4))
        def test_it(vbdev_target, turn):
            note(vbdev_target)
            assert vbdev_target.client.call("bdev_get_bdevs") == []
        """,
        "-n2",
    )
    result.assert_outcomes(passed=4)
    assert len({socket for _, socket in pids()}) == 4


@pytest.mark.usefixtures("pids")
def test_long_paths(inner, tmp_path):
    directory = tmp_path / ("x" * 100)
    result = inner(
        """
        def test_it(vbdev_target):
            note(vbdev_target)
        """,
        f"--basetemp={directory}",
    )
    result.assert_outcomes(passed=1)


# For those who do not use it


def test_it_costs_nothing_until_it_is_used():
    """Nothing of vbdev but itself, and no library, is imported when pytest starts."""
    code = "import sys, pytest; before = set(sys.modules); import vbdev.pytest_plugin\n"
    code += "print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["vbdev", "vbdev.pytest_plugin"]


def test_entry_point(pytester, monkeypatch):
    """Installed, it is there without -p; with it, it is not there twice."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (name, value), *more = project["entry-points"]["pytest11"].items()
    assert not more
    installed = pytester.mkdir("site") / "installed-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: installed\nVersion: 1\n")
    (installed / "entry_points.txt").write_text(f"[pytest11]\n{name} = {value}\n")
    paths = [str(installed.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    pytester.makepyfile("""
        def test_it(vbdev_client):
            assert vbdev_client.call("bdev_get_bdevs") == []
    """)
    for words in ([], PLUGIN):
        result = pytester.runpytest_subprocess("-p", "no:cacheprovider", *words)
        result.assert_outcomes(passed=1)
