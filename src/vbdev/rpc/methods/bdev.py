"""The `bdev_*` methods: the generic ones, and those of each module."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from typing import Final

from vbdev.api.methods import (
    DECODE_OBJECT_FAILED,
    Method,
    ModuleMethod,
    NamedParams,
    Refusal,
    failures,
)
from vbdev.api.params import BdevName, Params, Uint64
from vbdev.api.results import BdevInfo, StackEntry
from vbdev.bdev import Bdev, BdevError, BdevParams, BdevState, VirtualBdevParams
from vbdev.registry import Registry
from vbdev.rpc.bdev_info import describe, stack
from vbdev.rpc.methods.plane import Plane
from vbdev.rpc.serving.dispatch import Dispatcher
from vbdev.rpc.serving.turns import long_answer

__all__ = ["METHODS", "register_module"]


class GetBdevsParams(Params, kw_only=True, frozen=True):
    """List bdevs, or one."""

    name: BdevName | None = None
    """Name, alias or UUID of one bdev."""
    timeout: Uint64 = 0
    """How long to wait for it, in ms."""


async def get_bdevs(plane: Plane, params: GetBdevsParams) -> list[BdevInfo]:
    if params.name is None:
        found = []
        async with long_answer(plane.registry.reactor):
            for one in list(plane.registry):
                if one.state is BdevState.READY:  # still: others have run in between
                    found.append(describe(one))
                await plane.registry.reactor.breathe()
        return found
    clock = plane.registry.reactor.clock
    give_up_ns = clock.now_ns() + params.timeout * 1_000_000
    while (bdev := ready(plane.registry, params.name)) is None:
        left_us = (give_up_ns - clock.now_ns()) / 1000
        if left_us <= 0:
            break
        await plane.registry.arrival(left_us)
    if bdev is not None:
        return [describe(bdev)]
    if params.timeout:
        raise BdevError(errno.ETIMEDOUT, f"no bdev {params.name!r} came within {params.timeout} ms")
    why = "is being removed" if plane.registry.find(params.name) else "is not there"
    raise BdevError(errno.ENODEV, f"bdev {params.name!r} {why}")


def ready(registry: Registry, name: str) -> Bdev | None:
    # One that is being removed can not be opened: who asks is told that it is gone.
    bdev = registry.find(name)
    return bdev if bdev is not None and bdev.state is BdevState.READY else None


async def get_stack(plane: Plane, _params: None) -> list[StackEntry]:
    """List every bdev with its base, its claim and who has it open, and what still waits."""
    entries = []
    async with long_answer(plane.registry.reactor):
        for entry in stack(plane.registry):
            entries.append(entry)
            await plane.registry.reactor.breathe()
    return entries


def register_module(dispatcher: Dispatcher, registry: Registry, module: type[Bdev]) -> None:
    """Add the methods of a module: those it declares, and create and delete derived from it.

    ValueError, and none of them added, where another method has such a name.
    """
    declared = {method.name: method for method in module.rpc_methods()}
    for derived in (create_method(module), delete_method(module)):
        declared.setdefault(derived.name, derived)
    dispatcher.require_free(declared)
    for method in declared.values():
        undecoded = method.undecoded or module.undecoded
        dispatcher.register(
            replace(method, undecoded=undecoded, group=f"bdev_{module.kind}"), registry
        )


def create_method(module: type[Bdev]) -> ModuleMethod:
    """Return `bdev_<kind>_create`, which answers with the bdev's name."""

    async def create(registry: Registry, params: BdevParams) -> str:
        try:
            return await registry.create(module, params)
        except (BdevError, OSError) as error:
            if module.create_failure is None or error.errno is None:
                raise
            failure = Refusal(*module.create_failure)
            raise failure.error(str(error), reason=os.strerror(error.errno)) from error

    if not module.Params.__doc__ or module.Params in (BdevParams, VirtualBdevParams):
        create.__doc__ = f"Create a {module.kind} bdev."
    errors: tuple[Refusal, ...]
    if module.create_failure is None:
        errors = failures(*module.create_errnos)
    else:
        errors = (Refusal(*module.create_failure),)
    return ModuleMethod(
        f"bdev_{module.kind}_create", module.Params, create, result=str, errors=errors
    )


def delete_method(module: type[Bdev]) -> ModuleMethod:
    """Return `bdev_<kind>_delete`."""

    async def delete(registry: Registry, params: NamedParams) -> bool:
        await registry.delete(params.name, module.kind)
        return True

    delete.__doc__ = f"Delete a {module.kind} bdev."
    return ModuleMethod(
        f"bdev_{module.kind}_delete",
        NamedParams,
        delete,
        errors=failures(errno.ENODEV, errno.EBUSY),
    )


METHODS: Final[tuple[Method[Plane], ...]] = (
    Method(
        "bdev_get_bdevs",
        GetBdevsParams,
        get_bdevs,
        DECODE_OBJECT_FAILED,
        result=list[BdevInfo],
        errors=failures(errno.ENODEV, errno.ETIMEDOUT),
    ),
    Method("vbdev_get_stack", None, get_stack, result=list[StackEntry]),
)
