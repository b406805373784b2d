"""Files, as the bdevs on them need them opened. Nothing here knows a bdev or a reactor.

opening: a path becomes an open, locked file whose geometry is known. stable_writes: where a flag
is enough for a FUA write. mounts: whether a path is on something that may hang. aside: the same
calls made in a process of its own, whose program is helper, for paths that may. access: which of
these ways it is, and which file is whose. leaving: the end of a process whose files do not close.

`opening`, `stable_writes` and `helper` are imported by that process each time, so they import
little.
"""
