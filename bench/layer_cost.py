"""What one more layer costs: ns per I/O and layer, over a null bdev.

Runs `null` below 0, 1, 4 and 8 passthrus with random reads of 4 KiB at several queue depths.
Stacks take turns within a round, so that a change of the machine's speed meets all of them;
each figure is the median of the rounds. The cost of a layer is the difference to no layer,
divided by the number of layers.

    python bench/layer_cost.py [--rounds N] [--seconds S] [--queue-depths 1,4,32,128] [--json]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys

from vbdev.bench import BenchParams, run
from vbdev.core.engine import Engine
from vbdev.modules.null import Null, NullParams
from vbdev.modules.passthru import Passthru
from vbdev.reactor import Reactor
from vbdev.registry import Registry

NUM_BLOCKS = 1 << 20
BLOCK_SIZE = 4096
NS_PER_S = 1e9


def numbers(text: str) -> list[int]:
    """Parse a list like `1,4,32`."""
    return [int(part) for part in text.split(",")]


def parse_args() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description="Measure the cost of a layer.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.7, help="per run")
    parser.add_argument("--queue-depths", type=numbers, default=[1, 4, 32, 128])
    parser.add_argument("--layers", type=numbers, default=[0, 1, 4, 8], help="must contain 0")
    parser.add_argument("--workload", default="randread")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser.parse_args()


async def build(registry: Registry, layers: int) -> str:
    """Stack `layers` passthrus on a null bdev; return the top one's name."""
    name = f"null_{layers}"
    await registry.create(Null, NullParams(name=name, num_blocks=NUM_BLOCKS, block_size=BLOCK_SIZE))
    for layer in range(layers):
        top = f"passthru_{layers}_{layer}"
        await registry.create(Passthru, Passthru.Params(name=top, base_bdev_name=name))
        name = top
    return name


def measure(args: argparse.Namespace) -> dict[int, dict[int, float]]:
    """Return ns per I/O: {queue depth: {layers: median}}."""
    reactor = Reactor()
    engine = reactor.engine = Engine()
    registry = Registry(reactor)
    tops = {n: reactor.run_until_complete(build(registry, n)) for n in args.layers}
    out: dict[int, dict[int, float]] = {}
    for depth in args.queue_depths:
        samples: dict[int, list[float]] = {n: [] for n in args.layers}
        for turn in range(args.rounds):
            for n in args.layers:
                params = BenchParams(
                    bdev=tops[n],
                    workload=args.workload,
                    queue_depth=depth,
                    seconds=args.seconds,
                    warmup_seconds=0.05,
                    seed=turn,
                )
                samples[n].append(NS_PER_S / run(registry, params).iops)
        out[depth] = {n: statistics.median(values) for n, values in samples.items()}
    reactor.run_until_complete(registry.close())
    reactor.close()
    if engine.ios_in_use or engine.buffers.live_buffers:
        raise RuntimeError("I/Os or buffers are left over")
    return out


def report(args: argparse.Namespace, result: dict[int, dict[int, float]]) -> None:
    """Print a table: ns per I/O of the whole stack, and in parentheses per layer."""
    print(f"{args.workload} 4 KiB on null, median of {args.rounds} x {args.seconds} s,"
          f" {platform.machine()}, Python {platform.python_version()}")  # fmt: skip
    print("ns per I/O (ns per I/O and layer)")
    print("layers " + "".join(f"{f'QD {depth}':>18}" for depth in result))
    for n in args.layers:
        row = f"{n:>6} "
        for stacks in result.values():
            per_layer = f" ({(stacks[n] - stacks[0]) / n:6.2f})" if n else " " * 9
            row += f"{stacks[n]:9.1f}{per_layer}"
        print(row)


def main() -> int:
    """Measure and print."""
    args = parse_args()
    result = measure(args)
    if args.json:
        rows = [
            {
                "queue_depth": depth,
                "layers": n,
                "ns_per_io": round(ns, 3),
                "ns_per_io_and_layer": round((ns - stacks[0]) / n, 3) if n else None,
            }
            for depth, stacks in result.items()
            for n, ns in stacks.items()
        ]
        json.dump(rows, sys.stdout, indent=2)
        print()
    else:
        report(args, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
