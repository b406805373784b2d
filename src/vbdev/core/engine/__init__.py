"""What each I/O passes: batches, channels, its ways down and up.

`batch`      IOBatch: what a module's `submit` receives
`columns`    fields of a batch's I/Os as numpy arrays
`engine`     Engine (BdevIO pool, the way up of what completes), IoOwner
`turn.pxd`   how long one part of a reactor's turn may go on, and who comes next
`admission`  what an I/O may have to wait for, or be changed by, before a module sees it
`entered`    what is under way in one channel, for who asks
`delivery`   what a channel hands to its module
`channel`    Channel: submit, delivery to the module, what leaves the queues, counters
`children`   I/Os that become several: splitting and emulation
`edges`      a write in bytes: what it reads, changes and writes back at its ends
`long_work`  I/Os that a leaf carries out step by step
`requests`   I/Os for Python callers
`protect`    reference tags of a batch, for layers that move blocks
"""
