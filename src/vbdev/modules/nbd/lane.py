"""Lane: one reactor's connections to a server, each made again when it is lost.

A lane has as many *seats* as there shall be connections. A seat is a coroutine: dial, use the
connection until it is lost, and again, with pauses that grow. I/O waits while no seat has a
connection, for `reconnect_delay` seconds at most; then it fails until there is one.

What a lost connection means for what was under way on it is decided in
`vbdev.core.nbd.client.link`.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
from collections.abc import Callable
from typing import Final

from vbdev.bdev import Bdev, BdevError
from vbdev.bdev.channels import ask_drained
from vbdev.core.engine.batch import IOBatch
from vbdev.core.engine.engine import Engine
from vbdev.core.nbd.client.link import NbdLink
from vbdev.core.nbd.client.path import NbdPath
from vbdev.core.nbd.client.queue import RemoteDisk
from vbdev.modules.nbd.changes import changed_flags, misfit
from vbdev.modules.nbd.dialing import Dial, Dialed
from vbdev.modules.nbd.refusals import tell
from vbdev.modules.nbd.seat import Seat
from vbdev.modules.nbd.uri import Server
from vbdev.reactor.questions import ReactorStoppedError
from vbdev.reactor.reactor import Reactor
from vbdev.reactor.task import Future, wake
from vbdev.reactor.timers import Timer
from vbdev.wire.nbd import ExportInfo, TransmissionFlag

__all__ = ["DIAL_US", "Lane", "Remote"]

log = logging.getLogger(__name__)

DIAL_US: Final = 10_000_000
"""How long one attempt to connect and negotiate may take."""
FIRST_PAUSE_US: Final = 50_000
LAST_PAUSE_US: Final = 5_000_000
"""Pauses between attempts: the first one, and what they grow to."""
RESET_WAIT_US: Final = 5_000_000
"""How long a RESET waits for what the server has, before it gives the connections up."""
EBB_US: Final = 5_000_000
"""How long a server that has closed its half of a connection is waited for, where it may still
carry out writes that it will not answer."""
LAST_FLUSH_US: Final = 10_000_000
"""How long the FLUSH at a bdev's end may take, at most."""


class Remote:
    """A server's disk, as all lanes share it.

    info: what the first connection was told. on_size(size_bytes) is called on the bdev's reactor
    when a later one is told another size, with the smallest that any connection has: each keeps
    the size that it was told, so that only this much can be reached through all of them.
    """

    def __init__(
        self,
        bdev: Bdev,
        server: Server,
        info: ExportInfo,
        core: RemoteDisk,
        *,
        home: Reactor,
        connections: int,
        reconnect_delay_s: int,
        timeout_s: int,
        on_size: Callable[[int], object],
    ) -> None:
        self.bdev = bdev
        self.name = bdev.name
        self.server = server
        self.info = info
        self.core = core
        self.connections = connections
        self.reconnect_delay_s = reconnect_delay_s
        self.timeout_s = timeout_s
        self.resets = 0  # under way: what has no connection ends
        self._home = home
        self._on_size = on_size
        self._lock = threading.Lock()  # over the next one
        self._lanes: dict[Reactor, Lane] = {}

    @property
    def lanes(self) -> list[Lane]:
        """The lanes that there are, on whatever reactor."""
        with self._lock:
            return list(self._lanes.values())

    @property
    def can_multi_conn(self) -> bool:
        """Whether the server keeps several connections coherent."""
        return bool(self.info.flags & TransmissionFlag.CAN_MULTI_CONN)

    def lane(self, reactor: Reactor, engine: Engine) -> Lane:
        """Return a reactor's lane, made at the first call there. BdevError ENOTSUP for a second.

        Unless the server says that connections see each other's writes (CAN_MULTI_CONN), there is
        one, and so one reactor.
        """
        with self._lock:
            lane = self._lanes.get(reactor)
            if lane is None:
                if self._lanes and not self.can_multi_conn:
                    other = next(iter(self._lanes)).name
                    raise BdevError(
                        errno.ENOTSUP,
                        f"nbd bdev {self.name!r}: {self.server} does not offer several connections"
                        f" (CAN_MULTI_CONN), and {other} has the only one; {reactor.name} can not"
                        " use it",
                    )
                lane = self._lanes[reactor] = Lane(self, reactor, engine)
        return lane

    async def flush_dirty(self, home: Reactor) -> None:
        """FLUSH on all lanes, where writes may be in the server's cache alone. On `home`."""
        for answer in [_ask_flush(lane, home) for lane in self.lanes]:
            await answer

    def settle(self, info: ExportInfo) -> None:
        """Take notice of what a new connection was told. On any reactor."""
        changed = changed_flags(self.info, info)
        if changed:
            log.warning(
                "nbd server has other flags than at first; without SEND_FLUSH, FLUSH fails"
                " bdev=%s server=%s changed=%s",
                self.name,
                self.server,
                changed,
            )
        if info.size_bytes != self.info.size_bytes:
            self._home.send_msg(self._resized)

    def _resized(self) -> None:
        sizes = [size for lane in self.lanes for size in lane.sizes()]
        if sizes:
            self._on_size(min(sizes))


