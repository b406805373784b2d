"""What the pages list is what there is: floors, RPC methods, links to places in this tree."""

import itertools
import re
import tomllib
from pathlib import Path

import pytest

from vbdev.daemon.app import App

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def section(page, heading):
    """Return the text below a heading of a page, up to the next one."""
    text = (ROOT / "docs" / page).read_text().split(f"# {heading}\n", 1)[1]
    return re.split(r"^#+ ", text, maxsplit=1, flags=re.MULTILINE)[0]


def anchors(page):
    """Return what a link to a place in a page may name, made as GitHub makes it."""
    lines = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", lines, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def expand(word):
    """Return the names that `a_{b,c}` stands for."""
    parts = [part.split(",") for part in re.split(r"[{}]", word)]
    return {"".join(choice) for choice in itertools.product(*parts)}


def test_floors():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = project["tool"]["importlinter"]["contracts"]
    layers = [layer.replace("vbdev.", "") for layer in contracts[0]["layers"]]
    shown = section("design.md", "Floors").split("```text\n")[1].split("```")[0].splitlines()
    assert shown == layers


def test_rpc_methods():
    app = App()
    methods = set(app.dispatcher.names())
    app.close()
    lines = section("control-plane.md", "Methods").splitlines()
    cells = [line.split("|")[1] for line in lines if "|" in line]
    words = [word for cell in cells for word in re.findall(r"`([a-z][a-z_{},]+)`", cell)]
    named = {name for word in words for name in expand(word)}
    assert named
    assert named <= methods  # docs/rpc.md has them all


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        path, _, place = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not place or place in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named(page):
    """A path to a file of ours, from the root of the tree or of the package; NAME is a reader's."""
    for path in re.findall(r"`((?:\w+/)+\w+\.(?:pyx|pxd|pyi?|toml|sh))`", page.read_text()):
        is_there = any((start / path).exists() for start in (ROOT, ROOT / "src/vbdev"))
        assert is_there or "NAME" in path, path


def test_changelog_fragments():
    """towncrier passes over a file that it can not place, and shows a name that has no plus."""
    names = {path.name for path in (ROOT / "changelog.d").iterdir()} - {"README.md"}
    wrong = [
        name for name in names if not re.fullmatch(r"\+[\w-]+\.(feature|bugfix|removal)\.md", name)
    ]
    assert names
    assert not wrong
