"""The `log_*` methods: how much is said, where, and of which component."""

from __future__ import annotations

import errno
from typing import Final

from vbdev.api.errors import INTERNAL_ERROR, INVALID_PARAMS, RpcError
from vbdev.api.params import Params
from vbdev.bdev import BdevError
from vbdev.reports.logs import LevelName, Logs
from vbdev.rpc.serving.dispatch import DECODE_OBJECT_FAILED, Dispatcher, Method, State

__all__ = ["register_log_methods"]

UNKNOWN: Final = (INVALID_PARAMS, "invalid log flag")


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


def register_log_methods(dispatcher: Dispatcher, logs: Logs) -> None:
    """Add them to a dispatcher. `logs` must be open; else ENOTSUP: somebody else's log."""

    def opened() -> Logs:
        if not logs.is_open:
            raise BdevError(errno.ENOTSUP, "the log belongs to the program around this App")
        return logs

    async def set_print_level(params: LogLevelParams) -> bool:
        """Set what goes to the console (stderr)."""
        opened().print_level = params.level
        return True

    async def get_print_level(_params: None) -> str:
        """Return what goes to the console (stderr)."""
        return opened().print_level

    async def set_level(params: LogLevelParams) -> bool:
        """Set what goes to syslog."""
        opened().level = params.level
        return True

    async def get_level(_params: None) -> str:
        """Return what goes to syslog."""
        return opened().level

    def flag(params: LogFlagParams, *, enabled: bool) -> bool:
        try:
            opened().set_flag(params.flag, enabled=enabled)
        except KeyError as error:
            raise RpcError(
                *UNKNOWN,
                f"flag: {params.flag!r} is none of {', '.join(logs.flags)}, all",
            ) from error
        return True

    async def set_flag(params: LogFlagParams) -> bool:
        """Let a component say what is INFO and DEBUG, where the levels let it out."""
        return flag(params, enabled=True)

    async def clear_flag(params: LogFlagParams) -> bool:
        """Let a component say nothing below NOTICE."""
        return flag(params, enabled=False)

    async def get_flags(_params: None) -> dict[str, bool]:
        """Return each component's flag."""
        return opened().flags

    async def enable_timestamps(params: TimestampParams) -> bool:
        """Begin each message on the console with the time, or no more."""
        opened().timestamps = params.enabled
        return True

    both = State.STARTUP | State.RUNTIME
    undecoded = (INTERNAL_ERROR, DECODE_OBJECT_FAILED)
    for method in (
        Method("log_set_print_level", set_print_level, LogLevelParams, *undecoded, both),
        Method("log_get_print_level", get_print_level, states=both, result=str),
        Method("log_set_level", set_level, LogLevelParams, *undecoded, both),
        Method("log_get_level", get_level, states=both, result=str),
        Method("log_set_flag", set_flag, LogFlagParams, *undecoded, both, errors=(UNKNOWN,)),
        Method("log_clear_flag", clear_flag, LogFlagParams, *undecoded, both, errors=(UNKNOWN,)),
        Method("log_get_flags", get_flags, states=both, result=dict[str, bool]),
        Method(
            "log_enable_timestamps",
            enable_timestamps,
            TimestampParams,
            INVALID_PARAMS,
            DECODE_OBJECT_FAILED,
        ),
    ):
        dispatcher.register(method)
