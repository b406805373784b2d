"""The engine: frames and order, `completed`, exceptions, refusals, counters.

Method: vbdevs made for each test, above a stub whose completions the test decides. The fixture
holds that every stack ends with no I/O, buffer or misuse left over.
"""

import errno

import pytest

from support.stack import Stub, describe, forward, gather, layer
from support.stack import stack as new_stack
from vbdev.bdev import ALL_OPS
from vbdev.bdev.entry import entry_of
from vbdev.modules.null import Null
from vbdev.vocab import MAX_STACK_DEPTH, IoFlag, Op, Status


def tower(stack, classes, base="Disk"):
    """Stack vbdevs of these classes, the lowest first, and open the last."""
    for number, cls in enumerate(classes):
        stack.layer(cls, name=f"L{number}", base=base)
        base = f"L{number}"
    return stack.open(base)


# Order and frames


def test_submission_and_completion_order(stack):
    disk = stack.disk(Stub)
    top = tower(stack, [layer()] * 3)
    ended = []
    for offset in range(6):
        top.submit(Op.READ, offset, 1, callback=lambda _r, offset=offset: ended.append(offset))
    assert [offset for _, offset, _ in disk.arrived] == list(range(6))
    disk.complete([4, 0, 5])
    assert ended == []  # nothing runs inside a completion
    stack.settle()
    assert ended == [4, 0, 5]
    assert top.channel.outstanding == 3
    disk.complete()
    stack.settle()
    assert ended == [4, 0, 5, 1, 2, 3]


def test_one_call_per_layer_for_a_batch(stack):
    calls = []

    def submit(_self, channel, ios):
        calls.append(len(ios))
        channel.base.submit(ios)

    disk = stack.disk(Stub)
    top = tower(stack, [layer(submit), layer(submit), gather(5)])
    for offset in range(5):
        top.submit(Op.READ, offset)
    assert calls == [5, 5]
    assert disk.batch_sizes == [5]
    assert (top.channel.base.mean_batch, top.channel.mean_batch) == (5.0, 1.0)
    disk.complete()


@pytest.mark.rule("A.10.6")
def test_a_hundred_thousand_completions_inside_submit_do_not_recurse():
    """64 layers over null: each callback submits the next I/O, which completes inside submit."""
    with new_stack() as stack:
        stack.disk(Null)
        top = tower(stack, [layer()] * 64)
        rounds = 25_000
        left = [rounds]

        def again(request):
            assert request.status == Status.SUCCESS
            left[0] -= 1
            if left[0] >= 4:
                top.submit(Op.READ, 0, 1, callback=again)

        for _ in range(4):
            top.submit(Op.READ, 0, 1, callback=again)
        stack.settle(turns=1_000_000)
        assert left == [0]
        assert top.channel.stats()["read"][0] == rounds


def test_a_hundred_thousand_at_once():
    with new_stack(pool_size=100_000) as stack:
        disk = stack.disk(Null)
        top = tower(stack, [layer()] * 2)
        for _ in range(100_000):
            top.submit(Op.WRITE_ZEROES)
        assert stack.engine.ios_in_use == 100_000
        stack.settle()
        assert stack.engine.ios_in_use == 0
        assert stack.engine.delivered == 100_000
        assert entry_of(disk).openers


def test_drain_inside_drain_does_nothing(stack):
    inner = []
    disk = stack.disk(Stub)

    def completed(_self, _channel, _ios):
        inner.append(stack.engine.drain())

    top = tower(stack, [layer(None, completed)])
    top.submit(Op.READ)
    disk.complete()
    stack.settle()
    assert inner == [0]


# `completed`


def test_completed_sees_every_layers_ios_in_one_batch(stack):
    seen = []

    def completed(self, channel, ios):
        assert channel.bdev is self
        seen.append((self.name, describe(ios), ios.statuses.tolist()))

    disk = stack.disk(Stub)
    top = tower(stack, [layer(None, completed), layer(), layer(None, completed)])
    for offset in range(3):
        top.submit(Op.READ, offset)
    disk.complete([2, 0])
    disk.complete([0], Status.FAILED)
    stack.settle()
    ios = [(Op.READ, 2, 1), (Op.READ, 0, 1), (Op.READ, 1, 1)]
    assert seen == [("L0", ios, [1, 1, -1]), ("L2", ios, [1, 1, -1])]


