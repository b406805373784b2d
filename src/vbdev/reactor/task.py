"""Futures and tasks: control-plane code as coroutines, driven by a reactor.

None of this is in the data path. `Reactor.spawn` makes a task; whatever it awaits is a Future.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from typing import Any, Generic, TypeVar

__all__ = ["Future", "Task", "gather", "wake"]

log = logging.getLogger(__name__)

T = TypeVar("T")


class Future(Generic[T]):
    """A value that arrives later, on one reactor; resolve it on the thread that awaits it."""

    __slots__ = ("_callbacks", "_done", "_error", "_value")

    def __init__(self) -> None:
        self._done = False
        self._value: T | None = None
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[Future[T]], None]] = []

    @property
    def done(self) -> bool:
        """Whether the value, or the error, is there."""
        return self._done

    def set_result(self, value: T) -> None:
        """Resolve with a value. Resolving twice is an error of the caller."""
        self._finish(value, None)

    def set_exception(self, error: BaseException) -> None:
        """Resolve with an error, which whoever awaits receives."""
        self._finish(None, error)

    def _finish(self, value: T | None, error: BaseException | None) -> None:
        if self._done:
            raise RuntimeError("this future has its value already")
        self._done, self._value, self._error = True, value, error
        callbacks, self._callbacks = self._callbacks, []
        stop: BaseException | None = None
        for callback in callbacks:
            try:
                callback(self)
            except Exception:  # neither whoever resolves it nor the other callbacks are to blame
                log.exception("done callback failed function=%r", callback)
            except BaseException as raised:  # noqa: BLE001 - raised below, behind the others
                stop = stop or raised
        if stop is not None:
            raise stop

    def result(self) -> T:
        """Return the value or raise the error. Before either is there: RuntimeError."""
        if not self._done:
            raise RuntimeError("this future has no value yet")
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]  # done without error: it is a T

    def add_done_callback(self, callback: Callable[[Future[T]], None]) -> None:
        """Call `callback(self)` when the value arrives; at once if it is there."""
        if self._done:
            callback(self)
        else:
            self._callbacks.append(callback)

    def __await__(self) -> Generator[Future[Any], None, T]:
        if not self._done:
            yield self
        return self.result()


class Task(Future[T]):
    """A coroutine that a reactor runs. Its result is the coroutine's."""

    __slots__ = ("_coroutine", "_ready", "name")

    def __init__(
        self, ready: deque[Task[Any]], coroutine: Coroutine[Any, Any, T], name: str
    ) -> None:
        super().__init__()
        self.name = name
        self._coroutine = coroutine
        self._ready = ready

    def step(self) -> None:
        """Run up to the next await. For the reactor, which finds it in `ready`."""
        try:
            awaited = self._coroutine.send(None)
        except StopIteration as stop:
            self.set_result(stop.value)
        except Exception as error:
            if not self._callbacks:
                log.exception("task failed name=%s", self.name)
            self.set_exception(error)
        except BaseException as error:
            # Whoever awaits it is to go on to its own end; KeyboardInterrupt and SystemExit are
            # for the loop, once.
            ended = RuntimeError(f"task {self.name} was ended by {error!r}")
            ended.__cause__ = error
            self.set_exception(ended)
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            log.exception("task failed name=%s", self.name)
        else:
            if isinstance(awaited, Future):
                awaited.add_done_callback(self._wake)
            else:  # asyncio's, say
                self._misuse(awaited)

    def _misuse(self, awaited: object) -> None:
        log.error("task awaits what no reactor can resolve name=%s awaited=%r", self.name, awaited)
        self._coroutine.close()
        self.set_exception(TypeError(f"{self.name}: awaits {awaited!r}, which is no Future"))

    def _wake(self, _future: Future[Any]) -> None:
        self._ready.append(self)


def wake(future: Future[None]) -> None:
    """Resolve a future that several may resolve: the first one does, the others find it done."""
    if not future.done:
        future.set_result(None)


async def gather(awaitables: Sequence[Awaitable[T]]) -> list[T]:
    """Await all, in order; the first error is raised after the others have ended."""
    results: list[T] = []
    errors: list[Exception] = []
    for awaitable in awaitables:
        try:
            results.append(await awaitable)
        except Exception as error:  # noqa: BLE001 - raised below, when nothing is left running
            errors.append(error)
    if errors:
        raise errors[0]
    return results
