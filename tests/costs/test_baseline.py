"""What the baseline says of figures: worse, better, new; of a toolchain that it knows or not."""

from __future__ import annotations

import pytest

from costs.baseline import Baseline
from costs.figures import MEASURES, unit

HERE, THERE = {"core": "GCC 12"}, {"core": "GCC 13"}
FIGURES = {
    "null, QD 1, instructions": 1000.0,
    "nbd, QD 1, system calls": 4.0,
    "nbd, QD 16, I/Os in a batch": 16.0,
    "malloc, QD 1, allocations": 0.0,
}


@pytest.fixture
def baseline():
    made = Baseline()
    made.record(FIGURES, HERE)
    return Baseline(made.text())


def test_what_is_as_recorded_is_good(baseline):
    assert baseline.complaints(FIGURES, HERE) == []
    assert baseline.complaints({name: n * 1.049 for name, n in FIGURES.items()}, HERE) == []
    assert baseline.complaints({name: n * 0.951 for name, n in FIGURES.items()}, HERE) == []


@pytest.mark.parametrize(
    ("name", "value", "verdict"),
    [
        ("null, QD 1, instructions", 1051, "worse"),
        ("null, QD 1, instructions", 949, "stays"),
        ("nbd, QD 1, system calls", 5, "worse"),
        ("nbd, QD 1, system calls", 3, "stays"),
        ("nbd, QD 16, I/Os in a batch", 8, "worse"),
        ("nbd, QD 16, I/Os in a batch", 32, "stays"),
        ("malloc, QD 1, allocations", 1, "worse"),
        ("malloc, QD 1, bytes copied", 4096, "`make baseline`"),
    ],
)
def test_what_is_not_as_recorded_is_told(baseline, name, value, verdict):
    (said,) = baseline.complaints({name: value}, HERE)
    assert said.startswith(f"{name}: {value}")
    assert said.endswith(verdict)


def test_another_toolchain_has_more_room_where_it_matters(baseline):
    assert not baseline.complaints({"null, QD 1, instructions": 1290}, THERE)
    assert not baseline.complaints({"null, QD 1, instructions": 500}, THERE)
    assert baseline.complaints({"null, QD 1, instructions": 1310}, THERE)
    assert baseline.complaints({"nbd, QD 1, system calls": 4.3}, THERE)


def test_each_toolchain_has_its_own_figures(baseline):
    before = baseline.text()
    baseline.record({**FIGURES, "null, QD 1, instructions": 2000}, THERE)
    again = Baseline(baseline.text())
    assert again.recorded(HERE)["null, QD 1, instructions"] == 1000
    assert again.recorded(THERE)["null, QD 1, instructions"] == 2000
    assert again.text().startswith(before)
    again.record(FIGURES, HERE)
    assert again.text() == baseline.text()


def test_what_could_not_be_measured_stays_recorded(baseline):
    without = {name: n for name, n in FIGURES.items() if not name.startswith("nbd, QD 1,")}
    baseline.record(without, HERE, unmeasured=["nbd, QD 1"])
    assert baseline.recorded(HERE) == FIGURES
    baseline.record(without, HERE)
    assert baseline.recorded(HERE) == without


def test_the_file_is_as_it_would_be_written():
    baseline = Baseline.load()
    units = {unit(name) for name in baseline.recorded({})}
    assert {"instructions", "system calls", "bytes copied", "allocations"} < units
    assert len(units) == len(MEASURES) + 2
    (recorded, *_) = baseline.toolchains
    assert baseline.knows(recorded[0])
    assert Baseline(baseline.text()).text() == baseline.text()
