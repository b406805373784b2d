"""Where messages go: levels of the console and of syslog, and flags of components (SPDK: lib/log).

A message goes to the console (stderr) if its level is within the *print level*, and to syslog if
it is within the *log level*; the two know nothing of each other. INFO and DEBUG messages have to
pass one more door: each component has a *flag*, and without it says nothing below NOTICE. Flags
are levels of Python's loggers, so that a message nobody wants is not even made.

Loggers of other names than `vbdev.*`, as those of a user's module, have no flag.
"""

from __future__ import annotations

import fnmatch
import logging
import os
import select
import socket
import syslog
import time
from collections.abc import Callable
from typing import Final, Literal, TextIO

from vbdev.vocab.text import printable

__all__ = ["COMPONENTS", "LEVELS", "NOTICE", "LevelName", "Logs"]

NOTICE: Final = 25
"""Between INFO and WARNING, where SPDK has it."""
LevelName = Literal["ERROR", "WARNING", "NOTICE", "INFO", "DEBUG"]
"""SPDK's names of levels; what is more severe than ERROR counts as ERROR."""
LEVELS: Final[dict[LevelName, int]] = {
    "ERROR": logging.ERROR,
    "WARNING": logging.WARNING,
    "NOTICE": NOTICE,
    "INFO": logging.INFO,
    "DEBUG": logging.DEBUG,
}
COMPONENTS: Final = {
    "aio": ("vbdev.modules.file", "vbdev.modules.aio"),
    "app": ("vbdev",),
    "app_config": ("vbdev.daemon.config", "vbdev.daemon.startup"),
    "app_rpc": ("vbdev.rpc.methods.framework", "vbdev.rpc.methods.process"),
    "bdev": ("vbdev.registry", "vbdev.bdev", "vbdev.reports.watchdog"),
    "bdev_malloc": ("vbdev.modules.malloc",),
    "bdev_null": ("vbdev.modules.null",),
    "log_rpc": ("vbdev.rpc.methods.log",),
    "nbd": ("vbdev.targets.nbd", "vbdev.modules.nbd"),
    "notify_rpc": ("vbdev.rpc.methods.notify",),
    "reactor": ("vbdev.reactor", "vbdev.reports.context_switches"),
    "rpc": ("vbdev.rpc",),
    "thread": ("vbdev.reactor.poller", "vbdev.reactor.task"),
    "uring": ("vbdev.modules.uring",),
    "vbdev_delay": ("vbdev.modules.delay",),
    "vbdev_error": ("vbdev.modules.error",),
    "vbdev_gpt": ("vbdev.modules.gpt",),
    "vbdev_passthru": ("vbdev.modules.passthru",),
    "vbdev_split": ("vbdev.modules.split",),
    "vbdev_zone_block": ("vbdev.modules.zone_block",),
}
"""{flag: the loggers that it concerns, with all below them that have no other}."""
ALL: Final = "all"
"""The flag that stands for each of them."""
PRIORITIES: Final = (
    (logging.ERROR, syslog.LOG_ERR),
    (logging.WARNING, syslog.LOG_WARNING),
    (NOTICE, syslog.LOG_NOTICE),
    (logging.INFO, syslog.LOG_INFO),
    (logging.NOTSET, syslog.LOG_DEBUG),
)
MAX_BYTES: Final = 8192
"""Of one message to syslog; more than daemons take (rsyslog: 8 KiB) is cut off."""
WITH_TIME: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"
WITHOUT_TIME: Final = "%(levelname)s %(name)s %(message)s"


CONSOLE_WAIT_MS: Final = 100
"""How long the console's reader may take nothing before messages are dropped, in ms."""
PIECE_BYTES: Final = 4096
"""Written to the console at a time: there is room for it in whatever can be written to (pipe(7),
PIPE_BUF)."""


class LineFormatter(logging.Formatter):
    """Makes of a message one line, whatever has been put into it.

    A traceback has more; these begin with two spaces, so that none can pass for a message.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the message as it is to be written."""
        first, *others = super().format(record).split("\n")
        return "\n".join([printable(first), *(f"  {printable(line)}" for line in others)])

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the first line."""
        record.message = printable(record.message)
        return super().formatMessage(record)


class ConsoleHandler(logging.Handler):
    """Writes messages to a stream, and does not wait for ever for who should read it.

    A reactor says things too, and a pipe that nobody empties would block it for good. A reader
    that takes nothing for CONSOLE_WAIT_MS loses what is said until it reads on, and is told so. So
    does a disk that is full, or a terminal that has gone: what is lost is counted, and costs its
    sender nothing.

    It writes to the stream's descriptor, because a stream keeps what it could not write, and fails
    for it again.
    """

    terminator = "\n"

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.stream = stream
        self._lost = 0  # messages, since the last that was not
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        self._descriptor: int | None = None
        self._poll: select.poll | None = None
        try:
            self._descriptor = stream.fileno()
        except (OSError, ValueError):  # a string's, which never blocks
            return
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLOUT)

    @property
    def lost(self) -> int:
        """How many messages have been lost since the last that was not."""
        return self._lost

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message."""
        try:
            text = self.format(record) + self.terminator
        except Exception:  # noqa: BLE001 - as all handlers do: a message never fails its sender
            self.handleError(record)
            return
        if self._lost:
            text = f"\n[{self._lost} messages were dropped: they could not be written]\n{text}"
        try:
            self._write(text)
        except (OSError, ValueError):  # full, gone, closed
            self._lost += 1
        else:
            self._lost = 0

    def _write(self, text: str) -> None:
        if self._descriptor is None:
            self.stream.write(text)
            self.stream.flush()
            return
        data = text.encode(self._encoding, "backslashreplace")
        written = 0
        while written < len(data):
            if not self._is_ready(0 if self._lost else CONSOLE_WAIT_MS):
                raise TimeoutError
            written += os.write(self._descriptor, data[written : written + PIECE_BYTES])

    def _is_ready(self, wait_ms: int) -> bool:
        return self._poll is None or bool(self._poll.poll(wait_ms))


