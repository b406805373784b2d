"""`vbdev config check`: what a configuration would do, and that nothing is done.

Method: the command in a subprocess on files with and without mistakes. Where it says that a daemon
would start, one does, with the same stack; where it says that none would, `vbdev serve` says the
same sentence.
"""

import json
import subprocess
import sys

import pytest

from support.clients import requires

DISK = 4 << 20
LAYER = """
from vbdev.bdev import Bdev, BdevParams, VirtualBdev

class Layer(VirtualBdev):
    kind = "layer"

    async def start(self):
        open("started", "x").close()

    def submit(self, channel, ios):
        channel.base.submit(ios)

class Leaf(Bdev):
    kind = "leaf"
    Params = BdevParams

    async def start(self):
        open("started", "x").close()
"""


@pytest.fixture
def check(tmp_path):
    """Return a function that writes a configuration and checks it: status, stdout, stderr."""

    def run(calls, *words, nbd=(), **more):
        text = calls if isinstance(calls, str) else json.dumps(document(calls, nbd), indent=1)
        (tmp_path / "c.json").write_text(text)
        command = [sys.executable, "-m", "vbdev", "config", "check", "c.json", *words]
        before = {path.name: path.stat().st_atime_ns for path in tmp_path.iterdir()}
        done = subprocess.run(
            [*more.get("wrapper", ()), *command],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=tmp_path,
        )
        created = {path.name for path in tmp_path.iterdir()} - before.keys()
        assert created <= {"__pycache__"}
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout, done.stderr

    return run


def document(calls, nbd=()):
    entries = [{"method": method, "params": params} for method, params in calls]
    exports = [{"method": method, "params": params} for method, params in nbd]
    return {
        "subsystems": [
            {"subsystem": "bdev", "config": entries},
            {"subsystem": "nbd", "config": exports},
        ]
    }


def passthru(name, base):
    return ("bdev_passthru_create", {"name": name, "base_bdev_name": base})


def malloc(name, **more):
    return ("bdev_malloc_create", {"name": name, "num_blocks": 64, "block_size": 512, **more})


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(bytes(DISK))
    return str(path)


def test_a_stack_is_shown_and_a_daemon_has_the_same(check, disk, serve, tmp_path):
    calls = [
        passthru("Top", "Diskp1"),
        ("bdev_split_create", {"base_bdev": "Disk", "split_count": 2}),
        ("bdev_uring_create", {"name": "Disk", "filename": disk, "block_size": 512}),
        ("bdev_set_qos_limit", {"name": "Top", "rw_ios_per_sec": 1000}),
    ]
    nbd = [("nbd_export_add", {"bdev_name": "Top", "export_name": "top"})]
    status, stdout, stderr = check(calls, nbd=nbd)
    assert (status, stderr) == (0, "")
    assert stdout.splitlines() == [
        "Disk  uring  4 MiB  (8192 x 512 B)  claimed by split vbdevs of Disk",
        "  Diskp0  split  2 MiB  (4096 x 512 B)",
        "  Diskp1  split  2 MiB  (4096 x 512 B)  claimed by passthru vbdev Top",
        "    Top  passthru  2 MiB  (4096 x 512 B)  open by nbd export 'top'",
        "export top: Top",
    ]
    said = json.loads(check(calls, "--json", nbd=nbd)[1])
    daemon = serve("--config", tmp_path / "c.json", nbd=[])
    daemon.rpc.call("bdev_wait_for_examine")
    assert in_short(daemon.rpc.call("vbdev_get_stack")) == in_short(said["stack"])
    assert [call["pass"] for call in said["calls"]] == ["runtime"] * 5
    assert said["exports"] == {"top": "Top"}
    assert said["errors"] == said["warnings"] == []


def in_short(stack):
    told = ("name", "kind", "base", "state", "block_size", "num_blocks", "claim", "holders")
    return [{key: entry[key] for key in told} for entry in stack]


MISTAKES = {
    "method": [malloc("M"), ("bdev_florp_create", {})],
    "parameter": [malloc("M", nmae="x")],
    "name": [malloc("M"), malloc("M", uuid="00000001-0000-4000-8000-000000000000")],
    "claim": [malloc("M"), passthru("P", "M"), passthru("Q", "M")],
    "file": [("bdev_aio_create", {"name": "A", "filename": "/nowhere/disk"})],
    "directory": [("bdev_uring_create", {"name": "A", "filename": "/"})],
    "bdev": [malloc("M"), ("bdev_set_qos_limit", {"name": "N", "rw_ios_per_sec": 1000})],
    "options": [("bdev_set_options", {"bdev_io_pool_size": 1})],
    "size": [malloc("M", block_size=513)],
}


