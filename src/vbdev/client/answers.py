"""What both clients do with answers: match them to calls, and give them their declared types."""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from vbdev.api.methods import RpcError
from vbdev.vocab.address import Address
from vbdev.wire.jsonrpc import Response, encode_batch, encode_request

__all__ = [
    "closed",
    "given",
    "hung_up",
    "may_come",
    "no_answer",
    "no_daemon",
    "no_json",
    "not_ready",
    "of_batch",
    "outcome",
    "render",
    "typed",
]

BatchCall = tuple[str, Mapping[str, Any]]
"""A method and its parameters."""


def given(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that are to be sent: all that are not None."""
    return {name: value for name, value in params.items() if value is not None}


def render(calls: Sequence[BatchCall], first_id: int) -> bytes:
    """Render a batch whose calls have the ids from `first_id` on. ValueError for an empty one."""
    if not calls:
        raise ValueError("a batch of no calls")
    return encode_batch(
        [
            encode_request(name, dict(params) or None, first_id + n)
            for n, (name, params) in enumerate(calls)
        ]
    )


def outcome(response: Response) -> Any:
    """Return an answer's result, or the error that it is."""
    if response.code:
        return RpcError(response.code, response.message, response.data)
    return response.result


def of_batch(event: Response | tuple[Response, ...], first_id: int, count: int) -> list[Any]:
    """Return the outcome of each call of a batch. RpcError where all of it was refused."""
    if isinstance(event, Response):
        raise RpcError(event.code, event.message, event.data)
    by_id = {response.id: outcome(response) for response in event}
    lost = RpcError(0, "no answer to this call of the batch")
    return [by_id.get(number, lost) for number in range(first_id, first_id + count)]


@functools.cache
def _declared(method: Callable[..., Any]) -> Any:
    from vbdev.api import results

    return typing.get_type_hints(method, localns=vars(results))["return"]


def typed(method: Callable[..., Any], result: Any) -> Any:
    """Return a result as the type that a method of a client is declared to return.

    ValueError where it is none: the daemon is of a version that answers otherwise.
    """
    try:
        return msgspec.convert(result, _declared(method))
    except msgspec.ValidationError as error:
        raise ValueError(f"{method.__name__}: not the answer that is declared: {error}") from error


# Failures of a connection


def no_answer(address: Address, method: str, timeout_s: float) -> TimeoutError:
    """Return what a call that was not answered in time raises."""
    return TimeoutError(f"{shown(address)}: no answer to {method} within {round(timeout_s, 2):g} s")


def no_json(address: Address, error: Exception) -> ConnectionError:
    """Return what is raised where something else listens."""
    return ConnectionError(f"{shown(address)} does not speak JSON-RPC: {error}")


def hung_up(address: Address, method: str) -> ConnectionError:
    """Return what a call raises whose answer will not come."""
    return ConnectionError(
        f"the vbdev daemon on {shown(address)} hung up before it answered {method}"
    )


def no_daemon(address: Address, error: OSError) -> ConnectionError:
    """Return why there is no connection, in words."""
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return ConnectionError(f"no vbdev daemon listens on {shown(address)}")
    return ConnectionError(f"{shown(address)}: can not connect: {error.strerror or error}")


def may_come(error: ConnectionError) -> bool:
    """Say whether a failure to connect is that of a daemon which has not begun to listen."""
    return isinstance(error.__cause__, FileNotFoundError | ConnectionRefusedError)


def not_ready(error: ConnectionError, timeout_s: float) -> TimeoutError:
    """Return what waiting for a daemon that does not come ends with."""
    return TimeoutError(f"{error}, for {timeout_s:g} s")


def closed(address: Address) -> ConnectionError:
    """Return what a call raises behind a connection's end."""
    return ConnectionError(f"the connection to {shown(address)} is closed; connect anew")


def shown(address: Address) -> str:
    """Return an address as people write it."""
    return address.path or str(address)
