"""The reactors of an application: the first on the caller's thread, each other on its own.

The first owns the control plane. The others wait for messages; what runs there is made by them:
connections of a target, channels. They are started together and stopped together, and when one
fails, whoever is told so ends the application in order.

Each may be pinned to CPUs (`Core`). One whose CPUs this machine has not, or may not use, runs
wherever the kernel puts it, which is said once.

On a virtual clock there are no threads: all share the clock and are polled by hand, in order.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from vbdev.core.base import handover
from vbdev.reactor.questions import ReactorStoppedError
from vbdev.reactor.reactor import IoEngine, Reactor
from vbdev.reactor.task import Future
from vbdev.reactor.threads import NamedThread, name_of_this_thread, name_this_thread
from vbdev.vocab.cpu_sets import Core, show_cpu_mask

__all__ = ["MAX_REACTORS", "Reactors"]

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_REACTORS = 1024
"""More threads than this are somebody's mistake."""
START_S = 10.0
"""How long a reactor's thread may take to run."""
MAX_FAILURES = 8
"""How often a reactor's loop may fail before its thread ends."""
SWITCH_S = 0.0005
"""How long a busy reactor keeps the interpreter's lock from another (sys.setswitchinterval), where
there is such a lock. Python's own 5 ms would be the price of each message between busy reactors."""
STOP_US = 5_000_000
"""How long a reactor may take to end, once nothing is left on it."""


def thread_name(reactor: Reactor) -> str:
    """Return what the kernel calls a reactor's thread, as in SPDK (reactor.c, reactor_run)."""
    return f"reactor_{reactor.core.number}"


