"""What is saved: the RPC calls that make the same bdevs, and the same wishes for bdevs, again.

First what each module was asked for, vbdevs above all, which wait for their bases; then bdev after
bdev, from each base up: what makes it, unless a module's wish does, and what was set on it. So
nothing stands before what it is about. Whoever loads the calls and saves again has the same calls:
their order follows from what was asked for, not from the order in which it came true.
(SPDK: spdk_bdev_subsystem_config_json.)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from vbdev.bdev import Bdev, BdevState, VirtualBdev
from vbdev.bdev.figures.histograms import histogram_config
from vbdev.bdev.figures.rates import qos_config
from vbdev.registry.creations import Creation, Creations
from vbdev.registry.examine import Examiner
from vbdev.registry.table import Table

__all__ = ["comes_back", "saved_calls", "subsystem_calls"]

log = logging.getLogger(__name__)

Call = dict[str, Any]

WAIT_FOR_EXAMINE = "bdev_wait_for_examine"


def subsystem_calls(table: Table, examiner: Examiner) -> Iterator[Call]:
    """Yield all calls of the subsystem `bdev`: options first, the wait for what comes of it last.

    So whoever loads them may go on to what stands on bdevs that are found on disks.
    """
    yield {"method": "bdev_set_options", "params": msgspec.structs.asdict(table.options)}
    yield from saved_calls(table, examiner)
    yield {"method": WAIT_FOR_EXAMINE}


def saved_calls(table: Table, examiner: Examiner) -> Iterator[Call]:
    """Yield the calls, in their order. The options of the bdev layer are not among them.

    Others may run in between: what has come since the first call is left out, and so is what is
    gone when its turn comes.
    """
    for name in list(examiner.requested):
        yield {"method": "bdev_examine", "params": {"name": name}}
    wishes = sorted(table.creations.values(), key=_module_order(examiner))
    late: dict[Bdev, list[Creation]] = {}
    losing = []  # who lost its base to another one shall lose it again
    for kind in list(table.module_options):
        yield from _options(table, kind)
    for wish in wishes:
        if not _is_there(table, wish):
            continue
        first = next(iter(wish.vbdevs), None)
        unseen = [one for one in first.bases if not examiner.wants(one)] if first else []
        if unseen:
            late.setdefault(unseen[-1], []).append(wish)  # it would wait for ever
        elif first is None and all(map(table.find, wish.base_names)):
            losing.append(wish)
        else:
            yield from wish.config()
    for wish in losing:
        if _is_there(table, wish):
            yield from wish.config()
    standing = _Standing(table, wishes, late)
    for bdev in table:
        if not isinstance(bdev, VirtualBdev):
            yield from standing.on(bdev)


def _is_there(table: Table, wish: Creation) -> bool:
    return table.creations.get(wish.key) is wish


def _module_order(examiner: Examiner) -> Callable[[Creation], int]:
    kinds = [module.kind for module in examiner.modules]
    rank = {kind: number for number, kind in enumerate(kinds)}
    return lambda creation: rank.get(creation.cls.kind, len(rank))


def _options(table: Table, kind: str) -> Iterator[Call]:
    given = table.module_options.get(kind)
    if given is not None:
        params = msgspec.to_builtins(given)
        yield {
            "method": f"bdev_{kind}_set_options",
            "params": {key: value for key, value in params.items() if value is not None},
        }


class _Standing:
    """Goes up from each base, in the order in which the load of a saved configuration will."""

    def __init__(
        self,
        table: Table,
        creations: Iterable[Creation],
        late: Mapping[Bdev, Iterable[Creation]],
    ) -> None:
        self._above: dict[Bdev, list[VirtualBdev]] = {}
        self._known: dict[Bdev, Ways] = {}
        self._table = table
        self._late = late
        self._examined = True
        """Whether whoever loads what was yielded has waited for all that it made."""
        wished = [layer for creation in creations for layer in creation.vbdevs]
        found = [b for b in table if isinstance(b, VirtualBdev) and table.creations.of(b) is None]
        order = {bdev: number for number, bdev in enumerate(table)}
        for layer in (*wished, *found):
            last = max(layer.bases, key=lambda base: order.get(base, 0))
            self._above.setdefault(last, []).append(layer)

    def on(self, bdev: Bdev, *, on_disk: bool = False) -> Iterator[Call]:
        """Yield what is saved of a bdev, and of what stands on it.

        on_disk: it is there only when the data of a bdev below it was examined.
        """
        if bdev.state is not BdevState.READY:
            return  # it goes, and so does all above it
        if not isinstance(bdev, VirtualBdev):
            yield {"method": f"bdev_{bdev.kind}_create", "params": _params(bdev)}
            self._examined = False
        elif self._table.creations.of(bdev) is None:
            on_disk = True
        if comes_back(self._table.creations, bdev, self._known):
            own, settings = _own_calls(bdev), [*qos_config(bdev), *histogram_config(bdev)]
            # What the module has been told may be for the next I/O, and not for who examines.
            if not self._examined and (own or (on_disk and settings)):
                yield {"method": WAIT_FOR_EXAMINE}
                self._examined = True
            yield from (*own, *settings)
        for creation in self._late.get(bdev, ()):
            if _is_there(self._table, creation):
                yield from creation.config()
        for layer in self._above.get(bdev, ()):
            yield from self.on(layer, on_disk=on_disk)


Ways = frozenset[tuple[bool, bool]]
"""Of each way from a bdev down: (the disk at its end keeps its data, something on it was found)."""


def comes_back(creations: Creations, bdev: Bdev, known: dict[Bdev, Ways] | None = None) -> bool:
    """Say whether a bdev is there when the configuration is loaded: no partition in memory is.

    known: what was found out of other bdevs, for who asks of many.
    """
    ways = _ways_down(creations, bdev, {} if known is None else known)
    return all(keeps_data or not found for keeps_data, found in ways)


def _ways_down(creations: Creations, bdev: Bdev, known: dict[Bdev, Ways]) -> Ways:
    ways = known.get(bdev)
    if ways is None:
        if isinstance(bdev, VirtualBdev):
            found_here = creations.of(bdev) is None
            ways = frozenset(
                (keeps_data, found or found_here)
                for base in bdev.bases
                for keeps_data, found in _ways_down(creations, base, known)
            )
        else:
            ways = frozenset({(bdev.keeps_data, False)})
        known[bdev] = ways
    return ways


def _params(bdev: Bdev) -> dict[str, Any]:
    try:
        return bdev.config_params()
    except Exception:
        log.exception("bdev %s (%s): config_params failed", bdev.name, bdev.kind)
        return Bdev.config_params(bdev)


def _own_calls(bdev: Bdev) -> list[Call]:
    """Return what a module says was set on its bdev since it was made."""
    try:
        return list(bdev.config_calls())
    except Exception:
        log.exception("bdev %s (%s): config_calls failed", bdev.name, bdev.kind)
        return []
