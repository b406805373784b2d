"""Requests about one name that overlap: what one has begun, the others find."""

import errno
import logging

import pytest

from support.stack import Stub, stack
from vbdev.bdev import BdevError, Unnamed
from vbdev.modules.malloc import Malloc
from vbdev.modules.passthru import Passthru
from vbdev.reactor.task import gather


@pytest.fixture
def made():
    with stack() as stack_:
        yield stack_


class Slow(Stub):
    """Takes 1 ms to start, as a disk does that has to be formatted."""

    kind = "slow"
    product_name = "slow"
    auto_name = "Slow"

    async def start(self):
        await self.reactor.sleep(1000)
        await super().start()


def create(made, cls, **params):
    if issubclass(cls, Stub):
        params |= {"num_blocks": 8, "block_size": 512}
    return made.registry.create(cls, cls.Params(**params))


def test_names_that_are_made_up_at_one_time_differ(made):
    tasks = [made.reactor.spawn(create(made, Slow, name=Unnamed())) for _ in range(3)]
    assert made.run(gather(tasks)) == ["Slow0", "Slow1", "Slow2"]


def test_a_name_is_taken_as_soon_as_somebody_makes_a_bdev_of_it(made):
    """Else there would be a bdev and a wish for another one of its name, which both are saved."""
    first = made.reactor.spawn(create(made, Slow, name="One"))
    made.reactor.poll()
    for cls, params in ((Slow, {}), (Passthru, {"base_bdev_name": "Later"})):
        with pytest.raises(BdevError) as caught:
            made.run(create(made, cls, name="One", **params))
        assert caught.value.errno == errno.EEXIST
    assert not first.done
    assert made.registry.creations == {}
    made.turn_until(lambda: first.done)
    assert [bdev.name for bdev in made.registry] == ["One"]


def test_a_name_is_free_again_when_its_bdev_does_not_start(made):
    class Failing(Slow):
        kind = "failing"

        async def start(self):
            await self.reactor.sleep(1000)
            raise BdevError(errno.EIO, "no")

    with pytest.raises(BdevError):
        made.run(create(made, Failing, name="One"))
    assert made.run(create(made, Slow, name="One")) == "One"


def test_who_removes_a_bdev_that_loses_its_base_is_not_in_the_way(made, caplog):
    made.disk(Malloc)
    top = made.layer(Passthru)
    with caplog.at_level(logging.ERROR):
        task = made.reactor.spawn(made.registry.delete("Top", "passthru"))
        made.registry.hot_remove(top)
        made.settle()
    assert task.done
    assert made.registry.find("Top") is None
    assert caplog.messages == []
