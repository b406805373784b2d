"""Run the machine for a while. `make test-long` runs it for ten minutes: see long_run.py."""

import os

import pytest
from hypothesis import HealthCheck, settings

from machine.stacks import Stacks

# What a failing example leaves behind half-way is no failure of its own.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

TestRandomStacks = Stacks.TestCase
TestRandomStacks.settings = settings(
    max_examples=150,
    stateful_step_count=50,
    deadline=None,
    print_blob=True,
    # A change is not to fail for what the one before it broke: chance is for the long run.
    derandomize="CI" in os.environ,
    suppress_health_check=list(HealthCheck),
)
