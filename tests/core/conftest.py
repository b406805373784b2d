"""The core's tests run on a bare Stack: no daemon, no sockets, virtual time."""

import pytest

from support.stack import Stack


@pytest.fixture
def stack():
    """Return a Stack, which must hold nothing at the end."""
    made = Stack()
    yield made
    made.close()
