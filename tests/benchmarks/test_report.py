"""What `make bench` writes of recorded runs: the page, the chart. Structure and words, no times."""

import itertools
import xml.etree.ElementTree as ET

import pytest
from bench.chart import COLOURS, LEFT, RIGHT, TICKS, chart, position
from bench.figures import Goal, Sample, Session, SideFigures, WorkFigures, load, save
from bench.growth_chart import Scale, growth_chart, many_text, spread_out
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


def lines_of(text, title):
    """Return the part of a page below a title."""
    return text.split(f"### {title}")[1].split("\n### ")[0]


def test_the_overview_has_a_line_for_each_row(session):
    text = render(session, ROWS, "performance.svg")
    summary = text.split("### ")[0]
    for number in ROWS:
        assert len(table(summary, number)) == 1, number
    assert table(summary, "1")[0] == [
        "1", "One more layer", "SPDK on a quiet machine of this kind", "8.00 ns", "≤ 7 (4) ns",
        "**not reached**",
    ]  # fmt: skip
    assert table(summary, "5")[0][3:] == ["1.67 x", "≥ 1.5 (1.6) x", "reached, stretch too"]
    assert table(summary, "6")[0][-1] == "not measured: RuntimeError: no room"
    assert table(summary, "8")[0][-1] == "not measured: not built: no coroutines"
    assert table(summary, "9")[0][3:] == ["1.00 x", "≤ 1.5 (1) x", "reached, stretch too"]
    assert table(summary, "10")[0] == ["10", "Two reactors", "one", "", "", "not measured"]


def test_the_overview_of_a_row_with_several_works(session):
    (first,) = session.of_row("5")
    ours, peer = side("vbdev", 30, role="ours"), side("nbdkit memory", 40)
    slower = work("5", ours, peer, goal=Goal(1.5, 2))
    missing = side("nbdkit memory", problem="nbdkit is not installed")
    alone = work("5", ours, missing, goal=Goal(1, 2))
    session.replace("5", [first, slower, alone])
    cells = table(render(session, ROWS, "p.svg"), "5")[0]
    assert cells[3:5] == ["0.75 to 1.67 x", "≥ 1.5 (1.6) x; ≥ 1.5 (2) x; ≥ 1 (2) x"]
    assert cells[5] == "**1 of 2**, stretch 1, no peer: nbdkit is not installed"


def test_a_row_has_a_line_for_each_work_and_a_column_for_each_side(session):
    part = lines_of(render(session, ROWS, "performance.svg"), "5: ")
    assert table(part, "work")[0] == [
        "work", "in", "vbdev", "nbdkit memory", "nbd-server", "qemu-nbd", "ratio",
        "goal (stretch)", "",
    ]  # fmt: skip
    assert table(part, "NBD, fio")[0] == [
        "NBD, fio", "thousand IOPS", "100 ±20%", "50.0 ±10%", "nbd-server is not installed",
        "**60.0 (RuntimeError: fio failed)**", "1.67", "≥ 1.5 (1.6) x", "reached, stretch too",
    ]  # fmt: skip


def test_the_details_have_every_side(session):
    text = render(session, ROWS, "performance.svg")
    folded = lines_of(text, "5: ").split("<details>")[1]
    assert table(folded, "NBD, fio")[0] == [
        "NBD, fio", "vbdev", "90.0", "130", "3", "12.0", "27.0", "0.71", "1",
    ]  # fmt: skip
    assert table(folded, "NBD, fio")[1][:6] == [
        "NBD, fio", "nbdkit memory", "45.0", "55.0", "3", "",
    ]  # fmt: skip
    assert len(table(folded, "NBD, fio")) == 3
    assert "- NBD, fio, vbdev: RPCs a second: 1,000." in folded
    assert "### 6" not in text
    assert "batch" not in lines_of(text, "1: ")  # a column without a figure


@pytest.fixture
def grown(session):
    def of(number, *values, role="peer"):
        return side(f"{number:,} stacks", *values, role=role, number=number)

    linear = Goal(1.5, 1, at_most=True)
    sizes = [side("8 EiB", 20, role="ours", number=1 << 63), side("1 MiB", 20, number=1 << 20)]
    for name, panel, goal, sides in (
        ("stack: created", "Stacks", linear, [of(1000, 12, role="ours"), of(10, 10), of(1, 30)]),
        ("stack: listed", "Stacks", linear, [of(1000, 8, role="ours"), of(10, 2)]),
        ("size: an I/O", "Sizes", None, sizes),
    ):
        unit = "us" if panel == "Stacks" else "ns"
        figures = work("scale", *sides, name=name, unit=unit, goal=goal)
        figures.panel = panel
        session.works.append(figures)
    return session


