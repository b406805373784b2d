"""Which test holds which rule: `rules.toml` and the tests' markers make docs/conformance.md.

Tests are found in their source, nothing is imported: this runs without a build.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
import tomllib
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
RULES = Path(__file__).with_name("rules.toml")
DOCUMENT = TESTS.parent / "docs" / "conformance.md"

HEAD = """\
# Conformance

What vbdev is held against, and the tests that hold it. `python tests/conformance/table.py` makes
this page from `tests/conformance/rules.toml` and the tests' `rule` markers; a row without a test
fails the build.

A rows are the behaviours of SPDK's block device layer that a module or a client can observe,
D rows the faults of the passthru that this project began with, Dd rows those of its neighbours,
E rows what the names of SPDK's own tests promise. *Instead* marks where vbdev differs on purpose,
*not applicable* what has no meaning here.
"""


@dataclass
class Rule:
    """One row."""

    id: str
    text: str
    better: str = ""
    not_applicable: str = ""
    pending: bool = False
    tests: list[str] = field(default_factory=list)

    @property
    def section(self) -> str:
        """Everything before the last dot."""
        return self.id.rpartition(".")[0]

    @property
    def missing(self) -> bool:
        """Whether it has neither a test nor a reason to have none."""
        return not self.tests and not self.not_applicable


def marked(node: ast.AST) -> list[str]:
    """Return the ids in the `pytest.mark.rule(...)` calls below a node."""
    found = []
    for call in ast.walk(node):
        if (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and call.func.attr == "rule"
            and isinstance(call.func.value, ast.Attribute)
            and call.func.value.attr == "mark"
        ):
            found += [ast.literal_eval(word) for word in call.args]
    return found


def tests_of(path: Path) -> dict[str, list[str]]:
    """Return {rule id: [file::name]} of one file of tests."""
    tests = defaultdict(list)
    file = path.relative_to(TESTS).as_posix()

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for statement in body:
            if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{prefix}::{statement.name}"
                for decorator in statement.decorator_list:
                    for rule in marked(decorator):
                        tests[rule].append(name)
                if isinstance(statement, ast.ClassDef):
                    visit(statement.body, name)
            elif isinstance(statement, ast.Assign) and any(
                isinstance(target, ast.Name) and target.id == "pytestmark"
                for target in statement.targets
            ):
                for rule in marked(statement.value):
                    tests[rule].append(prefix)

    visit(ast.parse(path.read_bytes(), file).body, file)
    return tests


def load() -> tuple[dict[str, str], dict[str, Rule], dict[str, list[str]]]:
    """Return the sections' titles, the rules with their tests, and marked ids that are no rule."""
    with RULES.open("rb") as file:
        table = tomllib.load(file)
    rules = {key: Rule(key, **row) for key, row in table["rules"].items()}
    unknown = defaultdict(list)
    for path in sorted(TESTS.rglob("*.py")):
        for key, tests in tests_of(path).items():
            if key in rules:
                rules[key].tests += tests
            else:
                unknown[key] += tests
    return table["sections"], rules, unknown


def render(sections: dict[str, str], rules: dict[str, Rule]) -> str:
    """Return the document."""
    held = sum(bool(rule.tests) for rule in rules.values())
    reasons = sum(bool(rule.not_applicable) for rule in rules.values())
    missing = sum(rule.missing for rule in rules.values())
    count = f"{len(rules)} rules: {held} held by tests, {reasons} not applicable"
    lines = [HEAD, count + (f", {missing} to come." if missing else ".")]
    for section, title in sections.items():
        lines += [
            "",
            f"## {section}: {title}",
            "",
            "| id | rule | held by |",
            "| --- | --- | --- |",
        ]
        for rule in rules.values():
            if rule.section == section:
                text = rule.text + (f" *Instead: {rule.better}*" if rule.better else "")
                lines.append(f"| {rule.id} | {cell(text)} | {holders(rule)} |")
    return "\n".join(lines) + "\n"


def holders(rule: Rule) -> str:
    """Return the last cell: links to the tests, or why there are none."""
    if rule.not_applicable:
        return f"*not applicable: {cell(rule.not_applicable)}*"
    if not rule.tests:
        return "*to come*"
    links = []
    for test in rule.tests:
        file, _, name = test.partition("::")
        links.append(f"[{name or file}](../tests/{file})")
    return ", ".join(links)


def cell(text: str) -> str:
    """Return text that a table's cell can hold."""
    return re.sub(r"([|<>])", r"\\\1", text)


def prune() -> int:
    """Drop `pending` from the rows that have a test; return how many."""
    _, rules, _ = load()
    dropped = 0
    lines = []
    for line in RULES.read_text().splitlines(keepends=True):
        rule = rules.get(line[1:].partition('"')[0])
        if rule is not None and rule.pending and not rule.missing:
            lines.append(line.replace(", pending = true }", " }"))
            dropped += 1
        else:
            lines.append(line)
    RULES.write_text("".join(lines))
    return dropped


def main() -> int:
    """Write the document, or do what a flag asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--missing", action="store_true", help="print the rows without a test")
    parser.add_argument("--prune", action="store_true", help="drop `pending` where there is a test")
    words = parser.parse_args()
    if words.prune:
        print(f"{prune()} rows are pending no more")
    sections, rules, unknown = load()
    if words.missing:
        for rule in rules.values():
            if rule.missing:
                print(f"{rule.id:40} {rule.text}")
        return 0
    for key, tests in unknown.items():
        print(f"{key} is no rule, but marked on {', '.join(tests)}", file=sys.stderr)
    DOCUMENT.write_text(render(sections, rules))
    return bool(unknown)


if __name__ == "__main__":
    sys.exit(main())
