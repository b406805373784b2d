"""NBD's transmission phase, at both ends: `client` and `server`, which do not know each other.

`wire.pxd`   its bytes
`errno.pxd`  its errors
"""
