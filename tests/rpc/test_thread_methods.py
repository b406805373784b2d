"""The `thread_*` methods and framework_get_reactors: every field in SPDK's order; affinity."""

import os
import time

import pytest

from support.alone import Alone
from support.rooms import register_rooms
from support.stack import Stack
from vbdev.reactor.reactor import Reactor
from vbdev.rpc.methods import thread as thread_methods
from vbdev.vocab.cpu_sets import Core, node_of_cpus, show_cpu_mask


def register(alone, registry):
    cpus = thread_methods.given_cpus(alone.reactors)
    register_rooms(
        alone.dispatcher, thread_methods, registry=registry, reactors=alone.reactors, cpus=cpus
    )


@pytest.fixture
def rpc():
    before = os.sched_getaffinity(0)
    stack = Stack()
    alone = Alone(count=2)
    register(alone, stack.registry)
    yield alone
    os.sched_setaffinity(0, before)
    alone.close()
    stack.close()


def own_cpus():
    return show_cpu_mask(os.sched_getaffinity(0))


def test_reactors(rpc):
    told = rpc.call("framework_get_reactors")
    assert list(told) == ["tick_rate", "pid", "reactors"]
    assert (told["tick_rate"], told["pid"]) == (1_000_000_000, os.getpid())
    for number, reactor in enumerate(told["reactors"]):
        names = "lcore numa_id tid busy idle in_interrupt irq sys usr lw_threads"
        assert list(reactor) == names.split()
        assert (reactor["lcore"], reactor["in_interrupt"], reactor["irq"]) == (number, True, 0)
        (thread,) = reactor["lw_threads"]
        assert list(thread) == ["name", "id", "cpumask", "elapsed"]
        assert (thread["name"], thread["id"]) == (f"reactor_{number}", number + 1)
        assert thread["cpumask"] == own_cpus()
        assert reactor["numa_id"] == -1  # on any CPU


def test_the_node_of_cpus(tmp_path):
    for cpu, nodes in enumerate((["node0"], ["node0"], ["node1"], [])):
        for name in ("topology", *nodes):
            (tmp_path / f"cpu{cpu}" / name).mkdir(parents=True)
    for cpus, node in (({0}, 0), ({0, 1}, 0), ({2}, 1), ({1, 2}, -1), ({3}, -1), ({4}, -1)):
        assert node_of_cpus(frozenset(cpus), str(tmp_path)) == node
    assert node_of_cpus(frozenset()) == -1


def test_the_cpu_time_of_a_reactor_is_its_threads(rpc, monkeypatch):
    monkeypatch.setattr(thread_methods, "USER_HZ", 1_000_000_000)
    first = rpc.call("framework_get_reactors")["reactors"][0]
    # The kernel counts in steps, and guesses which share of them was the user's: of a thread with a
    # long past it may tell the same for a while, since it never tells less than before.
    limit = time.thread_time() + 5
    while rpc.call("framework_get_reactors")["reactors"][0]["usr"] <= first["usr"]:
        assert time.thread_time() < limit
        busy_until = time.thread_time() + 0.03
        while time.thread_time() < busy_until:
            pass


def test_stats(rpc):
    told = rpc.call("thread_get_stats")
    assert list(told) == ["tick_rate", "threads"]
    names = (
        "name id cpumask busy idle active_pollers_count timed_pollers_count paused_pollers_count"
    )
    assert [list(thread) for thread in told["threads"]] == [names.split()] * 2


def test_pollers(rpc):
    timed = rpc.reactor.register_poller(lambda: 0, 1000, "timed")
    paused = rpc.reactor.register_poller(lambda: 0, 2000, "paused")
    paused.pause()
    first, second = rpc.call("thread_get_pollers")["threads"]
    assert list(first) == ["name", "id", "active_pollers", "timed_pollers", "paused_pollers"]
    assert (second["name"], second["timed_pollers"]) == ("reactor_1", [])
    (told,) = first["timed_pollers"]
    assert list(told) == ["name", "id", "state", "run_count", "busy_count", "period_ticks"]
    assert (told["name"], told["state"], told["period_ticks"]) == ("timed", "waiting", 1_000_000)
    assert [poller["state"] for poller in first["paused_pollers"]] == ["paused"]
    counts = rpc.call("thread_get_stats")["threads"][0]
    assert (counts["timed_pollers_count"], counts["paused_pollers_count"]) == (1, 1)
    timed.unregister()
    paused.unregister()
    rpc.reactor.register_poller(lambda: 0, 0, "active")
    (told,) = rpc.call("thread_get_pollers")["threads"][0]["active_pollers"]
    assert list(told) == ["name", "id", "state", "run_count", "busy_count"]
    assert (told["busy_count"], told["run_count"] >= 0) == (0, True)


