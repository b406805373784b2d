"""The run, once for all tests that look at it."""

import pytest

from spdk_client.run import Run
from support.clients import find, missing


@pytest.fixture(scope="session")
def report(tmp_path_factory):
    """Return what the run found."""
    try:
        import spdk.rpc.client  # noqa: F401
    except ImportError:
        missing("the Python package spdk is not installed")
    if find("spdk-rpc") is None:
        missing("spdk-rpc is not installed")
    return Run(tmp_path_factory.mktemp("spdk") / "run")()
