from collections.abc import Sequence
from typing import Self, TypeAlias, final

from typing_extensions import Buffer

_Pieces: TypeAlias = Buffer | Sequence[Buffer]
_Outcome: TypeAlias = tuple[int, int, int, int] | None

@final
class Dif:
    def __new__(
        cls,
        *,
        block_size: int,
        md_len: int,
        md_interleave: bool,
        dif_type: int = 0,
        dif_is_head_of_md: bool = False,
        dif_check_flags: int = 0,
        dif_pi_format: int = 0,
    ) -> Self: ...
    @property
    def data_block_size(self) -> int: ...
    def generate(
        self,
        data: _Pieces,
        md: Buffer | None = None,
        *,
        num_blocks: int,
        ref_tag: int,
        app_tag: int = 0,
        escape: bool = False,
    ) -> None: ...
    def verify(
        self,
        data: _Pieces,
        md: Buffer | None = None,
        *,
        num_blocks: int,
        ref_tag: int,
        app_tag: int = 0,
        app_mask: int = 65535,
        exclude: int = 0,
    ) -> _Outcome: ...
    def remap(
        self,
        data: _Pieces,
        md: Buffer | None = None,
        *,
        num_blocks: int,
        ref_tag: int,
        new_ref_tag: int,
        check: bool = True,
    ) -> _Outcome: ...
    def insert(
        self, data: _Pieces, blocks: _Pieces, *, num_blocks: int, ref_tag: int, app_tag: int = 0
    ) -> None: ...
    def strip(
        self,
        blocks: _Pieces,
        data: _Pieces,
        *,
        num_blocks: int,
        ref_tag: int,
        app_tag: int = 0,
        app_mask: int = 65535,
        exclude: int = 0,
    ) -> _Outcome: ...

def guard(pi_format: int, data: Buffer) -> int: ...
