"""What the built-in methods declare, for what is generated from it."""

from __future__ import annotations

import functools
from pathlib import Path

ROOT = Path(__file__).parents[2]


@functools.cache
def document():
    """Return the OpenRPC document of the built-in methods."""
    from vbdev.daemon.app import App
    from vbdev.rpc.describing.schema import describe_methods

    app = App()
    try:
        return describe_methods(app.dispatcher.methods())
    finally:
        app.close()


def component(reference):
    """Return the schema that a `$ref` stands for."""
    return document()["components"]["schemas"][name_of(reference)]


def name_of(reference):
    """Return the name of what a `$ref` stands for."""
    return reference.rpartition("/")[2]
