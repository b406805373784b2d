"""Where things lie: floors in the root, and folders that say what belongs there."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "vbdev"
DOORS = {"__init__.py", "__main__.py", "meson.build", "py.typed", "pytest_plugin.py"}
FOLDERS = sorted(path.parent for path in PACKAGE.rglob("__init__.py"))


def test_the_root_holds_floors_and_doors():
    assert {path.name for path in PACKAGE.iterdir() if path.is_file()} == DOORS


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_folder_says_what_belongs_there(folder):
    assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
