"""Print the lowest versions that pyproject.toml promises to work, as requirements for pip."""

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def lowest(requirement: str) -> str:
    """Return a requirement for exactly the lowest version that `requirement` allows."""
    return re.sub(r">=\s*([\w.]+)[^;]*", r"==\1", requirement)


def requirements() -> list[str]:
    """Return those of the build, of the package and of its tests."""
    project = tomllib.loads(PROJECT.read_text())
    return [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *project["dependency-groups"]["test"],
    ]


if __name__ == "__main__":
    print("\n".join(map(lowest, requirements())))
