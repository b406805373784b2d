"""iostat, histograms, rate limits, queue depth: fields, numbers, error codes and texts, saving.

Method: the dispatcher over a registry on a bare Stack; what SPDK answers is data here.
"""

import base64
import errno
import json
import struct

import pytest

from support.control import Control
from support.stack import Stub
from vbdev.api.methods import DECODE_OBJECT_FAILED
from vbdev.bdev import BdevError
from vbdev.bdev.entry import entry_of
from vbdev.rpc.methods import stat
from vbdev.vocab import IoFlag, Op, Status

IOSTAT_FIELDS = [
    "bytes_read",
    "num_read_ops",
    "bytes_written",
    "num_write_ops",
    "bytes_unmapped",
    "num_unmap_ops",
    "bytes_copied",
    "num_copy_ops",
    "read_latency_ticks",
    "max_read_latency_ticks",
    "min_read_latency_ticks",
    "write_latency_ticks",
    "max_write_latency_ticks",
    "min_write_latency_ticks",
    "unmap_latency_ticks",
    "max_unmap_latency_ticks",
    "min_unmap_latency_ticks",
    "copy_latency_ticks",
    "max_copy_latency_ticks",
    "min_copy_latency_ticks",
]


@pytest.fixture
def control():
    made = Control()
    yield made
    made.stack.close()


# bdev_get_iostat


def iostat(control, **params):
    return control.call("bdev_get_iostat", **params)


def busy(control):
    """Make a stub bdev with a history, and return its descriptor."""
    disk = control.stack.disk(Stub)
    top = control.stack.open("Disk")
    for op, count in (
        (Op.READ, 8),
        (Op.READ, 2),
        (Op.WRITE, 4),
        (Op.UNMAP, 3),
        (Op.COPY, 5),
        (Op.FLUSH, 0),
        (Op.WRITE_ZEROES, 1),
        (Op.READ, 1),
    ):
        data = bytes(count * 512) if op == Op.WRITE else None
        top.submit(op, 0, count, data, src_offset_blocks=8)
    control.stack.pass_time(10)
    disk.complete([0, 2, 3, 4, 5, 6])
    control.stack.settle()
    control.stack.pass_time(20)
    disk.complete([0])
    disk.complete([0], Status.FAILED, errno.EIO)
    control.stack.settle()
    return top


NUMBERS = {
    "bytes_read": 5120,
    "num_read_ops": 2,
    "bytes_written": 2048,
    "num_write_ops": 1,
    "bytes_unmapped": 1536,
    "num_unmap_ops": 1,
    "bytes_copied": 2560,
    "num_copy_ops": 1,
    "read_latency_ticks": 40_000,
    "max_read_latency_ticks": 30_000,
    "min_read_latency_ticks": 10_000,
    **{
        f"{kind}{op}_latency_ticks": 10_000
        for op in ("write", "unmap", "copy")
        for kind in ("", "max_", "min_")
    },
}


@pytest.mark.rule(
    "A.18.7", "A.18.8", "A.18.10", "A.18.11", "A.18.13", "E.bdev_ut.get_device_stat_test"
)
def test_iostat(control):
    busy(control)
    control.malloc(name="Idle")
    answer = iostat(control)
    assert list(answer) == ["tick_rate", "ticks", "bdevs"]
    assert (answer["tick_rate"], answer["ticks"]) == (1_000_000_000, 30_000)
    disk, idle = answer["bdevs"]
    assert list(disk) == ["name", *IOSTAT_FIELDS, "io_error"]
    assert list(idle) == ["name", *IOSTAT_FIELDS, "io_error"]
    assert idle["io_error"] == {}
    assert {name: disk[name] for name in IOSTAT_FIELDS} == NUMBERS
    assert disk["io_error"] == {"failed": 1}
    assert not any(idle[name] for name in IOSTAT_FIELDS)


def test_errors_are_told_by_status_from_the_first_on(control):
    """SPDK goes through them from -1 (failed) to -8 (aio_error)."""
    disk = control.stack.disk(Stub)
    top = control.stack.open("Disk")
    for status in (Status.AIO_ERROR, Status.FAILED, Status.ABORTED, Status.FAILED):
        top.submit(Op.READ)
        control.stack.settle()
        disk.complete([0], status, errno.EIO)
        control.stack.settle()
    told = iostat(control)["bdevs"][0]["io_error"]
    assert list(told.items()) == [("failed", 2), ("aborted", 1), ("aio_error", 1)]