@pytest.mark.parametrize("taken", [False, True])
def test_completed_tries_again(stack, taken):
    """Both ways of giving the I/Os back to the base, which holds the batch it is given."""
    tries = []

    def completed(_self, channel, ios):
        tries.append(ios.statuses.tolist())
        again = ios.take(ios.statuses != Status.SUCCESS)
        if not taken:
            ios.complete()
            ios.extend(again)
            again = ios
        if len(tries) < 3:
            channel.base.submit(again)
        else:
            again.complete(Status.FAILED, errno.EREMOTEIO)

    held = []

    def hold(_self, _channel, ios):
        held.append(ios)  # the very batch

    low = layer(hold)
    stack.disk()
    top = tower(stack, [low, layer(None, completed)])
    requests = [top.submit(Op.READ, 0, 1) for _ in range(4)]
    stack.settle()
    ones = [one for ios in held for one in ios.split()]
    held.clear()
    for one in ones:
        one.complete(Status.FAILED if one is not ones[1] else Status.SUCCESS)
    stack.settle()
    assert [r.done for r in requests] == [False, True, False, False]
    (ios,) = held
    assert len(ios) == 3, "the batch is the base's: nobody else empties it"
    held.clear()
    ios.complete(Status.FAILED)
    stack.settle()
    held.pop().complete(Status.FAILED)
    stack.settle()
    assert [len(statuses) for statuses in tries] == [4, 3, 3]
    assert {(r.status, r.errno) for r in requests} == {
        (Status.SUCCESS, 0),
        (Status.FAILED, errno.EREMOTEIO),
    }


def test_completed_comes_again_when_the_base_refuses_the_second_try(stack):
    seen = []

    def completed(_self, channel, ios):
        seen.append(ios.statuses.tolist())
        if len(seen) == 1:
            ios.shift(1 << 40)
            channel.base.submit(ios)

    disk = stack.disk(Stub)
    top = tower(stack, [layer(None, completed)])
    request = top.submit(Op.READ, 7)
    disk.complete()
    stack.settle()
    assert seen == [[Status.SUCCESS], [Status.FAILED]]
    assert (request.status, request.errno) == (Status.FAILED, errno.EINVAL)


def test_completed_does_not_see_what_submit_never_got(stack):
    seen = []

    def completed(_self, _channel, ios):
        seen.append(describe(ios))

    stack.disk(Stub)
    top = tower(stack, [layer(None, completed)])
    assert top.io(Op.COPY, 0, 1, src_offset_blocks=1 << 40).errno == errno.EINVAL
    assert top.io(Op.READ, 1 << 40).errno == errno.EINVAL
    assert top.io(Op.ABORT, 0, 0).errno == errno.ENOENT
    assert seen == []


def test_completed_changes_a_status_and_holds(stack):
    held = []

    def completed(_self, _channel, ios):
        ios.take(ios.offset_blocks == 0).complete(Status.MISCOMPARE)
        ios.take(ios.offset_blocks == 1).complete(Status.SUCCESS)
        held.append(ios.take(ios.offset_blocks == 2))

    disk = stack.disk(Stub)
    seen_above = []

    def above(_self, _channel, ios):
        seen_above.extend(zip(ios.offset_blocks.tolist(), ios.statuses.tolist(), strict=True))

    top = tower(stack, [layer(None, completed), layer(None, above)])
    requests = [top.submit(Op.READ, offset) for offset in range(4)]
    disk.complete(None, Status.FAILED, errno.ENOSPC)
    stack.settle()
    assert [r.status for r in requests] == [Status.MISCOMPARE, Status.SUCCESS, 0, Status.FAILED]
    assert requests[3].errno == errno.ENOSPC
    assert not requests[2].done
    assert stack.engine.held_by(top.channel.base) == 1
    held.pop().complete()
    stack.settle()
    assert requests[2].status == Status.FAILED  # without a word, what was below stays
    assert sorted(seen_above) == [(0, -5), (1, 1), (2, -1), (3, -1)]


def test_completed_sends_up_what_it_puts_into_the_batch(stack):
    """An I/O held since `submit` rides up with another: it is SUCCESS, and not shown again."""
    held, shown = [], []

    def submit(_self, channel, ios):
        held.append(ios.take(Op.FLUSH))
        channel.base.submit(ios)

    def completed(_self, _channel, ios):
        shown.append(len(ios))
        for flush in held:
            ios.extend(flush)

    disk = stack.disk(Stub)
    top = tower(stack, [layer(submit, completed)])
    flush = top.submit(Op.FLUSH, 0, 0)
    read = top.submit(Op.READ)
    disk.complete()
    stack.settle()
    assert (flush.status, read.status, shown) == (Status.SUCCESS, Status.SUCCESS, [1])


# Exceptions


