from collections.abc import Callable, Sequence
from typing import Any, final

from typing_extensions import Buffer

from vbdev.core.channel import Channel
from vbdev.core.engine import Engine, IoOwner

@final
class Request:
    status: int
    result: int
    done: bool
    @property
    def errno(self) -> int: ...
    @property
    def zcopy_data(self) -> list[memoryview[Any]]: ...

class Requests(IoOwner):
    def __init__(self, engine: Engine) -> None: ...
    def submit(
        self,
        channel: Channel,
        op: int,
        offset_blocks: int,
        num_blocks: int,
        data: Buffer | Sequence[Buffer] | None = None,
        *,
        callback: Callable[[Request], object] | None = None,
        flags: int = 0,
        src_offset_blocks: int = 0,
        victim: Request | None = None,
    ) -> Request | None: ...
    def zcopy_end(
        self,
        request: Request,
        commit: bool,
        callback: Callable[[Request], object] | None = None,
    ) -> None: ...
