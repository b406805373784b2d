"""One control plane for each socket: refused exactly while another lives, whatever it left behind.

The lock is a file beside the socket, and SPDK's applications take the same one.
"""

import errno
import fcntl
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from support.daemon import Daemon
from support.raw_rpc import RawRpc
from vbdev.reactor.listen import Address, ListenError, open_listener
from vbdev.reactor.reactor import Reactor
from vbdev.rpc.serving.dispatch import Dispatcher
from vbdev.rpc.serving.rpc_server import RpcServer
from vbdev.rpc.serving.socket_lock import SocketLock

pytestmark = pytest.mark.rule("A.23.1")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "r.sock"


@pytest.fixture
def lock_path(tmp_path):
    return tmp_path / "r.sock.lock"


@pytest.fixture
def server():
    reactor = Reactor()
    yield RpcServer(reactor, Dispatcher())
    reactor.close()


def locks(lock_path):
    """Tell whether anybody has the lock."""
    with lock_path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def close(server):
    server._reactor.run_until_complete(server.close())


def test_it_is_held_while_the_server_listens_and_gone_afterwards(server, path, lock_path):
    server.listen(str(path))
    assert stat.S_IMODE(lock_path.stat().st_mode) == 0o600
    assert locks(lock_path)
    close(server)
    assert not path.exists()
    assert not lock_path.exists()
    server.listen(str(path))  # and again
    close(server)


def test_another_process_has_it(server, path, lock_path):
    """As spdk_tgt would: what is refused is left as it was."""
    holder = subprocess.Popen(["flock", "-x", lock_path, "cat"], stdin=subprocess.PIPE)
    try:
        while not (lock_path.exists() and locks(lock_path)):
            assert holder.poll() is None
        path.write_text("not ours to look at")
        with pytest.raises(
            ListenError, match=f"living server.*, which has locked {lock_path}$"
        ) as e:
            server.listen(str(path))
        assert e.value.errno == errno.EADDRINUSE
        assert path.read_text() == "not ours to look at"
        assert locks(lock_path)
    finally:
        holder.communicate()
    path.unlink()
    server.listen(str(path))
    close(server)


def test_the_holder_is_named(path):
    lock = SocketLock(Address(path=str(path)))
    with pytest.raises(ListenError, match=rf"living server \(process {os.getpid()}\)"):
        SocketLock(Address(path=str(path)))
    lock.release()
    lock.release()


def test_one_that_takes_no_lock_is_found_out_too(server, path, lock_path):
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(ListenError, match="address in use by a living server"):
            server.listen(str(path))
        assert path.exists()
        assert not lock_path.exists()


def test_what_a_dead_process_left_is_in_nobodys_way(server, path, lock_path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    lock_path.touch(0o600)
    server.listen(str(path))
    assert locks(lock_path)
    close(server)
    assert not list(path.parent.iterdir())


def test_no_lock_can_be_made(server, path, lock_path):
    lock_path.symlink_to("elsewhere")
    with pytest.raises(ListenError, match=f"can not open {lock_path}: Too many levels"):
        server.listen(str(path))
    with pytest.raises(ListenError, match=r"can not open .*: No such file or directory"):
        server.listen(str(path / "none" / "r.sock"))


@pytest.mark.parametrize("kind", ["file", "symlink"])
def test_a_lock_of_another_user_is_not_believed(server, path, lock_path, kind, caplog):
    """Whoever may write the directory can put one there, and keep it locked."""
    if os.geteuid():
        pytest.skip("giving a file away takes root")
    if kind == "file":
        lock_path.touch(0o666)
        holder = os.open(lock_path, os.O_RDONLY)
        fcntl.flock(holder, fcntl.LOCK_EX)
    else:
        holder = os.open(os.devnull, os.O_RDONLY)
        lock_path.symlink_to("/elsewhere")
    os.chown(lock_path, 65534, 65534, follow_symlinks=False)
    server.listen(str(path))
    assert "another user's" in caplog.text
    with pytest.raises(ListenError, match="address in use by a living server"):
        open_listener(Address(path=str(path)))
    close(server)
    assert not path.exists()
    assert lock_path.lstat().st_uid == 65534  # nor is it taken away
    os.close(holder)


def test_a_lock_on_a_file_that_is_gone_is_none(path, lock_path, monkeypatch):
    """Between opening and locking, its holder may have ended, and a third have begun."""
    address, flock, third = Address(path=str(path)), fcntl.flock, []

    def meanwhile(fd, operation):
        monkeypatch.setattr(fcntl, "flock", flock)
        lock_path.unlink()
        third.append(SocketLock(address))
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", meanwhile)
    with pytest.raises(ListenError, match="living server"):
        SocketLock(address)
    assert locks(lock_path)
    third[0].release()
    assert not lock_path.exists()


def test_only_ones_own_file_is_removed(path, lock_path):
    lock = SocketLock(Address(path=str(path)))
    lock_path.unlink()
    lock_path.write_text("another's")
    lock.release()
    assert lock_path.read_text() == "another's"


def test_a_path_that_is_relative_is_the_one_of_the_start(server, path, lock_path, monkeypatch):
    monkeypatch.chdir(path.parent)
    server.listen("r.sock")
    monkeypatch.chdir("/")
    close(server)
    assert not path.exists()
    assert not lock_path.exists()


def test_of_many_that_start_at_once_one_serves(path):
    """Each either has the lock or is refused; the last to end leaves nothing."""
    outcomes, barrier, done = [], threading.Barrier(8), threading.Barrier(8)

    def race():
        barrier.wait()
        try:
            lock = SocketLock(Address(path=str(path)))
        except ListenError:
            lock = None
        outcomes.append(lock)
        done.wait()
        if lock is not None:
            lock.release()

    for _ in range(20):
        outcomes.clear()
        threads = [threading.Thread(target=race) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len([lock for lock in outcomes if lock is not None]) == 1
        assert not list(path.parent.iterdir())


# Daemons


def test_a_second_daemon_is_refused_and_the_first_serves_on(serve):
    daemon = serve("malloc:1MiB")
    words = [sys.executable, "-m", "vbdev", "serve", "--rpc-socket", daemon.rpc_socket]
    second = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    assert second.returncode == 1
    assert f"living server (process {daemon.pid})" in second.stderr
    with RawRpc(daemon.rpc_socket) as client:
        assert client.call("bdev_get_bdevs")["result"]
    daemon.stop()
    assert not Path(f"{daemon.rpc_socket}.lock").exists()


def test_a_daemon_that_was_killed_is_in_nobodys_way(tmp_path):
    daemon = Daemon(tmp_path, "malloc:1MiB")
    for _ in range(3):
        daemon.start()
        daemon.kill()
        assert Path(daemon.rpc_socket).exists()
        assert not locks(Path(f"{daemon.rpc_socket}.lock"))
    daemon.start()
    daemon.stop()


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_spdk_s_way_to_write_a_tcp_address(server, host):
    if host == "[::1]":
        try:
            with socket.socket(socket.AF_INET6) as probe:
                probe.bind(("::1", 0))
        except OSError:
            pytest.skip("no IPv6 here")
    address = server.listen(f"{host}:0")
    assert str(address).startswith(f"tcp:{host}:")
    with pytest.raises(ListenError, match="in use"):
        server.listen(f"{host}:{address.port}")
    close(server)
