"""`rpc_get_schema`: what all methods take and answer, as one OpenRPC document."""

from __future__ import annotations

from typing import Any

from vbdev.reactor.reactor import Reactor
from vbdev.reactor.task import Future
from vbdev.reactor.threads import NamedThread
from vbdev.rpc.serving.dispatch import Dispatcher, Method, State

__all__ = ["register_schema_methods"]


def register_schema_methods(dispatcher: Dispatcher, reactor: Reactor) -> None:
    """Add the method to a dispatcher."""
    made: tuple[list[Method], dict[str, Any]] = ([], {})
    making: Future[None] | None = None

    async def get_schema(_params: None) -> dict[str, Any]:
        """Describe every method, those of modules included, as an OpenRPC document."""
        nonlocal made, making
        while making is not None:  # once for all who ask; nor can CPython's ast have two threads
            await making
        methods = dispatcher.methods()
        if made[0] != methods:  # the first time, or a module has come
            making = Future()
            try:
                made = (methods, await _on_a_thread(reactor, methods))
            finally:
                ended, making = making, None
                ended.set_result(None)
        return made[1]

    both = State.STARTUP | State.RUNTIME
    dispatcher.register(Method("rpc_get_schema", get_schema, states=both, result=dict[str, Any]))


async def _on_a_thread(reactor: Reactor, methods: list[Method]) -> dict[str, Any]:
    """Describe methods beside the reactor, which others want to use meanwhile."""
    done: Future[dict[str, Any]] = Future()

    def work() -> None:
        try:
            from vbdev.rpc.describing.schema import describe_methods

            document = describe_methods(methods)
        except Exception as error:  # noqa: BLE001 - the caller's to handle
            reactor.send_msg(done.set_exception, error)
        else:
            reactor.send_msg(done.set_result, document)

    NamedThread(target=work, name="rpc-schema", daemon=True).start()
    return await done
