"""vbdev.client: both clients, against real daemons, and against servers that misbehave."""

import asyncio
import gc
import inspect
import json
import socket
import subprocess
import sys
import threading
import time
import uuid

import msgspec
import pytest

import vbdev.client
from support.daemon import Daemon
from vbdev.api import results
from vbdev.client import AsyncClient, Client, RpcError
from vbdev.client.generated.async_methods import AsyncMethods
from vbdev.client.generated.methods import Methods
from vbdev.vocab.address import ListenError


class Asked:
    """AsyncClient driven like Client, so that one test holds both."""

    loop = None

    def __init__(self, *args, **options):
        self.client = self.ask(self._made(AsyncClient, *args, **options))

    @staticmethod
    async def _made(kind, *args, **options):
        client = kind(*args, **options)
        await client.open()
        return client

    @classmethod
    def ask(cls, awaitable):
        return cls.loop.run_until_complete(awaitable)

    @classmethod
    def connect(cls, *args, **options):
        self = cls.__new__(cls)
        self.client = cls.ask(AsyncClient.connect(*args, **options))
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ask(self.client.close())

    def __setattr__(self, name, value):
        if name == "timeout_s":
            self.client.timeout_s = value
        else:
            super().__setattr__(name, value)

    def __getattr__(self, name):
        value = getattr(self.client, name)
        if not inspect.ismethod(value):
            return value
        return lambda *args, **params: self.ask(value(*args, **params))


@pytest.fixture(params=["blocking", "asyncio"])
def make(request):
    """What makes a client; the tests know no difference."""
    if request.param == "blocking":
        yield Client
        return
    Asked.loop = asyncio.new_event_loop()
    yield Asked
    Asked.loop.close()


@pytest.fixture
def daemon(serve):
    return serve("malloc:1MiB")


@pytest.fixture
def client(make, daemon):
    with make(daemon.rpc_socket, 20) as made:
        yield made


@pytest.fixture
def server(tmp_path):
    """Return a function that serves one connection with another one; and where that is."""
    path = str(tmp_path / "fake.sock")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    threads = []

    def start(serve_one):
        def work():
            connection, _ = listener.accept()
            with connection:
                serve_one(connection)

        threads.append(threading.Thread(target=work))
        threads[-1].start()
        return path

    yield start
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    listener.close()


def request_from(connection):
    """Receive one line, which is one request."""
    text = b""
    while not text.endswith(b"\n"):
        data = connection.recv(1 << 16)
        if not data:
            return None
        text += data
    return json.loads(text)


def answer(request_id, result):
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "result": result}).encode() + b"\n"


# What is declared


def test_answers_are_typed(client):
    (disk,) = client.bdev_get_bdevs()
    assert isinstance(disk, results.BdevInfo)
    assert (disk.num_blocks, disk.block_size, disk.claimed) == (2048, 512, False)
    assert disk.claim_type is msgspec.UNSET
    assert isinstance(client.spdk_get_version().fields, results.VersionFields)
    assert client.rpc_get_methods(current=True).count("rpc_get_schema") == 1


def test_parameters_are_sent_as_they_are_declared(client):
    own = uuid.uuid4()
    assert client.bdev_malloc_create(name="A", num_blocks=8, block_size=512, uuid=own) == "A"
    assert client.bdev_get_bdevs(name="A")[0].uuid == str(own)
    assert client.bdev_passthru_create(name="B", base_bdev_name="A") == "B"
    with pytest.raises(RpcError) as caught:
        client.bdev_get_bdevs(name="Nobody", timeout=None)  # None: not sent
    assert (caught.value.code, caught.value.message) == (-19, "No such device")
    assert "Nobody" in caught.value.data
    assert client.bdev_malloc_delete(name="A") is True
    with pytest.raises(TypeError):
        client.bdev_get_bdevs("A")
    with pytest.raises(TypeError):
        client.bdev_malloc_create(name="A")


def test_every_method_is_there_and_is_declared_alike(client):
    names = set(client.rpc_get_methods())
    for cls in (Methods, AsyncMethods):
        assert {name for name in vars(cls) if not name.startswith("_")} == names
    for name in names:
        blocking, asynchronous = (getattr(cls, name) for cls in (Methods, AsyncMethods))
        assert inspect.iscoroutinefunction(asynchronous)
        assert inspect.signature(blocking) == inspect.signature(asynchronous)
        assert blocking.__doc__ == asynchronous.__doc__


def test_any_method_by_name(client):
    assert client.call("bdev_get_bdevs", name="Malloc0")[0]["name"] == "Malloc0"
    with pytest.raises(RpcError) as caught:
        client.call("no_such_method")
    assert caught.value.code == -32601
    with pytest.raises(RpcError, match="null"):
        client.call("bdev_get_bdevs", name=None)


def test_an_answer_that_is_not_as_declared(make, server):
    def serve_one(connection):
        connection.sendall(answer(request_from(connection)["id"], {"version": 5}))
        connection.sendall(answer(request_from(connection)["id"], True))

    with make(server(serve_one)) as client:
        with pytest.raises(ValueError, match=r"spdk_get_version: .*version"):
            client.spdk_get_version()
        assert client.bdev_wait_for_examine() is True  # and the connection is as good as before