class Reactors:
    """Some reactors. Iterating gives them in the order of their ids.

    Parameters
    ----------
    first: runs on the caller's thread, which drives it.
    count: of all of them.
    make_engine: called once for each but the first.
    on_failure: called as (reactor, exception) on the first reactor when another's loop failed.
    cores: of all but the first, in this order; by default 1, 2... anywhere.

    OSError or MemoryError where one can not be made: then there is none but the first.

    """

    def __init__(
        self,
        first: Reactor,
        count: int,
        make_engine: Callable[[], IoEngine],
        on_failure: Callable[[Reactor, BaseException], object],
        cores: Sequence[Core] = (),
    ) -> None:
        self.first = first
        self._on_failure = on_failure
        self._unpinned: list[Core] = []
        self._others: list[Reactor] = []
        self._threads: dict[Reactor, NamedThread] = {}
        self._callers_name = ""
        """What the kernel called the first one's thread before it was a reactor's."""
        try:
            for reactor_id in range(2, count + 1):
                clock = first.clock if first.clock.virtual else None
                core = cores[reactor_id - 2] if cores else None
                reactor = Reactor(clock=clock, reactor_id=reactor_id, core=core)
                self._others.append(reactor)
                reactor.engine = make_engine()
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[Reactor]:
        return iter([self.first, *self._others])

    def __len__(self) -> int:
        return 1 + len(self._others)

    async def for_each(self, function: Callable[[Reactor], T]) -> list[T]:
        """Call `function(reactor)` on each reactor, one after the other; return the results.

        Await it on the first. One that has stopped is left out (SPDK: spdk_for_each_thread).
        """
        results = []
        for reactor in self:
            try:
                results.append(await reactor.ask(function, reactor))
            except ReactorStoppedError:
                continue
        return results

    # Threads

    def start(self) -> None:
        """Let all but the first run on threads of their own. RuntimeError where one does not.

        Those that run already are stopped then. The calling thread is the first's and is pinned
        with the others.
        """
        if self.first.clock.virtual:
            return
        if self._others and sys.getswitchinterval() > SWITCH_S:
            sys.setswitchinterval(SWITCH_S)
        for reactor in self._others:
            running = threading.Event()
            reactor.send_msg(running.set)
            # A daemon: a module that hangs must not keep the process from ending.
            thread = NamedThread(
                target=self._run, args=(reactor,), name=thread_name(reactor), daemon=True
            )
            try:
                thread.start()
            except RuntimeError as error:
                self.stop_at_once()
                raise RuntimeError(
                    f"reactor {reactor.name} ({reactor.id} of {len(self)}) can not start: {error}"
                ) from error
            self._threads[reactor] = thread
            if not running.wait(START_S):
                self.stop_at_once()
                raise RuntimeError(f"reactor {reactor.name} did not run within {START_S:g} s")
        # The last of them: a thread begins with the CPUs and the name of the one that starts it.
        self._pin(self.first)
        self._callers_name = self._callers_name or name_of_this_thread()
        name_this_thread(thread_name(self.first))
        if self._unpinned:
            log.warning(
                "reactors run on any cpu, because theirs are not here: %s",
                ", ".join(
                    f"core {core.number} (cpus 0x{show_cpu_mask(core.cpus)})"
                    for core in sorted(self._unpinned, key=lambda core: core.number)
                ),
            )

    def _pin(self, reactor: Reactor) -> None:
        if reactor.core.cpus:
            try:
                os.sched_setaffinity(0, reactor.core.cpus)
            except OSError:  # none of them is here, or may be used (sched_setaffinity(2), EINVAL)
                self._unpinned.append(reactor.core)

    def _run(self, reactor: Reactor) -> None:
        self._pin(reactor)
        handover.joined()
        try:
            for _ in range(MAX_FAILURES):
                try:
                    reactor.run()
                except BaseException as error:
                    # It goes on: what is in flight on it shall end, and the application in order.
                    log.critical("reactor failed name=%s", reactor.name, exc_info=error)
                    self.first.send_msg(self._on_failure, reactor, error)
                else:
                    break
            reactor.finish()
        finally:
            handover.left()
            handover.parted()

    async def stop(self) -> list[Reactor]:
        """Stop all but the first, and return those that do not end. Awaited on the first."""
        for reactor in self._threads:
            reactor.stop()
        give_up_ns = self.first.clock.now_ns() + STOP_US * 1000
        while any(thread.is_alive() for thread in self._threads.values()):
            if self.first.clock.now_ns() >= give_up_ns:
                break
            await self.first.sleep(1000)
        stuck = [reactor for reactor, thread in self._threads.items() if thread.is_alive()]
        self._forget_ended()
        return stuck

    def stop_at_once(self, timeout_s: float = 1.0) -> None:
        """Stop all but the first; blocks for a while for those that are in the middle of a turn.

        The calling thread, which was the first's, has its own name again.
        """
        for reactor in self._threads:
            reactor.stop()
        for thread in self._threads.values():
            thread.join(timeout_s)
        self._forget_ended()
        if self._callers_name:
            name_this_thread(self._callers_name)
            self._callers_name = ""

    def _forget_ended(self) -> None:
        for reactor, thread in list(self._threads.items()):
            if not thread.is_alive():
                thread.join()
                del self._threads[reactor]

    def close(self) -> None:
        """Give back what all but the first hold. One whose thread still runs keeps its own."""
        for reactor in self._others:
            if reactor not in self._threads:
                reactor.close()

    # By hand

    def poll(self) -> int:
        """Let each take one turn on the calling thread; return how much there was to do."""
        return sum(reactor.poll() for reactor in self)

    def advance(self) -> bool:
        """Virtual clock: jump to the next deadline of any. False when there is none."""
        waiting = [r for r in self if r.deadline_ns is not None]
        if not waiting:
            return False
        return min(waiting, key=lambda r: r.deadline_ns or 0).advance()

    def run_until_complete(self, coroutine: Coroutine[Any, Any, T], name: str = "") -> T:
        """Turn until a coroutine on the first ends; return its result or raise its error."""
        if not self.first.clock.virtual:
            return self.first.run_until_complete(coroutine, name)
        with self.first.here():
            task: Future[T] = self.first.spawn(coroutine, name)
        task.add_done_callback(lambda _task: None)  # its failure is raised here, not logged
        while not task.done:
            if not self.poll() and not self.advance():
                raise RuntimeError(f"{name or coroutine} waits for what can not come any more")
        return task.result()
