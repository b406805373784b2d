"""docs/rpc-coverage.md, out of what the run found."""

from __future__ import annotations

import textwrap
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from spdk_client import cases_nothing
from spdk_client.facts import METHODS
from spdk_client.run import KINDS, Report

DOCUMENT = Path(__file__).parents[2] / "docs" / "rpc-coverage.md"
PLANES = tomllib.loads(Path(__file__).with_name("planes.toml").read_text())["plane"]
ABSENT = {
    "framework_enable_cpumask_locks framework_disable_cpumask_locks": (
        "reactors sleep when there is nothing to do and share their CPUs; none is locked."
    ),
    "scheduler_set_options": "threads stay on their reactors: there is no core to set apart.",
    "framework_get_pci_devices env_dpdk_get_mem_stats": (
        "there is no DPDK, and no PCI device that a process would drive by itself."
    ),
    "trace_enable_tpoint_group trace_disable_tpoint_group trace_set_tpoint_mask"
    " trace_clear_tpoint_mask trace_get_tpoint_group_mask trace_clear trace_get_info": (
        "there is no trace buffer in shared memory for `spdk_trace` to read."
    ),
}
_MODULES = "aio crypto lvol malloc null nvme ocf raid rbd split virtio"
NOTHING = frozenset(case.method for case in cases_nothing.CASES)
HEADS = {
    "valid": "valid",
    "undecodable": "wrong parameters",
    "refused": "refused",
    "state": "state",
    "class": "Python class",
    "spdk-rpc": "spdk-rpc",
}


def render(report: Report) -> str:
    """Return the page."""
    parts = [
        _head(report),
        _by_group(report),
        _differences(report),
        _absent(report),
        _nothing(),
        _own(report),
        _planes(report),
        _CLI,
        _MCP,
        _methods(report),
    ]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _head(report: Report) -> str:
    checks = len(report.checks)
    differing = sum(bool(check.why) for check in report.checks)
    used = _used()
    served = [method for method in used if method in report.served]
    callers = sum(len(planes) for planes in used.values())
    met = sum(len(used[method]) for method in served)
    return f"""\
# What SPDK's own client gets

`make rpc-coverage` asks a running vbdev everything below with the `spdk` package of PyPI, 26.9,
unmodified, and writes this page; a test runs the same and compares.

- Of the {len(METHODS)} methods that SPDK 26.09 declares, vbdev serves **{len(report.served)}**.
  Of these {len(NOTHING)} list what there is nothing of here, see
  [below](#lists-of-what-there-is-nothing-of). What it does not serve it refuses as SPDK refuses a
  method that it does not know: code -32601, `Method not found`.
- **{checks}** questions, {checks - len(report.failures)} answered as they have to be: code and
  text of every refusal, each field of every result, its type and its place. {differing} of these
  answers are another than SPDK's on purpose: see [below](#other-than-spdk-on-purpose).
- Of the {len(used)} methods that {len(PLANES)} public control planes call, {len(served)} are
  served: {met} of {callers} uses. What is missing is, above all, other targets than NBD (NVMe-oF,
  iSCSI, vhost, ublk) and logical volumes, RAID and NVMe disks below.
"""


def _by_group(report: Report) -> str:
    groups: dict[str, list[str]] = defaultdict(list)
    for name, fact in METHODS.items():
        groups[fact.group].append(name)
    rows = []
    for group, names in groups.items():
        served = sum(name in report.served for name in names)
        rows.append((group, str(len(names)), str(served) if served else "-"))
    rows.sort(key=lambda row: (row[2] == "-", row[0]))
    return "## By group\n\n" + _table(("group", "methods of SPDK", "served"), rows)


def _differences(report: Report) -> str:
    whys: dict[str, list[str]] = defaultdict(list)
    for check in report.checks:
        if check.why:
            what = f"`{check.what}`" if check.what.startswith("{") else check.what
            whys[check.why].append(f"`{check.method}`, {what}")
    lines = [_item(f"{'; '.join(what)}: {why}") for why, what in whys.items()]
    return "## Other than SPDK on purpose\n\n" + "".join(lines) + _DATA


