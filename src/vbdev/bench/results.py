"""What a benchmark is asked for, and what it has measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from vbdev.core.load.loadgen import WORKLOADS

__all__ = [
    "BenchParams",
    "BenchResult",
    "Ended",
    "Held",
    "Latency",
    "Layer",
    "Mismatch",
    "Progress",
]

Ended = Literal["time", "count", "stopped", "failures", "removed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchParams:
    """What to run. Give `seconds` or `num_ios`, or both: then whichever comes first."""

    bdev: str
    """Name, alias or UUID."""
    workload: str = "randread"
    """A key of `vbdev.core.load.loadgen.WORKLOADS`."""
    io_size: int = 4096
    """Bytes of each I/O; a multiple of the block size."""
    queue_depth: int = 32
    """I/Os in flight."""
    seconds: float = 0.0
    """How long to submit; 0 for no limit."""
    num_ios: int = 0
    """How many I/Os to submit, failures included; 0 for no limit."""
    warmup_seconds: float = 0.0
    """Run this long before, and measure nothing of it."""
    rwmixread: int = 50
    """Percentage of READs of `rw` and `randrw`."""
    seed: int = 1
    """Of offsets and data: the same seed submits the same I/Os."""
    drain_seconds: float = 5.0
    """How long I/Os may take to come back once no more are submitted."""
    max_failures: int = 0
    """Stop when more I/Os have failed; `verify` stops at the first."""

    def __post_init__(self) -> None:
        """Check what can be checked without the bdev."""
        if self.workload not in WORKLOADS:
            raise ValueError(f"workload is {self.workload!r}; one of {', '.join(WORKLOADS)}")
        for field in ("seconds", "num_ios", "warmup_seconds", "drain_seconds"):
            if getattr(self, field) < 0:
                raise ValueError(f"{field} is {getattr(self, field)}; at least 0")
        if not self.seconds and not self.num_ios:
            raise ValueError("seconds and num_ios are both 0; one must say when to stop")


@dataclass(frozen=True, slots=True)
class Latency:
    """Microseconds from the submission of an I/O to the turn of the loop that delivered it."""

    mean: float
    p50: float
    p99: float
    p99_9: float


@dataclass(frozen=True, slots=True)
class Layer:
    """One bdev of the stack, and how many I/Os its `submit` received at once, on average."""

    bdev: str
    kind: str
    batch_mean: float


@dataclass(frozen=True, slots=True)
class Held:
    """I/Os that a bdev's module has not completed, and for how long it has had the oldest."""

    bdev: str
    kind: str
    ios: int
    oldest_seconds: float

    def __str__(self) -> str:
        return (
            f"bdev {self.bdev} ({self.kind}) holds {self.ios} I/Os,"
            f" the oldest for {self.oldest_seconds:.1f} s"
        )


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The first difference that `verify` met: 16 bytes at `offset` bytes into the bdev."""

    offset: int
    expected: bytes
    found: bytes

    def __str__(self) -> str:
        return (
            f"data differs at byte {self.offset}:"
            f" expected {self.expected.hex()}, found {self.found.hex()}"
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """How a run goes, once a second. Seconds and I/Os count from the end of the warm-up."""

    seconds: float
    ios: int
    iops: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """What a run measured, warm-up left out."""

    iops: float
    """I/Os that succeeded, per second."""
    mib_per_s: float
    """MiB that those I/Os covered, per second; 0 for FLUSH."""
    latency_us: Latency
    batch_mean: float
    """I/Os that the bdev's `submit` received at once, on average."""
    ios: int
    """I/Os that succeeded."""
    errors: int
    """I/Os that failed, and of `verify` those that read other data than was written."""
    errors_by_status: dict[str, int]
    """Failures by the name of their `Status`."""
    seconds: float
    """From the first submission to the last completion."""
    ended: Ended
    """What ended the run."""
    mismatch: Mismatch | None
    layers: tuple[Layer, ...]
    """From the top down, as far as each layer has one base."""
    params: BenchParams
    held: tuple[Held, ...] = ()
    """What has not come back. Its buffers are in use: the process can only end."""

    @property
    def ok(self) -> bool:
        """Whether every I/O came back, succeeded and brought the right data."""
        return self.errors == 0 and not self.held

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object of `vbdev bench --json`; figures to three decimals."""
        mismatch = self.mismatch
        return {
            "iops": round(self.iops, 3),
            "mib_per_s": round(self.mib_per_s, 3),
            "latency_us": {key: round(us, 3) for key, us in asdict(self.latency_us).items()},
            "batch_mean": round(self.batch_mean, 3),
            "ios": self.ios,
            "errors": self.errors,
            "errors_by_status": dict(self.errors_by_status),
            "seconds": round(self.seconds, 6),
            "ended": self.ended,
            "mismatch": mismatch
            and {
                "offset": mismatch.offset,
                "expected": mismatch.expected.hex(),
                "found": mismatch.found.hex(),
            },
            "layers": [
                {"bdev": layer.bdev, "kind": layer.kind, "batch_mean": round(layer.batch_mean, 3)}
                for layer in self.layers
            ],
            "held": [asdict(held) for held in self.held],
            "params": asdict(self.params),
        }
