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

from vbdev.api.errors import INVALID_PARAMS, PARSE_ERROR
from vbdev.api.methods import DECODE_OBJECT_FAILED, Method, Refusal, failures
from vbdev.api.params import Params
from vbdev.bdev import BdevError
from vbdev.rpc.methods.plane import Plane

__all__ = ["METHODS"]

Nothing = list[dict[str, Any]]
"""A list that is empty."""

NO_CONTROLLER: Final = Refusal(errno.EINVAL, "Controller {name} does not exist")
NO_KEY: Final = Refusal(INVALID_PARAMS, "key was not found")
UNPARSED: Final = Refusal(PARSE_ERROR, DECODE_OBJECT_FAILED.text)
LVOL_ERRORS: Final = failures(errno.EINVAL, errno.ENODEV)


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


async def controllers(_plane: Plane, params: GetControllersParams) -> Nothing:
    if params.name is not None:
        raise NO_CONTROLLER.error(name=params.name)
    return []


async def discovery(_plane: Plane, _params: None) -> Nothing:
    """List the NVMe discovery services: there are none."""
    return []


async def raids(_plane: Plane, _params: GetRaidsParams) -> Nothing:
    return []


async def stores(_plane: Plane, params: GetLvstoresParams | None) -> Nothing:
    return none_of("lvstore", params, "uuid", "lvs_name")


async def lvols(_plane: Plane, params: GetLvolsParams | None) -> Nothing:
    return none_of("lvstore", params, "lvs_uuid", "lvs_name")


async def keys(_plane: Plane, params: GetKeysParams) -> Nothing:
    if params.key_name is not None:
        raise NO_KEY.error(f"key_name: {params.key_name!r}")
    return []


def none_of(what: str, params: Params | None, uuid_field: str, name_field: str) -> Nothing:
    """Return no stores, or fail as SPDK does where one is named: EINVAL for none and for both."""
    if params is None:
        return []
    given = [value for field in (uuid_field, name_field) if (value := getattr(params, field))]
    if len(given) != 1:
        raise BdevError(errno.EINVAL, f"{uuid_field}, or {name_field}, or no parameters at all")
    raise BdevError(errno.ENODEV, f"no {what} {given[0]!r}: there are none")


METHODS: Final[tuple[Method[Plane], ...]] = (
    Method(
        "bdev_nvme_get_controllers",
        GetControllersParams,
        controllers,
        DECODE_OBJECT_FAILED,
        Nothing,
        (NO_CONTROLLER,),
    ),
    Method("bdev_raid_get_bdevs", GetRaidsParams, raids, UNPARSED, Nothing),
    Method(
        "bdev_lvol_get_lvstores",
        GetLvstoresParams,
        stores,
        DECODE_OBJECT_FAILED,
        Nothing,
        LVOL_ERRORS,
        tells_none=True,
    ),
    Method(
        "bdev_lvol_get_lvols",
        GetLvolsParams,
        lvols,
        DECODE_OBJECT_FAILED,
        Nothing,
        LVOL_ERRORS,
        tells_none=True,
    ),
    Method("accel_crypto_keys_get", GetKeysParams, keys, UNPARSED, Nothing, (NO_KEY,)),
    Method("bdev_nvme_get_discovery_info", None, discovery, result=Nothing, unwanted=None),
)
