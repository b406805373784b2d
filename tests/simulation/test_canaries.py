"""A simulation that finds nothing proves nothing: with each of these faults it has to fail."""

import pytest

from simulation.canaries import CANARIES
from simulation.faults import FAULTS, changed_sources
from simulation.running import run
from simulation.steps import make_run

STEPS = 300

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize("fault", CANARIES)
def test_fault_is_found(fault):
    canary = CANARIES[fault]
    if not canary.is_here:
        pytest.skip("needs the build with faults: make canaries")
    found = []
    for seed in range(canary.runs):
        found.append(run(make_run(seed, canary.emphasis, STEPS), canary.prepare).get("failure"))
        if found[-1] in canary.kinds:
            return
    pytest.fail(f"{fault} was not found in {canary.runs} runs; they ended as {found}")


def test_compiled_faults_find_their_places():
    """What changed a line that a fault changes as well sees it here, and not first in the build."""
    assert changed_sources()
    assert set(FAULTS) == {name for name, canary in CANARIES.items() if canary.compiled}
