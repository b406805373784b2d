"""A disk that is another server's export.

`path`     the module's end of it: I/Os of one channel
`queue`    the I/Os of all paths of a disk that wait
`link`     one connection
`sender`, `replies`  what it sends, and what it gets
`slots.pxd`, `pieces`  requests that are under way on it, and the pieces of their answers
`requests.pxd`  which command an I/O is, and which one instead where that is refused
"""
