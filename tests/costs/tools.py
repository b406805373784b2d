"""Tools: the child under each of them, and what they count for one I/O of each load."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TIMEOUT_S = 100
IOS = 1024
"""Of each load: a multiple of all queue depths, and of what the engine moves in one turn."""

Costs = dict[str, dict[str, Any]]
"""{load: {what is counted: for one I/O}}; of "batches", {load: I/Os in a batch, layer by layer}."""


class ToolError(Exception):
    """A tool, or the child under it, failed."""


class Tools:
    """The compiled probe, in a directory of the caller's, and what is run with it.

    loads: beginnings of names, separated by semicolons. layer: a class `module:name` to measure
    in place of passthru.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.toolchain: dict[str, str] = {}
        """Of the last child."""
        self.unavailable: dict[str, str] = {}
        """{load that is not to be had here: why}; there are no costs of it."""
        self._counting = self._compile("counting.so", "-DCOSTS_PRELOAD")
        self._marking = self._compile("marking.so")

    def _compile(self, name: str, *options: str) -> Path:
        # Without builtins, or the memcpy in it would become calls of itself.
        library = self.directory / name
        command = ["cc", "-O2", "-fPIC", "-shared", "-fno-builtin", *options]
        self._run([*command, "-o", str(library), str(HERE / "probe.c")], {})
        return library

    def instructions(self, loads: str, layer: str = "") -> Costs:
        """Count instructions in user space, with callgrind."""
        told = self._callgrind(f"nothing;{loads}", layer)
        totals = self._totals()
        costs: Costs = {}
        probe = 0.0
        for name, load in told.items():
            total = totals[f"{name}|2"] - totals[f"{name}|1"]
            if name == "nothing":
                probe = total / load["counts"]["times"]
            else:
                total -= probe * load["counts"]["times"]
                costs[name] = {"instructions": total / load["ios"]}
        return costs

    def _callgrind(self, loads: str, layer: str) -> dict[str, Any]:
        out = self.directory / "callgrind.out"
        tool = ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--collect-atstart=no"]
        return self._child([*tool, f"--callgrind-out-file={out}"], self._marking, loads, layer)

    def _parts(self) -> Iterator[tuple[str, Path]]:
        """Yield the name and the file of each part that callgrind has written."""
        for path in self.directory.glob("callgrind.out.*"):
            name = re.search(
                r"^desc: Trigger: Client Request: (.*)$", path.read_text(), re.MULTILINE
            )
            if name:
                yield name[1], path

    def parts_of(self, module: str, *words: str) -> dict[str, int]:
        """Run a module, whose first argument is the probe's library, under callgrind.

        Return the instructions of each part that it names.
        """
        out = self.directory / "callgrind.out"
        command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--collect-atstart=no"]
        command += [f"--callgrind-out-file={out}"]
        self._run(
            [*command, sys.executable, "-m", module, str(self._marking), *words], self._python()
        )
        return self._totals()

    def _totals(self) -> dict[str, int]:
        """Return the instructions of each part that callgrind has written, and remove it."""
        totals = {}
        for part, path in self._parts():
            totals[part] = int(re.findall(r"^totals: (\d+)$", path.read_text(), re.MULTILINE)[-1])
            path.unlink()
        return totals

    def annotated(self, load: str, layer: str = "") -> str:
        """Return where the instructions of a load are, function by function."""
        self._callgrind(load, layer)
        path = dict(self._parts())[f"{load}|2"]
        return self._run(["callgrind_annotate", "--auto=no", "--threshold=90", str(path)], {})

    def system_calls(self, loads: str, layer: str = "") -> Costs:
        """Count system calls of all threads, with strace.

        Without those that look what the scheduler took from a thread: an open, a read and a close
        each 20 ms at most (`core/engine/delivery.pyx`), which is a matter of time and not of I/Os.
        """
        out = self.directory / "strace.out"
        tool = ["strace", "-f", "-qq", "-e", "signal=none", "-o", str(out)]
        told = self._child(tool, self._marking, loads, layer)
        parts: dict[str, Counter[str]] = {}
        calls: Counter[str] = Counter()
        counting = False
        looks: Counter[str] = Counter()  # {thread: calls of such a look that are to come}
        for line in out.read_text(errors="replace").splitlines():
            found = re.match(r'(\d+) +(\w+)\((?:"(/costs/[^"]*)")?', line)
            if not found:  # the second half of a call, the end of a thread
                continue
            thread, call, mark = found.groups()
            if call == "openat" and "/proc/thread-self/schedstat" in line:
                looks[thread] = 2
            elif looks[thread] and call in ("read", "close"):
                looks[thread] -= 1
            elif mark is None:
                calls[call] += counting
            elif mark.startswith("/costs/part/"):
                parts[mark.removeprefix("/costs/part/")] = calls
                calls = Counter()
            else:
                counting = mark == "/costs/on"
        out.unlink()
        costs: Costs = {}
        for name, load in told.items():
            calls = parts[f"{name}|2"] - parts[f"{name}|1"]
            costs[name] = {"system calls": calls.total() / load["ios"], "calls": dict(calls)}
        return costs

    def copies(self, loads: str, layer: str = "") -> Costs:
        """Count bytes that memcpy and its kin move, allocations of all kinds, and batches."""
        environment = {"LD_PRELOAD": str(self._counting), "PYTHONMALLOC": "malloc"}
        told = self._child([], self._counting, loads, layer, environment)
        return {
            name: {
                "bytes copied": load["counts"]["bytes copied"] / load["ios"],
                "allocations": load["counts"]["allocations"] / load["ios"],
                "batches": load["batches"],
            }
            for name, load in told.items()
        }

    def _child(
        self,
        tool: list[str],
        library: Path,
        loads: str,
        layer: str,
        environment: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        """Run costs.child under a tool; return what it says of its loads."""
        command = [sys.executable, "-m", "costs.child", str(library), str(IOS), loads]
        words = [*tool, *command, *filter(None, [layer])]
        told = json.loads(self._run(words, self._python() | (environment or {})))
        self.toolchain = told["toolchain"]
        loaded: dict[str, Any] = told["loads"]
        for name in [name for name, load in loaded.items() if "unavailable" in load]:
            self.unavailable[name] = loaded.pop(name)["unavailable"]
        return loaded

    @staticmethod
    def _python() -> dict[str, str]:
        """Return the environment of a child that imports what this process does."""
        path = os.pathsep.join([str(HERE.parent), *filter(None, sys.path)])
        return {"PYTHONPATH": path, "PYTHONHASHSEED": "0"}

    @staticmethod
    def _run(command: list[str], environment: dict[str, str]) -> str:
        done = subprocess.run(
            command,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            raise ToolError(f"{' '.join(command)}: status {done.returncode}\n{done.stderr}")
        return done.stdout
