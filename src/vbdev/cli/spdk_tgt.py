"""`vbdev spdk-tgt`: starts as spdk_tgt does, for scripts that start spdk_tgt.

The options are those of SPDK's applications (lib/event/app.c) and of spdk_tgt itself, with its
defaults and exit statuses: 0, 1 for a failure, 2 for wrong usage. What has no meaning without
hugepages, PCI devices and cores that never sleep is accepted, and one line says so.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import logging
import os
import re
import resource
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vbdev.cli.streams import never_wait
from vbdev.cli.talk import complain
from vbdev.reports.logs import NOTICE, Logs
from vbdev.vocab.cpu_sets import Core, parse_core_map, parse_cpu_set

if TYPE_CHECKING:
    from vbdev.daemon.app import App

log = logging.getLogger(__name__)

DEFAULT_SOCKET: Final = "/var/tmp/spdk.sock"  # noqa: S108 - SPDK_DEFAULT_RPC_ADDR
CORE_LIMIT_BYTES: Final = 5 << 30
"""How large a core dump may get (SPDK_APP_DEFAULT_CORE_LIMIT)."""

LOG_FLAGS: Final = frozenset(
    [
        "accel",
        "accel_dpdk_compressdev",
        "accel_dpdk_cryptodev",
        "accel_dsa",
        "accel_iaa",
        "accel_mlx5",
        "bdev_concat",
        "bdev_ftl",
        "bdev_nvme",
        "bdev_raid",
        "bdev_raid0",
        "bdev_raid1",
        "bdev_raid5f",
        "bdev_raid_sb",
        "bdev_rbd",
        "bdev_virtio",
        "bdev_xnvme",
        "blob",
        "blob_esnap",
        "blob_rw",
        "blobfs",
        "blobfs_bdev",
        "blobfs_bdev_rpc",
        "blobfs_rw",
        "fsdev",
        "fsdev_aio",
        "ftl_core",
        "ftl_init",
        "fuse_dispatcher",
        "gpt_parse",
        "idxd",
        "ioat",
        "iscsi",
        "iscsi_init",
        "json_util",
        "keyring",
        "log",
        "lvol",
        "lvol_rpc",
        "nvme",
        "nvme_auth",
        "nvme_cuse",
        "nvme_vfio",
        "nvmf",
        "nvmf_auth",
        "nvmf_tcp",
        "nvmf_vfio",
        "opal",
        "rdma",
        "rpc_client",
        "scsi",
        "sock",
        "sock_posix",
        "trace",
        "ublk",
        "vbdev_compress",
        "vbdev_crypto",
        "vbdev_lvol",
        "vbdev_opal",
        "vfio_pci",
        "vfio_user",
        "vfu",
        "vhost",
        "vhost_blk",
        "vhost_blk_data",
        "vhost_ring",
        "vhost_rpc",
        "vhost_scsi",
        "vhost_scsi_data",
        "vhost_scsi_queue",
        "virtio",
        "virtio_blk",
        "virtio_dev",
        "virtio_pci",
        "virtio_user",
        "virtio_vfio_user",
        "vmd",
    ]
)
"""SPDK's, of components that are not here or have no flag of their own."""

_PCI_ADDRESS = re.compile(
    r"(?:[0-9a-fA-F]+[:.])?[0-9a-fA-F]{1,2}[:.][0-9a-fA-F]{1,2}(?:[.:][0-7])?"
)
_CAPACITY = re.compile(r"\d+(?:[kKmMgG].*)?", re.DOTALL)