def _absent(report: Report) -> str:
    items = []
    for methods, why in ABSENT.items():
        there = [name for name in methods.split() if name in report.served]
        assert not there, f"{there} are served, and listed among what is not"
        items.append(_item(f"{', '.join(f'`{name}`' for name in methods.split())}: {why}"))
    return "## What has no meaning here\n\n" + "".join(items)


def _nothing() -> str:
    return _NOTHING + _item(f"They are {', '.join(f'`{name}`' for name in sorted(NOTHING))}.")


def _own(report: Report) -> str:
    more = [
        f"`{method}`: {', '.join(f'`{name}`' for name in names)}"
        for method, names in report.more.items()
    ]
    return (
        "## More than SPDK\n\n"
        + _item(
            f"{len(report.own)} methods are vbdev's own:"
            f" {', '.join(f'`{name}`' for name in sorted(report.own))}."
        )
        + (_item(f"Methods of SPDK's take more parameters. {'; '.join(more)}.") if more else "")
    )


def _item(text: str) -> str:
    return textwrap.fill(f"- {text}", 98, subsequent_indent="  ", break_on_hyphens=False) + "\n"


def _used() -> dict[str, list[str]]:
    """Return the methods that control planes call, and who calls them."""
    used: dict[str, list[str]] = defaultdict(list)
    for plane in PLANES:
        for method in calls(plane):
            used[method].append(plane["name"])
    return dict(sorted(used.items(), key=lambda item: (-len(item[1]), item[0])))


def calls(plane: dict[str, str]) -> dict[str, list[str]]:
    """Return the methods that a control plane calls, and the parameters that it sends to each."""
    lines = [line.split() for line in plane["calls"].splitlines()]
    return {method: sent for method, *sent in lines}


def _sent(report: Report, plane: dict[str, str]) -> list[tuple[str, str]]:
    """Return the parameters that a control plane sends to methods that are served."""
    return [
        (method, name)
        for method, sent in calls(plane).items()
        if method in report.served
        for name in sent
    ]


def not_taken(report: Report, plane: dict[str, str]) -> list[tuple[str, str]]:
    """Return those that a method does not take: such a call fails, though it is served."""
    return [
        (method, name) for method, name in _sent(report, plane) if name not in report.takes[method]
    ]


def _planes(report: Report) -> str:
    rows = []
    for plane in PLANES:
        called, sent = calls(plane), len(_sent(report, plane))
        served = sum(method in report.served for method in called)
        taken = sent - len(not_taken(report, plane))
        rows.append((plane["name"], plane["source"], *map(str, (len(called), served, sent, taken))))
    methods = [
        (f"`{method}`", "yes" if method in report.served else "-", str(len(who)), ", ".join(who))
        for method, who in _used().items()
    ]
    families: dict[str, list[bool]] = defaultdict(list)
    for method in _used():
        families[_family(method)].append(method in report.served)
    counts = [
        (family, str(len(served)), str(sum(served)) if any(served) else "-")
        for family, served in sorted(families.items())
    ]
    return "\n".join(
        (
            _CALLED,
            _refused(report),
            _table(
                (
                    "control plane",
                    "read in",
                    "methods it calls",
                    "served",
                    "parameters it sends to those",
                    "taken",
                ),
                rows,
            ),
            _table(("of", "methods called", "served"), counts),
            _table(("method", "served", "by how many", "by whom"), methods),
        )
    )


def _refused(report: Report) -> str:
    """Return what is sent to methods that are served, and not taken."""
    refused: dict[tuple[str, str], list[str]] = defaultdict(list)
    for plane in PLANES:
        for call in not_taken(report, plane):
            refused[call].append(plane["name"])
    return "".join(
        _item(
            f"`{method}` is sent `{name}` by {', '.join(who)}. SPDK 26.09 has no such parameter, a"
            " fork of it does: such a call is refused here as there."
        )
        for (method, name), who in refused.items()
    )


