"""The compiled stream's numbers are the codec's.

Method: read the enums out of wire.pxd and stream.pyx and look each name up.
"""

import re
from pathlib import Path

import pytest

import vbdev.core.nbd
from vbdev.vocab import NBD_MAX_PAYLOAD_BYTES
from vbdev.wire.nbd import ChunkFlag, ChunkType, Command, CommandFlag, TransmissionFlag, constants

FOLDER = Path(vbdev.core.nbd.__file__).parent
TEXT = (FOLDER / "wire.pxd").read_text()
WIRE = dict(re.findall(r"^    ([A-Z_0-9]+) = (\S.*?)(?: *#.*)?$", TEXT, re.MULTILINE))
PREFIXES = {
    "CMD_FLAG_": CommandFlag,
    "CMD_": Command,
    "EXPORT_": TransmissionFlag,
    "REPLY_FLAG_": ChunkFlag,
    "REPLY_TYPE_": ChunkType,
}


def expected(name):
    for prefix, table in PREFIXES.items():
        if name.startswith(prefix):
            return table[name.removeprefix(prefix)]
    return {
        "REQUEST_MAGIC": constants.REQUEST_MAGIC,
        "SIMPLE_REPLY_MAGIC": constants.SIMPLE_REPLY_MAGIC,
        "STRUCTURED_REPLY_MAGIC": constants.STRUCTURED_REPLY_MAGIC,
        "REQUEST_BYTES": constants.REQUEST_HEADER.size,
        "SIMPLE_REPLY_BYTES": constants.SIMPLE_REPLY.size,
        "CHUNK_HEADER_BYTES": constants.CHUNK_HEADER.size,
    }[name]


def test_there_are_numbers_to_compare():
    assert len(WIRE) > 25


@pytest.mark.parametrize("name", WIRE)
def test_number(name):
    assert eval(WIRE[name]) == expected(name)


def test_longest_payload():
    source = (FOLDER / "server" / "stream.pyx").read_text()
    assert eval(re.search(r"MAX_PAYLOAD = (.*)", source)[1]) == NBD_MAX_PAYLOAD_BYTES
