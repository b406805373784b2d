"""`vbdev spdk-tgt`: what a script that starts spdk_tgt passes, sees and gets.

Method: the command in a subprocess, spdk_tgt's options and exit statuses (0, 1 for a failure, 2
for wrong usage), and the control plane's own answers about what came of them.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import clients
from vbdev.client import Client, RpcError
from vbdev.testing.daemon import Daemon

COMMAND = [sys.executable, "-m", "vbdev", "spdk-tgt"]
CPUS = sorted(os.sched_getaffinity(0))


def spdk_tgt(*words, status):
    """Run it to its end, which comes at once."""
    done = subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def start(tmp_path):
    """Return a function that starts it; all end with the test."""
    daemons = []

    def run(*words, **options):
        directory = tmp_path / f"d{len(daemons)}"
        directory.mkdir()
        daemons.append(Daemon(*words, directory=directory, **options))
        daemons[-1].start()
        return daemons[-1]

    yield run
    for daemon in daemons:
        daemon.close()


def reactors(daemon):
    return daemon.client.call("framework_get_reactors")["reactors"]


def config(*calls):
    entries = [{"method": method, "params": params} for method, params in calls]
    return {"subsystems": [{"subsystem": "bdev", "config": entries}]}


def null(name):
    return ("bdev_null_create", {"name": name, "num_blocks": 8, "block_size": 512})


# What it says


@pytest.mark.parametrize("word", ["-v", "--version"])
def test_version(word):
    """What scripts look for: `SPDK v`, then the release."""
    done = spdk_tgt(word, status=0)
    assert re.fullmatch(r"SPDK v26\.09-vbdev-\S+\n", done.stdout)


def test_help():
    done = spdk_tgt("-h", status=0)
    assert "--cpumask" in done.stdout
    assert done.stderr == ""


SPDK_OPTIONS = """
-c --config --json --json-ignore-init-errors -d --limit-coredump -e --tpoint-group -L --logflag
-g --single-file-segments -h --help
-i --shm-id -m --cpumask -n --mem-channels -p --main-core -r --rpc-socket -s --mem-size -u --no-pci
-v --version -A --pci-allowed -B --pci-blocked -R --huge-unlink --lcores --iova-mode
--base-virtaddr --num-trace-entries --wait-for-rpc --no-rpc-server --huge-dir --silence-noticelog
--env-context --disable-cpumask-locks --interrupt-mode --rpcs-allowed --vfio-vf-token
--msg-mempool-size --no-huge --enforce-numa -f -S
"""


def test_every_option_of_spdk_tgt_is_there():
    shown = set(re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", spdk_tgt("-h", status=0).stdout))
    assert set(SPDK_OPTIONS.split()) <= shown


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--nonsense"], "vbdev spdk-tgt: error: unrecognized arguments: --nonsense"),
        (["-x"], "unrecognized arguments: -x"),
        (["-m"], "expected one argument"),
        (["-m", "0x1", "--lcores", "0"], "lcore map and core mask can't be set simultaneously"),
        (["-s", "much"], "invalid memory pool size `-s much`"),
        (["-s", "5T"], "invalid memory pool size `-s 5T`"),
        (["-n", "-3"], "Invalid memory channel -3"),
        (["-p", "x"], "Invalid main core x"),
        (["-i", "one"], "Invalid shared memory ID one"),
        (["--base-virtaddr", "0"], "Invalid base-virtaddr 0"),
        (["--num-trace-entries", "3"], "num-trace-entries must be power of 2"),
        (["--msg-mempool-size", "0"], "Invalid pool size 0"),
        (["-B", "nowhere"], "Invalid address nowhere"),
        (["-L", "nonsense"], "unknown flag: nonsense"),
        (["-A", "0000:01:00.0", "-B", "0000:02:00.0"], "not allowed with"),
    ],
)
def test_wrong_usage(words, told):
    done = spdk_tgt(*words, status=2)
    assert told in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-m", "0x0"], "has no CPU"),
        (["-m", "many"], "is no set of CPUs"),
        (["--lcores", "1@"], "is no map of cores"),
        (["-m", "0x1", "-p", "1"], "main core 1 is none of the cores"),
        (
            ["--no-rpc-server", "--wait-for-rpc"],
            "Cannot use '--wait-for-rpc' if no RPC server is going to be started.",
        ),
        (["-c", "/nowhere/c.json", "--no-rpc-server"], "/nowhere/c.json: No such file"),
        (["-r", "/nowhere/r.sock"], "No such file"),
    ],
)
def test_failures(words, told):
    done = spdk_tgt("--silence-noticelog", *words, status=1)
    assert done.stderr.startswith("vbdev spdk-tgt: ")
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


# What it makes of its options


def test_all_options_without_a_meaning_in_one_line(start):
    words = "-s 1024 -n 4 -i -1 -g -R -u --no-huge --huge-dir /dev/hugepages --iova-mode va"
    words += " --base-virtaddr 0x200000000000 --msg-mempool-size 100 --enforce-numa"
    words += " -B 0000:00:04.0 -B 0000:00:05.0 --disable-cpumask-locks --interrupt-mode"
    words += " -e bdev:0xf --num-trace-entries 32768 -S /tmp --env-context=-x --vfio-vf-token x"
    daemon = start(*words.split())
    lines = [line for line in daemon.stderr.splitlines() if "without a meaning" in line]
    assert len(lines) == 1
    told = lines[0].partition(" here: ")[2].split()
    assert len(told) == len(set(told)) == 20
    assert {"--mem-size", "--shm-id", "--no-huge", "--pci-blocked", "-S"} < set(told)
    assert not {word for word in told if not word.startswith("-")}


@pytest.mark.parametrize(
    "words",
    [
        [""],
        ["stray", "-m", hex(1 << CPUS[0]), "", "another"],
        ["-m", hex(1 << CPUS[0]), "-"],
    ],
)
def test_words_that_belong_to_no_option(start, words):
    """getopt(3) leaves them to the application, and spdk_tgt never looks at them."""
    daemon = start(*words)
    assert len(reactors(daemon)) == 1
    (line,) = [line for line in daemon.stderr.splitlines() if "without a meaning" in line]
    options = ("-m", hex(1 << CPUS[0]))
    told = line.partition(" here: ")[2].split()
    assert [word.strip("'") for word in told] == [word for word in words if word not in options]


def test_what_is_behind_two_hyphens_is_no_option():
    assert spdk_tgt("-v", "--", "--nonsense", "-x", status=0).stdout.startswith("SPDK v")


def test_what_is_behind_a_stray_word_counts():
    done = spdk_tgt("stray", "--nonsense", status=2)
    assert "unrecognized arguments: --nonsense" in done.stderr


SAVED_BY_SPDK = {
    "subsystems": [
        {"subsystem": "scheduler", "config": [
            {"method": "framework_set_scheduler", "params": {"name": "static"}}]},
        {"subsystem": "fsdev", "config": [
            {"method": "fsdev_set_opts",
             "params": {"fsdev_io_pool_size": 65535, "fsdev_io_cache_size": 256}}]},
        {"subsystem": "iobuf", "config": [
            {"method": "iobuf_set_options",
             "params": {"small_pool_count": 8192, "large_pool_count": 1024,
                        "small_bufsize": 8192, "large_bufsize": 135168, "enable_numa": False}}]},
        {"subsystem": "keyring", "config": []},
        {"subsystem": "sock", "config": [
            {"method": "sock_set_default_impl", "params": {"impl_name": "posix"}},
            {"method": "sock_impl_set_options",
             "params": {"impl_name": "ssl", "recv_buf_size": 4096, "enable_ktls": False}}]},
        {"subsystem": "vmd", "config": []},
        {"subsystem": "accel", "config": [
            {"method": "accel_set_options",
             "params": {"small_cache_size": 128, "large_cache_size": 16, "task_count": 2048,
                        "sequence_count": 2048, "buf_count": 2048}}]},
        {"subsystem": "bdev", "config": [
            {"method": "bdev_set_options",
             "params": {"bdev_io_pool_size": 65535, "bdev_io_cache_size": 256,
                        "bdev_auto_examine": True, "iobuf_small_cache_size": 128,
                        "iobuf_large_cache_size": 16}},
            {"method": "bdev_raid_set_options",
             "params": {"process_window_size_kb": 1024, "process_max_bandwidth_mb_sec": 0}},
            {"method": "bdev_iscsi_set_options", "params": {"timeout_sec": 30}},
            {"method": "bdev_nvme_set_options",
             "params": {"action_on_timeout": "none", "timeout_us": 0,
                        "keep_alive_timeout_ms": 10000, "transport_retry_count": 4,
                        "bdev_retry_count": 3,
                        "dhchap_digests": ["sha256", "sha384", "sha512"]}},
            {"method": "bdev_nvme_set_hotplug", "params": {"period_us": 100000, "enable": False}},
            {"method": "bdev_malloc_create",
             "params": {"name": "Malloc0", "num_blocks": 2048, "block_size": 512,
                        "physical_block_size": 512, "uuid": "2f7a0c6e-9c1c-4d05-8a7e-0f5d6c1b9a33",
                        "optimal_io_boundary": 0, "md_size": 0, "dif_type": 0,
                        "dif_is_head_of_md": False, "dif_pi_format": 0, "numa_id": -1}},
            {"method": "bdev_wait_for_examine"}]},
        {"subsystem": "scsi", "config": None},
        {"subsystem": "nbd", "config": []},
        {"subsystem": "nvmf", "config": [
            {"method": "nvmf_set_config", "params": {"discovery_filter": "match_any"}},
            {"method": "nvmf_set_max_subsystems", "params": {"max_subsystems": 1024}}]},
        {"subsystem": "iscsi", "config": [
            {"method": "iscsi_set_options", "params": {"node_base": "iqn.2016-06.io.spdk"}}]},
    ]
}  # fmt: skip
"""What `save_config` of a spdk_tgt with one malloc bdev writes, cut short."""


def test_a_configuration_that_spdk_has_saved(start):
    """Options of what is not here are noted; nothing else is passed over."""
    daemon = start(config=SAVED_BY_SPDK)
    assert [b["name"] for b in daemon.client.call("bdev_get_bdevs")] == ["Malloc0"]
    noted = [line for line in daemon.stderr.splitlines() if "options of a module" in line]
    methods = ["raid_set_options", "iscsi_set_options", "nvme_set_options", "nvme_set_hotplug"]
    assert [line.split(": ")[-2] for line in noted] == [f"bdev_{method}" for method in methods]
    for subsystem in ("fsdev", "sock", "accel", "nvmf", "iscsi"):
        assert f"there is no subsystem {subsystem} here" in daemon.stderr


@pytest.mark.parametrize(
    "call",
    [
        ("bdev_nvme_set_option", {"timeout_us": 0}),
        ("bdev_nvme_attach_controller", {"name": "N", "trtype": "PCIe", "traddr": "0000:01:00.0"}),
        ("bdev_set_options", {"bdev_io_pool_sise": 1}),
        ("bdev_raid_create", {"name": "R", "raid_level": "raid0", "base_bdevs": ["N0"]}),
    ],
)
def test_a_mistake_in_a_configuration_is_one(tmp_path, call):
    (tmp_path / "c.json").write_text(json.dumps(config(null("N0"), call)))
    done = spdk_tgt("-c", str(tmp_path / "c.json"), "-r", str(tmp_path / "r.sock"), status=1)
    assert call[0] in done.stderr


def test_flags_of_components_that_are_not_here(start):
    """Scripts that debug SPDK start; a flag that SPDK has not is refused, as by SPDK."""
    daemon = start("-L", "vhost", "-L", "bdev", "-L", "nvm*", "-s", "64")
    (line,) = [line for line in daemon.stderr.splitlines() if "without a meaning" in line]
    assert line.endswith(" here: --mem-size --logflag vhost --logflag nvm*")
    flags = daemon.client.call("log_get_flags")
    assert [name for name, is_set in flags.items() if is_set] == ["bdev"]


def test_without_options(start):
    """One reactor, which may run anywhere; nothing to say."""
    daemon = start()
    (only,) = reactors(daemon)
    assert only["lcore"] == 0
    assert int(only["lw_threads"][0]["cpumask"], 16) == sum(1 << cpu for cpu in CPUS)
    assert "meaning" not in daemon.stderr


@pytest.mark.skipif(len(CPUS) < 2, reason="this machine has one cpu")
@pytest.mark.parametrize("form", ["mask", "list", "lcores"])
def test_reactors_on_cpus(start, form):
    first, second = CPUS[:2]
    words = {
        "mask": ["-m", hex(1 << first | 1 << second)],
        "list": ["--cpumask", f"[{first},{second}]"],
        "lcores": ["--lcores", f"{first},{second}@({second})"],
    }[form]
    daemon = start(*words, "-p", str(second))
    found = {one["lcore"]: int(one["lw_threads"][0]["cpumask"], 16) for one in reactors(daemon)}
    assert list(found.items()) == [(first, 1 << first), (second, 1 << second)]
    main = next(one for one in reactors(daemon) if one["tid"] == daemon.pid)
    assert main["lcore"] == second, "the main core's is the control plane's thread"
    assert "run on any cpu" not in daemon.stderr


def test_cpus_that_are_not_here(start):
    daemon = start("-m", "[1000,1002]")
    assert [one["lcore"] for one in reactors(daemon)] == [1000, 1002]
    lines = [line for line in daemon.stderr.splitlines() if "run on any cpu" in line]
    assert len(lines) == 1
    assert "core 1000" in lines[0]
    assert "core 1002" in lines[0]


def test_what_it_logs(start):
    """Notices; what components say for debugging with their flags; or neither."""
    daemon = start("-m", "[0,1000]")
    assert "Total cores available: 2" in daemon.stderr
    assert "Reactor started on core 1000" in daemon.stderr
    assert daemon.client.call("log_get_print_level") == "INFO"
    assert not any(daemon.client.call("log_get_flags").values())
    daemon = start("-L", "bdev", "--logflag", "RPC")
    assert daemon.client.call("log_get_print_level") == "DEBUG"
    flags = daemon.client.call("log_get_flags")
    assert {flag for flag, enabled in flags.items() if enabled} == {"bdev", "rpc"}
    daemon = start("--silence-noticelog")
    assert daemon.client.call("log_get_print_level") == "WARNING"
    assert daemon.stderr == ""


def test_rpcs_allowed(start):
    daemon = start("--rpcs-allowed", "spdk_get_version,rpc_get_methods,not_there")
    assert daemon.client.call("rpc_get_methods") == ["spdk_get_version", "rpc_get_methods"]
    for method in ("bdev_get_bdevs", "not_there"):
        with pytest.raises(RpcError) as caught:
            daemon.client.call(method)
        assert (caught.value.code, caught.value.message) == (-32601, "Method not found")
    assert "methods that are not there: not_there" in daemon.stderr


def test_rpcs_allowed_hold_for_the_configuration(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps(config(null("N0"))))
    words = ["-c", tmp_path / "c.json", "--rpcs-allowed", "bdev_get_bdevs", "--no-rpc-server"]
    done = spdk_tgt(*map(str, words), status=1)
    assert "bdev_null_create" in done.stderr


def test_configuration(start, tmp_path):
    made = config(null("N0"), ("bdev_set_options", {"bdev_io_pool_size": 4000}))
    assert [b["name"] for b in start(config=made).client.call("bdev_get_bdevs")] == ["N0"]
    file = tmp_path / "c.json"
    file.write_text(json.dumps(made))
    for option in ("-c", "--json"):
        daemon = start(option, file)
        assert [b["name"] for b in daemon.client.call("bdev_get_bdevs")] == ["N0"]


def test_configuration_from_a_pipe(tmp_path):
    words = [*COMMAND, "-c", "/dev/stdin", "-r", tmp_path / "r.sock"]
    with subprocess.Popen(list(map(str, words)), stdin=subprocess.PIPE, text=True) as process:
        process.stdin.write(json.dumps(config(null("N0"))))
        process.stdin.close()
        with Client.connect(str(tmp_path / "r.sock"), timeout_s=20) as client:
            assert [bdev.name for bdev in client.bdev_get_bdevs()] == ["N0"]
        process.terminate()
        assert process.wait(20) == 0


def test_configuration_that_fails(start, tmp_path):
    made = config(null("N0"), null("N0"), null("N1"))
    daemon = start("--json-ignore-init-errors", config=made)
    assert [b["name"] for b in daemon.client.call("bdev_get_bdevs")] == ["N0", "N1"]
    file = tmp_path / "c.json"
    file.write_text(json.dumps(made))
    done = spdk_tgt("-c", str(file), "-r", str(tmp_path / "r.sock"), status=1)
    assert "N0" in done.stderr
    assert not (tmp_path / "r.sock").exists()


def test_wait_for_rpc_then_the_pid_file(start, tmp_path):
    pid = tmp_path / "pid"
    daemon = start("--wait-for-rpc", "-f", str(pid), config=config(null("N0")))
    assert not pid.exists()
    with pytest.raises(RpcError, match="after framework is initialized"):
        daemon.client.call("bdev_get_bdevs")
    daemon.client.call("framework_start_init")
    daemon.client.call("framework_wait_init")
    assert pid.read_text() == f"{daemon.pid}\n"
    assert [b["name"] for b in daemon.client.call("bdev_get_bdevs")] == ["N0"]


def test_no_rpc_server(tmp_path):
    """It serves nothing, the configuration is carried out, and a signal ends it."""
    file, pid = tmp_path / "c.json", tmp_path / "pid"
    file.write_text(json.dumps(config(null("N0"))))
    socket = tmp_path / "r.sock"
    words = ["-c", file, "--no-rpc-server", "-r", socket, "-f", pid]
    with subprocess.Popen([*COMMAND, *map(str, words)]) as process:
        wait_until(pid.exists)
        assert not socket.exists()
        process.terminate()
        assert process.wait(20) == 0


def test_pid_file_that_can_not_be_written(tmp_path):
    done = spdk_tgt("-f", "/nowhere/pid", "-r", str(tmp_path / "r.sock"), status=1)
    assert "Couldn't create pid file '/nowhere/pid': No such file or directory" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it(start, tmp_path, number):
    """Status 0, and no file is left."""
    pid = tmp_path / "pid"
    daemon = start("-f", str(pid))
    before = set(daemon.directory.iterdir())
    assert Path(daemon.rpc_socket) in before
    assert pid.exists()
    daemon.stop(number)
    assert not pid.exists()
    left = {path.name for path in daemon.directory.iterdir()}
    assert left == {"stdout", "stderr"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_more_signals_change_nothing(start, number):
    """While it stops, and as its process ends: a handler of Python's is gone before that has."""
    daemon = start()
    while daemon.is_running:
        with contextlib.suppress(ProcessLookupError):
            os.kill(daemon.pid, number)
        time.sleep(0.0005)
    assert daemon.wait() == 0


