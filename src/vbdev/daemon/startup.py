"""How a configuration is carried out: in two passes, and whatever the order of its entries.

The first pass has the calls that are possible before the framework starts: options. The second
pass has those that are possible only then, in the order of the file; a method that is possible at
both times was called in the first. (SPDK: lib/init/json_config.c.)

Entries may stand in any order. A vbdev waits for its base by itself. Where a call is about a bdev
that is not there yet, it is put off until the others are through, and again as long as that helps.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Collection

from vbdev.api.errors import METHOD_NOT_FOUND, RpcError
from vbdev.api.methods import State
from vbdev.daemon.config import Config, ConfigCall, ConfigError
from vbdev.reactor.reactor import Reactor
from vbdev.rpc.serving.dispatch import Dispatcher

__all__ = ["Startup", "note", "refusal", "refuse"]

log = logging.getLogger(__name__)

ABSENT = "The requested bdev does not exist."
"""How bdev_delay_update_latency says ENODEV."""
DISTURBING = frozenset({"bdev_error_inject_error"})
"""Methods that I/O notices: whoever looks at disks has to be through with that."""
ADVICE = "take the entry out, or pass it over with --json-ignore-init-errors"
"""What is done about a method that is not here."""
OPTIONS_ELSEWHERE = frozenset(
    [
        "accel_assign_opc",
        "accel_set_driver",
        "accel_set_options",
        "ae4dma_scan_accel_module",
        "bdev_iscsi_set_options",
        "bdev_nvme_set_hotplug",
        "bdev_nvme_set_options",
        "bdev_raid_set_options",
        "bdev_virtio_blk_set_hotplug",
        "compressdev_scan_accel_module",
        "cuda_scan_accel_module",
        "dpdk_cryptodev_scan_accel_module",
        "dpdk_cryptodev_set_driver",
        "dsa_scan_accel_module",
        "fsdev_set_opts",
        "iaa_scan_accel_module",
        "ioat_scan_accel_module",
        "iscsi_set_options",
        "keyring_linux_set_options",
        "mlx5_scan_accel_module",
        "nvmf_set_config",
        "nvmf_set_crdt",
        "nvmf_set_max_subsystems",
        "scheduler_set_options",
        "sock_impl_set_options",
        "sock_set_default_impl",
        "vmd_enable",
    ]
)
"""Methods of SPDK's that set options of its modules and make nothing. What SPDK saves has them,
used or not; of modules that are not here they mean nothing."""
UNDOING = ("_delete", "_remove", "_stop", "_stop_disk", "_unregister")
"""How methods end that take something away; later there would be something else to take."""


class Startup:
    """One configuration, on its way into a dispatcher.

    subsystems: names of those that there are. What a file has for others is left out, and so are
        options of SPDK's modules that are not here; the log says so.
    on_error(call, error): told what goes wrong; what it does not raise is passed over. By default
        the first one raises ConfigError.
    """

    def __init__(
        self,
        config: Config,
        dispatcher: Dispatcher,
        subsystems: Collection[str],
        *,
        on_error: Callable[[ConfigCall, RpcError], object] | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._on_error = on_error or refuse
        self._given_up = False
        self._calls = list(self._known(config, subsystems))

    def _known(self, config: Config, subsystems: Collection[str]) -> list[ConfigCall]:
        """Return the calls of methods that there are; ConfigError for one that is missing."""
        if not config.has_subsystems:
            log.warning('%s: no list "subsystems" at the top; nothing to carry out', config.path)
        known = []
        left_out: dict[str, int] = {}
        for call in config.calls:
            if self._dispatcher.get(call.method) is not None:
                known.append(call)
            elif call.subsystem not in subsystems:
                left_out[call.subsystem] = left_out.get(call.subsystem, 0) + 1
            elif call.method in OPTIONS_ELSEWHERE:
                log.warning("%s: %s: options of a module that is not here", call.where, call.method)
            else:
                self._on_error(call, RpcError(METHOD_NOT_FOUND, "Method not found"))
        for subsystem, number in left_out.items():
            log.warning(
                "%s: there is no subsystem %s here; calls left out: %d",
                config.path,
                subsystem,
                number,
            )
        return known

    def give_up(self) -> None:
        """Begin no other call. The one that is under way has its own end."""
        self._given_up = True

    async def carry_out_startup(self) -> None:
        """Carry out the first pass. ConfigError: what is wrong where."""
        for call in self._calls:
            if not self._given_up and State.STARTUP in self._states(call):
                error = await self._call(call)
                if error is not None:
                    self._on_error(call, error)

    async def carry_out_runtime(self) -> None:
        """Carry out the second pass. ConfigError: what is wrong where."""
        calls = [call for call in self._calls if State.STARTUP not in self._states(call)]
        await self._carry_out([call for call in calls if call.method not in DISTURBING])
        disturbing = [call for call in calls if call.method in DISTURBING]
        if disturbing and not self._given_up:
            await self._dispatcher.call("bdev_wait_for_examine")
            await self._carry_out(disturbing)

    async def _carry_out(self, calls: list[ConfigCall]) -> None:
        while calls and not self._given_up:
            put_off: list[tuple[ConfigCall, RpcError]] = []
            for call in calls:
                if self._given_up:
                    return
                error = await self._call(call)
                if error is None:
                    continue
                if _is_absence(error) and not call.method.endswith(UNDOING):
                    put_off.append((call, error))
                else:
                    self._on_error(call, error)
            if len(put_off) == len(calls):
                for call, error in put_off:
                    self._on_error(call, error)
                return
            calls = [call for call, _ in put_off]
            if calls:  # perhaps what they are about is found on a disk
                await self._dispatcher.call("bdev_wait_for_examine")

    def _states(self, call: ConfigCall) -> State:
        method = self._dispatcher.get(call.method)
        assert method is not None
        return method.states

    async def _call(self, call: ConfigCall) -> RpcError | None:
        try:
            await self._dispatcher.call(call.method, call.params)
        except RpcError as error:
            return error
        reactor = Reactor.current()
        if reactor is not None:  # a long configuration holds up nobody
            await reactor.breathe()
        return None


def refuse(call: ConfigCall, error: RpcError) -> None:
    """Raise ConfigError with what went wrong, and where."""
    raise ConfigError(f"{call.where}: {refusal(call, error)}") from error


def refusal(call: ConfigCall, error: RpcError) -> str:
    """Return why a call ends the start of a daemon, and what may be done about it."""
    advice = f": {ADVICE}" if error.code == METHOD_NOT_FOUND else ""
    return f"{call.method}: {error}{advice}"


def note(call: ConfigCall, error: RpcError) -> None:
    """Log what went wrong, and where (SPDK: --json-ignore-init-errors)."""
    log.error("%s: %s: %s", call.where, call.method, error)


def _is_absence(error: RpcError) -> bool:
    return error.code == -errno.ENODEV or error.message == ABSENT
