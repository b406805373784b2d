"""The run, once for all tests that look at it."""

import pytest

from spdk_client.run import Report, Run
from support.clients import find, missing

REPORT = pytest.StashKey[Report]()


@pytest.fixture(scope="session")
def report(request, tmp_path_factory):
    """Return what the run found."""
    try:
        import spdk.rpc.client  # noqa: F401
    except ImportError:
        missing("the Python package spdk is not installed")
    if find("spdk-rpc") is None:
        missing("spdk-rpc is not installed")
    found = Run(tmp_path_factory.mktemp("spdk") / "run")()
    request.config.stash[REPORT] = found
    return found


def pytest_terminal_summary(terminalreporter, config):
    """Print the run, method by method."""
    if (found := config.stash.get(REPORT, None)) is not None:
        terminalreporter.section("SPDK's client, method by method")
        terminalreporter.write(found.text())
