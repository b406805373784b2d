"""What a client is told: the answers of RPC methods as JSON has them."""

from __future__ import annotations

import msgspec

from vbdev.rpc import bdev_info


def as_json(result):
    """Return a method's result as its client gets it."""
    return msgspec.json.decode(msgspec.json.encode(result))


def as_declared(result, declared):
    """Return the same, having made sure that it is what the method declares, and nothing more."""
    text = msgspec.json.encode(result)
    again = msgspec.json.encode(msgspec.json.decode(text, type=declared))
    assert again == text, f"{declared} does not hold {text}"
    return msgspec.json.decode(text)


def describe(bdev):
    """Return what bdev_get_bdevs says of a bdev."""
    return as_json(bdev_info.describe(bdev))
