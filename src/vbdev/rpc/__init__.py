"""The control plane: SPDK-compatible JSON-RPC.

`errors` says how a failure looks to a client, `dispatch` turns a method's name and parameters
into a call, `server` and `connection` carry requests over sockets, `client` is the other end.
Nothing here knows any single method; whoever owns one registers it with the dispatcher.
"""
