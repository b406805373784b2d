"""The end of a run: everybody gets what is owed and leaves, the daemon stops, nothing is left."""

from __future__ import annotations

from simulation.failure import SimulationError
from simulation.world import BOUND_S, STALLER_S, open_descriptors, unfinished_tasks

STOP_S = 100
"""Virtual time for an orderly stop."""
LEAVE_US = 2_000_000
"""How long the daemon has to forget those who have left."""


def calm_down(world):
    """Let all disks work: whoever is honest gets what is owed, stallers or not; then all leave."""
    for disk in list(world.disks.values()):
        disk.heal()
    world.trouble_ns = world.now_ns
    stallers = [client for client in world.clients if not client.honest]

    def answered():
        return not (
            any(client.there and client.honest and client.asked for client in world.clients)
            or any(caller.there and caller.asked for caller in world.callers)
            or any(guest.sent for guest in world.guests)
        )

    calm_s = 2 * BOUND_S + STALLER_S * len(stallers) + world.limited_s
    world.pass_time(int(calm_s * 1_000_000), answered)
    if not answered():
        raise SimulationError("calm", "honest clients wait still, and all disks work")
    for client in stallers:
        world.departs(client)
    for guest in world.guests:
        guest.close()
    for client in world.clients:
        if client.number % 2 and client.negotiated:
            client.say_goodbye()
        else:
            world.departs(client)
    world.pass_time(LEAVE_US)
    _hold_nothing_in_use(world, "2 s after all clients have left")


def stop(world):
    """Stop in order. A module that hangs is named then; without one nothing is left."""
    world.stopping = True
    world.trouble_ns = 1 << 62
    app = world.app
    hung = [disk for disk in world.disks.values() if disk.mode == "hang" and disk.held]
    with app.reactor.here():
        task = app.reactor.spawn(app.stop(), "stop")
    world.pass_time(STOP_S * 1_000_000, lambda: task.done or app.reactor._stopping)
    if hung:
        if not app.exit_status or task.done:
            raise SimulationError(
                "stop", "a stop with a module that hangs ended as if nothing were"
            )
        for disk in hung:
            if not any(disk.name in line for line in world.log.lines[-50:]):
                raise SimulationError("stop", f"nothing tells that {disk.name} holds up the stop")
        return
    if not task.done:
        raise SimulationError("stop", f"the orderly stop has not ended after {STOP_S} s")
    if app.exit_status:
        raise SimulationError("stop", f"the exit status is {app.exit_status}")
    if app.registry.bdevs:
        raise SimulationError("stop", f"left after the stop: {list(app.registry)}")
    _hold_nothing_in_use(world, "after the stop")
    _hold_nothing_left(world)


def _hold_nothing_in_use(world, when):
    app = world.app
    if app.nbd.connection_count:
        raise SimulationError(
            "left", f"{when} the target has {app.nbd.connection_count} connections"
        )
    for guest in world.guests:
        if not guest.closed:
            raise SimulationError("left", f"{when} {guest} is not closed")
    for reactor in app.reactors:
        engine = reactor.engine
        used = (engine.ios_in_use, engine.waiting, engine.buffers.live_buffers)
        used_bytes = engine.buffers.used_bytes
        if any(used) or used_bytes:
            raise SimulationError(
                "left", f"{when} I/Os, waiting, buffers in use are {used}, {used_bytes} bytes"
            )


def _hold_nothing_left(world):
    app = world.app
    for reactor in app.reactors:
        timers = [t.callback for _, _, t in reactor._timers.heap if t.callback is not None]
        if timers:
            raise SimulationError("left", f"after the stop {reactor.name} has timers: {timers}")
        if reactor.pollers or reactor.locals:
            raise SimulationError("left", f"after the stop {reactor.name} has pollers or locals")
    tasks = [task.name for task in unfinished_tasks() if task not in world.tasks_before]
    if tasks:
        raise SimulationError("left", f"after the stop these tasks have not ended: {tasks}")
    app.close()
    for peer in list(world.peers.values()):
        peer.near.close()
    world.ends.close()
    left = open_descriptors()
    named = [what for number, what in left.items() if world.fds_before.get(number) != what]
    if named:
        raise SimulationError("left", f"after the stop descriptors are open: {named}")