def test_an_exception_in_submit_fails_exactly_what_is_still_held(stack):
    kept = []

    def submit(_self, channel, ios):
        ios.take(Op.FLUSH).complete()
        channel.base.submit(ios.take(Op.WRITE_ZEROES))
        kept.append(ios.take(Op.UNMAP))
        raise RuntimeError("boom")

    disk = stack.disk(Stub)
    top = tower(stack, [layer(submit), gather(4)])
    requests = {op: top.submit(op, 0, 1) for op in (Op.READ, Op.FLUSH, Op.WRITE_ZEROES, Op.UNMAP)}
    stack.settle()
    assert {op.name: request.status for op, request in requests.items()} == {
        "READ": Status.FAILED,
        "UNMAP": Status.FAILED,
        "FLUSH": Status.SUCCESS,
        "WRITE_ZEROES": 0,
    }
    (report,) = stack.errors
    assert (report[0], str(report[1]), report[2]) == ("L0", "boom", 2)
    disk.complete()
    stack.settle()
    assert requests[Op.WRITE_ZEROES].status == Status.SUCCESS
    assert len(kept[0]) == 0  # it gave up what it held when it raised
    kept[0].complete()


@pytest.mark.parametrize("where", ["submit", "completed"])
def test_a_batch_given_on_before_the_exception_stays_whole(stack, where):
    held = []

    def hold(_self, _channel, ios):
        held.append(ios)

    def raise_behind(_self, channel, ios):
        if not stack.errors:
            channel.base.submit(ios)
            raise RuntimeError("boom")

    stack.disk()
    hooks = (raise_behind, None) if where == "submit" else (None, raise_behind)
    top = tower(stack, [layer(hold), layer(*hooks)])
    request = top.submit(Op.READ)
    if where == "completed":
        held.pop().complete()
        stack.settle()
    (ios,) = held
    assert (len(ios), request.done) == (1, False)
    assert [n for _, _, n in stack.errors] == [0]
    ios.complete(Status.ABORTED)
    stack.settle()
    assert request.status == Status.ABORTED


def test_an_exception_in_completed_fails_what_was_taken_and_what_was_left(stack):
    kept = []

    def completed(_self, channel, ios):
        ios.take(ios.offset_blocks == 0).complete(Status.SUCCESS)
        channel.base.submit(ios.take(ios.offset_blocks == 1))
        kept.append(ios.take(ios.offset_blocks == 2))
        raise RuntimeError("boom")

    disk = stack.disk(Stub)
    bad = layer(None, completed, kind="bad")
    top = tower(stack, [bad])
    requests = [top.submit(Op.READ, offset) for offset in range(4)]
    disk.complete()
    stack.settle()
    assert [r.status for r in requests] == [Status.SUCCESS, 0, Status.FAILED, Status.FAILED]
    assert [(who, n) for who, _, n in stack.errors] == [("L0", 2)]
    bad.completed = lambda _self, _channel, _ios: None
    entry_of(stack.registry.find("L0")).reconfigure(top.channel)
    disk.complete()
    stack.settle()
    assert requests[1].status == Status.SUCCESS


def test_an_exception_leaves_alone_what_waits_for_memory():
    """copy_data keeps some back; then the module raises: those come to it again, once."""
    calls = []

    def submit(_self, channel, ios):
        ios.copy_data(Op.WRITE)
        calls.append(len(ios))
        if len(calls) == 1:
            raise RuntimeError("boom")
        channel.base.submit(ios)

    with new_stack(buffer_limit_bytes=4096) as small:
        disk = small.disk(Stub)
        top = tower(small, [layer(submit), gather(3)])
        requests = [top.submit(Op.WRITE, n, 1, bytes(512)) for n in range(3)]
        small.settle()
        assert requests[0].status == Status.FAILED
        assert [n for _, _, n in small.errors] == [1]
        for n in (1, 2):
            assert describe(disk.held[0]) == [(Op.WRITE, n, 1)]
            disk.complete()
            small.settle()
        assert [r.status for r in requests[1:]] == [Status.SUCCESS] * 2
        assert small.engine.misused == 0


def test_what_the_error_handler_raises_is_printed(stack, monkeypatch):
    unraisable = []
    monkeypatch.setattr("sys.unraisablehook", unraisable.append)

    def bad(_self, _channel, _ios):
        raise RuntimeError("boom")

    def handler(*_args):
        raise ValueError("the handler is broken")

    stack.engine.on_module_error = handler
    stack.disk(Stub)
    top = tower(stack, [layer(bad)])
    assert top.io(Op.READ).status == Status.FAILED
    assert [str(u.exc_value) for u in unraisable] == ["the handler is broken"]


