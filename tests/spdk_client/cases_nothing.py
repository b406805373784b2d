"""Lists of what there is nothing of here, as a target answers that has nothing of it."""

from __future__ import annotations

from spdk_client.case import (
    INVALID_ARGUMENT,
    INVALID_PARAMS,
    NO_SUCH_DEVICE,
    OBJECT_FAILED,
    Case,
    Refused,
)
from spdk_client.shapes import Is

PARSE_ERROR = -32700
UNPARSED = (PARSE_ERROR, "spdk_json_decode_object failed")
NOTHING = Is([])


def _stores(method: str, uuid: str) -> Case:
    both = {uuid: "11111111-2222-4333-8444-555555555555", "lvs_name": "L"}
    return Case(
        method,
        both,
        result=NOTHING,
        undecoded=OBJECT_FAILED,
        untried="each valid call with parameters names a store, and there is none",
        refused=(
            Refused("a name", {"lvs_name": "L"}, NO_SUCH_DEVICE, words=("-l", "L")),
            Refused("a UUID", {uuid: both[uuid]}, NO_SUCH_DEVICE, words=("-u", both[uuid])),
            Refused("both", both, INVALID_ARGUMENT),
            Refused("an empty object", {}, INVALID_ARGUMENT),
        ),
    )


CASES = (
    Case(
        "bdev_nvme_get_controllers",
        {},
        result=NOTHING,
        undecoded=OBJECT_FAILED,
        refused=(
            Refused(
                "one by name",
                {"name": "N"},
                (22, "Controller N does not exist"),
                words=("-n", "N"),
            ),
        ),
    ),
    Case("bdev_nvme_get_discovery_info", result=NOTHING),
    Case(
        "bdev_raid_get_bdevs",
        {"category": "all"},
        more=tuple({"category": one} for one in ("online", "configuring", "offline")),
        result=NOTHING,
        undecoded=UNPARSED,
        words=("all",),
    ),
    _stores("bdev_lvol_get_lvstores", "uuid"),
    _stores("bdev_lvol_get_lvols", "lvs_uuid"),
    Case(
        "accel_crypto_keys_get",
        {},
        result=NOTHING,
        undecoded=UNPARSED,
        refused=(
            Refused(
                "one by name",
                {"key_name": "K"},
                (INVALID_PARAMS, "key was not found"),
                words=("-k", "K"),
            ),
        ),
    ),
)
