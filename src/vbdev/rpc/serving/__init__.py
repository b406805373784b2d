"""From a socket to a call: `server` and `connection` carry requests, `dispatch` calls by name.

`turns` says whose requests are started next, `socket_lock` who may have a socket's path.
"""
