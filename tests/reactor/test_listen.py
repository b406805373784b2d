"""Addresses, and who may listen where: private from the first moment, stale files taken over."""

import errno
import fcntl
import os
import re
import resource
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from vbdev.reactor import listen
from vbdev.reactor.fd_limit import first_reserved
from vbdev.reactor.listen import (
    ACCEPT_PAUSE_US,
    ACCEPTS_PER_WAKE,
    Address,
    Listener,
    ListenError,
    bound_address,
    open_listener,
    parse_address,
)
from vbdev.reactor.reactor import Reactor
from vbdev.vocab.address import default_rpc_path


@pytest.fixture
def reactor():
    reactor = Reactor()
    yield reactor
    reactor.close()


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "s.sock")


def connect(address):
    client = socket.socket(socket.AF_UNIX if address.is_unix else socket.AF_INET)
    try:
        client.connect(address.path or (address.host, address.port))
    except OSError:
        client.close()
        raise
    return client


def turn(reactor, times=5):
    for _ in range(times):
        reactor.poll()


# Addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/run/x", Address(path="/run/x")),
        ("unix:x", Address(path="x")),
        ("unix:tcp:x:1", Address(path="tcp:x:1")),
        ("tcp:127.0.0.1:10809", Address(host="127.0.0.1", port=10809)),
        ("tcp:localhost:0", Address(host="localhost")),
        ("tcp:[::1]:65535", Address(host="::1", port=65535)),
    ],
)
def test_addresses_round_trip(text, address):
    assert parse_address(text) == address
    assert str(address) == text
    assert parse_address(str(address)) == address


def test_bare_path():
    assert parse_address("/run/x", bare_path=True) == Address(path="/run/x")
    assert parse_address("tcp:h:1", bare_path=True) == Address(host="h", port=1)
    assert parse_address("unix:h:1", bare_path=True) == Address(path="h:1")
    assert parse_address("./h:1", bare_path=True) == Address(path="./h:1")
    assert parse_address("1.2", bare_path=True) == Address(path="1.2")
    with pytest.raises(ListenError, match="write unix:/path or tcp"):
        parse_address("/run/x")


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:5261", "127.0.0.1", 5261),
        ("[::1]:5261", "::1", 5261),
        ("localhost:5261", "localhost", 5261),
        ("127.0.0.1", "127.0.0.1", 5260),
        ("[::1]", "::1", 5260),
        ("::1", "::1", 5260),
    ],
)
def test_tcp_as_spdk_takes_it(text, host, port):
    assert parse_address(text, bare_path=True) == Address(host=host, port=port)
    with pytest.raises(ListenError):
        parse_address(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unix:",
        "unix:a\0b",
        "tcp:",
        "tcp:host",
        "tcp::1",
        "tcp:host:",
        "tcp:host:x",
        "tcp:host:-1",
        "tcp:host:65536",
        "tcp:host:²",
        "tcp:::1:80",
        "tcp:[host]:80",
        "tcp:[::1:80",
        "tcp:[]:80",
        "ftp:x",
    ],
)
def test_bad_addresses(text):
    with pytest.raises(ListenError):
        parse_address(text)


def test_path_too_long():
    assert parse_address("unix:" + "x" * 107).path
    with pytest.raises(ListenError, match="108 bytes; a unix socket takes at most 107") as failure:
        parse_address("unix:" + "x" * 108)
    assert failure.value.errno == errno.ENAMETOOLONG
    with pytest.raises(ListenError):
        parse_address("unix:" + "é" * 54)


# Sockets


@pytest.mark.parametrize("mask", [0, 0o077, 0o777])
def test_a_unix_socket_is_private_from_the_start(path, mask, monkeypatch):
    modes = []

    class Spy(socket.socket):
        def listen(self, backlog):
            modes.append(stat.S_IMODE(Path(path).stat().st_mode))
            super().listen(backlog)

        def bind(self, name):
            super().bind(name)
            modes.append(stat.S_IMODE(Path(path).stat().st_mode))

    monkeypatch.setattr(listen.socket, "socket", Spy)
    before = os.umask(mask)
    try:
        open_listener(Address(path=path)).close()
    finally:
        os.umask(before)
    assert modes == [0o600 & ~mask] * 2


def test_a_stale_socket_is_taken_over(path):
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(path)
    dead.close()
    with open_listener(Address(path=path)) as listener:
        assert not listener.getblocking()
        assert bound_address(listener) == Address(path=path)
        connect(Address(path=path)).close()


