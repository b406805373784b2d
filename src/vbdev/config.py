"""Configuration files: SPDK's JSON, a list of RPC calls for each subsystem.

    {"subsystems": [{"subsystem": "bdev", "config": [{"method": "...", "params": {...}}]}]}

It is what `spdk-rpc save_config` prints. Comments (`//` and `/* */`) are allowed; other keys at
the top are ignored, as SPDK ignores them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["ConfigCall", "ConfigError", "load_config"]


class ConfigError(Exception):
    """A configuration that can not be used; the message says where and why."""


@dataclass(frozen=True, slots=True)
class ConfigCall:
    """One RPC call of a configuration, and where it stands."""

    where: str
    method: str
    params: Any


_STRING_OR_COMMENT = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|/\*.*?\*/', re.DOTALL)


def load_config(path: str) -> list[ConfigCall]:
    """Read a file and return its calls in order. ConfigError names file, line and column."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8") from error
    try:
        document = json.loads(_blank_comments(text), object_pairs_hook=_no_duplicates)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}:{error.colno}: {error.msg}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deeply") from error
    return _calls(path, document)


def _blank_comments(text: str) -> str:
    """Replace comments by blanks, so that lines and columns stay what they are."""

    def blank(found: re.Match[str]) -> str:
        token = found.group()
        return token if token[0] == '"' else re.sub(r"[^\n]", " ", token)

    return _STRING_OR_COMMENT.sub(blank, text)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {twice!r} stands twice in one object")
    return found


def _calls(path: str, document: Any) -> list[ConfigCall]:
    subsystems = document.get("subsystems") if isinstance(document, dict) else None
    if not isinstance(subsystems, list):
        raise ConfigError(f'{path}: no list "subsystems" at the top')
    calls: list[ConfigCall] = []
    for number, subsystem in enumerate(subsystems):
        if not isinstance(subsystem, dict) or not isinstance(subsystem.get("subsystem"), str):
            raise ConfigError(f'{path}: subsystems[{number}] has no "subsystem" name')
        name = subsystem["subsystem"]
        entries = subsystem.get("config") or []
        if not isinstance(entries, list):
            raise ConfigError(f'{path}: "config" of subsystem {name} is no list')
        for index, entry in enumerate(entries):
            # SPDK groups calls that may run together in an array of their own.
            for call in entry if isinstance(entry, list) else [entry]:
                where = f"{path}: subsystem {name}, entry {index + 1}"
                if not isinstance(call, dict) or not isinstance(call.get("method"), str):
                    raise ConfigError(f'{where}: not an object with a "method"')
                calls.append(ConfigCall(where, call["method"], call.get("params")))
    return calls
