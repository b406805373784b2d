"""Which thread a reactor runs on is told from one source.

On aarch64 with glibc `pthread_self()`, from which Python has a thread's identity, is another number
than the thread pointer. Here Python's is made another with a library that is loaded before it.
"""

import os
import shutil
import subprocess
import sys

import pytest

SHIFT = """
#include <pthread.h>
unsigned long PyThread_get_thread_ident(void) { return (unsigned long)pthread_self() - 0x740; }
"""
USE = """
from vbdev.testing.stack import Stack
from vbdev.vocab import Op, Status
s = Stack()
s.disk()
top = s.open("Disk")
got = []
def submit():
    top.descriptor.submit(
        Op.READ, 0, 1, bytearray(512), callback=lambda request: got.append(request.status)
    )
s.reactor.send_msg(submit)
s.settle()
assert got == [Status.SUCCESS], got
print("served")
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_python_s_identity_of_a_thread_may_be_another(tmp_path):
    source, library = tmp_path / "shift.c", tmp_path / "shift.so"
    source.write_text(SHIFT)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    done = subprocess.run(
        [sys.executable, "-c", USE],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ
        | {
            # Behind what is preloaded already: a sanitizer's runtime has to be the first.
            "LD_PRELOAD": f"{os.environ.get('LD_PRELOAD', '')} {library}".strip(),
            "PYTHONPATH": ":".join(sys.path),
        },
    )
    assert (done.stdout, done.returncode) == ("served\n", 0), done.stderr
