"""spdk-rpc's own ways: batches, many commands on its standard input, configurations, TCP.

What each single command does is in test_run.py.
"""

import json
import re
import subprocess
import sys

import pytest

from support.clients import find, missing, run

pytestmark = pytest.mark.client

NULLS = "bdev_null_create N{} 8 512\n"


@pytest.fixture
def daemon(serve):
    if find("spdk-rpc") is None:
        missing("spdk is not installed")
    return serve("malloc:16MiB", nbd=[])


def names(daemon):
    return [bdev["name"] for bdev in daemon.rpc.call("bdev_get_bdevs")][1:]


def rpc(daemon, *words, ok=0, **options):
    return run("spdk-rpc", "-s", daemon.rpc_socket, *words, ok=ok, **options)


def test_many_commands(daemon):
    script = NULLS.format(1) + "# a comment\n\n" + NULLS.format(2) + "bdev_null_delete N1\n"
    rpc(daemon, input=script)
    assert names(daemon) == ["N2"]


def test_many_commands_end_with_the_first_that_fails(daemon):
    said = rpc(daemon, input="bdev_null_delete N1\n" + NULLS.format(2), ok=1)
    assert "bdev_null_delete N1 <<<" in said
    assert '"code": -19' in said
    assert names(daemon) == []


def test_a_batch(daemon):
    said = rpc(daemon, "--batch-mode", input=NULLS.format(1) + NULLS.format(2))
    assert [line for line in said.splitlines() if line.startswith('"')] == ['"N1"', '"N2"']
    assert names(daemon) == ["N1", "N2"]


def test_a_batch_of_which_some_fail(daemon):
    said = rpc(daemon, "-b", input="bdev_null_delete N9\n" + NULLS.format(1), ok=1)
    assert '"code": -19' in said
    assert '"message": "No such device"' in said
    assert names(daemon) == ["N1"]


def test_a_batch_through_the_class(daemon):
    from spdk.rpc.client import JSONRPCClient

    with JSONRPCClient(daemon.rpc_socket, batch_mode=True) as client:
        client.bdev_null_create(name="N1", num_blocks=8, block_size=512)
        client.bdev_get_bdevs(name="none")
        client.spdk_get_version()
        assert client.send_batch()
        results, errors = client.handle_batch_response(client.recv())
    assert results[0] == "N1"
    assert results[1]["version"].startswith("SPDK") or results[1]["fields"]
    assert [(error["code"], error["message"]) for error in errors] == [(-19, "No such device")]


def test_requests_one_behind_the_other_through_the_class(daemon):
    from spdk.rpc.client import JSONRPCClient

    with JSONRPCClient(daemon.rpc_socket) as client:
        asked = [client.add_request("bdev_get_bdevs", {"name": "Malloc0"}) for _ in range(100)]
        client.flush()
        answered = [client.recv() for _ in asked]
    assert [answer["id"] for answer in answered] == asked
    assert {answer["result"][0]["name"] for answer in answered} == {"Malloc0"}


def test_the_configuration_goes_out_and_in(daemon, serve, tmp_path):
    rpc(daemon, input=NULLS.format(1) + "bdev_passthru_create -b N1 -p P\n")
    saved = rpc(daemon, "save_config")
    part = rpc(daemon, "save_subsystem_config", "-n", "bdev")
    assert json.loads(part) in json.loads(saved)["subsystems"]
    other = serve(nbd=[])
    rpc(other, "load_config", input=saved)
    assert rpc(other, "save_config") == saved
    third = serve(nbd=[])
    (tmp_path / "part.json").write_text(part)
    rpc(third, "load_subsystem_config", "-j", tmp_path / "part.json")
    assert rpc(third, "save_subsystem_config", "-n", "bdev") == part


def test_it_waits_for_a_daemon_that_is_not_there_yet(daemon):
    address = daemon.rpc_socket
    daemon.stop()
    waiting = subprocess.Popen(
        [sys.executable, find("spdk-rpc"), "-s", address, "-r", "100", "bdev_get_bdevs"],
        stdout=subprocess.PIPE,
        text=True,
    )
    daemon.start()
    printed, _ = waiting.communicate(timeout=30)
    assert [bdev["name"] for bdev in json.loads(printed)] == ["Malloc0"]


def test_a_method_that_spdk_has_and_vbdev_has_not(daemon):
    said = rpc(daemon, "nvmf_get_subsystems", ok=1)
    assert '"code": -32601' in said
    assert '"message": "Method not found"' in said


@pytest.fixture
def tcp():
    """Return the port of a daemon that listens on the loopback interface."""
    if find("spdk-rpc") is None:
        missing("spdk is not installed")
    daemon = subprocess.Popen(
        [sys.executable, "-m", "vbdev", "serve", "malloc:1MiB", "--rpc-socket", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        for line in daemon.stdout:
            if found := re.search(r"rpc\s+tcp:127\.0\.0\.1:(\d+)", line):
                break
        else:
            pytest.fail("it ended, and did not say where it listens")
        yield found[1]
        daemon.terminate()
        assert daemon.wait(20) == 0
    finally:
        daemon.kill()
        daemon.communicate()


def test_over_tcp(tcp):
    printed = run("spdk-rpc", "-s", "127.0.0.1", "-p", tcp, "bdev_get_bdevs", "-b", "Malloc0")
    assert json.loads(printed)[0]["num_blocks"] == 2048
    said = run("spdk-rpc", "-s", "127.0.0.1", "-p", tcp, "bdev_malloc_delete", "none", ok=1)
    assert '"code": -19' in said
