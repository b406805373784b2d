"""Programs that tests drive: found or skipped, run with a deadline, and shown when they fail.

One that is missing skips its test on a laptop and fails it in CI, where it is to be installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# System administrators' programs (mke2fs) are not on everybody's path.
os.environ["PATH"] = f"{os.environ['PATH']}{os.pathsep}/usr/sbin{os.pathsep}/sbin"


def find(name: str) -> str | None:
    """Return a program's path; scripts of the Python package `spdk` lie beside its package."""
    if found := shutil.which(name):
        return found
    for directory in (Path(sys.executable).parent, *_script_directories()):
        if (directory / name).is_file():
            return str(directory / name)
    return None


def _script_directories() -> list[Path]:
    # site-packages of an environment is <prefix>/lib/pythonX.Y/site-packages.
    return [Path(p).parents[2] / "bin" for p in sys.path if p.endswith("site-packages")]


def missing(why: str) -> None:
    """Skip; in CI, fail."""
    if os.environ.get("CI"):
        pytest.fail(f"{why}, and in CI it has to be")
    pytest.skip(why)


def requires(*names: str) -> None:
    """Skip the test where one of these programs is not installed; in CI, fail it."""
    for name in names:
        if find(name) is None:
            missing(f"{name} is not installed")


def run(*words: object, ok: int | None = 0, timeout_s: float = 60, **options: object) -> str:
    """Run a program and return what it printed, both streams; its status has to be `ok`."""
    name = str(words[0])
    requires(name)
    command = [find(name), *map(str, words[1:])]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout_s,
        text=True,
        check=False,
        **options,
    )
    shown = f"{' '.join(map(str, words))}: status {done.returncode}\n{done.stdout}"
    assert ok is None or done.returncode == ok, shown
    return done.stdout
