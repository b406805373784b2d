"""What the tests with real clients serve: a stack on memory, or on a file."""

from __future__ import annotations

import os

import pytest

from vbdev.modules import MODULES

SIZE_BYTES = 64 << 20


@pytest.fixture(params=["malloc", "file"])
def base(request, tmp_path):
    """Return BASE as on the command line: 64 MiB of zeroes."""
    if request.param == "malloc":
        return "malloc:64MiB"
    if "uring" not in {module.kind for module in MODULES}:
        pytest.skip("there is no module for files")
    return disk_file(tmp_path)


def disk_file(directory):
    """Make a sparse file of 64 MiB and return its path."""
    path = directory / "disk.img"
    path.touch()
    os.truncate(path, SIZE_BYTES)
    return str(path)


@pytest.fixture
def daemon(serve, base):
    """Serve BASE through a passthru layer, on a unix socket."""
    return serve(base, "--layer", "passthru")


@pytest.fixture
def pattern(tmp_path):
    """Return a file of 64 MiB: data, holes and zeroes in turn."""
    path = tmp_path / "pattern"
    with path.open("wb") as file:
        for at in range(0, SIZE_BYTES, 8 << 20):
            file.seek(at)
            file.write(os.urandom(1 << 20) + bytes(1 << 20))
        file.truncate(SIZE_BYTES)
    return path
