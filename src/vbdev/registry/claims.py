"""Claims: which module keeps others from writing a bdev, and how (SPDK: claims v1 and v2).

A claim of the first kind, `exclusive_write`, belongs to a module and outlives any descriptor: it
ends when the module releases it. The other three belong to a descriptor each, and end with it.
Claims of different types exclude each other. Nobody who holds no claim may open a claimed bdev
for writing; anybody may read it. Every refusal says who is in the way.
"""

from __future__ import annotations

import errno

from vbdev.bdev import Bdev, BdevError
from vbdev.bdev.claim import Claim, ClaimHold
from vbdev.bdev.descriptor import Descriptor
from vbdev.bdev.entry import entry_of
from vbdev.bdev.host import Opener
from vbdev.vocab import ClaimType

__all__ = ["claim_bdev", "claim_descriptor", "release_bdev"]

PROMOTING = frozenset(
    {ClaimType.EXCLUSIVE_WRITE, ClaimType.READ_MANY_WRITE_ONE, ClaimType.READ_MANY_WRITE_SHARED}
)
"""Types whose holder may write: its descriptor does, from then on."""


def claim_bdev(bdev: Bdev, descriptor: Descriptor | None, module: str, name: str = "") -> None:
    """Claim for exclusive writing (spdk_bdev_module_claim_bdev); EPERM if anybody has claimed.

    `descriptor`, where there is one, may write from now on. Writers that have the bdev open
    already are not looked for.
    """
    entry = entry_of(bdev)
    if entry.claim is not None:
        raise BdevError(errno.EPERM, _already(bdev, entry.claim))
    entry.claim = Claim(ClaimType.EXCLUSIVE_WRITE)
    entry.claim.holds.append(ClaimHold(module, name or f"module {module}", None))
    if descriptor is not None:
        _promote(descriptor)


def release_bdev(bdev: Bdev, module: str) -> None:
    """Give an `exclusive_write` claim back (spdk_bdev_module_release_bdev).

    EPERM, and nothing changes, for a claim that is not this module's.
    """
    entry = entry_of(bdev)
    claim = entry.claim
    if claim is None or claim.kind is not ClaimType.EXCLUSIVE_WRITE or claim.modules != [module]:
        found = f"{claim.kind} by {claim.holder}" if claim is not None else "nobody's"
        raise BdevError(
            errno.EPERM, f"module {module} can not release bdev {bdev.name}: its claim is {found}"
        )
    entry.claim = None


def claim_descriptor(
    descriptor: Descriptor | None,
    kind: ClaimType | str,
    module: str,
    *,
    name: str = "",
    key: int = 0,
) -> None:
    """Claim a bdev through an open of it (spdk_bdev_module_claim_bdev_desc).

    kind: what is claimed; `exclusive_write` is the same as `claim_bdev`.
    key: for `read_many_write_shared` alone: not 0, and the same for all who share it.

    Raises BdevError: EINVAL without a descriptor, with a key where none belongs or without one
    where it does, and for `read_many_write_none` on a descriptor that may write; EPERM where
    another claim or another writer is in the way; ENOTSUP for an unknown type.
    """
    if descriptor is None:
        raise BdevError(errno.EINVAL, f"module {module}: a claim needs a descriptor")
    bdev = descriptor.bdev
    who = name or f"module {module}"
    try:
        kind = ClaimType(kind)
    except ValueError:
        kind = ClaimType.NOT_CLAIMED
    if kind is ClaimType.NOT_CLAIMED:
        raise BdevError(errno.ENOTSUP, f"bdev {bdev.name}: {who} asks for no type of claim")
    if kind is ClaimType.EXCLUSIVE_WRITE:
        claim_bdev(bdev, descriptor, module, who)
        return
    if (key != 0) != (kind is ClaimType.READ_MANY_WRITE_SHARED):
        raise BdevError(
            errno.EINVAL,
            f"bdev {bdev.name}: a {kind} claim by {who}"
            f" {'takes no' if key else 'needs a'} key; it is {key}",
        )
    if kind is ClaimType.READ_MANY_WRITE_NONE and descriptor.write:
        raise BdevError(
            errno.EINVAL, f"bdev {bdev.name}: a {kind} claim by {who}, who has it open for writing"
        )
    entry = entry_of(bdev)
    claim = entry.claim
    if claim is None:
        _check_writers(descriptor, kind, who)
        claim = Claim(kind, key)
    elif claim.kind is not kind or kind is ClaimType.READ_MANY_WRITE_ONE:
        raise BdevError(errno.EPERM, _already(bdev, claim))
    elif (mine := claim.of(descriptor)) is not None:
        raise BdevError(
            errno.EPERM, f"bdev {bdev.name}: this descriptor has claimed it already: {mine.name}"
        )
    elif claim.key != key:
        raise BdevError(errno.EPERM, f"{_already(bdev, claim)}, with another key")
    claim.holds.append(ClaimHold(module, who, descriptor))
    entry.claim = claim
    descriptor.on_close(lambda: _drop(bdev, descriptor))
    if kind in PROMOTING:
        _promote(descriptor)


def _already(bdev: Bdev, claim: Claim) -> str:
    return f"bdev {bdev.name} already claimed: type {claim.kind} by {claim.holder}"


def _check_writers(descriptor: Descriptor, kind: ClaimType, who: str) -> None:
    bdev = descriptor.bdev
    writers = [d.holder for d in entry_of(bdev).openers if d.write and d is not descriptor]
    if writers:
        raise BdevError(
            errno.EPERM,
            f"bdev {bdev.name}: no {kind} claim for {who} while it is open for writing by"
            f" {', '.join(writers)}",
        )


def _promote(descriptor: Descriptor) -> None:
    if descriptor.write:
        return
    descriptor.write = True
    entry = entry_of(descriptor.bdev)
    for reactor, channel in descriptor.channels.items():
        reactor.exec_msg(entry.reconfigure, channel)


def _drop(bdev: Bdev, descriptor: Opener) -> None:
    entry = entry_of(bdev)
    claim = entry.claim
    if claim is None:
        return
    claim.holds = [hold for hold in claim.holds if hold.descriptor is not descriptor]
    if not claim.holds:
        entry.claim = None
