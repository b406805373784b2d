"""The simulation for some seconds, of each emphasis. `make test-long` runs it for ten minutes."""

import json
from pathlib import Path

import pytest

from simulation import world
from simulation.canaries import CANARIES
from simulation.running import run, shrink, tell
from simulation.steps import EMPHASES, make_run
from vbdev.reactor.reactor import Reactor
from vbdev.reactor.task import Future

STEPS = 250
SEEDS = {"all": 6, "floods": 2, "crowds": 2, "stallers": 2}
FOUND = sorted((Path(__file__).parent / "found").glob("*.json"))

# A run is a process of its own, which has no threads and needs none of this one's.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize("emphasis", EMPHASES)
def test_run(emphasis):
    for seed in range(SEEDS.get(emphasis, 4)):
        wanted = make_run(seed, emphasis, STEPS)
        result = run(wanted)
        assert "failure" not in result, tell(wanted, result)


@pytest.mark.parametrize("file", FOUND, ids=lambda file: file.stem)
def test_what_was_found_once(file):
    wanted = json.loads(file.read_text())
    result = run(wanted)
    assert "failure" not in result, tell(wanted, result)


def test_a_seed_is_a_run():
    wanted = make_run(1, "quiet", STEPS)
    first, second = run(wanted), run(json.loads(json.dumps(wanted)))
    assert first == second


def test_what_others_left_behind_is_not_the_runs():
    """A run is forked, with all that other tests have in this process."""
    reactor, forever = Reactor(), Future()

    async def wait():
        await forever

    try:
        reactor.spawn(wait(), "somebody else's")
        reactor.poll()
        wanted = make_run(0, "quiet", 20)
        result = run(wanted)
        assert "failure" not in result, tell(wanted, result)

        def prepare():
            world.World.__init__ = leaves_a_task(world.World.__init__)

        assert "its own" in run(wanted, prepare)["text"]
    finally:
        forever.set_result(None)
        reactor.poll()
        reactor.close()


def leaves_a_task(init):
    """Return an `init` of a world in which a task waits for ever."""

    async def wait():
        await Future()

    def leave(self, options):
        init(self, options)
        with self.app.reactor.here():
            self.left = self.app.reactor.spawn(wait(), "its own")

    return leave


def test_a_failure_is_told_shrinks_and_is_played_again():
    prepare = CANARIES["drop an I/O"].prepare
    wanted = make_run(0, "quiet", STEPS)
    result = run(wanted, prepare)
    assert result["failure"] == "answer"
    told = tell(wanted, result)
    assert "seed 0, emphasis quiet" in told
    assert "has no answer after" in told
    short = shrink(wanted, result, prepare, tries=40)
    assert len(short["steps"]) < len(wanted["steps"]) // 4
    assert run(json.loads(json.dumps(short)), prepare)["failure"] == "answer"


def test_a_turn_that_never_ends_is_a_failure():
    def prepare():
        def for_ever(_self, _did):
            while True:
                pass

        world.TURN_CPU_S = 0.2
        world.World._look_after = for_ever

    result = run(make_run(0, "quiet", 20), prepare)
    assert result["failure"] == "turn"
    assert "has not ended" in result["text"]
