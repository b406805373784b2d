"""How works are measured: turns, what fails and what is missing, medians. Nothing is timed."""

import itertools

import pytest
from bench.figures import Goal, Sample, SideFigures, WorkFigures
from bench.runner import Plan, Row, Side, Work, alternate, measure_row


@pytest.fixture
def plan(tmp_path):
    return Plan(runs=4, seconds=0.1, quick=True, directory=tmp_path, disk_directory=tmp_path)


@pytest.fixture
def log():
    return []


def side(name, log, values=None, **others):
    values = itertools.count(1) if values is None else iter(values)

    def measure():
        log.append(name)
        value = next(values)
        if isinstance(value, Exception):
            raise value
        return Sample(float(value))

    return Side(name=name, measure=measure, **others)


def test_sides_take_turns_forwards_and_backwards(plan, log):
    work = Work(name="w", sides=[side(name, log) for name in ("a", "b", "c")])
    alternate("1", work, plan)
    assert log == [*"abc", *"cba", *"abc", *"cba"]


def test_a_work_may_want_other_runs(plan, log):
    alternate("1", Work(name="w", runs=1, sides=[side("a", log), side("b", log)]), plan)
    assert log == ["a", "b"]


def test_a_side_that_fails_is_left_out_and_the_others_go_on(plan, log):
    broken = side("b", log, [5, RuntimeError("fio failed: no\nmore lines"), 6])
    figures = alternate("1", Work(name="w", sides=[side("a", log), broken, side("c", log)]), plan)
    assert log == [*"abc", *"cba", *"ac", *"ca"]
    a, b, c = figures.sides
    assert (len(a.samples), len(b.samples), len(c.samples)) == (4, 1, 4)
    assert b.problem == "RuntimeError: fio failed: no"
    assert (a.problem, c.problem) == ("", "")


def test_a_missing_peer_is_told_and_never_run(plan, log):
    missing = side("b", log, missing="b is not installed")
    figures = alternate("1", Work(name="w", sides=[side("a", log), missing]), plan)
    assert set(log) == {"a"}
    assert figures.sides[1].problem == "b is not installed"
    assert figures.sides[1].median is None


def test_counts_come_behind_all_runs(plan, log):
    def count():
        log.append("counted")
        return {"system calls per I/O": 2.0}

    def broken():
        raise RuntimeError("perf may not")

    figures = alternate(
        "1",
        Work(name="w", runs=2,
             sides=[side("a", log, count=count), side("b", log, count=broken)]),
        plan,
    )  # fmt: skip
    assert log == ["a", "b", "b", "a", "counted"]
    assert figures.sides[0].counts == {"system calls per I/O": 2.0}
    assert (figures.sides[1].counts, figures.sides[1].problem) == ({}, "")


def test_recorded_figures_are_kept_and_not_compared_with(plan, log):
    recorded = Side(name="then", role="recorded", recorded=[1000.0])
    figures = alternate(
        "1",
        Work(name="w", sides=[side("us", log, role="ours"), side("peer", log), recorded]),
        plan,
    )
    assert figures.sides[2].median == 1000
    assert figures.against().name == "peer"
    assert figures.against("recorded").ratio == figures.sides[0].median / 1000


@pytest.mark.parametrize("where", ["start", "middle", "end"])
def test_a_row_that_fails_says_so_and_is_cleared_away(plan, log, where):
    def works(_plan):
        try:
            if where == "start":
                raise OSError("no room for an image")
            yield Work(name="first", sides=[side("a", log)])
            if where == "middle":
                raise OSError("no room for an image")
            yield Work(name="second", sides=[side("a", log)])
            raise OSError("no room for an image")
        finally:
            log.append("cleared")

    figures = list(measure_row(Row("7", "title", "peer", works), plan))
    done = {"start": 0, "middle": 1, "end": 2}[where]
    assert [work.problem for work in figures] == [""] * done + ["OSError: no room for an image"]
    assert figures[-1].name == "title"
    assert log[-1] == "cleared"


def test_a_row_is_cleared_away_when_nobody_wants_more(plan, log):
    def works(_plan):
        try:
            yield Work(name="first")
            yield Work(name="second")
        finally:
            log.append("cleared")

    figures = measure_row(Row("7", "title", "peer", works), plan)
    assert next(figures).name == "first"
    figures.close()
    assert log == ["cleared"]


def test_an_interrupt_is_nobodys_failure(plan, log):
    def interrupted():
        raise KeyboardInterrupt

    def works(_plan):
        try:
            yield Work(name="first", sides=[Side(name="a", measure=interrupted)])
        finally:
            log.append("cleared")

    with pytest.raises(KeyboardInterrupt):
        list(measure_row(Row("7", "title", "peer", works), plan))
    assert log == ["cleared"]


def figures(ours, *peers, goal=None):
    sides = [
        SideFigures(name=name, role=role, samples=[Sample(float(value)) for value in values])
        for name, role, values in [("us", "ours", ours), *(
            (f"peer{number}", "peer", values) for number, values in enumerate(peers)
        )]
    ]  # fmt: skip
    return WorkFigures(row="5", name="w", goal=goal, sides=sides)


def test_statistics():
    side = figures([5, 1, 2, 100, 3]).sides[0]
    assert (side.median, side.lowest, side.highest) == (3, 1, 100)
    assert side.spread == pytest.approx(33)
    assert figures([7]).sides[0].spread is None
    assert figures([]).sides[0].median is None
    side.samples = [Sample(1, {"p99 us": 5}), Sample(1, {"p99 us": 7}), Sample(1, {"batch": 2})]
    assert side.more == {"p99 us": 6, "batch": 2}


def test_the_best_peer_is_compared_with():
    assert figures([10], [4], [5], []).against().name == "peer1"
    assert figures([10], [4], [5]).reached == 2
    low = figures([10], [4], [5], goal=Goal(1.5, 1, at_most=True))
    assert (low.against().name, low.reached) == ("peer0", 2.5)
    assert figures([10]).against() is None
    assert figures([], [4]).against() is None


@pytest.mark.parametrize(
    ("goal", "ours", "verdict", "part"),
    [
        (Goal(1.5, 2), 8, "stretch", 4 / 3),
        (Goal(1.5, 2), 6, "reached", 1),
        (Goal(1.5, 2), 3, "missed", 0.5),
        (Goal(1.5, 1, at_most=True), 4, "stretch", 1.5),
        (Goal(1.5, 1, at_most=True), 6, "reached", 1),
        (Goal(1.5, 1, at_most=True), 12, "missed", 0.5),
        (Goal(7, 4, of="figure", at_most=True), 14, "missed", 0.5),
        (Goal(7, 4, of="figure", at_most=True), 3.5, "stretch", 2),
        (Goal(14, 18, of="figure"), 14, "reached", 1),
    ],
)
def test_verdicts(goal, ours, verdict, part):
    work = figures([ours], [4], goal=goal)
    assert (work.verdict, work.part_of_goal) == (verdict, pytest.approx(part))


def test_what_is_not_known_is_open():
    for work in (figures([1], goal=Goal(1, 2)), figures([], [1], goal=Goal(1, 2)), figures([1])):
        assert (work.verdict, work.part_of_goal) == ("open", None)
