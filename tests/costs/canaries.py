"""Layers that cost a little more than passthru, each in another way, which has to be found."""

from __future__ import annotations

import os

from vbdev.modules.passthru import Passthru
from vbdev.vocab import Op


class Slower(Passthru):
    """Asks for one more thing for each batch."""

    def submit(self, channel, ios):
        len(ios)
        channel.base.submit(ios)


class Copies(Passthru):
    """Copies what is written once more."""

    def submit(self, channel, ios):
        ios.copy_data(Op.WRITE)
        channel.base.submit(ios)


class Objects(Passthru):
    """Makes an object for each I/O."""

    def submit(self, channel, ios):
        [object() for _ in range(len(ios))]
        channel.base.submit(ios)


class SystemCalls(Passthru):
    """Makes a system call for each batch."""

    def submit(self, channel, ios):
        os.getppid()
        channel.base.submit(ios)


class Halves(Passthru):
    """Hands each batch down in two parts."""

    def submit(self, channel, ios):
        singles = ios.split()
        for part in (singles[: len(singles) // 2], singles[len(singles) // 2 :]):
            if part:
                batch = part.pop(0)
                for single in part:
                    batch.extend(single)
                channel.base.submit(batch)
