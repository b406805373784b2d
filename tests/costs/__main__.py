"""`python -m costs`: measure, print the table, and with `--write` record it as the baseline."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from costs.baseline import FILE, Baseline
from costs.figures import MEASURES, Figures
from costs.loads import LOADS
from costs.tools import IOS, Tools


def main() -> int:
    """Run it; the status is 1 where something is not as recorded."""
    parser = argparse.ArgumentParser(prog="costs", description=__doc__)
    parser.add_argument("--write", action="store_true", help="record what was measured")
    parser.add_argument("--layer", default="", help="module:Class to measure in place of passthru")
    parser.add_argument(
        "--explain", default="", metavar="LOAD", help="print where a load's instructions are"
    )
    options = parser.parse_args()
    figures: Figures = {}
    with tempfile.TemporaryDirectory(prefix="vbdev-costs-") as directory:
        tools = Tools(Path(directory))
        if options.explain:
            print(explain(tools, options.explain, options.layer))
            return 0
        for measure in MEASURES.values():
            figures |= measure(tools, layer=options.layer)
    baseline = Baseline.load()
    recorded = baseline.recorded(tools.toolchain)
    print(f"{'measured':>12} {'recorded':>12} {'change':>8}")
    for name, value in figures.items():
        before = recorded.get(name)
        change = f"{value / before - 1:+.1%}" if before else ""
        print(f"{value:12.3f} {before if before is not None else '-':>12} {change:>8}  {name}")
    for load, why in tools.unavailable.items():
        print(f"not measured here: {load}: {why}")
    if options.write:
        baseline.record(figures, tools.toolchain, unmeasured=tools.unavailable)
        FILE.write_text(baseline.text())
        return 0
    if not baseline.knows(tools.toolchain):
        print(f"recorded with other tools than these: {tools.toolchain}")
    complaints = baseline.complaints(figures, tools.toolchain)
    print("\n".join(complaints), file=sys.stderr)
    return bool(complaints)


def explain(tools: Tools, load: str, layer: str) -> str:
    """Return where the instructions of a load are, and its system calls by name."""
    if load not in LOADS:
        raise SystemExit(f"no load {load!r}; loads: {'; '.join(LOADS)}")
    found = tools.system_calls(load, layer)
    if load not in found:
        raise SystemExit(f"{load} is not to be had here: {tools.unavailable[load]}")
    costs = found[load]
    calls = ", ".join(f"{call} {n / IOS:g}" for call, n in costs["calls"].items()) or "none"
    return f"{tools.annotated(load, layer)}\nsystem calls for each I/O: {calls}"


if __name__ == "__main__":
    sys.exit(main())
