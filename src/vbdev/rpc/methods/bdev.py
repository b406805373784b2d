"""The `bdev_*` methods: the generic ones, and those of each module."""

from __future__ import annotations

import errno
import os
from functools import partial

from vbdev.api.errors import INTERNAL_ERROR, RpcError
from vbdev.api.methods import ModuleMethod, NamedParams, failures
from vbdev.api.params import BdevName, Params, Uint64
from vbdev.api.results import BdevInfo, StackEntry
from vbdev.bdev import Bdev, BdevError, BdevParams, BdevState, VirtualBdevParams
from vbdev.registry import Registry
from vbdev.rpc.methods.bdev_info import describe, stack
from vbdev.rpc.serving.dispatch import DECODE_OBJECT_FAILED, Dispatcher, Method
from vbdev.rpc.serving.turns import long_answer

__all__ = ["register_bdev_methods", "register_module"]


class GetBdevsParams(Params, kw_only=True, frozen=True):
    """List bdevs, or one."""

    name: BdevName | None = None
    """Name, alias or UUID of one bdev."""
    timeout: Uint64 = 0
    """How long to wait for it, in ms."""


def register_bdev_methods(dispatcher: Dispatcher, registry: Registry) -> None:
    """Add the methods that are about any bdev."""

    async def get_bdevs(params: GetBdevsParams) -> list[BdevInfo]:
        if params.name is None:
            found = []
            async with long_answer(registry.reactor):
                for one in list(registry):
                    if one.state is BdevState.READY:  # still: others have run in between
                        found.append(describe(one))
                    await registry.reactor.breathe()
            return found
        waited_ms = 0
        while ready(params.name) is None and waited_ms < params.timeout:
            pause_ms = min(100, params.timeout - waited_ms)  # SPDK looks every 100 ms
            await registry.reactor.sleep(pause_ms * 1000)
            waited_ms += pause_ms
        bdev = ready(params.name)
        if bdev is not None:
            return [describe(bdev)]
        if params.timeout:
            raise BdevError(
                errno.ETIMEDOUT, f"no bdev {params.name!r} came within {params.timeout} ms"
            )
        why = "is being removed" if registry.find(params.name) else "is not there"
        raise BdevError(errno.ENODEV, f"bdev {params.name!r} {why}")

    def ready(name: str) -> Bdev | None:
        # One that is being removed can not be opened: who asks is told that it is gone.
        bdev = registry.find(name)
        return bdev if bdev is not None and bdev.state is BdevState.READY else None

    async def get_stack(_params: None) -> list[StackEntry]:
        """List every bdev with its base, its claim and who has it open, and what still waits."""
        entries = []
        async with long_answer(registry.reactor):
            for entry in stack(registry):
                entries.append(entry)
                await registry.reactor.breathe()
        return entries

    dispatcher.register(
        Method(
            "bdev_get_bdevs",
            get_bdevs,
            GetBdevsParams,
            INTERNAL_ERROR,
            DECODE_OBJECT_FAILED,
            result=list[BdevInfo],
            errors=failures(errno.ENODEV, errno.ETIMEDOUT),
        )
    )
    dispatcher.register(Method("vbdev_get_stack", get_stack, result=list[StackEntry]))


def register_module(dispatcher: Dispatcher, registry: Registry, module: type[Bdev]) -> None:
    """Add the methods of a module: those it declares, and create and delete derived from it.

    ValueError, and none of them added, where another method has such a name.
    """
    declared = {method.name: method for method in module.rpc_methods()}
    for derived in (create_method(module), delete_method(module)):
        declared.setdefault(derived.name, derived)
    dispatcher.require_free(declared)
    for method in declared.values():
        dispatcher.register(
            Method(
                method.name,
                partial(method.handler, registry),
                method.params,
                *(method.undecoded or module.undecoded),
                result=method.result,
                errors=method.errors,
                group=f"bdev_{module.kind}",
            )
        )


def create_method(module: type[Bdev]) -> ModuleMethod:
    """Return `bdev_<kind>_create`, which answers with the bdev's name."""

    async def create(registry: Registry, params: BdevParams) -> str:
        try:
            return await registry.create(module, params)
        except (BdevError, OSError) as error:
            if module.create_failure is None or error.errno is None:
                raise
            code, text = module.create_failure
            reason = os.strerror(error.errno)
            raise RpcError(code, text.format(reason=reason), str(error)) from error

    if not module.Params.__doc__ or module.Params in (BdevParams, VirtualBdevParams):
        create.__doc__ = f"Create a {module.kind} bdev."
    if module.create_failure is None:
        errors = failures(*module.create_errnos)
    else:
        errors = (module.create_failure,)
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
