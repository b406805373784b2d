"""Sets of CPUs and maps of cores as SPDK's command lines have them."""

import pytest

from vbdev.vocab.cpu_sets import Core, parse_core_map, parse_cpu_set, show_cpu_mask


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("0x1", {0}),
        ("3", {0, 1}),
        ("0XA0", {5, 7}),
        ("0x" + "f" * 256, set(range(1024))),
        (" [0] ", {0}),
        ("[0,1,10]", {0, 1, 10}),
        ("[0-3, 6]", {0, 1, 2, 3, 6}),
        ("[1023]", {1023}),
    ],
)
def test_sets(text, cpus):
    assert parse_cpu_set(text) == cpus
    assert int(show_cpu_mask(cpus), 16) == sum(1 << cpu for cpu in cpus)


REFUSED = " 0x x 0x0 0 -1 [ [] [,] [3-1] [1024] [a] 0-3 1,2 0xg [0-99999999999] [0--1]"


@pytest.mark.parametrize("text", [*REFUSED.split(" "), "0x1" + "0" * 256])
def test_refused_sets(text):
    with pytest.raises(ValueError, match=r"CPU|before"):
        parse_cpu_set(text)


def cores(text):
    return {core.number: set(core.cpus) for core in parse_core_map(text)}


def test_maps():
    """The example of DPDK's documentation, and the forms that SPDK's usage names."""
    assert cores("1,2@(5-7),(3-5)@(0,2),(0,6),7-8") == {
        0: {0, 6},
        1: {1},
        2: {5, 6, 7},
        3: {0, 2},
        4: {0, 2},
        5: {0, 2},
        6: {0, 6},
        7: {7},
        8: {8},
    }
    assert cores("(5-7)@(10-12)") == {core: {10, 11, 12} for core in (5, 6, 7)}
    assert cores("(0-1)") == {0: {0, 1}, 1: {0, 1}}
    assert parse_core_map("4@0") == [Core(4, frozenset({0}))]


@pytest.mark.parametrize(
    "text", ["", "@1", "1@", "1,", ",1", "1@2@3", "(1", "1)", "1,1", "(0-2),1", "a", "0@(5", "1 2"]
)
def test_refused_maps(text):
    with pytest.raises(ValueError, match=r"core|CPU"):
        parse_core_map(text)
