"""Memory domains: data in memory that is shared through a memfd.

Method: every READ, WRITE and COMPARE is done from a domain and from system memory, over bdevs that
use the domain itself and over those that get a copy.
"""

import errno
import fcntl
import mmap
import os
import random

import pytest

from support.told import describe
from vbdev.bdev import BdevError
from vbdev.bdev.memory_domain import create_memfd, map_memfd
from vbdev.core.memory.domain import MemoryDomain
from vbdev.modules.malloc import Malloc
from vbdev.modules.null import Null
from vbdev.modules.passthru import Passthru
from vbdev.testing import Stub, layer
from vbdev.vocab import DmaDeviceType, Op, Status

SIZE = 1 << 16


@pytest.fixture
def domain():
    made, fd = create_memfd(SIZE)
    os.close(fd)  # the mapping stays
    yield made
    assert made.in_flight == 0
    made.close()


def fill(domain, at, data):
    with memoryview(domain) as view:
        view[at : at + len(data)] = data


def look(domain, at, length):
    with memoryview(domain) as view:
        return bytes(view[at : at + length])


def noise(length, seed=1):
    return random.Random(seed).randbytes(length)


def opaque(**more):
    """A layer that looks at data, so that its channel brings it into system memory."""
    return layer(kind="opaque", **more)


BDEVS = {
    "malloc": lambda stack: stack.disk(Malloc, "Top"),
    "malloc with metadata": lambda stack: stack.disk(
        Malloc, "Top", md_size=8, dif_type=1, md_interleave=False
    ),
    "passthru": lambda stack: (stack.disk(), stack.layer(Passthru)),
    "opaque": lambda stack: (stack.disk(), stack.layer(opaque())),
    "opaque under passthru": lambda stack: (
        stack.disk(),
        stack.layer(opaque(), "Mid"),
        stack.layer(Passthru, base="Mid"),
    ),
    "split": lambda stack: stack.disk(Malloc, "Top", optimal_io_boundary=4),
    "emulating": lambda stack: (
        stack.disk(),
        stack.layer(layer(kind="narrow", ops=frozenset({Op.READ, Op.WRITE}))),
    ),
}


@pytest.mark.rule("A.19.1", "A.19.3", "E.bdev_ut.bdev_io_ext", "E.bdev_ut.bdev_io_ext_split")
@pytest.mark.rule("E.bdev_ut.bdev_io_ext_no_opts", "E.bdev_ut.bdev_io_ext_bounce_buffer", "A.11.19")
@pytest.mark.parametrize("kind", BDEVS)
def test_data_in_a_domain(stack, domain, kind):
    BDEVS[kind](stack)
    opened = stack.open("Top")
    data = noise(8 * 512)
    fill(domain, 1000, data[:700])
    fill(domain, 9000, data[700:])
    pieces = [(1000, 700), (5, 0), (9000, len(data) - 700)]
    where = {"memory_domain": domain}
    assert opened.io(Op.WRITE, 3, 8, pieces, **where).status == Status.SUCCESS
    got = bytearray(len(data))
    assert opened.io(Op.READ, 3, 8, got).status == Status.SUCCESS
    assert got == data
    fill(domain, 0, bytes(SIZE))
    back = [(40_000, 513), (1, len(data) - 513)]
    assert opened.io(Op.READ, 3, 8, back, **where).status == Status.SUCCESS
    assert look(domain, 40_000, 513) + look(domain, 1, len(data) - 513) == data
    assert look(domain, 40_513, 64) == bytes(64)
    assert opened.io(Op.COMPARE, 3, 8, back, **where).status == Status.SUCCESS
    fill(domain, 1, b"?" if data[513:514] != b"?" else b"!")
    assert opened.io(Op.COMPARE, 3, 8, back, **where).status == Status.MISCOMPARE


