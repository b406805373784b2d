"""`vbdev serve --reactors N` from outside: what it says of itself, costs, and how it ends."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from support.clients import run
from support.nbd_client import NbdClient
from vbdev.vocab import NbdError
from vbdev.wire.nbd import Command

MIB = 1 << 20


def thread_switches(daemon):
    """Return the voluntary context switches of all threads together."""
    total = 0
    for task in Path(f"/proc/{daemon.pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                total += int(line.split()[1])
    return total


def test_idle_reactors_cost_nothing(serve, tmp_path):
    """Also after work on all of them, with a ring on each, and clients that are silent now."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(MIB))
    daemon = serve(disk, "--layer", "passthru", "--reactors", 3)
    clients = [NbdClient(daemon.socket) for _ in range(6)]
    for client in clients:
        for n in range(20):
            client.write(n * 4096, bytes(4096))
        client.flush()
    time.sleep(0.2)
    before = daemon.cpu_ticks(), thread_switches(daemon)
    time.sleep(1.5)
    assert (daemon.cpu_ticks(), thread_switches(daemon)) == before
    for client in clients:
        client.close()


def test_what_the_methods_say(serve):
    daemon = serve("malloc:8MiB", "--layer", "passthru", "--reactors", 3)
    clients = [NbdClient(daemon.socket) for _ in range(4)]
    for client in clients:
        client.read(0, 4096)
    names = ["app_thread", "reactor_1", "reactor_2"]

    stats = daemon.rpc.call("thread_get_stats")
    assert stats["tick_rate"] == 1_000_000_000
    assert [(t["name"], t["id"]) for t in stats["threads"]] == [*zip(names, (1, 2, 3), strict=True)]
    for thread in stats["threads"]:
        assert list(thread) == [
            "name",
            "id",
            "cpumask",
            "busy",
            "idle",
            "active_pollers_count",
            "timed_pollers_count",
            "paused_pollers_count",
        ]
        assert thread["busy"] > 0
        assert int(thread["cpumask"], 16) > 0

    reactors = daemon.rpc.call("framework_get_reactors")
    assert reactors["pid"] == daemon.pid
    assert [r["lcore"] for r in reactors["reactors"]] == [0, 1, 2]
    tids = {r["tid"] for r in reactors["reactors"]}
    assert tids <= {int(task.name) for task in Path(f"/proc/{daemon.pid}/task").iterdir()}
    assert len(tids) == 3
    for reactor, name in zip(reactors["reactors"], names, strict=True):
        (thread,) = reactor["lw_threads"]
        assert thread["name"] == name
        assert thread["elapsed"] == reactor["busy"] + reactor["idle"]

    channels = daemon.rpc.call("thread_get_io_channels")
    refs = [{c["name"]: c["ref"] for c in thread["io_channels"]} for thread in channels["threads"]]
    assert refs == [
        {"bdev_Malloc0": 1, "bdev_Passthru0": 2},
        {"bdev_Malloc0": 1, "bdev_Passthru0": 1},
        {"bdev_Malloc0": 1, "bdev_Passthru0": 1},
    ]
    pollers = daemon.rpc.call("thread_get_pollers")
    assert [list(t) for t in pollers["threads"]] == [
        ["name", "id", "active_pollers", "timed_pollers", "paused_pollers"]
    ] * 3
    for client in clients:
        client.close()


