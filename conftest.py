"""Every code block of the README and of docs/*.md runs as a test (sybil).

`python` blocks run in one namespace for each page, in which `directory` is the page's own; one
whose first line is `# NAME.py` is also saved as that file; a `test_*.py` is saved only. `console`
blocks run in one bash for each page: lines behind `$ ` are commands, the others are what they
print, where `...` stands for anything.
Blocks in other languages are for reading. A page that needs a client which is not installed is
skipped, in CI it fails.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser

CLIENTS = ("nbdinfo", "qemu-io", "nbdcopy", "qemu-img", "spdk-rpc")
# Commands of Python packages lie in the bin of their site-packages' environment.
COMMANDS = [Path(sys.executable).parent]
COMMANDS += [Path(p).parents[2] / "bin" for p in sys.path if p.endswith("site-packages")]
PATH = os.pathsep.join([*map(str, COMMANDS), os.environ["PATH"]])
END = "---end-of-command---"


class Page:
    """The directory and the shell of one page."""

    def __init__(self) -> None:
        self.directory = tempfile.mkdtemp(prefix="vbdev-docs-")
        binaries = Path(self.directory) / "bin"
        binaries.mkdir()
        command = binaries / "vbdev"
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vbdev "$@"\n')
        command.chmod(0o755)
        self.shell = subprocess.Popen(
            ["bash"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.directory,
            text=True,
            env=os.environ
            | {
                "PATH": f"{binaries}:{PATH}",
                "XDG_RUNTIME_DIR": self.directory,
                "PYTEST_PLUGINS": "vbdev.pytest_plugin",  # where vbdev is not installed
            },
            start_new_session=True,
        )

    def run(self, command: str) -> str:
        """Run one command and return what it printed."""
        assert self.shell.stdin is not None
        assert self.shell.stdout is not None
        self.shell.stdin.write(f"{command}\necho {END}\n")
        self.shell.stdin.flush()
        lines = []
        while (line := self.shell.stdout.readline()).rstrip("\n") != END:
            if not line:
                raise AssertionError(f"the shell ended in: {command}\n{''.join(lines)}")
            lines.append(line)
        return "".join(lines)

    def close(self) -> None:
        """End the shell and all that it started, and remove the directory."""
        import signal

        os.killpg(self.shell.pid, signal.SIGKILL)
        self.shell.communicate()
        shutil.rmtree(self.directory, ignore_errors=True)


def setup(namespace: dict[str, Any]) -> None:
    """Give a page its own directory and shell."""
    missing = [name for name in CLIENTS if shutil.which(name, path=PATH) is None]
    if missing and not os.environ.get("CI"):
        pytest.skip(f"not installed: {', '.join(missing)}")
    page = namespace["__page__"] = Page()
    namespace["directory"] = page.directory


def teardown(namespace: dict[str, Any]) -> None:
    """Put everything away."""
    if page := namespace.pop("__page__", None):
        page.close()


def evaluate_python(example: Example) -> None:
    """Run a block, and save it where it names a file."""
    page, source = example.namespace["__page__"], str(example.parsed)
    if found := re.match(r"# (\w+\.py)\n", source):
        (Path(page.directory) / found[1]).write_text(source)
        if found[1].startswith("test_"):
            return  # for a console block to run
    blank = "\n" * (example.line + example.parsed.line_offset)  # tracebacks show the page's line
    code = compile(blank + source, example.path, "exec")
    exec(code, example.namespace)


def evaluate_console(example: Example) -> None:
    """Run a block's commands and compare what they print."""
    page = example.namespace["__page__"]
    command, expected = "", []
    for line in [*str(example.parsed).splitlines(), "$ "]:
        if not line.startswith("$ "):
            expected.append(line)
            continue
        if command:
            check(command, "\n".join(expected), page.run(command).rstrip("\n"))
        command, expected = line[2:], []


def check(command: str, expected: str, printed: str) -> None:
    """Compare with `...` for anything."""
    pattern = re.escape(expected).replace(re.escape("..."), ".*")
    if command.endswith("&"):  # a shell may tell the job's number
        return
    if re.fullmatch(pattern, printed, re.DOTALL) is None:
        raise AssertionError(f"$ {command}\nexpected:\n{expected}\nprinted:\n{printed}")


pytest_collect_file = Sybil(
    parsers=[
        CodeBlockParser(language="python", evaluator=evaluate_python),
        CodeBlockParser(language="console", evaluator=evaluate_console),
    ],
    patterns=["README.md", "docs/*.md"],
    setup=setup,
    teardown=teardown,
).pytest()
