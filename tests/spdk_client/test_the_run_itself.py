"""The run notices what is wrong: cases that expect the impossible fail, each in its kind."""

from dataclasses import replace

import pytest

from spdk_client.case import Instead, Refused
from spdk_client.run import CASES, Run
from spdk_client.shapes import Is
from support.clients import find, missing

pytestmark = pytest.mark.client

TRUE_CASE = CASES["bdev_null_delete"]


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    """Return a function that asks one case and returns its checks, failed ones by kind."""
    if find("spdk-rpc") is None:
        missing("spdk is not installed")
    run = Run(tmp_path_factory.mktemp("spdk") / "run")

    def one(case):
        run.report.checks.clear()
        run.ask(case)
        return {check.kind: check.problem for check in run.report.failures}

    one.run = run
    yield one
    run.close()


def test_all_is_well(ask):
    assert ask(TRUE_CASE) == {}
    assert len(ask.run.report.checks) > 20


def test_another_result(ask):
    failed = ask(replace(TRUE_CASE, result=Is(False)))
    assert set(failed) == {"valid", "class", "spdk-rpc"}
    assert failed["valid"] == "result: True, not False"


def test_another_text_for_what_does_not_decode(ask):
    failed = ask(replace(TRUE_CASE, undecoded=(-32603, "another")))
    assert set(failed) == {"undecodable", "class"}
    assert "not (-32603, 'another')" in failed["undecodable"]


def test_another_refusal(ask):
    refused = Refused("absent", {"name": "none"}, (-17, "File exists"), words=("none",))
    failed = ask(replace(TRUE_CASE, refused=(refused,)))
    assert set(failed) == {"refused", "spdk-rpc"}
    assert failed["refused"] == "(-19, 'No such device'), not (-17, 'File exists')"


def test_it_prints_something_else(ask):
    assert set(ask(replace(TRUE_CASE, printed="json"))) == {"spdk-rpc"}


def test_what_comes_before_fails(ask):
    failed = ask(replace(TRUE_CASE, before=(("bdev_null_delete", {"name": "none"}),)))
    assert "No such device" in failed["valid"]


def test_a_difference_on_purpose_is_held_too(ask):
    what = "name is null"
    failed = ask(replace(TRUE_CASE, instead={what: Instead("because", (-22, "Invalid argument"))}))
    assert set(failed) == {"undecodable"}
    (check,) = ask.run.report.failures
    assert (check.what, check.why) == (what, "because")


def test_what_it_has_done_is_looked_at(ask):
    case = CASES["bdev_null_resize"]
    assert ask(case) == {}
    failed = ask(replace(case, shows=("N", {"num_blocks": 5})))
    assert failed == {"valid": "N.num_blocks: 16384, not 5"}
