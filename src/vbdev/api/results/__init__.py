"""What RPC methods answer with: each answer's fields, their types and their order, declared once.

Handlers return these; the schema, the reference page and the typed clients are made from them, so
nothing of the compiled core is imported here. A field that may be absent is UNSET then; one that
may be null says `| None`. Names, order and types are SPDK's where the method is.
"""

from __future__ import annotations

from vbdev.api.results.application import (
    ConfigCall,
    ContextSwitches,
    Governor,
    IobufModule,
    IobufPool,
    Notification,
    Scheduler,
    Subsystem,
    Version,
    VersionFields,
)
from vbdev.api.results.base import Result
from vbdev.api.results.bdevs import (
    BdevInfo,
    Claim,
    DifCheckTypes,
    Holder,
    Holders,
    MemoryDomain,
    RateLimits,
    StackEntry,
    SupportedIoTypes,
)
from vbdev.api.results.counters import (
    BdevIostat,
    ChannelIostat,
    Histogram,
    HistogramBorders,
    Iostat,
)
from vbdev.api.results.nbd import (
    Export,
    NbdDisk,
)
from vbdev.api.results.threads import (
    IoChannel,
    IoChannels,
    LwThread,
    PollerInfo,
    ReactorInfo,
    ReactorList,
    ThreadIoChannels,
    ThreadPollers,
    ThreadsPollers,
    ThreadsStats,
    ThreadStats,
)

__all__ = [
    "BdevInfo",
    "BdevIostat",
    "ChannelIostat",
    "Claim",
    "ConfigCall",
    "ContextSwitches",
    "DifCheckTypes",
    "Export",
    "Governor",
    "Histogram",
    "HistogramBorders",
    "Holder",
    "Holders",
    "IoChannel",
    "IoChannels",
    "IobufModule",
    "IobufPool",
    "Iostat",
    "LwThread",
    "MemoryDomain",
    "NbdDisk",
    "Notification",
    "PollerInfo",
    "RateLimits",
    "ReactorInfo",
    "ReactorList",
    "Result",
    "Scheduler",
    "StackEntry",
    "Subsystem",
    "SupportedIoTypes",
    "ThreadIoChannels",
    "ThreadPollers",
    "ThreadStats",
    "ThreadsPollers",
    "ThreadsStats",
    "Version",
    "VersionFields",
]
