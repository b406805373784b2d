"""Fixtures: reactors turned by hand, and reactors on threads."""

import sys

import pytest

from support.hand import Hand
from support.local_app import LocalApp


@pytest.fixture
def hand():
    """Return three reactors that the test turns by hand."""
    made = Hand()
    yield made
    made.end()


@pytest.fixture(params=[None, 1e-6], ids=["calm", "restless"])
def switching(request):
    """Let the interpreter switch threads as it likes, or all the time."""
    before = sys.getswitchinterval()
    if request.param:
        sys.setswitchinterval(request.param)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def threads(tmp_path, switching):  # noqa: ARG001 - for its effect
    """Return an App of three reactors on threads, which holds nothing at the end."""
    app = LocalApp(tmp_path, num_reactors=3)
    yield app
    app.close()
