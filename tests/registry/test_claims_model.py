"""Claims against a plain model: any sequence of opens, closes, claims and releases.

Method: Hypothesis drives a bdev and a model of a few lines; what is refused, with which errno, and
what is claimed afterwards must be the same. The model is SPDK's rules, written down once more.
"""

import errno

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.strategies import data, sampled_from

from support.stack import Stack
from vbdev.bdev import BdevError
from vbdev.bdev.entry import entry_of
from vbdev.registry.claims import claim_bdev, claim_descriptor, release_bdev
from vbdev.vocab import ClaimType, Op

V1 = ClaimType.EXCLUSIVE_WRITE
RWO = ClaimType.READ_MANY_WRITE_ONE
ROM = ClaimType.READ_MANY_WRITE_NONE
RWM = ClaimType.READ_MANY_WRITE_SHARED


class Claims(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.stack = Stack()
        self.disk = self.stack.disk()
        self.opened = []
        self.writers = set()  # of what is open
        self.kind, self.key, self.by = None, 0, []

    def expect(self, number, action):
        """Carry out what the model says ends with an errno (0: it works)."""
        got = 0
        try:
            action()
        except BdevError as error:
            got = error.errno
        assert got == number
        return not got

    @precondition(lambda self: len(self.opened) < 5)
    @rule(write=sampled_from([False, False, False, True]))
    def open(self, write):
        number = errno.EPERM if write and self.kind else 0
        made = []
        if self.expect(number, lambda: made.append(self.stack.open("Disk", write=write))):
            self.opened += made
            if write:
                self.writers.add(made[0])

    @precondition(lambda self: self.opened)
    @rule(which=data())
    def close(self, which):
        gone = which.draw(sampled_from(self.opened))
        gone.close()
        self.opened.remove(gone)
        self.writers.discard(gone)
        if gone in self.by:
            self.by.remove(gone)
            if not self.by:
                self.kind = None

    @precondition(lambda self: self.opened)
    @rule(
        which=data(),
        kind=sampled_from([V1, RWO, ROM, ROM, RWM, RWM, RWM]),
        key=sampled_from([-1, -1, 0, 1, 2]),
    )
    def claim(self, which, kind, key):
        if key < 0:  # what suits it
            key = 1 if kind is RWM else 0
        one = which.draw(sampled_from(self.opened))
        number = self.answer(one, kind, key)
        if self.expect(number, lambda: claim_descriptor(one.descriptor, kind, "mod", key=key)):
            self.kind, self.key = kind, key
            if kind is not V1:
                self.by.append(one)
            if kind is not ROM:
                self.writers.add(one)

    def answer(self, one, kind, key):
        if kind is V1:
            return errno.EPERM if self.kind else 0
        if bool(key) != (kind is RWM) or (kind is ROM and one in self.writers):
            return errno.EINVAL
        if self.kind is None:
            return errno.EPERM if self.writers - {one} else 0
        same = self.kind is kind and kind is not RWO and self.key == key
        return 0 if same and one not in self.by else errno.EPERM

    @rule(module=sampled_from(["mod", "other"]))
    def release(self, module):
        number = 0 if self.kind is V1 and module == "mod" else errno.EPERM
        if self.expect(number, lambda: release_bdev(self.disk, module)):
            self.kind = None

    @rule()
    def claim_without_descriptor(self):
        if self.expect(errno.EPERM if self.kind else 0, lambda: claim_bdev(self.disk, None, "mod")):
            self.kind, self.key = V1, 0

    @invariant()
    def same(self):
        claim = entry_of(self.disk).claim
        assert (claim.kind if claim else None) == self.kind
        if claim is not None and claim.kind is not V1:
            assert [hold.descriptor for hold in claim.holds] == [o.descriptor for o in self.by]
        for one in self.opened:
            may = one.io(Op.WRITE, 0, 1, bytes(512)).errno != errno.EBADF
            assert may is (one in self.writers) is one.descriptor.write

    def teardown(self):
        self.stack.close()


@pytest.mark.rule("A.3.14", "A.3.18", "A.2.14", "A.2.15")
def test_claims_are_what_the_model_says():
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        Claims, settings=settings(max_examples=100, stateful_step_count=40, deadline=None)
    )
