"""NBD clients spread over reactors: what one of them, or the export, does to the others."""

import contextlib
import errno
import random
import threading
import time

import pytest

from support.nbd_client import NbdClient, NbdFailedError, connect, header
from vbdev.bdev import BdevError
from vbdev.modules.malloc import Malloc
from vbdev.reactor.reactor import Reactor
from vbdev.targets.nbd import nbd_server
from vbdev.testing import layer
from vbdev.vocab import NbdError, Op
from vbdev.wire.nbd import Command

BLOCK = 512
MIB = 1 << 20


held = []


def hold(_self, channel, ios):
    """Keep WRITEs until `let_go`; others, such as examinations', pass."""
    writes = ios.take(Op.WRITE)
    if len(writes):
        held.append((Reactor.current(), channel, writes))
    channel.base.submit(ios)


def let_go():
    """Forward what is held, each batch on its reactor."""
    while held:
        reactor, channel, batch = held.pop()
        reactor.send_msg(channel.base.submit, batch)


Holding = layer(hold, kind="holding")


@pytest.fixture
def holding(threads):
    """Return the App with an export `Holding` whose I/O waits for `let_go`."""
    app = threads.app
    app.add_module(Holding)
    app.create("malloc", {"name": "Base", "num_blocks": 2048, "block_size": BLOCK})
    app.create("holding", {"name": "Holding", "base_bdev_name": "Base"})
    app.nbd.add_export("Holding")
    app.nbd.listen(f"unix:{threads.socket}")
    threads.start()
    yield threads
    let_go()


def placed(app):
    """Return how many clients each reactor has."""
    return app.ask(lambda: [group.placed for group in app.app.nbd._groups])


def test_clients_are_spread_and_see_each_others_data(threads):
    threads.serve()
    clients = [threads.client() for _ in range(7)]
    for number, client in enumerate(clients):
        client.write(number * BLOCK, bytes([number + 1]) * BLOCK)
        client.flush()
    assert placed(threads) == [3, 2, 2]
    for client in clients:
        data = client.read(0, 7 * BLOCK)
        assert data == b"".join(bytes([n + 1]) * BLOCK for n in range(7))
    for client in clients[::3]:
        client.disconnect()
    threads.wait_until(lambda: sum(group.placed for group in threads.app.nbd._groups) == 4)
    assert placed(threads) == [0, 2, 2]
    again = threads.client()
    assert again.read(0, BLOCK) == b"\x01" * BLOCK
    assert placed(threads) == [1, 2, 2]


def test_channels_go_with_the_last_client_of_a_reactor(threads):
    export = threads.serve()
    clients = [threads.client() for _ in range(3)]
    for client in clients:
        client.read(0, BLOCK)
    assert [reactor.id for reactor in export.descriptor.channels] == [1, 2, 3]
    clients[1].disconnect()
    threads.wait_until(lambda: [r.id for r in export.descriptor.channels] == [1, 3])


def test_block_status_on_every_reactor(threads):
    threads.serve(num_blocks=64)
    clients = [threads.client(contexts=("base:allocation",)) for _ in range(3)]
    clients[0].write(0, bytes(4096))
    for client in clients:
        extents = client.ask(Command.BLOCK_STATUS, 0, 64 * BLOCK).extents
        assert extents == ((4096, 0), (28672, 3))


