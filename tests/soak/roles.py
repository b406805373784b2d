"""What clients do to a daemon in a soak, one function a role, each in a process of its own.

A role runs until `until`, on the clock of `time.monotonic`, and does the same from the same seed
as far as the daemon lets it. What it expects it asserts: a role that dies fails the soak. What a
daemon may do to a client that misbehaves (hang up) is expected; what it owes to one that does not
(right data, an answer within `ANSWER_S`) is not given up.
"""

from __future__ import annotations

import contextlib
import random
import socket
import time

from support.nbd_client import NbdClient, NbdFailedError, connect, header
from vbdev.client import RpcError
from vbdev.client.blocking import Client
from vbdev.wire.nbd import Command
from vbdev.wire.nbd.constants import CLIENT_FLAGS, OPTION_MAGIC

KIB = 1 << 10
MIB = 1 << 20
ANSWER_S = 60
GONE = (ConnectionError, TimeoutError)
SIZES = [512, 4 * KIB, 64 * KIB, 65 * KIB, 256 * KIB, MIB, 5 * MIB, 32 * MIB]
WEIGHTS = [8, 16, 8, 8, 8, 4, 2, 1]


class Places:
    """Where a daemon listens, and which export each mixed client has to itself."""

    def __init__(self, nbd: str, rpc: str) -> None:
        self.nbd = nbd
        self.rpc = rpc


