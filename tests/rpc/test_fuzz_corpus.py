"""Streams that fuzz/rpc_server.py found, replayed: an answer or a clean close, whatever is asked.

The corpus is what reached new code, made small; first the streams that once found something. Each
line is a stream as a JSON string, one character for each byte.
"""

import json
from pathlib import Path

import pytest

from support.rpc_target import check

STREAMS = [
    json.loads(line).encode("latin-1")
    for line in Path(__file__).with_name("fuzz_corpus.jsonl").read_text().splitlines()
]
GROUP = 50


@pytest.mark.parametrize("first", range(0, len(STREAMS), GROUP))
def test_streams(first):
    for stream in STREAMS[first : first + GROUP]:
        try:
            check(stream)
        except BaseException:
            print(stream)  # what to replay
            raise
