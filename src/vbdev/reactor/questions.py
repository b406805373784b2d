"""Questions: messages to a reactor whose answer somebody on another one awaits."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from vbdev.reactor.task import Future

__all__ = ["Question", "ReactorStoppedError"]

T = TypeVar("T")


class Asked(Protocol):
    """A reactor, to whoever asks."""

    name: str

    def send_msg(self, function: Callable[..., object], *args: Any) -> bool:
        """Run `function(*args)` there; False when it has stopped."""


class ReactorStoppedError(OSError):
    """A message could not be delivered: its reactor has stopped (errno ESHUTDOWN)."""

    def __init__(self, reactor: Asked) -> None:
        super().__init__(errno.ESHUTDOWN, f"reactor {reactor.name} has stopped")


class Question(Generic[T]):
    """A message that is answered, come what may: with a value, an error, or that nobody is here."""

    __slots__ = ("_args", "_function", "_origin", "_reactor", "future")

    def __init__(
        self, reactor: Asked, origin: Asked, function: Callable[..., T], args: tuple[Any, ...]
    ) -> None:
        self.future: Future[T] = Future()
        self._reactor = reactor
        self._origin = origin
        self._function = function
        self._args = args

    def __call__(self) -> None:
        """Ask. On the reactor that is asked."""
        try:
            value = self._function(*self._args)
        except Exception as error:  # noqa: BLE001 - it is the asker's
            self._origin.send_msg(self.future.set_exception, error)
        except BaseException as error:
            ended = RuntimeError(f"{self._function!r} on {self._reactor.name} raised {error!r}")
            ended.__cause__ = error
            self._origin.send_msg(self.future.set_exception, ended)
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
        else:
            self._origin.send_msg(self.future.set_result, value)

    def refuse(self) -> None:
        """Say that the reactor has ended before it came to this."""
        self._origin.send_msg(self.future.set_exception, ReactorStoppedError(self._reactor))
