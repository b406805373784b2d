"""The compiled floor: what each I/O passes.

`types.pxd`   the C structs: BdevIO, frame, and the numbers of `vocab.py`
`buffers`     pools of aligned data buffers
`batch`       IOBatch: what a module's `submit` receives
`engine`      Channel (submit, checks, counters), Engine (BdevIO pool, completion), IoOwner
`ram`         memory disks: the loops behind `malloc`
`fileio`      files, one blocking call after another: what worker threads run
`filequeue`   files, many I/Os at once: ring, workers, syncs, what each I/O waits for
`uring`       the io_uring ring
`nbd_stream`  NBD's transmission phase: requests to batches, completions to replies
`nbd_wire.pxd` the bytes of that
`requests`    I/Os for Python callers
`loadgen`     the load generator

Nothing here knows a clock's source, a thread or a logger. No policy: that is Python's.
"""