@pytest.mark.rule("A.18.12")
def test_iostat_keeps_what_closed_channels_counted(control):
    busy(control).close()
    top = control.stack.open("Disk")
    (disk,) = iostat(control, names=["Disk"])["bdevs"]
    assert {name: disk[name] for name in IOSTAT_FIELDS} == NUMBERS
    top.submit(Op.READ)
    control.registry.get("Disk").complete()
    control.stack.settle()
    (disk,) = iostat(control, names=["Disk"])["bdevs"]
    assert (disk["num_read_ops"], disk["max_read_latency_ticks"]) == (3, 30_000)
    top.close()


@pytest.mark.rule("A.18.13", "A.18.14")
def test_iostat_by_channel(control):
    busy(control)
    idle = control.stack.open("Disk")
    answer = iostat(control, names=["Disk"], per_channel=True)
    assert list(answer) == ["tick_rate", "ticks", "name", "channels"]
    (channel,) = answer["channels"]  # one for each reactor, however many have the bdev open
    assert list(channel) == ["thread_id", *IOSTAT_FIELDS, "io_error"]
    assert {name: channel[name] for name in IOSTAT_FIELDS} == NUMBERS
    idle.close()
    for wrong in ({}, {"names": []}, {"names": ["Disk", "Disk"]}):
        assert control.fails("bdev_get_iostat", {**wrong, "per_channel": True}) == (
            -22,
            "Invalid argument",
        )


@pytest.mark.parametrize("method", ["bdev_get_iostat", "bdev_reset_iostat"])
@pytest.mark.parametrize("turns", range(12))
@pytest.mark.parametrize("reactors", [1, 3])
def test_a_bdev_that_goes_meanwhile_is_nobodys_failure_who_asks_about_all(turns, method, reactors):
    control = Control(reactors=reactors)  # a visit of the channels of each takes turns
    for number in range(3):
        control.malloc(f"Disk{number}")
    tops = [control.stack.open("Disk1", on=on) for on in range(reactors)]
    removing = control.stack.reactor.spawn(
        control.dispatcher.call("bdev_malloc_delete", {"name": "Disk1"})
    )
    early = control.stack.reactor.spawn(control.dispatcher.call(method, {}))
    for _ in range(turns):
        control.stack.reactors.poll()
    late = control.stack.reactor.spawn(control.dispatcher.call(method, {}))
    control.stack.settle()
    assert removing.done
    for asking in (early, late):
        answer = asking.result()
        if method == "bdev_get_iostat":
            names = [told.name for told in answer.bdevs]
            assert names in (["Disk0", "Disk2"], ["Disk0", "Disk1", "Disk2"])
    assert all(top.descriptor.closed for top in tops)
    control.stack.close()


def test_iostat_of_one_that_goes_meanwhile(control, monkeypatch):
    control.malloc("Disk1")

    async def gone(bdev):
        await control.registry.delete(bdev.name, "malloc")
        raise BdevError(errno.ENODEV, f"bdev {bdev.name} is gone")

    monkeypatch.setattr(stat, "gather_iostat", gone)
    assert iostat(control)["bdevs"] == []
    control.malloc("Disk1")
    assert control.fails("bdev_get_iostat", names=["Disk1"]) == (-19, "No such device")


@pytest.mark.rule("A.18.15", "E.bdev_ut.get_device_stat_with_reset")
@pytest.mark.parametrize(
    ("mode", "counts", "extremes", "errors"),
    [
        ("none", True, True, True),
        ("maxmin", True, False, True),
        ("error", True, True, False),
        ("all", False, False, False),
    ],
)
@pytest.mark.parametrize("closed", [False, True])
def test_iostat_is_reset_behind_the_reading(control, mode, counts, extremes, errors, closed):
    top = busy(control)
    if closed:
        top.close()
    (disk,) = iostat(control, names=["Disk"], reset_mode=mode)["bdevs"]
    assert disk["num_read_ops"] == 2
    (disk,) = iostat(control, names=["Disk"])["bdevs"]
    assert bool(disk["num_read_ops"]) == bool(disk["read_latency_ticks"]) == counts
    assert bool(disk["max_read_latency_ticks"]) == bool(disk["min_write_latency_ticks"]) == extremes
    assert bool(disk["io_error"]) == errors


