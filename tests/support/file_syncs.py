"""Files of bdevs whose fdatasync fails: a pipe takes the place of the descriptors for it."""

import errno
import os
from contextlib import contextmanager

import pytest

from vbdev.bdev import IoError
from vbdev.bdev.entry import entry_of
from vbdev.vocab import Status


def sync_fds(bdev):
    return {
        bdev._geometry.sync_fd,
        *(channel.context.sync_fd for channel in entry_of(bdev).channels()),
    }


def break_syncs(bdev):
    reader, writer = os.pipe()
    for fd in sync_fds(bdev):
        os.dup2(reader, fd, inheritable=False)
    os.close(reader)
    os.close(writer)


@contextmanager
def syncs_fail(bdev):
    good = {fd: os.dup(fd) for fd in sync_fds(bdev)}
    break_syncs(bdev)
    try:
        yield
    finally:
        for fd, copy in good.items():
            os.dup2(copy, fd, inheritable=False)
            os.close(copy)


async def fails(descriptor, *args, **kwargs):
    with pytest.raises(IoError, match="Input/output error") as caught:
        await descriptor.io(*args, **kwargs)
    assert caught.value.status == Status.AIO_ERROR
    assert caught.value.errno == errno.EIO