def test_keyboard_interrupt_fails_the_batch_and_goes_on_up(stack):
    raised = []

    def interrupted(_self, _channel, ios):
        if not raised:
            raised.append(len(ios))
            raise KeyboardInterrupt

    disk = stack.disk(Stub)
    top = tower(stack, [layer(), layer(None, interrupted)])
    other = stack.open("Disk", write=False)
    requests = [top.submit(Op.READ, n) for n in range(3)] + [other.submit(Op.READ)]
    disk.complete()
    with pytest.raises(KeyboardInterrupt):
        stack.reactor.poll()
    stack.settle()
    assert [r.status for r in requests] == [Status.FAILED] * 3 + [Status.SUCCESS]
    assert stack.errors == []


@pytest.mark.rule("A.10.7")
def test_what_a_module_gave_up_can_not_be_completed_again(stack):
    """Its batches have forgotten what failed because it raised."""
    kept = []

    def submit(_self, _channel, ios):
        kept.append(ios.take())
        raise RuntimeError("boom")  # which completes them

    stack.disk(Stub)
    top = tower(stack, [layer(submit), gather(2)])
    requests = [top.submit(Op.READ), top.submit(Op.READ)]
    assert not requests[0].done
    assert len(kept[0]) == 0
    kept[0].complete(Status.SUCCESS)
    stack.settle()
    assert [r.status for r in requests] == [Status.FAILED] * 2


def test_a_batch_forgets_what_it_gave_away(stack):
    """So completing behind a submit, or twice, touches nothing."""

    def submit(_self, channel, ios):
        channel.base.submit(ios)
        ios.complete(Status.FAILED)

    disk = stack.disk(Stub)
    top = tower(stack, [layer(submit)])
    request = top.submit(Op.READ)
    (one,) = disk.held
    disk.complete()
    one.complete(Status.FAILED)
    stack.settle()
    assert request.status == Status.SUCCESS


# Refusals


@pytest.mark.rule("A.9.23", "A.9.30", "E.bdev_ut.io_valid_test")
@pytest.mark.parametrize(
    ("offset", "count", "good"),
    [
        (0, 1024, True),
        (1023, 1, True),
        (1024, 0, True),
        (0, 1025, False),
        (1024, 1, False),
        (1023, 2, False),
        (2**64 - 1, 1, False),
        (2**64 - 1, 2**64 - 1, False),
        (1, 2**64 - 1, False),
        (2**63, 2**63, False),
    ],
)
def test_range(stack, offset, count, good):
    stack.disk()
    top = tower(stack, [layer()])
    request = top.io(Op.UNMAP, offset, count)
    expected = (Status.SUCCESS, 0) if good else (Status.FAILED, errno.EINVAL)
    assert (request.status, request.errno) == expected


@pytest.mark.rule("A.9.18")
@pytest.mark.parametrize(
    ("source", "good"), [(0, True), (1016, True), (1017, False), (2**64 - 1, False)]
)
def test_range_of_a_copys_source(stack, source, good):
    stack.disk()
    request = stack.open("Disk").io(Op.COPY, 0, 8, src_offset_blocks=source)
    assert (request.status == Status.SUCCESS) == good


def test_types_that_are_not_supported(stack):
    stack.disk(Null)
    top = tower(stack, [layer()])
    refused = {op for op in Op if not stack.registry.find("Disk").can(op)}
    for op in refused:
        request = top.io(op, 0, 1)
        assert (request.status, request.errno) == (Status.FAILED, errno.ENOTSUP)
    assert {Op.UNMAP, Op.ZCOPY, Op.NVME_IO, Op.ZONE_APPEND} <= refused


@pytest.mark.rule("A.9.2")
def test_read_only(stack):
    stack.disk()
    reader = stack.open("Disk", write=False)
    for op in (Op.WRITE, Op.UNMAP, Op.FLUSH, Op.WRITE_ZEROES, Op.ZCOPY, Op.COPY):
        request = reader.io(op, 0, 1, bytes(512) if op == Op.WRITE else None)
        assert (request.status, request.errno) == (Status.FAILED, errno.EBADF), op
    assert reader.io(Op.ZONE_APPEND).errno == errno.ENOTSUP
    assert reader.io(Op.READ).status == Status.SUCCESS
    assert reader.io(Op.COMPARE, 0, 1, bytes(512)).status == Status.SUCCESS