def test_iostat_errors(control):
    assert control.fails("bdev_get_iostat", names=["Nobody"]) == (-19, "No such device")
    assert control.fails("bdev_get_iostat", reset_mode="some") == DECODE_OBJECT_FAILED
    assert control.fails("bdev_get_iostat", names="Disk") == DECODE_OBJECT_FAILED


@pytest.mark.rule("A.18.9")
@pytest.mark.parametrize(("flags", "verb"), [(IoFlag.ZCOPY_POPULATE, "read"), (0, "write")])
def test_iostat_counts_the_start_of_zcopy(control, flags, verb):
    control.malloc()
    top = control.stack.open("Disk")
    zcopy = top.io(Op.ZCOPY, 0, 4, flags=flags)
    top.zcopy_end(zcopy, commit=False)
    (disk,) = iostat(control)["bdevs"]
    counted = {name: value for name, value in disk.items() if name.startswith(("num_", "bytes_"))}
    assert counted.pop(f"num_{verb}_ops") == 1
    assert counted.pop("bytes_read" if verb == "read" else "bytes_written") == 2048
    assert not any(counted.values())


def test_iostat_shows_what_the_module_counts(control):
    disk = control.stack.disk(Stub)
    assert "driver_specific" not in iostat(control)["bdevs"][0]
    disk.dump_stat = lambda: {"stub": {"pokes": 3}}
    shown = iostat(control)["bdevs"][0]
    assert list(shown)[-1] == "driver_specific"
    assert shown["driver_specific"] == {"stub": {"pokes": 3}}
    poked = []
    disk.reset_stat = lambda: poked.append(True)
    control.call("bdev_reset_iostat")
    assert poked


# bdev_reset_iostat


@pytest.mark.rule("A.18.15")
def test_reset_iostat(control):
    busy(control)
    control.malloc(name="Other")
    other = control.stack.open("Other")
    other.io(Op.READ)

    def reads():
        return [bdev["num_read_ops"] for bdev in iostat(control)["bdevs"]]

    assert control.call("bdev_reset_iostat", name="Disk", mode="none") is True
    assert reads() == [2, 1]
    control.call("bdev_reset_iostat", name="Disk", mode="error")
    assert reads() == [2, 1]
    assert iostat(control)["bdevs"][0]["io_error"] == {}
    control.call("bdev_reset_iostat", name="Disk", mode="maxmin")
    assert iostat(control)["bdevs"][0]["max_read_latency_ticks"] == 0
    control.call("bdev_reset_iostat", name="Disk")
    assert reads() == [0, 1]
    control.call("bdev_reset_iostat")
    assert reads() == [0, 0]
    assert control.fails("bdev_reset_iostat", name="Nobody") == (-19, "No such device")
    assert control.fails("bdev_reset_iostat", mode="x") == DECODE_OBJECT_FAILED


# Queue depth


@pytest.mark.rule("A.18.16", "E.bdev_ut.bdev_set_qd_sampling")
def test_queue_depth_is_sampled(control):
    disk = control.stack.disk(Stub)
    one, other = control.stack.open("Disk"), control.stack.open("Disk")
    control.call("bdev_set_qd_sampling_period", name="Disk", period=100)
    control.stack.pass_time(250)
    for opened, count in ((one, 2), (other, 1)):
        for _ in range(count):
            opened.submit(Op.READ)
    control.stack.pass_time(200)
    shown = iostat(control)["bdevs"][0]
    names = ["queue_depth_polling_period", "queue_depth", "io_time", "weighted_io_time"]
    assert list(shown)[-4:] == names
    assert [shown[name] for name in names] == [100, 3, 200, 600]
    disk.complete()
    control.stack.pass_time(100)
    assert [iostat(control)["bdevs"][0][name] for name in names] == [100, 0, 200, 600]
    control.call("bdev_set_qd_sampling_period", name="Disk", period=0)
    shown = iostat(control)["bdevs"][0]
    assert not set(names) & set(shown)
    control.stack.settle()
    assert not control.stack.reactor.advance()  # nothing is left that would wake anybody


def test_queue_depth_ends_with_its_bdev(control):
    control.malloc()
    control.call("bdev_set_qd_sampling_period", name="Disk", period=1000)
    control.stack.delete("Disk")
    control.stack.pass_time(5000)
    assert not control.stack.reactor.advance()


