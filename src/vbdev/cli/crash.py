"""`vbdev crash explore|make|verify`: the disks that a power cut may leave of a log."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from vbdev.cli.log import add_log_arguments, open_log, size
from vbdev.cli.talk import complain
from vbdev.crash.checks import Check
from vbdev.crash.explore import Explored, Failure, explore, make
from vbdev.crash.legal import IllegalSector, WrongDiskError, illegal_sectors
from vbdev.crash.log import LogError, LogFile
from vbdev.crash.replay import ReplayError
from vbdev.vocab.text import printable

SHOWN = 20
"""Sectors, or failures, that are told one by one."""
INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the words of `vbdev crash`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _add_explore(actions)
    _add_make(actions)
    _add_verify(actions)


def _add_explore(actions: Any) -> None:
    summary = "check the disks that power cuts may leave, and make what fails small"
    exploring = actions.add_parser("explore", help=summary, description=summary)
    add_log_arguments(exploring)
    _add_base(exploring)
    exploring.add_argument(
        "--check",
        required=True,
        metavar="COMMAND",
        help="ends with 0 where a disk is well; {disk} is its path, {mark} the last mark before"
        " the cut (VBDEV_DISK, VBDEV_MARK); it may write to the disk",
    )
    exploring.add_argument(
        "--states", type=_positive, default=64, metavar="N", help="of each cut; default: 64"
    )
    exploring.add_argument("--seed", type=int, default=1, metavar="N", help="default: 1")
    exploring.add_argument(
        "--jobs", type=_positive, metavar="N", help="checks beside each other; default: CPUs"
    )
    exploring.add_argument(
        "--timeout", type=float, default=60.0, metavar="SECONDS", help="of a check; default: 60"
    )
    exploring.add_argument(
        "--directory", metavar="DIR", help="where the disks are meanwhile; default: TMPDIR"
    )
    exploring.add_argument(
        "--no-shrink", dest="shrink", action="store_false", help="leave failures as they are"
    )
    exploring.add_argument("--json", action="store_true", help="print one JSON object")


def _add_make(actions: Any) -> None:
    summary = "make the disk that a power cut leaves"
    making = actions.add_parser("make", help=summary, description=summary)
    add_log_arguments(making)
    making.add_argument("image", metavar="IMAGE", help="the disk, a file that is not there yet")
    _add_base(making)
    which = making.add_mutually_exclusive_group()
    which.add_argument(
        "--lost",
        type=_sectors,
        metavar="SECTOR=ENTRY,...",
        help="nothing is lost, but these sectors have what an older entry wrote (base: what was"
        " there before the log)",
    )
    which.add_argument(
        "--kept",
        type=_sectors,
        metavar="SECTOR=ENTRY,...",
        help="all is lost that may be, but these sectors have what an entry wrote",
    )


def _add_verify(actions: Any) -> None:
    summary = "say whether IMAGE is a disk that a power cut may have left, and which sector is not"
    verify = actions.add_parser("verify", help=summary, description=summary)
    add_log_arguments(verify)
    verify.add_argument("image", metavar="IMAGE", help="the disk, a file or block device")
    verify.add_argument(
        "--base", metavar="IMAGE", help="the disk as it was before the log began; default: zeroes"
    )
    verify.add_argument(
        "--in-order",
        action="store_true",
        help="the log's entries are in the order of their completion, FUA writes too (the kernel's"
        " are not)",
    )
    verify.add_argument(
        "--zeroing", action="store_true", help="discarded blocks read as zeroes, always"
    )
    verify.add_argument("--json", action="store_true", help="print one JSON object")


def _add_base(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--base", metavar="IMAGE", help="the disk as it was before the log began")
    which.add_argument("--size", type=size, metavar="SIZE", help="it was so many bytes of zeroes")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}; 1 at least")
    return number


def _sectors(text: str) -> dict[int, int]:
    found: dict[int, int] = {}
    for word in text.split(",") if text else []:
        sector, _, number = word.partition("=")
        try:
            found[int(sector)] = -1 if number == "base" else int(number)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{word!r} is no SECTOR=ENTRY") from None
    return found


def run(arguments: argparse.Namespace) -> int:
    """Do it; 1 where a disk fails, or can not be looked at."""
    who = f"vbdev crash {arguments.action}"
    actions = {"explore": _explore, "make": _make, "verify": _verify}
    try:
        with open_log(arguments) as log:
            return actions[arguments.action](log, arguments)
    except (LogError, ReplayError, WrongDiskError, ValueError) as error:
        complain(who, error)
    except OSError as error:
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        complain(who, f"{where}{error.strerror}")
    return 1


# explore and make


def _explore(log: LogFile, arguments: argparse.Namespace) -> int:
    found = Explored()
    interrupted = False
    try:
        explore(
            log,
            Check(arguments.check, arguments.timeout),
            base=arguments.base,
            size_bytes=arguments.size or 0,
            until=arguments.until,
            most=arguments.states,
            seed=arguments.seed,
            jobs=arguments.jobs,
            salvage=arguments.salvage,
            directory=arguments.directory,
            shrink=arguments.shrink,
            explored=found,
            tell=_progress if sys.stderr.isatty() else lambda _found: None,
        )
    except KeyboardInterrupt:
        interrupted = True
    if arguments.json:
        print(json.dumps(_told(found, interrupted=interrupted)))
    else:
        for failure in found.failures[:SHOWN]:
            _show(failure, arguments)
        if len(found.failures) > SHOWN:
            print(f"... and at {len(found.failures) - SHOWN} more cuts")
        print(
            f"{found.cuts} cuts, {found.states} states, {found.checked} different disks checked:"
            f" {found.failed} fail{', interrupted' if interrupted else ''}"
        )
    if interrupted:
        return INTERRUPTED
    return 1 if found.failed else 0


def _progress(found: Explored) -> None:
    print(
        f"\r{found.cuts} cuts, {found.checked} disks checked, {found.failed} fail",
        end="",
        file=sys.stderr,
        flush=True,
    )


def _words_of(failure: Failure) -> list[str]:
    return [
        f"{sector}={'base' if number < 0 else number}"
        for sector, number in (failure.small.sectors if failure.small else [])
    ]


def _show(failure: Failure, arguments: argparse.Namespace) -> None:
    mark = f", mark {printable(os.fsdecode(failure.mark))!r}" if failure.mark is not None else ""
    small = failure.small
    outcome = small.outcome if small else failure.outcome
    print(f"cut behind entry {failure.position - 1}{mark}: the check {outcome.words}")
    if small is not None:
        words = _words_of(failure)
        if not words:
            print("  " + ("with nothing lost" if small.lost else "with all lost that may be"))
        elif small.lost:
            print(f"  where these sectors are lost: {', '.join(words)}")
        else:
            print(f"  where nothing but these sectors is kept: {', '.join(words)}")
        base = f"--base {arguments.base}" if arguments.base else f"--size {arguments.size}"
        which = f" --{'lost' if small.lost else 'kept'} {','.join(words)}" if words else ""
        if not words and not small.lost:
            which = " --kept ''"
        print(
            printable(
                f"  vbdev crash make {arguments.log} IMAGE {base} --until {failure.position}{which}"
            )
        )
    for line in outcome.output.splitlines()[-5:]:
        print(f"  | {printable(line)}")


def _told(found: Explored, *, interrupted: bool) -> dict[str, object]:
    return {
        "cuts": found.cuts,
        "states": found.states,
        "checked": found.checked,
        "failed": found.failed,
        "interrupted": interrupted,
        "failures": [
            {
                "until": one.position,
                "mark": None if one.mark is None else one.mark.decode(errors="backslashreplace"),
                "status": one.outcome.status,
                "output": one.outcome.output,
                "small": None
                if one.small is None
                else {
                    ("lost" if one.small.lost else "kept"): _words_of(one),
                    "checks": one.small.checks,
                },
            }
            for one in found.failures
        ],
    }


def _make(log: LogFile, arguments: argparse.Namespace) -> int:
    make(
        log,
        arguments.image,
        base=arguments.base,
        size_bytes=arguments.size or 0,
        until=arguments.until,
        lost=arguments.kept is None,
        sectors=arguments.lost or arguments.kept or {},
        salvage=arguments.salvage,
    )
    return 0


# verify


def _verify(log: LogFile, arguments: argparse.Namespace) -> int:
    found = list(
        illegal_sectors(
            log,
            arguments.image,
            base=arguments.base,
            until=arguments.until,
            in_order=arguments.in_order,
            zeroing=arguments.zeroing,
            salvage=arguments.salvage,
        )
    )
    if arguments.json:
        told = [
            {
                "sector": one.sector,
                "offset": one.offset,
                "holds": one.holds,
                "allowed": one.allowed,
            }
            for one in found
        ]
        print(json.dumps({"legal": not found, "illegal_sectors": told}))
    elif not found:
        print("legal: each sector holds what a power cut may have left there")
    else:
        for one in found[:SHOWN]:
            print(f"sector {one.sector} (byte {one.offset}): {_words(one)}")
        print(f"not legal: {len(found)} sectors")
    return 1 if found else 0


def _words(one: IllegalSector) -> str:
    if one.holds is None:
        what = "holds what was never there"
    else:
        what = f"holds {_of(one.holds)}, and a later version is durable"
    return f"{what}; it may hold {' or '.join(map(_of, one.allowed))}"


def _of(number: int) -> str:
    return "what was there before the log" if number < 0 else f"entry {number}"
