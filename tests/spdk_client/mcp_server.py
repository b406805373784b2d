"""spdk-mcp's server as it is, with the module `spdk.rpc.bdev` that it looks for and does not find.

The module is made here: a function for each `bdev_*` method that takes a client first, as the
module had it in the package's last release with it.
"""

from __future__ import annotations

import inspect
import runpy
import sys
import types
from pathlib import Path

import spdk.rpc

sys.path.insert(0, str(Path(__file__).parents[1]))

from spdk_client.facts import INTEGERS, METHODS, Fact, Param

TYPES = {"boolean": bool, "array": list, "object": dict} | dict.fromkeys(INTEGERS, int)


def parameter(param: Param) -> inspect.Parameter:
    """Return a keyword that may be left out where SPDK's may."""
    kind = TYPES.get(param.kind, str)
    if param.required:
        return inspect.Parameter(param.name, inspect.Parameter.KEYWORD_ONLY, annotation=kind)
    return inspect.Parameter(
        param.name, inspect.Parameter.KEYWORD_ONLY, annotation=kind | None, default=None
    )


def function(fact: Fact) -> types.FunctionType:
    """Return what calls one method; a client drops what is None."""

    def call(client, **params):
        return getattr(client, fact.name)(**params)

    call.__name__ = fact.name
    call.__doc__ = f"Call SPDK's {fact.name}."
    # Without the client: the server makes a partial of it, and asks that for its signature.
    call.__signature__ = inspect.Signature([parameter(param) for param in fact.params])
    return call


module = types.ModuleType("spdk.rpc.bdev")
for name, fact in METHODS.items():
    if name.startswith("bdev_"):
        setattr(module, name, function(fact))
sys.modules[module.__name__] = spdk.rpc.bdev = module

runpy.run_module("spdk.mcp.server", run_name="__main__")
