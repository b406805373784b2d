"""`notify_get_types` and `notify_get_notifications`: what came, went and changed."""

from __future__ import annotations

import errno
import os
from typing import Final

from vbdev.api.errors import INVALID_PARAMS
from vbdev.api.methods import Method, Refusal
from vbdev.api.params import Params, Uint64
from vbdev.api.results import Notification
from vbdev.registry.notifications import NOTIFICATION_TYPES
from vbdev.rpc.methods.plane import Plane

__all__ = ["METHODS"]


class GetNotificationsParams(Params, kw_only=True, frozen=True):
    """List events, oldest first. The last 1024 are kept."""

    id: Uint64 = 0
    """Number of the first event to list."""
    max: Uint64 | None = None
    """How many to list at most."""


async def get_types(_plane: Plane, _params: None) -> list[str]:
    """List the types of events."""
    return list(NOTIFICATION_TYPES)


async def get_notifications(plane: Plane, params: GetNotificationsParams) -> list[Notification]:
    found = plane.registry.notifications.since(params.id, params.max)
    return [Notification(type=one.type, ctx=one.ctx, id=one.id) for one in found]


METHODS: Final[tuple[Method[Plane], ...]] = (
    Method(
        "notify_get_types",
        None,
        get_types,
        result=list[str],
        unwanted="No parameters required",
    ),
    Method(
        "notify_get_notifications",
        GetNotificationsParams,
        get_notifications,
        Refusal(INVALID_PARAMS, os.strerror(errno.EINVAL)),
        result=list[Notification],
    ),
)
