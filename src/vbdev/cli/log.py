"""`vbdev log show|verify|replay|trim`: logs of writes, in the format of dm-log-writes."""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from typing import Any

from vbdev.cli.talk import complain
from vbdev.crash.log import LogError, LogFile, PlacedEntry
from vbdev.crash.replay import ReplayError, Until, replay, trim
from vbdev.vocab.sizes import parse_size, show_size
from vbdev.vocab.text import printable
from vbdev.wire.log_writes import LogFlag


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the words of `vbdev log`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = _action(actions, "show", "print each entry")
    show.add_argument("--json", action="store_true", help="print one JSON object for each entry")
    _action(actions, "verify", "read all of it, and say what it holds")
    replaying = _action(actions, "replay", "write what it says to a disk, in its order")
    replaying.add_argument("image", metavar="IMAGE", help="a file or block device that is there")
    replaying.add_argument(
        "--create", type=size, metavar="SIZE", help="make IMAGE, a file of this size of zeroes"
    )
    trimming = _action(actions, "trim", "write a log of the entries up to a point")
    trimming.add_argument("to", metavar="TO", help="the new log, a file that is not there yet")


def _action(actions: Any, name: str, summary: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=summary, description=summary)
    add_log_arguments(parser)
    return parser


def add_log_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what says which log, and how far it is read; `open_log` opens it."""
    parser.add_argument("log", metavar="LOG", help="a file or block device")
    parser.add_argument(
        "--until",
        type=Until,
        default=Until(),
        metavar="N|MARK",
        help="stop behind so many entries, or behind this mark (mark:7 where it is a number);"
        " default: behind the last",
    )
    parser.add_argument(
        "--salvage",
        action="store_true",
        help="read on behind the entries that the log counts, as long as there can be any: its"
        " writer may have died, or an older log may be there",
    )
    parser.add_argument(
        "--sector-size",
        type=size,
        metavar="BYTES",
        help="of a log whose writer died before it said so; with --salvage",
    )


def open_log(arguments: argparse.Namespace) -> LogFile:
    """Open the log that the arguments name. LogError, OSError."""
    sector_bytes = arguments.sector_size if arguments.salvage else None
    return LogFile(arguments.log, sector_bytes=sector_bytes)


def size(text: str) -> int:
    """Return the bytes that a word says."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(arguments: argparse.Namespace) -> int:
    """Do it; 1 where the log can not be read, or the disk not be written."""
    try:
        with open_log(arguments) as log:
            {"show": _show, "verify": _verify, "replay": _replay, "trim": _trim}[arguments.action](
                log, arguments
            )
    except (LogError, ReplayError) as error:
        complain(f"vbdev log {arguments.action}", error)
        return 1
    except OSError as error:
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        complain(f"vbdev log {arguments.action}", f"{where}{error.strerror}")
        return 1
    return 0


def kind_of(placed: PlacedEntry) -> str:
    """Say what an entry was, in a word or two."""
    flags = placed.entry.flags
    if flags & LogFlag.MARK:
        return "mark"
    words = ["flush"] if flags & LogFlag.FLUSH else []
    if placed.entry.num_sectors:
        words.append("discard" if flags & LogFlag.DISCARD else "write")
    if flags & LogFlag.FUA:
        words.append("fua")
    if flags & LogFlag.METADATA:
        words.append("metadata")
    return " ".join(words)


def _show(log: LogFile, arguments: argparse.Namespace) -> None:
    for placed in arguments.until.cut(log, salvage=arguments.salvage):
        if arguments.json:
            print(json.dumps(_told(placed, log)))
            continue
        where = f"{placed.offset:>14} +{placed.length:<10}" if not placed.entry.is_mark else ""
        mark = printable(os.fsdecode(placed.entry.mark))
        behind = "" if placed.number < log.num_entries else " (not counted)"
        print(f"{placed.number:>6}  {kind_of(placed):<12} {where}{mark}{behind}".rstrip())


def _told(placed: PlacedEntry, log: LogFile) -> dict[str, Any]:
    entry = placed.entry
    told: dict[str, Any] = {
        "entry": placed.number,
        "at": placed.header_at,
        "sector": entry.sector,
        "num_sectors": entry.num_sectors,
        "sector_bytes": placed.sector_bytes,
        "flags": [flag.name.lower() for flag in LogFlag if flag in entry.flags and flag.name],
        "counted": placed.number < log.num_entries,
    }
    if entry.is_mark:
        told["mark"] = entry.mark.decode(errors="backslashreplace")
    return told


def _verify(log: LogFile, arguments: argparse.Namespace) -> None:
    kinds: Counter[str] = Counter()
    disk_bytes, end = 0, log.sector_bytes
    for placed in arguments.until.cut(log, salvage=arguments.salvage):
        for _ in log.data(placed):
            pass
        kinds[kind_of(placed)] += 1
        disk_bytes = max(disk_bytes, placed.offset + placed.length)
        end = placed.end_at
    print(f"sectors of {log.sector_bytes} bytes; {sum(kinds.values())} entries")
    for kind, count in sorted(kinds.items()):
        print(f"  {count:>8} {kind}")
    print(f"the disk has {show_size(disk_bytes)} or more")
    if end < log.size_bytes:
        print(f"{log.size_bytes - end} bytes behind the last entry are not looked at")


def _replay(log: LogFile, arguments: argparse.Namespace) -> None:
    count = replay(
        log,
        arguments.image,
        arguments.until,
        create_bytes=arguments.create,
        salvage=arguments.salvage,
    )
    print(f"{count} entries")


def _trim(log: LogFile, arguments: argparse.Namespace) -> None:
    print(f"{trim(log, arguments.to, arguments.until, salvage=arguments.salvage)} entries")