@pytest.mark.parametrize("how", ["export", "bdev", "base", "end"])
def test_the_end_with_requests_in_flight_on_every_reactor(holding, how):
    """All of them are answered, then the clients are disconnected, then it is gone."""
    app = holding.app
    clients = [holding.client() for _ in range(6)]
    cookies = [
        client.start(Command.WRITE, n * BLOCK, 0, 0, bytes(BLOCK))
        for n, client in enumerate(clients)
    ]
    holding.wait_until(lambda: len(held) == 6)
    assert {reactor.id for reactor, _, _ in held} == {1, 2, 3}
    gone = threading.Event()

    def begin():
        if how == "export":
            task = app.reactor.spawn(app.nbd.remove_export("Holding"))
        elif how == "end":
            task = app.reactor.spawn(app.stop())
        else:
            name = {"bdev": "Holding", "base": "Base"}[how]
            task = app.reactor.spawn(app.registry.delete(name, app.registry.get(name).kind))
        task.add_done_callback(lambda _task: gone.set())

    app.reactor.send_msg(begin)
    assert not gone.wait(0.05)
    let_go()
    for client, cookie in zip(clients, cookies, strict=True):
        assert client.wait(cookie).error is NbdError.OK
        assert client.at_end()
    assert gone.wait(20)
    if how == "end":
        holding._thread.join(20)
        holding._thread = None
    else:
        holding.wait_idle()


def test_a_client_that_takes_no_replies_is_dropped_on_its_reactor(threads, monkeypatch):
    monkeypatch.setattr(nbd_server, "DRAIN_US", 200_000)
    threads.serve(num_blocks=65536)
    clients = [threads.client() for _ in range(3)]
    for client in clients:
        for _ in range(16):
            client.send(header(Command.READ, 1, 0, MIB))
    threads.wait_until(
        lambda: all(
            c.stream is not None and c.stream.wants_write for c in threads.app.nbd._connections
        )
    )
    began = time.monotonic()
    threads.run(threads.app.nbd.remove_export("Disk"))
    assert 0.15 < time.monotonic() - began < 10
    threads.wait_idle()


def test_who_breaks_the_protocol_costs_itself_only(threads):
    threads.serve()
    good = [threads.client() for _ in range(3)]
    for _ in range(10):
        bad = threads.client()
        bad.send(b"garbage" * 10)
        assert bad.at_end()
        for client in good:
            client.write(0, bytes(BLOCK))
    threads.wait_until(lambda: threads.app.nbd.connection_count == 3)
    assert placed(threads) == [1, 1, 1]


@pytest.mark.parametrize("broken", [{2}, {1, 2}, {1, 2, 3}], ids=str)
def test_a_reactor_that_can_not_serve_leaves_its_clients_to_others(threads, caplog, broken):
    """Where none can, they are hung up on, and nobody else notices."""
    app = threads.app
    broken_now = set()

    def create_channel(_self, _channel):
        if Reactor.current().id in broken_now:
            raise BdevError(errno.EIO, "not on this one")

    app.add_module(layer(kind="picky", create_channel=create_channel))
    app.create("malloc", {"name": "Base", "num_blocks": 64, "block_size": BLOCK})
    app.create("picky", {"name": "Picky", "base_bdev_name": "Base"})
    app.nbd.add_export("Picky")
    app.nbd.listen(f"unix:{threads.socket}")
    threads.start()
    broken_now |= broken
    clients = [threads.client() for _ in range(6)]
    for client in clients:
        if len(broken) == 3:
            assert client.at_end()
        else:
            client.write(0, bytes(BLOCK))
    assert "not on this one" in caplog.text
    expected = {1: [3, 0, 3], 2: [0, 0, 6], 3: [0, 0, 0]}[len(broken)]
    threads.wait_until(lambda: [group.placed for group in app.nbd._groups] == expected)
    broken_now.clear()
    threads.client().write(0, bytes(BLOCK))


def test_an_export_goes_while_its_clients_are_passed_on(threads):
    """A client on its way from a reactor that can not serve to the next one hears the end."""
    app = threads.app

    def create_channel(_self, _channel):
        time.sleep(0.05)
        raise BdevError(errno.EIO, "on none of them")

    app.add_module(layer(kind="picky", create_channel=create_channel))
    app.create("malloc", {"name": "Base", "num_blocks": 64, "block_size": BLOCK})
    app.create("picky", {"name": "Picky", "base_bdev_name": "Base"})
    app.nbd.add_export("Picky")
    app.nbd.listen(f"unix:{threads.socket}")
    threads.start()
    clients = [threads.client() for _ in range(4)]
    threads.run(app.nbd.remove_export("Picky"))
    for client in clients:
        assert client.at_end()


