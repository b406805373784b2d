"""What is said to whoever waits: how long it took, how long it will. On a clock of its own."""

import io

import pytest
from bench.progress import Progress, clock_text
from bench.rows import EXPECTED_S, ROWS, expected_s


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def now():
    return [100.0]


def progress(now, out, **expected_s):
    return Progress(expected_s, out, lambda: now[0])


def test_what_is_left(now):
    one = progress(now, io.StringIO(), a=40, b=60, c=100)
    assert one.left_s() == 200
    one.begin("a")
    now[0] += 10
    assert one.left_s() == 190
    now[0] += 70  # twice as long as it was thought: and so may the others be
    assert one.left_s() == 160
    one.begin("b")
    assert one.left_s() == 320
    now[0] += 120
    one.begin("c")
    now[0] += 50
    assert one.left_s() == 150
    now[0] += 500
    assert one.left_s() == 0


def test_a_short_row_says_nothing_of_the_machine(now):
    one = progress(now, io.StringIO(), a=5, b=100)
    one.begin("a")
    now[0] += 50
    one.begin("b")
    assert one.left_s() == 100


def test_lines_have_the_time_and_the_estimate(now):
    out = io.StringIO()
    one = progress(now, out, a=130)
    one.begin("a")
    now[0] += 65
    one.now("nobody looks")
    one.say("a work: 5 ns")
    now[0] += 100
    one.say("the last")
    assert out.getvalue() == "[1:05, 1:05 left] a work: 5 ns\n[2:45, nearly done] the last\n"


def test_on_a_terminal_the_last_line_says_what_runs(now):
    out = Terminal()
    one = progress(now, out, a=60)
    one.now("run 1")
    one.now("run 2")
    one.say("done")
    shown = out.getvalue().split("\r")
    first = "[0:00, 1:00 left] run 1"
    assert shown == [first, " " * len(first), "[0:00, 1:00 left] run 2", " " * len(first),
                     "[0:00, 1:00 left] done\n"]  # fmt: skip


def test_times():
    assert [clock_text(s) for s in (0, 59.6, 61, 1320)] == ["0:00", "1:00", "1:01", "22:00"]


def test_all_rows_have_an_expectation_and_it_keeps_to_what_is_promised():
    assert list(EXPECTED_S) == list(ROWS)
    assert sum(expected_s(row, quick=False) for row in ROWS) <= 22 * 60
    assert 120 <= sum(expected_s(row, quick=True) for row in ROWS) <= 240
