"""The pytest plugin: daemons for tests of what talks to them.

    def test_it(vbdev_target, vbdev_client):
        vbdev_client.bdev_null_create(name="N", num_blocks=8, block_size=512)
        my_program(vbdev_target.rpc_socket)

`vbdev_target` is a `vbdev.testing.daemon.Daemon` for one test; options are given with the marker
`vbdev_target(*words, **options)`. `vbdev_target_factory` makes such daemons for fixtures of other
scopes. Each has a socket of its own, so tests may run beside each other. They end with their
fixture, or with pytest, however it ends. A report of a failed test has what they logged.

pytest loads this file in every run where vbdev is installed, so it imports nothing but pytest
until a fixture is asked for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from vbdev.client import Client
    from vbdev.testing.daemon import Daemon

__all__ = ["vbdev_client", "vbdev_target", "vbdev_target_factory"]

LOG_CHARACTERS = 64 << 10
"""How much of the end of a log goes into a report."""

_DAEMONS = pytest.StashKey[list["Daemon"]]()


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.stash[_DAEMONS] = []
    config.addinivalue_line(
        "markers",
        "vbdev_target(*words, **options): words of the command line and options of"
        " vbdev.testing.daemon.Daemon for the fixture vbdev_target",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the daemons have logged in the report of a failure."""
    report = yield
    if report.failed:
        for daemon in item.config.stash[_DAEMONS]:
            log = daemon.stderr[-LOG_CHARACTERS:]
            if log.strip():
                title = f"vbdev daemon on {daemon.rpc_socket}: log ({report.when})"
                report.sections.append((title, log))
    if report.when == "teardown":
        daemons = item.config.stash[_DAEMONS]
        daemons[:] = [daemon for daemon in daemons if daemon.is_running]
    return report


@pytest.fixture(scope="session")
def vbdev_target_factory(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[Callable[..., Daemon]]:
    """Return a function that starts a daemon: `vbdev_target_factory(*words, **options)`.

    The words and options are those of `vbdev.testing.daemon.Daemon`. Use the daemon as a context
    manager, or leave it to the end of the session.
    """
    with contextlib.ExitStack() as stack:

        def start(*words: str, **options: Any) -> Daemon:
            return stack.enter_context(_made(tmp_path_factory, pytestconfig, words, options))

        yield start


@pytest.fixture
def vbdev_target(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    pytestconfig: pytest.Config,
) -> Iterator[Daemon]:
    """Run a vbdev daemon on a private socket, for this test.

    Its options are the marker's, and behind them the words of an indirect parameter.
    """
    words: tuple[str, ...] = ()
    options: dict[str, Any] = {}
    if (marker := request.node.get_closest_marker("vbdev_target")) is not None:
        words, options = marker.args, dict(marker.kwargs)
    words += tuple(getattr(request, "param", ()))
    with _made(tmp_path_factory, pytestconfig, words, options) as daemon:
        yield daemon


def _made(
    paths: pytest.TempPathFactory,
    config: pytest.Config,
    words: tuple[str, ...],
    options: dict[str, Any],
) -> Daemon:
    """Return a daemon that starts where it is entered; pytest keeps its directory for a while."""
    from vbdev.testing.daemon import Daemon, fits

    if "directory" not in options and fits(directory := paths.mktemp("vbdev")):
        options["directory"] = directory
    daemon = Daemon(*words, **options)
    config.stash[_DAEMONS].append(daemon)  # before its start, whose failure its log explains
    return daemon


@pytest.fixture
def vbdev_client(vbdev_target: Daemon) -> Iterator[Client]:
    """Connect a client to `vbdev_target`."""
    from vbdev.client import Client

    with Client(vbdev_target.rpc_socket) as client:
        yield client
