"""The command: measure, keep the figures, write the report."""

from __future__ import annotations

import argparse
import datetime as dt
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from bench.chart import chart
from bench.figures import Session, load, save
from bench.machine import machine, versions
from bench.report import check, write_into
from bench.rows import ROWS
from bench.runner import Plan, measure_row, tell

ROOT = Path(__file__).parents[1]
IN_MEMORY = Path("/dev/shm")
FULL = (5, 1.5)
QUICK = (3, 0.5)
"""(runs of each side, seconds of each run)."""


def parse_args(words: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser("python -m bench", description="Measure vbdev and its peers.")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs: 3 minutes")
    parser.add_argument("--rows", metavar="1,5,6b", help=f"only these of {', '.join(ROWS)}")
    parser.add_argument("--runs", type=int, help="of each side, at least 1")
    parser.add_argument("--seconds", type=float, help="of each run")
    parser.add_argument("--report", action="store_true", help="write the report again, no runs")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "bench.json")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "performance.md")
    arguments = parser.parse_args(words)
    arguments.rows = list(ROWS) if arguments.rows is None else arguments.rows.split(",")
    for number in arguments.rows:
        if number not in ROWS:
            parser.error(f"there is no row {number}; rows: {', '.join(ROWS)}")
    runs, seconds = QUICK if arguments.quick else FULL
    arguments.runs = runs if arguments.runs is None else arguments.runs
    arguments.seconds = seconds if arguments.seconds is None else arguments.seconds
    if arguments.runs < 1 or arguments.seconds <= 0:
        parser.error("--runs is at least 1, --seconds more than 0")
    return arguments


def measure(arguments: argparse.Namespace) -> Session:
    """Measure the rows that are asked for; the file has what was done even if it is cut short."""
    session = Session(
        when=dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M"),
        quick=arguments.quick,
        runs=arguments.runs,
        seconds=arguments.seconds,
        machine=machine(),
        versions=versions(),
        load=[round(value, 2) for value in os.getloadavg()],
    )
    start = time.monotonic()
    place = IN_MEMORY if IN_MEMORY.is_dir() else None
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="vbdev-bench-", dir=place) as directory:
        plan = Plan(
            runs=arguments.runs,
            seconds=arguments.seconds,
            quick=arguments.quick,
            directory=Path(directory),
            disk_directory=arguments.json.parent,
        )
        for number in arguments.rows:
            for figures in measure_row(ROWS[number], plan):
                session.works.append(figures)
                session.elapsed_s = round(time.monotonic() - start, 1)
                save(session, arguments.json)
    return session


def main() -> int:
    """Measure and write. Rows that failed are told in the report; the status is 0 all the same."""
    arguments = parse_args()
    # So that what is in use is cleared away, as it is after an interrupt.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    check(arguments.page)  # before half an hour of measuring
    session = load(arguments.json) if arguments.report else measure(arguments)
    write_into(arguments.page, session, ROWS)
    picture = arguments.page.with_suffix(".svg")
    picture.write_text(chart(session, ROWS))
    tell(f"wrote {arguments.page} and {picture.name}; all runs are in {arguments.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
