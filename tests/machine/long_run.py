"""Run the machine for long: `make test-long`, or `python tests/machine/long_run.py --help`.

Each example has a seed of its own, and 2,000 steps. A failure says which seed it was;
`--seed N --examples 1` is the same example again, `--shrink` looks for a shorter one.
"""

from __future__ import annotations

import argparse
import faulthandler
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.internal.conjecture import engine
from hypothesis.stateful import run_state_machine_as_test

from machine.stacks import Stacks


def run_one(number, steps, *, shrink):
    """Run one example; return its steps and I/Os, or raise what it finds."""

    class Seeded(Stacks):
        """A class of its own, because a seed is kept on the class."""

    phases = [Phase.generate, Phase.shrink] if shrink else [Phase.generate]
    run_state_machine_as_test(
        seed(number)(Seeded),
        settings=settings(
            max_examples=2,  # the first is always the emptiest that there is
            stateful_step_count=steps,
            deadline=None,
            database=None,
            print_blob=True,
            phases=phases,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
        _min_steps=steps,  # Hypothesis would rather have many short ones
    )
    return Seeded.ran


def main(arguments=None):
    """Run examples until the time is over; return how many failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="for how long (600)")
    parser.add_argument("--examples", type=int, default=1 << 30, help="how many, at most")
    parser.add_argument("--steps", type=int, default=2000, help="of each example (2000)")
    parser.add_argument("--seed", type=int, default=0, help="of the first; the next have the next")
    parser.add_argument("--shrink", action="store_true", help="look for the shortest failure")
    parser.add_argument("--keep-going", action="store_true", help="do not end with a failure")
    words = parser.parse_args(arguments)
    faulthandler.enable()
    # What Hypothesis draws for one example is limited, to much less than 2,000 steps take.
    engine.BUFFER_SIZE = 1 << 26
    until = time.monotonic() + words.seconds
    number, failed = words.seed, 0
    while time.monotonic() < until and number < words.seed + words.examples:
        began = time.monotonic()
        print(f"seed {number}", end="", flush=True)
        try:
            ran = run_one(number, words.steps, shrink=words.shrink)
        except Exception as error:
            failed += 1
            print(f": FAILED: {type(error).__name__}: {error}", flush=True)
            if not words.keep_going:
                print(
                    f"again: python {sys.argv[0]} --examples 1 --steps {words.steps}"
                    f" --seed {number} [--shrink]"
                )
                raise
        else:
            took = time.monotonic() - began
            print(f": {ran[0]} steps, {ran[1]} I/Os, {took:.1f} s", flush=True)
        number += 1
    print(f"{number - words.seed} examples of {words.steps} steps, {failed} failed")
    return failed


if __name__ == "__main__":
    sys.exit(bool(main()))
