"""The `nbd_*` methods: where the NBD target listens and what it exports."""

from __future__ import annotations

import errno
from typing import Annotated, Final

import msgspec

from vbdev.api.methods import Method, failures
from vbdev.api.params import BdevName, Params
from vbdev.api.results import Export
from vbdev.rpc.methods.plane import Plane
from vbdev.rpc.serving.turns import long_answer

__all__ = ["METHODS"]


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


async def start(plane: Plane, params: StartParams) -> str:
    """Serve NBD on an address; the answer is the address, with the port that was chosen."""
    address = await plane.nbd.listen_beside(params.address)
    if params.max_connections is not None:
        plane.nbd.max_connections = params.max_connections
    return str(address)


async def stop(plane: Plane, params: ServerParams) -> bool:
    """Serve NBD on an address no longer. Clients that are connected stay."""
    plane.nbd.unlisten(params.address)
    return True


async def export_add(plane: Plane, params: ExportAddParams) -> str:
    """Export a bdev; the answer is the name of the export."""
    return plane.nbd.add_export(
        params.bdev_name,
        params.export_name,
        read_only=params.read_only,
        description=params.description,
        strict_blocks=params.strict_blocks,
    ).name


async def export_remove(plane: Plane, params: ExportRemoveParams) -> bool:
    await plane.nbd.remove_export(params.export_name)
    return True


async def get_exports(plane: Plane, _params: None) -> list[Export]:
    """List what the NBD server exports."""
    told = []
    async with long_answer(plane.nbd.reactor):
        addresses = [str(address) for address in plane.nbd.addresses]
        for export in list(plane.nbd.exports.values()):
            if export.retirement is None:  # still: others have run in between
                told.append(
                    Export(
                        export_name=export.name,
                        bdev_name=export.bdev.name,
                        read_only=export.read_only,
                        description=export.description,
                        strict_blocks=export.strict_blocks,
                        default=plane.nbd.default_export == export.name,
                        size_bytes=export.bdev.size_bytes,
                        connections=len(export.connections),
                        addresses=addresses,
                    )
                )
            await plane.nbd.reactor.breathe()
    return told


METHODS: Final[tuple[Method[Plane], ...]] = (
    Method(
        "nbd_server_start",
        StartParams,
        start,
        result=str,
        errors=failures(errno.EINVAL, errno.EADDRINUSE),
    ),
    Method("nbd_server_stop", ServerParams, stop, errors=failures(errno.ENOENT, errno.EINVAL)),
    Method(
        "nbd_export_add",
        ExportAddParams,
        export_add,
        result=str,
        errors=failures(errno.ENODEV, errno.EEXIST, errno.ENAMETOOLONG),
    ),
    Method("nbd_export_remove", ExportRemoveParams, export_remove, errors=failures(errno.ENOENT)),
    Method("nbd_get_exports", None, get_exports, result=list[Export]),
)