def test_fua_is_refused_where_it_can_not_be_kept(stack):
    class Cached(Stub):
        write_cache = True

    class CachedFua(Cached):
        fua = True

    for cls, number in ((Cached, errno.ENOTSUP), (CachedFua, 0)):
        disk = stack.disk(cls, name=cls.__name__)
        top = stack.open(cls.__name__)
        request = top.submit(Op.WRITE, 0, 1, bytes(512), flags=IoFlag.FUA)
        disk.complete()
        stack.settle()
        assert request.errno == number


def test_a_stack_as_deep_as_the_frames(stack):
    """The registry builds no deeper one, so the engine's own check is reached by a channel."""
    stack.disk(Null)
    top = tower(stack, [layer()] * (MAX_STACK_DEPTH - 1))
    assert top.io(Op.READ).status == Status.SUCCESS

    def loop(_self, channel, ios):
        channel.submit(ios)

    stack.disk(type("Loop", (Null,), {"submit": loop}), name="Loop")
    request = stack.open("Loop").io(Op.READ)
    assert (request.status, request.errno) == (Status.FAILED, errno.ELOOP)


def test_a_closed_channel_refuses(stack):
    stack.disk()
    closed = stack.open("Disk")
    closed.close()
    opened = stack.open("Disk")
    request = opened.requests.submit(closed.channel, Op.READ, 0, 1)
    stack.settle()
    assert (request.status, request.errno) == (Status.FAILED, errno.EBADF)
    assert stack.errors == []


def test_a_channel_with_ios_does_not_close(stack):
    disk = stack.disk(Stub)
    top = stack.open("Disk")
    top.submit(Op.READ)
    with pytest.raises(RuntimeError, match="1 I/Os outstanding"):
        top.channel.close()
    with pytest.raises(RuntimeError, match="1 I/Os in flight"):
        top.requests.close()
    disk.complete()
    stack.settle()


# Counters


def test_each_layer_counts_what_passed_it(stack):
    disk = stack.disk(Stub)

    def submit(_self, channel, ios):
        ios.take(ios.offset_blocks == 9).complete(Status.ABORTED)
        channel.base.submit(ios)

    top = tower(stack, [layer(submit)])
    for op, offset, count in (
        (Op.READ, 0, 8),
        (Op.READ, 8, 2),
        (Op.WRITE, 0, 4),
        (Op.UNMAP, 0, 3),
        (Op.COPY, 8, 5),
        (Op.FLUSH, 0, 0),
        (Op.WRITE_ZEROES, 0, 1),
        (Op.READ, 9, 1),
        (Op.READ, 20, 1),
    ):
        top.submit(op, offset, count, bytes(count * 512) if op == Op.WRITE else None)
    top.submit(Op.READ, 5000, 1)  # refused at the door: not counted
    stack.pass_time(10)
    disk.complete([0, 2, 3, 4, 5, 6])
    stack.settle()
    stack.pass_time(20)
    disk.complete([0])
    disk.complete([0], Status.FAILED)
    stack.settle()
    us = 1000
    below = {
        "read": (2, 10, 40 * us, 30 * us, 10 * us),
        "write": (1, 4, 10 * us, 10 * us, 10 * us),
        "unmap": (1, 3, 10 * us, 10 * us, 10 * us),
        "copy": (1, 5, 10 * us, 10 * us, 10 * us),
    }
    assert top.channel.base.stats() == below
    assert top.channel.stats() == below
    assert top.channel.base.errors() == {Status.FAILED: 1}
    assert top.channel.errors() == {Status.FAILED: 1, Status.ABORTED: 1}
    channel = top.channel
    channel.reset_stats(counts=False, extremes=True, errors=False)
    assert channel.stats()["read"] == (2, 10, 40 * us, 0, 0)
    assert channel.errors()
    channel.reset_stats(counts=True, extremes=False, errors=True)
    assert channel.stats()["read"] == (0, 0, 0, 0, 0)
    assert channel.errors() == {}


def test_runs_that_part_are_counted_once(stack):
    """I/Os that came down together through one layer, from two openers with other layers."""
    stack.disk(Null)
    low = layer(forward)
    stack.layer(low, name="Low")
    stack.layer(layer(), name="Mid", base="Low")
    tops = [stack.open("Mid"), stack.open("Mid"), stack.open("Low", write=False)]
    for _ in range(50):
        for top in tops:
            top.submit(Op.READ, 0, 2)
            top.submit(Op.READ, 0, 2)
    stack.settle()
    assert [top.channel.stats()["read"][:2] for top in tops] == [(100, 200)] * 3
    assert tops[0].channel.base.stats()["read"][:2] == (200, 400)
    assert tops[2].channel.base.stats()["read"][:2] == (300, 600)
    assert tops[2].channel.base.outstanding == 0
    assert stack.registry.find("Mid").ops <= ALL_OPS
