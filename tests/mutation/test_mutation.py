"""The mutation run itself: what it changes, what it leaves, and that a tree obeys its variable."""

import os
import subprocess
import sys

import pytest

from mutation import trial as trials
from mutation.schemata import VARIABLE, candidates, choose, insertion, write_tree
from mutation.sites import changed, find_sites
from mutation.trial import Plan

SOURCE = '''"""A module."""

from __future__ import annotations

LIMIT = 3


def few(count, names=()):
    """Say whether these are few."""
    if count < LIMIT and not names:
        return True
    total = count + 1  # and itself
    for name in names:
        total -= 1
    print(
        "many",
        total,
    )
    return False
'''


@pytest.mark.parametrize(
    ("code", "mutants"),
    [
        ("a < b", ["a <= b"]),
        ("a == 1", ["a != 1", "a == 2"]),
        ("<int> a + -b", ["<int> a - -b"]),
        ("(<char *> a)[1] > &b", ["(<char *> a)[2] > &b", "(<char *> a)[1] >= &b"]),
        ("not a and b", [" a and b", "not a or b"]),
        ("a not in b", []),
        ("a is not b", []),
        ("f(x=1, *y)", ["f(x=2, *y)"]),
        ("a = b = True", ["a = b = False"]),
        ("a[i] |= 1 << b", ["a[i] &= 1 << b", "a[i] |= 2 << b", "a[i] |= 1 >> b"]),
        ('"a < b"', []),
        ("a <b> c", ["a <=b> c", "a <b>= c"]),
    ],
)
def test_what_is_changed(code, mutants):
    assert list(changed(code)) == mutants


def test_where():
    found = [(site.first, site.kind, site.text, site.mutants) for site in find_sites(SOURCE)]
    assert found == [
        (
            10,
            "condition",
            "count < LIMIT and not names",
            (
                "not (count < LIMIT and not names)",
                "count <= LIMIT and not names",
                "count < LIMIT or not names",
                "count < LIMIT and  names",
            ),
        ),
        (11, "statement", "return True", ("return False",)),
        (12, "statement", "total = count + 1", ("total = count - 1", "total = count + 2", "pass")),
        (14, "statement", "total -= 1", ("total += 1", "total -= 2", "pass")),
        (15, "statement", 'print(\n        "many",\n        total,\n    )', ("pass",)),
        (19, "statement", "return False", ("return True",)),
    ]


def test_cython():
    source = (
        "cdef class A:\n"
        "    cdef int n\n"
        "    cdef inline bint f(self, int a) noexcept nogil:\n"
        "        cdef int b = a + 1\n"
        "        cdef int c = 1, d = 2\n"
        "        while b > <int>self.n:\n"
        "            self.n += 1\n"
        "        return b == 0\n"
    )
    found = [(site.first, site.kind, site.mutants) for site in find_sites(source)]
    assert found == [
        (4, "value", ("a - 1", "a + 2")),
        (6, "condition", ("not (b > <int>self.n)", "b >= <int>self.n")),
        (7, "statement", ("self.n -= 1", "self.n += 2", "pass")),
        (8, "statement", ("return b != 0", "return b == 1")),
    ]


def test_a_tree_obeys_its_variable(tmp_path):
    root, target = tmp_path / "root", tmp_path / "target"
    (root / "src").mkdir(parents=True)
    target.mkdir()
    for name in ("meson.build", "pyproject.toml", "README.md", "LICENSE"):
        (root / name).write_text("")
    (root / "src" / "few.py").write_text(SOURCE)
    mutants = write_tree(root, target, candidates(root, ["src/few.py"]))
    assert [mutant.number for mutant in mutants] == list(range(1, 14))
    call = "from few import few; print(few(2), few(3), few(2, 'ab'))"

    def run(number):
        done = subprocess.run(
            [sys.executable, "-c", call],
            env={**os.environ, "PYTHONPATH": str(target / "src"), VARIABLE: str(number)},
            capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
        return done.stdout + done.stderr.strip().rpartition("\n")[2]

    usual = run(0)
    assert usual == "many 4\nmany 1\nTrue False False\n"
    told = {mutant.number: run(mutant.number) for mutant in mutants}
    assert all(answer != usual for answer in told.values()), told
    (less,) = [one for one in mutants if one.after == "if count <= LIMIT and not names"]
    assert told[less.number] == "many 1\nTrue True False\n"
    assert less.diff() == (
        "src/few.py:10\n  - if count < LIMIT and not names\n  + if count <= LIMIT and not names"
    )


def test_a_sample_is_the_same_for_the_same_seed():
    numbers = list(range(100))
    assert choose(numbers, 10, 1) == choose(numbers, 10, 1)
    assert choose(numbers, 10, 1) != choose(numbers, 10, 2)
    assert choose(numbers, 0, 1) == numbers
    assert len(set(choose(numbers, 10, 1))) == 10


def test_where_a_modules_own_code_begins():
    assert SOURCE[insertion(SOURCE) :].strip().startswith("LIMIT")
    assert insertion("import os\n") == 0


def test_each_file_has_tests():
    for file in Plan.files():
        assert trials.tests_for(file), file
        assert all((Plan.root / test).exists() for test in trials.tests_for(file)), file


def test_what_was_tried_is_not_tried_again(tmp_path):
    plan = Plan(tmp_path, number=3, seed=5, files=["src/vbdev/bdev/control.py"])
    plan.choose()
    tried = []

    def trial(mutant):
        tried.append(mutant.number)
        return "killed" if mutant.number != 2 else "survived"

    plan.carry_out(trial, limit=2)
    again = Plan(tmp_path, number=3, seed=5, files=["src/vbdev/bdev/control.py"])
    again.choose()
    again.carry_out(trial)
    assert tried == [1, 2, 3]
    assert "src/vbdev/bdev/control.py: 2 of 3 killed" in again.report()
    assert again.mutants[1].diff() in again.report()