def test_the_end_under_load(serve, tmp_path):
    """SIGTERM while clients of every reactor write to a file: what was acknowledged is there."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(8 * MIB))
    daemon = serve(disk, "--layer", "passthru", "--reactors", 3)
    acknowledged = [0] * 6

    def write(number):
        with NbdClient(daemon.socket) as client:
            try:
                while True:
                    block = acknowledged[number] % 256
                    at = (number * 256 + block) * 4096
                    client.write(at, bytes([acknowledged[number] // 256 + 1]) * 4096)
                    acknowledged[number] += 1
            except ConnectionError:
                pass

    writers = [threading.Thread(target=write, args=(n,)) for n in range(6)]
    for writer in writers:
        writer.start()
    while min(acknowledged) < 20:
        time.sleep(0.005)
    daemon.stop(signal.SIGINT)
    for writer in writers:
        writer.join(20)
    data = disk.read_bytes()
    for number, count in enumerate(acknowledged):
        for block in range(min(count, 256)):
            written = data[(number * 256 + block) * 4096]
            assert written >= (count - 1 - block) // 256 + 1


def test_a_second_interrupt_stops_at_once(serve, tmp_path):
    """While a reactor is stuck in a module."""
    module = tmp_path / "stuck.py"
    module.write_text(
        "import time\n"
        "from vbdev.bdev import VirtualBdev\n"
        "from vbdev.vocab import Op\n"
        "class Stuck(VirtualBdev):\n"
        "    kind = 'stuck'\n"
        "    def submit(self, channel, ios):\n"
        "        writes = ios.take(Op.WRITE)\n"
        "        if len(writes):\n"
        "            time.sleep(60)\n"
        "        writes.extend(ios)\n"
        "        channel.base.submit(writes)\n"
    )
    daemon = serve("--module", module, "malloc:8MiB", "--layer", "stuck", "--reactors", 2)
    first, second = NbdClient(daemon.socket), NbdClient(daemon.socket)
    second.start(Command.WRITE, 0, 0, 0, bytes(4096))
    time.sleep(0.3)
    assert daemon.rpc.call("spdk_get_version")  # the first reactor serves on
    began = time.monotonic()
    while daemon.exit_status is None:  # signals that come together count as one
        os.kill(daemon.pid, signal.SIGINT)
        time.sleep(0.3)
        assert time.monotonic() - began < 15
    assert daemon.wait() == 1
    first.close()
    second.close()


@pytest.mark.parametrize("word", ["0", "-1", "1025", "many", "1.5", ""])
def test_a_number_that_is_none(word):
    done = subprocess.run(
        [sys.executable, "-m", "vbdev", "serve", "null:1MiB", "--reactors", word],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 2
    assert "is no number from 1 to 1024" in done.stderr


def test_more_reactors_than_there_are_descriptors_for(tmp_path):
    command = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64));"
        "from vbdev.cli import main;"
        f"sys.exit(main(['serve', 'null:1MiB', '--reactors', '100',"
        f" '--rpc-socket', '{tmp_path}/r.sock']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 1
    assert "100 reactors are too many here" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.rule("A.2.26")
def test_a_resize_reaches_the_clients_that_ask(serve):
    """Up the stack to the NBD protocol: libnbd asks anew, and is told."""
    daemon = serve("null:1MiB", "--layer", "passthru", "--layer", "passthru", "--reactors", 2)
    with NbdClient(daemon.socket) as old:
        daemon.rpc.call("bdev_null_resize", name="Null0", new_size=3)
        for client in ("first", "second"):
            assert run("nbdinfo", "--size", daemon.uri()).strip() == str(3 * MIB), client
        assert "3145728" in run("nbdinfo", "--list", daemon.uri())
        assert old.ask(Command.READ, MIB, 4096).error is NbdError.EINVAL
        old.read(MIB - 4096, 4096)


def comm(task):
    return (task / "comm").read_text().strip()


def test_the_kernel_knows_the_reactors_by_name(serve):
    """What `top -H` and `ps -L` show, as of SPDK's."""
    daemon = serve("malloc:8MiB", "--reactors", 3)
    tasks = Path(f"/proc/{daemon.pid}/task")
    told = {
        r["tid"]: f"reactor_{r['lcore']}"
        for r in daemon.rpc.call("framework_get_reactors")["reactors"]
    }
    assert {tid: comm(tasks / str(tid)) for tid in told} == told
    others = [comm(task) for task in tasks.iterdir() if int(task.name) not in told]
    assert not [name for name in others if name.startswith("reactor_")]
