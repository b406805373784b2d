from collections.abc import Callable
from typing import final

from typing_extensions import Buffer

from vbdev.core.engine.channel import Channel
from vbdev.core.engine.engine import Engine
from vbdev.core.nbd.server.memory import MemoryClient, NbdMemory

@final
class NbdStream(MemoryClient):
    requests: int
    batches: int
    receives: int
    sends: int
    wants_read: bool
    wants_write: bool
    closed: bool
    starved: bool
    disconnecting: bool
    reason: str | None
    sent_bytes: int
    received_bytes: int
    def __init__(
        self,
        engine: Engine,
        channel: Channel,
        fd: int,
        *,
        transmission_flags: int,
        structured: bool,
        nbd_error: Callable[[int, int], int],
        on_change: Callable[[], object],
        early: Buffer = b"",
        size_bytes: int = 0,
        memory: NbdMemory | None = None,
        any_bytes: bool = False,
        remote: bool = False,
    ) -> None: ...
    @property
    def idle(self) -> bool: ...
    @property
    def held_bytes(self) -> int: ...
    @property
    def moved_bytes(self) -> int: ...
    @property
    def awaited(self) -> str: ...
    def take_specials(self) -> list[tuple[int, int, int, int, int]]: ...
    def on_readable(self) -> object: ...
    def on_writable(self) -> object: ...
    def receive(self) -> None: ...
    def process(self) -> None: ...
    def resume(self) -> None: ...
    def reply_raw(self, message: bytes) -> None: ...
    def send(self) -> None: ...
    def finish(self) -> None: ...
    def shut(self, reason: str) -> None: ...
