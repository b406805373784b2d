"""Which NBD server, and which of its exports: addresses and NBD URIs.

URIs are those of the NBD project (doc/uri.md): `nbd://host:port/export` and
`nbd+unix:///export?socket=/path`. TLS is not spoken, and what asks for it is refused.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

from vbdev.bdev import BdevError
from vbdev.vocab.address import Address, ListenError, parse_address

__all__ = ["DEFAULT_NBD_PORT", "Server", "parse_server"]

DEFAULT_NBD_PORT: Final = 10809
"""Assigned by IANA."""
MAX_EXPORT_NAME_BYTES: Final = 4096
"""Longest string of the protocol ("Protocol phases")."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where to connect, and what to ask for there; "" is the server's default export."""

    address: Address
    export_name: str = ""

    def __str__(self) -> str:
        return f"{self.address}, export {self.export_name!r}"


def parse_server(who: str, text: str, export_name: str = "") -> Server:
    """Read a URI, or `unix:/path` or `tcp:host:port`. BdevError EINVAL; `who` is for its message.

    An export name may be in the URI or be given beside it, and not be two.
    """
    try:
        server = _parse_uri(text) if "://" in text else Server(parse_address(text))
    except (ValueError, ListenError) as error:
        raise BdevError(errno.EINVAL, f"{who}: {text!r} is no NBD server: {error}") from error
    if export_name and server.export_name and export_name != server.export_name:
        raise BdevError(
            errno.EINVAL,
            f"{who}: {text!r} names export {server.export_name!r}, and export_name is"
            f" {export_name!r}",
        )
    export_name = export_name or server.export_name
    length = len(export_name.encode(errors="surrogatepass"))
    if length > MAX_EXPORT_NAME_BYTES:
        raise BdevError(
            errno.EINVAL,
            f"{who}: an export name of {length} bytes; it has {MAX_EXPORT_NAME_BYTES} at most",
        )
    return Server(server.address, export_name)


def _parse_uri(text: str) -> Server:
    if any(ord(letter) < ord(" ") for letter in text):
        raise ValueError("a control character has to be written with %")  # or it would be dropped
    parts = urlsplit(text)
    if parts.scheme in ("nbds", "nbds+unix", "nbds+vsock"):
        raise ValueError("TLS is not supported")
    if parts.scheme not in ("nbd", "nbd+unix"):
        raise ValueError(f"scheme {parts.scheme!r} is neither nbd nor nbd+unix")
    if parts.fragment:
        raise ValueError("an NBD URI has no fragment")
    query = _parse_query(parts.query)
    if tls := [name for name in query if name.startswith("tls-")]:
        raise ValueError(f"{tls[0]}: TLS is not supported")
    # One slash separates; what is behind it is the name, other slashes included.
    export_name = unquote(parts.path.removeprefix("/"), errors="strict")
    if parts.username or parts.password:
        raise ValueError("user names are for TLS, which is not supported")
    if parts.scheme == "nbd+unix":
        sockets = query.get("socket", [])
        if len(sockets) != 1:
            raise ValueError("nbd+unix takes one ?socket=/path")
        if parts.netloc:
            raise ValueError("nbd+unix has no host: write three slashes")
        return Server(parse_address(f"unix:{sockets[0]}"), export_name)
    if query:
        raise ValueError(f"parameter {next(iter(query))!r} is not for nbd://")
    host, port = parts.hostname, parts.port
    if not host:
        raise ValueError("the host is missing")
    port = DEFAULT_NBD_PORT if port is None else port
    host = f"[{host}]" if ":" in host else host
    return Server(parse_address(f"tcp:{host}:{port}"), export_name)


def _parse_query(text: str) -> dict[str, list[str]]:
    """Return {name: values}. A plus is a plus: these are no forms."""
    query: dict[str, list[str]] = {}
    for field in filter(None, text.split("&")):
        name, equals, value = field.partition("=")
        if not equals:
            raise ValueError(f"parameter {field!r} has no value")
        query.setdefault(name, []).append(unquote(value, errors="strict"))
    return query
