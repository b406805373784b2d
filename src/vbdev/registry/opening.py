"""Opening: a bdev by its name, at once or when it comes."""

from __future__ import annotations

import errno
from collections.abc import Callable

from vbdev.bdev import BdevError, BdevEvent, BdevState
from vbdev.bdev.descriptor import Descriptor
from vbdev.bdev.entry import entry_of
from vbdev.reactor.reactor import Reactor
from vbdev.registry.table import Table

__all__ = ["ENDS", "Opening"]

ENDS = "the application ends before the bdev has come"


class Opening:
    """Makes the descriptors."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def open(
        self,
        name: str,
        *,
        write: bool,
        on_event: Callable[[BdevEvent], object],
        holder: str,
        reactor: Reactor | None = None,
        hide_metadata: bool = False,
    ) -> Descriptor:
        """See `Registry.open`."""
        home = self._table.reactor
        if not home.is_here:
            raise BdevError(
                errno.ENOTSUP,
                f"{holder}: bdevs are opened on {home.name}, which another reactor asks to",
            )
        if not callable(on_event):
            raise BdevError(errno.EINVAL, f"{holder}: an open of bdev {name!r} needs an on_event")
        bdev = self._table.get(name)
        entry = entry_of(bdev)
        if entry.state is not BdevState.READY:
            raise BdevError(errno.ENODEV, f"bdev {name!r} is being removed")
        if write and entry.claim is not None:
            raise BdevError(
                errno.EPERM,
                f"bdev {bdev.name} can not be opened for writing by {holder}:"
                f" claimed ({entry.claim.kind}) by {entry.claim.holder}",
            )
        if hide_metadata and bdev.md_len and not bdev.md_interleave:
            raise BdevError(
                errno.EINVAL,
                f"{holder}: the metadata of bdev {bdev.name} can not be hidden: it is separate",
            )
        descriptor = Descriptor(
            entry,
            reactor or home,
            write=write,
            on_event=on_event,
            holder=holder,
            hide_metadata=hide_metadata,
        )
        entry.openers.append(descriptor)
        return descriptor

    async def open_async(
        self,
        name: str,
        *,
        write: bool,
        on_event: Callable[[BdevEvent], object],
        holder: str,
        timeout_ms: int = 0,
        reactor: Reactor | None = None,
    ) -> Descriptor:
        """See `Registry.open_async`."""
        table = self._table
        clock = table.reactor.clock
        give_up_ns = clock.now_ns() + timeout_ms * 1_000_000
        while True:
            try:
                return self.open(
                    name, write=write, on_event=on_event, holder=holder, reactor=reactor
                )
            except BdevError as error:
                if error.errno != errno.ENODEV or not timeout_ms:
                    raise
                left_ns = give_up_ns - clock.now_ns()
                if left_ns <= 0:
                    raise BdevError(
                        errno.ETIMEDOUT,
                        f"{holder}: no bdev {name!r} came within {timeout_ms} ms",
                    ) from error
            if table.closing:
                raise BdevError(errno.ESHUTDOWN, ENDS)
            await table.arrival(left_ns / 1000)