@pytest.mark.parametrize("is_full", [False, True])
def test_a_living_server_is_left_alone(path, is_full):
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(path)
        living.listen(0)
        waiting = connect(Address(path=path)) if is_full else None
        who = "" if is_full else rf" \(process {os.getpid()}\)"
        with pytest.raises(ListenError, match=f"in use by a living server{who}") as failure:
            open_listener(Address(path=path))
        assert failure.value.errno == errno.EADDRINUSE
        assert path in str(failure.value)
        assert Path(path).exists()
        if waiting:
            waiting.close()


def test_a_file_is_left_alone(path):
    Path(path).write_text("precious")
    with pytest.raises(ListenError, match="no socket") as failure:
        open_listener(Address(path=path))
    assert failure.value.errno == errno.EEXIST
    assert Path(path).read_text() == "precious"


def test_a_dangling_link_is_left_alone(path):
    Path(path).symlink_to("nowhere")
    with pytest.raises(ListenError, match="no socket"):
        open_listener(Address(path=path))


def test_missing_directory(tmp_path):
    with pytest.raises(ListenError, match="No such file or directory") as failure:
        open_listener(Address(path=str(tmp_path / "no" / "s")))
    assert failure.value.errno == errno.ENOENT


def test_one_of_many_that_start_together_wins(path):
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(path)
    dead.close()
    won, lost, barrier = [], [], threading.Barrier(8)

    def start():
        barrier.wait()
        try:
            won.append(open_listener(Address(path=path)))
        except ListenError as error:
            lost.append(error.errno)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert lost == [errno.EADDRINUSE] * 7
    connect(Address(path=path)).close()
    won[0].close()


def test_a_directory_that_somebody_keeps_locked_is_in_nobodys_way(reactor, path, tmp_path):
    """Any user may hold a lock on a directory that is shared, as /var/tmp is."""
    fd = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    began = time.monotonic()
    listener = Listener(reactor, open_listener(Address(path=path)), lambda _connection: None)
    listener.close()
    assert time.monotonic() - began < 0.5
    assert not Path(path).exists()
    os.close(fd)


@pytest.fixture
def private(tmp_path, monkeypatch):
    """A directory of one's own that only this test has."""
    directory = tmp_path / "private"
    directory.mkdir(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    return directory


def test_a_process_of_ones_own_is_waited_for_a_moment(reactor, path, private, monkeypatch):
    monkeypatch.setattr(listen, "LOCK_TIMEOUT_S", 0.05)
    listener = Listener(reactor, open_listener(Address(path=path)), lambda _connection: None)
    lock = private / "vbdev-listen.lock"
    assert stat.S_IMODE(lock.stat().st_mode) == 0o600
    fd = os.open(lock, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(ListenError, match=r"opening sockets for 0\.05 s") as caught:
        open_listener(Address(path=f"{path}2"))
    assert caught.value.errno == errno.EBUSY
    monkeypatch.setattr(listen.time, "sleep", None)
    listener.close()  # on a reactor: it waits for nobody
    assert not Path(path).exists()
    os.close(fd)


@pytest.mark.parametrize("what", ["symlink", "fifo", "open"])
def test_a_lock_file_that_is_no_private_one(path, private, what):
    lock = private / "vbdev-listen.lock"
    if what == "symlink":
        lock.symlink_to(private / "elsewhere")
    elif what == "fifo":
        os.mkfifo(lock)
    else:
        lock.touch(0o666)
        lock.chmod(0o666)
    open_listener(Address(path=path)).close()
    assert not (private / "elsewhere").exists()
    if what == "open":
        assert stat.S_IMODE(lock.stat().st_mode) == 0o600


def test_a_lock_file_of_another_user_is_not_believed(tmp_path, private):
    if os.geteuid():
        pytest.skip("giving a file away takes root")
    lock = private / "vbdev-listen.lock"
    lock.touch(0o666)
    os.chown(lock, 65534, 65534)
    fd = os.open(lock, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    open_listener(Address(path=str(tmp_path / "s"))).close()
    os.close(fd)


def test_the_default_socket_is_in_a_directory_of_ones_own(private, monkeypatch):
    assert default_rpc_path() == f"{private}/vbdev.sock"
    if os.geteuid() == 0:
        os.chown(private, 65534, 65534)  # a session of another user's, which sudo has kept
        assert default_rpc_path() == "/run/vbdev/vbdev.sock"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000)
    assert default_rpc_path() == "/var/tmp/vbdev-4000000/vbdev.sock"


def test_the_directory_of_the_default_socket_is_made_and_looked_at(tmp_path, monkeypatch):
    directory = tmp_path / "vbdev"
    address = Address(path=f"{directory}/vbdev.sock")
    monkeypatch.setattr(listen, "private_directory", lambda: str(directory))
    monkeypatch.setattr(listen, "default_rpc_path", lambda: address.path)
    open_listener(address).close()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    if os.geteuid() == 0:
        os.chown(directory, 65534, 65534)
        with pytest.raises(ListenError, match="not this user's own directory") as caught:
            open_listener(address)
        assert caught.value.errno == errno.EACCES


def test_tcp_port_in_use_and_port_zero():
    with open_listener(Address(host="127.0.0.1")) as listener:
        address = bound_address(listener)
        assert address.port
        with pytest.raises(
            ListenError, match=re.escape(f"{address}: Address already in use")
        ) as failure:
            open_listener(address)
        assert failure.value.errno == errno.EADDRINUSE


def test_tcp_host_that_does_not_exist():
    with pytest.raises(ListenError, match=r"tcp:no\.invalid:1") as failure:
        open_listener(Address(host="no.invalid", port=1))
    assert failure.value.errno > 0


def test_a_second_address_of_a_host_will_do(monkeypatch):
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 0, "", (host, 0))
        for host in ("192.0.2.1", "127.0.0.1")
    ]
    monkeypatch.setattr(listen.socket, "getaddrinfo", lambda *_, **__: found)
    with open_listener(Address(host="two.example")) as listener:
        assert bound_address(listener).host == "127.0.0.1"


