"""A configuration is carried out in two passes, and whatever the order of its entries.

Method: an App of this process, and a file; what there is afterwards, or what is said.
"""

import itertools
import json
import logging
import re
import time

import pytest

from spdk_client.facts import METHODS
from vbdev.api.methods import Method, State
from vbdev.bdev.entry import entry_of
from vbdev.daemon.app import App
from vbdev.daemon.config import ConfigError, read_config
from vbdev.daemon.startup import OPTIONS_ELSEWHERE

OPTIONS = {"bdev_io_pool_size": 4000, "bdev_auto_examine": True}


@pytest.fixture
def app():
    app = App()
    yield app
    app.reactor.run_until_complete(app.stop())
    app.close()


@pytest.fixture
def load(app, tmp_path):
    """Return a function that carries out calls, or a text, and returns the names of all bdevs."""

    def run(content, **options):
        if not isinstance(content, str):
            content = json.dumps({"subsystems": content})
        (tmp_path / "c.json").write_text(content)
        app.begin_config(read_config(str(tmp_path / "c.json")), **options)
        app.finish_config()
        return [bdev.name for bdev in app.registry]

    return run


def bdev(*calls, name="bdev"):
    return {
        "subsystem": name,
        "config": [{"method": method, "params": params} for method, params in calls],
    }


def null(name="N"):
    return ("bdev_null_create", {"name": name, "num_blocks": 2048, "block_size": 512})


def passthru(name, base):
    return ("bdev_passthru_create", {"name": name, "base_bdev_name": base})


@pytest.mark.rule("A.22.8")
def test_options_come_first_and_only_once(app, load):
    """A method that is possible at both times is called in the first pass."""
    called = []

    async def both(_on, _params):
        called.append((app.dispatcher.state, len(app.registry.bdevs)))
        return True

    either = State.STARTUP | State.RUNTIME
    app.dispatcher.register(Method("florp_set_options", None, both, states=either), None)
    florp = ("florp_set_options", None)
    assert load([bdev(null(), ("bdev_set_options", OPTIONS), florp, null("M"))]) == ["N", "M"]
    assert app.registry.options.bdev_io_pool_size == 4000
    assert called == [(State.STARTUP, 0)]
    assert app.dispatcher.state is State.RUNTIME


@pytest.mark.rule("A.22.5")
def test_any_order_will_do(app, tmp_path):
    """Limits, histograms and exports may stand before their bdevs, these before their bases."""
    calls = [
        null(),
        passthru("P", "N"),
        ("bdev_set_qos_limit", {"name": "P", "rw_ios_per_sec": 2000}),
        ("bdev_enable_histogram", {"name": "P", "enable": True}),
        ("nbd_export_add", {"bdev_name": "P"}),
    ]
    assert len(calls) == 5, "120 orders"
    for order in itertools.permutations(calls):
        app = App()
        try:
            (tmp_path / "c.json").write_text(json.dumps({"subsystems": [bdev(*order)]}))
            app.begin_config(read_config(str(tmp_path / "c.json")))
            app.finish_config()
            assert {b.name for b in app.registry} == {"N", "P"}
            top = app.registry.get("P")
            assert entry_of(top).rate_limits is not None
            assert entry_of(top).histogram is not None
            assert list(app.nbd.exports) == ["P"]
        finally:
            app.reactor.run_until_complete(app.stop())
            app.close()


@pytest.mark.rule("A.22.7")
def test_what_is_never_there_is_said_with_its_line(load):
    text = """{
      // a comment
      "subsystems": [
        {"subsystem": "bdev", "config": [
          {"method": "bdev_null_create",
           "params": {"name": "N", "num_blocks": 8, "block_size": 512}},
          /* another */
          {"method": "bdev_set_qos_limit", "params": {"name": "M", "rw_ios_per_sec": 1000}}
        ]}
      ],
      "other": {"documents": ["at", "the", "top"]}
    }"""
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert "c.json:8: subsystem bdev, entry 2: bdev_set_qos_limit: No such device (-19)" in str(
        caught.value
    )
    assert "there is no bdev 'M'" in str(caught.value)


