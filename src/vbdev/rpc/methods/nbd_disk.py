"""`nbd_start_disk`, `nbd_stop_disk`, `nbd_get_disks`: bdevs as block devices of this machine."""

from __future__ import annotations

import errno
from typing import Final

from vbdev.api.methods import DECODE_OBJECT_FAILED, Method, Refusal, failures
from vbdev.api.params import BdevName, Params
from vbdev.api.results import NbdDisk
from vbdev.rpc.methods.plane import Plane
from vbdev.targets.nbd.devices import IllegalDeviceError, NoDeviceError

__all__ = ["METHODS"]

ILLEGAL_DEVICE: Final = Refusal(-errno.ENODEV, "illegal nbd device {nbd_device}")
NO_FREE_DEVICE: Final = Refusal(-errno.ENODEV, "nbd device not found")


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


async def start(plane: Plane, params: StartDiskParams) -> str:
    """Make a bdev a block device of this machine; the answer is its path, once it runs."""
    try:
        return await plane.kernel_disks.start(params.bdev_name, params.nbd_device)
    except IllegalDeviceError as error:
        raise ILLEGAL_DEVICE.error(str(error), nbd_device=params.nbd_device) from error
    except NoDeviceError as error:
        raise NO_FREE_DEVICE.error(str(error)) from error


async def stop(plane: Plane, params: StopDiskParams) -> bool:
    """Take a block device away; the answer comes when the device and the bdev are free."""
    await plane.kernel_disks.stop(params.nbd_device)
    return True


async def get(plane: Plane, params: GetDisksParams) -> list[NbdDisk]:
    """List the bdevs that are block devices of this machine."""
    if params.nbd_device is not None:
        disk = plane.kernel_disks.get(params.nbd_device)
        return [NbdDisk(nbd_device=disk.path, bdev_name=disk.export.bdev.name)]
    return [
        NbdDisk(nbd_device=path, bdev_name=disk.export.bdev.name)
        for path, disk in plane.kernel_disks.disks.items()
    ]


METHODS: Final[tuple[Method[Plane], ...]] = (
    Method(
        "nbd_start_disk",
        StartDiskParams,
        start,
        DECODE_OBJECT_FAILED,
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
    ),
    Method(
        "nbd_stop_disk",
        StopDiskParams,
        stop,
        DECODE_OBJECT_FAILED,
        errors=failures(errno.ENODEV, errno.ETIMEDOUT),
    ),
    Method(
        "nbd_get_disks",
        GetDisksParams,
        get,
        DECODE_OBJECT_FAILED,
        result=list[NbdDisk],
        errors=failures(errno.ENODEV),
    ),
)
