"""The registry: which bdevs exist, who has them open and claimed, and how they come and go.

Rooms, from the top down: `registry` puts them together; `removal` takes bdevs down; `examine`
looks at new ones; `creations` remembers which vbdevs were asked for, and builds them; `holds` is
a base opened and claimed for those who stand on it; `claims` says who may write; `names` is the
one name space; `media` hands media events to writers; `notifications` tells who asks what came and
went; `saved` tells what makes it all again.
"""

from __future__ import annotations

from vbdev.registry.creations import Creation
from vbdev.registry.holds import BaseHold
from vbdev.registry.registry import Registry
from vbdev.registry.saved import comes_back, subsystem_calls

__all__ = ["BaseHold", "Creation", "Registry", "comes_back", "subsystem_calls"]
