"""One mutant at a time against the tests that are about its file; what came of it, kept."""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from mutation.schemata import VARIABLE, Mutant, candidates, choose, write_tree

ROOT = Path(__file__).parents[2]
MUTATED = ("src/vbdev/core/**/*.pyx", "src/vbdev/registry/*.py", "src/vbdev/bdev/**/*.py")
BY_FILE = (
    ("*/core/nbd/client/*", "tests/core/test_nbd_client*.py tests/modules/test_nbd.py"),
    ("*/core/nbd/server/memory*", "tests/targets/test_nbd_memory.py tests/targets"),
    ("*/core/nbd/*", "tests/core/test_nbd_wire.py tests/targets"),
    ("*/core/memory/dif*", "tests/core/test_dif.py tests/modules/test_*metadata*.py tests/core"),
    ("*/engine/protect*", "tests/core/test_protect.py tests/modules/test_*metadata*.py tests/core"),
    (
        "*/core/coroutine/*",
        "tests/core/test_coroutines*.py tests/behaviour tests/core tests/modules",
    ),
    ("*/core/ram/*", "tests/core/test_ram.py tests/modules/test_memory_disks.py"),
    ("*/core/file/[jq]*", "tests/modules/test_file_*.py tests/modules/test_uring.py"),
    ("*/core/file/*", "tests/modules/test_uring.py tests/modules/test_file_*.py"),
    ("*/core/engine/edges*", "tests/targets/test_nbd_any_bytes.py tests/targets"),
    ("*/core/load/*", "tests/core/test_load.py tests/threads/test_bench.py"),
    ("*/core/counts/histogram*", "tests/core/test_histogram.py tests/rpc/test_stat_methods.py"),
    ("*/core/counts/rates*", "tests/core/test_rate_limits.py tests/core/test_qos.py"),
    ("*/core/engine/children*", "tests/behaviour tests/core tests/modules tests/registry"),
    ("*/core/engine/admission*", "tests/behaviour tests/core tests/modules tests/registry"),
    ("*/core/loop/*", "tests/core/test_loop_polls.py tests/reactor tests/threads"),
    ("*/core/*", "tests/core tests/behaviour tests/modules tests/registry"),
    (
        "*/registry/*",
        ("tests/registry tests/modules/test_split.py tests/config"
        " tests/rpc/test_life_cycle_methods.py tests/behaviour"),
    ),
    ("*/bdev/control*", "tests/behaviour tests/threads/test_control.py tests/core"),
    (
        "*/bdev/figures/*",
        ("tests/core/test_qos.py tests/core/test_rate_limits.py tests/rpc/test_stat_methods.py"
        " tests/rpc/test_bdev_methods.py tests/threads tests/registry"),
    ),
    (
        "*/bdev/*",
        ("tests/registry tests/behaviour tests/threads/test_c*.py tests/rpc/test_stat_methods.py"
        " tests/modules/test_*contract.py tests/modules/test_split.py tests/modules/test_gpt.py"
        " tests/modules/test_*metadata*.py tests/rpc/test_bdev_methods.py"
        " tests/rpc/test_life_cycle_methods.py tests/core"),
    ),
)  # fmt: skip
"""Which tests are about a file, those that find most first; the first pattern that fits."""
LEFT_OUT = "left_out"
"""File with the tests that fail without any mutant."""
SECONDS = 400
"""How long the tests may take with one mutant; one that hangs them is killed."""


def tests_for(file: str) -> list[str]:
    """Return the tests that are about a source file, in the order in which they are run."""
    patterns = next((tests for pattern, tests in BY_FILE if fnmatch.fnmatch(file, pattern)), "")
    found: list[str] = []
    for pattern in patterns.split():
        found += sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern))
    return found


