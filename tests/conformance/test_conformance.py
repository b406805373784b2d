"""docs/conformance.md is complete, true, and up to date."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).with_name("table.py")


def load_table():
    spec = importlib.util.spec_from_file_location("conformance_table", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


table = load_table()


def test_every_rule_has_a_test_or_a_reason():
    _, rules, _ = table.load()
    missing = [rule.id for rule in rules.values() if rule.missing and not rule.pending]
    assert not missing, f"no test marked with: {', '.join(missing)}"


def test_rows_are_sound():
    sections, rules, _ = table.load()
    assert len(rules) > 500
    for rule in rules.values():
        assert rule.section in sections, rule.id
        assert rule.text
        if rule.not_applicable:
            assert not rule.tests, f"{rule.id} is not applicable, and yet held by {rule.tests}"
            assert not rule.pending
            assert not rule.better


def test_markers_name_rules():
    _, _, unknown = table.load()
    assert not unknown


def test_the_document_is_up_to_date():
    sections, rules, _ = table.load()
    if any(rule.pending for rule in rules.values()):
        pytest.skip("rules are pending: the document is made when all have tests")
    written = table.DOCUMENT.read_text()
    assert written == table.render(sections, rules), "run: python tests/conformance/table.py"


def test_markers_are_found_wherever_pytest_takes_them(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "TESTS", tmp_path)
    file = tmp_path / "test_it.py"
    file.write_text(
        "import pytest\n"
        "pytestmark = [pytest.mark.slow, pytest.mark.rule('X.1')]\n"
        "@pytest.mark.rule('X.2', 'X.3')\n"
        "def test_plain(): ...\n"
        "@pytest.mark.rule('X.4')\n"
        "class TestAll:\n"
        "    @pytest.mark.parametrize('a', [pytest.param(1, marks=pytest.mark.rule('X.5'))])\n"
        "    def test_in_it(self, a): ...\n"
    )
    assert table.tests_of(file) == {
        "X.1": ["test_it.py"],
        "X.2": ["test_it.py::test_plain"],
        "X.3": ["test_it.py::test_plain"],
        "X.4": ["test_it.py::TestAll"],
        "X.5": ["test_it.py::TestAll::test_in_it"],
    }


def test_a_row_without_a_test_is_missed(monkeypatch, tmp_path):
    rules = tmp_path / "rules.toml"
    rules.write_text(
        '[sections]\n"X" = "all"\n[rules]\n'
        '"X.1" = { text = "held", pending = true }\n'
        '"X.2" = { text = "lost" }\n'
        '"X.3" = { text = "none", not_applicable = "a | b" }\n'
    )
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "test_it.py").write_text("@pytest.mark.rule('X.1', 'X.9')\ndef test_it(): ...\n")
    monkeypatch.setattr(table, "TESTS", tests)
    monkeypatch.setattr(table, "RULES", rules)
    sections, loaded, unknown = table.load()
    assert [rule.missing for rule in loaded.values()] == [False, True, False]
    assert unknown == {"X.9": ["test_it.py::test_it"]}
    document = table.render(sections, loaded)
    assert "| X.1 | held | [test_it](../tests/test_it.py) |" in document
    assert "| X.3 | none | *not applicable: a \\| b* |" in document
    assert table.prune() == 1
    assert "pending" not in rules.read_text()


def test_the_command_prints_what_is_missing():
    ran = subprocess.run(
        [sys.executable, PATH, "--missing"], capture_output=True, text=True, check=True
    )
    _, rules, _ = table.load()
    assert len(ran.stdout.splitlines()) == sum(rule.missing for rule in rules.values())