# thread_set_cpumask


def test_a_thread_is_bound(rpc):
    cpu = min(os.sched_getaffinity(0))
    mask = show_cpu_mask({cpu})
    for text in (mask, f"0x{mask}", f"[{cpu}]"):
        assert rpc.call("thread_set_cpumask", id=2, cpumask=text) is True
        assert os.sched_getaffinity(0) == {cpu}
        assert rpc.call("thread_get_stats")["threads"][1]["cpumask"] == mask


def test_what_was_given_at_the_start_counts(rpc):
    """CPUs that the daemon was started without are left out; bound threads can be let go again."""
    given = os.sched_getaffinity(0)
    rpc.call("thread_set_cpumask", id=1, cpumask=f"[{min(given)}]")
    assert rpc.call("thread_set_cpumask", id=1, cpumask="f" * 256) is True
    assert os.sched_getaffinity(0) == given


def test_cores_that_were_asked_for_count():
    cpu = max(os.sched_getaffinity(0))
    alone = Alone()
    alone.reactor.core = Core(cpu, frozenset({cpu}))
    register(alone, [])
    mask = show_cpu_mask({cpu})
    other = f"[{cpu + 1}]"
    assert alone.fails("thread_set_cpumask", id=1, cpumask=other) == (
        -32603,
        f"No CPU is selected from reactor mask {mask}",
    )
    assert alone.call("framework_get_reactors")["reactors"][0]["lcore"] == cpu
    alone.close()


UNDECODED = (-32602, "spdk_json_decode_object failed")


@pytest.mark.parametrize(
    ("params", "answer"),
    [
        ({"id": 3, "cpumask": "1"}, (-32602, "Thread 3 does not exist")),
        ({"id": 0, "cpumask": "x"}, (-32602, "Thread 0 does not exist")),
        ({"id": 1, "cpumask": "x"}, (-32603, "Invalid cpumask x")),
        ({"id": 1, "cpumask": ""}, (-32603, "Invalid cpumask ")),
        ({"id": 1, "cpumask": "[1"}, (-32603, "Invalid cpumask [1")),
        ({"id": 1, "cpumask": "[1-0]"}, (-32603, "Invalid cpumask [1-0]")),
        ({"id": 1}, UNDECODED),
        ({"id": -1, "cpumask": "1"}, UNDECODED),
        ({"id": 1, "cpumask": 1}, UNDECODED),
        ({"id": 1, "cpumask": "1", "more": 1}, UNDECODED),
    ],
)
def test_what_can_not_be_bound(rpc, params, answer):
    assert rpc.fails("thread_set_cpumask", params) == answer


@pytest.mark.parametrize("mask", ["0", "0x0", "[1023]"])
def test_no_cpu_is_left(rpc, mask):
    text = f"No CPU is selected from reactor mask {own_cpus()}"
    assert rpc.fails("thread_set_cpumask", id=1, cpumask=mask) == (-32603, text)


def test_what_the_kernel_refuses(rpc, monkeypatch):
    def refuse(_pid, _cpus):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    assert rpc.fails("thread_set_cpumask", id=1, cpumask="f") == (-32603, "Invalid argument")
    assert rpc.detail == "reactor_0: [Errno 22] Invalid argument"
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("method", "quote"),
    [
        ("thread_get_stats", "'"),
        ("thread_get_pollers", "'"),
        ("thread_get_io_channels", "'"),
        ("framework_get_reactors", "`"),
    ],
)
def test_no_arguments(rpc, method, quote):
    for params in ({}, {"x": 1}, []):
        answer = rpc.fails(method, params)
        assert answer == (-32602, f"{quote}{method}{quote} requires no arguments")


def test_a_reactor_says_its_cores_number():
    reactor = Reactor(core=Core(7))
    assert reactor.name == "reactor_7"
    reactor.close()
