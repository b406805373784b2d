"""Calls about files in a process of their own: as the direct ones, and given up without a wait.

Method: ordinary files, which are said to be on a mount that may hang. What hangs is an open(2) that
waits for a lease (fcntl(2)) of this process.
"""

import contextlib
import fcntl
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from vbdev.files import access, aside
from vbdev.files.opening import FileError, FileLockedError

PARAMS = {"readonly": False, "direct": None, "block_size": None}
WAIT_S = 20


@pytest.fixture(autouse=True)
def apart(monkeypatch):
    """Make every call aside; nothing is left of any."""
    monkeypatch.setattr(access, "may_hang", lambda _path: True)
    yield
    assert access._open_files == {}
    assert access.left_open() == {}
    wait_until(lambda: not aside._running)


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "disk"
    file.write_bytes(bytes(1 << 20))
    return str(file)


@pytest.fixture
def lease(path):
    """Whoever opens the file waits until `lease` is called."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    fd = os.open(path, os.O_RDWR)
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)

    def end():
        with contextlib.suppress(OSError):
            os.close(fd)

    yield end
    end()
    signal.signal(signal.SIGIO, before)


def wait_until(condition):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def num_fds():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def on_thread(function):
    """Return a thread, and a list that gets what the function returned or raised."""
    ends = []

    def work():
        try:
            ends.append(function())
        except (FileError, OSError) as error:
            ends.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread, ends


def test_it_is_the_same_as_direct(path, monkeypatch):
    far = access.opening("it", path, **PARAMS).run()
    access.closing(far).run()
    monkeypatch.setattr(access, "may_hang", lambda _path: False)
    near = access.opening("it", path, **PARAMS).run()
    access.closing(near).run()
    assert far.may_hang
    assert not near.may_hang
    assert far._replace(fd=0, sync_fd=0, may_hang=False) == near._replace(fd=0, sync_fd=0)


def test_what_is_done_to_an_open_file(path):
    geometry = access.opening("it", path, **PARAMS).run()
    access.syncing(geometry).run()
    os.truncate(path, 2 << 20)
    assert access.asking_size(geometry).run() == 2 << 20
    again = access.opening_again(geometry).run()
    assert os.fstat(again).st_ino == os.fstat(geometry.fd).st_ino
    assert set(access.left_open()) == {geometry.fd, geometry.sync_fd, again}
    for fd in access.left_open():
        assert not os.get_inheritable(fd)
    access.closing_copy(again, geometry).run()
    access.closing(geometry).run()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(again)


def test_its_lock_is_this_process_s(path):
    geometry = access.opening("it", path, **PARAMS).run()
    try:
        with pytest.raises(FileError, match="in use already, by it") as caught:
            access.opening("another", path, **PARAMS).run()
        assert not isinstance(caught.value, FileLockedError)
        with access._lock:
            owner = access._open_files.pop(geometry.key)
        with pytest.raises(FileLockedError, match="another program has it"):
            access.opening("another", path, **PARAMS).run()
        with access._lock:
            access._open_files[geometry.key] = owner
    finally:
        access.closing(geometry).run()
    access.closing(access.opening("another", path, **PARAMS).run()).run()


@pytest.mark.parametrize("name", ["nothing", "folder", "empty", "odd\udcff\n"])
def test_refusals_have_the_same_words(tmp_path, monkeypatch, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    (tmp_path / "odd\udcff\n").write_bytes(bytes(1000))
    said = []
    for far in (True, False):
        monkeypatch.setattr(access, "may_hang", lambda _path, far=far: far)
        with pytest.raises(FileError) as caught:
            access.opening("it", str(tmp_path / name), **PARAMS).run()
        said.append((caught.value.errno, str(caught.value)))
    assert said[0] == said[1]


def test_a_relative_path(tmp_path, path, monkeypatch):
    access.closing(access.opening("it", path, **PARAMS).run()).run()  # it runs already
    monkeypatch.chdir(tmp_path)
    name = os.path.relpath(path)
    access.closing(access.opening("it", name, **PARAMS).run()).run()


def test_a_survey(path):
    found = access.surveying("it", path, readonly=True, block_size=4096).run()
    assert (found.size, found.block_size) == (1 << 20, 4096)


def test_a_sync_that_fails(path):
    geometry = access.opening("it", path, **PARAMS).run()
    reader, writer = os.pipe()
    with pytest.raises(OSError, match="Invalid argument") as caught:
        access.syncing(geometry._replace(sync_fd=writer)).run()
    assert caught.value.errno == 22
    os.close(reader)
    os.close(writer)
    access.closing(geometry).run()


def test_given_up_while_it_hangs(path, lease):
    call = access.opening("it", path, **PARAMS)
    thread, ends = on_thread(call.run)
    thread.join(0.3)
    assert thread.is_alive()
    call.give_up()
    thread.join(WAIT_S)  # though the lease is still there
    assert not thread.is_alive()
    assert "has ended" in str(ends[0])
    lease()
    access.closing(access.opening("it", path, **PARAMS).run()).run()


def test_it_hangs_and_goes_on(path, lease):
    call = access.opening("it", path, **PARAMS)
    thread, ends = on_thread(call.run)
    thread.join(0.3)
    assert thread.is_alive()
    lease()
    thread.join(WAIT_S)
    access.closing(ends[0]).run()


@pytest.mark.parametrize("name", ["asking_size", "opening_again", "syncing", "closing"])
def test_given_up_before_it_begins(path, name):
    geometry = access.opening("it", path, **PARAMS).run()
    before = num_fds()
    call = getattr(access, name)(geometry)
    call.give_up()
    call.give_up()
    assert num_fds() == before
    if name != "closing":
        with pytest.raises(OSError, match="cancel"):
            call.run()
    access.closing(geometry).run()


def test_a_sync_is_not_broken_off(path, monkeypatch):
    geometry = access.opening("it", path, **PARAMS).run()
    killed = []
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda *_: killed.append(1))
    call = access.syncing(geometry)
    thread, ends = on_thread(call.run)
    while thread.is_alive():
        call.give_up()
    assert not killed
    assert ends == [None] or "cancel" in str(ends[0])
    access.closing(geometry).run()


def test_who_starts_them_is_killed(path):
    access.closing(access.opening("it", path, **PARAMS).run()).run()
    first = aside._starter_pid
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: "(zombie)" in Path(f"/proc/{first}/status").read_text())
    access.closing(access.opening("it", path, **PARAMS).run()).run()
    assert aside._starter_pid != first


@pytest.mark.usefixtures("lease")
def test_it_has_nothing_of_this_process(path):
    access.surveying("it", path, readonly=True, block_size=None).run()
    thread, _ = on_thread((call := access.opening("it", path, **PARAMS)).run)
    starter = aside._starter_pid
    children = Path(f"/proc/{starter}/task/{starter}/children")
    time.sleep(0.2)  # those of before have ended, and this one has begun
    wait_until(lambda: len(children.read_text().split()) == 1)
    for pid in (starter, *map(int, children.read_text().split())):
        targets = {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}
        own = {one for one in targets if not one.startswith(("socket:", "anon_inode:[pidfd"))}
        assert own == {"/dev/null"}
        assert os.getsid(pid) != os.getsid(0)
    call.give_up()
    thread.join(WAIT_S)
    assert not thread.is_alive()
