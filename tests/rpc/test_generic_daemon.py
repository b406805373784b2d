"""Generic methods against a whole daemon: signals end it, levels change what it writes."""

import contextlib
import logging
import os
import signal
import time

import pytest

from support.daemon import Daemon
from vbdev.api.errors import RpcError
from vbdev.cli import main
from vbdev.daemon.signals import STOP_SIGNALS

TIMEOUT_S = 10


def until(condition):
    """Wait until a condition holds."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("name", "status"), [("SIGTERM", 0), ("SIGKILL", -9), ("SIGHUP", 0), ("SIGQUIT", 0)]
)
def test_kill(serve, name, status):
    daemon = serve("malloc:1MiB")
    assert daemon.rpc.call("spdk_kill_instance", sig_name="SIGUSR1") is True
    assert daemon.rpc.call("spdk_kill_instance", sig_name=name) is True
    assert daemon.wait() == status
    daemon.check_log()


def test_the_log_while_it_runs(serve):
    daemon = serve("malloc:1MiB")
    rpc = daemon.rpc
    assert rpc.call("log_get_print_level") == "WARNING"

    def create(name):
        rpc.call("bdev_malloc_create", name=name, num_blocks=8, block_size=512)
        rpc.call("bdev_malloc_delete", name=name)

    create("Silent")
    rpc.call("log_set_print_level", level="INFO")
    create("Flagless")
    rpc.call("log_set_flag", flag="bdev")
    rpc.call("log_enable_timestamps", enabled=False)
    create("Told")
    assert "INFO vbdev.registry.removal bdev unregistered name=Told" in daemon.stderr.splitlines()
    rpc.call("log_clear_flag", flag="bdev")
    create("Cleared")
    for name in ("Silent", "Flagless", "Cleared"):
        assert name not in daemon.stderr


def test_the_level_on_the_command_line_sets_the_flags(serve):
    daemon = serve("malloc:1MiB", "--log-level", "info")
    assert daemon.rpc.call("log_get_print_level") == "INFO"
    assert all(daemon.rpc.call("log_get_flags").values())
    assert "INFO vbdev.registry.registry bdev registered" in daemon.stderr


def test_context_switches_are_told(serve):
    daemon = serve("malloc:1MiB", "--reactors", "2")
    method = "framework_monitor_context_switch"
    assert daemon.rpc.call(method) == {"enabled": True}
    names = [one["timed_pollers"] for one in daemon.rpc.call("thread_get_pollers")["threads"]]
    assert "context_switch_monitor" not in str(names)  # as long as nobody would hear of it
    daemon.rpc.call("log_set_print_level", level="INFO")
    daemon.rpc.call("log_set_flag", flag="reactor")
    until(lambda: daemon.stderr.count(" involuntary context switches in the last second.") >= 2)
    assert "Reactor 0: " in daemon.stderr
    assert daemon.rpc.call(method, enabled=False) == {"enabled": False}


def test_what_has_no_meaning_here_is_an_unknown_method(serve):
    daemon = serve("malloc:1MiB")
    for method in (
        "framework_enable_cpumask_locks",
        "framework_disable_cpumask_locks",
        "framework_get_pci_devices",
        "scheduler_set_options",
        "env_dpdk_get_mem_stats",
        "trace_get_info",
        "trace_enable_tpoint_group",
        "trace_clear",
    ):
        with pytest.raises(RpcError) as caught:
            daemon.rpc.call(method)
        assert (caught.value.code, caught.value.message) == (-32601, "Method not found")


def test_the_log_before_framework_start_init(tmp_path):
    directory = tmp_path / "early"
    directory.mkdir()
    daemon = Daemon(directory, "malloc:1MiB", "--wait-for-rpc")
    with contextlib.closing(daemon):
        daemon.start()
        assert daemon.rpc.call("log_set_print_level", level="INFO") is True
        assert daemon.rpc.call("framework_set_scheduler", name="static") is True
        with pytest.raises(RpcError, match="framework_start_init RPC"):
            daemon.rpc.call("log_enable_timestamps", enabled=False)
        daemon.rpc.call("framework_start_init")
        assert daemon.rpc.call("log_get_print_level") == "INFO"


def test_a_thread_is_bound_to_a_cpu(serve):
    daemon = serve("malloc:1MiB", "--reactors", "2")
    tids = [one["tid"] for one in daemon.rpc.call("framework_get_reactors")["reactors"]]
    cpu = max(os.sched_getaffinity(daemon.pid))
    assert daemon.rpc.call("thread_set_cpumask", id=2, cpumask=f"[{cpu}]") is True
    assert os.sched_getaffinity(tids[1]) == {cpu}
    assert os.sched_getaffinity(tids[0]) == os.sched_getaffinity(0)
    masks = [one["cpumask"] for one in daemon.rpc.call("thread_get_stats")["threads"]]
    assert masks == [f"{sum(1 << one for one in os.sched_getaffinity(0)):x}", f"{1 << cpu:x}"]


def test_serve_leaves_the_log_as_it_was(tmp_path, capsys):
    before = logging.getLogger().handlers[:], logging.getLogger().level
    words = ["serve", "malloc:1KiB,block_size=1", "--rpc-socket", str(tmp_path / "r.sock")]
    caught = (*STOP_SIGNALS, signal.SIGUSR1, signal.SIGUSR2)
    signals = {number: signal.getsignal(number) for number in caught}
    try:
        assert main(words) == 1
    finally:  # processes that later tests start would inherit what a command leaves at its end
        for number, handler in signals.items():
            signal.signal(number, handler)
    assert "vbdev serve: " in capsys.readouterr().err
    assert (logging.getLogger().handlers, logging.getLogger().level) == before
