"""Connections that come and go under load: every I/O ends once, and what was promised holds.

Method: a LinkRig whose server is a model of a disk with a volatile cache, driven by a seed: I/O of
all kinds, replies in any order and in pieces, connections lost before and after the server has
carried requests out, in both ways of being lost. A crash of the server drops what no FLUSH has
covered. Then: a FLUSH that succeeded covers what was acknowledged before it, a READ sees what was
written.
"""

import random

import pytest

from support.link_rig import ALL_FLAGS, LinkRig
from vbdev.vocab import IoFlag, Op, Status
from vbdev.wire.nbd import (
    Command,
    CommandFlag,
    TransmissionFlag,
    encode_chunk_none,
    encode_chunk_offset_data_header,
    encode_simple_reply,
)

BLOCKS = 12
"""Few, so that the same ones are written again and again. One writer at a time for each."""


class Disk:
    """What a server holds: `stable`, and what its cache has above that."""

    def __init__(self):
        self.stable = [bytes(512)] * BLOCKS
        self.cached = list(self.stable)

    def carry_out(self, request, payload):
        block = request.offset_bytes // 512
        if request.command == Command.WRITE:
            self.cached[block] = payload
        elif request.command == Command.WRITE_ZEROES:
            self.cached[block] = bytes(512)
        elif request.command == Command.FLUSH:
            self.stable = list(self.cached)
        elif request.command == Command.READ:
            return self.cached[block]
        if request.flags & CommandFlag.FUA:
            self.stable[block] = self.cached[block]
        return b""

    def crash(self):
        self.cached = list(self.stable)


class Swarm:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.resend = self.random.random() < 0.7
        self.structured = self.random.random() < 0.5
        self.flags = ALL_FLAGS
        if self.random.random() < 0.5:
            self.flags &= ~TransmissionFlag.SEND_FUA
        self.rig = LinkRig(resend=self.resend)
        self.disk = Disk()
        self.ends = {}
        self.busy = {}
        self.acked = [bytes(512)] * BLOCKS
        self.doubtful = set()
        self.durable = {}
        self.ended = 0
        self.submitted = 0
        self.number = 0

    def connect(self):
        end = self.rig.connect(flags=self.flags, structured=self.structured)
        self.ends[end] = []

    def lose(self):
        end = self.random.choice(list(self.ends))
        self.gather(end)
        pending = self.ends.pop(end)
        crash = self.random.random() < 0.5
        if crash:
            # The server is another process afterwards: no connection to the old one is left.
            for other in list(self.ends):
                self.gather(other)
                pending += self.ends.pop(other)
                self.some(pending)
                other.hang_up()
            self.some(pending)
            self.disk.crash()
            end.hang_up()
        elif self.random.random() < 0.5:
            self.some(pending)
            end.hang_up()
        else:
            self.some(pending)
            end.link.lose(110, "test")
            self.rig.stack.settle()

    def some(self, pending):
        """Let the server carry some of the requests out that it will never answer."""
        for request, payload in pending:
            if self.random.random() < 0.5:
                self.disk.carry_out(request, payload)

    def gather(self, end):
        self.ends[end] += end.requests()

    def answer(self):
        end = self.random.choice(list(self.ends))
        self.gather(end)
        if not self.ends[end]:
            return
        at = self.random.randrange(len(self.ends[end]))
        request, payload = self.ends[end].pop(at)
        data = self.disk.carry_out(request, payload)
        if not self.structured:
            reply = encode_simple_reply(request.cookie) + data
        elif data:
            reply = encode_chunk_offset_data_header(
                request.cookie, request.offset_bytes, 512, done=True
            )
            reply += data
        else:
            reply = encode_chunk_none(request.cookie)
        cut = self.random.randrange(1, len(reply))
        end.say(reply[:cut])
        end.say(reply[cut:])
        if end.link.closed:
            raise AssertionError(end.link.reason)

    def submit(self):
        free = [n for n in range(BLOCKS) if n not in self.busy]
        kind = self.random.choice([Op.READ, Op.WRITE, Op.WRITE, Op.WRITE_ZEROES, Op.FLUSH])
        self.submitted += 1
        if kind is Op.FLUSH:
            before = {n: self.acked[n] for n in free if n not in self.doubtful}

            def flushed(request):
                self.ended += 1
                if request.status == Status.SUCCESS:
                    # Unless somebody wrote there since, in which case either may be stable.
                    for n, data in before.items():
                        if self.acked[n] == data and n not in self.busy:
                            self.durable[n] = data

            self.rig.opened.submit(kind, 0, 0, callback=flushed)
            return
        if not free:
            self.submitted -= 1
            return
        block = self.random.choice(free)
        self.number += 1
        data = bytearray(self.number.to_bytes(512))
        if kind is Op.READ:
            expected = self.acked[block]

            def ended(request):
                self.ended += 1
                del self.busy[block]
                if request.status == Status.SUCCESS and block not in self.doubtful:
                    lost = self.rig.disk.lost
                    assert lost or bytes(data) == expected

            self.busy[block] = kind
            self.rig.opened.submit(kind, block, 1, data, callback=ended)
            return
        flags = IoFlag.FUA if self.random.random() < 0.3 else 0
        self.busy[block] = kind
        self.durable.pop(block, None)

        def written(request):
            self.ended += 1
            del self.busy[block]
            if request.status == Status.SUCCESS:
                self.acked[block] = bytes(data) if kind is Op.WRITE else bytes(512)
                self.doubtful.discard(block)
                if flags:
                    self.durable[block] = self.acked[block]
            else:
                self.doubtful.add(block)

        self.rig.opened.submit(
            kind, block, 1, data if kind is Op.WRITE else None, flags=flags, callback=written
        )

    def check(self):
        """What was promised to be stable is, whatever happens to the server now."""
        for block, data in self.durable.items():
            if block not in self.busy and block not in self.doubtful:
                assert self.disk.stable[block] == data, f"block {block}"

    def run(self):
        steps = [self.submit, self.submit, self.answer, self.answer, self.answer]
        try:
            self.connect()
            for _ in range(300):
                self.rig.stack.settle()
                if not self.ends or (len(self.ends) < 3 and self.random.random() < 0.05):
                    self.connect()
                elif self.random.random() < 0.03:
                    self.lose()
                else:
                    self.random.choice(steps)()
                self.rig.stack.settle()
                self.check()
            if not self.ends:
                self.connect()
            for _ in range(10_000):
                if self.ended == self.submitted:
                    break
                self.answer()
                self.rig.stack.settle()
            self.check()
            assert self.ended == self.submitted
            assert self.rig.path.outstanding == 0
        finally:
            self.rig.close()


@pytest.mark.parametrize("seed", range(150))
def test_swarm(seed):

    Swarm(seed).run()
