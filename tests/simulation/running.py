"""Running: one run in a process of its own, its failure as data, and the shortest that fails alike.

A child process for each run: a turn that never ends, in compiled code too, ends that process alone
(SIGPROF, by CPU time and not by the clock on the wall), and what a broken run leaves behind goes
with it.
"""

from __future__ import annotations

import gc
import json
import mmap
import os
import signal
import struct
import sys
import traceback

from simulation.ending import calm_down, stop
from simulation.failure import SimulationError
from simulation.steps import run_step
from simulation.world import TURN_CPU_S, World

WHERE = struct.Struct("<q")


def play(run, where=None):
    """Carry out a run in this process; return figures of it, or raise what it finds."""
    gc.collect()
    world = World(run["options"])
    for at, step in enumerate(run["steps"]):
        if where is not None:
            WHERE.pack_into(where, 0, at)
        run_step(world, step)
    if where is not None:
        WHERE.pack_into(where, 0, len(run["steps"]))
    if not (run["stops_hung"] and any(disk.mode == "hang" for disk in world.disks.values())):
        calm_down(world)
    stop(world)
    return {
        "trace": world.trace,
        "turns": world.turns,
        "worst_s": world.worst_ns / 1e9,
        "longest_turn_ms": world.longest_turn_ns / 1e6,
        "virtual_s": world.now_ns / 1e9,
        "clients": len(world.clients),
        "calls": sum(caller.answers for caller in world.callers),
    }


def run(wanted, prepare=None):
    """Carry out a run in a child; return its result, with `failure` where it has failed.

    prepare: called in the child first, as what puts a fault back. A result has `failure` (a word),
    `text`, `step` (how many were begun); or the figures of `play`.
    """
    where = mmap.mmap(-1, WHERE.size)
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        os.close(reader)
        result = _in_child(wanted, where, prepare)
        with os.fdopen(writer, "w") as out:
            json.dump(result, out)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    (step,) = WHERE.unpack_from(where)
    where.close()
    if text:
        return {**json.loads(text), "step": step + 1}
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if number == signal.SIGPROF:
        told = f"a turn has not ended after {TURN_CPU_S} s of CPU time"
        return {"failure": "turn", "text": told, "step": step + 1}
    return {"failure": "crash", "text": f"the process ended with {status}", "step": step + 1}


def _in_child(wanted, where, prepare):
    try:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        if prepare is not None:
            prepare()
        return play(wanted, where)
    except SimulationError as failure:
        return {"failure": failure.kind, "text": str(failure)}
    except BaseException as error:  # noqa: BLE001 - whatever it is, the parent tells of it
        return {"failure": type(error).__name__, "text": traceback.format_exc()}


def shrink(wanted, result, prepare=None, tries=2000):
    """Return the shortest run found that fails with the same word (delta debugging, ddmin)."""
    failure = result["failure"]

    def fails(fewer):
        return run({**wanted, "steps": fewer}, prepare).get("failure") == failure

    steps = wanted["steps"][: result["step"]]
    if not fails(steps):
        return wanted
    parts = 2
    while len(steps) >= 2 and tries > 0:
        size = max(1, len(steps) // parts)
        for begin in range(0, len(steps), size):
            fewer = steps[:begin] + steps[begin + size :]
            tries -= 1
            if fails(fewer):
                steps, parts = fewer, max(parts - 1, 2)
                break
            if tries <= 0:
                break
        else:
            if size == 1:
                break
            parts = min(2 * parts, len(steps))
    return {**wanted, "steps": steps}


def tell(wanted, result):
    """Return what a person needs of a failure: what, whose seed, which steps led to it."""
    begun = wanted["steps"][: result["step"]]
    lines = [
        f"{result['text']}",
        f"seed {wanted['seed']}, emphasis {wanted['emphasis']}, options {wanted['options']}",
        f"step {result['step']} of {len(wanted['steps'])}",
        "the last steps:",
        *(f"  {json.dumps(step)}" for step in begun[-20:]),
        _again(wanted),
    ]
    return "\n".join(lines)


def _again(wanted):
    command = "again: PYTHONPATH=tests python -m simulation"
    if "length" not in wanted:  # of a file
        return f"{command} --replay FILE"
    return (
        f"{command} --emphasis {wanted['emphasis']} --seed {wanted['seed']} --runs 1"
        f" --steps {wanted['length']} [--shrink]"
    )
