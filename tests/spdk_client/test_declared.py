"""What SPDK's client is held to is declared: `rpc_get_schema` says the same of each method."""

import re

import pytest

from spdk_client.run import CASES
from vbdev.daemon.app import App
from vbdev.rpc.describing.schema import describe_methods

STATES = {"S": "STARTUP", "R": "RUNTIME"}


@pytest.fixture(scope="module")
def schema():
    """Return what each method declares, by name."""
    app = App()
    try:
        methods = describe_methods(app.dispatcher.methods())["methods"]
        return {method["name"]: method for method in methods}
    finally:
        app.close()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_it_is_declared(schema, case):
    declared = schema[case.method]
    states = {STATES[state] for state in case.fact.states}
    assert set(declared["x-spdk-state"]) == states
    required = {param["name"] for param in declared["params"] if param["required"]}
    assert required == {param.name for param in case.fact.required}
    errors = [(error["code"], pattern(error["message"])) for error in declared["errors"]]
    expected = {one.answer for one in case.refused}
    if case.undecodable is not None:
        expected.add(case.undecodable)
    for code, text in expected:
        assert any(known == code and re.fullmatch(form, text) for known, form in errors), text


def pattern(message):
    """Return a pattern for a message with places for names: `Subsystem '{name}' not found`."""
    return ".*".join(map(re.escape, re.split(r"\{\w+\}", message)))
