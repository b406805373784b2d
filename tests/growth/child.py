"""The process that is watched: `python -m growth.child LIBRARY GROUP [CANARY]`.

A group is done three times: for few, so that first times are over; for few; and for ten times as
many. Each step of it is a part that the tool names `step|n`. CANARY: of `growth.canaries`.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator

from costs.probe import Probe
from growth import canaries, steps

TIMES = 10


def main() -> int:
    """Do it."""
    library, name = sys.argv[1:3]
    if len(sys.argv) > 3:
        getattr(canaries, sys.argv[3])()
    gc.disable()  # a collection comes when it comes
    probe = Probe(library)
    group, few = steps.GROUPS[name]
    for n, note in ((few, False), (few, True), (few * TIMES, True)):

        @contextlib.contextmanager
        def step(name: str, n: int = n, note: bool = note) -> Iterator[None]:
            with probe:
                yield
            probe.part(f"{name}|{n if note else 'before'}")

        group(step, n)
    return 0


if __name__ == "__main__":
    sys.exit(main())
