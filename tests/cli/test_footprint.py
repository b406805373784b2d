"""What a daemon costs: nothing while idle, little for a client, not much to begin with.

Method: a daemon as a subprocess and the kernel's accounts of it in /proc. The figures are printed
(`pytest -s`); the bounds are there to notice what grows.
"""

import contextlib
import resource
import statistics
import time

import pytest

from support.daemon import Daemon
from support.nbd_client import NbdClient
from vbdev.client import Client

IDLE_S = 2.0
CLIENTS = 1000
FDS_NEEDED = 2 * CLIENTS + 200


@pytest.fixture
def many_fds():
    """Let this process, and the daemons it starts, have as many descriptors as the test needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FDS_NEEDED:
        pytest.skip(f"{hard} descriptors are allowed, {FDS_NEEDED} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, FDS_NEEDED), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def cost_of_idling(daemon):
    """Return (clock ticks, voluntary context switches) that a while of nothing takes."""
    time.sleep(0.2)
    ticks, switches = daemon.cpu_ticks(), daemon.status("voluntary_ctxt_switches")
    time.sleep(IDLE_S)
    return daemon.cpu_ticks() - ticks, daemon.status("voluntary_ctxt_switches") - switches


def test_idle_daemon_sleeps(serve):
    daemon = serve("malloc:64MiB", "--layer", "passthru")
    assert cost_of_idling(daemon) == (0, 0)


def test_idle_daemon_with_a_file_and_clients_sleeps(serve, tmp_path):
    """Also after work, with a ring and with clients that are connected and silent."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    daemon = serve(disk, "--layer", "passthru")
    with NbdClient(daemon.socket) as one, NbdClient(daemon.socket):
        for _ in range(100):
            one.write(0, bytes(4096))
        one.flush()
        assert cost_of_idling(daemon) == (0, 0)


@pytest.mark.usefixtures("many_fds")
def test_memory_of_a_client(serve):
    """A thousand clients in transmission, which have all done something and are idle now."""
    daemon = serve("malloc:64MiB", "--layer", "passthru")
    with contextlib.ExitStack() as stack:
        stack.enter_context(NbdClient(daemon.socket)).read(0, 4096)
        before = daemon.rss_kib()
        for _ in range(CLIENTS):
            client = stack.enter_context(NbdClient(daemon.socket))
            assert client.read(0, 4096) == bytes(4096)
        each = (daemon.rss_kib() - before) / CLIENTS
        print(f"{each:.1f} KiB for each of {CLIENTS} idle clients")
        assert each < 100
        assert client.read(0, 4096) == bytes(4096)


def test_memory_at_the_start(serve):
    daemon = serve("malloc:64MiB", "--layer", "passthru")
    print(f"{daemon.rss_kib() / 1024:.1f} MiB resident before any I/O")
    assert daemon.rss_kib() < 60 << 10


def test_threads(serve):
    """One reactor is one thread; what a file needs beyond it is there when it is needed."""
    daemon = serve("malloc:64MiB", "--layer", "passthru")
    with NbdClient(daemon.socket) as client:
        client.write(0, bytes(4096))
        assert daemon.status("Threads") == 1


@pytest.mark.alone
def test_time_to_the_first_answer(tmp_path):
    """From the command to the first answered RPC, a malloc disk and a passthru layer included."""
    times = []
    for number in range(3):
        directory = tmp_path / str(number)
        directory.mkdir()
        daemon = Daemon(directory, "malloc:64MiB", "--layer", "passthru")
        began = time.monotonic()
        try:
            daemon.start()
            with Client(daemon.rpc_socket) as rpc:
                rpc.call("bdev_get_bdevs")
            times.append(time.monotonic() - began)
        finally:
            daemon.close()
    shown = ", ".join(f"{t:.2f}" for t in times)
    print(f"first answer after {shown} s")
    assert statistics.median(times) < 0.5, shown
