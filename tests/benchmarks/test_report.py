"""What `make bench` writes of recorded runs: the page, the chart. Structure and words, no times."""

import xml.etree.ElementTree as ET

import pytest
from bench.chart import LEFT, RIGHT, TICKS, chart, position
from bench.figures import Goal, Sample, Session, SideFigures, WorkFigures, load, save
from bench.report import BEGIN, END, check, goal_text, render, write_into
from bench.rows import ROWS

SVG = "{http://www.w3.org/2000/svg}"


def side(name, *values, role="peer", problem="", more=None, **others):
    samples = [Sample(float(value), more or {}) for value in values]
    return SideFigures(name=name, role=role, samples=samples, problem=problem, **others)


def work(row, *sides, name="some work", goal=None, unit="thousand IOPS", problem=""):
    return WorkFigures(row=row, name=name, unit=unit, goal=goal, sides=list(sides), problem=problem)


@pytest.fixture
def session():
    ours = side(
        "vbdev",
        *(90, 100, 130),
        role="ours",
        more={"p99 us": 12.0, "batch": 27.0, "RPCs a second": 1000.0},
        counts={"system calls per I/O": 0.71},
        copies="1",
    )
    return Session(
        when="2026-01-02 03:04",
        quick=False,
        runs=5,
        seconds=2.0,
        machine={"processor": "Abacus, 2 CPUs", "memory": "24 GiB"},
        versions={"vbdev": "0.1.0", "fio": "3.33"},
        load=[0.1, 0.2, 0.3],
        works=[
            work(
                "1",
                side("vbdev", 8, role="ours"),
                side("SPDK, recorded", 53, 66, role="recorded"),
                goal=Goal(7, 4, of="figure", at_most=True),
                unit="ns",
                name="a layer",
            ),
            work(
                "5",
                ours,
                side("nbdkit memory", 45, 50, 55),
                side("nbd-server", problem="nbd-server is not installed"),
                side("qemu-nbd", 60, problem="RuntimeError: fio failed"),
                goal=Goal(1.5, 1.6),
                name="NBD, fio",
            ),
            work("6", problem="RuntimeError: no room", name="NBD over null"),
            work("8", goal=Goal(2, 4), problem="not built: no coroutines", name="coroutines"),
            work("9", side("vbdev", 60, role="ours"), side("nbdkit", 60),
                 goal=Goal(1.5, 1.0, at_most=True), unit="us", name="p99"),
        ],
    )  # fmt: skip


def table(text, first_cell):
    """Return the cells of the lines of a table that begin with a cell."""
    lines = [line for line in text.splitlines() if line.startswith(f"| {first_cell} |")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_summary_has_a_line_for_each_work_and_row(session):
    text = render(session, ROWS, "performance.svg")
    summary = text.split("### ")[0]
    for number in ROWS:
        assert len(table(summary, number)) == 1, number
    assert table(summary, "1")[0][2:] == [
        "8.00 ns", "SPDK, recorded: 53.0 to 66.0 ns", "", "≤ 7 (4) ns", "**not reached**",
    ]  # fmt: skip
    assert table(summary, "5")[0][2:] == [
        "100 thousand IOPS ±20%",
        "nbd-server: nbd-server is not installed; qemu-nbd: 60.0 thousand IOPS",
        "1.67", "≥ 1.5 (1.6) x", "reached, stretch too",
    ]  # fmt: skip
    assert table(summary, "6")[0][-1] == "RuntimeError: no room"
    assert table(summary, "8")[0][-1] == "not built: no coroutines"
    assert table(summary, "9")[0][-3:] == ["1.00", "≤ 1.5 (1) x", "reached, stretch too"]
    assert table(summary, "10")[0] == ["10", "Two reactors", "", "", "", "", "not measured"]


def test_the_details_have_every_side(session):
    text = render(session, ROWS, "performance.svg")
    details = text.split("### 5: ")[1].split("### ")[0]
    assert table(details, "vbdev")[0][1:] == [
        "100", "90.0", "130", "3", "12.0", "27.0", "0.71", "1",
    ]  # fmt: skip
    assert table(details, "nbdkit memory")[0][1:5] == ["50.0", "45.0", "55.0", "3"]
    assert table(details, "nbd-server")[0][1] == "nbd-server is not installed"
    assert table(details, "qemu-nbd (RuntimeError: fio failed)")[0][1] == "60.0"
    assert "vbdev: RPCs a second: 1,000." in details
    assert "### 6" not in text


def test_where_and_how_it_was_measured(session):
    text = render(session, ROWS, "performance.svg")
    for words in (
        "`make bench` of 2026-01-02 03:04",
        "5 runs of each side by turns",
        "Abacus, 2 CPUs; 24 GiB",
        "vbdev 0.1.0, fio 3.33",
        "0.10, 0.20, 0.30",
        "](performance.svg)",
        "**2 of 3 goals are reached**, 2 of them with the stretch; 1 are not measured.",
    ):
        assert words in text
    assert "no claim" not in text


def test_a_busy_machine_and_a_short_look_are_no_claim(session):
    session.load = [2.5, 2, 1]
    assert "Others used the machine" in render(session, ROWS, "p.svg")
    session.load, session.quick, session.runs = [0.1], True, 3
    text = render(session, ROWS, "p.svg")
    assert "`make bench QUICK=1`" in text
    assert "Short and few runs" in text


def test_words_do_not_break_the_table(session):
    session.works[2].problem = "a | b\nc"
    assert "a \\| b c |" in render(session, ROWS, "p.svg")


def test_only_what_is_between_the_marks_is_replaced(session, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"# Mine\n\n{BEGIN}\nold\n{END}\n\n## Mine too\n")
    for _ in range(2):
        write_into(page, session, ROWS)
        text = page.read_text()
        assert text.startswith(f"# Mine\n\n{BEGIN}\n\n`make bench`")
        assert text.endswith(f"\n{END}\n\n## Mine too\n")
        assert "old" not in text
        assert "](page.svg)" in text
        assert text.count("| 5 | NBD, fio |") == 1


@pytest.mark.parametrize("text", ["", BEGIN, END, f"{END}{BEGIN}"])
def test_a_page_without_marks_is_left_alone(session, tmp_path, text):
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ValueError, match=r"page\.md"):
        write_into(page, session, ROWS)
    with pytest.raises(ValueError, match="no place"):
        check(page)
    assert page.read_text() == text