# Batches


def test_a_batch(client):
    made = client.batch(
        [
            ("bdev_null_create", {"name": "N", "num_blocks": 8, "block_size": 512}),
            ("bdev_get_bdevs", {"name": "Nobody"}),
            ("spdk_get_version", {}),
        ]
    )
    assert made[0] == "N"
    assert isinstance(made[1], RpcError)
    assert made[1].code == -19
    assert made[2]["fields"]["major"] == 26
    with pytest.raises(ValueError, match="no calls"):
        client.batch([])


def test_a_batch_that_is_refused_as_a_whole(client):
    with pytest.raises((RpcError, ConnectionError)):
        client.batch([("spdk_get_version", {})] * 10_000)


# Time


def test_a_call_that_times_out_leaves_the_connection_usable(make, server):
    go_on = threading.Event()

    def serve_one(connection):
        late = request_from(connection)["id"]
        go_on.wait(10)
        connection.sendall(answer(late, "late"))
        connection.sendall(answer(request_from(connection)["id"], "in time"))

    with make(server(serve_one), 0.05) as client:
        with pytest.raises(TimeoutError, match=r"no answer to slow within 0\.05 s"):
            client.call("slow")
        client.timeout_s = 10
        go_on.set()
        assert client.call("fast") == "in time"


def test_late_batches_are_thrown_away_too(make, server):
    go_on = threading.Event()

    def serve_one(connection):
        late = [one["id"] for one in request_from(connection)]
        go_on.wait(10)
        connection.sendall(b"[" + b",".join(answer(number, "late") for number in late) + b"]\n")
        ids = [one["id"] for one in request_from(connection)]
        # In any order; and one is forgotten.
        connection.sendall(b"[" + b",".join(answer(number, number) for number in ids[:0:-1]) + b"]")

    with make(server(serve_one), 0.05) as client:
        with pytest.raises(TimeoutError, match="no answer to a batch of 2"):
            client.batch([("slow", {}), ("slow", {})])
        client.timeout_s = 10
        go_on.set()
        lost, *rest = client.batch([("fast", {})] * 3)
        assert rest == [4, 5]
        assert "no answer" in str(lost)


def test_a_server_that_never_reads(make, server):
    over = threading.Event()
    with make(server(lambda _connection: over.wait(10)), 0.05) as client:
        with pytest.raises(TimeoutError):
            client.call("big", text="x" * (8 << 20))
        over.set()
        with pytest.raises((ConnectionError, TimeoutError)):
            client.call("next")


# Ends


def test_nobody_listens(make, tmp_path):
    missing = str(tmp_path / "none.sock")
    with pytest.raises(ConnectionError, match=f"no vbdev daemon listens on {missing}"):
        make(missing)
    with pytest.raises(ConnectionError, match=r"listens on tcp:127\.0\.0\.1:1"):
        make("tcp:127.0.0.1:1")
    with pytest.raises(ConnectionError, match="can not connect: Not a directory"):
        make("/dev/null/x")
    with pytest.raises(ListenError):
        make("")


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (b"", "hung up before it answered some_method"),
        (b'{"jsonrpc":', "hung up before it answered some_method"),
        (b"NBDMAGIC", "does not speak JSON-RPC"),
        (b'{"id": 1}\n', "does not speak JSON-RPC"),
    ],
)
def test_a_server_that_says_no_answer(make, server, sent, text):
    def serve_one(connection):
        request_from(connection)
        connection.sendall(sent)

    with make(server(serve_one), 10) as client:
        with pytest.raises(ConnectionError, match=text):
            client.call("some_method")
        with pytest.raises(ConnectionError, match="closed; connect anew"):
            client.call("some_method")


def test_a_refusal_without_an_id_is_about_the_call(make, server):
    def serve_one(connection):
        request_from(connection)
        error = {"code": -32700, "message": "Parse error"}
        text = json.dumps({"jsonrpc": "2.0", "id": None, "error": error})
        connection.sendall(text.encode())

    with make(server(serve_one), 10) as client, pytest.raises(RpcError, match="Parse error"):
        client.call("some_method")


def test_closed_is_closed(client):
    client.close()
    client.close()
    with pytest.raises(ConnectionError, match="closed"):
        client.call("spdk_get_version")


def test_a_daemon_that_is_killed(make, daemon):
    with make(daemon.rpc_socket, 20) as client:
        client.spdk_get_version()
        daemon.kill()
        with pytest.raises(ConnectionError, match=r"hung up|closed"):
            client.spdk_get_version()
        with pytest.raises(ConnectionError, match="no vbdev daemon"):
            make(daemon.rpc_socket)


# Beginnings


def test_connect_waits_for_a_daemon_that_starts(make, tmp_path):
    daemon = Daemon(tmp_path, "malloc:1MiB")
    starting = threading.Thread(target=lambda: time.sleep(0.2) or daemon.start())
    starting.start()
    try:
        with make.connect(daemon.rpc_socket, 20) as client:
            assert [bdev.name for bdev in client.bdev_get_bdevs()] == ["Malloc0"]
            assert client.timeout_s == 60
    finally:
        starting.join()
        daemon.close()