@pytest.mark.rule("A.19.2", "A.21.9", "E.bdev_ut.bdev_get_memory_domains")
@pytest.mark.rule("E.bdev_ut.bdev_get_memory_domain_types")
def test_which_domains_a_bdev_uses_itself(stack):
    told = [{"dma_device_type": 1}, {"dma_device_type": 2}]
    assert describe(stack.disk(Malloc))["memory_domains"] == told
    assert "memory_domains" not in describe(stack.disk(Null, "Null"))
    assert describe(stack.layer(Passthru))["memory_domains"] == told
    for name in ("Disk", "Null", "Top"):  # the engine's own kind, which nobody is told of
        assert DmaDeviceType.MEMFD in stack.registry.get(name).memory_domains
    info = describe(stack.layer(opaque(), "Opaque", base="Top"))
    assert "memory_domains" not in info
    protected = stack.disk(Malloc, "Protected", md_size=8, dif_type=1, md_interleave=True)
    assert "memory_domains" not in describe(protected)
    fields = list(describe(stack.registry.get("Disk")))
    assert fields[-2:] == ["memory_domains", "driver_specific"]


def test_no_copy_where_the_bdev_uses_the_domain(stack, domain):
    stack.disk()
    stack.layer(Passthru)
    opened = stack.open("Top")
    before = stack.engine.buffers.live_buffers
    seen = []
    where = {"memory_domain": domain}
    request = opened.submit(Op.READ, 0, 8, [(0, 4096)], **where)
    seen.append(stack.engine.buffers.live_buffers)
    assert domain.in_flight == 1
    with pytest.raises(RuntimeError, match="1 I/Os in flight"):
        domain.close()
    stack.settle()
    assert request.status == Status.SUCCESS
    assert seen == [before]
    assert domain.in_flight == 0


@pytest.mark.parametrize("used", [(), (DmaDeviceType.DMA,)])
def test_a_module_that_cannot_use_the_domain_sees_system_memory(stack, domain, used):
    bdev = stack.disk(type("Uses", (Stub,), {"memory_domains": used}), "Stub")
    opened = stack.open("Stub")
    fill(domain, 64, noise(1024))
    request = opened.submit(Op.WRITE, 0, 2, [(64, 1024)], memory_domain=domain)
    stack.settle()
    (one,) = bdev.held
    assert [bytes(view) for view in one.data()] == [noise(1024)]
    assert stack.engine.buffers.live_buffers == 1  # a copy, and not the domain's own
    bdev.complete(status=Status.NOMEM)  # and once more, as it came
    stack.pass_time(20_000)
    assert [bytes(view) for view in bdev.held[0].data()] == [noise(1024)]
    assert stack.engine.buffers.live_buffers == 1
    bdev.complete()
    stack.settle()
    assert request.status == Status.SUCCESS
    # A READ that failed writes nothing into the domain.
    request = opened.submit(Op.READ, 0, 2, [(64, 1024)], memory_domain=domain)
    stack.settle()
    bdev.held[0].data()[0][:] = b"\xee" * 1024
    bdev.complete(status=Status.FAILED, errno=errno.EIO)
    stack.settle()
    assert (request.status, request.errno) == (Status.FAILED, errno.EIO)
    assert look(domain, 64, 1024) == noise(1024)


def test_a_layer_in_between_may_copy(stack, domain):
    """`data` and `copy_data` work for I/O in a domain, whatever the layer said of itself."""
    seen = []

    def submit(_self, channel, ios):
        seen.extend(bytes(view) for view in ios.data(Op.WRITE))
        ios.copy_data(Op.WRITE)
        for view in ios.data(Op.WRITE):
            view[:] = bytes(255 - byte for byte in view)
        channel.base.submit(ios)

    stack.disk()
    stack.layer(layer(submit, kind="invert", gives_read_buffers=True))
    opened = stack.open("Top")
    fill(domain, 64, b"\x01" * 512)
    assert opened.io(Op.WRITE, 0, 1, [(64, 512)], memory_domain=domain).status == 1
    assert seen == [b"\x01" * 512]
    assert look(domain, 64, 512) == b"\x01" * 512
    got = bytearray(512)
    assert opened.io(Op.READ, 0, 1, got).status == Status.SUCCESS
    assert got == b"\xfe" * 512