def test_queue_depth_errors(control):
    control.malloc()
    method = "bdev_set_qd_sampling_period"
    assert control.fails(method, name="Nobody", period=1) == (-19, "No such device")
    assert control.fails(method, name="Disk", period=2**63) == (-22, "Invalid argument")
    for wrong in (
        {"name": "Disk"},
        {"name": "Disk", "period": -1},
        {"period": 1},
        {"name": "Disk", "period": 2**64},
    ):
        assert control.fails(method, wrong) == DECODE_OBJECT_FAILED


# Rate limits

NO_LIMITS = {
    "rw_ios_per_sec": 0,
    "rw_mbytes_per_sec": 0,
    "r_mbytes_per_sec": 0,
    "w_mbytes_per_sec": 0,
}


def assigned(control, name="Disk"):
    return control.call("bdev_get_bdevs", name=name)[0]["assigned_rate_limits"]


@pytest.mark.rule("A.17.9", "A.17.10", "A.17.12", "A.21.15")
def test_limits_are_set_kept_and_shown(control):
    control.malloc()
    assert list(assigned(control).items()) == list(NO_LIMITS.items())
    assert control.call("bdev_set_qos_limit", name="Disk", rw_ios_per_sec=20_000) is True
    control.call("bdev_set_qos_limit", name="Disk", r_mbytes_per_sec=100, w_mbytes_per_sec=50)
    shown = assigned(control)
    assert shown == {
        "rw_ios_per_sec": 20_000,
        "rw_mbytes_per_sec": 0,
        "r_mbytes_per_sec": 100,
        "w_mbytes_per_sec": 50,
    }
    assert list(shown) == list(NO_LIMITS)
    control.call("bdev_set_qos_limit", name="Disk", r_mbytes_per_sec=0, w_mbytes_per_sec=0)
    assert assigned(control) == {**NO_LIMITS, "rw_ios_per_sec": 20_000}
    control.call("bdev_set_qos_limit", name="Disk", **NO_LIMITS)
    assert assigned(control) == NO_LIMITS


@pytest.mark.rule("A.17.7", "A.17.8")
def test_limit_errors(control):
    control.malloc()
    method = "bdev_set_qos_limit"
    assert control.fails(method, name="Disk") == (-22, "No rate limits specified")
    not_given = {"rw_ios_per_sec": 2**64 - 1}
    assert control.fails(method, name="Disk", **not_given) == (-22, "No rate limits specified")
    assert control.fails(method, name="Nobody", rw_ios_per_sec=1) == (-19, "No such device")
    for wrong in ({"rw_ios_per_sec": -1}, {"rw_ios_per_sec": "x"}, {"ios": 1}):
        assert control.fails(method, {"name": "Disk", **wrong}) == DECODE_OBJECT_FAILED
    with entry_of(control.registry.get("Disk")).changing_channels("rate limits"):
        assert control.fails(method, name="Disk", rw_ios_per_sec=1000) == (
            -32602,
            "Failed to configure rate limit: Resource temporarily unavailable",
        )
    assert assigned(control) == NO_LIMITS


# Histograms


def histogram(control, name="Disk"):
    """Return the answer, and [(start_ns, end_ns, count)] as a client decodes it."""
    answer = control.call("bdev_get_histogram", name=name)
    data = base64.b64decode(answer["histogram"])
    granularity = answer["granularity"]
    found = []
    for at, count in enumerate(struct.unpack(f"<{len(data) // 8}Q", data)):
        if count:
            range_ = answer["min_range"] + (at >> granularity)
            index = at & ((1 << granularity) - 1)
            base = 1 << (range_ + granularity - 1) if range_ else 0
            width = 1 << (range_ - 1) if range_ else 1
            found.append((base + index * width, base + (index + 1) * width, count))
    return answer, found


def timed(control, disk, opened, *ops_and_us):
    """Submit an I/O of each type, and complete it after so many us."""
    for op, us in ops_and_us:
        opened.submit(op, 0, 1, bytes(512) if op == Op.WRITE else None)
        control.stack.pass_time(us)
        disk.complete()
        control.stack.settle()


