"""Rows 1 and 2: what layers cost over a null bdev, in this process."""

from __future__ import annotations

from collections.abc import Generator

from bench.figures import Goal, Sample
from bench.runner import Plan, Row, Side, Work
from bench.stacks import Stacks, run_seconds, stacks
from vbdev.modules.null import Null, NullParams

__all__ = ["ROWS"]

NUM_BLOCKS = 1 << 20
BLOCK_SIZE = 4096
LAYERS = (0, 1, 4, 8)
NS_PER_S = 1e9
RECORDED = "SPDK, recorded"

COST = {
    1: (Goal(75, 40, of="figure", at_most=True), [49.0, 71.0]),
    4: (Goal(22, 12, of="figure", at_most=True), []),
    32: (Goal(7, 4, of="figure", at_most=True), [53.0, 66.0]),
    128: (Goal(6, 3, of="figure", at_most=True), [53.0, 69.0]),
}
"""{queue depth: (goal, what SPDK's layers cost on a quiet machine)}, in ns."""
SPDK_MIOPS = 1.7
"""Of SPDK with eight passthrus over null at a queue depth of 32, on one core."""


def null_stacks(lent: Stacks) -> dict[int, str]:
    """Return {number of passthrus: the top's name}, each on a null bdev of its own."""
    tops = {}
    for layers in LAYERS:
        params = NullParams(name=f"null{layers}", num_blocks=NUM_BLOCKS, block_size=BLOCK_SIZE)
        tops[layers] = lent.pile(lent.create(Null, params), layers)
    return tops


def layer_cost(plan: Plan) -> Generator[Work]:
    """Measure stacks by turns; a layer's cost is what eight take more than none, by eight."""
    seconds = run_seconds(plan)
    with stacks() as lent:
        tops = null_stacks(lent)
        for depth, (goal, recorded) in COST.items():

            def cost(depth: int = depth) -> Sample:
                results = {
                    layers: lent.load(top, "randread", depth, seconds)
                    for layers, top in tops.items()
                }
                ns = {layers: NS_PER_S / result.iops for layers, result in results.items()}
                more = {f"ns per I/O, {layers} layers": value for layers, value in ns.items()}
                more["batch"] = results[8].batch_mean
                return Sample((ns[8] - ns[0]) / 8, more)

            yield Work(
                name=f"a passthru over null, queue depth {depth}",
                unit="ns",
                goal=goal,
                sides=[
                    Side(name="vbdev", role="ours", measure=cost, copies="none"),
                    Side(
                        name=RECORDED,
                        role="recorded",
                        recorded=recorded,
                        missing="" if recorded else "no figure",
                    ),
                ],
            )


def eight_layers(plan: Plan) -> Generator[Work]:
    """Measure eight passthrus at a queue depth of 32."""
    seconds = run_seconds(plan)
    with stacks() as lent:
        top = null_stacks(lent)[8]

        def rate() -> Sample:
            result = lent.load(top, "randread", 32, seconds)
            return Sample(result.iops / 1e6, {"batch": result.batch_mean})

        yield Work(
            name="8 passthrus over null, queue depth 32",
            unit="million IOPS",
            goal=Goal(14, 18, of="figure"),
            sides=[
                Side(name="vbdev", role="ours", measure=rate, copies="none"),
                Side(name=RECORDED, role="recorded", recorded=[SPDK_MIOPS]),
            ],
        )


ROWS = [
    Row("1", "One more layer", "SPDK on a quiet machine of this kind", layer_cost),
    Row("2", "Eight layers, one core", "SPDK on this kind of machine", eight_layers),
]
