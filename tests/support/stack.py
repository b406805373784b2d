"""The kit that users get too, under the name that the tests know it by."""

from vbdev.testing import Opened, Stack, Stub, describe, forward, gather, layer, stack

__all__ = ["Opened", "Stack", "Stub", "describe", "forward", "gather", "layer", "stack"]