# Accepting


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_connections_are_handed_on(reactor, path, kind):
    address = Address(path=path) if kind == "unix" else Address(host="127.0.0.1")
    accepted = []
    listener = Listener(reactor, open_listener(address), accepted.append)
    client = connect(listener.address)
    turn(reactor)
    assert len(accepted) == 1
    assert not accepted[0].getblocking()
    if kind == "tcp":
        assert accepted[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    listener.close()
    listener.close()
    client.close()
    accepted[0].close()
    with pytest.raises(OSError, match=r"refused|No such file"):
        connect(listener.address)


def test_a_crowd_is_accepted_a_few_per_turn(reactor, path):
    accepted = []
    listener = Listener(reactor, open_listener(Address(path=path)), accepted.append)
    clients = [connect(listener.address) for _ in range(ACCEPTS_PER_WAKE + 5)]
    reactor.poll()
    assert len(accepted) == ACCEPTS_PER_WAKE
    reactor.poll()
    assert len(accepted) == len(clients)
    listener.close()
    for each in clients + accepted:
        each.close()


def test_a_handler_that_fails_costs_one_connection(reactor, path, caplog):
    accepted = []

    def fail_first(connection):
        if not accepted:
            accepted.append(None)
            raise ValueError("first")
        accepted.append(connection)

    listener = Listener(reactor, open_listener(Address(path=path)), fail_first)
    clients = [connect(listener.address) for _ in range(2)]
    turn(reactor)
    assert len(accepted) == 2
    assert clients[0].recv(1) == b""
    assert "first" in caplog.text
    listener.close()
    for each in [*clients, accepted[1]]:
        each.close()


def test_a_handler_may_close_the_listener(reactor, path):
    accepted = []

    def close(connection):
        accepted.append(connection)
        listener.close()

    listener = Listener(reactor, open_listener(Address(path=path)), close)
    clients = [connect(listener.address) for _ in range(2)]
    turn(reactor)
    assert len(accepted) == 1
    for each in clients + accepted:
        each.close()


class Short:
    """A listening socket of a process that has no descriptors left."""

    def __init__(self, listener):
        self._listener = listener
        self.attempts = 0
        self.number = errno.EMFILE

    def __getattr__(self, name):
        return getattr(self._listener, name)

    def accept(self):
        self.attempts += 1
        if self.number:
            raise OSError(self.number, os.strerror(self.number))
        return self._listener.accept()


def test_out_of_descriptors_pauses_and_logs_once(path, caplog):
    class StillClock:
        virtual = False
        now = 0

        def now_ns(self):
            return self.now

    clock = StillClock()
    reactor = Reactor(clock=clock)
    accepted = []
    short = Short(open_listener(Address(path=path)))
    listener = Listener(reactor, short, accepted.append)
    client = connect(listener.address)
    for attempt in (1, 2, 3):
        turn(reactor, 50)
        assert short.attempts == attempt
        clock.now += ACCEPT_PAUSE_US * 1000
    assert caplog.text.count("accepting nothing") == 1
    short.number = 0
    turn(reactor, 50)
    assert len(accepted) == 1
    short.number = errno.ENFILE
    second = connect(listener.address)
    turn(reactor)
    assert caplog.text.count("accepting nothing") == 2
    listener.close()  # while it pauses
    clock.now += ACCEPT_PAUSE_US * 1000
    turn(reactor)
    for each in (client, second, accepted[0]):
        each.close()
    reactor.close()


def test_the_last_descriptors_are_kept(reactor, path, monkeypatch, caplog):
    """A listener with a reserve turns away whom it could serve; one without serves on."""
    accepted = []
    data = Listener(reactor, open_listener(Address(path)), accepted.append, reserve=16)
    control = Listener(reactor, open_listener(Address(path + "2")), accepted.append)
    clients = []

    def come(listener):
        clients.append(connect(listener.address))
        before = len(accepted)
        turn(reactor)
        return len(accepted) > before

    lowest = os.dup(0)
    os.close(lowest)
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (lowest + 40, lowest + 40))
    while come(data):
        assert len(clients) < 60
    taken = accepted[-1].fileno()
    assert lowest + 40 - min(16, (lowest + 40) // 4) > taken >= lowest + 10
    assert clients[-1].recv(1) == b""  # told at once
    assert not come(data)
    assert come(control)
    assert caplog.text.count("turning clients away") == 1
    for one in (clients[0], accepted[0]):  # whoever leaves makes room again
        one.close()
    assert come(data)
    for one in (*clients, *accepted, data, control):
        one.close()


@pytest.mark.parametrize(
    ("limit", "reserve", "first"),
    [
        (1024, 128, 896),
        (256, 128, 192),
        (4, 128, 3),
        (resource.RLIM_INFINITY, 128, (1 << 30) - 128),
    ],
)
def test_who_may_have_the_last_descriptors(monkeypatch, limit, reserve, first):
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (limit, limit))
    assert first_reserved(reserve) == first