class SyslogHandler(logging.Handler):
    """Hands messages to syslog as syslog(3) does, without ever waiting for it.

    A reactor says things too, and syslog(3) blocks whoever speaks to a daemon that does not listen.
    Here what does not go at once is dropped, as is everything where there is no daemon.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        self._socket: socket.socket | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Hand on one message, line by line."""
        priority = next(value for level, value in PRIORITIES if record.levelno >= level)
        when = time.strftime("%b %e %H:%M:%S", time.localtime(record.created))
        head = f"<{syslog.LOG_LOCAL7 | priority}>{when} vbdev[{os.getpid()}]: "
        try:
            for line in self.format(record).replace("\0", "?").splitlines():
                self._send((head + line).encode(errors="replace")[:MAX_BYTES])
        except Exception:  # noqa: BLE001 - as all handlers do: a message never fails its sender
            self.handleError(record)

    def _send(self, text: bytes) -> None:
        for _ in range(2):  # the daemon may have been started anew
            try:
                if self._socket is None:
                    self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                    self._socket.setblocking(False)
                    self._socket.connect(self._path)
                self._socket.send(text)
            except BlockingIOError:
                return
            except OSError:
                self._hang_up()
            else:
                return

    def _hang_up(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def close(self) -> None:
        """Hang up."""
        self._hang_up()
        super().close()


def is_journal(stream: TextIO) -> bool:
    """Say whether a stream goes to systemd's journal (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # closed, or not a file at all
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class Logs:
    """The process's log, from `open` to `close`.

    What is set before `open` counts from then on. Any thread may call.
    """

    def __init__(self) -> None:
        self._root = logging.getLogger()
        self._root_level = self._root.level
        self._console: ConsoleHandler | None = None
        self._syslog: SyslogHandler | None = None
        self._print_level: LevelName = "NOTICE"
        self._level: LevelName = "NOTICE"
        self._flags = dict.fromkeys(COMPONENTS, False)
        self._timestamps = True
        self.on_change: Callable[[], object] = lambda: None
        """Called when other messages may go out than before, on the thread that has changed it."""

    def open(self, console: TextIO, syslog_path: str = "/dev/log") -> None:
        """Begin to write to `console`, and to syslog under the name `vbdev`.

        Where the console is systemd's journal, which has syslog's messages too, it gets them once.
        """
        logging.addLevelName(NOTICE, "NOTICE")
        self._console = ConsoleHandler(console)
        self._syslog = SyslogHandler(syslog_path)
        self._syslog.setFormatter(LineFormatter(WITHOUT_TIME))
        self._root.addHandler(self._console)
        if not is_journal(console):
            self._root.addHandler(self._syslog)
        self._apply()

    def close(self) -> None:
        """Write no more, and leave Python's loggers as they were. Idempotent."""
        for handler in (self._console, self._syslog):
            if handler is not None:
                self._root.removeHandler(handler)
                handler.flush()
                handler.close()
        if self._console is not None:
            self._root.setLevel(self._root_level)
            for names in COMPONENTS.values():
                for name in names:
                    logging.getLogger(name).setLevel(logging.NOTSET)
        self._console = self._syslog = None

    @property
    def is_open(self) -> bool:
        """Whether it writes."""
        return self._console is not None

    # Levels

    @property
    def print_level(self) -> LevelName:
        """The least severe level that the console gets."""
        return self._print_level

    @print_level.setter
    def print_level(self, name: LevelName) -> None:
        self._print_level = name
        self._apply()

    @property
    def level(self) -> LevelName:
        """The least severe level that syslog gets."""
        return self._level

    @level.setter
    def level(self, name: LevelName) -> None:
        self._level = name
        self._apply()

    # Flags

    @property
    def flags(self) -> dict[str, bool]:
        """Each flag, and whether it is set."""
        return dict(self._flags)

    def set_flag(self, name: str, *, enabled: bool = True) -> None:
        """Let a component (or `all`) say what is INFO and DEBUG, or forbid it. KeyError: unknown.

        Upper and lower case are the same, and `vbdev_*` is all flags that it fits, as in SPDK.
        """
        wanted = "*" if name.lower() == ALL else name.lower()
        found = fnmatch.filter(self._flags, wanted)
        if not found:
            raise KeyError(name)
        for flag in found:
            self._flags[flag] = enabled
        self._apply()

    # Format

    @property
    def timestamps(self) -> bool:
        """Whether each message on the console begins with the time."""
        return self._timestamps

    @timestamps.setter
    def timestamps(self, enabled: bool) -> None:
        self._timestamps = enabled
        self._apply()

    def _apply(self) -> None:
        if self._console is None or self._syslog is None:
            return
        print_level, level = LEVELS[self._print_level], LEVELS[self._level]
        self._console.setLevel(print_level)
        self._console.setFormatter(LineFormatter(WITH_TIME if self._timestamps else WITHOUT_TIME))
        self._syslog.setLevel(level)
        self._root.setLevel(min(print_level, level))
        for flag, names in COMPONENTS.items():
            for name in names:
                threshold = self._root.level
                logging.getLogger(name).setLevel(
                    threshold if self._flags[flag] else max(NOTICE, threshold)
                )
        self.on_change()
