"""What docs/design.md lists is what there is: the floors, the RPC methods."""

import itertools
import re
import tomllib
from pathlib import Path

from vbdev.app import App

ROOT = Path(__file__).parents[1]
DESIGN = (ROOT / "docs" / "design.md").read_text()


def section(heading):
    """Return the text below a heading, up to the next one."""
    return re.split(r"^#+ ", DESIGN.split(f"# {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[
        0
    ]


def expand(word):
    """Return the names that `a_{b,c}` stands for."""
    parts = [part.split(",") for part in re.split(r"[{}]", word)]
    return {"".join(choice) for choice in itertools.product(*parts)}


def test_floors():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = project["tool"]["importlinter"]["contracts"]
    layers = [layer.replace("vbdev.", "") for layer in contracts[0]["layers"]]
    shown = section("Floors").split("```text\n")[1].split("```")[0].splitlines()
    assert shown == layers


def test_rpc_methods():
    app = App()
    methods = set(app.dispatcher.names())
    app.close()
    cells = [line.split("|")[1] for line in section("Control plane").splitlines() if "|" in line]
    words = [word for cell in cells for word in re.findall(r"`([a-z][a-z_{},]+)`", cell)]
    named = {name for word in words for name in expand(word)}
    assert named
    assert named <= methods  # docs/rpc.md has them all
