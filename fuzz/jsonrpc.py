"""Fuzz the JSON-RPC codec: any bytes, cut anywhere, give events in bounded memory.

Run: python fuzz/jsonrpc.py [corpus] [-max_total_time=60]
"""

import json
import sys

import atheris

with atheris.instrument_imports(include=["vbdev"]):
    from vbdev.wire.jsonrpc import (
        MAX_REQUEST_BYTES,
        Batch,
        Malformed,
        Request,
        ServerCodec,
        encode_error,
        encode_request,
    )

Event = Request | Malformed | Batch


def events(chunks: list[bytes]) -> list[Event]:
    """Return all that the chunks give."""
    codec = ServerCodec()
    found: list[Event] = []
    for chunk in chunks:
        codec.feed(chunk)
        while (event := codec.next_event()) is not None:
            found.append(event)
        assert codec.buffered_bytes <= MAX_REQUEST_BYTES
    return found


def check(event: Request | Malformed) -> None:
    """Assert that it can be answered, and that a request survives the way back in."""
    if isinstance(event, Malformed):
        json.loads(encode_error(event.id, event.code, event.message, event.data))
        return
    json.loads(encode_error(event.id, -1, ""))
    if "duplicate key" not in repr(event.params):
        again = events([encode_request(event.method, event.params, event.id)])
        assert repr(again) == repr([event]), (again, event)


def fuzz(data: bytes) -> None:
    """Take one input: how to cut, then the stream."""
    if not data:
        return
    step, stream = data[0] + 1, data[1:]
    whole = events([stream])
    cut = events([stream[i : i + step] for i in range(0, len(stream), step)])
    assert repr(cut) == repr(whole), (cut, whole)
    for event in whole:
        for item in event.requests if isinstance(event, Batch) else (event,):
            check(item)


if __name__ == "__main__":
    atheris.Setup(sys.argv, fuzz)
    atheris.Fuzz()
