"""The JSON-RPC codec: every stream whole, byte by byte and with more behind it; then garbage.

The two roles are joined without a network. What no case lists, Hypothesis looks for: any bytes
give events, in bounded memory, and how the bytes were cut never matters.
"""

import itertools
import json
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbdev.wire.jsonrpc import (
    INVALID_REQUEST,
    LIST_PIECE,
    MAX_REQUEST_BYTES,
    MAX_REQUEST_VALUES,
    PARSE_ERROR,
    Batch,
    ClientCodec,
    Malformed,
    Request,
    Response,
    ServerCodec,
    batch_pieces,
    encode_batch,
    encode_error,
    encode_request,
    encode_result,
    has_long_list,
    result_pieces,
)
from vbdev.wire.jsontext import MAX_DEPTH, DuplicateKey, HugeNumber, JsonError, decode


def events(*chunks, codec=None):
    codec = codec or ServerCodec()
    found = []
    for chunk in chunks:
        codec.feed(chunk)
        while (event := codec.next_event()) is not None:
            found.append(event)
    return found


def one_by_one(stream):
    return events(*(stream[i : i + 1] for i in range(len(stream))))


def brief(event):
    """Leave out texts and values that compare by identity."""
    if isinstance(event, Batch):
        return [brief(item) for item in event.requests]
    if isinstance(event, Malformed):
        return (event.id, event.code, event.close)
    params = event.params
    return (event.id, event.method, repr(params))


def call(**members):
    return json.dumps(members).encode()


VALID = [
    (b'{"method":"m"}', Request(None, "m")),
    (b'{"jsonrpc":"2.0","method":"m","id":1}', Request(1, "m")),
    (b'{"id":"a","method":"m","params":{}}', Request("a", "m", {})),
    (b'{"id":null,"method":"m","params":null}', Request(None, "m")),
    (b'{"id":-1.5,"method":"m","params":{"n":1e3}}', Request(-1.5, "m", {"n": 1000})),
    (b' \t\r\n{ "id" : 1 , "method" : "m" }\n\n', Request(1, "m")),
    (b'{"id":1,"method":"m","params":[1]}', Request(1, "m", [1])),
    (b'{"id":1,"method":"}]\\"[{","params":{"a":"\\\\"}}', Request(1, '}]"[{', {"a": "\\"})),
    ('{"id":"é\\u00e9\\ud83d\\ude00","method":"m"}'.encode(), Request("éé😀", "m")),
    *((call(id="x" * n, method="m"), Request("x" * n, "m")) for n in (128, 129, 2000, 200_000)),
    (call(id=int("9" * 128), method="m"), Request(int("9" * 128), "m")),
]

INVALID = [
    (b"{}", None),
    (b'{"id":7}', 7),
    (b'{"id":7,"method":1}', 7),
    (b'{"id":7,"method":null}', 7),
    (b'{"id":7,"method":"m","jsonrpc":"1.0"}', 7),
    (b'{"id":7,"method":"m","jsonrpc":2.0}', 7),
    (b'{"id":7,"method":"m","jsonrpc":null}', 7),
    (b'{"id":7,"method":"m","extra":1}', 7),
    (b'{"id":7,"method":"m","params":1}', 7),
    (b'{"id":7,"method":"m","params":"a"}', 7),
    (b'{"id":7,"method":"m","params":false}', 7),
    (b'{"id":true,"method":"m"}', None),
    (b'{"id":[],"method":"m"}', None),
    (b'{"id":{},"method":"m"}', None),
    (b'{"method":"m","method":"m"}', None),
    (b"[]", None),
    (b'"text"', None),
]