@pytest.mark.rule("A.9.27", "E.bdev_ut.bdev_io_ext_invalid_opts")
def test_what_is_refused(stack, domain):
    stack.disk()
    opened = stack.open("Disk")
    for pieces, what in (
        ([(SIZE - 511, 512)], "do not lie in a memory domain"),
        ([(SIZE, 512)], "do not lie in a memory domain"),
        ([(2**64 - 256, 512)], "do not lie in a memory domain"),
        ([(0, 2**64 - 1)], "do not lie in a memory domain"),
        ([(0, 511)], "511 bytes of data"),
        (None, "no data in it"),
        ([], "no data in it"),
    ):
        with pytest.raises(ValueError, match=what):
            opened.submit(Op.READ, 0, 1, pieces, memory_domain=domain)
    with pytest.raises(OverflowError):
        opened.submit(Op.READ, 0, 1, [(-1, 512)], memory_domain=domain)
    for wrong in (bytearray(512), (0, 512), [(0, 256, 256)]):
        with pytest.raises(ValueError, match="pieces of a memory domain are"):
            opened.submit(Op.READ, 0, 1, wrong, memory_domain=domain)
    gone, fd = create_memfd(4096)
    os.close(fd)
    gone.close()
    gone.close()
    assert gone.closed
    with pytest.raises(ValueError, match="is closed"):
        opened.submit(Op.READ, 0, 1, [(0, 512)], memory_domain=gone)
    with pytest.raises(BufferError, match="is closed"):
        memoryview(gone)
    assert domain.in_flight == 0


def test_a_view_keeps_a_domain_open(domain):
    with memoryview(domain) as view:
        assert len(view) == SIZE
        with pytest.raises(RuntimeError, match="1 views"):
            domain.close()


def test_a_piece_that_closes_the_domain_while_it_is_looked_at(stack, domain):
    """An I/O counts from before its pieces are looked at: nobody unmaps them in between."""
    stack.disk(Malloc)
    top = stack.open("Disk")

    class Closing(tuple):
        __slots__ = ()

        def __iter__(self):
            domain.close()
            return super().__iter__()

    with pytest.raises(RuntimeError, match="1 I/Os in flight"):
        top.submit(Op.READ, 0, 1, [Closing((0, 512))], memory_domain=domain)
    assert domain.in_flight == 0
    assert top.io(Op.READ, 0, 1, [(0, 512)], memory_domain=domain).status == Status.SUCCESS


def test_two_sides_see_the_same_memory():
    made, fd = create_memfd(8192, "shared")
    other = map_memfd(fd)
    with mmap.mmap(fd, 8192) as mapped:
        os.close(fd)
        fill(made, 10, b"hello")
        assert look(other, 10, 5) == mapped[10:15] == b"hello"
    assert (made.type, made.size_bytes) == (DmaDeviceType.MEMFD, 8192)
    made.close()
    other.close()


def test_files_that_cannot_be_a_domain(tmp_path):
    def refused(fd, what):
        with pytest.raises(BdevError, match=what) as raised:
            map_memfd(fd)
        os.close(fd)
        return raised.value.errno

    loose = os.memfd_create("loose", os.MFD_ALLOW_SEALING)
    os.ftruncate(loose, 4096)
    assert refused(loose, "sealed against shrinking") == errno.EINVAL
    (tmp_path / "file").write_bytes(bytes(4096))
    assert refused(os.open(tmp_path / "file", os.O_RDWR), "sealed") == errno.EINVAL
    empty = os.memfd_create("empty", os.MFD_ALLOW_SEALING)
    fcntl.fcntl(empty, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    assert refused(empty, "0 bytes") == errno.EINVAL
    with pytest.raises(BdevError, match="at least 1") as raised:
        create_memfd(0)
    assert raised.value.errno == errno.EINVAL
    with pytest.raises(ValueError, match="sealed"):
        MemoryDomain(-1, 4096, DmaDeviceType.MEMFD)
    closed, fd = create_memfd(4096)
    os.close(fd)
    closed.close()
    with pytest.raises(BdevError) as raised:
        map_memfd(fd)
    assert raised.value.errno == errno.EBADF
