"""Fixtures that several floors share; what they are made of is in `tests/support`."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest

# Tests are imported by path (importlib mode), which puts no folder of theirs on sys.path.
sys.path.insert(0, str(Path(__file__).parent))

from support.daemon import Daemon
from support.local_app import LocalApp


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
