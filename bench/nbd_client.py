"""NBD clients side by side: the `nbd` bdev, driven by `vbdev bench`, and fio's nbd engine.

    python bench/nbd_client.py [--runs 5] [--seconds 3] [--qd 1,16,64] [--connections 1]

4 KiB random I/O over a unix socket, on nbdkit's memory plugin and on this project's own target
(malloc). Every round runs each client once against the same server; figures are medians of IOPS
and the p99 in us, ratios are of the medians. fio's engine has one connection for each job, so that
it gets as many jobs as `vbdev bench` gets connections, and the queue depth divided by them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import nbd_peers


def vbdev(socket: Path, rw: str, depth: int, connections: int, seconds: int) -> tuple[float, float]:
    """Return (IOPS, p99 in us) of one run."""
    words = ["-w", rw, "-q", str(depth), "-t", str(seconds), "--warmup", "0.5", "--json"]
    # What is written is of no value, and nobody waits for it to be stable.
    base = f"nbd+unix:///?socket={socket},connections={connections}"
    out = subprocess.run(
        [sys.executable, "-m", "vbdev", "bench", base, *words],
        check=True,
        capture_output=True,
        text=True,
        timeout=seconds + 60,
    )
    found = json.loads(out.stdout)
    return found["iops"], found["latency_us"]["p99"]


def main() -> None:
    """Run the rounds and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--qd", default="1,16,64")
    parser.add_argument("--connections", type=int, default=1)
    arguments = parser.parse_args()
    jobs = arguments.connections
    with tempfile.TemporaryDirectory() as directory:
        socket = Path(directory) / "nbd.sock"
        print("| server | work | vbdev bench | fio | ratio |\n| --- | --- | --- | --- | --- |")
        for server, command in nbd_peers.servers(Path(directory)).items():
            for rw in ("randread", "randwrite"):
                for depth in map(int, arguments.qd.split(",")):
                    process = nbd_peers.start(command, socket)
                    try:
                        each = max(1, depth // jobs)
                        runs = [
                            (
                                vbdev(socket, rw, each * jobs, jobs, arguments.seconds),
                                nbd_peers.fio(socket, rw, each, jobs, arguments.seconds),
                            )
                            for _ in range(arguments.runs)
                        ]
                    finally:
                        process.terminate()
                        process.wait()
                    ours, fio = (
                        tuple(statistics.median(run[i][k] for run in runs) for k in (0, 1))
                        for i in (0, 1)
                    )
                    print(
                        f"| {server} | {rw} QD {each * jobs} | {ours[0] / 1000:.1f} ({ours[1]:.0f})"
                        f" | {fio[0] / 1000:.1f} ({fio[1]:.0f}) | {ours[0] / fio[0]:.2f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
