"""What one method has to do: how it is called, what it answers, what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from spdk_client.facts import METHODS, Fact
from spdk_client.shapes import Is

INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603

OBJECT_FAILED = (INTERNAL_ERROR, "spdk_json_decode_object failed")
OBJECT_FAILED_PARAMS = (INVALID_PARAMS, "spdk_json_decode_object failed")
INVALID_PARAMETERS = (INVALID_PARAMS, "Invalid parameters")
NO_SUCH_DEVICE = (-19, "No such device")
FILE_EXISTS = (-17, "File exists")
INVALID_ARGUMENT = (-22, "Invalid argument")
NOT_PERMITTED = (-1, "Operation not permitted")

AFTER_INIT = (
    -1,
    "Method may only be called after framework is initialized using framework_start_init RPC.",
)
_EARLIER = (
    "Method may only be called before framework is initialized. Use --wait-for-rpc command line"
    " parameter and then issue this RPC before the framework_start_init RPC."
)
BEFORE_INIT = (-1, _EARLIER)

TRUE = Is(True)

Call = tuple[str, dict[str, Any]]
"""A method and its parameters. `$DIR` in a string is a directory that the test may write to."""


@dataclass(frozen=True)
class Refused:
    """A call that decodes and is refused. words: the same for spdk-rpc, where it can say it."""

    what: str
    params: dict[str, Any]
    answer: tuple[int, str]
    before: tuple[Call, ...] = ()
    after: tuple[Call, ...] = ()
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Instead:
    """Where vbdev answers otherwise on purpose, and why that is better.

    answer: its refusal, or None where it takes what SPDK refuses. result: the shape of what it
    answers to a valid call.
    """

    why: str
    answer: tuple[int, str] | None = None
    result: Any = None


@dataclass(frozen=True)
class Case:
    """One method.

    params: a valid call with every parameter that goes with the others; `more` has the rest.
    result: the shape of the answer. also: what a shape can not say (returns the problem, or "").
    echoes: the parameter that the result repeats where it is given.
    shows: a bdev, and fields that bdev_get_bdevs has of it after a call with every parameter.
    least: a valid call with as little as can be, where that is more than what is required.
    untried: why no valid call is made here.
    undecoded: code and text for parameters that do not decode.
    no_params: for a method without parameters, the text it refuses them with; None: it takes any.
    bare: whether a method without required parameters may be called without any.
    before, after: calls that make room for each valid call, and clear up; `$RESULT` is its result.
    refused: calls that decode and are refused.
    instead: by label (`Check.what`), what vbdev answers in place of SPDK's answer.
    words: for spdk-rpc, after its options; None: it has no such command.
    printed: what spdk-rpc prints of the result: "json", "words" or "nothing".
    once: a call changes what the daemon is, so that each needs a daemon of its own.
    daemon: which one is asked: see `daemons`; by default one in a state in which it may be called.
    """

    method: str
    params: dict[str, Any] = field(default_factory=dict)
    more: tuple[dict[str, Any], ...] = ()
    result: Any = TRUE
    also: Callable[[Any], str] | None = None
    echoes: str = ""
    shows: tuple[str, dict[str, Any]] | None = None
    least: dict[str, Any] | None = None
    untried: str = ""
    undecoded: tuple[int, str] = INVALID_PARAMETERS
    no_params: str | None = None
    bare: bool = True
    before: tuple[Call, ...] = ()
    after: tuple[Call, ...] = ()
    refused: tuple[Refused, ...] = ()
    instead: dict[str, Instead] = field(default_factory=dict)
    words: tuple[str, ...] | None = ()
    printed: str = "json"
    once: bool = False
    daemon: str = ""

    @property
    def fact(self) -> Fact:
        """What SPDK declares of it."""
        return METHODS[self.method]

    @property
    def minimal(self) -> dict[str, Any]:
        """Only what is required, or `least`."""
        if self.least is not None:
            return self.least
        required = {param.name for param in self.fact.required}
        return {key: value for key, value in self.params.items() if key in required}

    @property
    def undecodable(self) -> tuple[int, str] | None:
        """What it answers to parameters that do not decode; None: it looks at none."""
        if self.fact.params:
            return self.undecoded
        return None if self.no_params is None else (INVALID_PARAMS, self.no_params)

    def unused(self) -> set[str]:
        """Return declared parameters that no call names."""
        calls = (self.params, *self.more, *(one.params for one in self.refused))
        return {param.name for param in self.fact.params} - set().union(*calls)
