"""What loads a stack, compiled.

`loadgen`        I/Os kept in flight on one channel, and what comes back
`patterns.pxd`   their offsets and contents
`copy_limit`     the copying alone, which no disk in memory can beat
"""
