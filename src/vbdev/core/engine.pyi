from collections.abc import Callable
from typing import Any, Self

from vbdev.core.batch import IoCore

class Engine(IoCore):
    pool_size: int
    pool_high_water: int
    reserve_in_use: int
    ios_in_use: int
    delivered: int
    children: ChildOwner
    reactor: Any
    on_module_error: Callable[[Any, BaseException, int], object] | None
    on_slow_module: Callable[[Any, int], object] | None
    def __new__(
        cls,
        *,
        pool_size: int = 65535,
        buffer_limit_bytes: int = 268435456,
        virtual: bool = False,
    ) -> Self: ...
    def set_virtual_time(self, now_ns: int) -> None: ...
    @property
    def deadline_ns(self) -> int: ...
    def clock_ns(self) -> int: ...
    def watch_outstanding(self, period_ns: int, callback: Callable[[int], object]) -> None: ...
    def held_longer(self, age_ns: int) -> list[tuple[Any, int, tuple[int, int, int, int]]]: ...
    def io_wait(self, callback: Callable[[], object]) -> object: ...
    def cancel_io_wait(self, token: object) -> None: ...
    @property
    def pending(self) -> bool: ...
    def drain(self) -> int: ...
    def held_by(self, channel: ChannelBase) -> int: ...

class ChannelBase:
    engine: Engine

class IoOwner:
    engine: Engine
    def __new__(cls, engine: Engine, *args: Any, **kwargs: Any) -> Self: ...
    @property
    def in_flight(self) -> int: ...
    def close(self) -> None: ...

class ChildOwner(IoOwner):
    due: bool