@pytest.mark.parametrize("calls", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_in_the_words_of_the_daemon(check, calls, tmp_path):
    status, _, stderr = check(calls)
    served = subprocess.run(
        [sys.executable, "-m", "vbdev", "serve", "--config", "c.json", "-s", "r.sock"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=tmp_path,
    )
    assert (status, served.returncode) == (1, 1)
    assert stderr.replace("error: ", "") == served.stderr.replace("vbdev serve: ", "")


def test_all_mistakes_are_told_in_their_order(check):
    calls = [
        ("bdev_set_qos_limit", {"name": "N", "rw_ios_per_sec": 1000}),
        malloc("M", md_size=7),
        ("bdev_florp_create", {}),
        malloc("M"),
        malloc("M"),
    ]
    status, stdout, stderr = check(calls)
    assert status == 1
    assert stdout.startswith("M  malloc")
    entries = [line.split("entry ")[1].split(":")[0] for line in stderr.splitlines()]
    assert entries == ["1", "2", "3", "5"]


def test_what_is_hardly_meant(check):
    calls = [
        passthru("P", "M"),
        passthru("Q", "M"),
        passthru("W", "Absent"),
        ("bdev_split_create", {"base_bdev": "Void", "split_count": 2}),
        malloc("M"),
    ]
    text = json.loads(json.dumps(document(calls)))
    text["subsystems"].append({"subsystem": "nvmf", "config": [{"method": "nvmf_florp"}]})
    status, stdout, stderr = check(json.dumps(text))
    assert status == 0
    assert "Q  passthru  [waiting for its base: M]" in stdout
    taken = "bdev M can not be opened for writing by passthru vbdev Q: claimed (exclusive_write) by"
    where = "warning: c.json:1: subsystem bdev"
    assert stderr.splitlines() == [
        "warning: c.json: there is no subsystem nvmf here; calls left out: 1",
        f"warning: c.json: no vbdev name=Q base=M error={taken} passthru vbdev P",
        f"{where}, entry 3: passthru vbdev W waits for bdev 'Absent': nothing makes it",
        f"{where}, entry 4: split vbdev split of Void waits for bdev 'Void': nothing makes it",
    ]


def test_nothing_is_touched(check, disk, tmp_path):
    """strace sees every file that is opened, and every socket that is bound."""
    requires("strace")
    calls = [
        ("bdev_uring_create", {"name": "U", "filename": disk}),
        ("bdev_aio_create", {"name": "A", "filename": disk}),
        malloc("M", num_blocks=1 << 40),
        ("bdev_gpt_create", {"base_bdev": "U", "partitions": []}),
    ]
    nbd = [
        ("nbd_server_start", {"address": f"unix:{tmp_path}/v.sock"}),
        ("nbd_start_disk", {"bdev_name": "U", "nbd_device": "/dev/nbd0"}),
        ("spdk_kill_instance", {"sig_name": "SIGKILL"}),
    ]
    log = tmp_path.parent / f"{tmp_path.name}.strace"
    wrapper = ["strace", "-f", "-o", str(log), "-e", "trace=open,openat,bind,connect,unlink,mkdir"]
    status, _, stderr = check(calls, nbd=nbd, wrapper=wrapper)
    trace = log.read_text()
    assert "c.json" in trace
    assert "/dev/nbd" not in trace
    assert disk not in trace
    assert "v.sock" not in trace
    assert "AF_UNIX" not in trace
    assert status == 1
    assert f"aio bdev 'A': {disk}: in use already, by uring bdev 'U'" in stderr


def test_an_nbd_server_is_not_asked(check):
    calls = [
        ("bdev_nbd_create", {"name": "Far", "uri": "nbd://nowhere.invalid/disk"}),
        passthru("Top", "Far"),
    ]
    status, stdout, stderr = check(calls)
    assert (status, stderr) == (0, "")
    assert "Top" in stdout
    status, _, stderr = check([("bdev_nbd_create", {"name": "Far", "uri": "nbds://far/"})])
    assert status == 1
    assert "TLS is not supported" in stderr


def test_modules_of_others_are_not_started(check, tmp_path):
    (tmp_path / "layer.py").write_text(LAYER)
    calls = [
        ("bdev_layer_create", {"name": "L", "base_bdev_name": "Leaf"}),
        ("bdev_leaf_create", {"name": "Leaf"}),
        ("bdev_layer_create", {"name": "L", "base_bdev_name": "Leaf"}),
    ]
    status, stdout, stderr = check(calls, "--module", "layer.py")
    assert status == 1
    assert stdout.splitlines()[1].startswith("  L  layer")
    assert "entry 3: bdev_layer_create: File exists (-17)" in stderr
    told = check(calls)[2]
    assert told.count("Method not found") == 3
    assert told.count("take the entry out, or pass it over with") == 3


def test_a_file_that_is_no_configuration(check):
    assert check('{"subsystems": [,]}') == (
        1,
        "",
        "vbdev config: c.json:1:17: a value is expected, not ','\n",
    )
    absent = "vbdev config: module file absent.py: no such file\n"
    assert check("{}", "--module", "absent.py") == (1, "", absent)
    empty = 'warning: c.json: no list "subsystems" at the top; nothing to carry out\n'
    assert check("{}") == (0, "", empty)
