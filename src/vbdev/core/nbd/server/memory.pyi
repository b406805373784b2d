from collections.abc import Callable
from typing import final

from vbdev.core.engine.engine import Engine, IoOwner

@final
class NbdMemory:
    limit_bytes: int
    reserve_bytes: int
    little_bytes: int
    chunk_limit_bytes: int
    used_bytes: int
    chunk_bytes: int
    on_due: Callable[[], object] | None
    on_suspect: Callable[[], object] | None
    def __init__(self, engine: Engine, limit_bytes: int = 0) -> None: ...
    @property
    def waiting(self) -> int: ...
    def take_suspects(self) -> list[MemoryClient]: ...
    def serve(self) -> None: ...

class MemoryClient(IoOwner):
    memory: NbdMemory
    @property
    def waits_since_ns(self) -> int: ...
    @property
    def memory_bytes(self) -> int: ...
    @property
    def holds_since_ns(self) -> int: ...