class Plan:
    """Which mutants there are, and what came of each; kept in a directory, so that it goes on.

    number: how many are tried, chosen with `seed`; 0: all. files: by default those of `MUTATED`.
    """

    root = ROOT

    def __init__(
        self, directory: Path, *, number: int, seed: int, files: Iterable[str] = ()
    ) -> None:
        self.directory = directory
        self._file = directory / "tried.json"
        self._key = {"number": number, "seed": seed, "files": sorted(files or self.files())}
        self.mutants: list[Mutant] = []
        self.outcomes: dict[str, str] = {}
        """{`Mutant.diff()`: "killed", "survived"}"""
        self.found = 0
        self.left_out = 0
        """How many do not compile."""

    @staticmethod
    def files() -> list[str]:
        """Return all source files that are mutated."""
        return sorted(
            str(path.relative_to(ROOT)) for pattern in MUTATED for path in ROOT.glob(pattern)
        )

    def choose(self) -> None:
        """Choose the mutants and write the tree that has them; keep what is known of them."""
        shutil.rmtree(self.directory / "source", ignore_errors=True)
        (self.directory / "source").mkdir(parents=True)
        found = candidates(ROOT, self._key["files"])
        self.found = len(found)
        chosen = choose(found, self._key["number"], self._key["seed"])
        self.mutants = write_tree(ROOT, self.directory / "source", chosen)
        self._chosen = chosen
        if self._file.exists():
            kept = json.loads(self._file.read_text())
            known = {mutant.diff() for mutant in self.mutants}
            self.outcomes = {diff: said for diff, said in kept.items() if diff in known}

    def leave_out_what_does_not_compile(self) -> None:
        """Write the tree again without the mutants that Cython refuses, until it refuses none."""
        source = self.directory / "source"
        left_out: set[str] = set()
        for file in sorted({mutant.file for mutant in self.mutants if mutant.file.endswith("pyx")}):
            while wrong := refused(source, file):
                numbers = {
                    int(number)
                    for line in wrong
                    for number in written_at((source / file).read_text(), line)
                }
                bad = {mutant.diff() for mutant in self.mutants if mutant.number in numbers}
                if not bad:
                    raise RuntimeError(f"{file} does not compile, and no mutant is to blame")
                left_out |= bad
                self._chosen = [
                    one for one, mutant in zip(self._chosen, self.mutants, strict=True)
                    if mutant.diff() not in bad
                ]  # fmt: skip
                self.mutants = write_tree(ROOT, source, self._chosen)
        self.left_out = len(left_out)

    def build(self) -> None:
        """Build the tree, unless the same is built."""
        self.leave_out_what_does_not_compile()
        site, built = self.directory / "site", self.directory / "built.sha256"
        digest = hashlib.sha256()
        for path in sorted((self.directory / "source").rglob("*")):
            if path.is_file() and path.name != "refused.c":
                digest.update(str(path).encode() + path.read_bytes())
        if built.exists() and built.read_text() == digest.hexdigest():
            return
        built.unlink(missing_ok=True)
        shutil.rmtree(site, ignore_errors=True)
        command = [
            sys.executable, "-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps",
            "--target", str(site), f"-Cbuild-dir={self.directory / 'build'}",
            str(self.directory / "source"),
        ]  # fmt: skip
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        subprocess.run(command, check=True, env={**os.environ, "PATH": path})
        built.write_text(digest.hexdigest())

    def carry_out(self, trial: Callable[[Mutant], str], *, limit: int | None = None) -> None:
        """Try those of which nothing is known; at most so many."""
        for mutant in self.mutants:
            if mutant.diff() in self.outcomes:
                continue
            if limit is not None and not limit:
                return
            self.outcomes[mutant.diff()] = trial(mutant)
            self._file.write_text(json.dumps(self.outcomes, indent=1))
            limit = None if limit is None else limit - 1

    def report(self) -> str:
        """Return how many of how many were killed, file by file, and what survived."""
        lines, of, killed = [], Counter(), Counter()
        for mutant in self.mutants:
            said = self.outcomes.get(mutant.diff())
            if said is None:
                continue
            of[mutant.file] += 1
            killed[mutant.file] += said == "killed"
            if said != "killed":
                lines.append(f"{said}: {mutant.diff()}")
        counts = [f"{file}: {killed[file]} of {number} killed" for file, number in of.items()]
        counts.append(
            f"together: {killed.total()} of {of.total()} killed"
            f" ({len(self.mutants)} chosen of {self.found}; {self.left_out} more do not compile)"
        )
        return "\n".join([*lines, *counts])


def refused(source: Path, file: str) -> set[int]:
    """Return the lines of a file in a tree that Cython refuses."""
    done = subprocess.run(
        [
            sys.executable, "-m", "cython", "-3", "--directive", "nonecheck=False",
            "-I", str(source / "src"), str(source / file), "-o", str(source / "refused.c"),
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == 0:
        return set()
    place = re.compile(rf"{re.escape(Path(file).name)}:(\d+):\d+: ")
    return {int(line) for line in place.findall(done.stderr)} or {0}


def written_at(text: str, line: int) -> list[str]:
    """Return the numbers of the mutants that are written at a line: there, or just above."""
    lines = text.splitlines()
    for above in range(line - 1, max(line - 8, -1), -1):
        if found := re.findall(r"_mutant == (\d+)", lines[above]):
            return found
    return []


def try_with_tests(directory: Path, mutant: Mutant) -> str:
    """Run the tests that are about a mutant's file with it.

    `killed` where one fails that passes without it, or they crash or hang; `survived` where all
    pass. A test that fails without it as well, in this build or on this machine, is left out.
    """
    started = time.monotonic()
    tests = tests_for(mutant.file)
    status, failed = run_tests(directory, mutant.number, tests)
    while failed and run_tests(directory, 0, [failed])[0]:
        with (directory / LEFT_OUT).open("a") as left_out:
            left_out.write(f"{failed}\n")
        status, failed = run_tests(directory, mutant.number, tests)
    outcome = "killed" if status else "survived"
    took_s = time.monotonic() - started
    print(f"{outcome} after {took_s:.0f} s by {failed or status}: {mutant.diff()}", flush=True)
    return outcome


def run_tests(directory: Path, number: int, tests: list[str]) -> tuple[int, str]:
    """Run tests with a mutant, or with 0; return pytest's status (-1: it hangs) and who failed."""
    environment = {
        **os.environ,
        VARIABLE: str(number),
        "PYTHONPATH": os.pathsep.join([str(directory / "site"), str(ROOT / "tests")]),
    }
    command = [
        sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header",
        "-m", "not client", *tests, *left_out(directory),
    ]  # fmt: skip
    path = directory / "last.log"
    with path.open("w") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            status = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            status = -1
        finally:
            end(process)
    said = re.findall(r"^(?:FAILED|ERROR) (\S+::.*?)(?: - .*)?$", path.read_text(), re.MULTILINE)
    return status, said[-1] if said else ""


def left_out(directory: Path) -> list[str]:
    """Return the words that leave out the tests that fail without a mutant."""
    path = directory / LEFT_OUT
    tests = path.read_text().splitlines() if path.exists() else []
    return [word for test in tests for word in ("--deselect", test)]


def end(process: subprocess.Popen[bytes]) -> None:
    """End the tests with all that they have started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