MALFORMED = [
    b"}",
    b"]",
    b",",
    b"x",
    b"GET / HTTP/1.1\r\n",
    b"\x00",
    b"\xef\xbb\xbf{}",
    b"{'method'",
    b"{hello",
    b'{"a" 1}',
    b'{"a":1,}',
    b"{,,}",
    b'{"a":[}',
    b'{"a":1]',
    b'{"a":01}',
    b'{"a":+1}',
    b'{"a":1.}',
    b'{"a":tru}',
    b'{"a":NaN}',
    b'{"a":"\n',
    b'{"a":"\x1f',
    b'{"a":"\\x"}',
    b'{"a":"\xff"}',
    b'{"a":"\xed\xa0\x80"}',
    b'{"a":"\xc0\x80"}',
    b'{"a":"\\ud800"}',
    b'{"a":"\\udc00\\ud800"}',
    b"[" * (MAX_DEPTH + 1),
    b"tru ",
    b"--1 ",
    b"[1 2]",
    b"{} }",
]


@pytest.mark.rule("A.23.5", "A.23.6", "A.23.7")
@pytest.mark.parametrize(("stream", "request_"), VALID)
def test_request(stream, request_):
    assert events(stream) == [request_]
    assert one_by_one(stream) == [request_]
    assert events(stream + stream) == [request_, request_]
    assert events(stream + b'{"meth')[0] == request_


@pytest.mark.rule("A.23.4", "A.23.5", "A.23.7")
@pytest.mark.parametrize(("stream", "request_id"), INVALID)
def test_invalid_request_leaves_the_stream_usable(stream, request_id):
    expected = [(request_id, INVALID_REQUEST, False), (1, "m", "None")]
    stream += b'{"id":1,"method":"m"}'
    assert [brief(event) for event in events(stream)] == expected
    assert [brief(event) for event in one_by_one(stream)] == expected


@pytest.mark.parametrize("number", [b"1", b"-0.5e3", b"true", b"false", b"null"])
def test_a_bare_scalar_is_no_request(number):
    assert events(number) == []  # more digits could come
    assert brief(events(number + b" ")[0]) == (None, INVALID_REQUEST, False)
    assert brief(one_by_one(number + b"{}")[0]) == (None, INVALID_REQUEST, False)


@pytest.mark.parametrize("stream", MALFORMED)
def test_malformed_ends_the_stream(stream):
    for found in (events(stream), one_by_one(stream), events(stream + b'{"method":"m"}')):
        assert brief(found[-1]) == (None, PARSE_ERROR, True)
        assert found[-1].data
    codec = ServerCodec()
    events(stream, codec=codec)
    assert events(b'{"id":1,"method":"m"}' * 100, codec=codec) == []
    assert codec.buffered_bytes < 1000


@pytest.mark.rule("A.23.9")
def test_duplicate_keys_in_params_are_left_for_the_method_to_refuse():
    (request,) = events(b'{"id":1,"method":"m","params":{"a":1,"\\u0061":1}}')
    assert isinstance(request.params, DuplicateKey)
    assert request.params.key == "a"
    (request,) = events(b'{"id":1,"method":"m","params":{"o":{"b":1,"c":2,"b":3}}}')
    assert isinstance(request.params["o"], DuplicateKey)


@pytest.mark.rule("A.23.11")
def test_batch():
    stream = b'[{"id":1,"method":"a"},{"method":"b"},5,{"id":2}]'
    expected = [
        [
            (1, "a", "None"),
            (None, "b", "None"),
            (None, INVALID_REQUEST, False),
            (2, INVALID_REQUEST, False),
        ]
    ]
    assert [brief(event) for event in events(stream)] == expected
    assert [brief(event) for event in one_by_one(stream)] == expected


@pytest.mark.rule("A.23.10")
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e3", 1000),
        ("10.0", 10),
        ("-0.0", 0),
        ("-0", 0),
        ("1.5", 1.5),
        ("100e-2", 1),
        ("1E+2", 100),
        ("1.25e1", 12.5),
        ("0.1e1", 1),
        ("18446744073709551615.0", 2**64 - 1),
        ("1.8446744073709551615e19", 2**64 - 1),
        ("1e300", 1e300),
        ("0e-999999999", 0.0),
        ("0e999999999", 0.0),
    ],
)
def test_integral_numbers_are_ints(text, value):
    found = decode(text.encode())
    assert found == value
    assert type(found) is type(value)


