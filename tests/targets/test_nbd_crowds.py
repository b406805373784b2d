"""Many clients, and clients that never listen, against a whole daemon: memory and descriptors.

Method: `vbdev serve malloc:` as a subprocess; /proc says how much it has. Bounds are generous:
they are for what grows without end, not for what a client costs (see `tests/cli`).
"""

import contextlib
import socket
import time

from support.nbd_client import NbdClient, connect, header
from vbdev.wire.nbd import Command
from vbdev.wire.nbd.constants import CLIENT_FLAGS, OPTION_MAGIC

MIB_IN_KIB = 1024


def send_all_it_takes(connection, data, quiet_s=0.3):
    """Send until nothing more is taken; return how many bytes went."""
    connection.settimeout(quiet_s)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < len(data):
            sent += connection.send(data[sent : sent + (1 << 16)])
    return sent


def test_10000_connects_and_drops(serve):
    """With nothing sent, half a handshake, or a whole one before the end."""
    daemon = serve("malloc:1MiB")
    half = CLIENT_FLAGS.pack(1) + OPTION_MAGIC

    def crowd(count):
        for number in range(count):
            with connect(daemon.socket) as client:
                if number % 3 == 1:
                    client.sendall(half)
            if number % 100 == 0:
                NbdClient(daemon.socket).close()

    crowd(1000)
    daemon.rpc.call("spdk_get_version")
    rss, fds = daemon.rss_kib(), daemon.fd_count()
    began = time.monotonic()
    crowd(9000)
    elapsed = time.monotonic() - began
    with NbdClient(daemon.socket) as client:
        assert client.read(0, 512) == bytes(512)
        client.disconnect()
    print(f"9000 connections in {elapsed:.1f} s, {daemon.rss_kib() - rss} KiB more")
    assert elapsed < 30
    deadline = time.monotonic() + 5
    while daemon.fd_count() > fds and time.monotonic() < deadline:
        time.sleep(0.01)
    assert daemon.fd_count() <= fds
    assert daemon.rss_kib() - rss < 2 * MIB_IN_KIB


def test_client_that_takes_no_replies(serve):
    """It has its share of memory and no more; another one does not notice it."""
    daemon = serve("malloc:64MiB")
    with NbdClient(daemon.socket) as good, NbdClient(daemon.socket) as bad:
        good.write(0, b"\x55" * (1 << 20))
        good.read(0, 1 << 20)
        rss = daemon.rss_kib()
        reads = b"".join(header(Command.READ, n, 0, 1 << 20) for n in range(100_000))
        assert send_all_it_takes(bad.socket, reads) < len(reads)
        grown = daemon.rss_kib() - rss
        print(f"{grown} KiB more for it")
        assert grown < 64 * MIB_IN_KIB
        began = time.monotonic()
        for _ in range(200):
            assert good.read(4096, 4096) == b"\x55" * 4096
        assert time.monotonic() - began < 2


def test_client_that_takes_no_short_replies(serve):
    """Two million refused requests and flushes do not pile up as replies."""
    daemon = serve("malloc:1MiB")
    with NbdClient(daemon.socket) as good, NbdClient(daemon.socket) as bad:
        good.read(0, 512)
        rss = daemon.rss_kib()
        pair = header(Command.READ, 1, 1, 1) + header(Command.FLUSH, 2)
        assert send_all_it_takes(bad.socket, pair * 1_000_000) < 56 * 1_000_000
        assert daemon.rss_kib() - rss < 8 * MIB_IN_KIB
        assert good.read(0, 512) == bytes(512)


def test_clients_that_hold_all_memory_are_dropped(serve):
    """Whoever takes nothing for 10 s, while others wait for the memory, has to go."""
    daemon = serve("malloc:64MiB")
    reads = b"".join(header(Command.READ, n, 0, 4 << 20) for n in range(16))
    with contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(NbdClient(daemon.socket)) for _ in range(20)]
        for client in crowd:
            client.send(reads)
        good = stack.enter_context(NbdClient(daemon.socket, timeout_s=30))
        began = time.monotonic()
        assert good.read(0, 1 << 20) == bytes(1 << 20)
        assert time.monotonic() - began < 25
        assert daemon.rss_kib() < 400 * MIB_IN_KIB
        for client in crowd:
            client.socket.shutdown(socket.SHUT_RDWR)
