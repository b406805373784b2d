"""The contract that every module keeps, over the module table and under stacks of passthru.

Method: `vbdev.testing.ContractSuite`, the one that users get, with what each kind needs to be made.
A module that gets a row in `MODULES` needs a suite here.
"""

import errno
import uuid

import pytest

from vbdev.bdev import BdevError, VirtualBdev
from vbdev.modules import MODULES
from vbdev.modules.aio import Aio
from vbdev.modules.delay import Delay
from vbdev.modules.error import Error
from vbdev.modules.gpt import Gpt
from vbdev.modules.malloc import Malloc
from vbdev.modules.nbd.disk import Nbd
from vbdev.modules.null import Null
from vbdev.modules.passthru import Passthru
from vbdev.modules.split import Split
from vbdev.modules.uring import Uring
from vbdev.modules.zone_block import ZoneBlock
from vbdev.registry import Registry
from vbdev.targets.nbd import NbdServer
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


class TestNbd(ContractSuite):
    """Against our own server, on the same reactor, with a registry of its own."""

    module = Nbd
    real_clock = True
    connections = 1

    def setup_method(self):
        super().setup_method()
        self.registry = Registry(self.stack.reactor)
        self.server = NbdServer(self.registry, [self.stack.reactor])
        self.server.listen(f"unix:{self.directory}/nbd.sock")

    def teardown_method(self):
        for opened in list(self.stack.descriptors):
            opened.close()
        self.stack.run(self.stack.registry.close())  # while there is a server to say goodbye to
        self.stack.run(self.server.close())
        self.stack.run(self.registry.close())
        super().teardown_method()

    def params(self):
        # A disk for each bdev, as files are: two clients of one would see each other's writes.
        number = len(self.server.exports)
        disk = Malloc.Params(name=f"D{number}", num_blocks=NUM_BLOCKS, block_size=512)
        self.stack.run(self.registry.create(Malloc, disk))
        self.server.add_export(disk.name)
        return {
            "uri": f"nbd+unix:///{disk.name}?socket={self.directory}/nbd.sock",
            "connections": self.connections,
        }


class TestNbdOnSeveralConnections(TestNbd):
    connections = 3


class TestNull(Sized):
    module = Null
    forgets = True


@pytest.mark.rule("A.5.10", "A.7.11", "A.10.16", "D.12")
class TestPassthru(LayerContractSuite):
    module = Passthru


class TestDelay(LayerContractSuite):
    module = Delay

    def params(self):
        kinds = ("avg_read", "p99_read", "avg_write", "p99_write")
        return {"base_bdev_name": "Below", **{f"{kind}_latency": 10 for kind in kinds}}


class TestError(LayerContractSuite):
    module = Error

    def params(self):
        return {"base_name": "Below"}


class Parts(LayerContractSuite):
    """Parts are made several at a time; here is one of them, in the middle of its base."""

    # These create one bdev by its parameters; test_split.py and test_gpt.py have those of parts.
    test_a_name_that_is_taken_leaves_nothing = None
    test_configuration_makes_the_same_again = None
    test_it_comes_and_goes_with_its_base = None

    def create(self, name="Disk", **params):
        registry = self.stack.registry
        below = registry.find("Below")
        if below is None:
            below = self.stack.disk(name="Below", num_blocks=self.num_blocks * 3)
        place = {"base_bdev": "Below", "offset_blocks": 77, "num_blocks": self.num_blocks}
        if below.num_blocks == self.num_blocks:  # a test's own base
            place |= {"offset_blocks": 7, "num_blocks": self.num_blocks - 7}
        bdev = self.module(self.module.Params(name=name, **place, **self.params(), **params))

        async def build():
            async with registry.hold(below, self.module.kind, holder="test") as hold:
                await registry.build(bdev, hold)

        self.stack.run(build())
        return bdev


@pytest.mark.rule("A.26.4", "A.26.10")
class TestSplit(Parts):
    module = Split

    def params(self):
        return {}


class TestGpt(Parts):
    module = Gpt

    def params(self):
        guid = uuid.UUID(int=1)
        return {"table_guid": guid, "type_guid": guid, "partition_name": "part"}


class TestZoneBlock(LayerContractSuite):
    module = ZoneBlock

    # These write wherever they like; test_zone_block.py writes where a zone's pointer is.
    test_every_op_that_is_named_succeeds = None
    test_what_was_written_is_read = None
    test_many_at_once = None
    test_batches_are_taken_whole = None
    test_flags_are_kept_or_refused = None
    test_reset_leaves_a_working_bdev = None

    def params(self):
        return {"base_bdev": "Below", "zone_capacity": 64, "optimal_open_zones": 1}


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
    too_large = module is Malloc and value == 2**60  # memory that there is not
    assert caught.value.errno == (errno.ENOMEM if too_large else errno.EINVAL)
    assert str(value) in str(caught.value)
    assert stack.registry.find("Disk") is None
    stack.close()


def test_vbdevs_are_told_from_bdevs():
    assert [m.kind for m in MODULES if issubclass(m, VirtualBdev)] == [
        "delay",
        "error",
        "gpt",
        "passthru",
        "split",
        "zone_block",
    ]
