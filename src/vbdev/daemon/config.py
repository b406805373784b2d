"""Configuration files: SPDK's JSON, a list of RPC calls for each subsystem.

    {"subsystems": [{"subsystem": "bdev", "config": [{"method": "...", "params": {...}}]}]}

It is what `spdk-rpc save_config` prints. Comments (`//` and `/* */`) are allowed; other keys at
the top are ignored, as SPDK ignores them. What the calls mean, and in which order they are carried
out, is told in `vbdev.daemon.startup`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vbdev.wire.jsonc import JsoncError, JsonObject, Place, parse

__all__ = ["Config", "ConfigCall", "ConfigError", "load_config", "read_config"]

ENTRY_KEYS = ("method", "params")


class ConfigError(Exception):
    """A configuration that can not be used; the message says where and why."""


@dataclass(frozen=True, slots=True)
class ConfigCall:
    """One RPC call of a configuration, and where it stands."""

    where: str
    """`FILE:LINE: subsystem NAME, entry NUMBER`, for messages."""
    subsystem: str
    method: str
    params: Any = None


@dataclass(frozen=True, slots=True)
class Config:
    """A configuration as it was read: nothing has been carried out."""

    path: str
    calls: tuple[ConfigCall, ...]
    """In the order of the file."""
    has_subsystems: bool = True
    """Whether there was a list of them at the top. As in SPDK none is no mistake."""


def load_config(path: str) -> list[ConfigCall]:
    """Read a file and return its calls in order. ConfigError names file, line and column."""
    return list(read_config(path).calls)


def read_config(path: str, read: Callable[[], bytes] | None = None) -> Config:
    """Read a file, by `read` if that is given. ConfigError names file, line and column."""
    if not path:  # which pathlib takes for the directory that one is in
        raise ConfigError("the name of the configuration file is empty")
    try:
        content = Path(path).read_bytes() if read is None else read()
        text = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8").read()  # of any line end
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8") from error
    place = Place(text)
    try:
        document = parse(text)
        calls = tuple(_Reader(path, place).calls(document))
        return Config(path, calls, has_subsystems="subsystems" in document)
    except JsoncError as error:
        where = f"{path}:{place.line(error.at)}:{place.column(error.at)}"
        raise ConfigError(f"{where}: {error}") from error


class _Reader:
    """Finds the calls of a document."""

    def __init__(self, path: str, place: Place) -> None:
        self._path = path
        self._place = place

    def calls(self, document: Any) -> Iterator[ConfigCall]:
        if not isinstance(document, JsonObject):
            raise JsoncError('an object with a list "subsystems" is expected', 0)
        if "subsystems" not in document:
            return
        for number, subsystem in enumerate(
            self._list(document, "subsystems", '"subsystems" is no list'), 1
        ):
            if not isinstance(subsystem, JsonObject):
                raise JsoncError(f"subsystem {number} is no object", document.places["subsystems"])
            yield from self._subsystem(number, subsystem)

    def _list(self, owner: JsonObject, key: str, otherwise: str) -> list[Any]:
        value = owner[key]
        if not isinstance(value, list):
            raise JsoncError(otherwise, owner.places[key])
        return value

    def _subsystem(self, number: int, subsystem: JsonObject) -> Iterator[ConfigCall]:
        name = subsystem.get("subsystem")
        if not isinstance(name, str):
            at = subsystem.places.get("subsystem", subsystem.at)
            raise JsoncError(f'subsystem {number} has no name in "subsystem"', at)
        unknown = subsystem.keys() - {"subsystem", "config"}
        if unknown:
            key = min(unknown, key=lambda key: subsystem.places[key])
            raise JsoncError(
                f'subsystem {name}: unknown key {key!r} beside "subsystem" and "config"',
                subsystem.places[key],
            )
        if subsystem.get("config") is None:
            return
        entries = self._list(subsystem, "config", f'"config" of subsystem {name} is no list')
        for index, entry in enumerate(entries, 1):
            # SPDK groups calls that may run together in an array of their own.
            for one in entry if isinstance(entry, list) else [entry]:
                if not isinstance(one, JsonObject):
                    raise JsoncError(
                        f'subsystem {name}, entry {index}: not an object with a "method"',
                        subsystem.places["config"],
                    )
                yield self._call(name, index, one)

    def _call(self, subsystem: str, index: int, entry: JsonObject) -> ConfigCall:
        what = f"subsystem {subsystem}, entry {index}"
        if not isinstance(entry.get("method"), str):
            at = entry.places.get("method", entry.at)
            raise JsoncError(f'{what}: not an object with a "method"', at)
        for key, at in entry.places.items():
            if key not in ENTRY_KEYS:
                raise JsoncError(f'{what}: unknown key {key!r} beside "method" and "params"', at)
        params = entry.get("params")
        if params is not None and not isinstance(params, JsonObject):
            raise JsoncError(f'{what}: "params" is no object', entry.places["params"])
        where = f"{self._path}:{self._place.line(entry.at)}: {what}"
        return ConfigCall(where, subsystem, entry["method"], params)
