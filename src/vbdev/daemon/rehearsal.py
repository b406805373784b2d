"""What a configuration would do, without doing it: `vbdev config check`.

It is carried out as `vbdev serve` carries it out, in an application of its own. Names, claims,
bases that are waited for, limits and exports are the real ones. What lies below is not touched:
files are measured and not opened, memory is not reserved, no socket is listened on or connected, no
disk is read. A method that is about anything else than bdevs and exports has its parameters
decoded, and that is all. So what is found on a disk (partitions), who else has a file open, and
whether an address is free, shows only when the daemon starts.
"""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from vbdev.api.errors import RpcError
from vbdev.api.methods import State
from vbdev.bdev import Bdev, BdevError, VirtualBdev
from vbdev.daemon.app import App
from vbdev.daemon.config import Config, ConfigCall
from vbdev.daemon.startup import refusal
from vbdev.files import access
from vbdev.files.opening import FileError, FileKey
from vbdev.modules import MODULES
from vbdev.modules.file.disk import FileBdev
from vbdev.modules.malloc import Malloc
from vbdev.modules.nbd.disk import Nbd
from vbdev.registry import Creation
from vbdev.vocab import WRITE_OPS

__all__ = ["Finding", "Rehearsal", "rehearse"]

UNKNOWN_BLOCKS = 1 << 31
"""Size of a bdev whose module alone knows it, in blocks."""
EXPORTS = frozenset({"nbd_export_add", "nbd_export_remove", "vbdev_unregister"})
TOUCHING = ("bdev_gpt_create", "bdev_gpt_delete", "_rescan")
"""How methods of bdevs end that read or write what lies below."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to say about a configuration."""

    where: str
    """FILE:LINE: subsystem NAME, entry NUMBER; of warnings perhaps the file alone."""
    message: str


@dataclass(slots=True)
class Rehearsal:
    """What came of it."""

    calls: list[dict[str, str]] = field(default_factory=list)
    """`where`, `method` and `pass` (startup, runtime, or none for what is left out) of each."""
    errors: list[Finding] = field(default_factory=list)
    """What would end the start of a daemon."""
    warnings: list[Finding] = field(default_factory=list)
    """What would not, and is hardly meant."""
    exports: dict[str, str] = field(default_factory=dict)
    """Bdevs by the names of their exports."""
    stack: list[Any] = field(default_factory=list)
    """As `vbdev_get_stack` tells it."""


def rehearse(config: Config, module_files: Iterable[str] = ()) -> Rehearsal:
    """Carry a configuration out without touching anything. AppError: a module can not be loaded."""
    found = Rehearsal()
    app = _DryApp()
    said = _Said()
    logger = logging.getLogger("vbdev")
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(said)
    try:
        app.load_installed_modules()
        for path in module_files:
            app.load_module_file(path)
        app.decode_only()
        found.calls = [_passage(app, call) for call in config.calls]
        order = {call.where: number for number, call in enumerate(config.calls)}

        def on_error(call: ConfigCall, error: RpcError) -> None:
            found.errors.append(Finding(call.where, refusal(call, error)))

        app.begin_config(config, on_error=on_error)
        app.finish_config()
        found.errors.sort(key=lambda finding: order[finding.where])
        found.warnings = [_warning(config.path, message) for message in said.messages]
        found.warnings += _waiting(app, config)
        found.exports = {export.name: export.bdev.name for export in app.nbd.exports.values()}
        found.stack = app.reactor.run_until_complete(app.dispatcher.call("vbdev_get_stack"))
    finally:
        logger.removeHandler(said)
        logger.propagate = propagate
        app.reactor.run_until_complete(app.stop())
        app.close()
    return found


def _warning(path: str, message: str) -> Finding:
    """Return what was logged as a finding: with its entry, if the message begins with that."""
    place = rf"({re.escape(path)}(?::\d+: subsystem [^:]*, entry \d+)?): (.*)"
    told = re.fullmatch(place, message, re.DOTALL)
    return Finding(told[1], told[2]) if told else Finding(path, message)


