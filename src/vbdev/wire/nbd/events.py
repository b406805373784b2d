"""What a handshake tells its caller, on both sides, and the values that travel in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from vbdev.wire.nbd.constants import TransmissionFlag

if TYPE_CHECKING:
    from vbdev.wire.nbd.constants import Option

__all__ = [
    "BlockSizes",
    "ClientEvent",
    "Closed",
    "ContextRequest",
    "ExportDescribed",
    "ExportInfo",
    "ExportListed",
    "ExportRequest",
    "ListRequest",
    "Refused",
    "ServerEvent",
    "Transmission",
]

_NO_LIMIT = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class BlockSizes:
    """Constraints on requests ("Block size constraints"), each in bytes."""

    minimum_bytes: int = 1
    preferred_bytes: int = 4096
    maximum_bytes: int = 32 << 20

    def fault(self, export_bytes: int) -> str | None:
        """Return what the specification forbids in these sizes, or None where they are sound."""
        low, preferred, high = self.minimum_bytes, self.preferred_bytes, self.maximum_bytes
        if not (1 <= low <= 1 << 16 and low.bit_count() == 1):
            return f"minimum block size {low} is not a power of 2 in 1..65536"
        if not (max(low, 512) <= preferred <= 1 << 31 and preferred.bit_count() == 1):
            return f"preferred block size {preferred} is not a power of 2 from {max(low, 512)}"
        if not 0 < high <= _NO_LIMIT or (high != _NO_LIMIT and high % low):
            return f"maximum block size {high} is not a multiple of the minimum {low}"
        if high < min(preferred, export_bytes):
            return f"maximum block size {high} is below the preferred {preferred}"
        return None


@dataclass(frozen=True, slots=True)
class ExportInfo:
    """An export as INFO and GO describe it. None stands for what was not told.

    A server gives what is true of the export; the codec sets HAS_FLAGS, and clears SEND_DF
    where structured replies are not negotiated ("Transmission flags").
    """

    size_bytes: int
    flags: TransmissionFlag = TransmissionFlag.HAS_FLAGS
    block_sizes: BlockSizes | None = None
    name: str | None = None
    description: str | None = None


@dataclass(frozen=True, slots=True)
class Transmission:
    """The handshake is over, requests may follow. What came after it is `trailing_data`.

    `export_name` is the name that the client asked for; `info` is what the server told it.
    `meta_contexts` are (context ID, name), empty unless they were set for this very name.
    """

    export_name: str
    info: ExportInfo
    structured_replies: bool
    meta_contexts: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Closed:
    """The handshake is over without transmission: send what is to send and close."""

    reason: str


@dataclass(frozen=True, slots=True)
class ListRequest:
    """NBD_OPT_LIST: answer with `answer_list` or `refuse`."""


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """NBD_OPT_INFO, GO or EXPORT_NAME: answer with `answer_export` or `refuse`.

    The codec picks from the answer what the client asked for, so a caller treats all three
    alike. A refused EXPORT_NAME has no reply in the protocol and closes the session.
    """

    option: Option
    export_name: str
    info_types: frozenset[int]


@dataclass(frozen=True, slots=True)
class ContextRequest:
    """NBD_OPT_LIST_META_CONTEXT or SET_META_CONTEXT: answer with `answer_contexts` or `refuse`.

    `matches` are the server's contexts that the queries select, wildcards resolved: the answer
    is (context ID, name) for those of them that this export has.
    """

    option: Option
    export_name: str
    queries: tuple[str, ...]
    matches: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExportListed:
    """One export in the reply to NBD_OPT_LIST."""

    name: str
    description: str


@dataclass(frozen=True, slots=True)
class ExportDescribed:
    """The reply to NBD_OPT_INFO."""

    info: ExportInfo


@dataclass(frozen=True, slots=True)
class Refused:
    """The server answered an option with an error.

    `error` is the NBD_REP_ERR number, which this codec may not know; `message` is the
    server's, for humans. Where `goes_on`, the client does without; otherwise Closed follows.
    """

    option: Option
    error: int
    message: str
    goes_on: bool


ServerEvent: TypeAlias = ListRequest | ExportRequest | ContextRequest | Transmission | Closed
ClientEvent: TypeAlias = ExportListed | ExportDescribed | Refused | Transmission | Closed
