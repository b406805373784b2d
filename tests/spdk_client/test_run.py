"""SPDK's client and vbdev: every method of SPDK's that is served, asked in every way.

Method: `run.Run` once, against `vbdev serve`; a test for each method tells what is not as it has
to be.
"""

import pytest

from spdk_client.facts import METHODS
from spdk_client.run import CASES

# The first of them makes the run: 7 s on a machine with nothing else to do.
pytestmark = [pytest.mark.client, pytest.mark.timeout(300)]


@pytest.mark.parametrize("method", CASES)
def test_method(report, method):
    failures = [str(check) for check in report.of(method) if check.problem]
    assert not failures, "\n".join(failures)


def test_what_is_not_served_is_refused_as_in_spdk(report):
    absent = [check for check in report.checks if check.kind == "absent"]
    assert len(absent) == len(METHODS) - len(report.served)
    assert not [str(check) for check in absent if check.problem]


def test_every_method_that_is_served_has_a_case(report):
    assert set(report.served) == set(CASES)
