"""Lists of what bdevs can be made of elsewhere, and of which there is nothing here.

Control planes ask for NVMe controllers, RAIDs, logical volumes and keys before they do anything
else. Without any SPDK answers with an empty list, and that is the truth here too. What would make
one is refused as unknown. Lists of other targets (NVMe-oF, iSCSI, vhost, ublk) are unknown methods
altogether: who asks for them wants to export something there, and is to find out at once.

A module that has such things registers methods of the same names, which take the place of these.
"""

from __future__ import annotations

import errno
from typing import Any, Final, Literal

from vbdev.api.errors import INTERNAL_ERROR, INVALID_PARAMS, PARSE_ERROR, RpcError
from vbdev.api.methods import failures
from vbdev.api.params import Params
from vbdev.bdev import BdevError
from vbdev.rpc.serving.dispatch import DECODE_OBJECT_FAILED, Dispatcher, Method

__all__ = ["register_nothing_methods"]

Nothing = list[dict[str, Any]]
"""A list that is empty."""

NO_CONTROLLER: Final = (errno.EINVAL, "Controller {name} does not exist")
NO_KEY: Final = (INVALID_PARAMS, "key was not found")


class GetControllersParams(Params, kw_only=True, frozen=True):
    """List the NVMe controllers: there are none."""

    name: str | None = None
    """Name of one; all when absent."""


class GetRaidsParams(Params, kw_only=True, frozen=True):
    """List the RAIDs: there are none."""

    category: Literal["all", "online", "configuring", "offline"]
    """Those that are in this state."""


class GetLvstoresParams(Params, kw_only=True, frozen=True):
    """List the stores of logical volumes: there are none."""

    uuid: str | None = None
    """UUID of one, or"""
    lvs_name: str | None = None
    """its name; all when there are no parameters."""


class GetLvolsParams(Params, kw_only=True, frozen=True):
    """List the logical volumes: there are none."""

    lvs_uuid: str | None = None
    """UUID of a store, or"""
    lvs_name: str | None = None
    """its name; those of all stores when there are no parameters."""


class GetKeysParams(Params, kw_only=True, frozen=True):
    """List the keys for encryption: there are none."""

    key_name: str | None = None
    """Name of one; all when absent."""


def register_nothing_methods(dispatcher: Dispatcher) -> None:
    """Add them to a dispatcher."""

    async def controllers(params: GetControllersParams) -> Nothing:
        if params.name is not None:
            code, text = NO_CONTROLLER
            raise RpcError(code, text.format(name=params.name))
        return []

    async def discovery(_params: None) -> Nothing:
        """List the NVMe discovery services: there are none."""
        return []

    async def raids(_params: GetRaidsParams) -> Nothing:
        return []

    async def stores(params: GetLvstoresParams | None) -> Nothing:
        return none_of("lvstore", params, "uuid", "lvs_name")

    async def lvols(params: GetLvolsParams | None) -> Nothing:
        return none_of("lvstore", params, "lvs_uuid", "lvs_name")

    async def keys(params: GetKeysParams) -> Nothing:
        if params.key_name is not None:
            raise RpcError(*NO_KEY, f"key_name: {params.key_name!r}")
        return []

    undecoded = (INTERNAL_ERROR, DECODE_OBJECT_FAILED)
    unparsed = (PARSE_ERROR, DECODE_OBJECT_FAILED)
    lvol_errors = failures(errno.EINVAL, errno.ENODEV)
    for name, handler, params, refusal, errors in (
        (
            "bdev_nvme_get_controllers",
            controllers,
            GetControllersParams,
            undecoded,
            (NO_CONTROLLER,),
        ),
        ("bdev_raid_get_bdevs", raids, GetRaidsParams, unparsed, ()),
        ("bdev_lvol_get_lvstores", stores, GetLvstoresParams, undecoded, lvol_errors),
        ("bdev_lvol_get_lvols", lvols, GetLvolsParams, undecoded, lvol_errors),
        ("accel_crypto_keys_get", keys, GetKeysParams, unparsed, (NO_KEY,)),
    ):
        dispatcher.register_substitute(
            Method(
                name,
                handler,
                params,
                *refusal,
                result=Nothing,
                errors=errors,
                tells_none=name.startswith("bdev_lvol"),
            )
        )
    dispatcher.register_substitute(
        Method("bdev_nvme_get_discovery_info", discovery, result=Nothing, unwanted=None)
    )


def none_of(what: str, params: Params | None, uuid_field: str, name_field: str) -> Nothing:
    """Return no stores, or fail as SPDK does where one is named: EINVAL for none and for both."""
    if params is None:
        return []
    given = [value for field in (uuid_field, name_field) if (value := getattr(params, field))]
    if len(given) != 1:
        raise BdevError(errno.EINVAL, f"{uuid_field}, or {name_field}, or no parameters at all")
    raise BdevError(errno.ENODEV, f"no {what} {given[0]!r}: there are none")