@pytest.mark.rule("A.18.1", "A.18.5", "E.bdev_ut.bdev_histograms")
def test_histogram(control):
    disk = control.stack.disk(Stub)
    top = control.stack.open("Disk")
    timed(control, disk, top, (Op.READ, 50))
    assert control.call("bdev_enable_histogram", name="Disk", enable=True) is True
    timed(control, disk, top, (Op.READ, 10), (Op.WRITE, 100), (Op.FLUSH, 100))
    answer, found = histogram(control)
    assert list(answer) == ["histogram", "granularity", "min_range", "max_range", "tsc_rate"]
    assert (answer["granularity"], answer["tsc_rate"]) == (7, 1_000_000_000)
    assert (answer["min_range"], answer["max_range"]) == (10 - 7, 37 - 7)
    assert [count for _, _, count in found] == [1, 2]
    for (start, end, _), ns in zip(found, (10_000, 100_000), strict=True):
        assert start <= ns < end
    assert control.call("bdev_enable_histogram", name="Disk", enable=False) is True
    assert control.fails("bdev_get_histogram", name="Disk") == (-32603, "Bad address")
    control.call("bdev_enable_histogram", name="Disk", enable=True)
    assert histogram(control)[1] == []


@pytest.mark.rule("A.18.1")
def test_histogram_of_one_type_between_bounds(control):
    disk = control.stack.disk(Stub)
    top = control.stack.open("Disk")
    control.call(
        "bdev_enable_histogram",
        name="Disk",
        enable=True,
        opc="write",
        granularity=3,
        min_nsec=1 << 14,
        max_nsec=1 << 20,
    )
    timed(control, disk, top, (Op.READ, 100), (Op.WRITE, 1), (Op.WRITE, 100), (Op.WRITE, 5000))
    answer, found = histogram(control)
    assert (answer["granularity"], answer["min_range"], answer["max_range"]) == (3, 12, 17)
    assert [count for _, _, count in found] == [1, 1, 1]
    assert found[0][0] == 1 << 14
    assert found[-1][1] == 1 << 20


def test_histogram_counts_failures_too(control):
    disk = control.stack.disk(Stub)
    top = control.stack.open("Disk")
    control.call("bdev_enable_histogram", name="Disk", enable=True)
    for _ in range(5):
        top.submit(Op.READ)
    control.stack.pass_time(10)
    disk.complete([0], Status.FAILED, errno.EIO)
    disk.complete()
    control.stack.settle()
    assert [count for _, _, count in histogram(control)[1]] == [5]


@pytest.mark.rule("E.bdev_ut.bdev_histograms")
def test_histogram_adds_up_channels_open_and_closed(control):
    disk = control.stack.disk(Stub)
    one, other = control.stack.open("Disk"), control.stack.open("Disk")
    control.call("bdev_enable_histogram", name="Disk", enable=True)
    late = control.stack.open("Disk")
    timed(control, disk, one, (Op.READ, 10))
    timed(control, disk, other, (Op.READ, 10))
    timed(control, disk, late, (Op.READ, 10))
    late.close()
    assert [count for _, _, count in histogram(control)[1]] == [3]
    assert [count for _, _, count in histogram(control)[1]] == [3]  # reading adds nothing


def test_histogram_again_with_other_bounds_begins_anew(control):
    disk = control.stack.disk(Stub)
    one = control.stack.open("Disk")
    control.call("bdev_enable_histogram", name="Disk", enable=True)
    timed(control, disk, one, (Op.READ, 10))
    control.call("bdev_enable_histogram", name="Disk", enable=True, granularity=5)
    assert histogram(control)[1] == []
    timed(control, disk, one, (Op.READ, 10))
    assert [count for _, _, count in histogram(control)[1]] == [1]


def test_histogram_of_a_layer_counts_at_the_layer(control):
    disk = control.stack.disk(Stub)
    control.passthru()
    top = control.stack.open("Top")
    control.call("bdev_enable_histogram", name="Disk", enable=True)
    for _ in range(3):
        top.submit(Op.READ)
    control.stack.pass_time(10)
    disk.complete()
    control.stack.settle()
    assert [count for _, _, count in histogram(control)[1]] == [3]
    assert control.fails("bdev_get_histogram", name="Top") == (-32603, "Bad address")
    assert iostat(control, names=["Top"])["bdevs"][0]["num_read_ops"] == 3


