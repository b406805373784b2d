"""`notify_get_types` and `notify_get_notifications`: what came, went and changed."""

from __future__ import annotations

import errno
import os

from vbdev.api.params import Params, Uint64
from vbdev.api.results import Notification
from vbdev.registry import Registry
from vbdev.registry.notifications import NOTIFICATION_TYPES
from vbdev.rpc.serving.dispatch import Dispatcher, Method

__all__ = ["register_notify_methods"]


class GetNotificationsParams(Params, kw_only=True, frozen=True):
    """List events, oldest first. The last 1024 are kept."""

    id: Uint64 = 0
    """Number of the first event to list."""
    max: Uint64 | None = None
    """How many to list at most."""


def register_notify_methods(dispatcher: Dispatcher, registry: Registry) -> None:
    """Add them to a dispatcher."""

    async def get_types(_params: None) -> list[str]:
        """List the types of events."""
        return list(NOTIFICATION_TYPES)

    async def get_notifications(params: GetNotificationsParams) -> list[Notification]:
        found = registry.notifications.since(params.id, params.max)
        return [Notification(type=one.type, ctx=one.ctx, id=one.id) for one in found]

    dispatcher.register(
        Method("notify_get_types", get_types, result=list[str], unwanted="No parameters required")
    )
    dispatcher.register(
        Method(
            "notify_get_notifications",
            get_notifications,
            GetNotificationsParams,
            decode_error_text=os.strerror(errno.EINVAL),
            result=list[Notification],
        )
    )