def test_the_limit_of_descriptors_is_raised():
    code = (
        "import resource; from vbdev.reactor.fd_limit import raise_fd_limit; raise_fd_limit();"
        " print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def lower():
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, min(512, hard)))

    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, preexec_fn=lower
    )
    assert done.stdout.split() == [str(min(512, hard)).encode()] * 2


def test_a_tcp_peer_is_asked_whether_it_lives(reactor):
    accepted = []
    listener = Listener(reactor, open_listener(parse_address("tcp:127.0.0.1:0")), accepted.append)
    client = connect(listener.address)
    turn(reactor)
    assert accepted[0].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert accepted[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
    for one in (client, *accepted, listener):
        one.close()


def test_a_client_that_has_gone_costs_nothing(reactor, path):
    short = Short(open_listener(Address(path=path)))
    short.number = errno.ECONNABORTED
    listener = Listener(reactor, short, lambda _: None)
    client = connect(listener.address)
    reactor.poll()
    assert short.attempts == ACCEPTS_PER_WAKE
    listener.close()
    client.close()


def test_close_removes_its_own_file_and_no_other(reactor, path):
    listener = Listener(reactor, open_listener(Address(path=path)), lambda _: None)
    listener.close()
    assert not Path(path).exists()
    listener = Listener(reactor, open_listener(Address(path=path)), lambda _: None)
    Path(path).rename(path + ".old")
    other = open_listener(Address(path=path))
    listener.close()
    assert Path(path).exists()
    connect(Address(path=path)).close()
    other.close()


def test_close_after_the_file_has_gone(reactor, path):
    listener = Listener(reactor, open_listener(Address(path=path)), lambda _: None)
    Path(path).unlink()
    listener.close()


def test_a_relative_path_is_remembered_as_absolute(reactor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listener = Listener(reactor, open_listener(Address(path="r.sock")), lambda _: None)
    monkeypatch.chdir("/")
    listener.close()
    assert not (tmp_path / "r.sock").exists()
