from typing import Protocol, Self

from vbdev.core.batch import IOBatch
from vbdev.core.engine import Engine
from vbdev.core.fileio import FileJob
from vbdev.core.uring import Ring

class Host(Protocol):
    num_workers: int
    def start_jobs(self, jobs: list[FileJob]) -> None: ...
    def sync_failed(self, open_file: OpenFile) -> None: ...
    def stuck(self) -> None: ...
    def reset(self, path: FilePath, ios: IOBatch) -> None: ...

class OpenFile:
    fd: int
    dsync: bool
    failed_sync_errno: int
    def __new__(
        cls,
        fd: int,
        *,
        block_size: int,
        num_blocks: int,
        is_device: bool,
        direct: bool,
        dsync: bool = False,
    ) -> Self: ...
    def resize(self, num_blocks: int) -> None: ...

class FileEngine:
    ring: Ring | None
    under_way: int
    queued: int
    def __init__(self, core: Engine, ring: Ring | None, host: Host) -> None: ...
    def finish_job(self, job: FileJob) -> None: ...
    def reap(self) -> None: ...
    def retry(self) -> None: ...

class FilePath:
    engine: FileEngine
    open_file: OpenFile
    sync_fd: int
    outstanding: int
    def __new__(cls, engine: FileEngine, open_file: OpenFile, sync_fd: int) -> Self: ...
    def submit(self, ios: IOBatch) -> None: ...
    def reset(self, ios: IOBatch) -> None: ...
    def close(self) -> None: ...
