"""The `log_*` methods: how much is said, where, and of which component."""

from __future__ import annotations

import errno
from typing import Final

from vbdev.api.errors import INVALID_PARAMS
from vbdev.api.methods import BOTH, DECODE_OBJECT_FAILED, DECODE_OBJECT_INVALID, Method, Refusal
from vbdev.api.params import Params
from vbdev.bdev import BdevError
from vbdev.reports.logs import LevelName, Logs
from vbdev.rpc.methods.plane import Plane

__all__ = ["METHODS"]

UNKNOWN: Final = Refusal(INVALID_PARAMS, "invalid log flag")


class LogLevelParams(Params, kw_only=True, frozen=True):
    """Set a level of messages."""

    level: LevelName
    """The least severe level that goes out."""


class LogFlagParams(Params, kw_only=True, frozen=True):
    """Name a component."""

    flag: str
    """One of those that `log_get_flags` lists, or `all`; or a pattern, `vbdev_*`."""


class TimestampParams(Params, kw_only=True, frozen=True):
    """Say whether messages have the time."""

    enabled: bool
    """Whether each message on the console begins with the time."""


def opened(plane: Plane) -> Logs:
    if not plane.logs.is_open:
        raise BdevError(errno.ENOTSUP, "the log belongs to the program around this App")
    return plane.logs


async def set_print_level(plane: Plane, params: LogLevelParams) -> bool:
    """Set what goes to the console (stderr)."""
    opened(plane).print_level = params.level
    return True


async def get_print_level(plane: Plane, _params: None) -> str:
    """Return what goes to the console (stderr)."""
    return opened(plane).print_level


async def set_level(plane: Plane, params: LogLevelParams) -> bool:
    """Set what goes to syslog."""
    opened(plane).level = params.level
    return True


async def get_level(plane: Plane, _params: None) -> str:
    """Return what goes to syslog."""
    return opened(plane).level


def flag(plane: Plane, params: LogFlagParams, *, enabled: bool) -> bool:
    try:
        opened(plane).set_flag(params.flag, enabled=enabled)
    except KeyError as error:
        raise UNKNOWN.error(
            f"flag: {params.flag!r} is none of {', '.join(plane.logs.flags)}, all",
        ) from error
    return True


async def set_flag(plane: Plane, params: LogFlagParams) -> bool:
    """Let a component say what is INFO and DEBUG, where the levels let it out."""
    return flag(plane, params, enabled=True)


async def clear_flag(plane: Plane, params: LogFlagParams) -> bool:
    """Let a component say nothing below NOTICE."""
    return flag(plane, params, enabled=False)


async def get_flags(plane: Plane, _params: None) -> dict[str, bool]:
    """Return each component's flag."""
    return opened(plane).flags


async def enable_timestamps(plane: Plane, params: TimestampParams) -> bool:
    """Begin each message on the console with the time, or no more."""
    opened(plane).timestamps = params.enabled
    return True


METHODS: Final[tuple[Method[Plane], ...]] = (
    Method(
        "log_set_print_level", LogLevelParams, set_print_level, DECODE_OBJECT_FAILED, states=BOTH
    ),
    Method("log_get_print_level", None, get_print_level, states=BOTH, result=str),
    Method("log_set_level", LogLevelParams, set_level, DECODE_OBJECT_FAILED, states=BOTH),
    Method("log_get_level", None, get_level, states=BOTH, result=str),
    Method(
        "log_set_flag",
        LogFlagParams,
        set_flag,
        DECODE_OBJECT_FAILED,
        states=BOTH,
        errors=(UNKNOWN,),
    ),
    Method(
        "log_clear_flag",
        LogFlagParams,
        clear_flag,
        DECODE_OBJECT_FAILED,
        states=BOTH,
        errors=(UNKNOWN,),
    ),
    Method("log_get_flags", None, get_flags, states=BOTH, result=dict[str, bool]),
    Method("log_enable_timestamps", TimestampParams, enable_timestamps, DECODE_OBJECT_INVALID),
)