class Lane:
    """One reactor's connections. Belongs to its thread, but for `num_connected` and `sizes`."""

    def __init__(self, remote: Remote, reactor: Reactor, engine: Engine) -> None:
        self.remote = remote
        self.reactor = reactor
        self.path = NbdPath(engine, remote.core, self, resend=remote.reconnect_delay_s > 0)
        self._seats: list[Seat] = []
        self._ebbing: list[Seat] = []
        self._ends: list[Future[None]] = []
        self._wakes: set[Future[None]] = set()
        self._dials: set[Dial] = set()
        self._hold_timer: Timer | None = None
        self._clock: Timer | None = None
        self._timeout_ns = remote.timeout_s * 1_000_000_000
        self.path.watched = not self._timeout_ns
        self._closing = False

    @property
    def num_connected(self) -> int:
        """How many connections it has now."""
        return len(self._seats)

    def sizes(self) -> list[int]:
        """Return what each connection was told of the export's size, in bytes."""
        return [seat.link.size_bytes for seat in list(self._seats)]

    def start(self, first: Dialed | None = None) -> None:
        """Begin to connect; `first` is a connection that is there already."""
        if self._ends or self._closing:
            return
        self._await_connection(max(self.remote.reconnect_delay_s * 1_000_000, DIAL_US))
        count = self.remote.connections if self.remote.can_multi_conn else 1
        for number in range(count):
            end: Future[None] = Future()
            self._ends.append(end)
            dialed = first if number == 0 else None
            # Up to its first await here and now: a connection that is there is used at once.
            self.reactor.begin(self._keep(end, dialed), f"nbd connection of {self.remote.name}")

    # I/O

    def on_refusal(self, what: int) -> None:
        """Tell of what the server has refused, a mask of REFUSES_*."""
        tell(self.remote.name, self.remote.server, what)

    def on_work(self) -> None:
        """Look at the clock from now on: there is something to wait for."""
        self._look_later()

    def on_change(self) -> None:
        """Follow the links' state."""
        if self.remote.resets:
            self.path.abort_waiting()  # a connection is gone, and what it had waits for another
        for seat in list(self._seats):
            self._look(seat)
        for seat in [one for one in self._ebbing if not one.link.ebbing]:
            self._ebbing.remove(seat)
            seat.close()

    def flush(self, _path: NbdPath, ios: IOBatch) -> None:
        """Carry out FLUSHes on the connections of all reactors, this one's last."""
        self.reactor.spawn(self._flush(ios), f"flush of {self.remote.name}")

    async def _flush(self, ios: IOBatch) -> None:
        answers = [_ask_flush(lane, self.reactor) for lane in self.remote.lanes if lane is not self]
        errors = [await answer for answer in answers]
        failed = next((number for number in errors if number), 0)
        if failed:
            self.path.finish_flush(ios, failed)
        else:
            self.path.submit_flush(ios)
            self.on_change()

    def flush_dirty(self, callback: Callable[[int], object], *, last: bool = False) -> None:
        """FLUSH where writes may be in the server's cache alone; then callback(errno, or 0)."""
        self.path.flush_dirty(callback, last=last)
        if not self.path.watched:
            self._look_later()

    def reset(self, _path: NbdPath, ios: IOBatch) -> None:
        """Complete RESETs once nothing is under way on any reactor."""
        self.reactor.spawn(self._reset(ios), f"reset of {self.remote.name}")

    async def _reset(self, ios: IOBatch) -> None:
        # The bdev layer lets nothing new in while a RESET is under way.
        remote, at_most = self.remote, len(ios)
        remote.resets += 1
        try:
            await self._each_lane(Lane.abort_waiting)
            while not await ask_drained(
                remote.bdev, self.reactor, at_most=at_most, timeout_us=RESET_WAIT_US
            ):
                await self._each_lane(Lane.give_up)
        finally:
            remote.resets -= 1
        self.path.finish_reset(ios)

    async def _each_lane(self, function: Callable[[Lane], object]) -> None:
        for lane in self.remote.lanes:
            if lane.reactor is self.reactor:
                function(lane)
            else:
                with contextlib.suppress(ReactorStoppedError):  # it has nothing more
                    await lane.reactor.ask(function, lane)

    def abort_waiting(self) -> None:
        """End what no connection has."""
        self.path.abort_waiting()

    def give_up(self) -> None:
        """End what the server has too, and the connections with it."""
        self.path.abort_waiting()
        self.path.drop_all(errno.ECANCELED, "reset, and the server does not answer")
        self.on_change()

    # Time

    def _look_later(self) -> None:
        self.path.watched = True
        self._clock = self.reactor.call_later(self._timeout_ns // 4000, self._look_at_clock)

    def _look_at_clock(self) -> None:
        """Give connections up on which a request is overdue."""
        self._clock = None
        self.path.watched = False
        limit_ns = self.path.engine.clock_ns() - self._timeout_ns
        for seat in list(self._seats):
            oldest_ns = seat.link.oldest_ns()
            if oldest_ns and oldest_ns <= limit_ns:
                seat.link.lose(
                    errno.ETIMEDOUT,
                    f"a request was not answered within {self.remote.timeout_s} s",
                )
                self._look(seat)
        if self.path.outstanding or any(seat.link.in_flight for seat in self._seats):
            self._look_later()

    def _await_connection(self, wait_us: int) -> None:
        """Let I/O wait for a connection, for a while."""
        if self._hold_timer is not None:
            self._hold_timer.cancel()
            self._hold_timer = None
        self.path.holding = wait_us > 0
        if wait_us:
            self._hold_timer = self.reactor.call_later(wait_us, self._stop_holding)

    def _stop_holding(self) -> None:
        self._hold_timer = None
        if not self._seats:
            if self.path.num_waiting:
                log.error(
                    "nbd server did not come back in time; I/O fails bdev=%s server=%s ios=%d",
                    self.remote.name,
                    self.remote.server,
                    self.path.num_waiting,
                )
            self.path.holding = False

    # Connections

    async def _keep(self, end: Future[None], dialed: Dialed | None) -> None:
        """Have a connection, until the lane closes."""
        remote = self.remote
        pause_us, told = FIRST_PAUSE_US, ""
        try:
            while not self._closing:
                try:
                    if dialed is None:
                        dialed = await self._dial()
                    if self._closing:
                        dialed.socket.close()
                        break
                    seat = self._sit(dialed)
                except (OSError, BdevError, MemoryError) as error:
                    if dialed is not None:
                        dialed.socket.close()
                        dialed = None
                    if self._closing:
                        break
                    if str(error) != told:  # once, and not at each attempt
                        told = str(error)
                        log.warning(
                            "nbd server can not be reached bdev=%s server=%s error=%s",
                            remote.name,
                            remote.server,
                            error,
                        )
                    if not self._seats and not remote.reconnect_delay_s:
                        self._await_connection(0)
                    await self._pause(pause_us)
                    pause_us = min(2 * pause_us, LAST_PAUSE_US)
                    continue
                began_ns = self.reactor.clock.now_ns()
                dialed, told = None, ""
                await seat.lost
                if self.reactor.clock.now_ns() - began_ns < LAST_PAUSE_US * 1000:
                    # One that is lost again and again is not made again without a pause.
                    await self._pause(pause_us)
                    pause_us = min(2 * pause_us, LAST_PAUSE_US)
                else:
                    pause_us = FIRST_PAUSE_US
        finally:
            wake(end)

    async def _dial(self) -> Dialed:
        """Make a connection to what is still the same disk; BdevError EINVAL where it is not."""
        dial = Dial(self.reactor, self.remote.server, DIAL_US)
        self._dials.add(dial)
        try:
            dialed = await dial.run()
        finally:
            self._dials.discard(dial)
        if fault := misfit(self.remote.info, dialed.over.info, self.remote.core.block_size):
            dialed.socket.close()
            raise BdevError(errno.EINVAL, fault)
        return dialed

    async def _pause(self, pause_us: int) -> None:
        if self._closing:
            return
        future: Future[None] = Future()
        self._wakes.add(future)
        timer = self.reactor.call_later(pause_us, lambda: wake(future))
        await future
        timer.cancel()
        self._wakes.discard(future)

    def _sit(self, dialed: Dialed) -> Seat:
        """Use a connection."""
        over = dialed.over
        link = NbdLink(
            self.path,
            dialed.socket.fileno(),
            size_bytes=over.info.size_bytes,
            flags=int(over.info.flags),
            structured=over.structured_replies,
            early=dialed.early,
        )
        seat = Seat(dialed, link)
        seat.watch = self.reactor.watch(
            dialed.socket.fileno(),
            readable=link.on_readable,
            writable=link.on_writable,
        )
        self._seats.append(seat)
        log.info("nbd server connected bdev=%s server=%s", self.remote.name, self.remote.server)
        self.remote.settle(over.info)
        if self._hold_timer is not None:
            self._hold_timer.cancel()
            self._hold_timer = None
        self.path.holding = True
        if not link.closed:
            self.path.add(link)
        self._look(seat)
        return seat

    def _look(self, seat: Seat) -> None:
        """Wait for what the link waits for, or see to its end."""
        link = seat.link
        if seat not in self._seats or seat.watch is None:
            return
        if not link.closed:
            seat.watch.update(read=True, write=link.wants_write)
            return
        self._seats.remove(seat)
        if link.ebbing:
            self._ebbing.append(seat)
            seat.watch.update(read=False, write=False)  # a hang-up is told of all the same
            seat.ebb_timer = self.reactor.call_later(EBB_US, lambda: self._end_ebb(seat))
        else:
            seat.close()
        if not self._closing:
            log.warning(
                "nbd server lost bdev=%s server=%s reason=%s",
                self.remote.name,
                self.remote.server,
                link.reason,
            )
        if link.lost_writes:
            log.critical(
                "nbd server lost while it may have had acknowledged writes in its cache alone;"
                " every FLUSH and FUA fails until the bdev is deleted and created again"
                " bdev=%s server=%s",
                self.remote.name,
                self.remote.server,
            )
        if not self._seats:
            self._await_connection(
                0 if self._closing else self.remote.reconnect_delay_s * 1_000_000
            )
        else:
            self.path.pump()
        wake(seat.lost)

    def _end_ebb(self, seat: Seat) -> None:
        """Give up what a server that closed its half of a connection may still carry out."""
        seat.link.lose(errno.ETIMEDOUT, "the server did not close all of the connection")
        self.on_change()

    # The end

    async def close(self) -> int:
        """Make everything stable, then say goodbye. Without outstanding I/O. Return an errno."""
        flushed: Future[int] = Future()
        self.flush_dirty(flushed.set_result, last=True)
        late = self.reactor.call_later(LAST_FLUSH_US, self._give_up)
        number = await flushed
        late.cancel()
        self._closing = True
        for dial in list(self._dials):
            dial.cancel()
        for future in list(self._wakes):
            wake(future)
        for seat in list(self._seats):
            seat.link.disconnect()
            seat.link.lose(errno.ESHUTDOWN, "the bdev is closed")
            self._look(seat)
        for seat in list(self._ebbing):
            self._end_ebb(seat)
        for end in self._ends:
            await end
        for timer in (self._clock, self._hold_timer):
            if timer is not None:
                timer.cancel()
        self.path.close()
        return number

    def _give_up(self) -> None:
        self.path.drop_all(errno.ETIMEDOUT, "the last FLUSH was not answered")
        self.on_change()


def _ask_flush(lane: Lane, origin: Reactor) -> Future[int]:
    """Let another reactor's lane FLUSH; the future resolves here, with an errno or 0."""
    done: Future[int] = Future()

    def answer(number: int) -> None:
        origin.send_msg(done.set_result, number)

    if not lane.reactor.send_msg(lane.flush_dirty, answer):
        done.set_result(errno.EIO)
    return done
