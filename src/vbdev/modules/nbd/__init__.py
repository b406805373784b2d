"""nbd: any NBD server as a bdev.

uri: which server, as users write it. dialing: a socket that is connected and negotiated, without
blocking the reactor. lane: a reactor's connections, which are made again when they are lost; seat:
one of them; changes: what may change of an export meanwhile. refusals: what a server refuses, in
words. disk: the bdev itself. The transmission phase is compiled: `vbdev.core.nbd.client.path`.
"""
