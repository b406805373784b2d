"""Run a soak and print what the honest client saw."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

from soak import roles
from vbdev.testing.daemon import Daemon

SETTLE_S = 30
"""How long what has left may take to be forgotten: the longest that a stalled client is borne."""


def run_role(results, role, places, seed, until):
    """Run a role in this process, and say how it went."""
    try:
        results.put((role.__name__, seed, role(places, seed, until), ""))
    except BaseException as error:
        results.put((role.__name__, seed, None, f"{type(error).__name__}: {error}"))
        raise


def fds(pid):
    """Return how many descriptors a process has."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def rss_mib(pid):
    """Return a process's resident memory, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) >> 10


def settled(daemon, before, deadline):
    """Wait until a daemon has no more descriptors than before; return how many it has."""
    while (now := fds(daemon.pid)) > before and time.monotonic() < deadline:
        time.sleep(0.2)
    return now


def soak(seconds, seed, reactors, directory):
    """Run it: (failures, figures)."""
    disk = Path(directory) / "honest.img"
    disk.write_bytes(b"")
    with disk.open("r+b") as file:
        file.truncate(64 << 20)
    nbd = f"{directory}/nbd.sock"
    daemon = Daemon("--reactors", str(reactors), "--nbd", f"unix:{nbd}", command="serve")
    daemon.start()
    client = daemon.client
    client.call("bdev_uring_create", name="Honest", filename=str(disk))
    for name in ["Shared", *(f"Mixed{i}" for i in range(4))]:
        client.call("bdev_malloc_create", name=name, num_blocks=512 << 11, block_size=512)
        client.call("nbd_export_add", bdev_name=name)
    client.call("nbd_export_add", bdev_name="Honest")
    before = fds(daemon.pid)
    until = time.monotonic() + seconds
    places = roles.Places(nbd, daemon.rpc_socket)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    work = [(roles.honest, seed)]
    for role, count in roles.ROLES.items():
        work += [(role, seed * 1000 + len(work) + i) for i in range(count)]
    processes = [
        context.Process(target=run_role, args=(results, role, places, number, until))
        for role, number in work
    ]
    for process in processes:
        process.start()
    ended = [results.get(timeout=seconds + 3 * roles.ANSWER_S) for _ in processes]
    for process in processes:
        process.join(10)
    failures = [f"{role}, seed {number}: {error}" for role, number, _, error in ended if error]
    figures = {}
    for role, _, done, _ in ended:
        if role == "honest" and done:
            figures["honest requests"] = len(done)
            for name, share in (("median", 0.5), ("99%", 0.99), ("99.9%", 0.999)):
                figures[f"honest {name}, ms"] = round(done[int(len(done) * share)] * 1e3, 2)
            figures["honest worst, ms"] = round(done[-1] * 1e3, 1)
        elif done:
            figures[role] = figures.get(role, 0) + done
    after = settled(daemon, before, time.monotonic() + SETTLE_S)
    figures |= {"descriptors before": before, "after": after, "RSS, MiB": rss_mib(daemon.pid)}
    if after > before:
        failures.append(f"{after - before} descriptors are left of clients that have gone")
    stop_began = time.monotonic()
    daemon.stop()
    figures["orderly stop, s"] = round(time.monotonic() - stop_began, 2)
    log = daemon.stderr
    figures["warnings"] = log.count(" WARNING ") + log.count("*WARNING*")
    if "Traceback" in log:
        failures.append("the daemon logged a traceback:\n" + log[log.index("Traceback") :][:3000])
    daemon.close()
    return failures, figures


def main():
    """Parse the words and run."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="for how long (600)")
    parser.add_argument("--seed", type=int, default=1, help="of all roles (1)")
    parser.add_argument("--reactors", type=int, default=1, help="of the daemon (1)")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vbdev-soak-") as directory:
        failures, figures = soak(words.seconds, words.seed, words.reactors, directory)
    print(json.dumps(figures, indent=1))
    for failure in failures:
        print(f"FAILED: {failure}")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
