"""Whether what a path leads to may hang: on which mount, or on which kind of disk, it is.

A thread that waits for a dead server in the kernel can often not be ended, and with it no process
that it belongs to. So what is here asks nothing of any mount that is not known to be local:
/proc/self/mountinfo says where each begins, and symbolic links are only followed where they stand
on local ones. (mountinfo: Documentation/filesystems/proc.rst, 3.5.)
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["Mount", "Mounts", "may_hang"]

_LOCAL = """
adfs affs bcachefs befs bfs binfmt_misc bpf btrfs cgroup cgroup2 configfs cramfs debugfs devpts
devtmpfs efivarfs efs erofs exfat ext2 ext3 ext4 f2fs hfs hfsplus hugetlbfs iso9660 jffs2 jfs minix
mqueue msdos nilfs2 nsfs ntfs ntfs3 omfs proc pstore qnx4 qnx6 ramfs reiserfs resctrl romfs rootfs
securityfs selinuxfs squashfs sysfs tmpfs tracefs ubifs udf ufs vfat xfs zfs zonefs
"""
LOCAL_TYPES: Final = frozenset(_LOCAL.split())
"""File systems that this kernel itself answers for. Every other one, known or not, may hang: FUSE,
NFS, SMB, Ceph, 9p, virtiofs, an automount, ..."""
OVERLAY: Final = "overlay"
"""A file system that hangs when one that it stands on does."""
MAX_DEPTH: Final = 8
"""Overlays on overlays."""
MAX_LINKS: Final = 40
"""Symbolic links on one way (MAXSYMLINKS, linux/namei.h)."""

_ESCAPE = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    """One line of mountinfo. options: those of the file system itself."""

    number: int
    parent: int
    point: str
    type: str
    options: str = ""


class Mounts:
    """The mounts of a process, as a path sees them."""

    def __init__(self, mounts: Iterable[Mount]) -> None:
        self._all = list(mounts)
        # The one that was mounted last covers those before it.
        self._at = {(mount.parent, mount.point): mount for mount in self._all}
        numbers = {mount.number for mount in self._all}
        roots = (m for m in self._all if m.point == "/" and m.parent not in numbers)
        self._root = next(roots, None)

    @classmethod
    def read(cls, file: str = "/proc/self/mountinfo") -> Mounts:
        """Read them as they are now. Where there is no /proc there are none."""
        try:
            with Path(file).open(encoding="utf-8", errors="surrogateescape") as lines:
                return cls(map(_parse, lines))
        except OSError:
            return cls(())

    def of(self, path: str) -> Mount | None:
        """Return the mount that an absolute path is on, which has no symbolic links."""
        if self._root is None:
            return None
        mount, so_far = self._covered(self._root, "/"), ""
        for name in filter(None, path.split("/")):
            so_far += f"/{name}"
            mount = self._covered(mount, so_far)
        return mount

    def _covered(self, mount: Mount, point: str) -> Mount:
        """Return what one sees at a point of a mount: what was mounted over it, if anything."""
        while (over := self._at.get((mount.number, point))) is not None:
            mount = over
        return mount

    def first_that_may_hang(self, path: str, depth: int = 0) -> Mount | None:
        """Return the first mount on the way to a path that may hang; None: all are local.

        What is not there ends the way: whoever opens it is told so at once.
        """
        try:
            done = "/" if path.startswith("/") else os.getcwd()  # noqa: PTH109
        except OSError:  # the directory has been removed
            return None
        ahead = list(reversed(path.split("/")))
        links = 0
        while True:
            mount = self.of(done)
            if mount is None or self._may_hang(mount, depth):
                return mount
            while ahead and ahead[-1] in ("", "."):
                ahead.pop()
            if not ahead:
                return None
            name = ahead.pop()
            if name == "..":
                done = os.path.dirname(done)  # noqa: PTH120
                continue
            there = f"{done.rstrip('/')}/{name}"
            on = self.of(there)
            if on is not None and self._may_hang(on, depth):  # not even asked what it is
                return on
            try:
                if not stat.S_ISLNK(os.lstat(there).st_mode):
                    done = there
                    continue
                target = os.readlink(there)  # noqa: PTH115
            except (OSError, ValueError):
                return None
            links += 1
            if links > MAX_LINKS:
                return None
            ahead += reversed(target.split("/"))
            if target.startswith("/"):
                done = "/"

    def _may_hang(self, mount: Mount, depth: int) -> bool:
        if mount.type in LOCAL_TYPES:
            return False
        if mount.type != OVERLAY or depth > MAX_DEPTH:
            return True
        if mount.point == "/":
            return False  # the program itself is there: it would not run
        below = _directories(mount.options)
        return not below or any(
            not one.startswith("/")
            or self.first_that_may_hang(one, depth + 1) is not None
            or not os.path.isdir(one)  # noqa: PTH112 - mounted from outside of a container
            for one in below
        )


def may_hang(path: str) -> bool:
    """Tell whether opening a path may hang, for a mount on its way or the device that it names."""
    if Mounts.read().first_that_may_hang(path) is not None:
        return True
    try:
        status = os.stat(path)  # noqa: PTH116 - on local mounts all the way
    except (OSError, ValueError):
        return False
    return stat.S_ISBLK(status.st_mode) and disk_may_hang(status.st_rdev)


def disk_may_hang(device: int) -> bool:
    """Tell whether a block device's other side is no hardware of this machine: opening it reads.

    Network disks, and whatever software answers (nbd, rbd, loop, device mapper).
    """
    where = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"
    way = os.path.realpath(where)
    return (
        "/devices/virtual/" in way  # nbd, rbd, loop, dm, md; NVMe over a network
        or "/session" in way  # iSCSI
        or "/rport-" in way  # Fibre Channel
    )


def _parse(line: str) -> Mount:
    """Read `36 35 98:0 /root /point options shared:1 - type source options`."""
    fields, _, rest = line.partition(" - ")
    number, parent, _, _, point, *_ = fields.split(" ")
    kind, _, options = [*rest.rstrip("\n").split(" "), "", ""][:3]
    return Mount(int(number), int(parent), _plain(point), kind, _plain(options))


def _plain(text: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), text)


def _directories(options: str) -> list[str]:
    """Return what an overlay stands on."""
    found: list[str] = []
    for option in options.split(","):
        key, _, value = option.partition("=")
        if key in ("lowerdir", "upperdir"):
            found += [one for one in value.split(":") if one]
        elif key == "lowerdir+":
            found.append(value)
    return found
