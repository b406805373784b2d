"""The log: levels, flags and the time change what goes out; SPDK's texts where it is refused.

Method: the dispatcher over a Logs that writes to a string, and to a socket in syslog's place.
"""

import contextlib
import fcntl
import importlib.util
import io
import logging
import os
import pathlib
import re
import socket
import syslog
import time

import pytest

from support.alone import Alone
from support.rooms import register_rooms
from vbdev.api.errors import RpcError
from vbdev.modules import MODULES
from vbdev.reports.logs import COMPONENTS, NOTICE, Logs
from vbdev.rpc.methods import log as log_methods

UNDECODED = (-32603, "spdk_json_decode_object failed")


class Syslog:
    """A daemon that syslog's messages go to."""

    def __init__(self, path):
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.setblocking(False)

    def got(self):
        """Return what has come: (priority, text)."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                text = self.socket.recv(65536).decode()
                told = re.fullmatch(r"<(\d+)>\w{3} [ \d]\d [\d:]{8} vbdev\[(\d+)\]: (.*)", text)
                assert int(told[2]) == os.getpid()
                assert int(told[1]) & ~7 == syslog.LOG_LOCAL7
                found.append((int(told[1]) & 7, told[3]))
        return found

    def close(self):
        self.socket.close()
        pathlib.Path(self.path).unlink(missing_ok=True)


@pytest.fixture
def daemon(tmp_path):
    made = Syslog(tmp_path / "log")
    yield made
    made.close()


@pytest.fixture
def console():
    return io.StringIO()


@pytest.fixture
def rpc(console, daemon):
    before = logging.getLogger().level
    logs = Logs()
    logs.open(console, daemon.path)
    alone = Alone()
    register_rooms(alone.dispatcher, log_methods, logs=logs)
    yield alone
    logs.close()
    logs.close()
    alone.close()
    assert logging.getLogger().level == before
    assert logging.getLogger("vbdev.rpc").level == logging.NOTSET


def lines(console):
    """Return what has come since the last look, without the time."""
    found = [line.partition(" ")[2].partition(" ")[2] for line in console.getvalue().splitlines()]
    console.seek(0)
    console.truncate()
    return found


def say(name="vbdev.rpc.serving.rpc_server"):
    """Say something at each level."""
    log = logging.getLogger(name)
    for level in (logging.CRITICAL, logging.ERROR, logging.WARNING, NOTICE, 20, 10):
        log.log(level, "%d", level)


def test_print_level(rpc, console):
    assert rpc.call("log_get_print_level") == "NOTICE"
    rpc.call("log_set_flag", flag="rpc")
    for level, count in (("ERROR", 2), ("WARNING", 3), ("NOTICE", 4), ("INFO", 5), ("DEBUG", 6)):
        assert rpc.call("log_set_print_level", level=level) is True
        assert rpc.call("log_get_print_level") == level
        say()
        assert len(lines(console)) == count
    assert rpc.call("log_get_level") == "NOTICE"


def test_level_of_syslog(rpc, daemon):
    assert rpc.call("log_get_level") == "NOTICE"
    say()
    sent = daemon.got()
    assert [priority for priority, _ in sent] == [
        syslog.LOG_ERR,
        syslog.LOG_ERR,
        syslog.LOG_WARNING,
        syslog.LOG_NOTICE,
    ]
    assert sent[-1][1] == "NOTICE vbdev.rpc.serving.rpc_server 25"
    rpc.call("log_set_flag", flag="rpc")
    assert rpc.call("log_set_level", level="DEBUG") is True
    say()
    assert [priority for priority, _ in daemon.got()[-2:]] == [syslog.LOG_INFO, syslog.LOG_DEBUG]
    assert rpc.call("log_get_print_level") == "NOTICE"
    assert rpc.call("log_set_level", level="ERROR") is True
    say()
    assert len(daemon.got()) == 2


@pytest.mark.usefixtures("rpc")
def test_a_message_is_one_line(daemon):
    logging.getLogger("vbdev.daemon.app").error("one\ntwo\0\n%s", "\udcff" + "x" * 10_000)
    texts = [text for _, text in daemon.got()]
    assert len(texts) == 1
    assert texts[0].startswith("ERROR vbdev.daemon.app one\\ntwo\\x00\\n\\xffxxx")
    assert 8000 < len(texts[0]) < 8192


@pytest.mark.usefixtures("rpc")
def test_syslog_is_never_waited_for(daemon, console):
    """Nobody reads: what does not go at once is dropped, and nobody is held up."""
    for number in range(10_000):
        logging.getLogger("vbdev.daemon.app").error("%d", number)
    got = daemon.got()
    assert 0 < len(got) < 10_000
    assert len(lines(console)) == 10_000
    logging.getLogger("vbdev.daemon.app").error("again")
    assert daemon.got() == [(syslog.LOG_ERR, "ERROR vbdev.daemon.app again")]


def test_a_console_that_nobody_reads_is_not_waited_for(tmp_path):
    reader, writer = os.pipe2(os.O_CLOEXEC)
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    log = logging.getLogger("vbdev.rpc")
    logs = Logs()
    with os.fdopen(reader, "rb", buffering=0) as pipe, os.fdopen(writer, "w") as console:
        logs.open(console, str(tmp_path / "no syslog"))
        try:
            began = time.monotonic()
            for number in range(1000):
                log.warning("message %d %s", number, "x" * 100)
            log.warning("long %s", "x" * 100_000)
            assert time.monotonic() - began < 5
            text = pipe.read(65536).decode()
            assert "message 0 " in text
            written = text.count("message")
            log.warning("read on")
            text = pipe.read(65536).decode()
            assert f"[{1001 - written} messages were dropped: they could not be written]\n" in text
            assert text.endswith("read on\n")
            log.warning("last")
            assert pipe.read(65536).count(b"\n") == 1
        finally:
            logs.close()


@pytest.mark.usefixtures("rpc")
def test_syslog_comes_and_goes(daemon, console):
    log = logging.getLogger("vbdev.daemon.app")
    log.error("one")
    assert len(daemon.got()) == 1
    daemon.close()
    log.error("two")
    again = Syslog(daemon.path)
    log.error("three")
    assert again.got() == [(syslog.LOG_ERR, "ERROR vbdev.daemon.app three")]
    again.close()
    assert len(lines(console)) == 3


def test_flags(rpc, console):
    assert rpc.call("log_get_flags") == dict.fromkeys(COMPONENTS, False)
    rpc.call("log_set_print_level", level="DEBUG")
    say()
    assert len(lines(console)) == 4  # of INFO and DEBUG nothing, without the flag
    assert rpc.call("log_set_flag", flag="RPC") is True
    assert rpc.call("log_get_flags") == dict.fromkeys(COMPONENTS, False) | {"rpc": True}
    say()
    assert len(lines(console)) == 6
    say("vbdev.registry.removal")
    assert len(lines(console)) == 4
    say("a_users_module")
    assert len(lines(console)) == 6
    assert rpc.call("log_clear_flag", flag="rpc") is True
    say()
    assert len(lines(console)) == 4
    assert rpc.call("log_set_flag", flag="all") is True
    assert all(rpc.call("log_get_flags").values())
    say("vbdev.registry.removal")
    assert len(lines(console)) == 6
    assert rpc.call("log_clear_flag", flag="all") is True
    assert not any(rpc.call("log_get_flags").values())


def test_a_flag_does_not_raise_a_level(rpc, console):
    rpc.call("log_set_flag", flag="rpc")
    rpc.call("log_set_print_level", level="ERROR")
    say()
    assert len(lines(console)) == 2


def test_what_nobody_wants_is_not_even_made(rpc):
    assert not logging.getLogger("vbdev.targets.nbd.session").isEnabledFor(logging.INFO)
    rpc.call("log_set_flag", flag="nbd")
    assert not logging.getLogger("vbdev.targets.nbd.session").isEnabledFor(logging.INFO)
    rpc.call("log_set_level", level="INFO")
    assert logging.getLogger("vbdev.targets.nbd.session").isEnabledFor(logging.INFO)


def test_what_has_no_flag_of_its_own_goes_with_app(rpc, console):
    rpc.call("log_set_print_level", level="DEBUG")
    rpc.call("log_set_flag", flag="app")
    say("vbdev.a.new.room")
    assert len(lines(console)) == 6
    say("vbdev.rpc")
    assert len(lines(console)) == 4


def test_a_flag_concerns_what_is_there():
    for name in (name for names in COMPONENTS.values() for name in names):
        assert importlib.util.find_spec(name) is not None, name


def test_timestamps(rpc, console):
    assert rpc.call("log_enable_timestamps", enabled=False) is True
    logging.getLogger("vbdev.daemon.app").error("now")
    assert console.getvalue() == "ERROR vbdev.daemon.app now\n"
    assert rpc.call("log_enable_timestamps", enabled=True) is True
    logging.getLogger("vbdev.daemon.app").error("then")
    assert lines(console)[1] == "ERROR vbdev.daemon.app then"


@pytest.mark.parametrize(
    ("method", "wrong", "answer"),
    [
        (method, wrong, UNDECODED)
        for method in ("log_set_print_level", "log_set_level")
        for wrong in ({}, {"level": "LOUD"}, {"level": 1}, {"level": "INFO", "more": 1})
    ]
    + [
        ("log_set_flag", {}, UNDECODED),
        ("log_set_flag", {"flag": "nothing"}, (-32602, "invalid log flag")),
        ("log_clear_flag", {"flag": 1}, UNDECODED),
        ("log_clear_flag", {"flag": "nothing"}, (-32602, "invalid log flag")),
        ("log_enable_timestamps", {}, (-32602, UNDECODED[1])),
        ("log_enable_timestamps", {"enabled": 1}, (-32602, UNDECODED[1])),
        *[
            (name, {"x": 1}, (-32602, f"{name} requires no parameters"))
            for name in ("log_get_flags", "log_get_level", "log_get_print_level")
        ],
    ],
)
def test_refusals(rpc, method, wrong, answer):
    assert rpc.fails(method, wrong) == answer


def test_somebody_elses_log_is_left_alone():
    alone = Alone()
    register_rooms(alone.dispatcher, log_methods, logs=Logs())
    assert alone.fails("log_set_level", {"level": "INFO"}) == (-95, "Operation not supported")
    assert alone.fails("log_get_flags") == (-95, "Operation not supported")
    alone.close()


@pytest.mark.parametrize("is_journal", [True, False])
def test_the_journal_has_each_message_once(daemon, tmp_path, monkeypatch, is_journal):
    with (tmp_path / "journal").open("w+") as journal:
        status = os.fstat(journal.fileno())
        inode = status.st_ino if is_journal else status.st_ino + 1
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{inode}")
        logs = Logs()
        logs.open(journal, daemon.path)
        with contextlib.closing(logs):
            logging.getLogger("vbdev.daemon.app").error("here")
            assert len(daemon.got()) == (0 if is_journal else 1)
        journal.seek(0)
        assert "here" in journal.read()


def test_a_pattern_is_all_flags_that_it_fits(rpc):
    """SPDK looks flags up with fnmatch(3)."""
    assert rpc.call("log_set_flag", flag="VBDEV_*") is True
    found = rpc.call("log_get_flags")
    vbdevs = {name for name in COMPONENTS if name.startswith("vbdev_")}
    assert {name for name, is_set in found.items() if is_set} == vbdevs
    assert rpc.call("log_clear_flag", flag="*gp?") is True
    found = rpc.call("log_get_flags")
    assert {name for name, is_set in found.items() if is_set} == vbdevs - {"vbdev_gpt"}
    with pytest.raises(RpcError, match="invalid log flag"):
        rpc.call("log_set_flag", flag="vhost_*")


@pytest.mark.parametrize("kind", sorted(module.kind for module in MODULES))
def test_each_module_has_a_flag(rpc, kind):
    """SPDK's name of it: control planes set the flags of what they use, one by one."""
    flag = {
        "malloc": "bdev_malloc",
        "null": "bdev_null",
        "aio": "aio",
        "uring": "uring",
        "nbd": "nbd",
    }.get(kind, f"vbdev_{kind}")
    assert rpc.call("log_set_flag", flag=flag) is True
    assert rpc.call("log_get_flags")[flag] is True
    assert f"vbdev.modules.{kind}" in COMPONENTS[flag]
