"""The registry: which bdevs exist, who has them open and claimed, and how they come and go.

Rooms, from the top down: `registry` is the face, which puts them together; `ending` is the end of
all; `saved` tells what makes it all again; `examine` looks at new bdevs; `building` makes what was
asked for; `removal` takes bdevs down; `holds` is which bases, opened and claimed, a vbdev stands
on; `opening` makes descriptors; `table` is which bdevs there are; `creations` remembers which
vbdevs were asked for; `claims` says who may write; `names` is the one name space; `media` hands
media events to writers; `notifications` tells who asks what came and went; `options` are the bdev
layer's.
"""

from __future__ import annotations

from vbdev.registry.creations import Creation
from vbdev.registry.holds import BaseHold
from vbdev.registry.registry import Registry

__all__ = ["BaseHold", "Creation", "Registry"]
