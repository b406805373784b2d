"""What is said of the daemon as a whole: version, subsystems, configuration, events, memory."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, UnsetType

from vbdev.api.results.base import Result

__all__ = [
    "ConfigCall",
    "ContextSwitches",
    "Governor",
    "IobufModule",
    "IobufPool",
    "Notification",
    "Scheduler",
    "Subsystem",
    "Version",
    "VersionFields",
]


class VersionFields(Result, kw_only=True):
    """The parts of a version."""

    major: int
    """Of the SPDK release whose methods are served."""
    minor: int
    """The same."""
    patch: int
    """The same."""
    suffix: str
    """`-vbdev-` and the version of vbdev."""


class Version(Result, kw_only=True):
    """The version of what answers."""

    version: str
    """The fields, written together."""
    fields: VersionFields
    """For programs."""


class Subsystem(Result, kw_only=True):
    """A part of the application that has a configuration."""

    subsystem: str
    """Its name."""
    depends_on: list[str]
    """Subsystems that are initialised before it."""


class ConfigCall(Result, kw_only=True):
    """A call that makes part of the present configuration again."""

    method: str
    """Name of the method."""
    params: dict[str, Any] | UnsetType = UNSET
    """Its parameters; absent where it takes none."""


class ContextSwitches(Result, kw_only=True):
    """Whether context switches are reported to the log."""

    enabled: bool
    """Whether each reactor reports its own, once a second."""


class Scheduler(Result, kw_only=True):
    """What decides on which reactor a thread runs."""

    scheduler_name: str
    """`static`: a thread stays where it is."""
    scheduler_period: int
    """How often it decides, in us; 0: never again."""
    isolated_core_mask: str
    """Cores that it leaves alone, in hexadecimal."""
    scheduling_core: int
    """The reactor that it runs on."""


class Governor(Result, kw_only=True):
    """What sets the frequencies of CPUs: an empty object, because there is none."""


class Notification(Result, kw_only=True):
    """Something that happened."""

    type: str
    """What: one of `notify_get_types`."""
    ctx: str
    """Name of the bdev that it happened to."""
    id: int
    """Number of the event; counts up from 0."""


class IobufPool(Result, kw_only=True):
    """How often a buffer of some size was asked for, on all reactors."""

    cache: int
    """One that was in use before was handed out."""
    main: int
    """One was made of new memory."""
    retry: int
    """There was none to be had. Whoever asked waits, and asks again when others were given back."""
    cache_size: int
    """How many the reactors would cache in SPDK: as `bdev_set_options` says, of each."""


class IobufModule(Result, kw_only=True):
    """Data buffers of one user."""

    module: str
    """`bdev`; there is no other."""
    small_pool: IobufPool
    """Buffers up to `small_bufsize`."""
    large_pool: IobufPool
    """Larger ones."""
