"""The `nbd_*` methods: where the NBD target listens and what it exports."""

from __future__ import annotations

import errno
from typing import Annotated

import msgspec

from vbdev.api.methods import failures
from vbdev.api.params import BdevName, Params
from vbdev.api.results import Export
from vbdev.rpc.serving.dispatch import Dispatcher, Method
from vbdev.rpc.serving.turns import long_answer
from vbdev.targets.nbd import NbdServer

__all__ = ["register_nbd_methods"]


class ServerParams(Params, kw_only=True, frozen=True):
    """An address of the NBD server."""

    address: str
    """`unix:/path`, or `tcp:host:port`, port 0 for one that the kernel chooses."""


class StartParams(ServerParams, kw_only=True, frozen=True):
    """An address of the NBD server, and how many clients it has."""

    max_connections: Annotated[int, msgspec.Meta(ge=0, le=1 << 30)] | None = None
    """Clients at most, on all addresses together; 0 for no limit. When absent, as before."""


class ExportAddParams(Params, kw_only=True, frozen=True):
    """Export a bdev."""

    bdev_name: BdevName
    """Name, alias or UUID of the bdev."""
    export_name: str | None = None
    """Name that clients ask for; the bdev's when absent."""
    read_only: bool = False
    """Refuse every write with EPERM."""
    description: str = ""
    """For humans, shown by `nbdinfo`."""
    strict_blocks: bool | None = None
    """Whether requests have to be whole blocks. Otherwise they may begin and end at any byte, and
    what they leave of a block is read and written with them. As the server has it when absent."""


class ExportRemoveParams(Params, kw_only=True, frozen=True):
    """Take an export away; its clients are disconnected in order."""

    export_name: str
    """Name of the export."""


def register_nbd_methods(dispatcher: Dispatcher, server: NbdServer) -> None:
    """Add them to a dispatcher."""

    async def start(params: StartParams) -> str:
        """Serve NBD on an address; the answer is the address, with the port that was chosen."""
        address = await server.listen_beside(params.address)
        if params.max_connections is not None:
            server.max_connections = params.max_connections
        return str(address)

    async def stop(params: ServerParams) -> bool:
        """Serve NBD on an address no longer. Clients that are connected stay."""
        server.unlisten(params.address)
        return True

    async def export_add(params: ExportAddParams) -> str:
        """Export a bdev; the answer is the name of the export."""
        return server.add_export(
            params.bdev_name,
            params.export_name,
            read_only=params.read_only,
            description=params.description,
            strict_blocks=params.strict_blocks,
        ).name

    async def export_remove(params: ExportRemoveParams) -> bool:
        await server.remove_export(params.export_name)
        return True

    async def get_exports(_params: None) -> list[Export]:
        """List what the NBD server exports."""
        told = []
        async with long_answer(server.reactor):
            addresses = [str(address) for address in server.addresses]
            for export in list(server.exports.values()):
                if export.retirement is None:  # still: others have run in between
                    told.append(
                        Export(
                            export_name=export.name,
                            bdev_name=export.bdev.name,
                            read_only=export.read_only,
                            description=export.description,
                            strict_blocks=export.strict_blocks,
                            default=server.default_export == export.name,
                            size_bytes=export.bdev.size_bytes,
                            connections=len(export.connections),
                            addresses=addresses,
                        )
                    )
                await server.reactor.breathe()
        return told

    for name, handler, params, result, errors in (
        ("nbd_server_start", start, StartParams, str, failures(errno.EINVAL, errno.EADDRINUSE)),
        ("nbd_server_stop", stop, ServerParams, bool, failures(errno.ENOENT, errno.EINVAL)),
        (
            "nbd_export_add",
            export_add,
            ExportAddParams,
            str,
            failures(errno.ENODEV, errno.EEXIST, errno.ENAMETOOLONG),
        ),
        ("nbd_export_remove", export_remove, ExportRemoveParams, bool, failures(errno.ENOENT)),
        ("nbd_get_exports", get_exports, None, list[Export], ()),
    ):
        dispatcher.register(Method(name, handler, params, result=result, errors=errors))
