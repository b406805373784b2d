"""The words of the command line: sizes, BASE, key=value, by themselves and with bad input."""

from typing import Annotated

import msgspec
import pytest

from vbdev.cli.words import base_params, from_text, key_values
from vbdev.daemon.app import AppError
from vbdev.vocab.sizes import parse_size, show_size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4096", 4096),
        ("64KiB", 64 << 10),
        ("64k", 64 << 10),
        ("64MiB", 64 << 20),
        ("1 GiB", 1 << 30),
        ("1TB", 10**12),
        ("512B", 512),
        ("8EiB", 1 << 63),
    ],
)
def test_parse_size(text, expected):
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5G", "64 Mi B", "1ZiB", "0x10"])
def test_parse_size_refuses(text):
    with pytest.raises(ValueError, match="no size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size_bytes", "expected"),
    [(0, "0 B"), (512, "512 B"), (1536, "1.5 KiB"), (64 << 20, "64 MiB"), (1 << 63, "8 EiB")],
)
def test_show_size(size_bytes, expected):
    assert show_size(size_bytes) == expected


def test_base_is_a_path():
    assert base_params("a,b:c") == ("uring", {"filename": "a,b:c"})
    assert base_params("aio:/x,direct=no") == ("aio", {"filename": "/x", "direct": "no"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nbd://host/disk", {"uri": "nbd://host/disk"}),
        ("nbd+unix:///?socket=/s", {"uri": "nbd+unix:///?socket=/s"}),
        ("nbd:nbd://host", {"uri": "nbd://host"}),
        ("nbd:unix:/s,connections=4", {"uri": "unix:/s", "connections": "4"}),
        (
            "nbd+unix:///?socket=/s,export_name=a,timeout=3",
            {"uri": "nbd+unix:///?socket=/s", "export_name": "a", "timeout": "3"},
        ),
    ],
)
def test_base_is_an_nbd_server(text, expected):
    assert base_params(text) == ("nbd", expected)


def test_base_is_a_size():
    kind, params = base_params("malloc:1MiB,block_size=4096")
    assert (kind, params["num_blocks"], params["block_size"]) == ("malloc", "256", "4096")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("malloc:1000", "1000 bytes are no multiple of the block size 512"),
        ("malloc:many", "'many' is no size"),
        ("null:1M,block_size=0", "block size 0"),
        ("null:1M,name", "'name' is not key=value"),
        ("null:1M,name=a,name=b", "name is given twice"),
    ],
)
def test_base_refuses(text, message):
    with pytest.raises(AppError, match=message):
        base_params(text)


def test_key_values_keep_equals_signs():
    assert key_values(["a=b=c", "d="], "x") == {"a": "b=c", "d": ""}


@pytest.mark.parametrize(
    ("text", "declared", "expected"),
    [
        ("0x5a", int, 90),
        ("-3", int, -3),
        ("1MiB", int | None, 1 << 20),
        ("yes", bool, True),
        ("off", bool | None, False),
        ("1.5", float, 1.5),
        ("12", str, "12"),
        ("4K", Annotated[int, msgspec.Meta(ge=0)], 4096),
        ("7", Annotated[int, msgspec.Meta(ge=0)] | None, 7),
        ("0.5", Annotated[float, msgspec.Meta(ge=0)], 0.5),
    ],
)
def test_from_text(text, declared, expected):
    assert from_text(text, declared) == expected


@pytest.mark.parametrize(("text", "declared"), [("maybe", bool), ("0xzz", int), ("a", float)])
def test_from_text_refuses(text, declared):
    with pytest.raises(ValueError, match=text):
        from_text(text, declared)
