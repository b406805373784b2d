"""Which paths may hang. Method: mountinfo as it is elsewhere, over folders that are here."""

import os

import pytest

from vbdev.files.mounts import Mounts, disk_may_hang, may_hang

LINE = "{number} {parent} 0:{number} / {point} rw,relatime shared:1 - {type} source {options}\n"


@pytest.fixture
def mounts(tmp_path):
    """mounts((point, type, options)...): below the test's folder, which is on ext4."""

    def make(*rows):
        text, numbers = LINE.format(number=1, parent=0, point="/", type="ext4", options="rw"), {}
        for number, (point, kind, *options) in enumerate(rows, 2):
            path = tmp_path / point
            parents = [numbers[p] for p in (path, *path.parents) if p in numbers]
            shown = str(path).replace("\\", "\\134").replace(" ", "\\040")
            text += LINE.format(
                number=number,
                parent=parents[0] if parents else 1,
                point=shown,
                type=kind,
                options=options[0] if options else "rw",
            )
            numbers[path] = number
        file = tmp_path / "mountinfo"
        file.write_text(text)
        return Mounts.read(str(file))

    return make


FAR = """fuse fuse.sshfs fuseblk nfs nfs4 cifs smb3 9p ceph virtiofs autofs afs lustre new"""


@pytest.mark.parametrize("kind", FAR.split())
def test_what_is_not_known_to_be_local_may_hang(mounts, tmp_path, kind):
    found = mounts(("m", kind))
    assert found.first_that_may_hang(f"{tmp_path}/m/a/b").type == kind
    assert found.first_that_may_hang(f"{tmp_path}/m").type == kind
    assert found.first_that_may_hang(f"{tmp_path}/mm") is None


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs", "zfs", "devtmpfs"])
def test_local_ones_do_not(mounts, tmp_path, kind):
    assert mounts(("m", kind)).first_that_may_hang(f"{tmp_path}/m/a") is None


def test_links_lead_there(mounts, tmp_path):
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "m").mkdir()
    (tmp_path / "absolute").symlink_to(tmp_path / "m/x")
    (tmp_path / "d/relative").symlink_to("../absolute")
    (tmp_path / "folder").symlink_to("d/e")
    (tmp_path / "loop").symlink_to("loop")
    found = mounts(("m", "nfs"))
    for path in ("absolute", "d/relative", "d/./../d/relative", "folder/../relative"):
        assert found.first_that_may_hang(f"{tmp_path}/{path}") is not None, path
    for path in ("folder", "folder/x", "loop", "d/../nothing", "a\0b", "d/" + "x" * 300):
        assert found.first_that_may_hang(f"{tmp_path}/{path}") is None, path


def test_relative_paths(mounts, tmp_path, monkeypatch):
    (tmp_path / "m").mkdir()
    found = mounts(("m", "nfs"))
    monkeypatch.chdir(tmp_path)
    assert found.first_that_may_hang("m/x") is not None
    assert found.first_that_may_hang("x") is None
    monkeypatch.chdir(tmp_path / "m")
    assert found.first_that_may_hang("x") is not None
    assert found.first_that_may_hang("/") is None


def test_nothing_on_it_is_asked(mounts, tmp_path, monkeypatch):
    (tmp_path / "m").mkdir()
    asked, real = [], os.lstat
    monkeypatch.setattr(os, "lstat", lambda path: asked.append(path) or real(path))
    assert mounts(("m", "fuse")).first_that_may_hang(f"{tmp_path}/m/x") is not None
    assert f"{tmp_path}/m" not in asked
    assert str(tmp_path) in asked


def test_mounts_over_mounts(mounts, tmp_path):
    (tmp_path / "m" / "in").mkdir(parents=True)
    (tmp_path / "a b\\c").mkdir()
    found = mounts(("m", "nfs"), ("m", "ext4"), ("a b\\c", "nfs"))
    assert found.first_that_may_hang(f"{tmp_path}/m/x") is None  # covered by the second
    assert found.first_that_may_hang(f"{tmp_path}/a b\\c/x") is not None
    found = mounts(("m", "nfs"), ("m/in", "ext4"))
    assert found.first_that_may_hang(f"{tmp_path}/m/in/x") is not None  # the way leads over it


def test_overlays(mounts, tmp_path):
    for name in ("m", "o", "low", "up"):
        (tmp_path / name).mkdir()
    local = f"rw,lowerdir={tmp_path}/low,upperdir={tmp_path}/up,workdir={tmp_path}/w"
    far = f"rw,lowerdir={tmp_path}/low:{tmp_path}/m,upperdir={tmp_path}/up"
    elsewhere = "rw,lowerdir=/of/another/namespace"
    for options, hangs in ((local, False), (far, True), (elsewhere, True), ("rw", True)):
        found = mounts(("m", "nfs"), ("o", "overlay", options))
        assert (found.first_that_may_hang(f"{tmp_path}/o/x") is not None) is hangs, options
    file = tmp_path / "container"
    row = {"number": 1, "parent": 0, "point": "/", "type": "overlay", "options": elsewhere}
    file.write_text(LINE.format(**row))
    assert Mounts.read(str(file)).first_that_may_hang("/etc") is None


def test_without_mountinfo_all_is_local(tmp_path):
    assert Mounts.read(str(tmp_path / "none")).first_that_may_hang(str(tmp_path)) is None


@pytest.mark.parametrize(
    ("way", "hangs"),
    [
        ("/sys/devices/pci0000:00/0000:00:01.0/nvme/nvme0/nvme0n1", False),
        ("/sys/devices/pci0000:00/ata1/host0/target0:0:0/0:0:0:0/block/sda/sda1", False),
        ("/sys/devices/virtual/block/nbd0", True),
        ("/sys/devices/virtual/block/dm-0", True),
        ("/sys/devices/platform/host3/session1/target3:0:0/3:0:0:1/block/sdb", True),
        ("/sys/devices/pci0/host2/rport-2:0-0/target2:0:0/2:0:0:0/block/sdc", True),
    ],
)
def test_disks(monkeypatch, way, hangs):
    monkeypatch.setattr(os.path, "realpath", lambda _path: way)
    assert disk_may_hang(os.makedev(8, 0)) is hangs


def test_paths_of_this_machine():
    assert not may_hang("/proc/self/mountinfo")
    assert not may_hang("/dev/null")
    assert not may_hang("/nothing/there")
