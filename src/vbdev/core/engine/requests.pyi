from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, final

from typing_extensions import Buffer

from vbdev.core.engine.channel import Channel
from vbdev.core.engine.engine import Engine, IoOwner
from vbdev.core.memory.domain import MemoryDomain

_Data: TypeAlias = Buffer | Sequence[Buffer] | Sequence[tuple[int, int]] | None

@final
class Request:
    op: int
    status: int
    @property
    def nvme_status(self) -> tuple[int, int, int]: ...
    @property
    def nvme_fused_status(self) -> tuple[int, tuple[int, int], tuple[int, int]]: ...
    @property
    def scsi_status(self) -> tuple[int, int, int, int]: ...
    @property
    def aio_status(self) -> int: ...
    result: int
    detail: int
    cdw0: int
    done: bool
    @property
    def errno(self) -> int: ...
    @property
    def zcopy_data(self) -> list[memoryview[Any]]: ...

class Requests(IoOwner):
    def __init__(self, engine: Engine) -> None: ...
    def call_when_left(self, callback: Callable[[], object]) -> None: ...
    def request_of(self, index: int) -> Request | None: ...
    def submit(
        self,
        channel: Channel,
        op: int,
        offset_blocks: int,
        num_blocks: int,
        data: _Data = None,
        *,
        callback: Callable[[Request], object] | None = None,
        flags: int = 0,
        src_offset_blocks: int = 0,
        victim: Request | None = None,
        write_data: _Data = None,
        metadata: Buffer | None = None,
        cmd: Buffer | None = None,
        arg: int = 0,
        dif_check_flags_exclude_mask: int = 0,
        memory_domain: MemoryDomain | None = None,
    ) -> Request | None: ...
    def zcopy_end(
        self,
        request: Request,
        commit: bool,
        callback: Callable[[Request], object] | None = None,
    ) -> None: ...
