"""The `spdk_*`, `rpc_*` and `framework_*` methods."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Final

import msgspec

from vbdev.api.errors import INVALID_PARAMS
from vbdev.api.methods import BOTH, NO_ARGUMENTS, Method, Refusal
from vbdev.api.params import Params
from vbdev.api.results import ConfigCall, Subsystem, Version, VersionFields
from vbdev.api.version import SPDK_MAJOR, SPDK_MINOR, SUFFIX, VERSION
from vbdev.rpc.methods.plane import Plane
from vbdev.rpc.serving.turns import long_answer

__all__ = ["METHODS"]

NO_SUBSYSTEM: Final = Refusal(INVALID_PARAMS, "Subsystem '{name}' not found")
BATCHED = frozenset({"bdev_malloc_create", "bdev_null_create"})
"""Methods whose calls may run together, as SPDK groups them."""


class GetMethodsParams(Params, kw_only=True, frozen=True):
    """List the RPC methods."""

    current: bool = False
    """Only those that can be called in the present state."""
    include_aliases: bool = False
    """Deprecated names too; there are none."""


class GetConfigParams(Params, kw_only=True, frozen=True):
    """The configuration of a subsystem, as the RPC calls that make it again."""

    name: str
    """Name of the subsystem."""
    with_batches: bool = False
    """Put calls that may run together into an array of their own."""


async def get_version(_plane: Plane, _params: None) -> Version:
    """Return the version of the daemon."""
    return Version(
        version=VERSION,
        fields=VersionFields(major=SPDK_MAJOR, minor=SPDK_MINOR, patch=0, suffix=SUFFIX),
    )


async def get_methods(plane: Plane, params: GetMethodsParams) -> list[str]:
    return plane.dispatcher.names(current=params.current)


async def get_subsystems(plane: Plane, _params: None) -> list[Subsystem]:
    """List the parts that have a configuration, in the order of initialisation."""
    return [
        Subsystem(subsystem=name, depends_on=depends_on)
        for name, (depends_on, _) in plane.subsystems.items()
    ]


async def get_config(
    plane: Plane, params: GetConfigParams
) -> list[ConfigCall | list[ConfigCall]] | None:
    if params.name not in plane.subsystems:
        raise NO_SUBSYSTEM.error(f"subsystems: {', '.join(plane.subsystems)}", name=params.name)
    config = plane.subsystems[params.name][1]
    if config is None:
        return None
    calls: list[ConfigCall] = []
    async with long_answer(plane.reactors.first):
        for call in config():
            calls.append(msgspec.convert(call, ConfigCall))
            await plane.reactors.first.breathe()
    return in_batches(calls) if params.with_batches else [*calls]


def in_batches(calls: Iterable[ConfigCall]) -> list[ConfigCall | list[ConfigCall]]:
    """Return calls with those in arrays that stand together and may run together."""
    grouped: list[ConfigCall | list[ConfigCall]] = []
    for may, some in groupby(calls, lambda call: call.method in BATCHED):
        together = list(some)
        if may and len(together) > 1:
            grouped.append(together)
        else:
            grouped.extend(together)
    return grouped


METHODS: Final[tuple[Method[Plane], ...]] = (
    Method(
        "spdk_get_version",
        None,
        get_version,
        states=BOTH,
        result=Version,
        unwanted="{name} method requires no parameters",
    ),
    Method("rpc_get_methods", GetMethodsParams, get_methods, states=BOTH, result=list[str]),
    Method(
        "framework_get_subsystems",
        None,
        get_subsystems,
        result=list[Subsystem],
        unwanted=NO_ARGUMENTS,
    ),
    Method(
        "framework_get_config",
        GetConfigParams,
        get_config,
        Refusal(INVALID_PARAMS, "Invalid arguments"),
        result=list[ConfigCall | list[ConfigCall]] | None,
        errors=(NO_SUBSYSTEM,),
    ),
)
