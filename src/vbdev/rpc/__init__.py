"""The control plane: SPDK-compatible JSON-RPC.

`errors` says how a failure looks to a client, `dispatch` turns a method's name and parameters
into a call, `server` and `connection` carry requests over sockets; the other end is `vbdev.client`.
Nothing here knows any single method; whoever owns one registers it with the dispatcher.
"""
