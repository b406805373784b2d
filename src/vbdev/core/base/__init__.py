"""Words of C that all of the compiled floor shares, and that know no I/O's way.

`types.pxd`      the C structs: BdevIO, frame, and the numbers of `vocab/io.py`
`atomics.pxd`    the compiler's atomics
`clocks.pxd`     CLOCK_MONOTONIC
`sockets.pxd`    system calls on a socket that somebody else has opened
`bigendian.pxd`  big-endian fields
`mapping.pxd`    mmap(2), and memory that is all zeroes
`calls.pxd`      system calls that more than one family makes
`capi.pxd`       the interpreter, with references that nobody counts
`handover`       the GIL, from one reactor to another
`leaving`        the end of a process that can not close its files
"""
