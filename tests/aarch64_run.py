"""What `tests/aarch64.sh` runs: a stack of layers, and reactors that hand I/O to one another."""

import platform

from vbdev.bench.load import BenchParams, run
from vbdev.daemon.app import App

assert platform.machine() == "aarch64"
app = App(num_reactors=2)
app.create("malloc", {"name": "Disk", "num_blocks": 2048, "block_size": 512})
app.create("passthru", {"name": "Top", "base_bdev_name": "Disk"})
app.start_reactors()
for workload, reactors in (("verify", [app.reactor]), ("randrw", list(app.reactors))):
    params = BenchParams(bdev="Top", workload=workload, num_ios=2000, io_size=4096)
    result = run(app.registry, params, reactors=reactors)
    assert result.ok, result
    assert result.ios == 2000
    print(f"{workload} on {len(reactors)} reactors: {result.ios} I/Os")
app.reactor.run_until_complete(app.registry.close())
app.reactors.stop_at_once()
app.close()
