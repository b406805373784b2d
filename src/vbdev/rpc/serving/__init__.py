"""From a socket to a call.

`rpc_server` and `rpc_connection` carry requests, `dispatch` calls by name, `turns` says whose
requests are started next, `socket_lock` who may have a socket's path.
"""
