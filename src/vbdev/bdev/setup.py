"""How a channel is set up: checks, splits and conversions that follow from a bdev's geometry."""

from __future__ import annotations

from collections.abc import Callable

from vbdev.bdev.contract import Bdev
from vbdev.bdev.host import ControlPath
from vbdev.core.coroutine.runner import Coroutines
from vbdev.core.engine.batch import IOBatch
from vbdev.core.engine.channel import Channel
from vbdev.reactor.task import Future
from vbdev.vocab import WRITE_OPS, Op

__all__ = ["configure_channel", "io_limits"]

CONVERTED_BYTES = 256 << 10
"""With metadata; made or checked in some 200 us."""


def configure_channel(bdev: Bdev, channel: Channel, control: ControlPath | None) -> None:
    """Give a channel the checks that follow from the geometry, at its start or a resize."""
    native = mask_of(bdev.ops)
    supported = native | mask_of(bdev.emulated_ops())
    writable = channel.descriptor is None or channel.descriptor.write
    hide = channel.descriptor is not None and channel.descriptor.hide_metadata
    if hide:
        # Memory that is lent has metadata in it; what is appended has no address to be made of.
        native &= ~mask_of(frozenset({Op.ZCOPY, Op.ZONE_APPEND}))
        supported &= ~mask_of(frozenset({Op.ZCOPY, Op.ZONE_APPEND}))
    submit, completed = _module_calls(bdev, channel, control)
    channel.configure(
        submit=submit,
        completed=completed,
        supported_mask=supported,
        ops_mask=supported if writable else supported & ~mask_of(WRITE_OPS),
        num_blocks=bdev.num_blocks,
        block_size=bdev.block_size,
        required_alignment=1 << bdev.required_alignment,
        refused_flags=bdev.refused_flags(),
        gives_read_buffers=bdev.gives_read_buffers,
        native_mask=native,
        limits=io_limits(
            bdev, channel.engine.buffers.largest_bytes, converted=hide and bdev.md_interleave
        ),
        md_len=0 if bdev.md_interleave else bdev.md_len,
        dif=bdev.metadata_layout(),
        hide_metadata=hide and bdev.md_interleave,
        memory_domains=bdev.memory_domains,
        control=control.submit if control is not None else None,
    )


BatchCall = Callable[[Channel, IOBatch], object]


def _module_calls(
    bdev: Bdev, channel: Channel, control: ControlPath | None
) -> tuple[BatchCall, BatchCall | None]:
    """Return what is called with a batch on its way down, and up. Makes coroutines' runner."""
    submit: BatchCall = bdev.submit
    completed: BatchCall | None = bdev.completed if bdev.sees_completed() else None
    if type(bdev).handle is Bdev.handle:
        return submit, completed
    if channel.coroutines is None:
        channel.coroutines = Coroutines(
            channel.engine,
            channel,
            handle=bdev.handle,
            future_class=Future,
            send_msg=channel.reactor.send_msg,
            lock=control.io_lock if control is not None else None,
        )
    if type(bdev).submit is Bdev.submit:
        submit = channel.coroutines.submit
    return submit, channel.coroutines.completed


def io_limits(bdev: Bdev, largest_buffer: int, *, converted: bool = False) -> dict[str, int]:
    """Return by what I/Os are split; data that may have to be bounced fits into a buffer.

    converted: metadata is made and taken away on the way, which is done for a piece at a time.
    """
    max_rw = bdev.max_rw_size
    if bdev.required_alignment or converted:
        most = min(largest_buffer, CONVERTED_BYTES) if converted else largest_buffer
        fits = max(most // bdev.block_size, 1)
        if bdev.split_on_write_unit:
            fits = max(fits - fits % bdev.write_unit_size, bdev.write_unit_size)
        max_rw = min(max_rw or fits, fits)
    return {
        "boundary": bdev.optimal_io_boundary if bdev.split_on_optimal_io_boundary else 0,
        "write_unit": bdev.write_unit_size if bdev.split_on_write_unit else 0,
        "max_rw": max_rw,
        "max_unmap": bdev.max_unmap * max(bdev.max_unmap_segments, 1),
        "max_write_zeroes": bdev.max_write_zeroes,
        "max_copy": bdev.max_copy,
        "acwu": bdev.acwu,
        "max_segment_bytes": bdev.max_segment_size,
        "max_segments": bdev.max_num_segments,
    }


def mask_of(ops: frozenset[Op]) -> int:
    """Return a bit for each op."""
    mask = 0
    for op in ops:
        mask |= 1 << op
    return mask
