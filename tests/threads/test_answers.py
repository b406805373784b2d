"""Who asks a reactor, or awaits a task, is answered, whatever becomes of it."""

import pytest

from vbdev.reactor.questions import ReactorStoppedError
from vbdev.reactor.reactor import Reactor

STOPS = (KeyboardInterrupt, SystemExit)
EACH = pytest.mark.parametrize("error", [*STOPS, GeneratorExit, BaseException, ValueError])


def turn(*reactors):
    """Turn reactors by hand; return what left their loops."""
    left = []
    for _ in range(10):
        for reactor in reactors:
            try:
                reactor.poll()
            except BaseException as error:  # noqa: BLE001 - looked at by the tests
                left.append(type(error))
    return left


@pytest.fixture
def two():
    reactors = Reactor(), Reactor(reactor_id=2)
    yield reactors
    for reactor in reactors:
        reactor.close()


def bad(error):
    raise error("user code")


@EACH
def test_an_asker_hears_of_whatever_is_raised(two, error):
    one, other = two
    with one.here():
        future = other.ask(bad, error)
    assert turn(one, other) == ([error] if error in STOPS else [])
    with pytest.raises(ValueError if error is ValueError else RuntimeError) as raised:
        future.result()
    assert error is ValueError or type(raised.value.__cause__) is error


@pytest.mark.parametrize("end", ["finish", "close"])
def test_an_asker_hears_that_a_reactor_has_ended(two, end):
    """With another's message before that ends the loop, too."""
    one, other = two
    other.send_msg(bad, SystemExit)
    with one.here():
        future = other.ask(lambda: "still")
    if end == "finish":
        with pytest.raises(SystemExit):
            other.finish()
    other.close()
    turn(one)
    if end == "finish":
        assert future.result() == "still"
    else:
        with pytest.raises(ReactorStoppedError):
            future.result()


@EACH
def test_who_awaits_a_task_goes_on_to_its_own_end(two, error):
    one, _ = two
    ended = []

    async def ends():
        bad(error)

    async def main():
        try:
            await one.spawn(ends())
        except Exception as raised:  # noqa: BLE001 - whatever it is
            ended.append(raised)

    with one.here():
        one.spawn(main())
    assert turn(one) == ([error] if error in STOPS else [])
    assert len(ended) == 1


@EACH
@pytest.mark.parametrize("period_us", [0, 1])
def test_a_poller_goes_on(two, error, period_us):
    one, _ = two
    ran = []

    def function():
        ran.append(1)
        if len(ran) == 1:
            bad(error)
        return 1

    poller = one.register_poller(function, period_us)
    left = turn(one)
    while len(ran) < 3:
        left += turn(one)
    poller.unregister()
    assert left == ([error] if error in STOPS else [])


@pytest.mark.parametrize("answer", [10**30, 1.5, True, -(10**30), float("nan"), "much", None])
def test_a_poller_may_answer_anything(two, answer):
    one, _ = two
    poller = one.register_poller(lambda: answer)
    assert turn(one) == []
    poller.unregister()
