"""Steps: what happens in a run, as data. A seed gives options and a list of steps; so does a file.

A step names clients, exports and so on by numbers, which count for whoever is there (modulo how
many there are), and does nothing where there is none. So any part of a list is a list: what
shrinking needs.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import Any

from simulation.world import World
from vbdev.bdev import BdevError
from vbdev.vocab import Op
from vbdev.wire.nbd import Command

Step = list[Any]

SECTORS = 4096
MOST_CLIENTS = 80
MOST_CALLERS = 70
COMMANDS = {
    "read": Command.READ,
    "write": Command.WRITE,
    "zero": Command.WRITE_ZEROES,
    "trim": Command.TRIM,
    "flush": Command.FLUSH,
    "status": Command.BLOCK_STATUS,
}
OPS = {
    "read": Op.READ,
    "write": Op.WRITE,
    "zero": Op.WRITE_ZEROES,
    "unmap": Op.UNMAP,
    "flush": Op.FLUSH,
}
ERRORS = {
    "Exception": lambda: RuntimeError("a module's mistake"),
    "SystemExit": lambda: SystemExit("a module calls sys.exit"),
    "KeyboardInterrupt": KeyboardInterrupt,
}
QUERIES = (
    "bdev_get_bdevs",
    "bdev_get_iostat",
    "nbd_get_exports",
    "vbdev_get_holders",
    "thread_get_stats",
    "thread_get_io_channels",
    "iobuf_get_stats",
    "framework_get_config",
    "bdev_enable_histogram",
)


# What steps do


def pick(of, number):
    """Return one of those that are there, or None."""
    return of[number % len(of)] if of else None


def exports(world):
    return [export for export in world.exports if not export.going]


def clients(world):
    return [client for client in world.clients if client.there and not client.leaving]


def guests(world):
    return [guest for guest in world.guests if not guest.closed]


def do_create(world, kind, delay_us):
    """A disk, with a layer or without, and its export."""
    number = world.number()
    base, top = f"disk{number}", f"top{number}"
    caller = world.caller
    content = world.content(SECTORS)

    def then(action: Callable[[], object]):
        return lambda _result, error: action() if error is None else None

    if kind == "malloc":
        caller.call(
            "bdev_malloc_create",
            {"name": base, "num_blocks": SECTORS, "block_size": 512},
            then(lambda: world.add_export(base, content, None)),
        )
        return
    params = {"name": base, "num_blocks": SECTORS, "block_size": 512}
    if kind == "disk":
        ready = then(lambda: world.add_export(base, content, base))
    elif kind == "split":
        half = SECTORS // 2

        def split_up():
            for part in range(2):
                world.add_export(f"{base}p{part}", world.content(half), base, part * half)

        ready = then(
            lambda: caller.call(
                "bdev_split_create", {"base_bdev": base, "split_count": 2}, then(split_up)
            )
        )
    else:
        more = {}
        if kind == "delay":
            words = ("avg_read", "p99_read", "avg_write", "p99_write")
            more = {"seed": number, **{f"{word}_latency": delay_us for word in words}}
        ready = then(
            lambda: caller.call(
                f"bdev_{kind}_create",
                {"name": top, "base_bdev_name": base, **more},
                then(lambda: world.add_export(top, content, base)),
            )
        )
    caller.call("bdev_simdisk_create", params, ready)


def do_delete(world, which, *, how):
    """A bdev goes: by its own delete, by vbdev_unregister, or hot, from below."""
    export = pick(exports(world), which)
    if export is None or len(exports(world)) < 2:
        return
    export.spoil(aborts=True)
    for other in world.exports:
        if other.disk_name is not None and other.disk_name == export.disk_name:
            other.going |= how != "unexport" or other is export
            other.spoil(aborts=True)
    export.going = True
    if how == "unexport":
        world.caller.call("nbd_export_remove", {"export_name": export.name})
    elif how == "hot" and export.disk is not None:
        with world.app.reactor.here():
            world.app.registry.hot_remove(export.disk)
    else:
        world.caller.call("vbdev_unregister", {"name": export.bdev_name})


def do_connect(world, which, structured):
    export = pick(exports(world), which)
    if export is not None and len(clients(world)) < MOST_CLIENTS:
        world.add_client(export, structured=structured)


def do_ask(world, which, word, first, count, fua):
    client = pick(clients(world), which)
    if client is not None:
        client.ask(COMMANDS[word], first, count, fua=fua)


def do_burst(world, which, word, number, count):
    client = pick(clients(world), which)
    if client is not None:
        for i in range(number):
            client.ask(COMMANDS[word], i * count, count)


def do_together(world, word, number, count):
    """So many clients do the same at once."""
    for which, client in enumerate(clients(world)[:number]):
        client.ask(COMMANDS[word], which * 64, count)


def do_client(world, which, what, *arguments):
    client = pick(clients(world), which)
    if client is not None:
        getattr(client, what)(*arguments)


def do_all_clients(world, first, number, what, *arguments):
    """A row of clients does something."""
    present = clients(world)
    for i in range(min(number, len(present))):
        getattr(present[(first + i) % len(present)], what)(*arguments)


def do_vanish(world, which, number):
    present = clients(world)
    for i in range(min(number, len(present))):
        world.departs(present[(which + i) % len(present)])


def do_disk(world, which, what, value):
    export = pick([e for e in exports(world) if e.disk is not None], which)
    if export is None:
        return
    disk = export.disk
    sharing = [other for other in world.exports if other.disk is disk]
    if what == "heal":
        disk.heal()
    elif what == "hang":
        disk.mode = "hang"
    elif what == "slow":
        disk.delay_us = value
    elif what == "room":
        disk.room = value
    elif what == "fail":
        disk.failing = value
        for other in sharing:
            other.spoil()
    elif what == "grow" and disk.num_blocks + value <= 2 * SECTORS:
        with world.app.reactor.here(), contextlib.suppress(BdevError):
            disk.grow(value)


def do_layer(world, which, what, error, number):
    export = pick([e for e in exports(world) if e.layer is not None], which)
    if export is None:
        return
    export.spoil()
    layer = export.layer
    if what in ("going_down", "coming_up"):
        getattr(layer, what).extend(ERRORS[error]() for _ in range(number))
    else:
        setattr(layer, what, number)


def do_limit(world, which, ios):
    export = pick(exports(world), which)
    if export is not None:
        if ios:
            world.slowest = min(ios, world.slowest or ios)
        world.caller.call("bdev_set_qos_limit", {"name": export.bdev_name, "rw_ios_per_sec": ios})


def do_latency(world, which, word, us):
    export = pick(exports(world), which)
    if export is not None:
        params = {"delay_bdev_name": export.bdev_name, "latency_type": word, "latency_us": us}
        world.caller.call("bdev_delay_update_latency", params)


def do_query(world, which):
    method = QUERIES[which % len(QUERIES)]
    params = None
    if method == "bdev_enable_histogram":
        export = pick(exports(world), which)
        if export is None:
            return
        params = {"name": export.bdev_name, "enable": bool(which % 2)}
    world.caller.call(method, params)


def do_flood(world, number, calls):
    """Many clients of the control plane ask for much at once."""
    while len([c for c in world.callers if c.there]) < min(number, MOST_CALLERS):
        if len([c for c in world.callers if c.there]) >= 60:
            break
        world.add_caller()
    for caller in [c for c in world.callers if c.there][:number]:
        for _ in range(calls):
            caller.call("spdk_get_version")


def do_hang_up_callers(world, number):
    for caller in [c for c in world.callers[1:] if c.there][:number]:
        world.departs(caller)


def do_guest(world, which):
    export = pick(exports(world), which)
    if export is not None and len(guests(world)) < 8:
        with contextlib.suppress(BdevError):
            world.add_guest(export)


def do_submit(world, which, word, number, first, count, on):
    guest = pick(guests(world), which)
    if guest is not None:
        for i in range(number):
            guest.submit(OPS[word], first + i * count, count, on + i)


def do_abort(world, which, other, victim):
    present = guests(world)
    guest, other = pick(present, which), pick(present, other)
    if guest is not None:
        guest.abort(victim, other)


def do_reset(world, which, on):
    guest = pick(guests(world), which)
    if guest is None:
        return
    for export in world.exports:
        if export is guest.export or (export.disk and export.disk is guest.export.disk):
            export.spoil(aborts=True)
    guest.submit(Op.RESET, 0, 0, on)


def do_close_guest(world, which):
    guest = pick(guests(world), which)
    if guest is not None:
        guest.close()


def do_turns(world, number):
    for _ in range(number):
        world.turn()


DO = {
    "create": do_create,
    "delete": lambda world, which: do_delete(world, which, how="delete"),
    "hot": lambda world, which: do_delete(world, which, how="hot"),
    "unexport": lambda world, which: do_delete(world, which, how="unexport"),
    "connect": do_connect,
    "ask": do_ask,
    "burst": do_burst,
    "together": do_together,
    "stall": lambda world, which, keep: do_client(world, which, "stall", keep),
    "trickle": lambda world, which, number: do_client(world, which, "trickle", number),
    "deaf": lambda world, which: do_client(world, which, "stop_listening"),
    "behave": lambda world, which: do_client(world, which, "behave"),
    "goodbye": lambda world, which: do_client(world, which, "say_goodbye"),
    "half": lambda world, which: do_client(world, which, "half_close"),
    "row": do_all_clients,
    "vanish": do_vanish,
    "disk": do_disk,
    "layer": do_layer,
    "limit": do_limit,
    "latency": do_latency,
    "query": do_query,
    "flood": do_flood,
    "hang up": do_hang_up_callers,
    "guest": do_guest,
    "submit": do_submit,
    "abort": do_abort,
    "reset": do_reset,
    "close guest": do_close_guest,
    "turns": do_turns,
    "time": lambda world, us: world.pass_time(us),
}


def run_step(world: World, step: Step) -> None:
    """Do one step."""
    DO[step[0]](world, *step[1:])
    if world.failure is not None:
        raise world.failure


# Where steps come from

SIZES = (1, 1, 8, 8, 64, 100, 129, 256, 511, 1024, 2048, SECTORS)


def any_number(rng):
    return rng.randrange(1 << 16)


def size(rng):
    return rng.choice(SIZES)


MAKE: dict[str, Callable[[random.Random], Step]] = {
    "create": lambda r: ["create", r.choice(KINDS), r.choice((0, 100, 3000))],
    "delete": lambda r: [r.choice(("delete", "hot", "unexport")), any_number(r)],
    "connect": lambda r: ["connect", any_number(r), r.random() < 0.7],
    "ask": lambda r: [
        "ask",
        any_number(r),
        r.choice(("read", "read", "write", "write", "write", "zero", "trim", "flush", "status")),
        any_number(r),
        size(r),
        r.random() < 0.2,
    ],
    "burst": lambda r: [
        "burst",
        any_number(r),
        r.choice(("read", "write", "zero", "trim", "status")),
        r.choice((4, 20, 100)),
        r.choice((1, 8, 64)),
    ],
    "big burst": lambda r: [
        "burst",
        any_number(r),
        r.choice(("read", "zero", "zero", "trim", "status")),
        r.choice((100, 100, 100, 1000)),
        r.choice((1, 64, SECTORS)),
    ],
    "together": lambda r: ["together", r.choice(("write", "write", "read")), 40, size(r)],
    "stall": lambda r: ["stall", any_number(r), r.choice((0, 10, 28, 128, 10_000, 300_000))],
    "trickle": lambda r: ["trickle", any_number(r), r.choice((1, 7, 1000))],
    "deaf": lambda r: ["deaf", any_number(r)],
    "behave": lambda r: ["behave", any_number(r)],
    "goodbye": lambda r: ["goodbye", any_number(r)],
    "half": lambda r: ["half", any_number(r)],
    "vanish": lambda r: ["vanish", any_number(r), r.choice((1, 1, 1, 10))],
    "row": lambda r: [
        "row",
        any_number(r),
        r.choice((5, 20)),
        *r.choice((("stall", r.choice((28, 128, 10_000))), ("stop_listening",), ("behave",))),
    ],
    "disk": lambda r: [
        "disk",
        any_number(r),
        *r.choice(
            (
                ("heal", 0),
                ("heal", 0),
                ("slow", r.choice((100, 5000, 50_000))),
                ("room", r.choice((1, 4, 20))),
                ("fail", r.choice((1, 5))),
                ("grow", r.choice((8, 1000))),
            )
        ),
    ],
    "hang": lambda r: ["disk", any_number(r), "hang", 0],
    "heal": lambda r: ["disk", any_number(r), "heal", 0],
    "layer": lambda r: [
        "layer",
        any_number(r),
        r.choice(("going_down", "going_down", "coming_up", "lies", "promises")),
        r.choice(("Exception", "SystemExit", "SystemExit", "KeyboardInterrupt")),
        r.choice((1, 1, 3)),
    ],
    "lie": lambda r: ["layer", any_number(r), r.choice(("lies", "promises")), "", 1],
    "exit": lambda r: [
        "layer",
        any_number(r),
        r.choice(("going_down", "going_down", "coming_up")),
        r.choice(("SystemExit", "KeyboardInterrupt")),
        1,
    ],
    "zeroes": lambda r: ["ask", any_number(r), "zero", any_number(r), 3000, False],
    "limit": lambda r: ["limit", any_number(r), r.choice((0, 0, 1000, 5000))],
    "latency": lambda r: [
        "latency",
        any_number(r),
        r.choice(("avg_read", "avg_write", "p99_read")),
        r.choice((0, 1000, 100_000)),
    ],
    "query": lambda r: ["query", any_number(r)],
    "flood": lambda r: ["flood", r.choice((2, 10, 60)), r.choice((1, 5, 20))],
    "hang up": lambda r: ["hang up", r.choice((1, 20))],
    "guest": lambda r: ["guest", any_number(r)],
    "submit": lambda r: [
        "submit",
        any_number(r),
        r.choice(("read", "read", "write", "write", "zero", "flush", "unmap")),
        r.choice((1, 3, 40)),
        any_number(r),
        r.choice((1, 8, 64, 600)),
        r.randrange(3),
    ],
    "abort": lambda r: ["abort", any_number(r), any_number(r), any_number(r)],
    "reset": lambda r: ["reset", any_number(r), r.randrange(3)],
    "close guest": lambda r: ["close guest", any_number(r)],
    "turns": lambda r: ["turns", r.choice((1, 1, 2, 5))],
    "moment": lambda r: ["time", r.choice((10, 100, 1000, 10_000))],
    "while": lambda r: ["time", r.choice((50_000, 300_000, 1_000_000, 6_000_000))],
}
KINDS = ("disk", "disk", "malloc", "passthru", "delay", "shaky", "split")

COMMON = {"connect": 6, "ask": 20, "turns": 10, "moment": 6, "while": 1, "query": 2, "create": 1}
EMPHASES: dict[str, dict[str, int]] = {
    "quiet": {**COMMON, "burst": 2, "delete": 1, "latency": 2, "limit": 1, "goodbye": 1},
    # Too much for the memory there is, of clients who are all honest, or slow at most.
    "crowds": {**COMMON, "connect": 10, "together": 6, "burst": 3, "goodbye": 1, "behave": 2},
    "stallers": {
        **COMMON,
        "connect": 10,
        "together": 3,
        "stall": 6,
        "trickle": 2,
        "deaf": 3,
        "behave": 2,
        "row": 3,
        "while": 2,
    },
    "leavers": {
        **COMMON,
        "together": 2,
        "burst": 2,
        "half": 2,
        "goodbye": 2,
        "vanish": 4,
        "stall": 1,
        "deaf": 1,
        "disk": 2,
        "hang": 1,
        "heal": 1,
    },
    "lies": {**COMMON, "lie": 3, "delete": 1, "guest": 1, "submit": 3},
    "exits": {**COMMON, "exit": 6, "zeroes": 8, "disk": 1, "guest": 1, "submit": 3},
    "modules": {
        **COMMON,
        "layer": 4,
        "disk": 4,
        "hang": 1,
        "heal": 2,
        "delete": 1,
        "vanish": 1,
        "guest": 1,
        "submit": 3,
        "reset": 1,
        "burst": 1,
    },
    # Opens and closes within the process, on several reactors.
    "guests": {
        **COMMON,
        "guest": 4,
        "submit": 16,
        "close guest": 4,
        "reset": 1,
        "disk": 2,
        "latency": 1,
        "delete": 1,
        "hang": 1,
        "heal": 2,
    },
    "aborts": {
        **COMMON,
        "guest": 4,
        "submit": 16,
        "abort": 8,
        "close guest": 1,
        "limit": 3,
        "disk": 2,
        "hang": 1,
        "heal": 2,
    },
    "floods": {
        **COMMON,
        "big burst": 1,
        "burst": 3,
        "flood": 2,
        "hang up": 1,
        "limit": 1,
        "delete": 1,
    },
    "all": {**dict.fromkeys(MAKE, 2), **COMMON},
}
"""How often which step comes, by what a run is about."""


def make_run(seed: int, emphasis: str, length: int) -> dict[str, Any]:
    """Return a run: what a file has, and `running.run` takes."""
    rng = random.Random(f"{emphasis} {seed}")
    options = {
        "reactors": rng.choice((1, 2, 3)),
        "ios": rng.choice((64, 200, 1000)),
        "small": 64,
        "large": rng.choice((8, 16, 40)),
    }
    if emphasis in ("guests", "aborts"):
        options["reactors"] = rng.choice((2, 3))
    kinds = [rng.choice(KINDS) for _ in range(3)]
    if emphasis in ("modules", "lies", "exits"):
        kinds[0] = "shaky"
    steps: list[Step] = [["create", kind, rng.choice((0, 100, 3000))] for kind in kinds]
    steps.append(["time", 10_000])
    if emphasis in ("crowds", "stallers", "leavers"):
        steps += [["connect", i, rng.random() < 0.7] for i in range(rng.choice((10, 40)))]
    words = list(EMPHASES[emphasis])
    weights = list(EMPHASES[emphasis].values())
    steps += [MAKE[word](rng) for word in rng.choices(words, weights, k=length)]
    return {
        "seed": seed,
        "length": length,
        "emphasis": emphasis,
        "options": options,
        "steps": steps,
        "stops_hung": rng.random() < 0.1,
    }
