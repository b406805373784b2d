"""NBD servers side by side: 4 KiB random I/O over a unix socket, one client, alternating runs.

    python bench/nbd_peers.py [--runs 5] [--seconds 3] [--qd 1,16,64] [--jobs 1] [--rw randread]

Servers: this project's malloc with one passthru, and those of nbdkit (memory plugin, no filter),
nbdkit null and qemu-storage-daemon (null-co) that are installed. The client is fio's nbd engine.
Machines are noisy: every round runs each server once, and the ratio is of the medians.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZE = "512M"


def servers(directory: Path) -> dict[str, list[str]]:
    """Return {name: command}; SOCKET stands for the socket's path."""
    vbdev = [sys.executable, "-m", "vbdev", "serve", "--rpc-socket", str(directory / "rpc")]
    found = {
        "vbdev malloc + passthru": [
            *vbdev,
            "malloc:512MiB",
            "--layer",
            "passthru",
            "--nbd",
            "unix:SOCKET",
        ],
    }
    if shutil.which("nbdkit"):
        found["nbdkit memory"] = ["nbdkit", "-f", "-U", "SOCKET", "memory", SIZE]
    return found


def start(command: list[str], socket: Path) -> subprocess.Popen[bytes]:
    """Start a server and wait for its socket."""
    socket.unlink(missing_ok=True)
    words = [word.replace("SOCKET", str(socket)) for word in command]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 10
    while not socket.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"{words[0]} did not start: {' '.join(words)}")
        time.sleep(0.02)
    return process


def fio(socket: Path, rw: str, queue_depth: int, jobs: int, seconds: int) -> tuple[float, float]:
    """Return (IOPS, p99 in us) of one run."""
    out = subprocess.run(
        [
            "fio",
            "--name=b",
            "--ioengine=nbd",
            f"--uri=nbd+unix:///?socket={socket}",
            f"--rw={rw}",
            "--bs=4k",
            f"--iodepth={queue_depth}",
            f"--numjobs={jobs}",
            "--thread",
            "--group_reporting",
            "--time_based",
            f"--runtime={seconds}",
            f"--size={SIZE}",
            "--randrepeat=0",
            "--norandommap",
            "--output-format=json",
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    job = json.loads(out[out.index("{\n") :])["jobs"][0]["read" if "read" in rw else "write"]
    return job["iops"], job["clat_ns"]["percentile"]["99.000000"] / 1000


def main() -> None:
    """Run the rounds and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--qd", default="1,16,64")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--rw", default="randread,randwrite")
    arguments = parser.parse_args()
    if shutil.which("fio") is None:
        raise SystemExit("fio is not installed")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        commands = servers(directory)
        running = [
            (server, directory / f"{number}.sock", command)
            for number, (server, command) in enumerate(commands.items())
        ]
        processes = [start(command, socket) for _, socket, command in running]
        try:
            print("| work | " + " | ".join(f"{s}, kIOPS (p99 us)" for s in commands) + " | ratio |")
            print("| --- |" + " --- |" * (len(commands) + 1))
            for rw in arguments.rw.split(","):
                for queue_depth in map(int, arguments.qd.split(",")):
                    figures: dict[str, list[tuple[float, float]]] = {s: [] for s in commands}
                    for _ in range(arguments.runs):
                        for server, socket, _command in running:
                            figures[server].append(
                                fio(socket, rw, queue_depth, arguments.jobs, arguments.seconds)
                            )
                    medians = [
                        tuple(statistics.median(column) for column in zip(*runs, strict=True))
                        for runs in figures.values()
                    ]
                    cells = " | ".join(f"{iops / 1000:.1f} ({p99:.0f})" for iops, p99 in medians)
                    ratio = f"{medians[0][0] / medians[1][0]:.2f}" if len(medians) > 1 else "-"
                    print(f"| {rw} QD {queue_depth} | {cells} | {ratio} |", flush=True)
        finally:
            for process in processes:
                process.terminate()
                process.wait()


if __name__ == "__main__":
    main()