def test_the_page_of_the_project_has_its_place():
    from bench.__main__ import ROOT

    check(ROOT / "docs" / "performance.md")


def test_goals_in_words():
    for goal, words in (
        (Goal(75, 40, of="figure", at_most=True), "≤ 75 (40) ns"),
        (Goal(0.8, 0.95), "≥ 0.8 (0.95) x"),
        (None, ""),
    ):
        assert goal_text(work("1", goal=goal, unit="ns")) == words


def test_the_chart_has_a_bar_for_each_figure(session):
    root = ET.fromstring(chart(session, ROWS))
    words = [element.text for element in root.iter(f"{SVG}text")]
    bars = {
        float(element.get("y")): (float(element.get("width")), element.get("fill"))
        for element in root.iter(f"{SVG}rect")
        if element.get("x") == str(LEFT)
    }
    assert len(bars) == 3  # works 1, 5 and 9
    lengths = [bars[y][0] for y in sorted(bars)]
    one = position(1.0) - LEFT
    assert lengths[0] < one < lengths[1]
    assert lengths[0] == pytest.approx(position(7 / 8) - LEFT, abs=0.1)
    assert lengths[2] == pytest.approx(position(1.5) - LEFT, abs=0.1)
    assert [bars[y][1] for y in sorted(bars)] == ["#d1672b", "#1a7f37", "#1a7f37"]
    for wanted in ("1: a layer", "5: NBD, fio", "8: coroutines", "not built: no coroutines",
                   "1.67 x qemu-nbd, goal ≥ 1.5 (1.6) x", *TICKS.values()):  # fmt: skip
        assert wanted in words
    assert not any("NBD over null" in word for word in words)  # it has no goal


def test_the_scale_ends_at_its_borders():
    assert position(0.001) == position(0.25) == LEFT
    assert position(1000) == position(4) == RIGHT
    assert position(1) == (LEFT + RIGHT) / 2


def test_the_chart_of_nothing_is_a_picture():
    session = Session(
        when="", quick=True, runs=1, seconds=1, machine={}, versions={}, load=[], works=[]
    )
    assert ET.fromstring(chart(session, ROWS)).tag == f"{SVG}svg"


def test_a_session_is_kept_whole(session, tmp_path):
    file = tmp_path / "build" / "bench.json"
    save(session, file)
    assert load(file) == session
    assert [path.name for path in file.parent.iterdir()] == ["bench.json"]
    assert render(load(file), ROWS, "p.svg") == render(session, ROWS, "p.svg")
