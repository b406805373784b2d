"""Clients of a daemon's control plane: `Client`, and `AsyncClient` for asyncio.

    from vbdev.client import Client

    with Client.connect("/run/vbdev.sock") as client:
        client.bdev_malloc_create(name="Disk", num_blocks=2048, block_size=512)
        print(client.bdev_get_bdevs(name="Disk")[0].num_blocks)

There is a method for each RPC method that vbdev declares (in `generated`: do
not edit): parameters by keyword, None for one that is not sent, the answer as a Struct of
`vbdev.api.results`. What a module of somebody else's adds is called by name: `client.call(...)`.

A failed call raises RpcError: SPDK's code and message, the detail as `data`. A client never calls
again by itself, and never connects again: a create that was carried out must not be carried out
twice, and only the caller knows. A connection that is lost stays lost; connect anew.

Nothing here needs the compiled core, and nothing heavy is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vbdev.api.methods import RpcError

if TYPE_CHECKING:
    from vbdev.client.asynchronous import AsyncClient
    from vbdev.client.blocking import Client

__all__ = ["AsyncClient", "Client", "RpcError"]

_ROOMS = {"AsyncClient": "asynchronous", "Client": "blocking"}


def __getattr__(name: str) -> Any:
    """Import a client when it is asked for: asyncio takes longer than all else here."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_ROOMS[name]}"), name)
