from collections.abc import Callable
from typing import Any, Self

from vbdev.core.batch import IOBatch, IoCore

class Engine(IoCore):
    pool_size: int
    pool_high_water: int
    ios_in_use: int
    delivered: int
    on_module_error: Callable[[Any, BaseException, int], object] | None
    def __new__(
        cls,
        *,
        pool_size: int = 65535,
        buffer_limit_bytes: int = 268435456,
        virtual: bool = False,
    ) -> Self: ...
    def set_virtual_time(self, now_ns: int) -> None: ...
    @property
    def pending(self) -> bool: ...
    def drain(self) -> int: ...
    def held_by(self, channel: Channel) -> int: ...

class Channel:
    engine: Engine
    bdev: Any
    descriptor: Any
    base: Channel
    context: Any
    closed: bool
    def __new__(cls, engine: Engine, bdev: Any, descriptor: Any = None) -> Self: ...
    def configure(
        self,
        *,
        submit: Callable[[Channel, IOBatch], object],
        completed: Callable[[Channel, IOBatch], object] | None,
        supported_mask: int,
        ops_mask: int,
        num_blocks: int,
        block_size: int,
        required_alignment: int,
        refused_flags: int,
        gives_read_buffers: bool,
    ) -> None: ...
    def submit(self, ios: IOBatch, /) -> None: ...
    @property
    def outstanding(self) -> int: ...
    @property
    def mean_batch(self) -> float: ...
    def stats(self) -> dict[str, tuple[int, int, int, int, int]]: ...
    def errors(self) -> dict[int, int]: ...
    def reset_stats(self, counts: bool, extremes: bool, errors: bool) -> None: ...
    def abort_waiting(self) -> None: ...
    def close(self) -> None: ...

class IoOwner:
    engine: Engine
    def __new__(cls, engine: Engine, *args: Any, **kwargs: Any) -> Self: ...
    @property
    def in_flight(self) -> int: ...
    def close(self) -> None: ...
