"""delay: how long what is held, in what order, and what ends it.

Method: on the virtual clock over malloc, or over a stub that completes when the test says so.
Latencies are microseconds; time moves only where a test lets it.
"""

import uuid

import pytest

from support.control import CLAIMED, EXISTS, INVALID, NO_DEVICE, UNDECODED, Control
from vbdev.bdev import BdevEvent
from vbdev.modules.delay import SLOW_SHARE
from vbdev.testing import Stub
from vbdev.vocab import Op, Status

U1 = "11111111-2222-4333-8444-555555555555"
NAMESPACE = uuid.UUID("4009b574-6430-4f1b-bc40-ace811091027")
LATENCIES = {
    "avg_read_latency": 100,
    "p99_read_latency": 1000,
    "avg_write_latency": 300,
    "p99_write_latency": 3000,
}
MANY = 2000


@pytest.fixture
def control():
    made = Control()
    yield made
    made.stack.close()


def disk(control, name="Disk", num_blocks=4096, uuid=U1):
    params = {"name": name, "num_blocks": num_blocks, "block_size": 512, "uuid": uuid}
    control.call("bdev_malloc_create", **params)


def delay(control, name="Slow", base="Disk", **params):
    return control.call(
        "bdev_delay_create", name=name, base_bdev_name=base, **{**LATENCIES, **params}
    )


def opened(control, **params):
    """Return an open delay bdev whose every I/O takes the average latency."""
    disk(control)
    even = {"p99_read_latency": 100, "p99_write_latency": 300}
    delay(control, **{**even, **params})
    return control.stack.open("Slow")


def times(control, top, ops, **more):
    """Submit I/Os at once and return how long each took, in us, in the order of submission."""
    start_ns = control.stack.reactor.clock.now_ns()
    ended = {}

    def end(request):
        ended[request] = (control.stack.reactor.clock.now_ns() - start_ns) // 1000

    requests = []
    for number, op in enumerate(ops):
        data = bytearray(512) if op in (Op.READ, Op.WRITE, Op.COMPARE) else None
        requests.append(top.submit(op, number % 64, 1, data, callback=end, **more))
    control.stack.turn_until(lambda: len(ended) == len(requests))
    assert {request.status for request in requests} == {Status.SUCCESS}
    return [ended[request] for request in requests]


# Latencies


@pytest.mark.rule("A.27.22", "A.27.26")
def test_reads_and_writes_take_their_own_time_and_others_none(control):
    top = opened(control)
    others = [Op.UNMAP, Op.WRITE_ZEROES, Op.COPY, Op.COMPARE, Op.FLUSH]
    assert times(control, top, [Op.READ, Op.WRITE, *others]) == [100, 300, 0, 0, 0, 0, 0]


@pytest.mark.rule("A.27.22")
def test_the_base_comes_first(control):
    """The latency is added to what the base takes, and the base has the data at once."""
    stub = control.stack.disk(Stub, name="Disk", num_blocks=64)
    delay(control, p99_read_latency=100, p99_write_latency=300)
    top = control.stack.open("Slow")
    request = top.submit(Op.READ, 0, 1, bytearray(512))
    control.stack.settle()
    assert stub.arrived == [(Op.READ, 0, 1)]
    control.stack.pass_time(5000)
    assert not request.done
    stub.complete()
    control.stack.pass_time(99)
    assert not request.done
    control.stack.pass_time(1)
    control.stack.settle()
    assert request.done


@pytest.mark.rule("A.27.22", "D.12")
@pytest.mark.parametrize(
    ("status", "number"), [(Status.FAILED, 5), (Status.AIO_ERROR, 28), (Status.MISCOMPARE, 0)]
)
def test_a_failure_is_held_too_and_keeps_its_detail(control, status, number):
    stub = control.stack.disk(Stub, name="Disk", num_blocks=64)
    delay(control, p99_read_latency=100)
    request = control.stack.open("Slow").submit(Op.READ, 0, 1, bytearray(512))
    control.stack.settle()
    stub.complete(None, status, number)
    control.stack.pass_time(99)
    assert not request.done
    control.stack.turn_until(lambda: request.done)
    assert (request.status, request.errno) == (status, number)


@pytest.mark.rule("A.27.23")
@pytest.mark.parametrize("op", [Op.READ, Op.WRITE])
def test_one_in_a_hundred_is_slow(control, op):
    disk(control)
    delay(control, seed=7)
    took = times(control, control.stack.open("Slow"), [op] * MANY)
    average, slow = (100, 1000) if op == Op.READ else (300, 3000)
    assert set(took) == {average, slow}
    assert 0.4 * SLOW_SHARE < took.count(slow) / MANY < 2.5 * SLOW_SHARE


