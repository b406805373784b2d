"""A daemon with a malloc disk for the control plane's rows; `busy`: with I/O all the time.

python daemon.py SOCKET [busy]
"""

from __future__ import annotations

import sys

from vbdev.bench.load import Bench, BenchParams
from vbdev.daemon.app import App

QUEUE_DEPTH = 32
FOREVER_S = 86_400


def main() -> int:
    """Serve until SIGTERM."""
    path, *busy = sys.argv[1:]
    app = App()
    app.create("malloc", {"name": "Disk", "num_blocks": 16384, "block_size": 4096})
    app.create("passthru", {"name": "Busy", "base_bdev_name": "Disk"})
    app.create("malloc", {"name": "Base", "num_blocks": 16384, "block_size": 4096})
    app.rpc.listen(path)
    app.start_reactors()
    if busy:
        params = BenchParams(bdev="Busy", queue_depth=QUEUE_DEPTH, seconds=FOREVER_S)
        app.reactor.spawn(Bench(app.registry, params).run(), "load")
    return app.run()


if __name__ == "__main__":
    sys.exit(main())
