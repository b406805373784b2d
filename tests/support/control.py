"""Control: the RPC methods of bdevs over a bare Stack, without a socket."""

from __future__ import annotations

import json
import re

import pytest

from support.rooms import register_rooms
from support.told import as_declared
from vbdev.api.methods import RpcError
from vbdev.daemon.config import load_config
from vbdev.modules import MODULES
from vbdev.rpc.methods import bdev, stat
from vbdev.rpc.methods import examine as examine_methods
from vbdev.rpc.methods.bdev import register_module
from vbdev.rpc.serving.dispatch import Dispatcher
from vbdev.testing import Stack, Stub

METHOD_NOT_FOUND = (-32601, "Method not found")
NO_DEVICE = (-19, "No such device")
EXISTS = (-17, "File exists")
INVALID = (-22, "Invalid argument")
CLAIMED = (-1, "Operation not permitted")
INVALID_PARAMETERS = (-32602, "Invalid parameters")
UNDECODED = (-32603, "spdk_json_decode_object failed")


class Control:
    """`stack` is what the methods work on; `detail` the data of the last failure.

    examine: whether modules look at the data of new bdevs.
    """

    def __init__(self, *, examine=False, **options):
        self._made_with = {"examine": examine, **options}
        self.stack = Stack(**options)
        self.registry = self.stack.registry
        self.dispatcher = Dispatcher()
        register_rooms(
            self.dispatcher,
            *(bdev, examine_methods, stat),
            registry=self.registry,
            reactors=self.stack.reactors,
            renew_engines=lambda: None,
        )
        for module in (*MODULES, Stub):
            register_module(self.dispatcher, self.registry, module)
            if examine:
                self.registry.add_module(module)

    def call(self, method, params=None, **more):
        result = self.stack.run(self.dispatcher.call(method, params or more or None))
        return as_declared(result, self.dispatcher.get(method).result)

    def fails(self, method, params=None, **more):
        """Call and return (code, message) of the failure."""
        with pytest.raises(RpcError) as caught:
            self.call(method, params, **more)
        self.detail = caught.value.data
        self.is_declared(method, caught.value)
        return caught.value.code, caught.value.message

    def is_declared(self, method, error):
        """What a method answers with when it fails is among what it says it answers with."""
        known = self.dispatcher.get(method)
        for code, text in known.refusals() if known is not None else [METHOD_NOT_FOUND]:
            form = ".*".join(map(re.escape, re.split(r"\{\w+\}", text)))
            if code == error.code and re.fullmatch(form, error.message):
                return
        raise AssertionError(f"{method} does not declare {error.code} {error.message!r}")

    def malloc(self, name="Disk", **more):
        """Create a disk of 1024 blocks of 512 bytes."""
        return self.call(
            "bdev_malloc_create", **{"name": name, "num_blocks": 1024, "block_size": 512, **more}
        )

    def passthru(self, name="Top", base="Disk", **more):
        """Create a layer."""
        return self.call("bdev_passthru_create", name=name, base_bdev_name=base, **more)

    def names(self):
        """Return the names of all bdevs, in order."""
        return [bdev["name"] for bdev in self.call("bdev_get_bdevs")]

    def told(self, name):
        """Return what bdev_get_bdevs says of one bdev."""
        return self.call("bdev_get_bdevs", name=name)[0]

    def settle_examination(self):
        """Turn until no module looks at a disk any more."""
        self.stack.run(self.registry.examiner.wait())

    def reload(self, path):
        """Save the configuration, end all there is, and make it again from what was saved."""
        config = [{"subsystem": "bdev", "config": self.registry.config()}]
        path.write_text(json.dumps({"subsystems": config}))
        self.stack.close()
        self.__init__(**self._made_with)
        for call in load_config(str(path)):
            self.stack.run(self.dispatcher.call(call.method, call.params))
