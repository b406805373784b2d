"""What a disk was told, as logs say it, and what follows from that.

`log` reads and writes logs of dm-log-writes' format, ours and those of others; `replay` makes disks
of them. The bytes are `vbdev.wire.log_writes`.
"""
