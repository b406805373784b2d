"""A machine that finds nothing proves nothing: with each of these faults it has to fail."""

import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from machine.canaries import CANARIES

pytestmark = [
    pytest.mark.usefixtures("collected"),
    # What a failing example leaves behind half-way is no failure of its own.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]


@pytest.mark.parametrize("fault", sorted(CANARIES))
def test_fault_is_found(fault):
    with pytest.raises((AssertionError, ExceptionGroup, pytest.fail.Exception)):
        run_state_machine_as_test(
            CANARIES[fault],
            settings=settings(
                max_examples=2000,
                stateful_step_count=50,
                deadline=None,
                database=None,
                derandomize="CI" in os.environ,
                phases=[Phase.generate],
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
            ),
        )
