"""World: a whole daemon, its clients and its disks, in one thread and on one virtual clock.

The reactors are polled in turn by hand; sockets are socket pairs, on which the real codecs and
streams run. When nothing is ready, time jumps to the next deadline. A reactor's turn takes what its
modules and methods charge for their work, and no more, whatever the machine is doing.

What is held at every turn:

- `spin`: where nothing moves, the reactors come to rest;
- `turn`: a reactor's turn takes no more than `TURN_US` of virtual time;
- `memory`: pools are within their bounds, nothing is completed that nobody holds;
- `log`: nothing is logged as a bug is.

As time goes by:

- `answer`: an honest client, of NBD or of the control plane, is answered within `BOUND_S`;
- `gone`: the daemon's end of the socket of who has left is closed within `BOUND_S`.

With each answer: `data`, `error`, `abort`, `close`, `extents`. At the end (`ending.py`): `calm`,
with nothing left that excuses anybody, `stop` and `left`.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import select
import signal
import zlib
from pathlib import Path

from simulation.clients import NbdPeer, RpcPeer
from simulation.content import Content
from simulation.disks import Shaky, SimDisk
from simulation.failure import SimulationError
from simulation.guests import Guest
from vbdev.api.methods import State
from vbdev.daemon.app import App
from vbdev.reactor.clock import VirtualClock
from vbdev.reactor.reactor import Reactor
from vbdev.reactor.task import Task, wake

BOUND_S = 20
LIMITED_SECTORS = 128  # what counts as one I/O of a limit, where zeroes are written
"""How long an honest client may wait, of virtual time in which its disk does its work."""
STALLER_S = 4
"""And how much longer, for each staller, who asks for much: he waits in a line in which each has so
much time to move."""
LITTLE = 128
"""Sectors for which nobody stands in that line."""
TURN_US = 20_000
"""What one turn of a reactor may take."""
RPC_US = 100
"""What a call of the control plane is charged."""
TICK_US = 10_000
"""How often those who trickle send."""
RESTLESS_TURNS = 2000
"""How many turns may find something to do while nothing moves."""
TURN_CPU_S = 10
"""CPU time after which a turn that has not ended never will: SIGPROF then ends the process."""
BUGS = ("callback failed", "task failed", "rpc method failed", "done callback failed", "the stop")


def open_descriptors():
    """Return what this process has open: {number: what it is}."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the one with which the folder is read
            found[entry.name] = str(entry.readlink())
    return found


def unfinished_tasks():
    """Return the tasks of this process that have not ended, whosever they are."""
    return {o for o in gc.get_objects() if isinstance(o, Task) and not o.done}


class Log(logging.Handler):
    """Keeps what is logged, and tells of what only a bug logs."""

    def __init__(self, world):
        super().__init__(logging.INFO)
        self.world = world
        self.lines = []

    def emit(self, record):
        line = self.format(record)
        self.lines.append(line)
        if record.levelno >= logging.ERROR and line.startswith(BUGS):
            self.world.fail("log", line)


class Export:
    """A bdev under an NBD name. `content`: what is known of its sectors.

    disk: where they are on stable storage from `first` on, or None where no power cut can be tried.
    """

    def __init__(self, world, number, name, bdev_name, content, disk_name, first=0):
        self.world, self.number, self.name, self.bdev_name = world, number, name, bdev_name
        self.content, self.disk_name, self.first = content, disk_name, first
        self.flawless = True  # nothing is about that may fail an I/O
        self.may_abort = False
        self.going = False  # it is being removed

    @property
    def disk(self):
        return self.world.disks.get(self.disk_name)

    @property
    def layer(self):
        return self.world.layers.get(self.bdev_name)

    @property
    def bdev(self):
        return self.world.app.registry.find(self.bdev_name)

    def excuse_loss(self, who, what):
        """Fail, unless there is a reason for an honest client to lose its connection."""
        if not self.going and not self.world.stopping:
            self.world.fail("lost", f"{who} was {what}, without a reason")

    def spoil(self, *, aborts=False):
        """I/O may fail from here on."""
        self.flawless = False
        self.may_abort |= aborts


