"""The process that is watched: `python -m costs.child LIBRARY IOS LOADS [LAYER]`.

Each load is run twice, with at least IOS I/Os and with twice as many: the difference is the cost
of that many I/Os and of nothing else. Prints a JSON object, what it knows of each load itself, or
why there is none here. LAYER: a class `module:name` in place of passthru.
"""

from __future__ import annotations

import gc
import importlib
import json
import platform
import re
import sys
import sysconfig
from pathlib import Path

from costs import loads
from costs.probe import Probe
from vbdev.core.engine import channel

WARM_UP_ROUNDS = 100
"""The interpreter specialises what has run some times."""


def main() -> int:
    """Run the loads."""
    library, ios, beginnings = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    more = {}
    if len(sys.argv) > 4:
        module, _, name = sys.argv[4].partition(":")
        more["layer"] = getattr(importlib.import_module(module), name)
    gc.disable()
    probe = Probe(library)
    told = {}
    for name in loads.chosen(beginnings):
        try:
            load = loads.make(name, probe, **more)
        except loads.UnavailableError as error:
            told[name] = {"unavailable": str(error)}
            continue
        rounds = -(-ios // load.queue_depth)
        load.run(WARM_UP_ROUNDS)
        probe.part(f"{name}|0")
        before = load.batches()
        load.run(rounds)
        once = probe.part(f"{name}|1")
        after = load.batches()
        load.run(2 * rounds)
        twice = probe.part(f"{name}|2")
        told[name] = {
            "ios": rounds * load.queue_depth,
            "counts": {what: twice[what] - count for what, count in once.items()},
            "batches": [
                (ios_after - ios_before) / (n_after - n_before)
                for (n_after, ios_after), (n_before, ios_before) in zip(after, before, strict=True)
            ],
        }
        load.close()
    json.dump({"toolchain": toolchain(), "loads": told}, sys.stdout)
    return 0


def toolchain() -> dict[str, str]:
    """Return what else decides how many instructions the same source becomes."""
    core = Path(channel.__file__).read_bytes()
    compiler = re.search(rb"GCC: \([^)]*\) \d+|clang version \d+", core)
    (cython,) = {name for name in sys.modules if re.fullmatch(r"_cython_\d\w+", name)}
    profiled = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    return {
        "machine": platform.machine(),
        "python": f"{platform.python_version()}, {platform.python_compiler()}"
        + (", profiled" if profiled else ""),
        "cython": ".".join(cython.split("_")[2:4]),
        "core": (compiler[0].decode() if compiler else "unknown compiler")
        + (", for debugging" if b".debug_info" in core else ""),
    }


if __name__ == "__main__":
    sys.exit(main())
