"""What holds SPDK's answers and requests up finds what is wrong with them."""

import pytest

from spdk_client import requests
from spdk_client.facts import METHODS
from spdk_client.run import CASES
from spdk_client.shapes import Is, OneOf, Rest, lacking, mismatch

SHAPE = {"name": "str", "size?": "u32", "on": "bool"}


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        ({"name": "a", "on": True}, SHAPE),
        ({"name": "a", "size": 5, "on": True}, SHAPE),
        ([], [SHAPE]),
        ({"mask": "0x1f", "bdev": True}, Rest({"mask": "hex"}, "bool")),
        ("a", OneOf(("a", "b"))),
        (True, Is(True)),
        (-1, "i32"),
    ],
)
def test_what_fits(value, shape):
    assert mismatch(value, shape) == ""


@pytest.mark.parametrize(
    ("value", "shape", "problem"),
    [
        ({"on": True, "name": "a"}, SHAPE, "'name' has to come here"),
        ({"name": "a", "on": True, "size": 5}, SHAPE, "'size' has to come here"),
        ({"name": "a"}, SHAPE, "'on' has to come here"),
        ({"name": "a", "on": True, "more": 1}, SHAPE, "'more' is none of SPDK's"),
        ({"name": "a", "on": 1}, SHAPE, "result.on: 1 is no boolean"),
        ({"name": "a", "size": -1, "on": True}, SHAPE, "out of range of u32"),
        ({"name": "a", "size": True, "on": True}, SHAPE, "is no integer"),
        ([{"name": 5, "on": True}], [SHAPE], "result[0].name: 5 is no string"),
        ({}, [SHAPE], "is no list"),
        ([], SHAPE, "is no object"),
        (1, Is(True), "1, not True"),
        ("c", OneOf(("a", "b")), "not one of"),
        ({"mask": "1f"}, Rest({"mask": "hex"}), "is no hex"),
        ({"mask": "0x1", "bdev": 1}, Rest({"mask": "hex"}, "bool"), "result.bdev: 1 is no"),
        ("A0000000-0000-0000-0000-000000000000", "uuid", "is no uuid"),
        (1 << 32, "u32", "out of range"),
    ],
)
def test_what_does_not(value, shape, problem):
    assert problem in mismatch(value, shape)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"a": 1}, ""),
        ({"b": {"c": True}}, ""),
        ({"a": 2}, "x.a: 1, not 2"),
        ({"b": {"c": 1}}, "x.b.c: True, not 1"),
        ({"d": 1}, "x.d: None, not 1"),
        ({"a": {"c": 1}}, "x.a.c: None, not 1"),
    ],
)
def test_fields_that_are_lacking(fields, problem):
    assert lacking({"a": 1, "b": {"c": True}}, fields, "x") == problem


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_wrong_parameters_are_wrong_in_each_way(case):
    wrong = dict(requests.undecodable(case.fact, case.params))
    for param in case.fact.params:
        labels = [label for label in wrong if label.startswith(f"{param.name} is ")]
        assert len(labels) >= 5, param
        assert (f"{param.name} is missing" in labels) is param.required
    assert requests.text(case.params) not in wrong.values()


def test_numbers_are_written_in_other_ways():
    fact = METHODS["bdev_null_resize"]
    texts = dict(requests.integral(fact, {"name": "N", "new_size": 8}))
    assert texts["integers as 8.0"] == '{"name": "N", "new_size": 8.0}'
    assert texts["integers as 8e0"] == '{"name": "N", "new_size": 8e0}'