@pytest.mark.rule("A.27.23")
def test_which_are_slow_follows_from_the_seed(control):
    disk(control)

    def slow_ones(**params):
        delay(control, **params)
        top = control.stack.open("Slow")
        took = times(control, top, [Op.READ] * MANY)
        # In other batches, too.
        took += [times(control, top, [Op.READ])[0] for _ in range(300)]
        control.call("bdev_delay_delete", name="Slow")
        return [number for number, us in enumerate(took) if us == 1000]

    first = slow_ones(seed=1)
    assert first
    assert slow_ones(seed=1) == first
    assert slow_ones(seed=2) != first
    by_uuid = slow_ones()
    assert slow_ones() == by_uuid
    assert slow_ones(uuid="aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee") != by_uuid


@pytest.mark.rule("A.27.24")
def test_a_queue_keeps_its_order(control):
    """With a lower latency, what comes later still waits for what is held."""
    top = opened(control)
    order = []
    first = top.submit(Op.READ, 0, 1, bytearray(512), callback=order.append)
    control.stack.pass_time(10)
    update = {"delay_bdev_name": "Slow", "latency_type": "avg_read"}
    assert control.call("bdev_delay_update_latency", **update, latency_us=5) is True
    second = top.submit(Op.READ, 1, 1, bytearray(512), callback=order.append)
    control.stack.pass_time(89)
    assert order == []
    control.stack.pass_time(1)
    control.stack.settle()
    assert order == [first, second]
    assert times(control, top, [Op.READ]) == [5]


@pytest.mark.rule("A.27.24")
def test_what_is_held_keeps_its_own_latency(control):
    top = opened(control)
    request = top.submit(Op.WRITE, 0, 1, bytes(512))
    control.stack.settle()
    update = {"delay_bdev_name": "Slow", "latency_type": "avg_write"}
    control.call("bdev_delay_update_latency", **update, latency_us=10**9)
    control.stack.pass_time(300)
    control.stack.settle()
    assert request.done


def test_no_latency_and_a_long_one(control):
    top = opened(control, avg_read_latency=0, p99_read_latency=0)
    assert times(control, top, [Op.READ] * 3) == [0, 0, 0]
    year_us = 365 * 24 * 3600 * 10**6
    update = {"delay_bdev_name": "Slow", "latency_type": "avg_read"}
    control.call("bdev_delay_update_latency", **update, latency_us=year_us)
    assert times(control, top, [Op.READ]) == [year_us]


# Ends


@pytest.mark.rule("A.27.25", "A.16.3")
@pytest.mark.parametrize("op", [Op.READ, Op.WRITE])
def test_abort_finds_what_is_held(control, op):
    top = opened(control)
    data = bytearray(512)
    requests = [top.submit(op, n, 1, data) for n in range(5)]
    control.stack.settle()
    abort = top.submit(Op.ABORT, 0, 0, victim=requests[2])
    control.stack.settle()
    assert (abort.status, requests[2].status) == (Status.SUCCESS, Status.ABORTED)
    assert [r.done for r in requests] == [False, False, True, False, False]
    control.stack.pass_time(300)
    control.stack.settle()
    assert [r.status for r in requests].count(Status.SUCCESS) == 4


@pytest.mark.rule("A.27.25")
def test_abort_of_what_the_base_has_goes_to_the_base(control):
    stub = control.stack.disk(Stub, name="Disk", num_blocks=64)
    delay(control)
    top = control.stack.open("Slow")
    held, below = (top.submit(Op.READ, n, 1, bytearray(512)) for n in range(2))
    control.stack.settle()
    stub.complete([0])
    control.stack.settle()
    abort = top.submit(Op.ABORT, 0, 0, victim=below)
    control.stack.settle()
    assert [op for op, *_ in stub.arrived] == [Op.READ, Op.READ, Op.ABORT]
    stub.complete(None, Status.FAILED)
    control.stack.settle()
    assert (abort.status, held.done) == (Status.FAILED, False)
    control.stack.turn_until(lambda: held.done and below.done)


@pytest.mark.rule("A.27.25")
def test_reset_ends_all_that_is_held_on_every_channel(control):
    top = opened(control)
    other = control.stack.open("Slow", holder="other")
    held = [one.submit(op, 0, 1, bytearray(512)) for one in (top, other) for op in (1, 2)]
    control.stack.settle()
    reset = top.io(Op.RESET, 0, 0)
    control.stack.settle()
    assert reset.status == Status.SUCCESS
    assert [r.status for r in held] == [Status.ABORTED] * 4
    assert times(control, top, [Op.READ]) == [100]


@pytest.mark.rule("A.7.11")
def test_hot_removal_waits_for_what_is_held(control):
    top = opened(control)
    request = top.submit(Op.READ, 0, 1, bytearray(512))
    control.stack.settle()
    removal = control.stack.reactor.spawn(control.registry.delete("Disk", "malloc"))
    control.stack.pass_time(99)
    assert not removal.done
    control.stack.turn_until(lambda: removal.done)
    assert request.status == Status.SUCCESS
    assert control.names() == []


