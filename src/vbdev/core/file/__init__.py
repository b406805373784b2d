"""Files as disks.

`uring_abi.pxd`  the system calls, and what io_uring shares with the kernel
`uring`          the io_uring ring
`job`            files, one blocking call after another: what worker threads run
`queue`          files, many I/Os at once: ring, workers, syncs, what each I/O waits for
"""