def _family(method: str) -> str:
    """Return what a method is about: `bdev lvol`, `nvmf`."""
    first, second, *_ = method.split("_")
    modules = set(_MODULES.split())
    return f"{first} {second}" if first == "bdev" and second in modules else first


def _methods(report: Report) -> str:
    rows = []
    for method in METHODS:
        if method in report.served:
            kinds = Counter(check.kind for check in report.of(method))
            rows.append((f"`{method}`", *(str(kinds[kind] or "-") for kind in HEADS)))
    missing = [f"`{method}`" for method in METHODS if method not in report.served]
    return (
        _ASKED
        + _table(("method", *HEADS.values()), rows)
        + f"\nNot served, {len(missing)}:\n"
        + "\n".join(textwrap.wrap(", ".join(missing), 98))
    )


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


_NOTHING = """\
## Lists of what there is nothing of

Control planes ask what is there before they do anything else. NVMe controllers, RAIDs, logical
volumes and keys of others are what bdevs could be made of, and there are none: a target without
any answers with an empty list, and so does vbdev. It makes none of them either, and does not say
that it could. What it lists of other targets (`nvmf_get_subsystems`, `vhost_get_controllers`,
`iscsi_get_portal_groups`, `ublk_get_disks`...) stays unknown: who asks for those wants to export a
bdev there, and is to find out at once.

"""
_DATA = """\
- An error has `data` besides, which JSON-RPC 2.0 knows and SPDK leaves out: a sentence that says
  what was wrong. `code` and `message` are SPDK's.
"""
_CALLED = """\
## What control planes call

Read from their sources; methods that exist only in a project's own fork of SPDK are not counted.
OpenEBS Mayastor is not among them: it has SPDK inside, and its control plane speaks gRPC to it. To
serve a method is one thing, to take the parameters that are sent another: both are counted.
"""
_ASKED = """\
## Method by method

How many questions each method was asked. *Valid*: only what is required, every parameter, none,
null, integers written as 8.0 and 8e0; each answer is held field by field. *Wrong parameters*: each
one missing, null, of every other type, out of range, given twice, an unknown one besides, arrays.
*Refused*: what decodes and can not be. *State*: before or after `framework_start_init`. *Python
class*: `JSONRPCClient`, by `call` and by a method of its name. *spdk-rpc*: a process, what it
prints and its status.

"""
_CLI = """\
## spdk-cli

`spdk-cli` of the same package starts, shows the tree and works in it: `ls`, `/bdevs/malloc`,
`aio`, `uring`, `null`, `error` with `create`, `delete`, `delete_all`, `show_details`,
`get_bdev_iostat`; `/bdevs/split_disk` with `bdev_split_create` and `bdev_split_delete`;
`save_config` and `load_config`. It draws the nodes of the other modules too (`nvme`, `lvol_stores`,
`raid_volume`, `rbd`, `iscsi`, `virtio...`), empty; their `create` is refused with `Method not
found`. `/nvmf`, `/vhost` and `/iscsi` are not drawn: it looks for those subsystems in
`framework_get_subsystems`.
"""
_MCP = """\
## spdk-mcp

`spdk-mcp` of 26.9 does not start, whatever it is to talk to: it imports `spdk.rpc.bdev`, which the
package has not had since 26.1; the command names a module where a function belongs; and it needs
`mcp` before 2. In 25.9 the module is there, and the command fails all the same; its server, started
as `python -m spdk.mcp.server`, has two tools, one of them called `wrap`. So
[examples/spdk_mcp.py](../examples/spdk_mcp.py) makes the module, a function for each `bdev_*`
method that the daemon says it has, and runs the server of 26.9 as it is. The tests list the bdevs
of a running vbdev through it, with MCP's own client, make one, and are refused one.
"""

assert set(HEADS) == set(KINDS) - {"absent"}