@pytest.mark.rule("A.23.10")
@pytest.mark.parametrize(
    "number",
    [
        "1e400",
        "-1e999",
        "1" * 129,
        "1" * 5000,
        "0." + "3" * 200,
        "1e" + "9" * 300,
        "-" + "9" * 5000,
    ],
)
def test_a_number_beyond_all_limits_is_one_that_no_method_takes(number):
    stream = b'{"id":1,"method":"m","params":{"n":%s,"a":[%s]}}' % ((number.encode(),) * 2)
    for found in (events(stream), one_by_one(stream)):
        assert isinstance(found[0].params["n"], HugeNumber)
        assert isinstance(found[0].params["a"][0], HugeNumber)


@pytest.mark.parametrize(
    "text",
    [
        '"%s"' % ("x" * 129),
        '"%s"' % ("\u00e9" * 1000),
        "9" * 129,
        "-" + "9" * 5000,
        "1e" + "9" * 300,
        "-1.5",
        "18446744073709551616",
    ],
)
def test_an_id_of_any_length_comes_back_as_it_is(text):
    (request,) = events(b'{"id":%s,"method":"m"}' % text.encode())
    assert encode_result(request.id, True) == (
        b'{"jsonrpc":"2.0","id":%s,"result":true}\n' % text.encode()
    )
    assert encode_error(request.id, -1, "m").startswith(
        b'{"jsonrpc":"2.0","id":%s,"error"' % text.encode()
    )
    client = ClientCodec()
    client.feed(encode_result(request.id, True))
    assert client.next_event().result is True


# Limits


def padded(length):
    empty = call(method="m", params={"p": ""})
    return call(method="m", params={"p": "x" * (length - len(empty))})


@pytest.mark.rule("A.23.12")
def test_length_limit():
    assert isinstance(events(padded(MAX_REQUEST_BYTES))[0], Request)
    assert brief(events(padded(MAX_REQUEST_BYTES + 1))[0]) == (None, PARSE_ERROR, True)
    endless = b'{"p":"' + b"x" * MAX_REQUEST_BYTES
    assert brief(events(endless)[0]) == (None, PARSE_ERROR, True)
    assert brief(events(b"1" * (MAX_REQUEST_BYTES + 1))[0]) == (None, PARSE_ERROR, True)


@pytest.mark.rule("A.23.12")
def test_value_limit():
    # method, its name, params, "p", and the array are 2 + 1 + 1 + 1 + 2 + 1 + 2 values
    def request(scalars):
        return call(method="m", params={"p": [1] * scalars})

    fits = MAX_REQUEST_VALUES - 10
    for stream in (request(fits), request(fits) + b"{"):
        assert isinstance(events(stream)[0], Request)
    assert isinstance(one_by_one(request(fits))[0], Request)
    assert events(request(fits + 1))[0].code == PARSE_ERROR
    assert one_by_one(request(fits + 1))[0].code == PARSE_ERROR


def test_depth_limit():
    deepest = b'{"method":"m","params":' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}"
    assert isinstance(events(deepest)[0], Request)


def test_white_space_between_requests_takes_no_memory():
    codec = ServerCodec()
    for _ in range(512):
        codec.feed(b" \n" * 32768)
        assert codec.next_event() is None
        assert codec.buffered_bytes == 0
    assert events(b'{"id":1,"method":"m"}', codec=codec) == [Request(1, "m")]


