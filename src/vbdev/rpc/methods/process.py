"""`spdk_kill_instance` and `framework_monitor_context_switch`: the process and its threads."""

from __future__ import annotations

import logging
import os
import signal
from typing import Final, Literal

from vbdev.api.methods import Method
from vbdev.api.params import Params
from vbdev.api.results import ContextSwitches
from vbdev.rpc.methods.plane import Plane

__all__ = ["METHODS"]

log = logging.getLogger(__name__)

SignalName = Literal["SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP", "SIGKILL", "SIGUSR1"]
ANSWER_US: Final = 1000
"""How long the answer has to leave before a signal that may end the process at once."""


class KillParams(Params, kw_only=True, frozen=True):
    """Send this process a signal; the answer comes first."""

    sig_name: SignalName
    """The signal. All but SIGKILL and SIGUSR1, which is ignored, end the daemon in order."""


class MonitorParams(Params, kw_only=True, frozen=True):
    """Report the context switches of each reactor to the log, once a second; or say whether so.

    They are INFO messages of the component `reactor`. Each reactor wakes up for it.
    """

    enabled: bool | None = None
    """Whether to; absent: as it is."""


async def kill(plane: Plane, params: KillParams) -> bool:
    number = signal.Signals[params.sig_name]
    log.info("sending a signal to this process as asked for signal=%s", number.name)
    plane.reactors.first.call_later(ANSWER_US, lambda: os.kill(os.getpid(), number))
    return True


async def monitor_switches(plane: Plane, params: MonitorParams) -> ContextSwitches:
    if params.enabled is not None:
        await plane.monitor.enable(params.enabled)
    return ContextSwitches(enabled=plane.monitor.enabled)


METHODS: Final[tuple[Method[Plane], ...]] = (
    Method("spdk_kill_instance", KillParams, kill),
    Method(
        "framework_monitor_context_switch",
        MonitorParams,
        monitor_switches,
        result=ContextSwitches,
    ),
)