def test_growth_has_tables_by_number(grown):
    text = render(grown, ROWS, "performance.svg")
    assert "**2 of 3 goals are reached**" in text.split("### ")[0]  # without those of growth
    part = lines_of(text, "Growth")
    assert "**1 of 2 goals are reached**" in part
    assert "](scale.svg)" in part
    assert table(part, "each") == [
        ["each", "in", "1", "10", "1,000", "most to least", ""],
        ["each", "in", "1 MiB", "8 EiB", "most to least", ""],
    ]
    assert table(part, "created")[0] == ["created", "us", "30.0", "10.0", "12.0", "1.20", "reached"]
    assert table(part, "listed")[0][2:] == ["", "2.00", "8.00", "4.00", "**not reached**"]
    assert table(part, "an I/O")[0] == ["an I/O", "ns", "20.0", "20.0", "1.00", ""]
    assert table(text, "scale")[0][-1] == "**1 of 2**"


def test_the_picture_of_growth_has_a_line_for_each_work(grown):
    root = ET.fromstring(growth_chart(grown, ROWS))
    words = [element.text for element in root.iter(f"{SVG}text")]
    lines = [
        [tuple(map(float, point.split(","))) for point in element.get("points").split()]
        for element in root.iter(f"{SVG}polyline")
    ]
    created, listed, size = lines
    assert [len(line) for line in lines] == [3, 2, 2]
    assert created[0][0] < created[1][0] < created[2][0]
    assert created[0][1] < created[2][1] < created[1][1]  # y goes down
    assert listed[0][1] > listed[1][1]
    assert size[0][1] == size[1][1]
    for wanted in ("Stacks", "Sizes", "12.0 us  created", "8.00 us  listed", "20.0 ns  an I/O",
                   "1,000", "1 MiB", "8 EiB"):  # fmt: skip
        assert wanted in words, wanted


def test_what_has_no_figures_is_told(grown):
    for work in grown.works:
        for one in work.sides:
            one.samples = []
    root = ET.fromstring(growth_chart(grown, ROWS))
    assert [e.text for e in root.iter(f"{SVG}text")].count("no figures") == 2


def test_scales_span_a_factor_of_ten_at_least():
    scale = Scale([5.0, 5.0], 0, 100, 10)
    assert scale(5.0) == pytest.approx(50)
    assert Scale([1.0, 1000.0], 0, 90, 10)(10.0) == pytest.approx(30)
    assert Scale([3.0, 2000.0], 0, 1, 10).decades() == [10, 100, 1000]
    assert [many_text(n) for n in (1, 1000, 1 << 20, 1 << 63)] == ["1", "1,000", "1 MiB", "8 EiB"]


@pytest.mark.parametrize("places", [[100, 101, 102], [212, 212, 50], [60], []])
def test_no_label_is_upon_another(places):
    placed = sorted(spread_out(places))
    assert all(b - a >= 15 for a, b in itertools.pairwise(placed))
    assert not placed or placed[-1] <= 212


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
        assert "\nold\n" not in text
        assert "](page.svg)" in text
        assert text.count("| 5 | NBD, passthru") == 1


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


def test_the_chart_has_a_bar_for_each_figure(grown):
    root = ET.fromstring(chart(grown, ROWS))
    words = [element.text for element in root.iter(f"{SVG}text")]
    bars = [
        (float(element.get("width")), element.get("fill"))
        for element in root.iter(f"{SVG}rect")
        if element.get("x") == f"{LEFT:.1f}"
    ]
    missed, stretch = COLOURS["missed"], COLOURS["stretch"]
    assert [colour for _, colour in bars] == [missed, stretch, stretch]  # works 1, 5 and 9
    lengths = [length for length, _ in bars]
    assert lengths[0] == pytest.approx(position(7 / 8) - LEFT, abs=0.1)
    assert lengths[0] < position(1.0) - LEFT < lengths[1]
    assert lengths[2] == pytest.approx(position(1.5) - LEFT, abs=0.1)
    for wanted in ("a layer", "NBD, fio", "1  One more layer", "8  A vbdev of coroutines",
                   "not measured: not built: no coroutines",
                   "1.67 x qemu-nbd   (goal ≥ 1.5 (1.6) x)", *TICKS.values()):  # fmt: skip
        assert wanted in words, wanted
    assert any(word.startswith("2 of 3 goals, 2 with the stretch.") for word in words)
    assert not any("NBD over null" in word for word in words)  # it has no goal
    assert not any("created" in word for word in words)  # growth has its own


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