def mixed(places, seed, until):
    """Write, read back, flush and zero in every size, several requests at a time; all verified."""
    rng = random.Random(seed)
    done = 0
    with NbdClient(places.nbd, f"Mixed{seed % 4}", timeout_s=ANSWER_S) as client:
        share = client.size // 4
        base = (seed // 4 % 4) * share
        while time.monotonic() < until:
            size = rng.choices(SIZES, WEIGHTS)[0]
            count = rng.randint(1, max(1, min(16, 4 * MIB // size)))
            places_of = [base + i * size for i in range(count) if (i + 1) * size <= share]
            data = {at: rng.randbytes(64) * (size // 64) for at in places_of}
            cookies = [
                client.start(Command.WRITE, at, flags=rng.choice([0, 0, 1]), data=value)
                for at, value in data.items()
            ]
            assert not any(client.wait(cookie).error for cookie in cookies)
            if rng.random() < 0.3:
                client.flush()
            reads = {client.start(Command.READ, at, size): at for at in places_of}
            for cookie, at in reads.items():
                assert client.wait(cookie).data == data[at], f"{size} bytes at {at} are others"
            if rng.random() < 0.2:
                assert not client.ask(Command.WRITE_ZEROES, base, share).error
                assert client.read(base, 512) == bytes(512)
            done += 2 * len(places_of)
    return done


def vanishing(places, seed, until):
    """Come, leave in the middle of something, and come again."""
    rng = random.Random(seed)
    done = 0
    while time.monotonic() < until:
        done += 1
        with contextlib.suppress(*GONE):
            kind = rng.randrange(6)
            if kind == 0:
                with connect(places.nbd) as client:
                    client.sendall((CLIENT_FLAGS.pack(1) + OPTION_MAGIC)[: rng.randint(0, 12)])
                continue
            with NbdClient(places.nbd, "Shared", timeout_s=ANSWER_S) as client:
                size = rng.choices(SIZES, WEIGHTS)[0]
                if kind == 1:  # half a header
                    client.send(header(Command.WRITE, 1, 0, size)[: rng.randint(1, 27)])
                elif kind == 2:  # half a payload
                    client.send(header(Command.WRITE, 1, 0, size) + bytes(rng.randrange(size)))
                elif kind == 3:  # answers that nobody takes
                    for cookie in range(rng.randint(1, 64)):
                        client.send(header(Command.READ, cookie, 0, size))
                elif kind == 4:  # work under way
                    for cookie in range(rng.randint(1, 64)):
                        client.send(header(Command.WRITE_ZEROES, cookie, 0, client.size))
                else:
                    client.send(header(Command.DISC, 0))
    return done


def stalling(places, seed, until):
    """Announce WRITEs of up to 32 MiB and stop, for as long as the daemon bears it."""
    rng = random.Random(seed)
    done = 0
    while time.monotonic() < until:
        clients = []
        for _ in range(24):
            with contextlib.suppress(*GONE):
                client = NbdClient(places.nbd, "Shared", timeout_s=ANSWER_S)
                clients.append(client)
                size = rng.choice([64 * KIB, 256 * KIB, 2 * MIB, 32 * MIB, 32 * MIB])
                client.send(header(Command.WRITE, 1, 0, size) + bytes(100))
        pause = min(until, time.monotonic() + rng.uniform(1, 20))
        while time.monotonic() < pause:
            time.sleep(1)
            for client in clients:
                with contextlib.suppress(OSError):
                    client.send(b"x")  # a byte is no progress
        for client in clients:
            client.close()
        done += len(clients)
    return done


def slow_reading(places, seed, until):
    """Ask for megabytes and take a few bytes at a time."""
    rng = random.Random(seed)
    done = 0
    while time.monotonic() < until:
        with contextlib.suppress(*GONE), NbdClient(places.nbd, "Shared", timeout_s=5) as client:
            for cookie in range(32):
                client.send(header(Command.READ, cookie, 0, rng.choice([256 * KIB, MIB, 8 * MIB])))
            pause = min(until, time.monotonic() + rng.uniform(2, 20))
            while time.monotonic() < pause and client.socket.recv(rng.choice([1, 4096])):
                time.sleep(0.05)
        done += 1
    return done


def flooding_rpc(places, seed, until):
    """Call methods from many connections as fast as they are answered; leave some half said."""
    rng = random.Random(seed)
    methods = ["bdev_get_bdevs", "bdev_get_iostat", "framework_get_config", "nbd_get_exports"]
    done = 0
    while time.monotonic() < until:
        with contextlib.ExitStack() as stack, contextlib.suppress(*GONE):
            clients = [Client(places.rpc, ANSWER_S) for _ in range(8)]
            for client in clients:
                stack.enter_context(client)
            half = stack.enter_context(socket.socket(socket.AF_UNIX))
            half.connect(places.rpc)
            half.sendall(b'{"jsonrpc": "2.0", "method": "bdev_get_b')
            for _ in range(50):
                name = rng.choice(methods)
                params = {"name": "bdev"} if name == "framework_get_config" else {}
                rng.choice(clients).call(name, **params)
                done += 1
    return done


def hot_removing(places, seed, until):
    """Make a stack, export it, put I/O on it, and take it away from below while that runs."""
    rng = random.Random(seed)
    name = f"Hot{seed}"
    done = 0
    with Client(places.rpc, ANSWER_S) as client:
        while time.monotonic() < until:
            client.call("bdev_malloc_create", name=name, num_blocks=32768, block_size=512)
            client.call("bdev_passthru_create", base_bdev_name=name, name=f"{name}P")
            client.call("nbd_export_add", bdev_name=f"{name}P")
            if rng.random() < 0.5:
                client.call("bdev_set_qos_limit", name=name, rw_mbytes_per_sec=64)
            with (
                contextlib.suppress(*GONE),
                NbdClient(places.nbd, f"{name}P", timeout_s=ANSWER_S) as user,
            ):
                for cookie in range(rng.randint(0, 64)):
                    user.send(header(Command.READ, cookie, 0, rng.choice([4 * KIB, MIB])))
                client.call("bdev_malloc_delete", name=name)
                while user.socket.recv(MIB):
                    pass
            with contextlib.suppress(RpcError):
                client.call("bdev_malloc_delete", name=name)
            # The wish for the passthru outlives its base; whoever made it takes it back.
            with contextlib.suppress(RpcError):
                client.call("bdev_passthru_delete", name=f"{name}P")
            done += 1
    return done


def honest(places, seed, until):
    """Write, read back and flush, one request at a time; return all latencies, in s, sorted."""
    rng = random.Random(seed)
    latencies = []
    with NbdClient(places.nbd, "Honest", timeout_s=ANSWER_S) as client:

        def timed(work, *arguments):
            began = time.monotonic()
            try:
                return work(*arguments)
            except NbdFailedError as error:
                raise AssertionError(f"an honest request failed: {error.error!r}") from error
            finally:
                latencies.append(time.monotonic() - began)

        while time.monotonic() < until:
            size = rng.choice([512, 4 * KIB, 64 * KIB, 256 * KIB])
            at = rng.randrange(client.size // size) * size
            data = rng.randbytes(64) * (size // 64)
            timed(client.write, at, data)
            assert timed(client.read, at, size) == data
            timed(client.flush)
    return sorted(latencies)


ROLES = {
    mixed: 4,
    vanishing: 2,
    stalling: 2,
    slow_reading: 3,
    flooding_rpc: 2,
    hot_removing: 2,
}
"""How many processes of each there are, beside the honest one."""