def test_a_second_one_on_the_socket_is_refused(start):
    daemon = start()
    done = spdk_tgt("-r", daemon.rpc_socket, status=1)
    assert daemon.rpc_socket in done.stderr
    assert daemon.client.call("bdev_get_bdevs") == []


def test_core_dumps(start):
    """The limit is 5 GiB, or all that is allowed; with -d it stays."""

    def limit(daemon):
        text = Path(f"/proc/{daemon.pid}/limits").read_text()
        return re.search(r"Max core file size +(\S+) +(\S+)", text).groups()

    _, most = limit(start("-d"))
    expected = str(5 << 30) if most == "unlimited" else str(min(5 << 30, int(most)))
    assert limit(start()) == (expected, most)


def test_called_spdk_tgt(tmp_path):
    """A link of that name, where a script looks for it."""
    link = tmp_path / "spdk_tgt"
    main = "import sys; from vbdev.cli import main; sys.exit(main())"
    link.write_text(f"#!{sys.executable}\n{main}\n")
    link.chmod(0o755)
    done = subprocess.run([link, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("SPDK v")


def test_unchanged_client(start):
    """SPDK's own command takes it for a target."""
    socket = start("-m", "0x1").rpc_socket
    made = clients.run("spdk-rpc", "-s", socket, "bdev_malloc_create", "1", "512", "-b", "M0")
    assert made.strip() == "M0"
    with Client(socket) as client:
        assert [bdev.name for bdev in client.bdev_get_bdevs()] == ["M0"]


def wait_until(condition, timeout_s=20):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.01)
