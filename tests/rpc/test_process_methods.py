"""Signals, the context switch monitor, the scheduler: what they do, and what they refuse."""

import logging
import os
import signal

import pytest

from support.alone import Alone
from support.rooms import register_rooms
from vbdev.reports import context_switches
from vbdev.reports.context_switches import ContextSwitchMonitor
from vbdev.rpc.methods import process as process_methods
from vbdev.rpc.methods import scheduler as scheduler_methods
from vbdev.rpc.methods.scheduler import scheduler_config

INVALID = (-32602, "Invalid parameters")


@pytest.fixture
def rpc():
    alone = Alone(count=2)
    alone.monitor = ContextSwitchMonitor(alone.reactors)
    register_rooms(
        alone.dispatcher,
        *(process_methods, scheduler_methods),
        reactors=alone.reactors,
        monitor=alone.monitor,
    )
    yield alone
    alone.close()


# spdk_kill_instance


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP", "SIGKILL", "SIGUSR1"])
def test_kill_answers_first(rpc, name, monkeypatch):
    sent = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    assert rpc.call("spdk_kill_instance", sig_name=name) is True
    assert sent == []
    rpc.pass_time(process_methods.ANSWER_US)
    assert sent == [(os.getpid(), signal.Signals[name])]


@pytest.mark.parametrize(
    "wrong",
    [{}, {"sig_name": 15}, {"sig_name": "SIGSTOP"}, {"sig_name": "sigterm"}, {"x": 1}],
)
def test_kill_refuses(rpc, wrong):
    assert rpc.fails("spdk_kill_instance", wrong) == INVALID


# framework_monitor_context_switch


@pytest.fixture
def switched(monkeypatch):
    """Return the counts that the kernel tells; a test changes them."""
    counts = [0, 0]
    monkeypatch.setattr(context_switches, "switches", lambda: tuple(counts))
    return counts


def test_the_monitor_reports_each_reactor(rpc, switched, caplog):
    caplog.set_level(logging.INFO, "vbdev.reports.context_switches")
    method = "framework_monitor_context_switch"
    assert rpc.call(method) == {"enabled": True}
    assert rpc.call(method, enabled=True) == {"enabled": True}
    assert rpc.call(method, enabled=True) == {"enabled": True}  # once
    assert rpc.call(method) == {"enabled": True}
    switched[:] = 7, 2
    rpc.pass_time(1_000_000)
    text = "7 voluntary context switches and 2 involuntary context switches in the last second."
    assert caplog.messages == [f"Reactor 0: {text}", f"Reactor 1: {text}"]
    rpc.pass_time(1_000_000)
    assert len(caplog.messages) == 2  # nothing has happened
    assert rpc.call(method, enabled=False) == {"enabled": False}
    switched[:] = 70, 20
    assert not rpc.reactor.advance()
    assert len(caplog.messages) == 2
    assert all(not reactor.pollers for reactor in rpc.reactors)


def test_no_reactor_is_woken_for_what_the_log_keeps_to_itself(rpc, switched, caplog):
    method = "framework_monitor_context_switch"
    caplog.set_level(logging.WARNING, "vbdev.reports.context_switches")
    assert rpc.call(method, enabled=True) == {"enabled": True}
    assert not any(reactor.pollers for reactor in rpc.reactors)
    assert not rpc.reactor.advance()
    caplog.set_level(logging.INFO, "vbdev.reports.context_switches")
    rpc.reactors.run_until_complete(rpc.monitor.follow())
    assert all(reactor.pollers for reactor in rpc.reactors)
    switched[:] = 7, 2
    rpc.pass_time(1_000_000)
    assert len(caplog.messages) == 2
    caplog.set_level(logging.WARNING, "vbdev.reports.context_switches")
    rpc.reactors.run_until_complete(rpc.monitor.follow())
    assert not any(reactor.pollers for reactor in rpc.reactors)


def test_the_kernel_counts():
    voluntary, involuntary = context_switches.switches()
    assert voluntary >= 0
    assert involuntary >= 0


@pytest.mark.parametrize("wrong", [{"enabled": 1}, {"enabled": None}, {"on": True}])
def test_the_monitor_refuses(rpc, wrong):
    assert rpc.fails("framework_monitor_context_switch", wrong) == INVALID


# Scheduler


def test_the_scheduler_is_static(rpc):
    told = {
        "scheduler_name": "static",
        "scheduler_period": 0,
        "isolated_core_mask": "0",
        "scheduling_core": 0,
    }
    assert list(rpc.call("framework_get_scheduler")) == list(told)
    assert rpc.call("framework_get_scheduler") == told
    for call in scheduler_config():
        assert rpc.call(call["method"], call["params"]) is True
    assert rpc.call("framework_set_scheduler", name="static", period=1_000_000) is True
    assert rpc.call("framework_set_scheduler", name="static", mappings="1:0,2:1") is True
    assert rpc.call("framework_get_scheduler") == told
    assert rpc.call("framework_get_governor") == {}


@pytest.mark.parametrize(
    "params",
    [
        {"name": "dynamic"},
        {"name": ""},
        {"name": "static", "mappings": "1:1"},
        {"name": "static", "mappings": "3:2"},
        {"name": "static", "mappings": "1"},
    ],
)
def test_what_the_scheduler_can_not_do(rpc, params):
    assert rpc.fails("framework_set_scheduler", params) == (-32603, "Unknown error -22")


@pytest.mark.parametrize(
    ("method", "params", "answer"),
    [
        ("framework_set_scheduler", {}, INVALID),
        ("framework_set_scheduler", {"name": "static", "core_busy": 256}, INVALID),
        ("framework_get_scheduler", {}, (-32602, "'rpc_get_scheduler' requires no arguments")),
        ("framework_get_governor", {"x": 1}, (-32602, "'rpc_get_governor' requires no arguments")),
    ],
)
def test_scheduler_refusals(rpc, method, params, answer):
    assert rpc.fails(method, params) == answer
