from typing import Self

class BufferPool:
    num_slabs: int
    limit_bytes: int
    @property
    def largest_bytes(self) -> int: ...
    used_bytes: int
    aside_bytes: int
    cached_large_bytes: int
    live_buffers: int
    failed_gets: int
    def counts(self, first_bytes: int, last_bytes: int) -> tuple[int, int, int]: ...
    def __new__(cls, limit_bytes: int = 268435456) -> Self: ...