def test_connect_gives_up(make, tmp_path):
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no vbdev daemon listens .* for 0\.1 s"):
        make.connect(str(tmp_path / "none.sock"), 0.1)
    assert 0.1 <= time.monotonic() - began < 5


def test_connect_when_it_is_ready_and_when_it_answers(make, tmp_path):
    daemon = Daemon(tmp_path, "malloc:1MiB", "--wait-for-rpc")
    try:
        daemon.start()
        with pytest.raises(TimeoutError, match="framework_wait_init"):
            make.connect(daemon.rpc_socket, 0.2)
        with make.connect(daemon.rpc_socket, 20, initialized=False) as client:
            client.framework_start_init()
        with make.connect(daemon.rpc_socket, 20) as client:
            assert client.bdev_get_bdevs()
    finally:
        daemon.close()


def test_connect_to_what_is_no_daemon(make, server):
    with pytest.raises(ConnectionError, match="hung up"):
        make.connect(server(request_from), 10)


def test_connect_says_how_long_it_was_to_wait(make, server):
    done = threading.Event()
    path = server(lambda _: done.wait(10))
    with pytest.raises(TimeoutError, match=r"no answer to framework_wait_init within 0\.2 s"):
        make.connect(path, 0.2)
    done.set()


def test_a_connection_that_ends_while_a_call_is_sent(server):
    """What sends and what receives both fail then; the call tells it once, and asyncio nothing."""
    told = []

    async def call(path):
        asyncio.get_running_loop().set_exception_handler(lambda _, told_of: told.append(told_of))
        async with AsyncClient(path, 10) as client:

            async def drain():
                await client._reading
                raise ConnectionResetError

            client._writer.drain = drain
            with pytest.raises(ConnectionError, match="hung up before it answered slow"):
                await client.call("slow")

    asyncio.run(call(server(request_from)))
    gc.collect()
    assert told == []


def test_tcp(make):
    listener = socket.create_server(("127.0.0.1", 0))

    def work():
        connection, _ = listener.accept()
        with connection:
            connection.sendall(answer(request_from(connection)["id"], "hello"))

    thread = threading.Thread(target=work)
    thread.start()
    with make(f"tcp:127.0.0.1:{listener.getsockname()[1]}") as client:
        assert client.call("greet") == "hello"
    thread.join()
    listener.close()


# Several at a time


def test_many_calls_in_flight_end_as_they_are_done(daemon):
    async def work():
        async with AsyncClient(daemon.rpc_socket, 20) as client:
            waiting = asyncio.create_task(client.bdev_get_bdevs(name="Late", timeout=10_000))
            some = await asyncio.gather(*(client.spdk_get_version() for _ in range(500)))
            assert len({one.version for one in some}) == 1
            assert not waiting.done()
            await client.bdev_malloc_create(name="Late", num_blocks=8, block_size=512)
            assert (await waiting)[0].name == "Late"

    asyncio.run(work())


def test_a_call_that_is_cancelled_costs_the_others_nothing(daemon):
    async def work():
        async with AsyncClient(daemon.rpc_socket, 20) as client:
            waiting = asyncio.create_task(client.bdev_get_bdevs(name="Late", timeout=1000))
            await client.spdk_get_version()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await client.bdev_malloc_create(name="Late", num_blocks=8, block_size=512)
            assert await client.bdev_get_bdevs(name="Late")
            assert not client._waiting

    asyncio.run(work())


def test_calls_in_flight_end_with_the_client_and_with_the_daemon(daemon):
    async def work(end):
        async with AsyncClient(daemon.rpc_socket, 20) as client:
            calls = [
                asyncio.create_task(client.bdev_get_bdevs(name="Late", timeout=60_000))
                for _ in range(3)
            ]
            await client.spdk_get_version()
            await end(client)
            for call in calls:
                with pytest.raises(ConnectionError, match="hung up before it answered"):
                    await call

    async def kill(_client):
        daemon.kill()

    asyncio.run(work(AsyncClient.close))
    asyncio.run(work(kill))


# What it costs


@pytest.mark.parametrize(
    ("program", "absent"),
    [
        (
            "from vbdev.client import Client",
            ["asyncio", "vbdev.core", "vbdev.api.results", "numpy"],
        ),
        ("from vbdev.client import AsyncClient", ["vbdev.core", "vbdev.bdev", "numpy"]),
        (
            "import vbdev.client.connection",
            ["asyncio", "vbdev.client.generated.methods", "vbdev.core"],
        ),
        ("import vbdev.api.results", ["vbdev.core", "vbdev.bdev"]),
    ],
)
def test_nothing_heavy_is_imported(program, absent):
    program = f"import sys; {program}; print([name for name in {absent} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_what_is_exported():
    assert vbdev.client.AsyncClient is AsyncClient
    with pytest.raises(AttributeError, match="Nonsense"):
        vbdev.client.Nonsense  # noqa: B018
