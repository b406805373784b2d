"""Run a function in a thread whose system calls are refused, with errnos that one chooses.

A seccomp filter holds for one thread and for those that it starts, needs no privileges, and goes
with the thread. So workers of what is made in there meet it, and nobody else.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import threading
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import pytest

T = TypeVar("T")

_NUMBERS = {
    "x86_64": {
        "lseek": 8,
        "ioctl": 16,
        "fdatasync": 75,
        "fallocate": 285,
        "preadv": 295,
        "pwritev": 296,
        "pwritev2": 328,
    },
    "aarch64": {
        "lseek": 62,
        "ioctl": 29,
        "fdatasync": 83,
        "fallocate": 47,
        "preadv": 69,
        "pwritev": 70,
        "pwritev2": 287,
    },
}
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, IF_EQUAL, RETURN = 0x20, 0x15, 0x06
RET_ERRNO, RET_ALLOW = 0x00050000, 0x7FFF0000


class Denied(NamedTuple):
    """A call that fails; with `argument` (number, value) only where its low 32 bits are that."""

    call: str
    errno: int
    argument: tuple[int, int] | None = None


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


def _compiled(rules: tuple[Denied, ...]) -> bytes:
    numbers = _NUMBERS.get(platform.machine())
    if numbers is None:
        pytest.skip(f"no numbers of system calls for {platform.machine()}")
    code = []
    for rule in rules:
        code.append((LOAD, 0, 0, 0))
        if rule.argument is None:
            code.append((IF_EQUAL, 0, 1, numbers[rule.call]))
        else:
            index, value = rule.argument
            code.append((IF_EQUAL, 0, 3, numbers[rule.call]))
            code.append((LOAD, 0, 0, 16 + 8 * index))
            code.append((IF_EQUAL, 0, 1, value))
        code.append((RETURN, 0, 0, RET_ERRNO | rule.errno))
    code.append((RETURN, 0, 0, RET_ALLOW))
    return b"".join(struct.pack("HBBI", *line) for line in code)


def _refuse(rules: tuple[Denied, ...]) -> None:
    code = ctypes.create_string_buffer(_compiled(rules))
    program = _Program(len(code) // 8, ctypes.addressof(code))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(
        PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0
    ):
        pytest.skip(f"no seccomp here: {os.strerror(ctypes.get_errno())}")


def run_denied(function: Callable[[Callable[..., None]], T]) -> T:
    """Return function(deny), called in a new thread; `deny(*rules)` holds from its call on.

    What it raises is raised here.
    """
    ended: list[T] = []
    raised: list[BaseException] = []

    def deny(*rules: Denied) -> None:
        _refuse(rules)

    def work() -> None:
        try:
            ended.append(function(deny))
        except BaseException as error:  # noqa: BLE001 - it is raised again
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
    return ended[0]