@pytest.mark.parametrize(
    "unit", [b"x", b"\\\\", b'\\"', b"\\u0041", "é".encode()], ids=["x", "bs", "quote", "u", "utf8"]
)
def test_time_is_linear_byte_by_byte(unit):
    # Quadratic would be 65536**2 / 2 steps, which is minutes.
    stream = b'{"method":"m","params":{"p":"' + unit * (65536 // len(unit)) + b'"}}'
    start = time.perf_counter()
    assert len(one_by_one(stream)) == 1
    assert time.perf_counter() - start < 5


def test_many_requests_at_once_are_linear():
    stream = b'{"id":1,"method":"m"}' * 50_000
    start = time.perf_counter()
    assert len(events(stream)) == 50_000
    assert time.perf_counter() - start < 10


# The other direction


@pytest.mark.rule("A.23.8")
def test_messages_end_with_a_newline_and_are_compact():
    assert encode_result(1, True) == b'{"jsonrpc":"2.0","id":1,"result":true}\n'
    assert encode_error(None, -19, "No such device") == (
        b'{"jsonrpc":"2.0","id":null,"error":{"code":-19,"message":"No such device"}}\n'
    )
    assert encode_error("a", -1, "m", "d").endswith(b'"message":"m","data":"d"}}\n')
    assert encode_request("m", {"a": 1}, 2) == (
        b'{"jsonrpc":"2.0","method":"m","id":2,"params":{"a":1}}\n'
    )
    assert encode_request("m") == b'{"jsonrpc":"2.0","method":"m"}\n'


class Counted(msgspec.Struct, kw_only=True, rename={"all_of": "all"}):
    """An answer with lists in its fields, and fields that are absent."""

    first: int | msgspec.UnsetType = msgspec.UNSET
    some: list[int] = []
    more: dict[str, int] = {}
    all_of: list[Any] = []
    last: str | None = None


@pytest.mark.parametrize(
    "result",
    [
        True,
        None,
        {"a": [1] * 1000},
        [],
        [{"name": f"Disk{n}"} for n in range(1000)],
        list(range(LIST_PIECE)),
        list(range(2 * LIST_PIECE)),
        list(range(2 * LIST_PIECE + 1)),
        Counted(),
        Counted(first=1, some=[1, 2], more={"b": 1}, all_of=["é\n"] * 1000, last="x"),
        Counted(some=[0] * 65, all_of=[Counted(all_of=[1] * 100)] * 100),
    ],
)
@pytest.mark.parametrize("request_id", [1, "a", HugeNumber("1" * 40)])
def test_a_long_result_is_the_same_in_pieces(result, request_id):
    pieces = list(result_pieces(request_id, result))
    assert b"".join(pieces) == encode_result(request_id, result)
    assert has_long_list(result) == (len(pieces) > 5)
    assert max(map(len, pieces)) < 30_000


def test_batch_response():
    parts = [encode_result(1, "a"), b"", encode_error(2, -1, "e")]
    assert [part["id"] for part in json.loads(encode_batch(parts))] == [1, 2]
    assert encode_batch(parts).endswith(b"]\n")
    assert encode_batch([b"", b""]) == b""
    assert list(batch_pieces([b"", b""])) == []


def test_a_batch_in_pieces_lets_go_of_what_it_has_given():
    parts = [encode_result(n, "a") for n in range(3)]
    whole = encode_batch(parts)
    assert all(parts), "these are the caller's"
    given = b""
    for piece in batch_pieces(parts):
        given += piece
        assert len(given) + sum(map(len, parts)) <= len(whole) + len(b",\n")
    assert given == whole
    assert parts == [b"", b"", b""]


def test_two_roles_joined():
    server, client = ServerCodec(), ClientCodec()
    server.feed(encode_request("m", {"n": 2**64}, 2**64))
    request = server.next_event()
    assert request == Request(2**64, "m", {"n": 2**64})
    client.feed(encode_result(request.id, request.params) + encode_error("x", -5, "E", {"d": 1}))
    client.feed(encode_batch([encode_result(1, None)]))
    assert client.next_event() == Response(2**64, {"n": 2**64})
    assert client.next_event() == Response("x", None, -5, "E", {"d": 1})
    assert client.next_event() == (Response(1),)
    assert client.next_event() is None


@pytest.mark.parametrize(
    "stream",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"1 ",
        b"{}",
        b'{"id":1}',
        b'{"id":1,"result":1,"error":{}}',
        b'{"id":1,"error":null}',
        b'{"id":1,"error":{"code":0,"message":""}}',
        b'{"id":1,"error":{"code":1}}',
        b'{"id":1,"result":1,"extra":1}',
        b'{"id":1,"id":1}',
    ],
)
def test_client_refuses_what_is_no_response(stream):
    codec = ClientCodec()
    codec.feed(stream)
    with pytest.raises(JsonError):
        codec.next_event()