# Control plane


@pytest.mark.rule("A.5.2", "A.20.4")
def test_create_now_and_later(control):
    assert delay(control) == "Slow"
    assert control.names() == []
    assert (
        control.fails("bdev_delay_create", name="Slow", base_bdev_name="X", **LATENCIES) == EXISTS
    )
    disk(control)
    told = control.told("Slow")
    assert told["product_name"] == "delay"
    assert told["driver_specific"] == {
        "delay": {
            "name": "Slow",
            "base_bdev_name": "Disk",
            "uuid": told["uuid"],
            **LATENCIES,
        }
    }
    import hashlib

    digest = hashlib.sha1(NAMESPACE.bytes + uuid.UUID(U1).bytes).digest()
    assert told["uuid"] == str(uuid.UUID(bytes=digest[:16], version=5))
    assert control.fails("bdev_delay_create", name="Two", base_bdev_name="Disk", **LATENCIES) == (
        CLAIMED
    )
    assert control.call("bdev_delay_delete", name="Slow") is True
    assert control.fails("bdev_delay_delete", name="Slow") == NO_DEVICE


@pytest.mark.parametrize("verb", ["read", "write"])
def test_p99_is_not_less_than_the_average(control, verb):
    wrong = {**LATENCIES, f"p99_{verb}_latency": 50}
    for base in ("Disk", "Absent"):
        assert control.fails("bdev_delay_create", name="D", base_bdev_name=base, **wrong) == INVALID
    assert "50 us is less" in control.detail
    assert control.registry.config() == []


def test_parameters(control):
    complete = {"name": "Slow", "base_bdev_name": "Disk", **LATENCIES}
    for name in complete:
        missing = {key: value for key, value in complete.items() if key != name}
        assert control.fails("bdev_delay_create", **missing) == UNDECODED
    assert control.fails("bdev_delay_create", **{**complete, "avg_read_latency": -1}) == UNDECODED
    assert control.fails("bdev_delay_delete") == UNDECODED


def test_update_latency_answers(control):
    disk(control)
    update = {"latency_type": "avg_read", "latency_us": 1}
    assert control.fails("bdev_delay_update_latency", delay_bdev_name="No", **update) == (
        -32602,
        "The requested bdev does not exist.",
    )
    assert control.fails("bdev_delay_update_latency", delay_bdev_name="Disk", **update) == (
        -32600,
        "The requested bdev is not a delay bdev.",
    )
    delay(control)
    wrong = {"delay_bdev_name": "Slow", "latency_type": "avg", "latency_us": 1}
    assert control.fails("bdev_delay_update_latency", **wrong) == UNDECODED


@pytest.mark.rule("A.2.25", "D.10")
def test_it_follows_its_base(control):
    control.call("bdev_null_create", name="Disk", num_blocks=2048, block_size=512)
    delay(control)
    top = control.stack.open("Slow")
    control.call("bdev_null_resize", name="Disk", new_size=2)
    control.stack.settle()
    assert control.told("Slow")["num_blocks"] == 4096
    assert top.events == [BdevEvent.RESIZE]


@pytest.mark.rule("A.22.6")
def test_saved_as_updated_and_loads(control, tmp_path):
    disk(control)
    delay(control, seed=5)
    delay(control, "Waits", base="Absent")
    update = {"delay_bdev_name": "Slow", "latency_type": "avg_read", "latency_us": 2000}
    control.call("bdev_delay_update_latency", **update)
    assert control.told("Slow")["driver_specific"]["delay"]["avg_read_latency"] == 2000
    told, saved = control.told("Slow"), control.registry.config()
    (params, _) = [c["params"] for c in saved if c["method"] == "bdev_delay_create"]
    # A p99 below the average could not be created again, and is set behind.
    assert (params["avg_read_latency"], params["p99_read_latency"], params["seed"]) == (
        2000,
        2000,
        5,
    )
    control.reload(tmp_path / "config.json")
    assert (control.told("Slow"), control.registry.config()) == (told, saved)


@pytest.mark.rule("A.27.25")
def test_reset_ends_what_is_held_on_all_reactors():
    control = Control(reactors=3)
    disk(control)
    delay(control)
    tops = [control.stack.open("Slow", on=number) for number in range(3)]
    held = [top.submit(Op.READ, 0, 1, bytearray(512)) for top in tops]
    control.stack.settle()
    assert not any(request.done for request in held)
    reset = tops[1].submit(Op.RESET, 0, 0)
    control.stack.settle()
    assert reset.status == Status.SUCCESS
    assert [request.status for request in held] == [Status.ABORTED] * 3
    assert times(control, tops[2], [Op.WRITE]) in ([300], [3000])
    control.stack.close()
