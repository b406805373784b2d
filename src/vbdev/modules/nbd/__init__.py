"""nbd: any NBD server as a bdev.

server: which server, as users write it. dialing: a socket that is connected and negotiated, without
blocking the reactor. lane: a reactor's connections, which are made again when they are lost. disk:
the bdev itself. The transmission phase is compiled: `vbdev.core.nbd.client.path`.
"""
