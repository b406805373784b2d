from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias, final

from vbdev.core.engine.batch import IOBatch
from vbdev.core.engine.channel import Channel
from vbdev.core.engine.engine import Engine, IoOwner
from vbdev.vocab import Op, Status

Buffer: TypeAlias = bytes | bytearray | memoryview

@final
class BdevIO:
    offset_blocks: int
    result: int
    @property
    def op(self) -> Op: ...
    @property
    def num_blocks(self) -> int: ...
    @property
    def src_offset_blocks(self) -> int: ...
    @property
    def flags(self) -> int: ...
    @property
    def arg(self) -> int: ...
    @property
    def id(self) -> int: ...
    @property
    def status(self) -> Status: ...
    @property
    def errno(self) -> int: ...
    @property
    def detail(self) -> int: ...
    has_lock: bool
    rests: bool
    def lock(
        self,
        offset_blocks: int | None = None,
        num_blocks: int | None = None,
        *,
        reads: bool = False,
    ) -> AbstractAsyncContextManager[None]: ...
    def data(self) -> list[memoryview]: ...
    def copy_data(self) -> BdevIO: ...
    def forward(self, to: Channel | None = None) -> BdevIO: ...
    def child(
        self,
        channel: Channel,
        op: Op | int | None = None,
        offset_blocks: int | None = None,
        num_blocks: int | None = None,
        data: Buffer | Sequence[Buffer] | None = None,
        *,
        flags: int = 0,
        src_offset_blocks: int = 0,
    ) -> ChildIO: ...
    def complete(
        self,
        status: Status | int | None = None,
        errno: int = 0,
        *,
        nvme: tuple[int, int] | None = None,
        scsi: tuple[int, int, int, int] | None = None,
        cdw0: int = 0,
    ) -> None: ...
    def __await__(self) -> Generator[Any, None, Status]: ...

@final
class ChildIO:
    offset_blocks: int
    num_blocks: int
    src_offset_blocks: int
    result: int
    cdw0: int
    done: bool
    @property
    def op(self) -> Op: ...
    @property
    def status(self) -> Status: ...
    @property
    def errno(self) -> int: ...
    @property
    def detail(self) -> int: ...
    def __await__(self) -> Generator[Any, None, Status]: ...

@final
class Coroutines(IoOwner):
    channel: Channel
    def __init__(
        self,
        engine: Engine,
        channel: Channel,
        *,
        handle: Callable[[Channel, BdevIO], Coroutine[Any, Any, Any]],
        future_class: type,
        send_msg: Callable[..., object] | None,
        lock: Callable[[BdevIO, int, int, bool], AbstractAsyncContextManager[None]] | None = None,
    ) -> None: ...
    def submit(self, channel: Channel, ios: IOBatch, /) -> None: ...
    def completed(self, channel: Channel, ios: IOBatch, /) -> None: ...
    def abort_all(self) -> None: ...
    def rests(self, index: int) -> bool: ...
    def hurry(self, index: int) -> None: ...
    def close(self) -> None: ...
