"""`vbdev crash verify LOG IMAGE`: whether a disk may be what a power cut has left of a log."""

from __future__ import annotations

import argparse
import json
import os

from vbdev.cli.log import add_log_arguments, open_log
from vbdev.cli.talk import complain
from vbdev.crash.legal import IllegalSector, WrongDiskError, illegal_sectors
from vbdev.crash.log import LogError
from vbdev.crash.replay import ReplayError

SHOWN = 20
"""Sectors that are told one by one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the words of `vbdev crash`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
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


def run(arguments: argparse.Namespace) -> int:
    """Look at the disk; 1 where it is not legal, or can not be looked at."""
    try:
        with open_log(arguments) as log:
            found = illegal_sectors(
                log,
                arguments.image,
                base=arguments.base,
                until=arguments.until,
                in_order=arguments.in_order,
                zeroing=arguments.zeroing,
                salvage=arguments.salvage,
            )
            return _tell(list(found), as_json=arguments.json)
    except (LogError, ReplayError, WrongDiskError) as error:
        complain("vbdev crash verify", error)
    except OSError as error:
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        complain("vbdev crash verify", f"{where}{error.strerror}")
    return 1


def _tell(found: list[IllegalSector], *, as_json: bool) -> int:
    if as_json:
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
