from typing import Protocol, Self

from vbdev.core.batch import IOBatch
from vbdev.core.engine import Engine
from vbdev.core.nbd_client import NbdPath

class Host(Protocol):
    def flush(self, path: NbdPath, ios: IOBatch) -> None: ...
    def reset(self, path: NbdPath, ios: IOBatch) -> None: ...
    def on_change(self) -> None: ...
    def on_work(self) -> None: ...

class NbdDisk:
    block_size: int
    keeps_writes: bool
    def __new__(cls, *, block_size: int, keeps_writes: bool) -> Self: ...
    @property
    def lost(self) -> bool: ...

class NbdQueue:
    engine: Engine
    disk: NbdDisk
    resend: bool
    outstanding: int
    resent: int
    def __new__(cls, engine: Engine, disk: NbdDisk, host: Host, *, resend: bool) -> Self: ...
    @property
    def num_waiting(self) -> int: ...
