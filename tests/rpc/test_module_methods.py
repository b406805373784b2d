"""Methods that a module declares itself, beside the create and delete that derive from it.

Method: a dispatcher over a registry on a bare Stack, and modules made for one test.
"""

import errno

import pytest

from support.stack import Stack, layer
from support.told import as_json
from vbdev.api.methods import ModuleMethod, NamedParams, RpcError
from vbdev.bdev import BdevEvent
from vbdev.modules.aio import Aio
from vbdev.modules.null import Null
from vbdev.modules.uring import Uring
from vbdev.rpc.methods.bdev import register_module
from vbdev.rpc.serving.dispatch import Dispatcher

MIB = 1 << 20
NO_DEVICE = (-19, "No such device")
INVALID = (-22, "Invalid argument")


class Control:
    """The methods of some modules, without a socket."""

    def __init__(self, *modules, real_clock=False):
        self.stack = Stack(real_clock=real_clock)
        self.dispatcher = Dispatcher()
        for module in modules:
            register_module(self.dispatcher, self.stack.registry, module)

    def call(self, method, **params):
        return as_json(self.stack.run(self.dispatcher.call(method, params)))

    def fails(self, method, **params):
        """Call and return (code, message) of the failure; `detail` keeps its data."""
        with pytest.raises(RpcError) as caught:
            self.call(method, **params)
        self.detail = caught.value.data
        return caught.value.code, caught.value.message


@pytest.fixture
def control():
    made = Control(Null, Aio, Uring, real_clock=True)
    yield made
    made.stack.close()


def test_a_declared_method_is_called_and_may_replace_a_derived_one():
    async def create(registry, params):
        return ["created", params.name, len(list(registry))]

    async def poke(registry, params):
        registry.get(params.name, "own")
        raise RpcError(-5, "Poked", params.name)

    def rpc_methods(_cls):
        return (
            ModuleMethod("bdev_own_create", NamedParams, create),
            ModuleMethod("bdev_own_poke", NamedParams, poke, (-7, "No poking like that")),
        )

    own = layer(kind="own", rpc_methods=classmethod(rpc_methods), undecoded=(-8, "Not at all"))
    control = Control(own)
    control.stack.disk()
    control.stack.layer(own, name="Own")
    assert control.dispatcher.names() == ["bdev_own_create", "bdev_own_poke", "bdev_own_delete"]
    assert control.call("bdev_own_create", name="Some") == ["created", "Some", 2]
    assert control.fails("bdev_own_poke", name="Own") == (-5, "Poked")
    assert control.fails("bdev_own_poke", name="Disk") == NO_DEVICE
    assert control.fails("bdev_own_poke") == (-7, "No poking like that")
    assert control.fails("bdev_own_delete", name=1) == (-8, "Not at all")
    assert control.call("bdev_own_delete", name="Own") is True
    control.stack.close()


def test_a_failed_create_answers_as_the_module_says():
    failing = layer(kind="failing", create_failure=(-32603, "It broke: {reason}"))
    control = Control(failing)
    control.stack.disk()
    name = {"name": "Disk", "base_bdev_name": "Disk"}
    assert control.fails("bdev_failing_create", **name) == (-32603, "It broke: File exists")
    assert "Disk" in control.detail
    control.stack.close()


def test_null_resize(control):
    create = {"name": "Null0", "num_blocks": 2048, "block_size": 512}
    control.call("bdev_null_create", **create)
    assert control.call("bdev_null_resize", name="Null0", new_size=4) is True
    bdev = control.stack.registry.get("Null0")
    assert bdev.size_bytes == 4 * MIB
    opened = control.stack.open("Null0")
    assert control.call("bdev_null_resize", name="Null0", new_size=5) is True
    control.stack.settle()
    assert opened.events == [BdevEvent.RESIZE]
    assert control.fails("bdev_null_resize", name="Null0", new_size=3) == INVALID
    assert "open by test" in control.detail
    opened.close()
    assert control.call("bdev_null_resize", name="Null0", new_size=3) is True
    for new_size in (0, 1 << 60, 2**64 - 1):
        assert control.fails("bdev_null_resize", name="Null0", new_size=new_size) == INVALID
    assert control.fails("bdev_null_resize", name="Nobody", new_size=3) == NO_DEVICE
    undecoded = (-32603, "spdk_json_decode_object failed")
    assert control.fails("bdev_null_resize", name="Null0", new_size=-1) == undecoded
    assert bdev.size_bytes == 3 * MIB


def test_null_resize_counts_whole_blocks(control):
    control.call("bdev_null_create", name="Null0", num_blocks=8, block_size=1536)
    assert control.call("bdev_null_resize", name="Null0", new_size=1) is True
    assert control.stack.registry.get("Null0").num_blocks == 682
    assert control.fails("bdev_null_resize", name="Null0", new_size=0) == INVALID
    control.call("bdev_null_create", name="Null1", num_blocks=8, block_size=512, md_size=8)
    assert control.call("bdev_null_resize", name="Null1", new_size=1) is True
    assert control.stack.registry.get("Null1").num_blocks == 2016


@pytest.mark.parametrize("kind", ["aio", "uring"])
def test_rescan_follows_the_file(control, tmp_path, kind):
    path = tmp_path / "disk"
    path.write_bytes(bytes(MIB))
    control.call(f"bdev_{kind}_create", name="File", filename=str(path), block_size=512)
    opened = control.stack.open("File")
    with path.open("r+b") as file:
        file.truncate(2 * MIB)
    assert control.call(f"bdev_{kind}_rescan", name="File") is True
    assert control.stack.registry.get("File").size_bytes == 2 * MIB
    control.stack.settle()
    assert opened.events == [BdevEvent.RESIZE]
    with path.open("r+b") as file:
        file.truncate(MIB)
    assert control.fails(f"bdev_{kind}_rescan", name="File")[0] == -errno.EBUSY
    assert control.fails(f"bdev_{kind}_rescan", name="Nobody") == NO_DEVICE
    opened.close()
