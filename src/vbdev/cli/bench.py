"""`vbdev bench`: bdevperf's job on the words of `vbdev serve`."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys

from vbdev.bdev import BdevError
from vbdev.bench.load import Bench
from vbdev.bench.results import BenchParams, BenchResult, Progress
from vbdev.cli.rpc import seconds
from vbdev.cli.talk import complain
from vbdev.cli.words import add_stack_arguments, build_stack, load_modules, reactor_count
from vbdev.core.load.loadgen import WORKLOADS
from vbdev.daemon.app import App, AppError, StoppedError
from vbdev.daemon.signals import STOP_SIGNALS, Signals
from vbdev.reactor.task import Future, wake
from vbdev.reports.logs import ConsoleHandler, LineFormatter
from vbdev.vocab.sizes import parse_size
from vbdev.vocab.text import printable

CLOSE_S = 30
"""How long the bdevs may take to end."""
HURRY_S = 1.0
"""How long after a second signal the process may take to end by itself."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `vbdev bench`."""
    add_stack_arguments(parser)
    parser.add_argument(
        "-w", "--workload", choices=tuple(WORKLOADS), default="randread", help="default: randread"
    )
    parser.add_argument(
        "-q", "--queue-depth", type=int, default=32, metavar="N", help="I/Os in flight; default 32"
    )
    parser.add_argument(
        "-o", "--io-size", type=size, default=4096, metavar="SIZE", help="default 4096"
    )
    parser.add_argument("-t", "--time", type=float, default=0, metavar="SECONDS", help="default 5")
    parser.add_argument(
        "-n", "--num-ios", type=int, default=0, metavar="N", help="stop after this many I/Os"
    )
    parser.add_argument(
        "--warmup", type=float, default=0, metavar="SECONDS", help="run before measuring"
    )
    parser.add_argument(
        "-M", "--rwmixread", type=int, default=50, metavar="PERCENT", help="reads of rw, randrw"
    )
    parser.add_argument("--seed", type=int, default=1, help="of offsets and data; default 1")
    parser.add_argument(
        "--reactors",
        type=reactor_count,
        default=1,
        metavar="N",
        help="threads that submit, each at the queue depth; default: %(default)s",
    )
    parser.add_argument(
        "--drain",
        type=seconds,
        default=5.0,
        metavar="SECONDS",
        help="how long I/Os may take to come back at the end; default: %(default)g",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def size(text: str) -> int:
    """Parse a size for argparse."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(arguments: argparse.Namespace) -> int:
    """Run and print; 1 when the stack can not be built, or an I/O failed or did not come back."""
    handler = ConsoleHandler(sys.stderr)
    handler.setFormatter(LineFormatter("%(levelname)s %(message)s"))
    logging.basicConfig(level="WARNING", handlers=[handler])
    status = 1
    try:
        app = App(num_reactors=arguments.reactors)
    except AppError as error:
        complain("vbdev bench", error)
        return status
    stopper = Stopper(app)
    try:
        status = measure(app, arguments, stopper)
    except (AppError, BdevError, ValueError) as error:
        complain("vbdev bench", error)
    except StoppedError:
        complain("vbdev bench", "stopped before it began")
    close(app)
    stopper.signals.release()
    return status


class Stopper:
    """What signals mean to a measurement: the first ends it in order, the next one at once."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.bench: Bench | None = None
        self.signals = Signals(app.reactor, self._stop, self._hurry, hurry_by=STOP_SIGNALS)
        self.signals.catch()

    def _stop(self, number: int) -> None:
        if self.bench is None:
            self._app.request_stop(number)
        else:
            self.bench.stop()

    def _hurry(self, _number: int) -> None:
        if self.bench is not None:
            self.bench.hurry()
        # In case that a module has the thread: what is said then has gone to stderr already.
        self.signals.exit_within(HURRY_S, 1)


def close(app: App) -> None:
    """Bring the bdevs to their end, in CLOSE_S at most, and the threads to theirs."""

    async def ended() -> bool:
        either: Future[None] = Future()
        task = app.reactor.spawn(app.registry.close(), "close")
        task.add_done_callback(lambda _task: wake(either))
        timer = app.reactor.call_later(CLOSE_S * 1e6, lambda: wake(either))
        await either
        timer.cancel()
        if task.done:
            task.result()
        return task.done

    if not app.reactor.run_until_complete(ended()):
        left = ", ".join(bdev.name for bdev in app.registry)
        complain("vbdev bench", f"bdevs are still there after {CLOSE_S} s: {left}")
    app.reactors.stop_at_once()


def measure(app: App, arguments: argparse.Namespace, stopper: Stopper) -> int:
    """Build the stack, run the load on its top, print the result."""
    if arguments.base is None:
        complain("vbdev bench", "which BASE? for example null:1TiB")
        return 2
    load_modules(app, arguments)
    top = build_stack(app, arguments)
    assert top is not None
    params = BenchParams(
        bdev=top,
        workload=arguments.workload,
        io_size=arguments.io_size,
        queue_depth=arguments.queue_depth,
        seconds=arguments.time or (0 if arguments.num_ios else 5),
        num_ios=arguments.num_ios,
        warmup_seconds=arguments.warmup,
        drain_seconds=arguments.drain,
        rwmixread=arguments.rwmixread,
        seed=arguments.seed,
    )
    app.start_reactors()
    stopper.bench = bench = Bench(app.registry, params, show_progress, list(app.reactors))
    if app.is_stopping:
        raise StoppedError
    result = app.reactor.run_until_complete(bench.run())
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    print(json.dumps(result.to_dict()) if arguments.json else text(result, arguments.reactors))
    if result.held:
        for held in result.held:
            complain("vbdev bench", held)
        # Whoever has the I/Os has their buffers: nothing may be given back before the process.
        sys.stdout.flush()
        os._exit(1)
    return 0 if result.ok else 1


def show_progress(progress: Progress) -> None:
    """Say on stderr how it goes: one line that is rewritten on a terminal."""
    line = f"{progress.seconds:.0f} s  {progress.iops:,.0f} IOPS"
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
    else:
        print(line, file=sys.stderr, flush=True)


def text(result: BenchResult, reactors: int) -> str:
    """Return the result for a person."""
    each = f" on each of {reactors} reactors" if reactors > 1 else ""
    params, latency = result.params, result.latency_us
    layers = " > ".join(f"{layer.bdev} (batch {layer.batch_mean:.1f})" for layer in result.layers)
    lines = [
        (
            f"{params.workload}, {params.io_size} B, queue depth {params.queue_depth}{each},"
            f" {result.seconds:.2f} s on {layers}"
        ),
        f"  IOPS      {result.iops:,.0f}",
        f"  MiB/s     {result.mib_per_s:,.1f}",
        (
            f"  latency   mean {latency.mean:.2f} us, p50 {latency.p50:.2f}, p99 {latency.p99:.2f},"
            f" p99.9 {latency.p99_9:.2f}"
        ),
    ]
    if result.ended not in ("time", "count"):
        lines.append(f"  ended     early: {result.ended}")
    if result.errors:
        lines.append(f"  errors    {result.errors}: {result.errors_by_status}")
    if result.mismatch is not None:
        lines.append(f"  {result.mismatch}")
    return "\n".join(map(printable, lines))
