"""The compiled floor: what each I/O passes.

Families, in the order in which one may import from another; those of one line do not know each
other (tests/floors/test_core.py):

`base`                  words of C: structs, atomics, clocks, sockets, and who takes the GIL next
`memory`, `counts`      where data lies, and what protects it; latencies and rates, counted
`engine`                what each I/O passes: batches, channels, its ways down and up
`loop`, `coroutine`, `load`, `ram`, `file`, `nbd`
                        a reactor's turns; modules that take their I/Os one at a time; the load
                        generator; memory disks; files; both ends of NBD

Nothing here knows a clock's source, a thread or a logger. No policy: that is Python's.
"""
