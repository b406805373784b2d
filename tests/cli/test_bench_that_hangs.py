"""`vbdev bench` over a layer that keeps I/Os: it ends, and says who has them."""

import json
import re
import signal
import subprocess
import sys
import time

import pytest

from vbdev.bench.load import Held, by_bdev

HOLD = """
import time
from vbdev.bdev import VirtualBdev
from vbdev.core.engine.batch import IOBatch
KEPT = {}
class Hold(VirtualBdev):
    kind = "hold"
    def submit(self, channel, ios):
        KEPT.setdefault(channel, IOBatch()).extend(ios.take())
class Stuck(VirtualBdev):
    kind = "stuck"
    def submit(self, channel, ios):
        if ios.num_blocks[0] == 8:
            time.sleep(3600)
        channel.base.submit(ios)
"""


@pytest.fixture
def bench(tmp_path):
    (tmp_path / "hold.py").write_text(HOLD)
    processes = []

    def start(*words, layer="hold"):
        line = ["bench", "null:1MiB", "--module", tmp_path / "hold.py", "--layer", layer, *words]
        process = subprocess.Popen(
            [sys.executable, "-m", "vbdev", *map(str, line)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_its_time_is_its_end(bench):
    process = bench("-t", "0.5", "--drain", "0.5", "--json", "-q", "3")
    out, err = process.communicate(timeout=30)
    assert process.returncode == 1
    result = json.loads(out)
    assert result["ended"] == "time"
    (held,) = result["held"]
    assert (held["bdev"], held["kind"]) == ("Hold0", "hold")
    assert held["ios"] >= 3
    assert held["oldest_seconds"] >= 0.9
    assert "vbdev bench: bdev Hold0 (hold) holds " in err
    assert "Traceback" not in err


def test_a_count_has_an_end_too(bench):
    process = bench("-n", "3", "--drain", "0.5")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "Hold0 (hold) holds" in err


def test_a_count_that_can_not_be_reached_says_who_has_the_ios(bench):
    """More I/Os than there is room for: none of those that are left will ever be submitted."""
    process = bench("-n", "1000", "-q", "4")
    told = []
    while len(told) < 2:
        line = process.stderr.readline()
        assert line, "it has ended"
        if "no I/O has ended" in line:
            told.append(time.monotonic())
            assert line.startswith("WARNING no I/O has ended for 5 s, and the run has no time")
            assert re.search(r"bdev Hold0 \(hold\) holds \d I/Os, the oldest for ", line)
    assert 3 < told[1] - told[0] < 20
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("reactors", ["1", "2"])
def test_a_signal_ends_it_and_a_second_one_at_once(bench, number, reactors):
    process = bench("-t", "3600", "--drain", "3600", "--reactors", reactors)
    assert process.stderr.readline()  # it runs
    process.send_signal(number)
    process.send_signal(number)  # the same wish
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    began = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert time.monotonic() - began < 10
    assert process.returncode == 1
    assert "ended     early: stopped" in out
    assert "Hold0 (hold) holds" in err


def test_a_module_that_keeps_the_thread(bench):
    process = bench("-t", "3600", layer="stuck")
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 1


def test_channels_of_one_bdev_are_told_together():
    parts = [Held("A", "x", 2, 1.0), Held("B", "y", 1, 5.0), Held("A", "x", 3, 4.0)]
    assert by_bdev(parts) == (Held("A", "x", 5, 4.0), Held("B", "y", 1, 5.0))
