"""Which metadata contexts a client's queries select ("Metadata querying")."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vbdev.wire.nbd.payloads import MalformedError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["check_context_name", "list_contexts", "set_contexts"]


def list_contexts(queries: Sequence[str], supported: Sequence[str]) -> tuple[str, ...]:
    """Return what NBD_OPT_LIST_META_CONTEXT shows: all without a query; "ns:" is a wildcard."""
    wanted = _checked(queries)
    if not wanted:
        return tuple(supported)
    return tuple(
        name for name in supported if name in wanted or f"{name.partition(':')[0]}:" in wanted
    )


def set_contexts(queries: Sequence[str], supported: Sequence[str]) -> tuple[str, ...]:
    """Return what NBD_OPT_SET_META_CONTEXT selects: exact names only, none without a query."""
    wanted = _checked(queries)
    return tuple(name for name in supported if name in wanted)


def check_context_name(query: str) -> None:
    """Raise MalformedError unless `query` is a namespace, a colon and maybe a leaf-name.

    The namespace is printable, without whitespace and not empty ("Metadata querying"). One
    that nobody knows is sound, and selects nothing.
    """
    namespace, colon, _ = query.partition(":")
    if not colon or not namespace or not namespace.isprintable() or " " in namespace:
        raise MalformedError(f"query {query[:64]!r} does not start with a namespace and a colon")


def _checked(queries: Sequence[str]) -> frozenset[str]:
    for query in queries:
        check_context_name(query)
    return frozenset(queries)