@pytest.mark.rule("A.2.26")
def test_resize_is_seen_by_who_asks_from_now_on(threads):
    """A connection keeps the size that was negotiated: no message of the protocol changes it."""
    export = threads.serve(kind="null", num_blocks=16)
    old = [threads.client() for _ in range(3)]
    bdev = export.bdev
    threads.ask(lambda: bdev.notify_blockcnt_change(32))
    new = [threads.client() for _ in range(3)]
    for client in new:
        assert client.size == 32 * BLOCK
        client.write(31 * BLOCK, bytes(BLOCK))
    for client in old:
        assert client.size == 16 * BLOCK
        client.write(15 * BLOCK, bytes(BLOCK))
        with pytest.raises(NbdFailedError) as raised:
            client.write(15 * BLOCK, bytes(2 * BLOCK))
        assert raised.value.error is NbdError.ENOSPC
        with pytest.raises(NbdFailedError) as raised:
            client.read(16 * BLOCK, BLOCK)
        assert raised.value.error is NbdError.EINVAL


def test_clients_and_exports_come_and_go(threads):
    """Forty clients on two exports, one of which is taken away and given back all the time."""
    threads.serve(num_blocks=4096)
    app = threads.app
    threads.ask(lambda: app.nbd.add_export("Disk", "other"))
    over = threading.Event()
    failures, served = [], []

    def be_a_client(seed):
        rng = random.Random(seed)
        while not over.is_set():
            try:
                with NbdClient(threads.socket, rng.choice(["Disk", "other"])) as client:
                    at = (seed * 64 + rng.randrange(64)) * BLOCK
                    for _ in range(rng.randrange(1, 20)):
                        data = rng.randbytes(BLOCK)
                        client.write(at, data)
                        assert client.read(at, BLOCK) == data
                        served.append(seed)
            except (ConnectionError, BrokenPipeError):  # its export was taken away
                continue
            except Exception as error:  # noqa: BLE001 - looked at below
                failures.append(error)
                return

    clients = [threading.Thread(target=be_a_client, args=(seed,)) for seed in range(10)]
    for client in clients:
        client.start()

    async def churn():
        for _ in range(20):
            await app.nbd.remove_export("other")
            await app.reactor.sleep(5000)
            app.nbd.add_export("Disk", "other")
            await app.reactor.sleep(20_000)

    try:
        threads.run(churn(), timeout_s=60)
    finally:
        over.set()
        for client in clients:
            client.join(20)
    assert failures == []
    assert set(served) == set(range(10))
    threads.wait_idle()
    assert placed(threads) == [0, 0, 0]


def test_a_bdev_is_deleted_and_made_again_under_clients(threads):
    """Whoever is connected gets answers or the end, never silence; who comes later is served."""
    threads.serve(num_blocks=1024)
    app = threads.app
    for _ in range(10):
        clients = [NbdClient(threads.socket, "Disk") for _ in range(3)]
        with contextlib.ExitStack() as stack:
            for client in clients:
                stack.enter_context(client)
                for _ in range(5):
                    client.start(Command.WRITE, 0, 0, 0, bytes(BLOCK))
            threads.run(app.registry.delete("Disk", "malloc"))
            for client in clients:
                with contextlib.suppress(ConnectionResetError):
                    assert all(r.error is NbdError.OK for r in client.wait_all().values())
        params = Malloc.Params(name="Disk", num_blocks=1024, block_size=BLOCK)
        threads.run(app.registry.create(Malloc, params))
        threads.ask(lambda: app.nbd.add_export("Disk"))


def test_a_handshake_that_never_ends_holds_up_nobody(threads):
    threads.serve()
    silent = [connect(threads.socket) for _ in range(5)]
    client = threads.client()
    client.write(0, bytes(BLOCK))
    assert placed(threads) == [1, 0, 0]
    threads.run(threads.app.nbd.remove_export("Disk"))
    for one in silent:
        one.close()
