"""Real NBD clients against `vbdev serve BASE --layer passthru`: what they see and what they move.

Method: each test runs a client as a user does and judges by its exit status and output. libnbd's
tools, qemu's and fio check the protocol for themselves; `cmp` and `qemu-img compare`, the data.
"""

import json
import re

import pytest

from support.clients import requires, run

pytestmark = pytest.mark.client

SIZE = 64 << 20
KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture(params=["unix", "tcp"])
def uri(request, serve, base):
    """The default export, over either transport."""
    if request.param == "unix":
        return serve(base, "--layer", "passthru").uri()
    daemon = serve(base, "--layer", "passthru", nbd=["tcp:127.0.0.1:0"])
    (export,) = daemon.rpc.call("nbd_get_exports")
    (address,) = export["addresses"]
    return f"nbd://{address.removeprefix('tcp:')}"


def qemu_io(uri, *commands, ok=0):
    """Run qemu-io commands; it ends with status 1 when a pattern is not what was read."""
    words = [word for command in commands for word in ("-c", command)]
    text = run("qemu-io", "-f", "raw", *words, uri, ok=ok)
    assert "error" not in text.lower(), text
    assert "Pattern verification failed" not in text, text
    return text


# nbdinfo


def test_nbdinfo(uri):
    export = json.loads(run("nbdinfo", "--json", uri))["exports"][0]
    for promise in ("flush", "fua", "trim", "zero", "fast_zero", "df", "cache", "multi_conn"):
        assert export[f"can_{promise}"] is True, promise
    assert export["export-size"] == SIZE
    assert export["is_read_only"] is False
    assert export["export-name"] == "Passthru0"
    assert export["contexts"] == ["base:allocation"]
    minimum, preferred = export["block_size_minimum"], export["block_size_preferred"]
    assert minimum == 1
    assert (preferred, export["block_size_maximum"]) == (4096, 32 * MIB)


@pytest.mark.parametrize(("what", "status"), [("connect", 0), ("read-only", 2), ("rotational", 2)])
def test_nbdinfo_is_and_can(daemon, what, status):
    flag = "--can" if what == "connect" else "--is"
    run("nbdinfo", flag, what, daemon.uri(), ok=status)


def test_nbdinfo_size(daemon):
    assert int(run("nbdinfo", "--size", daemon.uri())) == SIZE


def test_nbdinfo_map_is_exact(daemon):
    """Written ranges are data and all else is a hole that reads as zeroes, to the byte."""
    requires("nbdinfo")
    uri = daemon.uri()
    assert extents(uri) == [(0, SIZE, "hole,zero")]
    qemu_io(uri, "write -P 1 0 4k", "write -P 2 1M 128k", f"write -P 3 {SIZE - 4096} 4k", "flush")
    assert extents(uri) == [
        (0, 4 * KIB, "data"),
        (4 * KIB, MIB - 4 * KIB, "hole,zero"),
        (MIB, 128 * KIB, "data"),
        (MIB + 128 * KIB, SIZE - MIB - 132 * KIB, "hole,zero"),
        (SIZE - 4 * KIB, 4 * KIB, "data"),
    ]
    qemu_io(uri, "discard 1M 128k")
    assert extents(uri)[1] == (4 * KIB, SIZE - 8 * KIB, "hole,zero")


def extents(uri):
    entries = json.loads(run("nbdinfo", "--map", "--json", uri))
    return [(e["offset"], e["length"], e["description"]) for e in entries]


def test_nbdinfo_list(serve, base):
    daemon = serve(base, "--layer", "passthru,name=Top")
    daemon.rpc.call("nbd_export_add", bdev_name="Top", export_name="second", read_only=True)
    text = run("nbdinfo", "--list", daemon.uri())
    assert re.findall(r'^export="(.*)":', text, re.MULTILINE) == ["Top", "second"]
    assert re.findall(r"is_read_only: (\w+)", text) == ["false", "true"]


def test_two_exports_are_one_disk(serve, base):
    """Two names of one bdev: what is written through one is read through the other."""
    daemon = serve(base, "--layer", "passthru")
    daemon.rpc.call("nbd_export_add", bdev_name="Passthru0", export_name="again")
    qemu_io(daemon.uri("Passthru0"), "write -P 0x5c 8k 8k")
    qemu_io(daemon.uri("again"), "read -P 0x5c 8k 8k", "read -P 0 16k 8k")


# nbdcopy


def test_nbdcopy_both_ways(uri, pattern, tmp_path):
    run("nbdcopy", "--flush", pattern, uri)
    run("nbdcopy", uri, tmp_path / "back")
    run("cmp", pattern, tmp_path / "back")


