"""Exports on a server's exports, where that server is this daemon, or a client of it.

Whoever reads the upper export holds memory and BdevIOs until the lower one has answered, which
needs memory and BdevIOs for the same data. Pools are small, and clients more than fill them.
"""

import contextlib
import os
import signal
import threading

import pytest

from support.foreign_server import free_port
from support.nbd_client import NbdClient
from vbdev.testing.daemon import Daemon, DaemonError
from vbdev.wire.nbd import Command

KIB, MIB = 1 << 10, 1 << 20
POOL_BYTES = 8 * MIB
NUM_IOS = 32
CLIENTS = 24
ROUNDS = 3
TIMEOUT_S = 30

CONFIG = {
    "subsystems": [
        {
            "subsystem": "iobuf",
            "config": [
                {
                    "method": "iobuf_set_options",
                    "params": {
                        "small_pool_count": 64,
                        "large_pool_count": 8,
                        "small_bufsize": 4 * KIB,
                        "large_bufsize": (POOL_BYTES - 256 * KIB) // 8,
                    },
                }
            ],
        },
        {
            "subsystem": "bdev",
            "config": [
                {
                    "method": "bdev_set_options",
                    "params": {"bdev_io_pool_size": NUM_IOS, "bdev_io_cache_size": 1},
                },
                {
                    "method": "bdev_malloc_create",
                    "params": {"name": "M0", "num_blocks": 8192, "block_size": 512},
                },
            ],
        },
    ]
}


@pytest.fixture
def daemons(tmp_path):
    with contextlib.ExitStack() as undo:

        def start(name, *words):
            (tmp_path / name).mkdir()
            socket = str(tmp_path / name / "n")
            daemon = undo.enter_context(
                Daemon(
                    "--nbd",
                    f"unix:{socket}",
                    *words,
                    command="serve",
                    config=CONFIG,
                    directory=tmp_path / name,
                )
            )
            daemon.client.nbd_export_add(bdev_name="M0")
            return daemon, socket

        yield start


def put_above(daemon, name, socket, export):
    """Make a bdev of what a server exports, and export it."""
    uri = f"nbd+unix:///{export}?socket={socket}"
    daemon.client.bdev_nbd_create(name=name, uri=uri)
    daemon.client.nbd_export_add(bdev_name=name)


def use(socket, export, command, length, at_once):
    """Have many clients ask for much, again and again; return how often each was answered."""
    answered = {}

    def one(number):
        with NbdClient(socket, export, timeout_s=TIMEOUT_S) as client:
            for _ in range(ROUNDS):
                for _ in range(at_once):
                    data = bytes([number]) * length if command is Command.WRITE else b""
                    client.start(command, 0, length, 0, data)
                client.wait_all()
                answered[number] = answered.get(number, 0) + 1
            client.ask(Command.FLUSH)
            client.disconnect()

    threads = [threading.Thread(target=one, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answered


SHAPES = {
    "large": (Command.READ, 2 * MIB, 1),
    "large writes": (Command.WRITE, 2 * MIB, 1),
    "many": (Command.READ, 4 * KIB, 2 * NUM_IOS),
    "many writes": (Command.WRITE, 512, 2 * NUM_IOS),
}


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_on_an_export_of_its_own(daemons, shape, depth):
    daemon, socket = daemons("a")
    export = "M0"
    for level in range(depth):
        put_above(daemon, f"N{level}", socket, export)
        export = f"N{level}"
    assert use(socket, export, *shape) == dict.fromkeys(range(CLIENTS), ROUNDS)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_two_that_stand_on_each_other(daemons, shape):
    first, first_socket = daemons("a")
    second, second_socket = daemons("b")
    put_above(first, "N0", second_socket, "M0")
    put_above(second, "N0", first_socket, "M0")
    answered = {}
    threads = [
        threading.Thread(
            target=lambda socket=socket: answered.update({socket: use(socket, "N0", *shape)})
        )
        for socket in (first_socket, second_socket)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(answered.values()) == [dict.fromkeys(range(CLIENTS), ROUNDS)] * 2


@pytest.mark.parametrize("reactors", [1, 2])
@pytest.mark.parametrize("scheme", ["unix", "tcp"])
@pytest.mark.parametrize("depth", [1, 3])
def test_the_stop_flushes_through_our_own_exports(tmp_path, depth, scheme, reactors):
    """What was written and not flushed is no loss, and no complaint, when the daemon ends.

    On each level somebody has written without a FLUSH, and the client of the top is there still.
    """
    address, uri = f"unix:{tmp_path}/n", f"nbd+unix:///{{}}?socket={tmp_path}/n"
    if scheme == "tcp":
        port = free_port()
        address, uri = f"tcp:127.0.0.1:{port}", f"nbd://127.0.0.1:{port}/{{}}"
    with contextlib.ExitStack() as undo:
        daemon = undo.enter_context(
            Daemon(
                "--nbd",
                address,
                "--reactors",
                str(reactors),
                command="serve",
                config=CONFIG,
                directory=tmp_path,
            )
        )
        daemon.client.nbd_export_add(bdev_name="M0")
        names = ["M0"]
        for level in range(depth):
            name = f"N{level}"
            daemon.client.bdev_nbd_create(name=name, uri=uri.format(names[-1]), connections=2)
            daemon.client.nbd_export_add(bdev_name=name)
            names.append(name)
        where = f"{tmp_path}/n" if scheme == "unix" else ("127.0.0.1", port)
        clients = [undo.enter_context(NbdClient(where, name)) for name in names]
        for number, client in enumerate(clients):
            client.write(number * 64 * KIB, bytes([number + 1]) * 64 * KIB)
        daemon.stop()
        assert daemon.exit_status == 0, daemon.stderr
        assert "CRITICAL" not in daemon.stderr
        assert "Traceback" not in daemon.stderr


def test_a_server_that_hangs_does_not_keep_the_stop_from_its_end(daemons):
    """One of the bdevs is a client of a process that is stopped; the others are flushed."""
    first, first_socket = daemons("a")
    second, second_socket = daemons("b")
    put_above(first, "N0", first_socket, "M0")
    first.client.bdev_nbd_create(
        name="Far", uri=f"nbd+unix:///M0?socket={second_socket}", timeout=2, reconnect_delay=2
    )
    first.client.nbd_export_add(bdev_name="Far")
    with NbdClient(first_socket, "N0") as client, NbdClient(first_socket, "Far") as far:
        client.write(0, bytes(64 * KIB))
        far.write(0, bytes(64 * KIB))
        os.kill(second.pid, signal.SIGSTOP)
        try:
            with pytest.raises(DaemonError, match="bdev 'Far'"):
                first.stop()
            assert first.exit_status == 1
            assert "bdev 'N0'" not in first.stderr
            assert "Traceback" not in first.stderr
        finally:
            os.kill(second.pid, signal.SIGCONT)
