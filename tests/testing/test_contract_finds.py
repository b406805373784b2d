"""The contract suite finds what a module does wrong: each fault fails the tests that hold it.

Method: modules with one fault each, and the suite run over them as a runner would; a suite that
passes over a broken module would be worth nothing.
"""

import errno

import pytest

from vbdev.bdev import BdevError
from vbdev.modules.malloc import Malloc
from vbdev.modules.null import Null
from vbdev.testing import ContractSuite, LayerContractSuite, layer
from vbdev.vocab import Op, Status

pytestmark = [
    pytest.mark.usefixtures("collected"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def failures(module, suite=ContractSuite, **attributes):
    """Return the names of the tests that fail for a module."""

    class Suite(suite):
        def params(self):
            own = {"num_blocks": 256, "block_size": 512} if suite is ContractSuite else {}
            return {**super().params(), **own}

    Suite.module = module
    for name, value in attributes.items():
        setattr(Suite, name, value)
    failed = set()
    for name in [name for name in dir(Suite) if name.startswith("test_")]:
        one = Suite()
        one.setup_method()
        try:
            getattr(one, name)()
            one.teardown_method()
        except (AssertionError, BdevError, RuntimeError):
            failed.add(name.removeprefix("test_"))
            one.stack.reactor.close()
            one._directory.cleanup()
    return failed


class Loses(Malloc):
    """Every tenth I/O never ends."""

    seen = 0

    def submit(self, channel, ios):
        for one in ios.split():
            self.seen += 1
            if self.seen % 10:
                super().submit(channel, one)
            else:
                self.lost = [*getattr(self, "lost", []), one]


class Lies(Malloc):
    """It names an op that fails."""

    def submit(self, channel, ios):
        ios.take(Op.COPY).complete(Status.FAILED, errno.ENOTSUP)
        super().submit(channel, ios)


class Forgets(Null):
    """What was written is not there, and it does not say so."""


class Raises(Malloc):
    def submit(self, channel, ios):
        if Op.RESET in ios.ops:
            raise ZeroDivisionError
        super().submit(channel, ios)


class Renews(Malloc):
    """It forgets the UUID that it was given."""

    async def start(self):
        await super().start()
        self.uuid = None


class Ignores(Malloc):
    """FUA would be ignored: it has a cache, and says that it can."""

    write_cache = True
    fua = False

    def refused_flags(self):
        return 0


class Swaps(Malloc):
    """Blocks come back from their neighbours."""

    def submit(self, channel, ios):
        reads = ios.take(Op.READ)
        reads.offset_blocks = reads.offset_blocks ^ 1
        super().submit(channel, reads)
        super().submit(channel, ios)


def hides(_self, _channel, ios):
    ios.take().complete(Status.SUCCESS)


def takes_a_whole_batch_for_one(_self, channel, ios):
    first = ios.split()
    channel.base.submit(first[0])
    for one in first[1:]:
        one.complete(Status.SUCCESS)


@pytest.mark.parametrize(
    ("module", "found"),
    [
        (Malloc, set()),
        (Loses, {"many_at_once", "batches_are_taken_whole"}),
        (Lies, {"every_op_that_is_named_succeeds", "what_was_written_is_read"}),
        (Forgets, {"what_was_written_is_read", "many_at_once", "batches_are_taken_whole"}),
        (Raises, {"reset_leaves_a_working_bdev", "every_op_that_is_named_succeeds"}),
        (Renews, {"the_creators_uuid_is_kept", "configuration_makes_the_same_again"}),
        (Ignores, {"flags_are_kept_or_refused"}),
        (Swaps, {"what_was_written_is_read"}),
    ],
)
def test_faults_of_bdevs_are_found(module, found):
    failed = failures(module)
    assert failed >= found, failed
    assert bool(failed) == bool(found), failed


@pytest.mark.parametrize(
    ("module", "found"),
    [
        (layer(), set()),
        (layer(completed=hides), {"a_failing_base_is_not_hidden"}),
        (layer(takes_a_whole_batch_for_one), {"batches_are_taken_whole"}),
    ],
)
def test_faults_of_vbdevs_are_found(module, found):
    failed = failures(module, LayerContractSuite)
    assert failed >= found, failed
    assert bool(failed) == bool(found), failed


def test_a_suite_that_is_told_of_it_accepts_forgetting():
    assert failures(Forgets, forgets=True) == set()
