"""LinkRig: the compiled NbdLink on a socket pair, with the test as its server."""

from __future__ import annotations

import socket

from vbdev.bdev import Bdev
from vbdev.bdev.geometry import SizedParams, set_geometry
from vbdev.core.nbd.client.link import NbdLink
from vbdev.core.nbd.client.path import NbdPath
from vbdev.core.nbd.client.queue import RemoteDisk
from vbdev.testing import Stack
from vbdev.vocab import Op
from vbdev.wire.nbd import Command, TransmissionFlag, decode_request_header

REQUEST_BYTES = 28
ALL_FLAGS = (
    TransmissionFlag.HAS_FLAGS
    | TransmissionFlag.SEND_FLUSH
    | TransmissionFlag.SEND_FUA
    | TransmissionFlag.SEND_TRIM
    | TransmissionFlag.SEND_WRITE_ZEROES
    | TransmissionFlag.SEND_FAST_ZERO
    | TransmissionFlag.CAN_MULTI_CONN
)
NUM_BLOCKS = 1 << 20


class Wired(Bdev):
    """A bdev whose channels have the rig's path."""

    kind = "wired"
    product_name = "wired"
    Params = SizedParams
    ops = frozenset({Op.READ, Op.WRITE, Op.FLUSH, Op.UNMAP, Op.WRITE_ZEROES, Op.RESET, Op.ABORT})
    write_cache = True
    fua = True
    rig = None

    async def start(self):
        set_geometry(self, self.params)
        self.max_num_segments = 256

    def create_channel(self, channel):
        return self.rig.make_path(channel.engine)

    def destroy_channel(self, channel):
        channel.context.close()

    def submit(self, channel, ios):
        channel.context.submit(ios)


def tcp_pair():
    """Return the two ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    return near, far


class End:
    """The server's end of one link."""

    def __init__(self, rig, link, near, far):
        self.rig = rig
        self.link = link
        self.near = near
        self.far = far
        self.data = bytearray()

    def requests(self):
        """Return the (Request, payload) that came whole."""
        self.read()
        found = []
        while len(self.data) >= REQUEST_BYTES:
            request = decode_request_header(bytes(self.data[:REQUEST_BYTES]))
            length = request.length_bytes if request.command == Command.WRITE else 0
            if len(self.data) < REQUEST_BYTES + length:
                break
            found.append((request, bytes(self.data[REQUEST_BYTES : REQUEST_BYTES + length])))
            del self.data[: REQUEST_BYTES + length]
        return found

    def peek(self):
        """Return the first request, of which the header at least has come."""
        self.read()
        return decode_request_header(bytes(self.data[:REQUEST_BYTES]))

    def request(self):
        (found,) = self.requests()
        return found

    def read(self):
        while True:
            try:
                data = self.far.recv(1 << 20)
            except (BlockingIOError, ConnectionResetError):
                return
            if not data:
                return
            self.data += data

    def say(self, data):
        """Send bytes and let the link look at them."""
        view = memoryview(data)
        while view and not self.link.closed:
            try:
                view = view[self.far.send(view) :]
            except BlockingIOError:
                pass
            except BrokenPipeError:
                break
            self.link.receive()
        self.rig.stack.settle()

    def hang_up(self):
        self.far.close()
        self.link.receive()
        self.rig.stack.settle()

    def close(self):
        self.near.close()
        self.far.close()


class LinkRig:
    """A path of a Wired bdev `Disk`; `connect` gives it a link."""

    def __init__(self, *, resend=False, keeps_writes=False, block_size=512, max_bytes=32 << 20):
        self.stack = Stack()
        self.resend = resend
        self.disk = RemoteDisk(
            block_size=block_size, keeps_writes=keeps_writes, max_bytes=max_bytes
        )
        self.flushes, self.resets, self.ends = [], [], []
        self.refused = []
        self.changes = 0
        module = type("RigWired", (Wired,), {"rig": self})
        self.stack.disk(module, num_blocks=NUM_BLOCKS, block_size=block_size)
        self.opened = self.stack.open("Disk")
        self.path = self.opened.channel.context

    def make_path(self, engine):
        return NbdPath(engine, self.disk, self, resend=self.resend)

    # What the path asks of its host

    def on_change(self):
        self.changes += 1

    def on_work(self):
        self.path.watched = True

    def on_refusal(self, what):
        self.refused.append(what)

    def flush(self, path, ios):
        self.flushes.append((path, ios))

    def reset(self, path, ios):
        self.resets.append((path, ios))
        path.finish_reset(ios)

    # What a test does

    def connect(
        self,
        *,
        flags=ALL_FLAGS,
        structured=False,
        size=NUM_BLOCKS * 512,
        buffer=1 << 20,
        family=socket.AF_UNIX,
    ):
        near, far = socket.socketpair() if family == socket.AF_UNIX else tcp_pair()
        for end in (near, far):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        link = NbdLink(
            self.path, near.fileno(), size_bytes=size, flags=int(flags), structured=structured
        )
        self.ends.append(End(self, link, near, far))
        self.path.add(link)
        self.stack.settle()
        return self.ends[-1]

    def submit(self, op, offset=0, blocks=1, data=None, **more):
        request = self.opened.submit(op, offset, blocks, data, **more)
        self.stack.settle()
        return request

    def close(self):
        self.path.holding = False
        for end in self.ends:
            end.link.lose(5, "test")
            end.close()
        self.path.holding = False
        self.stack.settle()
        assert self.path.outstanding == 0
        self.stack.close()
        assert not self.stack.errors
