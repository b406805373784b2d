"""Alone: a dispatcher over one reactor of virtual time, and nothing else."""

from __future__ import annotations

import pytest

from support.told import as_declared
from vbdev.api.methods import RpcError
from vbdev.reactor.clock import VirtualClock
from vbdev.reactor.reactor import Reactor
from vbdev.reactor.reactors import Reactors
from vbdev.rpc.serving.dispatch import Dispatcher


class NoEngine:
    """What a reactor drives where there are no I/Os."""

    reactor = None
    deadline_ns = 0

    def drain(self):
        return 0

    def set_virtual_time(self, now_ns):
        pass


class Alone:
    """`dispatcher` is there to register methods with; answers are held against declarations.

    count: reactors; all are turned by the caller's thread.
    """

    def __init__(self, count=1):
        self.reactor = Reactor(clock=VirtualClock())
        self.reactors = Reactors(self.reactor, count, NoEngine, lambda *_: None)
        self.dispatcher = Dispatcher()

    def call(self, method, params=None, **more):
        answer = self.reactors.run_until_complete(
            self.dispatcher.call(method, params if params is not None else more or None)
        )
        return as_declared(answer, self.dispatcher.get(method).result)

    def fails(self, method, params=None, **more):
        """Call and return (code, message) of the failure."""
        with pytest.raises(RpcError) as caught:
            self.call(method, params, **more)
        self.detail = caught.value.data
        return caught.value.code, caught.value.message

    def pass_time(self, us):
        """Let time pass, with whatever is due."""
        self.reactors.run_until_complete(self.wait(us))

    async def wait(self, us):
        await self.reactor.sleep(us)

    def close(self):
        self.reactors.close()
        self.reactor.close()
