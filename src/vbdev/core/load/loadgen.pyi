from collections.abc import Callable
from typing import Any, Final

from vbdev.core.engine.channel import Channel
from vbdev.core.engine.engine import Engine, IoOwner

WORKLOADS: Final[dict[str, tuple[int, bool, bool]]]

class LoadGenerator(IoOwner):
    workload: Final[str]
    io_size: Final[int]
    queue_depth: Final[int]
    ios: Final[int]
    failures: Final[int]
    started_ns: Final[int]
    ended_ns: Final[int]
    running: Final[bool]
    def __init__(
        self,
        engine: Engine,
        channel: Channel,
        *,
        workload: str,
        io_size: int,
        queue_depth: int,
        rwmixread: int = 50,
        seed: int = 1,
        max_failures: int = 0,
        on_end: Callable[[], object] | None = None,
    ) -> None: ...
    def reset_counters(self) -> None: ...
    def start(self, num_ios: int = 0) -> None: ...
    def stop(self) -> None: ...
    @property
    def mismatch(self) -> tuple[int, bytes, bytes] | None: ...
    @property
    def latency_mean_ns(self) -> float: ...
    @property
    def latency_range_ns(self) -> tuple[int, int]: ...
    def latency_percentile_ns(self, percent: float) -> int: ...
    def add(self, other: LoadGenerator) -> None: ...
    def errors(self) -> dict[int, int]: ...
    def layers(self) -> list[tuple[Any, int, int]]: ...
    def close(self) -> None: ...
