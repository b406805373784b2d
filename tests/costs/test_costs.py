"""No I/O costs more than the baseline says; and what makes one cost more is found.

Counted, not timed: the same on a busy machine. The baseline is `baseline.toml`; `make costs`
shows the table, `make baseline` records it.
"""

from __future__ import annotations

import pytest

from costs import figures
from costs.baseline import Baseline
from costs.figures import MORE_IS_BETTER, unit
from costs.loads import BULK_SIZE, IO_SIZE
from costs.tools import Tools
from support.clients import requires
from vbdev.modules.file.service import NO_RING_VARIABLE

pytestmark = pytest.mark.slow

BASELINE = Baseline.load()


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    requires("cc")
    return Tools(tmp_path_factory.mktemp("costs"))


IN_MEMORY = figures.COPIES.replace(";uring", "")


@pytest.fixture(scope="module")
def copies(tools):
    return figures.copies(tools, IN_MEMORY)


def hold(measured, toolchain):
    complaints = BASELINE.complaints(measured, toolchain)
    assert not complaints, "\n" + "\n".join(complaints)


def skip_what_is_not_here(tools, loads):
    """Skip, with the reason, where nothing of these loads is to be had."""
    why = {why for name, why in tools.unavailable.items() if name.startswith(loads)}
    if why:
        pytest.skip(f"{loads}: {'; '.join(why)}")


# What is held


@pytest.mark.parametrize("loads", figures.INSTRUCTIONS.split(";"))
def test_instructions(tools, loads):
    """For each I/O through `null` and the ring, each layer, each request over NBD, an idle turn."""
    requires("valgrind")
    measured = figures.instructions(tools, loads)
    skip_what_is_not_here(tools, loads)
    if tools.toolchain["core"].endswith("for debugging"):
        pytest.skip("a build for debugging has no figures to keep")
    hold(measured, tools.toolchain)


@pytest.mark.parametrize("loads", figures.SYSTEM_CALLS.split(";"))
def test_system_calls(tools, loads):
    """For each request over NBD, and for each I/O through the ring."""
    requires("strace")
    measured = figures.system_calls(tools, loads)
    skip_what_is_not_here(tools, loads)
    hold(measured, tools.toolchain)


@pytest.mark.alone
def test_copies_allocations_and_batches(tools, copies):
    """In memory of this process: what the kernel copies is not counted."""
    hold(copies, tools.toolchain)


@pytest.mark.alone
def test_copies_allocations_and_batches_of_a_file(tools):
    """The kernel's copy is the only one, and it is not counted."""
    measured = figures.copies(tools, "uring")
    skip_what_is_not_here(tools, "uring")
    hold(measured, tools.toolchain)
    assert not any(n for name, n in measured.items() if unit(name) == "bytes copied")


def test_allocations_of_layers_that_make_objects(tools):
    """A coroutine for each I/O makes its own few objects; a column is one of a batch."""
    measured = figures.copies(tools, "null, awaiting;null, looking")
    hold(measured, tools.toolchain)
    assert measured["null, one awaiting layer more, QD 32, allocations"] < 2.5
    assert measured["null, one looking layer more, QD 32, allocations"] < 0.5


def test_a_kernel_without_io_uring_is_no_regression(tmp_path, monkeypatch):
    monkeypatch.setenv(NO_RING_VARIABLE, "1")
    tools = Tools(tmp_path)
    assert figures.copies(tools, "uring;null, layers 0, QD 1").keys() == {
        f"null, layers 0, QD 1, {what}"
        for what in ("bytes copied", "allocations", f"bdev 1 from the top, {MORE_IS_BETTER}")
    }
    assert len(tools.unavailable) == 2
    assert set(tools.unavailable.values()) == {"there is no io_uring"}


# What no baseline may say


def test_each_byte_is_copied_once(copies):
    """Between the client's buffer, or the one the socket was read into, and the disk.

    What does not fit into a receive chunk, and begins the next one, is copied once more.
    """
    per_io = {
        name: n
        for name, n in copies.items()
        if unit(name) == "bytes copied" and not name.startswith("client")
    }
    assert len(per_io) == 16
    for name, copied in per_io.items():
        size = BULK_SIZE if "256 KiB" in name else IO_SIZE
        assert size <= copied < size * (1.02 if "QD 64" in name else 1.001), name


@pytest.mark.parametrize("work", ["read", "write"])
def test_the_client_copies_no_data(copies, work):
    """Where the server answers in order: headers, and what is cut in two."""
    for depth in (1, 16, 64):
        assert copies[f"client, {work}, QD {depth}, bytes copied"] < 28
    assert copies["client, read backwards, QD 64, bytes copied"] < 1.1 * 4096


@pytest.mark.parametrize("work", ["randread", "randwrite"])
def test_an_io_makes_no_object(copies, work):
    """What is allocated is allocated for a turn of the loop; PYTHONMALLOC=malloc shows objects."""
    for depth in (1, 16, 32):
        assert copies[f"malloc, {work}, QD {depth}, allocations"] < 0.01
    for small, large in ((1, 16), (16, 64)):
        before, after = (
            depth * copies[f"nbd, malloc, {work[4:]}, QD {depth}, allocations"]
            for depth in (small, large)
        )
        assert (after - before) / (large - small) < 0.5, "allocations for each I/O more in a batch"


def test_a_batch_stays_whole(copies):
    """Down to the last layer."""
    for name, ios in copies.items():
        if unit(name) == MORE_IS_BETTER and name.startswith("malloc"):
            assert f"QD {ios:g}," in name


# What is found


def worse(measured, tools):
    """Return units in which a layer is worse than passthru."""
    said = BASELINE.complaints(measured, tools.toolchain)
    return {unit(one.partition(":")[0]) for one in said if one.endswith("worse")}


def test_a_slower_layer_is_found(tools):
    """One `len` for each batch: against this toolchain's own figure, recorded or not."""
    requires("valgrind")
    loads = "null, layers 1, QD 1;null, layers 5, QD 1"
    name = "null, one layer more, QD 1, instructions"
    good = figures.instructions(tools, loads)
    own = Baseline()
    own.record(good, tools.toolchain)
    assert not own.complaints(figures.instructions(tools, loads), tools.toolchain)
    slow = figures.instructions(tools, loads, "costs.canaries:Slower")
    print(f"passthru {good[name]}, slower {slow[name]}")
    (said,) = own.complaints(slow, tools.toolchain)
    assert said.startswith(name)
    assert said.endswith("more than 5% worse")


def test_one_more_system_call_is_found(tools):
    requires("strace")
    slow = figures.system_calls(tools, "nbd, malloc, read, QD 16", "costs.canaries:SystemCalls")
    assert worse(slow, tools) == {"system calls"}


@pytest.mark.parametrize(
    ("canary", "loads", "expected"),
    [
        ("Copies", "malloc, randwrite, QD 32", "bytes copied"),
        ("Objects", "malloc, randread, QD 32", "allocations"),
        ("Halves", "malloc, randread, QD 32", MORE_IS_BETTER),
    ],
)
def test_other_costs_are_found(tools, canary, loads, expected):
    found = worse(figures.copies(tools, loads, f"costs.canaries:{canary}"), tools)
    assert expected in found
