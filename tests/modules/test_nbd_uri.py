"""Which server a URI or an address means.

Method: `parse_server` on what the NBD project's doc/uri.md allows, and on what it does not.
"""

import errno

import pytest

from vbdev.bdev import BdevError
from vbdev.modules.nbd.uri import parse_server


@pytest.mark.parametrize(
    ("text", "address", "export"),
    [
        ("nbd://host", "tcp:host:10809", ""),
        ("nbd://host/", "tcp:host:10809", ""),
        ("nbd://host:1234/disk", "tcp:host:1234", "disk"),
        ("nbd://[::1]:1234/a/b", "tcp:[::1]:1234", "a/b"),
        ("nbd://192.0.2.1/%2Froot%20disk", "tcp:192.0.2.1:10809", "/root disk"),
        ("nbd+unix:///?socket=/run/nbd.sock", "unix:/run/nbd.sock", ""),
        ("nbd+unix:///disk?socket=/run/n%20bd.sock", "unix:/run/n bd.sock", "disk"),
        ("nbd+unix:///a+b%26c?socket=/run/n+b%26d.sock", "unix:/run/n+b&d.sock", "a+b&c"),
        ("nbd+unix:////disk?socket=/s", "unix:/s", "/disk"),
        ("nbd://host/%C3%A4%20%3F%23%25", "tcp:host:10809", "ä ?#%"),
        ("nbd://host/a=b;c,d", "tcp:host:10809", "a=b;c,d"),
        ("unix:/run/nbd.sock", "unix:/run/nbd.sock", ""),
        ("tcp:[::1]:10809", "tcp:[::1]:10809", ""),
    ],
)
def test_what_is_meant(text, address, export):
    server = parse_server("test", text)
    assert (str(server.address), server.export_name) == (address, export)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "address"),
        ("/dev/nbd0", "address"),
        ("http://host/", "scheme"),
        ("nbds://host/", "TLS"),
        ("nbds+unix:///?socket=/s", "TLS"),
        ("nbd+unix:///?socket=/s&tls-certificates=/c", "TLS"),
        ("nbd+unix:///disk", "socket"),
        ("nbd+unix:///?socket=/a&socket=/b", "socket"),
        ("nbd+unix://host/?socket=/a", "host"),
        ("nbd+unix:///?socket=", "path"),
        ("nbd://", "host"),
        ("nbd:///disk", "host"),
        ("nbd://host:99999/", "port"),
        ("nbd://host:x/", "port"),
        ("nbd://user@host/", "user"),
        ("nbd://host/?socket=/a", "socket"),
        ("nbd://host/%ff", "decode"),
        ("nbd://host/#part", "fragment"),
        ("nbd://host/a\nb", "control"),
        ("nbd+unix:///?socket", "value"),
        ("unix:" + "x" * 200, "108"),
    ],
)
def test_what_is_refused(text, why):
    with pytest.raises(BdevError) as caught:
        parse_server("nbd bdev 'N0'", text)
    assert caught.value.errno == errno.EINVAL
    assert "nbd bdev 'N0'" in str(caught.value)
    assert why.lower() in str(caught.value).lower() or why == "108"


def test_one_name_is_enough():
    assert parse_server("test", "nbd://host/", "disk").export_name == "disk"
    assert parse_server("test", "nbd://host/disk", "disk").export_name == "disk"
    with pytest.raises(BdevError, match="names export 'a', and export_name is 'b'"):
        parse_server("test", "nbd://host/a", "b")
    with pytest.raises(BdevError, match="4096 at most"):
        parse_server("test", "nbd://host/", "x" * 4097)
