"""Rules of file I/O that show only in one order of ends, or in what the kernel is handed."""

from __future__ import annotations

import ctypes
import errno
import itertools
import mmap
import struct
from pathlib import Path

import pytest

from support.denied import Denied, run_denied
from support.file_syncs import syncs_fail
from vbdev.bdev import IoError
from vbdev.files import stable_writes
from vbdev.files.stable_writes import EXT_MAGIC
from vbdev.modules.file import service
from vbdev.modules.uring import Uring
from vbdev.testing import Stack, Stub
from vbdev.vocab import IoFlag, Op, Status

RWF_DSYNC = 2  # linux/fs.h
SQES_OFFSET = 0x10000000  # IORING_OFF_SQES
WRITES = {2, 5, 23}  # IORING_OP_WRITEV, _WRITE_FIXED, _WRITE
WINDOW = 64  # iovecs that one system call of a worker takes


def ring_writes(offset):
    """Return rw_flags of the entries for writes at an offset, in any ring of this process.

    The kernel leaves entries as they are, until the next ones take their place.
    """
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split()
        if "io_uring" not in line or int(fields[2], 16) != SQES_OFFSET:
            continue
        first, last = (int(part, 16) for part in fields[0].split("-"))
        memory = ctypes.string_at(first, last - first)
        for at in range(0, len(memory) - 63, 64):
            opcode, _, _, _, off, _, _, flags = struct.unpack_from("<BBHiQQII", memory, at)
            if opcode in WRITES and off == offset:
                found.append(flags)
    return found


@pytest.mark.parametrize(("direct", "magic"), [(True, EXT_MAGIC), (True, 0), (False, EXT_MAGIC)])
def test_a_fua_write_of_the_ring_carries_the_flag_where_no_sync_follows(
    make_stack, monkeypatch, direct, magic
):
    monkeypatch.setattr(stable_writes, "file_system_type", lambda _fd: magic)
    stack = make_stack("ring")
    stack.create(stack.path(1 << 20), direct=direct)
    descriptor = stack.open()

    async def main():
        await descriptor.io(Op.WRITE, 1000, 8, bytes(4096), flags=IoFlag.FUA)
        await descriptor.io(Op.WRITE, 1016, 8, bytes(4096))

    stack.run(main())
    kept = direct and magic == EXT_MAGIC
    assert ring_writes(1000 * 512) == [RWF_DSYNC if kept else 0]
    assert ring_writes(1016 * 512) == [0]


class Over(Stub):
    """A bdev that hands everything to a file's path: RESETs of several come to the same one."""

    kind = "over"

    def submit(self, channel, ios):
        self.path.submit(ios)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_reset_is_answered_when_all_before_it_has_ended_and_not_sooner(
    make_stack, monkeypatch, order
):
    jobs, ended = [], []
    start = service.FileService.start_jobs
    stack = make_stack("threads")
    stack.create(stack.path(1 << 20))
    path = stack.open().get_channel().context
    for n in range(3):
        made = stack.registry.create(Over, Over.Params(name=f"R{n}", num_blocks=8, block_size=512))
        stack.run(made)
        stack.registry.get(f"R{n}").path = path
    tops = [(stack.open(), stack.open(f"R{n}")) for n in range(3)]

    async def main():
        for n, (disk, over) in enumerate(tops):
            for descriptor, op, data in ((disk, Op.READ, bytearray(512)), (over, Op.RESET, None)):
                before = path.outstanding
                descriptor.submit(
                    op, 0, 1 if data else 0, data,
                    callback=lambda _request, what=(op, n): ended.append(what),
                )  # fmt: skip
                while path.outstanding == before:
                    await stack.reactor.sleep(100)
        gone = set()
        for n in order:
            start(*jobs[n])
            gone.add(n)
            due = [(Op.RESET, m) for m in range(3) if gone >= set(range(m + 1))]
            while (Op.READ, n) not in ended or any(one not in ended for one in due):
                await stack.reactor.sleep(100)
            for _ in range(5):
                await stack.reactor.sleep(100)
            assert [one for one in ended if one[0] is Op.RESET] == due

    with monkeypatch.context() as patch:
        patch.setattr(
            service.FileService,
            "start_jobs",
            lambda self, new: jobs.extend((self, [job]) for job in new),
        )
        stack.run(main())


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize(
    ("op", "flags"), [(Op.FLUSH, 0), (Op.WRITE, IoFlag.FUA), (Op.WRITE_ZEROES, IoFlag.FUA)]
)
def test_what_succeeds_after_a_sync_has_failed_elsewhere_is_no_success(
    tmp_path, monkeypatch, direct, op, flags
):
    """It was under way when the other reactor's was told of the failure; Linux tells one only."""
    monkeypatch.setenv(service.NO_RING_VARIABLE, "1")
    monkeypatch.setattr(stable_writes, "file_system_type", lambda _fd: EXT_MAGIC)
    path = tmp_path / "disk"
    path.write_bytes(bytes(1 << 20))
    held, holding = [], []
    start = service.FileService.start_jobs

    def hold(self, jobs):
        if holding:
            held.append((self, jobs))
        else:
            start(self, jobs)

    monkeypatch.setattr(service.FileService, "start_jobs", hold)
    rig = Stack(reactors=2, real_clock=True)
    try:
        bdev = rig.create(Uring, name="U0", filename=str(path), direct=direct)
        tops = [rig.open("U0", on=n) for n in range(2)]
        for top in tops:
            assert top.io(Op.FLUSH, 0, 0).status == Status.SUCCESS
        holding.append(True)
        blocks = 0 if op is Op.FLUSH else 8
        data = mmap.mmap(-1, 4096) if op is Op.WRITE else None  # aligned, for O_DIRECT
        request = tops[0].submit(op, 0, blocks, data, flags=flags)
        rig.turn_until(lambda: held)
        holding.clear()
        with syncs_fail(bdev):
            assert tops[1].io(Op.FLUSH, 0, 0).status == Status.AIO_ERROR
        with tops[0].reactor.here():
            start(*held.pop())
        rig.turn_until(lambda: request.done)
        assert (request.status, request.errno) == (Status.AIO_ERROR, errno.EIO)
    finally:
        rig.close()


@pytest.mark.parametrize("op", [Op.READ, Op.WRITE])
@pytest.mark.parametrize(("at", "said"), [(0, errno.EINVAL), (WINDOW * 512, errno.EIO)])
def test_einval_in_the_middle_is_a_file_that_was_cut_short(make_stack, op, at, said):
    """At the start the request itself is at fault. `at`: of the call that the kernel refuses."""
    stack = make_stack("threads")
    stack.create(stack.path(1 << 20), direct=False)
    call = "preadv" if op is Op.READ else "pwritev"

    async def main():
        descriptor = stack.open()
        pieces = [bytearray(512) for _ in range(2 * WINDOW)]
        with pytest.raises(IoError) as caught:
            await descriptor.io(op, 0, 2 * WINDOW, pieces)
        return caught.value.errno

    def work(deny):
        deny(Denied(call, errno.EINVAL, argument=(3, at)))
        return stack.run(main())

    assert run_denied(work) == said
