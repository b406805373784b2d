"""The `spdk_*`, `rpc_*` and `framework_*` methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any

import msgspec

from vbdev import __version__
from vbdev.api.errors import INVALID_PARAMS, RpcError
from vbdev.api.params import Params
from vbdev.api.results import ConfigCall, Subsystem, Version, VersionFields
from vbdev.reactor.reactor import Reactor
from vbdev.rpc.serving.dispatch import NO_ARGUMENTS, Dispatcher, Method, State
from vbdev.rpc.serving.turns import long_answer

__all__ = ["VERSION", "Subsystems", "register_framework_methods"]

Subsystems = dict[str, tuple[list[str], Callable[[], Iterable[dict[str, Any]]] | None]]
"""{name: (what it depends on, its configuration as RPC calls, if it has one)}, in the order of
initialisation. Others may run between two of the calls."""

NO_SUBSYSTEM = (INVALID_PARAMS, "Subsystem '{name}' not found")
BATCHED = frozenset({"bdev_malloc_create", "bdev_null_create"})
"""Methods whose calls may run together, as SPDK groups them."""

SPDK_MAJOR, SPDK_MINOR = 26, 9
"""The SPDK release whose RPC methods are served."""
SUFFIX = f"-vbdev-{__version__}"
VERSION = f"SPDK v{SPDK_MAJOR}.{SPDK_MINOR:02}{SUFFIX}"
"""What `spdk_get_version` and `vbdev spdk-tgt --version` say."""


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


def register_framework_methods(
    dispatcher: Dispatcher, reactor: Reactor, subsystems: Subsystems
) -> None:
    """Add them to a dispatcher, which runs on `reactor`."""

    async def get_version(_params: None) -> Version:
        """Return the version of the daemon."""
        return Version(
            version=VERSION,
            fields=VersionFields(major=SPDK_MAJOR, minor=SPDK_MINOR, patch=0, suffix=SUFFIX),
        )

    async def get_methods(params: GetMethodsParams) -> list[str]:
        return dispatcher.names(current=params.current)

    async def get_subsystems(_params: None) -> list[Subsystem]:
        """List the parts that have a configuration, in the order of initialisation."""
        return [
            Subsystem(subsystem=name, depends_on=depends_on)
            for name, (depends_on, _) in subsystems.items()
        ]

    async def get_config(
        params: GetConfigParams,
    ) -> list[ConfigCall | list[ConfigCall]] | None:
        if params.name not in subsystems:
            code, text = NO_SUBSYSTEM
            raise RpcError(
                code, text.format(name=params.name), f"subsystems: {', '.join(subsystems)}"
            )
        config = subsystems[params.name][1]
        if config is None:
            return None
        calls: list[ConfigCall] = []
        async with long_answer(reactor):
            for call in config():
                calls.append(msgspec.convert(call, ConfigCall))
                await reactor.breathe()
        return in_batches(calls) if params.with_batches else [*calls]

    both = State.STARTUP | State.RUNTIME
    for method in (
        Method(
            "spdk_get_version",
            get_version,
            states=both,
            result=Version,
            unwanted="{name} method requires no parameters",
        ),
        Method("rpc_get_methods", get_methods, GetMethodsParams, states=both, result=list[str]),
        Method(
            "framework_get_subsystems",
            get_subsystems,
            result=list[Subsystem],
            unwanted=NO_ARGUMENTS,
        ),
        Method(
            "framework_get_config",
            get_config,
            GetConfigParams,
            decode_error_text="Invalid arguments",
            result=list[ConfigCall | list[ConfigCall]] | None,
            errors=(NO_SUBSYSTEM,),
        ),
    ):
        dispatcher.register(method)


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
