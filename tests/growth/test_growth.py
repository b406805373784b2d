"""Ten times as many cost no more than ten times as much, and what is idle costs nothing.

Counted in instructions, not timed: the same on a busy machine.
"""

from __future__ import annotations

import pytest

from costs.tools import Tools
from growth.child import TIMES
from growth.steps import GROUPS
from support.clients import requires

pytestmark = pytest.mark.slow

MOST = 1.1 * TIMES
"""So much more for ten times as many: a tenth is what tables that grow need now and then."""
MOST_AMONG = 1.1
"""So much more for one among ten times as many."""


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    requires("cc")
    requires("valgrind")
    return Tools(tmp_path_factory.mktemp("growth"))


def ratios(tools, group, *canary):
    """Return {step: how many times as much it costs with ten times as many}."""
    few = GROUPS[group][1]
    totals = tools.parts_of("growth.child", group, *canary)
    found = {
        step: totals[f"{step}|{few * TIMES}"] / totals[part]
        for part in totals
        for step, _, n in [part.rpartition("|")]
        if n == str(few)
    }
    assert found
    for step, ratio in found.items():
        each = totals[f"{step}|{few}"] / (1 if "among" in step else few)
        print(f"{group}: {step}: {each:,.0f} instructions each, x {ratio:.2f}")
    return found


def superlinear(found):
    """Return the steps that grow more than they may."""
    return {
        step: round(ratio, 2)
        for step, ratio in found.items()
        if ratio > (MOST_AMONG if "among" in step else MOST)
    }


@pytest.mark.parametrize("group", GROUPS)
def test_no_step_is_worse_than_linear(tools, group):
    assert not superlinear(ratios(tools, group))


@pytest.mark.parametrize(
    ("group", "canary", "step"),
    [
        ("names", "names_one_by_one", "bdevs without a name created"),
        ("clients", "a_look_at_all_clients", "idle turns, among clients"),
    ],
)
def test_what_is_worse_is_found(tools, group, canary, step):
    assert step in superlinear(ratios(tools, group, canary))