class _Ignored(argparse.Action):
    """An option that means nothing here: `ignored` in the namespace has those that were given."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        given = getattr(namespace, "ignored", None) or []
        name = self.option_strings[-1]
        if name not in given:
            namespace.ignored = [*given, name]
        setattr(namespace, self.dest, values if self.nargs is None else True)


class _Version(argparse.Action):
    """Print the release of SPDK whose methods are served, and end."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from vbdev.api.version import VERSION

        print(VERSION)
        parser.exit(0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of spdk_tgt."""
    # One piece: a table of options, one after the other.
    parser.set_defaults(ignored=[])
    cpus = parser.add_argument_group("CPU options")
    cpus.add_argument(
        "-m",
        "--cpumask",
        metavar="SET",
        help="a reactor on each of these CPUs: a mask (0x3) or a list ([0,1], [0-3]); without it"
        " one, on any CPU",
    )
    cpus.add_argument(
        "--lcores", metavar="MAP", help="reactors and their CPUs: 0,1@(4-7) (not with -m)"
    )
    cpus.add_argument(
        "-p", "--main-core", metavar="CORE", type=_number("main core"), help="the control plane's"
    )
    _ignored(cpus, "--disable-cpumask-locks")
    _ignored(cpus, "--interrupt-mode")

    config = parser.add_argument_group("configuration options")
    config.add_argument(
        "-c", "--config", "--json", metavar="FILE", help="carry out a JSON configuration"
    )
    config.add_argument(
        "-r", "--rpc-socket", metavar="PATH", default=DEFAULT_SOCKET, help="default: %(default)s"
    )
    config.add_argument("--no-rpc-server", action="store_true", help="serve no RPC (overrides -r)")
    config.add_argument(
        "--wait-for-rpc", action="store_true", help="initialise at framework_start_init"
    )
    config.add_argument(
        "--rpcs-allowed", metavar="NAME[,NAME]...", help="serve these RPC methods and no others"
    )
    config.add_argument(
        "--json-ignore-init-errors",
        action="store_true",
        help="go on behind an entry of the configuration that fails",
    )

    memory = parser.add_argument_group("memory options (accepted; there are no hugepages)")
    _ignored(memory, "-s", "--mem-size", metavar="MB", type=_capacity)
    _ignored(memory, "-n", "--mem-channels", metavar="N", type=_number("memory channel"))
    _ignored(memory, "-i", "--shm-id", metavar="ID", type=_shm_id)
    _ignored(memory, "-g", "--single-file-segments")
    _ignored(memory, "-R", "--huge-unlink")
    _ignored(memory, "--no-huge")
    _ignored(memory, "--huge-dir", metavar="PATH")
    _ignored(memory, "--iova-mode", metavar="MODE")
    _ignored(memory, "--base-virtaddr", metavar="ADDRESS", type=_number("base-virtaddr", least=1))
    _ignored(memory, "--msg-mempool-size", metavar="N", type=_number("pool size", least=1))
    _ignored(memory, "--enforce-numa")

    pci = parser.add_argument_group("PCI options (accepted; no PCI device is ever opened)")
    lists = pci.add_mutually_exclusive_group()
    _ignored(lists, "-A", "--pci-allowed", metavar="BDF", type=_pci_address)
    _ignored(lists, "-B", "--pci-blocked", metavar="BDF", type=_pci_address)
    _ignored(pci, "-u", "--no-pci")
    _ignored(pci, "--vfio-vf-token", metavar="UUID")

    output = parser.add_argument_group("log and trace options")
    output.add_argument(
        "-L",
        "--logflag",
        action="append",
        default=[],
        metavar="FLAG",
        help="log what this component says for debugging, or `all`; repeat for more",
    )
    output.add_argument(
        "--silence-noticelog", action="store_true", help="log warnings and errors only"
    )
    _ignored(output, "-e", "--tpoint-group", metavar="MASK")
    _ignored(output, "--num-trace-entries", metavar="N", type=_trace_entries)

    other = parser.add_argument_group("other options")
    other.add_argument("-v", "--version", action=_Version, nargs=0, help="print SPDK's version")
    other.add_argument(
        "-d",
        "--limit-coredump",
        action="store_true",
        help="leave the limit of core dumps as it is; else it becomes 5 GiB",
    )
    other.add_argument(
        "-f", dest="pid_file", metavar="FILE", help="write the pid there, once initialised"
    )
    _ignored(other, "-S", metavar="PATH")
    _ignored(other, "--env-context", metavar="TEXT")


def _ignored(
    group: argparse._ActionsContainer,
    *names: str,
    metavar: str | None = None,
    type: Callable[[str], object] = str,  # noqa: A002 - argparse's name for it
) -> None:
    if metavar is None:
        group.add_argument(*names, action=_Ignored, nargs=0, default=False)
    else:
        group.add_argument(*names, action=_Ignored, metavar=metavar, type=type)


# Words: refused where SPDK refuses them


def _number(what: str, least: int = 0) -> Callable[[str], int]:
    def parse(text: str) -> int:
        with contextlib.suppress(ValueError):
            if (number := _integer(text)) >= least:
                return number
        raise argparse.ArgumentTypeError(f"Invalid {what} {text}")

    return parse


def _integer(text: str) -> int:
    """Read a number as strtol does with base 0: decimal, 0x for hexadecimal, 0 for octal."""
    digits = text.lstrip("+-")
    octal = len(digits) > 1 and digits.isdecimal() and digits.startswith("0")
    return int(text, 8 if octal else 0)


def _shm_id(text: str) -> int:
    """Read a shared memory id; a negative one is none."""
    return _number("shared memory ID")(text.removeprefix("-"))


def _capacity(text: str) -> str:
    if _CAPACITY.fullmatch(text) is None:
        raise argparse.ArgumentTypeError(f"invalid memory pool size `-s {text}`")
    return text


def _pci_address(text: str) -> str:
    if _PCI_ADDRESS.fullmatch(text) is None:
        raise argparse.ArgumentTypeError(f"Invalid address {text}")
    return text


def _trace_entries(text: str) -> int:
    number = _number("num-trace-entries")(text)
    if number & (number - 1):
        raise argparse.ArgumentTypeError("num-trace-entries must be power of 2")
    return number


def cores_of(arguments: argparse.Namespace) -> list[Core]:
    """Return the cores that -m or --lcores and -p mean, the main one first. ValueError."""
    if arguments.lcores is not None:
        cores = parse_core_map(arguments.lcores)
    elif arguments.cpumask is not None:
        cpus = sorted(parse_cpu_set(arguments.cpumask))
        cores = [Core(cpu, frozenset({cpu})) for cpu in cpus]
    else:
        cores = [Core(0)]  # pinned to no CPU: it sleeps, and so do others that run here
    if arguments.main_core is None:
        return cores
    main = [core for core in cores if core.number == arguments.main_core]
    if not main:
        raise ValueError(f"main core {arguments.main_core} is none of the cores")
    return main + [core for core in cores if core not in main]


# Running


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal; 0 after an orderly stop."""
    never_wait()
    if arguments.cpumask is not None and arguments.lcores is not None:
        return _refuse("lcore map and core mask can't be set simultaneously", 2)
    if arguments.no_rpc_server and arguments.wait_for_rpc:
        return _refuse("Cannot use '--wait-for-rpc' if no RPC server is going to be started.", 1)
    try:
        cores = cores_of(arguments)
    except ValueError as error:
        return _refuse(str(error), 1)
    # getopt(3) puts them behind all options, and no application of SPDK's looks there.
    arguments.ignored = [*arguments.ignored, *map(shlex.quote, arguments.strays)]
    logs = Logs()
    logs.print_level = "WARNING" if arguments.silence_noticelog else "INFO"
    for flag in arguments.logflag:
        try:
            logs.set_flag(flag)
        except KeyError:
            if not fnmatch.filter(LOG_FLAGS, flag.lower()):
                return _refuse(f"unknown flag: {flag}; flags: {', '.join(logs.flags)}, all", 2)
            arguments.ignored = [*arguments.ignored, f"--logflag {flag}"]
        logs.print_level = "DEBUG"
    logs.open(sys.stderr)
    with contextlib.closing(logs):
        if arguments.ignored:
            _say(f"accepted, and without a meaning here: {' '.join(arguments.ignored)}")
        if not arguments.limit_coredump:
            _allow_core_dumps()
        status = _serve(arguments, cores, logs)
    from vbdev.files.leaving import leave

    leave(status)
    return status


def _serve(arguments: argparse.Namespace, cores: list[Core], logs: Logs) -> int:
    from vbdev.daemon.app import App, AppError

    try:
        app = App(cores=cores, logs=logs)
    except AppError as error:
        return _refuse(str(error), 1)
    log.log(NOTICE, "Total cores available: %d", len(cores))
    app.second_interrupt_stops = False
    with contextlib.ExitStack() as files:

        def start() -> None:
            if app.start(
                load=lambda: _load(app, arguments.rpcs_allowed),
                rpc=None if arguments.no_rpc_server else arguments.rpc_socket,
                config=arguments.config,
                ignore_errors=arguments.json_ignore_init_errors,
                wait_for_rpc=arguments.wait_for_rpc,
            ):
                for core in cores:  # which scripts look for
                    log.log(NOTICE, "Reactor started on core %d", core.number)
                files.enter_context(_pid_file(arguments.pid_file))

        return app.serve(start, _say)


def _load(app: App, allowed: str | None) -> None:
    """Offer the modules that are installed, and of all methods those that are allowed."""
    app.load_installed_modules()
    if allowed is None:
        return
    names = [name for name in allowed.split(",") if name]
    if unknown := [name for name in names if app.dispatcher.get(name) is None]:
        _say(f"--rpcs-allowed names methods that are not there: {', '.join(unknown)}")
    app.dispatcher.allow(names)


@contextlib.contextmanager
def _pid_file(path: str | None) -> Iterator[None]:
    """Have a file with this process's id, and remove it if it still is this one's."""
    from vbdev.daemon.app import AppError

    if path is None:
        yield
        return
    file, content = Path(path), f"{os.getpid()}\n"
    try:
        file.write_text(content)
    except OSError as error:
        raise AppError(f"Couldn't create pid file '{path}': {error.strerror}") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if file.read_text() == content:
                file.unlink()


def _allow_core_dumps() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    limit = CORE_LIMIT_BYTES if most == resource.RLIM_INFINITY else min(most, CORE_LIMIT_BYTES)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (limit, most))


def _refuse(message: str, status: int) -> int:
    _say(message)
    return status


def _say(message: str) -> None:
    complain("vbdev spdk-tgt", message)
