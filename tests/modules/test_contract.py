"""The contract that every module keeps, over the module table and under stacks of passthru.

Method: `vbdev.testing.ContractSuite`, the one that users get, with what each kind needs to be made.
A module that gets a row in `MODULES` needs a suite here.
"""

import errno

import pytest

from vbdev.bdev import BdevError, VirtualBdev
from vbdev.modules import MODULES
from vbdev.modules.aio import Aio
from vbdev.modules.malloc import Malloc
from vbdev.modules.null import Null
from vbdev.modules.passthru import Passthru
from vbdev.modules.uring import Uring
from vbdev.testing import ContractSuite, LayerContractSuite, Stack

NUM_BLOCKS = 256


class Sized(ContractSuite):
    def params(self):
        return {"num_blocks": NUM_BLOCKS, "block_size": 512}


class InAFile(ContractSuite):
    real_clock = True

    def params(self):
        path = self.directory / "disk"
        if not path.exists():
            path.write_bytes(bytes(NUM_BLOCKS * 4096))
        return {"filename": str(path), "block_size": 512}


@pytest.mark.rule("A.27.14")
class TestAio(InAFile):
    module = Aio

    def params(self):
        return {**super().params(), "fallocate": True}


@pytest.mark.rule("A.9.32", "A.9.23", "A.9.2", "A.22.6", "A.7.3", "E.bdevio.reset")
class TestMalloc(Sized):
    module = Malloc


class TestNull(Sized):
    module = Null
    forgets = True


@pytest.mark.rule("A.5.10", "A.7.11", "A.10.16", "D.12")
class TestPassthru(LayerContractSuite):
    module = Passthru


class TestUring(InAFile):
    module = Uring


def test_every_module_has_a_suite():
    suites = [value for value in globals().values() if isinstance(value, type)]
    suites = [suite for suite in suites if issubclass(suite, ContractSuite)]
    tested = {suite.module for suite in suites if hasattr(suite, "module")}
    assert tested == set(MODULES)


BAD_SIZES = [
    ("num_blocks", 0),
    ("num_blocks", -1),
    ("num_blocks", 2**60),
    ("block_size", 0),
    ("block_size", -512),
    ("block_size", 513),
    ("block_size", 2**32),
    ("physical_block_size", 1000),
]


@pytest.mark.rule("A.1.2")
@pytest.mark.parametrize("module", [Malloc, Null])
@pytest.mark.parametrize(("field", "value"), BAD_SIZES)
def test_sizes_that_make_no_disk(module, field, value):
    stack = Stack()
    with pytest.raises(BdevError) as caught:
        stack.disk(module, **{"num_blocks": NUM_BLOCKS, field: value})
    assert caught.value.errno == errno.EINVAL
    assert str(value) in str(caught.value)
    assert stack.registry.find("Disk") is None
    stack.close()


def test_vbdevs_are_told_from_bdevs():
    assert [m.kind for m in MODULES if issubclass(m, VirtualBdev)] == ["passthru"]
