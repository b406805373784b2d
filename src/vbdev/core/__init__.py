"""The compiled floor: what each I/O passes.

`types.pxd`   the C structs: BdevIO, frame, and the numbers of `vocab.py`
`buffers`     pools of aligned data buffers
`batch`       IOBatch: what a module's `submit` receives
`columns`     fields of a batch's I/Os as numpy arrays
`engine`      Engine (BdevIO pool, the way up of what completes), IoOwner
`admission`   what an I/O may have to wait for, or be changed by, before a module sees it
`channel`     Channel: submit, delivery to the module, what leaves the queues, counters
`children`    I/Os that become several: splitting and emulation
`coroutines`  modules that take their I/Os one at a time, in coroutines
`qos`         rate limits that all channels of a bdev share
`histogram`   latencies, counted
`dif`         protection information: guards, made, checked, moved
`protect`     reference tags of a batch, for layers that move blocks
`loop`        a reactor's turns and its waiting: descriptors, and whether there is anything to do
`handover`    the GIL, from one reactor to another
`domain`      data outside of this process's memory
`ram`         memory disks: the loops behind `malloc`
`fileio`      files, one blocking call after another: what worker threads run
`leaving`     the end of a process that can not close its files
`filequeue`   files, many I/Os at once: ring, workers, syncs, what each I/O waits for
`uring`       the io_uring ring
`nbd_stream`  NBD's transmission phase: requests to batches, completions to replies
`nbd_wire.pxd` the bytes of that
`bigendian.pxd` big-endian fields
`requests`    I/Os for Python callers
`loadgen`     the load generator

Nothing here knows a clock's source, a thread or a logger. No policy: that is Python's.
"""
