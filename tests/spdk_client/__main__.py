"""Ask everything, print the table, write docs/rpc-coverage.md; status 1 where something failed."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from spdk_client.coverage import DOCUMENT, render
from spdk_client.run import Run


def main() -> int:
    """Run it."""
    with tempfile.TemporaryDirectory(prefix="vbdev-spdk-") as directory:
        report = Run(Path(directory) / "run")()
    print(report.text(), end="")
    for check in report.failures:
        print(check, file=sys.stderr)
    if report.failures:
        return 1
    DOCUMENT.write_text(render(report))
    print(f"{len(report.checks)} questions, all answered as they have to be: see {DOCUMENT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
