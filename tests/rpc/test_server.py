"""The RPC server and client over real sockets: well-behaved clients, and the other ones."""

import contextlib
import errno
import json
import socket
import threading
import time

import msgspec
import pytest

from vbdev.api.errors import RpcError
from vbdev.api.methods import Method
from vbdev.client import Client
from vbdev.reactor.listen import ListenError
from vbdev.reactor.reactor import Reactor
from vbdev.reactor.task import Future
from vbdev.rpc.serving import rpc_connection as connection_module
from vbdev.rpc.serving.dispatch import Dispatcher
from vbdev.rpc.serving.rpc_connection import MAX_IN_FLIGHT, MAX_IN_FLIGHT_BYTES, PAUSE_UNSENT_BYTES
from vbdev.rpc.serving.rpc_server import MAX_CONNECTIONS, RpcServer
from vbdev.wire.jsonrpc import ClientCodec, encode_request


class Size(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    size: int = 1


class Text(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    text: str


class Daemon:
    """A server with a few methods on a reactor in its own thread."""

    def __init__(self, path):
        self.path = path
        self.reactor = Reactor()
        self.dispatcher = Dispatcher()
        self.server = RpcServer(self.reactor, self.dispatcher)
        self.calls = []
        self.gate = Future()
        for method in (
            Method("echo", Text, self.echo),
            Method("big", Size, self.big),
            Method("held", None, self.held),
            Method("held_big", Size, self.held_big),
            Method("missing", None, self.missing),
            Method("unrenderable", None, self.unrenderable),
        ):
            self.dispatcher.register(method, None)
        self.server.listen(path)
        self.thread = threading.Thread(target=self.reactor.run)
        self.thread.start()

    async def echo(self, _on, params):
        self.calls.append(params.text)
        return params.text

    async def big(self, _on, params):
        self.calls.append(params.size)
        return "x" * params.size

    async def held(self, _on, _params):
        self.calls.append("held")
        await self.gate
        return "released"

    async def held_big(self, _on, params):
        self.calls.append(params.size)
        await self.gate
        return "x" * params.size

    async def missing(self, _on, _params):
        raise OSError(errno.ENODEV, "no bdev Malloc9")

    async def unrenderable(self, _on, _params):
        return object()

    def ask(self, function):
        box, done = [], threading.Event()
        self.reactor.send_msg(lambda: (box.append(function()), done.set()))
        assert done.wait(10)
        return box[0]

    def release(self):
        self.ask(lambda: self.gate.set_result(None))

    def connections(self):
        return self.ask(lambda: list(self.server._connections))

    def close_server(self, drain_timeout_s=5.0):
        closed = threading.Event()

        async def close():
            await self.server.close(drain_timeout_s)
            closed.set()

        self.reactor.send_msg(lambda: self.reactor.spawn(close()))
        return closed

    def stop(self):
        assert self.close_server(0.1).wait(10)
        self.reactor.stop()
        self.thread.join(10)
        assert not self.thread.is_alive()
        self.reactor.close()


@pytest.fixture
def daemon(tmp_path):
    daemon = Daemon(str(tmp_path / "rpc.sock"))
    yield daemon
    daemon.stop()


@pytest.fixture
def raw(daemon):
    with contextlib.ExitStack() as stack:

        def connect():
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.settimeout(10)
            client.connect(daemon.path)
            return client

        yield connect


def ipv6():
    """Whether this machine has an IPv6 address to listen on."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def assert_idle(daemon):
    """It sleeps, and stays asleep."""
    time.sleep(0.05)
    before = (daemon.reactor.sleeps, daemon.reactor.busy_turns)
    time.sleep(0.1)
    assert (daemon.reactor.sleeps, daemon.reactor.busy_turns) == before


def read_lines(client, count):
    data = b""
    while data.count(b"\n") < count:
        chunk = client.recv(1 << 16)
        assert chunk, data
        data += chunk
    assert data.endswith(b"\n")
    return [json.loads(line) for line in data.splitlines()]


def read_to_end(client):
    data = b""
    with contextlib.suppress(ConnectionResetError):  # it had not read all we sent
        while chunk := client.recv(1 << 16):
            data += chunk
    return [json.loads(line) for line in data.splitlines()]


# One client


def test_call(daemon):
    with Client(daemon.path) as client:
        assert client.call("echo", text="é😀") == "é😀"
        assert client.call("big", size=3_000_000) == "x" * 3_000_000
        assert client.call("big") == "x"
        with pytest.raises(RpcError) as failure:
            client.call("missing")
        assert (failure.value.code, failure.value.message) == (-19, "No such device")
        assert "Malloc9" in failure.value.data
        with pytest.raises(RpcError, match=r"Method not found \(-32601\): nope"):
            client.call("nope")
        with pytest.raises(RpcError, match="text: expected str, got int"):
            client.call("echo", text=1)


@pytest.mark.rule("A.23.1")
def test_tcp(daemon):
    address = daemon.ask(lambda: daemon.server.listen("tcp:127.0.0.1:0"))
    assert address.port
    assert daemon.ask(lambda: daemon.server.addresses)[1] == address
    with Client(str(address)) as client:
        assert client.call("echo", text="a") == "a"


@pytest.mark.rule("A.23.1")
def test_the_address_is_taken(daemon):
    with pytest.raises(ListenError, match="living server"):
        RpcServer(daemon.reactor, daemon.dispatcher).listen(daemon.path)


def test_a_result_that_can_not_be_rendered(daemon, caplog):
    with Client(daemon.path) as client:
        with pytest.raises(RpcError, match="Internal error"):
            client.call("unrenderable")
        assert client.call("echo", text="still here") == "still here"
    assert "unrenderable" in caplog.text


@pytest.mark.rule("A.23.3")
@pytest.mark.usefixtures("daemon")
def test_a_request_in_pieces(raw):
    client = raw()
    for byte in b' {"id":1,"method":"echo","params":{"text":"slow"}} ':
        client.send(bytes([byte]))
    assert read_lines(client, 1) == [{"jsonrpc": "2.0", "id": 1, "result": "slow"}]


def test_no_answer_is_rendered_for_a_client_that_is_gone(daemon, raw, caplog):
    async def held_unrenderable(_on, _params):
        daemon.calls.append("held")
        await daemon.gate
        return object()

    daemon.dispatcher.register(Method("held_unrenderable", None, held_unrenderable), None)
    client = raw()
    client.sendall(encode_request("held_unrenderable", None, 1))
    until(lambda: daemon.calls == ["held"])
    client.close()
    until(lambda: all(one._hung_up for one in daemon.connections()))
    daemon.release()
    until(lambda: not daemon.server.connection_count)
    assert "can not be rendered" not in caplog.text


def test_half_a_request_costs_only_its_buffer(daemon, raw):
    client = raw()
    client.send(b'{"id":1,"method":"echo","par')
    with Client(daemon.path) as other:
        assert other.call("echo", text="b") == "b"
    (half,) = [c for c in daemon.connections() if c._codec.buffered_bytes]
    assert half._codec.buffered_bytes == 28
    assert_idle(daemon)
    client.send(b'ams":{"text":"c"}}')
    assert read_lines(client, 1)[0]["result"] == "c"


@pytest.mark.rule("A.23.6")
def test_notifications_get_errors_and_no_results(daemon, raw):
    client = raw()
    for request_id in (b"", b',"id":null'):
        client.send(b'{"method":"echo","params":{"text":"n"}%s}' % request_id)
        client.send(b'{"method":"missing"%s}' % request_id)
        (answer,) = read_lines(client, 1)
        assert (answer["id"], answer["error"]["code"]) == (None, -19)
    assert daemon.calls == ["n", "n"]


@pytest.mark.rule("A.23.2")
def test_answers_come_in_order_of_completion(daemon, raw):
    client = raw()
    client.send(encode_request("held", None, 1) + encode_request("echo", {"text": "e"}, 2))
    assert read_lines(client, 1)[0]["id"] == 2
    daemon.release()
    assert read_lines(client, 1)[0] == {"jsonrpc": "2.0", "id": 1, "result": "released"}


@pytest.mark.usefixtures("daemon")
def test_thousand_requests_at_once(raw):
    client = raw()
    stream = b"".join(encode_request("echo", {"text": str(n)}, n) for n in range(1000))
    client.sendall(stream)
    answers = read_lines(client, 1000)
    assert {answer["id"]: answer["result"] for answer in answers} == {
        n: str(n) for n in range(1000)
    }


@pytest.mark.rule("A.23.12")
def test_more_in_flight_than_may_be(daemon, raw):
    client = raw()
    client.sendall(b"".join(encode_request("held", None, n + 1) for n in range(1500)))
    until(lambda: len(daemon.calls) == MAX_IN_FLIGHT)
    (connection,) = daemon.connections()
    assert connection.in_flight == MAX_IN_FLIGHT
    assert_idle(daemon)
    daemon.release()
    assert len(read_lines(client, 1500)) == 1500


@pytest.mark.rule("A.23.12")
def test_more_bytes_in_flight_than_may_be(daemon, raw):
    client = raw()
    filler = " " * 100_000
    call = b'{"id":1,"method":%s"held"}' % filler.encode()
    threading.Thread(target=client.sendall, args=(call * 40,), daemon=True).start()
    until(lambda: len(daemon.calls) * len(call) > MAX_IN_FLIGHT_BYTES)
    assert_idle(daemon)
    assert len(daemon.calls) == MAX_IN_FLIGHT_BYTES // len(call) + 1
    daemon.release()
    assert len(read_lines(client, 40)) == 40
    (connection,) = daemon.connections()
    assert connection._in_flight_bytes == 0
    assert client.send(b'[{"id":1,"method":"held"},{"id":2,"method":"big"}]')
    read_lines(client, 1)
    assert connection._in_flight_bytes == 0


@pytest.mark.rule("A.23.11")
def test_batches(daemon, raw):
    client = raw()
    client.send(
        b'[{"id":1,"method":"echo","params":{"text":"a"}},{"method":"echo","params":{"text":"b"}},'
        b'{"id":3,"method":"missing"},7]'
    )
    (answer,) = read_lines(client, 1)
    assert [(part["id"], part.get("result")) for part in answer] == [
        (1, "a"),
        (3, None),
        (None, None),
    ]
    client.send(b"[]")
    assert read_lines(client, 1)[0]["error"]["code"] == -32600
    client.send(b'[{"method":"echo","params":{"text":"c"}}]{"id":9,"method":"big"}')
    assert read_lines(client, 1)[0]["id"] == 9
    assert daemon.calls == ["a", "b", "c", 1]


def test_a_batch_leaves_turns_to_others(daemon, raw):
    """Its requests are started a few in a turn, before those behind it, and all of them."""
    client = raw()
    calls = [{"id": n, "method": "big", "params": {"size": n}} for n in range(1, 701)]
    before = daemon.ask(lambda: daemon.reactor.busy_turns)
    client.send(json.dumps(calls).encode() + b'{"id":0,"method":"echo","params":{"text":"behind"}}')
    batch, behind = read_lines(client, 2)
    assert [answer["id"] for answer in batch] == list(range(1, 701))
    assert behind["result"] == "behind"
    assert daemon.calls == [*range(1, 701), "behind"]
    turns = daemon.ask(lambda: daemon.reactor.busy_turns) - before
    assert turns >= 700 / connection_module.STARTS_PER_TURN


def test_slow_requests_leave_turns_to_others(daemon, raw, monkeypatch):
    monkeypatch.setattr(Reactor, "late", property(lambda _self: True))
    client = raw()
    before = daemon.ask(lambda: daemon.reactor.busy_turns)
    client.send(encode_request("big", {"size": 1}, 1) * 100)
    assert len(read_lines(client, 100)) == 100
    assert daemon.ask(lambda: daemon.reactor.busy_turns) - before >= 100


def test_a_batch_with_more_in_flight_than_may_be(daemon, raw):
    client = raw()
    client.send(b"[" + b",".join([b'{"id":1,"method":"held"}'] * 1300) + b"]")
    until(lambda: len(daemon.calls) == MAX_IN_FLIGHT)
    assert_idle(daemon)
    daemon.release()
    (batch,) = read_lines(client, 1)
    assert [answer["result"] for answer in batch] == ["released"] * 1300


def test_a_batch_goes_on_when_its_client_has_sent_all_or_the_server_closes(daemon, raw):
    client = raw()
    client.send(b"[" + b",".join([b'{"id":1,"method":"held"}'] * 1300) + b"]")
    client.shutdown(socket.SHUT_WR)
    until(lambda: len(daemon.calls) == MAX_IN_FLIGHT)
    closed = daemon.close_server()
    daemon.release()
    (batch,) = read_to_end(client)
    assert len(batch) == 1300
    assert closed.wait(10)


def test_parse_error_is_answered_and_the_connection_closed(daemon, raw):
    client = raw()
    client.send(encode_request("echo", {"text": "before"}, 1) + b"{]" + b'{"method":"held"}')
    answers = {answer["id"]: answer for answer in read_to_end(client)}
    assert answers[1]["result"] == "before"
    assert answers[None]["error"]["code"] == -32700
    until(lambda: not daemon.connections())
    assert daemon.calls == ["before"]


def test_parse_error_waits_for_what_is_in_flight(daemon, raw):
    client = raw()
    client.send(encode_request("held", None, 1) + b"}")
    assert read_lines(client, 1)[0]["error"]["code"] == -32700
    daemon.release()
    assert read_to_end(client)[0]["result"] == "released"


# Clients that leave


def test_a_client_that_has_sent_all_still_gets_its_answers(daemon, raw):
    client = raw()
    client.send(encode_request("held", None, 1) + encode_request("echo", {"text": "e"}, 2))
    client.shutdown(socket.SHUT_WR)
    assert read_lines(client, 1)[0]["id"] == 2
    daemon.release()
    assert [answer["id"] for answer in read_to_end(client)] == [1]
    until(lambda: not daemon.connections())


def test_a_client_that_hangs_up_while_a_request_runs(daemon, raw):
    client = raw()
    client.send(encode_request("held", None, 1))
    until(lambda: daemon.calls)
    client.close()
    assert_idle(daemon)
    daemon.release()
    until(lambda: not daemon.connections())


def test_notifications_of_a_client_that_has_left_are_carried_out(daemon, raw):
    client = raw()
    client.sendall(b"".join(encode_request("echo", {"text": str(n)}) for n in range(2000)))
    client.close()
    until(lambda: len(daemon.calls) == 2000)
    until(lambda: not daemon.connections())


def test_a_full_connection_that_hangs_up_does_not_spin(daemon, raw):
    client = raw()
    client.sendall(b"".join(encode_request("held") for _ in range(1500)))
    until(lambda: len(daemon.calls) == MAX_IN_FLIGHT)
    client.close()
    assert_idle(daemon)
    daemon.release()
    until(lambda: len(daemon.calls) == 1500)
    until(lambda: not daemon.connections())


# Clients that misbehave


def test_a_client_that_never_reads_is_not_read_from(daemon, raw):
    client = raw()
    request = encode_request("big", {"size": 100_000}, 1)
    client.setblocking(False)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < 100_000:
            sent += client.send(request * 10) // len(request)
    until(lambda: daemon.connections()[0].unsent_bytes > PAUSE_UNSENT_BYTES)
    time.sleep(0.1)
    (connection,) = daemon.connections()
    most = PAUSE_UNSENT_BYTES + 2 * connection_module.STARTS_PER_TURN * 101_000
    assert connection.unsent_bytes < most
    calls = len(daemon.calls)
    assert_idle(daemon)
    assert len(daemon.calls) == calls
    with Client(daemon.path) as other:
        assert other.call("echo", text="b") == "b"
    client.setblocking(True)
    client.settimeout(10)
    codec, answered = ClientCodec(), 0
    while answered < calls + 50:  # it goes on as soon as the client reads
        codec.feed(client.recv(1 << 20))
        while codec.next_event() is not None:
            answered += 1


def test_a_client_that_never_reads_is_dropped_in_the_end(daemon, raw, monkeypatch, caplog):
    monkeypatch.setattr(connection_module, "MAX_UNSENT_BYTES", 3 << 20)
    client = raw()
    client.send(encode_request("held_big", {"size": 2 << 20}, 1) * 3)
    until(lambda: len(daemon.calls) == 3)  # all were accepted before any had its answer
    daemon.release()
    until(lambda: not daemon.connections())
    assert "does not read its answers" in caplog.text
    with Client(daemon.path) as other:
        assert other.call("echo", text="b") == "b"


@pytest.mark.rule("A.23.12")
def test_one_client_too_many_waits_until_another_leaves(daemon, raw, monkeypatch):
    """In the kernel, as in SPDK (lib/jsonrpc/jsonrpc_server_tcp.c), where all have asked."""
    monkeypatch.setattr(connection_module, "FIRST_REQUEST_US", 3_600_000_000)
    clients = [raw() for _ in range(MAX_CONNECTIONS)]
    for client in clients:
        client.send(encode_request("held", request_id=1))
    until(lambda: len(daemon.calls) == MAX_CONNECTIONS)
    waiting = [raw() for _ in range(3)]
    for number, client in enumerate(waiting):
        client.sendall(encode_request("echo", {"text": f"late {number}"}, 1))
        client.settimeout(0.1)
    with pytest.raises(TimeoutError):
        waiting[0].recv(1)
    turns = daemon.reactor.busy_turns
    time.sleep(0.3)
    assert daemon.reactor.busy_turns - turns <= 6, "it looks more often than it should"
    clients[0].close()
    waiting[0].settimeout(10)
    assert read_lines(waiting[0], 1)[0]["result"] == "late 0"
    daemon.release()
    for number in (1, 2):
        waiting[number].settimeout(10)
        assert read_lines(waiting[number], 1)[0]["result"] == f"late {number}"
    assert len(daemon.connections()) <= MAX_CONNECTIONS + 1


def test_who_has_left_takes_no_place(daemon, raw):
    """Its requests run to their end, and the end of the server waits for that."""
    for _ in range(MAX_CONNECTIONS + 1):
        client = raw()
        client.send(encode_request("held", request_id=1))
        client.close()
    until(lambda: len(daemon.calls) == MAX_CONNECTIONS + 1)
    until(lambda: not daemon.connections())
    with Client(daemon.path) as late:
        assert late.call("echo", text="late") == "late"
    closed = daemon.close_server(10)
    assert not closed.wait(0.2)
    daemon.release()
    assert closed.wait(5)


@pytest.mark.rule("A.23.12")
@pytest.mark.parametrize("sent", ["nothing", "half", "answered", "not taken"])
def test_the_idlest_leaves_for_another(daemon, raw, monkeypatch, sent):
    monkeypatch.setattr(connection_module, "FIRST_REQUEST_US", 1000)
    clients = [raw()]
    for _ in range(MAX_CONNECTIONS - 1):
        client = raw()
        clients.append(client)
        if sent == "half":
            client.send(b'{"jsonrpc":')
        elif sent == "answered":
            client.send(encode_request("echo", {"text": "a"}, 1))
            read_lines(client, 1)
        elif sent == "not taken":
            client.send(encode_request("big", {"size": 2 << 20}, 1))
            until(lambda: len(daemon.calls) == len(clients) - 1)
    until(lambda: len(daemon.connections()) == MAX_CONNECTIONS)
    clients[0].send(encode_request("held", request_id=1))  # the oldest, and not idle
    until(lambda: "held" in daemon.calls)
    for number in range(2):
        late = raw()
        late.send(encode_request("echo", {"text": f"late {number}"}, 1))
        assert read_lines(late, 1)[0]["result"] == f"late {number}"
    assert len(daemon.connections()) == MAX_CONNECTIONS
    gone = []
    for client in clients[1:4]:
        client.settimeout(0.2)
        try:
            while client.recv(1 << 22):
                pass
            gone.append(True)
        except TimeoutError:
            gone.append(False)
    assert gone == [True, True, False]


def test_who_has_left_makes_room_before_who_is_idle(daemon, raw, monkeypatch):
    """Also where nobody has looked yet: all of it happens between two turns."""
    monkeypatch.setattr(connection_module, "FIRST_REQUEST_US", 1000)
    clients = [raw() for _ in range(MAX_CONNECTIONS)]
    until(lambda: len(daemon.connections()) == MAX_CONNECTIONS)
    time.sleep(0.01)

    def at_once():
        for client in clients[20:24]:
            client.close()
        for _ in range(4):
            near, far = socket.socketpair()
            far.setblocking(False)
            clients.append(near)
            daemon.server._connected(far)

    daemon.ask(at_once)
    for number, client in enumerate([*clients[:20], *clients[24:]]):
        client.settimeout(10)
        client.sendall(encode_request("echo", {"text": str(number)}, 1))
        assert read_lines(client, 1)[0]["result"] == str(number)
    for client in clients[MAX_CONNECTIONS:]:
        client.close()


def test_one_that_has_just_come_is_not_idle(daemon, raw, monkeypatch):
    monkeypatch.setattr(connection_module, "FIRST_REQUEST_US", 3_600_000_000)
    clients = [raw() for _ in range(MAX_CONNECTIONS + 1)]
    until(lambda: len(daemon.connections()) == MAX_CONNECTIONS)
    for client in clients[:-1]:
        client.send(encode_request("echo", {"text": "a"}, 1))
        assert read_lines(client, 1)[0]["result"] == "a"
    assert clients[-1].fileno() >= 0


@pytest.mark.parametrize("trickle", [False, True])
def test_half_a_request_has_its_time(raw, monkeypatch, caplog, trickle):
    monkeypatch.setattr(connection_module, "HALF_SENT_S", 0.3)
    clients = [raw(), raw()]
    for client in clients:
        client.send(encode_request("echo", {"text": "a"}, 1) + b'{"jsonrpc":"2.0",')
        assert read_lines(client, 1)[0]["result"] == "a"
    clients[1].send(b'"method":"echo","params":{"text":"b"},"id":2}')
    assert read_lines(clients[1], 1)[0]["result"] == "b"
    began = time.monotonic()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while trickle and time.monotonic() < began + 5:
            clients[0].send(b" ")
            clients[0].send(b'"')
            time.sleep(0.02)
    with contextlib.suppress(ConnectionResetError):
        assert clients[0].recv(1) == b""
    assert "half a request" in caplog.text
    clients[1].send(encode_request("echo", {"text": "c"}, 3))
    assert read_lines(clients[1], 1)[0]["result"] == "c"


@pytest.mark.rule("A.23.12")
def test_an_answer_is_never_longer_than_what_may_be_unsent(daemon, raw, monkeypatch):
    monkeypatch.setattr(connection_module, "MAX_UNSENT_BYTES", 3 << 20)
    with Client(daemon.path) as client:
        with pytest.raises(RpcError, match="the answer is 3145763 bytes, longer than") as failure:
            client.call("big", size=(3 << 20) - 2)
        assert failure.value.code == -32603
        assert client.call("big", size=2 << 20) == "x" * (2 << 20)
    client = raw()
    call = {"method": "big", "params": {"size": 1 << 20}}
    client.send(json.dumps([{"id": n, **call} for n in range(1, 6)]).encode())
    (answer,) = read_lines(client, 1)
    assert [part["id"] for part in answer] == [1, 2, 3, 4, 5]
    assert ["result" in part for part in answer] == [True, True, False, False, False]
    assert "the batch's answers are together longer" in answer[4]["error"]["data"]


# Stopping


def test_close_lets_requests_in_flight_finish(daemon, raw):
    client, idle = raw(), raw()
    client.send(encode_request("held", None, 1))
    until(lambda: daemon.calls)
    closed = daemon.close_server()
    assert idle.recv(1) == b""
    client.send(encode_request("echo", {"text": "too late"}, 2))
    with pytest.raises(OSError, match=r"refused|No such file"):
        raw()
    assert not closed.wait(0.05)
    daemon.release()
    assert [answer["id"] for answer in read_to_end(client)] == [1]
    assert closed.wait(10)
    assert daemon.calls == ["held"]


def test_close_does_not_wait_for_ever(daemon, raw, caplog):
    client = raw()
    client.send(encode_request("held", None, 1))
    until(lambda: daemon.calls)
    assert daemon.close_server(0.05).wait(10)
    assert client.recv(1) == b""
    assert "in flight count=1" in caplog.text
    daemon.release()  # its end finds nobody


def test_close_flushes(daemon, raw):
    client = raw()
    client.send(encode_request("big", {"size": 5 << 20}, 1))
    until(lambda: daemon.calls)
    closed = daemon.close_server()
    assert len(read_to_end(client)[0]["result"]) == 5 << 20
    assert closed.wait(10)


# SPDK's own client


@pytest.mark.client
def test_spdk_s_client(daemon):
    spdk_client = pytest.importorskip("spdk.rpc.client")
    with spdk_client.JSONRPCClient(daemon.path, timeout=10) as client:
        assert client.call("echo", {"text": "a"}) == "a"
        assert client.big(size=200_000) == "x" * 200_000
        with pytest.raises(spdk_client.JSONRPCException) as failure:
            client.call("missing")
        assert '"code": -19' in failure.value.message
        assert '"message": "No such device"' in failure.value.message
    with spdk_client.JSONRPCClient(daemon.path, timeout=10, batch_mode=True) as client:
        client.echo(text="a")
        client.missing()
        client.send_batch()
        results, errors = client.handle_batch_response(client.recv())
        assert results == ["a"]
        assert [error["code"] for error in errors] == [-19]


@pytest.mark.client
@pytest.mark.rule("A.23.1")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_spdk_s_client_over_tcp(daemon, host):
    spdk_client = pytest.importorskip("spdk.rpc.client")
    written = f"[{host}]:0" if ":" in host else f"{host}:0"
    if ":" in host and not ipv6():
        pytest.skip("no IPv6 here")
    address = daemon.ask(lambda: daemon.server.listen(written))
    with spdk_client.JSONRPCClient(host, address.port, timeout=10) as client:
        assert client.call("echo", {"text": "a"}) == "a"
        assert client.big(size=200_000) == "x" * 200_000
