"""A server's answers to options, as the replies that carry them. Pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vbdev.wire.nbd.constants import (
    EXPORT_NAME_REPLY,
    MAX_CONTEXTS,
    MAX_EXPORT_BYTES,
    RESERVED_ZEROES,
    InfoType,
    Option,
    OptionReply,
    TransmissionFlag,
)
from vbdev.wire.nbd.errors import LocalProtocolError
from vbdev.wire.nbd.events import ExportInfo
from vbdev.wire.nbd.payloads import (
    encode_context,
    encode_info,
    encode_option_reply,
    encode_server,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vbdev.wire.nbd.events import ContextRequest, ExportRequest

__all__ = ["encode_contexts", "encode_export", "encode_export_name", "encode_list", "info_as_sent"]


def encode_list(exports: Iterable[tuple[str, str]]) -> bytes:
    """Return the whole reply to NBD_OPT_LIST."""
    return _with_ack(Option.LIST, OptionReply.SERVER, [encode_server(*pair) for pair in exports])


def info_as_sent(request: ExportRequest, info: ExportInfo, *, structured: bool) -> ExportInfo:
    """Return of `info` what this client gets to see. An unsound `info` is LocalProtocolError."""
    if not 0 <= info.size_bytes <= MAX_EXPORT_BYTES:
        raise LocalProtocolError(
            f"export {request.export_name!r} of {info.size_bytes} bytes, not in 0..2^63 - 1"
        )
    if not 0 <= info.flags < 1 << 16:
        raise LocalProtocolError(f"transmission flags {int(info.flags):#x} do not fit 16 bits")
    # "Transmission flags": HAS_FLAGS MUST always be 1; SEND_DF MUST be clear if structured
    # replies have not been negotiated.
    flags = info.flags | TransmissionFlag.HAS_FLAGS
    if not structured:
        # As ints, because `~` of an IntFlag drops the flags that have no names.
        flags = TransmissionFlag(int(flags) & ~int(TransmissionFlag.SEND_DF))
    if request.option is Option.EXPORT_NAME:
        return ExportInfo(info.size_bytes, flags)
    sizes = info.block_sizes
    if sizes is not None and (fault := sizes.fault(info.size_bytes)):
        raise LocalProtocolError(f"export {request.export_name!r}: {fault}")
    wanted = request.info_types
    name = request.export_name if info.name is None else info.name
    return ExportInfo(
        info.size_bytes,
        flags,
        sizes,
        name if InfoType.NAME in wanted else None,
        info.description if InfoType.DESCRIPTION in wanted else None,
    )


def encode_export(option: Option, sent: ExportInfo) -> bytes:
    """Return the whole reply to NBD_OPT_INFO or NBD_OPT_GO."""
    items = [encode_info(InfoType.EXPORT, (sent.size_bytes, sent.flags))]
    if sent.block_sizes is not None:
        items.append(encode_info(InfoType.BLOCK_SIZE, sent.block_sizes))
    if sent.name is not None:
        items.append(encode_info(InfoType.NAME, sent.name))
    if sent.description is not None:
        items.append(encode_info(InfoType.DESCRIPTION, sent.description))
    return _with_ack(option, OptionReply.INFO, items)


def encode_export_name(sent: ExportInfo, *, no_zeroes: bool) -> bytes:
    """Return the reply to NBD_OPT_EXPORT_NAME, which has no header ("Newstyle negotiation")."""
    reply = EXPORT_NAME_REPLY.pack(sent.size_bytes, sent.flags)
    return reply if no_zeroes else reply + RESERVED_ZEROES


def encode_contexts(request: ContextRequest, chosen: Sequence[tuple[int, str]]) -> bytes:
    """Return the whole reply to NBD_OPT_LIST_META_CONTEXT or NBD_OPT_SET_META_CONTEXT."""
    if strange := [name for _, name in chosen if name not in request.matches]:
        raise LocalProtocolError(f"contexts {strange[:8]} do not match {request.queries[:8]}")
    if len(chosen) > MAX_CONTEXTS:
        raise LocalProtocolError(f"{len(chosen)} contexts, more than {MAX_CONTEXTS}")
    # "NBD_OPT_SET_META_CONTEXT": each with a unique metadata context ID.
    # "NBD_OPT_LIST_META_CONTEXT": the ID is reserved and SHOULD be set to zero.
    setting = request.option is Option.SET_META_CONTEXT
    if setting and len({number for number, _ in chosen}) < len(chosen):
        raise LocalProtocolError(f"context IDs repeat in {chosen[:8]}")
    items = [encode_context(number if setting else 0, name) for number, name in chosen]
    return _with_ack(request.option, OptionReply.META_CONTEXT, items)


def _with_ack(option: Option, reply: OptionReply, items: Iterable[bytes]) -> bytes:
    replies = [encode_option_reply(option, reply, item) for item in items]
    return b"".join([*replies, encode_option_reply(option, OptionReply.ACK)])
