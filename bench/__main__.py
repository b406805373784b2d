"""The command: measure, keep the figures, write the report."""

from __future__ import annotations

import argparse
import datetime as dt
import os
import signal
import sys
import tempfile
from pathlib import Path

from bench.chart import chart
from bench.figures import Session, load, save
from bench.growth_chart import growth_chart
from bench.machine import machine, versions
from bench.progress import Progress
from bench.report import check, growth_picture, write_into
from bench.rows import ROWS, expected_s
from bench.runner import Plan, measure_row

ROOT = Path(__file__).parents[1]
IN_MEMORY = Path("/dev/shm")
FULL = (5, 0.8)
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
    progress = Progress({row: expected_s(row, quick=arguments.quick) for row in arguments.rows})
    place = IN_MEMORY if IN_MEMORY.is_dir() else None
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="vbdev-bench-", dir=place) as directory:
        plan = Plan(
            runs=arguments.runs,
            seconds=arguments.seconds,
            quick=arguments.quick,
            directory=Path(directory),
            disk_directory=arguments.json.parent,
            progress=progress,
        )
        for number in arguments.rows:
            for figures in measure_row(ROWS[number], plan):
                session.works.append(figures)
                session.elapsed_s = round(progress.elapsed_s, 1)
                save(session, arguments.json)
    return session


def main() -> int:
    """Measure and write. Rows that failed are told in the report; the status is 0 all the same.

    An interrupt clears away what is in use, and leaves the page as it is.
    """
    arguments = parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupted)
    check(arguments.page)  # before twenty minutes of measuring
    session = load(arguments.json) if arguments.report else measure(arguments)
    write_into(arguments.page, session, ROWS)
    pictures = {arguments.page.with_suffix(".svg"): chart(session, ROWS)}
    if any(ROWS[work.row].grows and work.sides for work in session.works):
        pictures[growth_picture(arguments.page)] = growth_chart(session, ROWS)
    for file, picture in pictures.items():
        file.write_text(picture)
    names = " and ".join(file.name for file in pictures)
    print(
        f"wrote {arguments.page}, {names}; all runs are in {arguments.json}",
        file=sys.stderr,
    )
    return 0


def interrupted(number: int, _frame: object) -> None:
    """End, with what runs; a second signal is for who can not wait, and leaves nothing either."""
    signal.signal(number, signal.SIG_DFL)
    print(
        f"\n{signal.Signals(number).name}: stopping; `python -m bench --report` writes what is"
        " measured by now",
        file=sys.stderr,
        flush=True,
    )
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
