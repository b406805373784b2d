from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, final

SPIN_US: int

class _Clock(Protocol):
    def now_ns(self) -> int: ...

@final
class Watch:
    @property
    def fd(self) -> int: ...
    @property
    def readable(self) -> Callable[[], object] | None: ...
    @property
    def writable(self) -> Callable[[], object] | None: ...
    def update(self, *, read: bool, write: bool) -> None: ...
    def close(self) -> None: ...

@final
class Loop:
    engine: Any
    @property
    def busy_turns(self) -> int: ...
    @property
    def idle_turns(self) -> int: ...
    @property
    def sleeps(self) -> int: ...
    @property
    def polls(self) -> int: ...
    @property
    def late(self) -> bool: ...
    @property
    def closed(self) -> bool: ...
    @property
    def deadline_ns(self) -> int | None: ...
    def __init__(
        self,
        *,
        messages: deque[Any],
        tasks: deque[Any],
        pollers: dict[Any, Any],
        timers: list[Any],
        run_messages: Callable[[], int],
        run_tasks: Callable[[], int],
        run_pollers: Callable[[], int],
        run_timers: Callable[[int], int],
        on_error: Callable[[Callable[..., object], Exception], object],
        clock: _Clock | None = None,
    ) -> None: ...
    def watch(
        self,
        fd: int,
        readable: Callable[[], object] | None,
        writable: Callable[[], object] | None,
    ) -> Watch: ...
    def turn(self, wait: bool = False) -> int: ...
    def times_ns(self) -> tuple[int, int]: ...
    def close(self) -> None: ...
