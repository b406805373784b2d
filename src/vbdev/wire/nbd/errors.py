"""Who broke the protocol: this program, or the peer."""

from __future__ import annotations

__all__ = ["LocalProtocolError", "ProtocolError", "RemoteProtocolError"]


class ProtocolError(Exception):
    """The NBD conversation can't go on as asked."""


class LocalProtocolError(ProtocolError):
    """The caller asked for something that the protocol forbids now. The codec is unchanged."""


class RemoteProtocolError(ProtocolError):
    """The peer broke a rule that leaves nothing to say to it: close the connection.

    A codec that raised this raises it again at every later call.
    """
