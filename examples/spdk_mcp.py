"""spdk-mcp on a vbdev: an assistant that speaks MCP lists, makes and removes bdevs.

pip install spdk==26.9 'mcp<2'
SPDK_RPC_ADDRESS=/path/of/rpc.sock python examples/spdk_mcp.py

The server is that of the `spdk` package, as it is. What the package lacks is the module that the
server takes its tools from, `spdk.rpc.bdev`; it is made here from what the daemon says of itself.
"""

import inspect
import os
import runpy
import sys
import types

import spdk.rpc
from spdk.rpc.client import JSONRPCClient

TYPES = {"array": list, "boolean": bool, "integer": int, "object": dict}


def parameter(declared):
    """Return one parameter of a function; what need not be given is None."""
    kind = TYPES.get(declared["schema"].get("type"), str)
    if declared["required"]:
        return inspect.Parameter(declared["name"], inspect.Parameter.KEYWORD_ONLY, annotation=kind)
    return inspect.Parameter(
        declared["name"], inspect.Parameter.KEYWORD_ONLY, annotation=kind | None, default=None
    )


def function(method):
    """Return a function that takes a client and the parameters of one method."""

    def call(client, **params):
        return getattr(client, method["name"])(**params)

    call.__name__ = method["name"]
    call.__doc__ = method["summary"]
    # Without the client, which the server gives it before it looks.
    call.__signature__ = inspect.Signature([parameter(one) for one in method["params"]])
    return call


def main():
    """Serve on standard input and output, as MCP has it."""
    with JSONRPCClient(os.environ["SPDK_RPC_ADDRESS"]) as client:
        methods = client.rpc_get_schema()["methods"]
    module = types.ModuleType("spdk.rpc.bdev")
    for method in methods:
        if method["name"].startswith("bdev_"):
            setattr(module, method["name"], function(method))
    sys.modules[module.__name__] = spdk.rpc.bdev = module
    runpy.run_module("spdk.mcp.server", run_name="__main__")


if __name__ == "__main__":
    main()