def test_nbdcopy_four_connections(daemon, pattern, tmp_path):
    """CAN_MULTI_CONN is offered, so it takes as many as it is told."""
    options = ["--connections=4", "--requests=16", "--request-size=1048576"]
    run("nbdcopy", *options, "--flush", pattern, daemon.uri())
    run("nbdcopy", *options, daemon.uri(), tmp_path / "back")
    run("cmp", pattern, tmp_path / "back")


def test_nbdcopy_keeps_holes(daemon, pattern):
    """Zeroes are not written but made, so that the copy is as sparse as the original."""
    run("nbdcopy", "--destination-is-zero", pattern, daemon.uri())
    data = sum(length for _, length, kind in extents(daemon.uri()) if kind == "data")
    assert data == 8 * MIB


# qemu


def test_qemu_img_info(uri):
    info = json.loads(run("qemu-img", "info", "--output=json", uri))
    assert (info["virtual-size"], info["format"]) == (SIZE, "raw")


def test_qemu_img_convert_and_compare(uri, pattern, tmp_path):
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", pattern, uri)
    assert "identical" in run("qemu-img", "compare", "-f", "raw", "-F", "raw", pattern, uri)
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", uri, tmp_path / "copy.qcow2")
    assert "identical" in run("qemu-img", "compare", "-F", "raw", tmp_path / "copy.qcow2", uri)


def test_qemu_img_map(daemon):
    qemu_io(daemon.uri(), "write -P 1 2M 64k", "flush")
    entries = json.loads(run("qemu-img", "map", "--output=json", "-f", "raw", daemon.uri()))
    found = [(e["start"], e["length"], e["data"], e["zero"]) for e in entries]
    assert found == [
        (0, 2 * MIB, False, True),
        (2 * MIB, 64 * KIB, True, False),
        (2 * MIB + 64 * KIB, SIZE - 2 * MIB - 64 * KIB, False, True),
    ]


def test_qemu_io_patterns(uri):
    qemu_io(
        uri,
        "write -P 0xa1 0 64k",
        "write -f -P 0xa2 64k 4k",
        "aio_write -P 0xa3 1M 1M",
        "aio_write -P 0xa4 8M 2M",
        "aio_flush",
        "read -P 0xa1 0 64k",
        "read -P 0xa2 64k 4k",
        "aio_read -P 0xa3 1M 1M",
        "aio_read -P 0xa4 8M 2M",
        "aio_flush",
        "write -z 16k 16k",
        "read -P 0xa1 0 16k",
        "read -P 0 16k 16k",
        "read -P 0xa1 32k 32k",
        "write -z -u 1M 64k",
        "read -P 0 1M 64k",
        "read -P 0xa3 1088k 64k",
        "discard 8M 1M",
        "read -P 0 8M 1M",
        "read -P 0xa4 9M 1M",
        "writev -P 0xa5 20M 4k 8k 4k",
        "readv -P 0xa5 20M 8k 8k",
        "flush",
    )


def test_qemu_io_misaligned(uri):
    """qemu reads and writes back the rest of a block where a request is no whole one."""
    qemu_io(uri, "write -P 0x77 0 8k", "write -P 0x11 100 1000", "read -P 0x77 0 100")
    qemu_io(uri, "read -P 0x11 100 1000", "read -P 0x77 1100 7092")


def test_read_only_export(serve, base):
    daemon = serve(base, "--layer", "passthru", "--read-only")
    run("nbdinfo", "--is", "read-only", daemon.uri())
    text = run("qemu-io", "-r", "-f", "raw", "-c", "read -P 0 0 64k", "-c", "flush", daemon.uri())
    assert "read 65536/65536" in text
    # qemu does not even open for writing what says that it is read-only.
    assert "denied" in run("qemu-io", "-f", "raw", "-c", "write 0 64k", daemon.uri(), ok=1)


# fio


@pytest.mark.parametrize("size", ["4k", "128k"])
def test_fio_verify(daemon, size, tmp_path):
    """Random writes at queue depth 64, each block with a checksum that is read back."""
    requires("fio")
    if "nbd" not in run("fio", "--enghelp").split():
        pytest.skip("this fio has no NBD engine")
    before = io_bytes(daemon)  # partition tables are looked for
    run(
        "fio",
        "--name=verify",
        "--ioengine=nbd",
        f"--uri={daemon.uri()}",
        "--rw=randwrite",
        f"--bs={size}",
        "--size=32m",
        "--iodepth=64",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--fsync=512",
        "--randseed=7",
        cwd=tmp_path,
    )
    moved = [after - b for after, b in zip(io_bytes(daemon), before, strict=True)]
    assert moved == [32 * MIB, 32 * MIB]


def io_bytes(daemon):
    """Return how many bytes have been read and written."""
    daemon.rpc.call("bdev_wait_for_examine")
    iostat = daemon.rpc.call("bdev_get_iostat", names=["Passthru0"])["bdevs"][0]
    return iostat["bytes_read"], iostat["bytes_written"]
