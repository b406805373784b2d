"""`rpc_get_schema`: what all methods take and answer, as one OpenRPC document."""

from __future__ import annotations

from typing import Any, Final

from vbdev.api.methods import BOTH, Method
from vbdev.reactor.reactor import Reactor
from vbdev.reactor.task import Future
from vbdev.reactor.threads import NamedThread
from vbdev.rpc.methods.plane import Plane

__all__ = ["METHODS"]


async def get_schema(plane: Plane, _params: None) -> dict[str, Any]:
    """Describe every method, those of modules included, as an OpenRPC document."""
    last = plane.schema
    while last.making is not None:  # once for all who ask; nor can CPython's ast have two threads
        await last.making
    methods = plane.dispatcher.methods()
    if last.methods != methods:  # the first time, or a module has come
        ended: Future[None] = Future()
        last.making = ended
        try:
            last.document = await _on_a_thread(plane.reactors.first, methods)
            last.methods = methods
        finally:
            last.making = None
            ended.set_result(None)
    return last.document


async def _on_a_thread(reactor: Reactor, methods: list[Method[Any]]) -> dict[str, Any]:
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


METHODS: Final[tuple[Method[Plane], ...]] = (
    Method("rpc_get_schema", None, get_schema, states=BOTH, result=dict[str, Any]),
)
