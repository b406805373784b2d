"""`python -m vbdev`, and the command `vbdev`: the door to the command line.

An interrupt while it is imported ends the process as it ends a program in C, and not with the
import's traceback. Where the caller has SIGINT ignored it stays so.
"""

import signal
import sys

_is_ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
if _is_ours:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from vbdev.cli import main as run  # noqa: E402 - it takes 50 ms


def main() -> int:
    """Run the command line and return its exit status."""
    if _is_ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return run()


if __name__ == "__main__":
    sys.exit(main())
