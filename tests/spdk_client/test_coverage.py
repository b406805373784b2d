"""docs/rpc-coverage.md says what is, and what it is made of holds together."""

import pytest

from spdk_client import coverage
from spdk_client.facts import ARRAYS, ENUMS, METHODS
from spdk_client.run import CASES


@pytest.mark.client
@pytest.mark.timeout(300)  # it may be the one that makes the run
def test_the_page_is_what_the_run_finds(report):
    assert not report.failures  # test_run.py tells them
    told = "python -m spdk_client, with tests/ on PYTHONPATH, writes it (make rpc-coverage)"
    assert coverage.render(report) == coverage.DOCUMENT.read_text(), told


def test_what_control_planes_call_are_methods_of_spdk():
    for plane in coverage.PLANES:
        methods = coverage.calls(plane)
        assert set(methods) <= set(METHODS), plane["name"]
        assert len(methods) == len(plane["calls"].splitlines()), f"{plane['name']}: one twice"


@pytest.mark.client
@pytest.mark.timeout(300)
def test_what_control_planes_send_is_taken(report):
    """`bdev_get_iostat` with `name`, say, which SPDK calls `names` by now.

    What SPDK itself does not take is refused: it is a fork's.
    """
    for plane in coverage.PLANES:
        for method, name in coverage.not_taken(report, plane):
            declared = {param.name for param in METHODS[method].params}
            assert name not in declared, f"{plane['name']}: {method} {name}"


def test_the_facts_are_whole():
    assert len(METHODS) == 296
    for fact in METHODS.values():
        for param in fact.params:
            assert param.kind != "enum" or param.of in ENUMS
            assert param.kind != "array" or param.of in ARRAYS


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_case_names_every_parameter(case):
    assert not case.unused()
    declared = {param.name for param in case.fact.params}
    required = {param.name for param in case.fact.required}
    for params in (case.params, case.minimal, *case.more):
        assert required <= set(params) <= declared
