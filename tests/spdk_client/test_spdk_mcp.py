"""spdk-mcp lists the bdevs of a running vbdev, through MCP's own client.

As it is published it does not start (see docs/rpc-coverage.md); examples/spdk_mcp.py gives it the
one module that it misses. The first test fails on the day when it does not miss it any more.
"""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from support.clients import find, missing, run

pytestmark = pytest.mark.client

SERVER = Path(__file__).parents[2] / "examples" / "spdk_mcp.py"


@pytest.fixture
def daemon(serve):
    try:
        import mcp  # noqa: F401
    except ImportError:
        missing("mcp is not installed")
    if find("spdk-mcp") is None:
        missing("spdk is not installed")
    return serve("malloc:16MiB", "--layer", "passthru")


async def ask(address, tool, arguments, log):
    """Start spdk-mcp on a socket and call one of its tools; return its tools and the answer."""
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client

    command = StdioServerParameters(
        command=sys.executable,
        args=[str(SERVER)],
        env=os.environ | {"SPDK_RPC_ADDRESS": address},
    )
    async with stdio_client(command, errlog=log) as streams, ClientSession(*streams) as session:
        await session.initialize()
        tools = await session.list_tools()
        answer = await session.call_tool(tool, arguments)
    return {one.name for one in tools.tools}, answer


@pytest.fixture
def mcp(daemon, tmp_path):
    """Return a function that calls a tool of an spdk-mcp on the daemon."""

    def call(tool, **arguments):
        with (tmp_path / "spdk-mcp.log").open("a") as log:
            return asyncio.run(ask(daemon.rpc_socket, tool, arguments, log))

    return call


def test_it_does_not_start_as_published(daemon):
    said = run("spdk-mcp", ok=1, env=os.environ | {"SPDK_RPC_ADDRESS": daemon.rpc_socket})
    assert "cannot import name 'bdev' from 'spdk.rpc'" in said


def test_it_lists_the_bdevs(daemon, mcp):
    tools, answer = mcp("bdev_get_bdevs")
    assert {"spdk_get_version", "bdev_get_bdevs", "bdev_malloc_create"} <= tools
    assert not answer.isError
    told = daemon.rpc.call("bdev_get_bdevs")
    assert len(told) == 2
    assert [json.loads(one.text) for one in answer.content] == told


def test_it_makes_one(daemon, mcp):
    _, answer = mcp("bdev_malloc_create", name="M", num_blocks=2048, block_size=512)
    assert not answer.isError
    assert daemon.rpc.call("bdev_get_bdevs", name="M")[0]["num_blocks"] == 2048


def test_a_refusal_reaches_the_user(mcp):
    _, answer = mcp("bdev_get_bdevs", name="none")
    assert answer.isError
    assert "No such device" in answer.content[0].text
