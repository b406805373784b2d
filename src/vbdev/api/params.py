"""Parameters of RPC methods: how they are declared, and how strictly they are decoded.

One declaration is all there is: decoder, error text, help, reference page, schema and typed client
come from the Struct, its fields' types, and the docstrings below the fields.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, TypeVar
from uuid import UUID

import msgspec

from vbdev.wire.jsontext import DuplicateKey

__all__ = [
    "UINT64_MAX",
    "BdevName",
    "FileName",
    "Int32",
    "Params",
    "ParamsError",
    "Uint8",
    "Uint16",
    "Uint32",
    "Uint64",
    "decode_params",
]

UINT64_MAX: Final = (1 << 64) - 1
UUID_LENGTH: Final = 36
"""Characters, hyphens among them: a UUID without them is none to SPDK."""

Uint8 = Annotated[int, msgspec.Meta(ge=0, le=0xFF)]
Uint16 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
Uint32 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF_FFFF)]
Uint64 = Annotated[int, msgspec.Meta(ge=0, extra_json_schema={"maximum": UINT64_MAX})]
"""Its upper bound is that of all integers (`decode_params`): msgspec's bounds end at 63 bits."""
Int32 = Annotated[int, msgspec.Meta(ge=-(1 << 31), le=(1 << 31) - 1)]
BdevName = Annotated[str, msgspec.Meta(extra_json_schema={"x-names": "bdev"})]
"""Name, alias or UUID of a bdev that is there: a shell completes it."""
FileName = Annotated[str, msgspec.Meta(extra_json_schema={"x-names": "file"})]
"""Path of a file on the daemon's machine: a shell completes it as one of its own."""


class Params(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Base of a method's parameters. Each field has a docstring: unit, bounds, what absence means.

    A subclass says `kw_only=True` itself where an optional field stands before a required one.
    """


class ParamsError(ValueError):
    """Parameters that do not decode; the message names the field and says what is wrong with it."""


P = TypeVar("P", bound=msgspec.Struct)


def decode_params(declared: type[P], value: Any) -> P:
    """Return decoded parameters: what JSON holds (None: nothing given), strictly, as a Struct.

    ParamsError for an unknown, missing or repeated field, another type, a value out of range. As
    in SPDK null stands for nothing: a field is given, or it is left out (spdk_json_decode_object).
    """
    if isinstance(value, DuplicateKey):
        raise ParamsError(repr(value))
    try:
        decoded = msgspec.convert({} if value is None else value, declared)
    except msgspec.ValidationError as error:
        raise ParamsError(explain(str(error))) from error
    for name, field in (value or {}).items():
        _refuse_what_no_type_tells(name, field)
        if isinstance(getattr(decoded, name, None), UUID) and len(field) != UUID_LENGTH:
            raise ParamsError(f"{name}: {field!r} is no UUID of {UUID_LENGTH} characters")
    return decoded


def _refuse_what_no_type_tells(name: str, value: Any) -> None:
    if value is None:
        raise ParamsError(f"{name}: null is no value; leave it out")
    for one in value if isinstance(value, list) else (value,):
        if isinstance(one, int) and one > UINT64_MAX:
            raise ParamsError(f"{name}: {one} does not fit in 64 bits")
        if isinstance(one, str) and "\0" in one:
            raise ParamsError(f"{name}: holds a NUL character")


_AT = re.compile(r"(?P<what>.*) - at `\$\.?(?P<where>.*)`")
_MISSING = re.compile(r"Object missing required field `(?P<field>.*)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<field>.*)`")


def explain(message: str) -> str:
    """Turn msgspec's message around: the field first, then what is wrong with it.

    >>> explain("Expected `int`, got `str` - at `$.num_blocks`")
    'num_blocks: expected int, got str'
    """
    where = ""
    if found := _AT.fullmatch(message):
        message, where = found["what"], found["where"]
    if found := _MISSING.fullmatch(message):
        where = ".".join(filter(None, [where, found["field"]]))
        message = "required, and missing"
    elif found := _UNKNOWN.fullmatch(message):
        where = ".".join(filter(None, [where, found["field"]]))
        message = "unknown parameter"
    else:
        message = (message[:1].lower() + message[1:]).replace("`", "")
    return f"{where or 'params'}: {message}"
