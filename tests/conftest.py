"""Fixtures that several floors share; what they are made of is in `tests/support`."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from pathlib import Path

import pytest

# Tests are imported by path (importlib mode), which puts no folder of theirs on sys.path.
sys.path.insert(0, str(Path(__file__).parent))

from support.daemon import Daemon
from support.local_app import LocalApp

CORE = (
    "behaviour",
    "core",
    "hostile/test_modules.py",
    "machine/test_random_stacks.py",
    "modules",
    "registry",
    "rpc/test_bdev_methods.py",
    "targets",
    "threads/test_contention.py",
    "threads/test_control.py",
)
"""What exercises compiled code: marked `core`, for the builds besides the release one."""
HERE = Path(__file__).parent


def pytest_configure(config):
    """Give each worker of pytest-xdist a runtime directory, as if it were another session.

    Where a daemon listens that is not told where is in there, and what keeps apart those who open
    sockets: a test that holds it up is not to be met by others.
    """
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        directory = tempfile.TemporaryDirectory(prefix=f"vbdev-{worker}-")
        config.add_cleanup(directory.cleanup)
        os.environ["XDG_RUNTIME_DIR"] = directory.name


def pytest_collection_modifyitems(items):
    """Mark by folder."""
    for item in items:
        if any(item.path.is_relative_to(HERE / place) for place in CORE):
            item.add_marker("core")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Make what a test has logged fit to be sent: workers of pytest-xdist speak UTF-8."""
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report


@pytest.fixture
def serve(tmp_path):
    """Return a function that starts `vbdev serve` with the given words; all end with the test."""
    daemons = []

    def start(*words, **options):
        directory = tmp_path / f"d{len(daemons)}"
        directory.mkdir()
        daemon = Daemon(directory, *words, **options)
        daemons.append(daemon)
        daemon.start()
        return daemon

    yield start
    for daemon in daemons:
        daemon.close()


@pytest.fixture
def local_app(tmp_path):
    """Return an App in this process, on a thread of its own, that holds nothing at the end."""
    app = LocalApp(tmp_path)
    yield app
    app.close()


@pytest.fixture
def collected():
    """Collect what a test abandons half-way while it is that test's, and not some later one's.

    What runs then may log, or warn, with a traceback; CPython 3.11 parses code for that, and
    can not while it is parsing code already.
    """
    yield
    for _ in range(3):  # what a first round closes may have held more
        gc.collect()
