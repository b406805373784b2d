"""vocab/io.py: one table of numbers and errors, and the compiled core's copy of it.

Method: read the enums out of types.pxd and compare; walk the error table in both directions.
"""

import errno
import re
from pathlib import Path

import pytest

import vbdev.core
from vbdev.vocab import IoFlag, NbdError, Op, Status, nbd_error, status_errno
from vbdev.vocab import io as vocab

PXD = (Path(vbdev.core.__file__).parent / "base" / "types.pxd").read_text()
NUMBERS = {
    name: int(value)
    for name, value in re.findall(r"^    ([A-Z][A-Z0-9_]*) = (-?\d+)", PXD, re.MULTILINE)
}
LAYER_STATES = {"IO_IDLE", "IO_SUBMITTED", "IO_DONE", "IO_WAITING", "IO_PARENT", "IO_CONTROL"}


def with_prefix(prefix, without=frozenset()):
    return {
        n.removeprefix(prefix): v
        for n, v in NUMBERS.items()
        if n.startswith(prefix) and n not in without
    }


@pytest.mark.parametrize(
    ("prefix", "enum", "without"),
    [("OP_", Op, {"OP_LIMIT"}), ("IO_", Status, LAYER_STATES), ("FLAG_", IoFlag, set())],
)
def test_core_numbers_are_the_vocabulary(prefix, enum, without):
    core = with_prefix(prefix, without)
    assert core
    assert core == {name: enum[name].value for name in core}


def test_limits_are_the_same():
    assert NUMBERS["MAX_STACK_DEPTH"] == vocab.MAX_STACK_DEPTH
    assert max(Op) < NUMBERS["OP_LIMIT"]
    assert all(-status < NUMBERS["NUM_ERROR_STATUSES"] for status in Status)
    assert set(IoFlag) == {IoFlag[name] for name in with_prefix("FLAG_")}


@pytest.mark.rule("A.10.9")
def test_spdk_numbers():
    assert (Op.READ, Op.WRITE_ZEROES, Op.COPY, Op.WRITE_UNCORRECTABLE) == (1, 9, 19, 22)
    assert (Status.AIO_ERROR, Status.NOMEM, Status.FAILED, Status.SUCCESS) == (-8, -4, -1, 1)
    assert vocab.OP_NAMES[Op.COMPARE_AND_WRITE] == "compare_and_write"


@pytest.mark.parametrize("status", Status)
def test_every_status_has_an_errno_and_an_nbd_error(status):
    number = status_errno(status)
    assert (number == 0) == (status == Status.SUCCESS)
    assert number in errno.errorcode or number == 0
    assert (nbd_error(number) == NbdError.OK) == (status == Status.SUCCESS)


@pytest.mark.parametrize("error", NbdError)
def test_every_nbd_error_comes_from_its_own_errno(error):
    assert nbd_error(int(error)) == error


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_every_errno_has_an_nbd_error_that_is_a_failure(number):
    assert nbd_error(number) in NbdError
    assert nbd_error(number) != NbdError.OK


def test_the_detail_of_a_failure_decides():
    assert status_errno(Status.FAILED, errno.ENOSPC) == errno.ENOSPC
    assert status_errno(Status.SUCCESS, errno.ENOSPC) == 0
    assert status_errno(Status.FAILED) == errno.EIO