def test_nothing_is_done_when_a_method_is_missing(app, load):
    with pytest.raises(ConfigError, match=r"entry 2: .*: Method not found.*take the entry out"):
        load([bdev(null(), ("bdev_florp_create", {}))])
    assert not app.registry.bdevs


def test_subsystems_that_are_not_here(load, caplog):
    """What is for them is left out, and said once for each; empty ones are nobody's business."""
    with caplog.at_level(logging.WARNING, "vbdev"):
        names = load(
            [
                {"subsystem": "scsi", "config": None},
                {"subsystem": "vmd", "config": []},
                {"subsystem": "keyring"},
                bdev(("nvmf_set_max_subsystems", {"max": 1}), ("nvmf_more", {}), name="nvmf"),
                bdev(null()),
            ]
        )
    assert names == ["N"]
    assert [record.message.partition(": ")[2] for record in caplog.records] == [
        "there is no subsystem nvmf here; calls left out: 2"
    ]


def test_batches_and_a_file_without_subsystems(load, caplog):
    one, two, three = ({"method": m, "params": p} for m, p in (null("A"), null("B"), null("C")))
    assert load([{"subsystem": "bdev", "config": [[one, two], [], three]}]) == ["A", "B", "C"]
    assert load("{}") == ["A", "B", "C"]
    assert 'no list "subsystems"' in caplog.text


def test_errors_that_are_ignored_are_logged(load, caplog):
    calls = [
        ("bdev_florp_create", {}),
        null("A"),
        null("A"),
        ("bdev_set_options", {"bdev_io_pool_size": 1}),
        ("bdev_set_qos_limit", {"name": "M", "rw_ios_per_sec": 1000}),
        null("B"),
    ]
    assert load([bdev(*calls)], ignore_errors=True) == ["A", "B"]
    said = [record.message.partition("subsystem bdev, ")[2] for record in caplog.records]
    assert [words.split(" (")[0] for words in said if words] == [
        "entry 1: bdev_florp_create: Method not found",
        "entry 4: bdev_set_options: Pool size 1 too small for cache size 256",
        "entry 3: bdev_null_create: File exists",
        "entry 5: bdev_set_qos_limit: No such device",
    ]


@pytest.mark.parametrize("method", ["bdev_null_delete", "vbdev_unregister"])
def test_what_takes_away_is_not_put_off(load, method):
    """Later it would take away what a later entry makes."""
    with pytest.raises(ConfigError, match=f"entry 1: {method}: No such device"):
        load([bdev((method, {"name": "N"}), null())])


def test_thousands_of_vbdevs_before_their_bases(app, load):
    """Each base finds its own, and at the end each is free when its turn comes: no minutes."""
    names = [f"N{number}" for number in range(3000)]
    layers = [passthru(f"P{name}", name) for name in names]
    began = time.monotonic()
    assert len(load([bdev(*layers, *map(null, names))])) == 6000
    app.reactor.run_until_complete(app.registry.close())
    assert time.monotonic() - began < 30


def test_a_latency_may_stand_before_its_bdev(app, load):
    """Its method has another way to say that there is no such bdev."""
    latencies = dict.fromkeys(
        ("avg_read_latency", "p99_read_latency", "avg_write_latency", "p99_write_latency"), 5
    )
    update = {"delay_bdev_name": "D", "latency_type": "p99_read", "latency_us": 1}
    load(
        [
            bdev(
                ("bdev_delay_update_latency", update),
                ("bdev_delay_create", {"name": "D", "base_bdev_name": "N", **latencies}),
                null(),
            )
        ]
    )
    assert app.registry.get("D").params.p99_read_latency == 1


SETTERS = re.compile(
    r".*_(set_options|set_opts|set_hotplug|scan_accel_module)"
    r"|accel_(assign_opc|set_driver)|dpdk_cryptodev_set_driver|sock_set_default_impl|vmd_enable"
    r"|nvmf_set_(config|crdt|max_subsystems)"
)


def test_options_of_modules_that_are_elsewhere_are_methods_of_spdk(app):
    """All of them that set options, and none that is served or makes something."""
    methods = {name for name in METHODS if SETTERS.fullmatch(name)}
    assert methods - set(app.dispatcher.names()) == OPTIONS_ELSEWHERE
