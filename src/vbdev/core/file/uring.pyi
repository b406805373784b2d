from typing import Self

class Ring:
    fd: int
    sq_entries: int
    cq_entries: int
    setup_flags: int
    to_submit: int
    enters: int
    submitted: int
    registered_slabs: int
    def __new__(cls, entries: int = 256, cq_entries: int = 4096) -> Self: ...
    def close(self) -> None: ...
    def register_file(self, fd: int) -> int: ...
    def unregister_file(self, slot: int) -> None: ...
