"""Some rooms of the control plane's methods, over the parts that these need."""

from __future__ import annotations

from types import SimpleNamespace

from vbdev.rpc.methods import nothing


def register_rooms(dispatcher, *rooms, **parts):
    """Register the methods of rooms; their plane has `parts` and the dispatcher alone."""
    plane = SimpleNamespace(dispatcher=dispatcher, **parts)
    for room in rooms:
        register = dispatcher.register_substitute if room is nothing else dispatcher.register
        for method in room.METHODS:
            register(method, plane)