class World:
    """See the module docstring. options: reactors, ios (of a pool), small, large (buffers)."""

    def __init__(self, options):
        self.fds_before = open_descriptors()
        self.tasks_before = unfinished_tasks()  # of whoever forked this process
        self.failure = None
        self.stopping = False
        self.disks, self.layers = {}, {}
        self.exports, self.guests = [], []
        self.clients, self.callers = [], []
        self.slowest = 0  # the lowest limit that there ever was, in I/Os a second; 0: none
        self.asked_ios = 0  # of all exports, as a limit counts them at most
        self.peers = {}
        self.departed = []
        self.numbers = 0
        self.trace = 0  # of all answers, and when they came
        self.turns = self.moves = self.restless = 0
        self.longest_turn_ns = self.worst_ns = 0
        self.trouble_ns = 0  # until then a disk kept what it had
        self.ends = select.epoll()
        self.clock = VirtualClock()
        self.log = Log(self)
        logger = logging.getLogger("vbdev")
        logger.handlers[:] = [self.log]
        logger.setLevel(logging.INFO)
        logger.propagate = False
        self.app = App(Reactor(clock=self.clock), num_reactors=options["reactors"])
        for module in (SimDisk, Shaky):
            self.app.add_module(type(module.__name__, (module,), {"world": self}))
        self._set_options(options)
        self._charge_calls()
        self.next_tick_ns = 0

    def _set_options(self, options):
        dispatcher, reactors = self.app.dispatcher, self.app.reactors
        dispatcher.state = State.STARTUP
        for method, params in (
            (
                "iobuf_set_options",
                {
                    "small_pool_count": options["small"],
                    "small_bufsize": 4096,
                    "large_pool_count": options["large"],
                    "large_bufsize": 1 << 18,
                },
            ),
            ("bdev_set_options", {"bdev_io_pool_size": options["ios"], "bdev_io_cache_size": 1}),
        ):
            reactors.run_until_complete(dispatcher.call(method, params))
        dispatcher.state = State.RUNTIME
        wake(self.app.initialized)

    def _charge_calls(self):
        call = self.app.dispatcher.call

        async def charged(name, params=None):
            self.charge(RPC_US)
            return await call(name, params)

        self.app.dispatcher.call = charged

    # Time

    @property
    def now_ns(self):
        return self.clock.now_ns()

    def charge(self, us):
        """Let the turn in progress take so much longer."""
        self.clock.advance_to(self.now_ns + us * 1000)
        reactor = Reactor.current()
        if reactor is not None:
            reactor.engine.set_virtual_time(self.now_ns)
            reactor._loop.spend(us * 1000)

    def number(self):
        """Return a number that nobody else has."""
        self.numbers += 1
        return self.numbers

    def turn(self):
        """Let every client do what it can, and each reactor take a turn."""
        self.turns += 1
        did = 0
        for fd, events in self.ends.poll(0):
            if fd in self.peers:
                moved = self.peers[fd].ready(events)
                self.moves += moved
                did += moved > 0
        for reactor in self.app.reactors:
            did += self._turn_of(reactor)
        self._look_after(did)
        return did

    def _turn_of(self, reactor):
        before_ns = self.now_ns
        signal.setitimer(signal.ITIMER_PROF, TURN_CPU_S)
        did = 1
        # Of a module; what is in flight has to end all the same.
        with contextlib.suppress(SystemExit, KeyboardInterrupt):
            did = reactor.poll()
        took_ns = self.now_ns - before_ns
        self.longest_turn_ns = max(self.longest_turn_ns, took_ns)
        if took_ns > TURN_US * 1000:
            self.fail("turn", f"a turn of {reactor.name} took {took_ns / 1e6:.1f} ms")
        return did

    def _look_after(self, did):
        moves = self.moves + sum(disk.carried_out for disk in self.disks.values())
        if not did or moves != self._moves_seen:
            self._moves_seen, self.restless = moves, 0
        else:
            self.restless += 1
            if self.restless > RESTLESS_TURNS:
                self.fail("spin", f"for {self.restless} turns there was work, and nothing moved")
        for reactor in self.app.reactors:
            engine = reactor.engine
            if engine.misused:
                self.fail("memory", f"{engine.misused} I/Os were completed that nobody held")
        self._add_up_memory()
        if self.failure is not None:
            raise self.failure

    def _add_up_memory(self):
        """Of each reactor: what is out of its pool is what its I/Os and its clients hold."""
        for group in self.app.nbd._groups:
            engine, memory, pool = group.reactor.engine, group.memory, group.reactor.engine.buffers
            ios_bytes = engine.buffer_bytes()
            if pool.used_bytes != ios_bytes + memory.chunk_bytes:
                self.fail(
                    "memory",
                    f"{pool.used_bytes} bytes are out of the pool of {group.reactor.name}; I/Os"
                    f" hold {ios_bytes}, receive chunks are {memory.chunk_bytes}",
                )
            held = sum(stream.memory_bytes for stream in group.streams)
            if held != memory.used_bytes + memory.chunk_bytes:
                self.fail(
                    "memory",
                    f"the clients of {group.reactor.name} hold {held} bytes; {memory.used_bytes}"
                    f" and {memory.chunk_bytes} of chunks are counted",
                )
            if memory.chunk_bytes != pool.aside_bytes or memory.chunk_bytes > pool.limit_bytes:
                self.fail("memory", f"{pool.aside_bytes} bytes are aside, and in chunks are others")

    _moves_seen = 0

    def pass_time(self, us, until=lambda: False):
        """Let virtual time go by, with all that happens in it; or until something holds."""
        end_ns = self.now_ns + us * 1000
        while not until():
            if self.turn():
                if self.now_ns >= end_ns:
                    return
                continue
            due = [end_ns, self.next_tick_ns]
            due += [r.deadline_ns for r in self.app.reactors if r.deadline_ns is not None]
            self.clock.advance_to(max(self.now_ns + 1, min(due)))
            self._time_went_by()
            if self.now_ns >= end_ns:
                return

    def _time_went_by(self):
        now_ns = self.now_ns
        if any(disk.mode == "hang" for disk in self.disks.values()):
            self.trouble_ns = now_ns
        if now_ns < self.next_tick_ns:
            return
        self.next_tick_ns = now_ns + TICK_US * 1000
        for client in self.clients:
            if client.trickles and client.there:
                client.allowance = client.trickles
                client.want()
        self._hold_bounds(now_ns)

    def _hold_bounds(self, now_ns):
        bound_ns = BOUND_S * 10**9
        if now_ns - self.trouble_ns < bound_ns:
            return
        stallers = sum(not client.honest for client in self.clients)
        for client in self.clients:
            if client.there and client.honest and client.asked:
                since_ns = next(iter(client.asked.values())).since_ns
                much = any(asked.count > LITTLE for asked in client.asked.values())
                more_s = STALLER_S * stallers if much else 0
                more_s += self.limited_s
                self._hold(client, since_ns, now_ns, "has no answer", more_s=more_s)
        for caller in self.callers:
            if caller.there and caller.asked:
                call = next(iter(caller.asked.values()))
                method, since_ns = call.method, call.since_ns
                self._hold(f"RPC client {caller.number}", since_ns, now_ns, f"waits for {method}")
        for guest in self.guests:
            if guest.sent:
                self._hold(guest, guest.sent[0].since_ns, now_ns, f"waits for {guest.sent[0].op!r}")
        for peer in self.departed:
            if peer.theirs.fileno() >= 0 and now_ns - max(peer.left_ns, self.trouble_ns) > bound_ns:
                self.fail("gone", f"the socket of {peer} is still open, {BOUND_S} s after it left")
        self.departed = [peer for peer in self.departed if peer.theirs.fileno() >= 0]

    def note_asked(self, count):
        """Count what a limit would have to let through, of `count` sectors."""
        self.asked_ios += 1 + count // LIMITED_SECTORS

    @property
    def limited_s(self):
        """How long limits may hold up what was asked; exports share bdevs, and so limits."""
        return self.asked_ios / self.slowest if self.slowest else 0

    def _hold(self, who, since_ns, now_ns, what, *, more_s=0):
        waited_ns = now_ns - max(since_ns, self.trouble_ns)
        if waited_ns > (BOUND_S + more_s) * 10**9:
            self.fail("answer", f"{who} {what} after {waited_ns / 1e9:.1f} s of virtual time")

    def note_answer(self, client, asked):
        """Keep the longest that an honest client has waited while all disks worked."""
        told = f"{client.number} {asked.command} {asked.first} {asked.error} {self.now_ns};"
        self.trace = zlib.crc32(told.encode(), self.trace)
        if client.honest:
            waited_ns = self.now_ns - max(asked.since_ns, self.trouble_ns)
            self.worst_ns = max(self.worst_ns, waited_ns)

    def fail(self, kind, text):
        """Note a failure, from wherever it is seen; the turn in progress ends first."""
        if self.failure is None:
            self.failure = SimulationError(kind, text)

    # Who is there

    @property
    def caller(self):
        """The RPC client that does the daily work; where it was hung up on, another one."""
        if not self.callers or not self.callers[0].there:
            self.callers.insert(0, self.add_caller())
            self.callers.pop()
        return self.callers[0]

    def add_caller(self):
        """Let an RPC client come."""
        caller = RpcPeer(self, len(self.callers))
        self.callers.append(caller)
        return caller

    def add_client(self, export, *, structured):
        """Let an NBD client come."""
        client = NbdPeer(self, len(self.clients), export, structured=structured)
        self.clients.append(client)
        return client

    def add_guest(self, export):
        """Open a bdev within the process."""
        guest = Guest(self, len(self.guests), export)
        self.guests.append(guest)
        return guest

    def add_export(self, bdev_name, content, disk_name, first=0):
        """Offer a bdev to NBD clients; it is there when the control plane has answered."""
        name = f"export{self.number()}"

        def added(_result, error):
            if error is None:
                self.exports.append(
                    Export(
                        self, len(self.exports), name, bdev_name, content, disk_name, first=first
                    )
                )

        params = {"bdev_name": bdev_name, "export_name": name}
        self.caller.call("nbd_export_add", params, added)

    def content(self, sectors):
        """Return the content of a new disk, all zeroes."""
        return Content(self.number(), sectors, 2 * sectors)

    def departs(self, peer):
        """Let a client go away without a word."""
        if peer.there:
            peer.leave()
            self.departed.append(peer)