@pytest.mark.rule("A.18.6")
def test_histogram_borders(control):
    disk = control.stack.disk(Stub)
    top = control.stack.open("Disk")
    control.call("bdev_enable_histogram", name="Disk", enable=True)
    timed(control, disk, top, (Op.READ, 10), (Op.READ, 20), (Op.READ, 500))

    def borders(*us):
        return control.call("bdev_get_histogram_borders", name="Disk", borders=list(us))

    assert borders(5, 15, 100, 1000) == {"borders_count": [0, 1, 2, 3, 3]}
    assert borders(2**64 - 1) == {"borders_count": [3, 3]}
    assert borders() == {"borders_count": [3]}
    method = "bdev_get_histogram_borders"
    assert control.fails(method, name="Nobody", borders=[1]) == (-19, "No such device")
    for wrong in ({}, {"borders": 5}, {"borders": [-1]}, {"borders": list(range(257))}):
        assert control.fails(method, {"name": "Disk", **wrong}) == DECODE_OBJECT_FAILED
    control.call("bdev_enable_histogram", name="Disk", enable=False)
    assert control.fails(method, name="Disk", borders=[1]) == (-32603, "Bad address")


@pytest.mark.rule("A.18.2", "A.18.3", "A.18.4")
def test_histogram_errors(control):
    control.malloc()
    method = "bdev_enable_histogram"
    assert control.fails("bdev_get_histogram", name="Disk") == (-32603, "Bad address")
    assert control.fails("bdev_get_histogram", name="Nobody") == (-19, "No such device")
    assert control.fails(method, name="Nobody", enable=True) == (-19, "No such device")
    for wrong in ({"min_nsec": 9, "max_nsec": 9}, {"granularity": 17}, {"max_nsec": 999}):
        assert control.fails(method, name="Disk", enable=True, **wrong) == (
            -22,
            "Invalid argument",
        )
    for wrong in ({}, {"enable": 1}, {"enable": True, "granularity": 256}):
        assert control.fails(method, {"name": "Disk", **wrong}) == DECODE_OBJECT_FAILED
    with entry_of(control.registry.get("Disk")).changing_channels("histogram"):
        assert control.fails(method, name="Disk", enable=True) == (
            -11,
            "Resource temporarily unavailable",
        )
    assert control.fails("bdev_get_histogram", name="Disk") == (-32603, "Bad address")


@pytest.mark.rule("Dd.11")
def test_an_unknown_type_leaves_nothing_open(control):
    control.malloc()
    for _ in range(3):
        assert control.fails("bdev_enable_histogram", name="Disk", enable=True, opc="reed") == (
            -32603,
            "Invalid Io type",
        )
    assert control.registry.get("Disk").holders() == []
    control.stack.delete("Disk")
    assert control.names() == []


# Configuration


@pytest.mark.rule("A.17.11", "A.22.10", "Dd.9")
def test_limits_and_histograms_are_saved_and_loaded(control):
    control.passthru()  # waits for its base, and so comes first
    control.malloc()
    control.call("bdev_set_qos_limit", name="Top", rw_ios_per_sec=3000, w_mbytes_per_sec=9)
    control.call("bdev_enable_histogram", name="Disk", enable=True)
    control.call(
        "bdev_enable_histogram",
        name="Top",
        enable=True,
        opc="read",
        granularity=5,
        min_nsec=2000,
        max_nsec=3_000_000,
    )
    saved = control.registry.config()
    assert [entry for entry in saved if not entry["method"].endswith("_create")] == [
        {
            "method": "bdev_enable_histogram",
            "params": {
                "name": "Disk",
                "enable": True,
                "granularity": 7,
                "min_nsec": 1000,
                "max_nsec": 120_000_000_000,
            },
        },
        {
            "method": "bdev_set_qos_limit",
            "params": {"name": "Top", "rw_ios_per_sec": 3000, "w_mbytes_per_sec": 9},
        },
        {
            "method": "bdev_enable_histogram",
            "params": {
                "name": "Top",
                "enable": True,
                "opc": "read",
                "granularity": 5,
                "min_nsec": 2000,
                "max_nsec": 3_000_000,
            },
        },
    ]
    other = Control()
    for entry in json.loads(json.dumps(saved)):
        other.call(entry["method"], entry["params"])
    assert other.registry.config() == saved
    assert assigned(other, "Top")["w_mbytes_per_sec"] == 9
    other.stack.close()
