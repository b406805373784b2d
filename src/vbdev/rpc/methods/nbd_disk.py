"""`nbd_start_disk`, `nbd_stop_disk`, `nbd_get_disks`: bdevs as block devices of this machine."""

from __future__ import annotations

import errno

from vbdev.api.errors import INTERNAL_ERROR, RpcError
from vbdev.api.methods import failures
from vbdev.api.params import BdevName, Params
from vbdev.api.results import NbdDisk
from vbdev.rpc.serving.dispatch import DECODE_OBJECT_FAILED, Dispatcher, Method
from vbdev.targets.nbd import NbdDisks
from vbdev.targets.nbd.disks import IllegalDeviceError, NoDeviceError

__all__ = ["register_nbd_disk_methods"]

ILLEGAL_DEVICE = (-errno.ENODEV, "illegal nbd device {nbd_device}")
NO_FREE_DEVICE = (-errno.ENODEV, "nbd device not found")


class StartDiskParams(Params, kw_only=True, frozen=True):
    """Attach a bdev to a device of the kernel's nbd driver."""

    bdev_name: BdevName
    """Name, alias or UUID of the bdev."""
    nbd_device: str | None = None
    """Path of the device, `/dev/nbd0` or another; the first that is free when absent."""


class StopDiskParams(Params, kw_only=True, frozen=True):
    """Detach a device from its bdev."""

    nbd_device: str
    """Path of the device."""


class GetDisksParams(Params, kw_only=True, frozen=True):
    """List the devices that are attached, or one."""

    nbd_device: str | None = None
    """Path of the one device; all when absent."""


def register_nbd_disk_methods(dispatcher: Dispatcher, disks: NbdDisks) -> None:
    """Add them to a dispatcher."""

    async def start(params: StartDiskParams) -> str:
        """Make a bdev a block device of this machine; the answer is its path, once it runs."""
        try:
            return await disks.start(params.bdev_name, params.nbd_device)
        except IllegalDeviceError as error:
            code, text = ILLEGAL_DEVICE
            told = text.format(nbd_device=params.nbd_device)
            raise RpcError(code, told, str(error)) from error
        except NoDeviceError as error:
            raise RpcError(*NO_FREE_DEVICE, str(error)) from error

    async def stop(params: StopDiskParams) -> bool:
        """Take a block device away; the answer comes when the device and the bdev are free."""
        await disks.stop(params.nbd_device)
        return True

    async def get(params: GetDisksParams) -> list[NbdDisk]:
        """List the bdevs that are block devices of this machine."""
        if params.nbd_device is not None:
            disk = disks.get(params.nbd_device)
            return [NbdDisk(nbd_device=disk.path, bdev_name=disk.export.bdev.name)]
        return [
            NbdDisk(nbd_device=path, bdev_name=disk.export.bdev.name)
            for path, disk in disks.disks.items()
        ]

    undecoded = (INTERNAL_ERROR, DECODE_OBJECT_FAILED)
    dispatcher.register(
        Method(
            "nbd_start_disk",
            start,
            StartDiskParams,
            *undecoded,
            result=str,
            errors=(
                ILLEGAL_DEVICE,
                NO_FREE_DEVICE,
                *failures(
                    errno.ENODEV,
                    errno.EBUSY,
                    errno.EPERM,
                    errno.ENOENT,
                    errno.EINVAL,
                    errno.ETIMEDOUT,
                ),
            ),
        )
    )
    dispatcher.register(
        Method(
            "nbd_stop_disk",
            stop,
            StopDiskParams,
            *undecoded,
            errors=failures(errno.ENODEV, errno.ETIMEDOUT),
        )
    )
    dispatcher.register(
        Method(
            "nbd_get_disks",
            get,
            GetDisksParams,
            *undecoded,
            result=list[NbdDisk],
            errors=failures(errno.ENODEV),
        )
    )
