"""What a bdev module is tested with: no daemon, no thread, no real time.

`Stack`          a reactor, an engine and a registry that the test turns by hand
`Opened`         a descriptor that the test submits through
`Stub`           a leaf that holds every I/O until the test completes it
`layer, gather`  vbdevs made of a function
`ContractSuite`, `LayerContractSuite`  what every module owes, as tests to subclass

A daemon as a process, for tests of what talks to one, is `vbdev.testing.daemon`.

Nothing here needs pytest. docs/testing.md shows how it goes together.
"""

from __future__ import annotations

from vbdev.testing.contract import ContractSuite, LayerContractSuite
from vbdev.testing.stack import Opened, Stack, stack
from vbdev.testing.stub import Stub, describe, forward, gather, layer

__all__ = [
    "ContractSuite",
    "LayerContractSuite",
    "Opened",
    "Stack",
    "Stub",
    "describe",
    "forward",
    "gather",
    "layer",
    "stack",
]