class _Said(logging.Handler):
    """Keeps what is logged as a warning or worse."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def _passage(app: App, call: ConfigCall) -> dict[str, str]:
    method = app.dispatcher.get(call.method)
    when = "none"
    if method is not None:
        when = "startup" if State.STARTUP in method.states else "runtime"
    return {"where": call.where, "method": call.method, "pass": when}


def _waiting(app: App, config: Config) -> list[Finding]:
    """Return a warning for each vbdev whose base nothing makes."""
    found = []
    for creation in app.registry.creations.values():
        base = creation.base_name
        if not creation.vbdevs and app.registry.find(base) is None:
            what = f"{creation.cls.kind} vbdev {creation.key}"
            message = f"{what} waits for bdev {base!r}: nothing makes it"
            found.append(Finding(_where(config, creation), message))
    return found


def _where(config: Config, creation: Creation) -> str:
    for call in config.calls:
        params = call.params or {}
        if (
            call.method == f"bdev_{creation.cls.kind}_create"
            and creation.base_name in params.values()
            and params.get("name", creation.key) == creation.key
        ):
            return call.where
    return config.path


class _DryApp(App):
    """An App whose modules touch nothing."""

    def add_module(self, module: type[Bdev]) -> None:
        super().add_module(_dry(module))

    def decode_only(self) -> None:
        """Let methods that are about more than bdevs and exports decode their parameters alone."""
        mine = {method.name for module in MODULES for method in module.rpc_methods()}
        made = {f"bdev_{kind}_{verb}" for kind in self.modules for verb in ("create", "delete")}
        foreign = {
            method.name
            for module in self.modules.values()
            for method in module.rpc_methods()
            if method.name not in mine | made
        }
        for name in self.dispatcher.names():
            bdevs = name.startswith("bdev_") and not name.endswith(TOUCHING)
            if name in foreign or not (bdevs or name in EXPORTS or name == "vbdev_get_stack"):
                method = self.dispatcher.get(name)
                assert method is not None
                self.dispatcher.unregister(name)
                self.dispatcher.register(replace(method, handler=_nothing), None)


async def _nothing(_on: object, _params: object) -> bool:
    return True


def _dry(module: type[Bdev]) -> type[Bdev]:
    """Return a module that measures as `module` does, and acquires nothing."""
    same: dict[str, Any] = {"examine_disk": classmethod(_bare(Bdev.examine_disk))}
    if "product_name" in vars(module):
        same["product_name"] = module.product_name
    if issubclass(module, FileBdev):
        return type(module.__name__, (_DryFile, module), same)
    if issubclass(module, Malloc):
        return type(module.__name__, (_DryMalloc, module), same)
    if issubclass(module, Nbd):
        return type(module.__name__, (_DryNbd, module), same)
    if module in MODULES:
        return type(module.__name__, (module,), same)
    same["examine_config"] = classmethod(_bare(Bdev.examine_config))
    return type(module.__name__, (_DryForeign, module), same)


def _bare(method: Any) -> Any:
    """Return the function of a class method, so that nobody takes it for a module's own."""
    return method.__func__


class _DryMalloc(Malloc):
    async def _reserve(self, who: str, num_nodes: int) -> None:
        """Reserve nothing."""

    async def stop(self) -> None:
        """Nothing was reserved."""


class _DryFile(FileBdev):
    taken: dict[FileKey, str] = {}  # noqa: RUF012 - by all of one rehearsal; emptied as they stop

    async def open(
        self,
        filename: str,
        *,
        block_size: int,
        readonly: bool,
        direct: bool | None,
        deallocate: bool,
        devices_only: str = "",
    ) -> None:
        who = f"{self.kind} bdev {self.name!r}"
        try:
            found = access.surveying(
                who,
                filename,
                readonly=readonly,
                block_size=block_size or None,
                devices_only=devices_only,
            ).run()
        except FileError as error:
            raise BdevError(error.errno, str(error)) from error
        if found.key in self.taken:
            raise BdevError(
                errno.EBUSY, f"{who}: {filename}: in use already, by {self.taken[found.key]}"
            )
        self._key = found.key
        self.taken[found.key] = who
        self.block_size, self.num_blocks = found.block_size, found.size // found.block_size
        if readonly:
            self.ops = type(self).ops - WRITE_OPS

    async def stop(self) -> None:
        del self.taken[self._key]


class _DryNbd(Nbd):
    """Its server, which alone knows its size and what it can do, is not asked."""

    async def start(self) -> None:
        from vbdev.modules.nbd.uri import parse_server

        parse_server(f"nbd bdev {self.name!r}", self.params.uri, self.params.export_name)
        self.num_blocks = UNKNOWN_BLOCKS
        if self.params.readonly:
            self.ops = type(self).ops - WRITE_OPS

    async def stop(self) -> None:
        """Nothing was started."""


class _DryForeign(Bdev):
    """A module of somebody else, who alone knows what its start does: it is not started."""

    async def start(self) -> None:
        if not isinstance(self, VirtualBdev):
            self.block_size = getattr(self.params, "block_size", 0) or self.block_size
            self.num_blocks = getattr(self.params, "num_blocks", 0) or UNKNOWN_BLOCKS

    async def stop(self) -> None:
        """Nothing was started."""
