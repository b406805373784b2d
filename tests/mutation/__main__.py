"""`make mutants`: build once, then try one mutant after another; again goes on where it ended."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from mutation.trial import ROOT, Plan, try_with_tests


def main() -> int:
    """Run, and say what survives."""
    parser = argparse.ArgumentParser(prog="python -m mutation", description=__doc__)
    parser.add_argument("--number", type=int, default=100, help="mutants to try; 0: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=int, help="try at most so many now")
    parser.add_argument("--directory", type=Path, default=ROOT / "build" / "mutants")
    parser.add_argument("files", nargs="*", help="below the checkout; by default all")
    words = parser.parse_args()
    plan = Plan(words.directory, number=words.number, seed=words.seed, files=words.files)
    plan.choose()
    plan.build()
    try:
        plan.carry_out(partial(try_with_tests, words.directory), limit=words.limit)
    except KeyboardInterrupt:
        print("ended; the same call goes on")
    print(plan.report())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