# Anything at all

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
WORDS = rb"""{ } [ ] " \ , : 1 e true "id":1 "method":"m" {"method":"m"} "params": \u d800"""
TOKENS = st.sampled_from([*WORDS.split(), b" ", b"\n", b"\xff"])
STREAM = st.binary(max_size=200) | st.lists(TOKENS, max_size=60).map(b"".join)


@given(STREAM, st.lists(st.integers(0, 200), max_size=6))
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_events_however_they_are_cut(stream, cuts):
    whole = [brief(event) for event in events(stream)]
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    pieces = [stream[a:b] for a, b in itertools.pairwise(places)]
    assert [brief(event) for event in events(*pieces)] == whole
    assert [brief(event) for event in one_by_one(stream)] == whole


@given(JSON)
@settings(max_examples=200, deadline=None)
def test_any_json_comes_through(params):
    codec = ServerCodec()
    try:
        codec.feed(encode_request("m", {"p": params}, 1))
    except UnicodeEncodeError:
        return  # half a surrogate pair
    assert as_floats(codec.next_event().params["p"]) == as_floats(params)


def as_floats(value):
    """Forget whether a number was an int; decimal 6.6e17 is one, and the nearest float another."""
    if isinstance(value, list):
        return [as_floats(item) for item in value]
    if isinstance(value, dict):
        return {key: as_floats(item) for key, item in value.items()}
    if isinstance(value, bool | str | None | DuplicateKey):
        return value
    return float(value)


@given(st.binary(max_size=100) | STREAM)
@settings(max_examples=200, deadline=None)
def test_what_is_taken_is_json_by_the_standard_library_too(text):
    try:
        value = decode(text)
    except JsonError:
        return
    if "duplicate key" not in repr(value) and "number " not in repr(value):
        assert as_floats(json.loads(text)) == as_floats(value)


def nested(depth):
    """Return a result that many arrays and objects deep, with some beside each other."""
    value = "]}"
    for level in range(depth):
        value = [value, {"k": {"[": level}}] if level % 2 else {'a\\"{': value, "b": [1.5, None]}
    return value


@pytest.mark.parametrize("piece", [1, 2, 7, 64, 10_000])
@pytest.mark.parametrize("depth", [0, 1, 3, 4, 40])
def test_a_response_is_the_same_however_it_is_cut(piece, depth):
    codec, answers = ClientCodec(), []
    stream = b"".join(encode_result(number, nested(depth)) for number in range(3))
    for start in range(0, len(stream), piece):
        codec.feed(stream[start : start + piece])
        while (event := codec.next_event()) is not None:
            answers.append(event)
    assert answers == [Response(number, nested(depth)) for number in range(3)]


@pytest.mark.parametrize("inside", [b"[]", b"{}", b'{"a":[]}', b'"a"', b"1"])
def test_a_response_is_no_deeper_than_a_request(inside):
    def answer(depth):
        codec = ClientCodec()
        around = depth - 1 - inside.count(b"[") - inside.count(b"{")
        codec.feed(b'{"id":1,"result":' + b"[" * around + inside + b"]" * around + b"}")
        return codec.next_event()

    assert isinstance(answer(MAX_DEPTH), Response)
    with pytest.raises(JsonError, match="nested deeper"):
        answer(MAX_DEPTH + 1)


@pytest.mark.parametrize("result", [b"[{]}", b'{"a":[}]', b'[{"a":1]', b'{"a":{"b":[1}}}', b"[1}"])
def test_a_response_whose_brackets_do_not_match_is_refused_at_once(result):
    codec = ClientCodec()
    codec.feed(b'{"id":1,"result":' + result)
    with pytest.raises(JsonError, match="must close"):
        codec.next_event()
