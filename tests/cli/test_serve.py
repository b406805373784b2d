"""`vbdev serve`: what it prints, whom it serves, how it ends.

Method: the command as a user types it, in a subprocess; what it refuses is in
`test_serve_refusals.py`. Ended by a signal, it has exit status 0 and leaves no socket (the helper
`Daemon` looks).
"""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.clients import requires
from support.nbd_client import NbdClient

MALLOC = "malloc:1MiB"


@pytest.mark.rule("A.6.9", "A.6.10")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ends_in_order(serve, number):
    daemon = serve(MALLOC, "--layer", "passthru")
    with NbdClient(daemon.socket) as client:
        client.write(0, b"x" * 512)
        daemon.stop(number)
        assert client.at_end()


SIGNAL_TO_ANOTHER_THREAD = """
import signal, threading, time
from vbdev.daemon.app import App
threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
app = App()
app.reactor.call_later(300_000, lambda: print("asleep", flush=True))
raise SystemExit(app.run())
"""


def test_signal_that_does_not_interrupt_the_sleep():
    """One that another thread received, or that came just before, wakes the daemon all the same."""
    command = [sys.executable, "-c", SIGNAL_TO_ANOTHER_THREAD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "asleep\n"
            time.sleep(0.1)
            process.terminate()
            assert process.wait(10) == 0
        finally:
            process.kill()


@pytest.mark.client
@pytest.mark.parametrize("directory", ["plain", "with space & percent%41'quote"])
@pytest.mark.parametrize("transport", ["unix", "tcp"])
def test_printed_command_works(serve, tmp_path_factory, directory, transport):
    """The last line can be pasted into a shell."""
    requires("nbdinfo")
    place = tmp_path_factory.mktemp("p") / directory  # a socket's path has room for 107 bytes
    place.mkdir()
    address = f"unix:{place}/v.sock" if transport == "unix" else "tcp:127.0.0.1:0"
    daemon = serve(MALLOC, "--layer", "passthru", nbd=[address])
    text = daemon.stdout
    assert "  bdev   Malloc0 > Passthru0, 1 MiB\n" in text
    assert "  export Passthru0 (default), read-write\n" in text
    command = text.splitlines()[-1].removeprefix("try: ")
    assert command.startswith("nbdinfo ")
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, check=False, cwd="/", timeout=20
    )
    assert done.returncode == 0, command + done.stderr
    assert 'export="Passthru0"' in done.stdout


def test_read_only(serve, tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(b"\x07" * (1 << 20))
    path.chmod(0o400)
    daemon = serve(path, "--layer", "passthru", "--read-only")
    assert "export Passthru0 (default), read-only" in daemon.stdout
    with NbdClient(daemon.socket) as client:
        assert client.read(4096, 4096) == b"\x07" * 4096
        assert client.ask(1, 0, 4096, 0, bytes(4096)).error.name == "EPERM"
    daemon.stop()
    assert path.read_bytes() == b"\x07" * (1 << 20)


def test_sockets_are_private(serve):
    daemon = serve(MALLOC)
    for path in (daemon.socket, daemon.rpc_socket):
        assert Path(path).stat().st_mode & 0o777 == 0o600


@pytest.mark.rule("A.22.6")
def test_config_is_what_save_config_gives(serve, tmp_path):
    """A daemon started from the configuration of another one has the same disks and exports."""
    first = serve(MALLOC, "--layer", "passthru,name=Top")
    subsystems = [
        {"subsystem": name, "config": first.rpc.call("framework_get_config", name=name)}
        for name in ("bdev", "nbd")
    ]
    exports = first.rpc.call("nbd_get_exports")
    bdevs = first.rpc.call("bdev_get_bdevs")
    first.stop()
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"subsystems": subsystems}))
    second = serve("--config", path, nbd=[])
    assert second.rpc.call("nbd_get_exports") == exports
    names = [(b["name"], b["uuid"], b["num_blocks"]) for b in second.rpc.call("bdev_get_bdevs")]
    assert names == [(b["name"], b["uuid"], b["num_blocks"]) for b in bdevs]
    with NbdClient(first.socket, "Top") as client:
        assert client.size == 1 << 20


def test_stale_sockets_are_taken_over(serve):
    daemon = serve(MALLOC)
    daemon.kill()
    assert Path(daemon.socket).exists()
    daemon.start()
    with NbdClient(daemon.socket) as client:
        assert client.size == 1 << 20


def test_a_signal_during_start_up_counts(tmp_path):
    """It stops the daemon in order as soon as that is up, and leaves nothing behind."""
    code = (
        "import os, signal, sys\n"
        "from vbdev.daemon.app import App\n"
        "from vbdev.cli import main\n"
        "create = App.create\n"
        "def interrupted(self, kind, params):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return create(self, kind, params)\n"
        "App.create = interrupted\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    words = ["serve", "malloc:1MiB", "--nbd", "unix:v.sock", "--rpc-socket", "r.sock"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(tmp_path.iterdir())
