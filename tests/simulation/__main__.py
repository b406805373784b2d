"""Run the simulation: `make test-long`, or `PYTHONPATH=tests python -m simulation --help`.

Each run has a seed of its own. A failure says which it was; `--seed N --runs 1` is the same again.
`--shrink` looks for the shortest that fails alike, `--write` writes it to a file, which `--replay`
takes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from simulation.canaries import CANARIES
from simulation.running import run, shrink, tell
from simulation.steps import EMPHASES, make_run


def main(arguments=None):
    """Run until the time is over; return how many failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="for how long (600)")
    parser.add_argument("--runs", type=int, default=1 << 30, help="how many, at most")
    parser.add_argument("--steps", type=int, default=400, help="of each run (400)")
    parser.add_argument("--seed", type=int, default=0, help="of the first; the next have the next")
    parser.add_argument("--emphasis", choices=[*EMPHASES, "each"], default="each")
    parser.add_argument("--shrink", action="store_true", help="look for the shortest failure")
    parser.add_argument("--keep-going", action="store_true", help="do not end with a failure")
    parser.add_argument("--replay", type=Path, help="a file with one run")
    parser.add_argument("--write", type=Path, help="where the failing run is written")
    parser.add_argument("--fault", choices=sorted(CANARIES), help="put this fault back first")
    words = parser.parse_args(arguments)
    prepare = CANARIES[words.fault].prepare if words.fault else None
    if words.replay is not None:
        return one(json.loads(words.replay.read_text()), words, prepare)
    until, seed, failed = time.monotonic() + words.seconds, words.seed, 0
    emphases = list(EMPHASES) if words.emphasis == "each" else [words.emphasis]
    while time.monotonic() < until and seed < words.seed + words.runs:
        for emphasis in emphases:
            failed += one(make_run(seed, emphasis, words.steps), words, prepare)
            if failed and not words.keep_going:
                return failed
        seed += 1
    print(f"{(seed - words.seed) * len(emphases)} runs of {words.steps} steps, {failed} failed")
    return failed


def one(wanted, words, prepare):
    """Do one run and tell of it; whether it has failed."""
    began = time.monotonic()
    result = run(wanted, prepare)
    took = time.monotonic() - began
    head = f"{wanted['emphasis']} {wanted['seed']}: "
    if "failure" not in result:
        figures = ", ".join(
            f"{name} {value:.7g}" for name, value in result.items() if name not in ("step", "trace")
        )
        print(f"{head}{figures}, {took:.1f} s", flush=True)
        return False
    print(f"{head}FAILED after {took:.1f} s: {tell(wanted, result)}", flush=True)
    if words.shrink:
        wanted = shrink(wanted, result, prepare)
        print(f"{len(wanted['steps'])} steps are enough:")
        for step in wanted["steps"]:
            print(f"  {json.dumps(step)}")
    if words.write is not None:
        words.write.write_text(json.dumps(wanted, indent=1))
    return True


if __name__ == "__main__":
    sys.exit(bool(main()))
