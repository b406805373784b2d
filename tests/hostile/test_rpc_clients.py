"""The control plane of a real daemon against clients that mean no good, or know no better.

Each test measures what the client costs (memory, descriptors, time of others) while it is at it,
and ends the daemon, which has to stop in order and in time. Memory is what the process has
resident; the bounds leave room for what Python keeps for itself, and none for what was sent.
"""

import contextlib
import json
import os
import signal
import threading
import time

import pytest

from support.raw_rpc import RawRpc
from vbdev.rpc.serving.rpc_connection import MAX_IN_FLIGHT_BYTES, PAUSE_UNSENT_BYTES
from vbdev.rpc.serving.rpc_server import DRAIN_TIMEOUT_S, MAX_CONNECTIONS
from vbdev.wire.jsonrpc import MAX_REQUEST_BYTES, MAX_REQUEST_VALUES

MIB = 1 << 20
NOISE_KIB = 6 << 10
"""What a daemon's resident memory may grow by for reasons of its own."""
PATIENCE_S = 2.0
"""How long another client's call may take beside a hostile one; alone it takes 50 us."""


@pytest.fixture
def daemon(serve):
    daemon = serve("malloc:1MiB")
    with RawRpc(daemon.rpc_socket) as first:
        for _ in range(50):  # what it takes only once
            first.call("bdev_get_bdevs")
            first.call("nope")
    daemon._hang_up()  # its own client would be one of the 64
    return daemon


@pytest.fixture
def connect(daemon):
    """Return a function that connects; all connections end with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(RawRpc(daemon.rpc_socket))


@pytest.fixture
def grown(daemon):
    """Return a function that tells by how many KiB the daemon has grown."""
    before = daemon.rss_kib()
    return lambda: daemon.rss_kib() - before


@pytest.fixture
def still_serves(daemon):
    """Return a function that makes sure that others are served, and soon."""

    def check():
        with RawRpc(daemon.rpc_socket) as other:
            start = time.monotonic()
            assert other.call("bdev_get_bdevs")["result"][0]["name"] == "Malloc0"
            assert time.monotonic() - start < PATIENCE_S

    return check


def parse_error(client, detail):
    """The stream ends with one, and the connection with it."""
    answer = client.rest()[-1]
    assert answer["id"] is None
    assert (answer["error"]["code"], answer["error"]["message"]) == (-32700, "Parse error")
    assert detail in answer["error"]["data"]


@pytest.mark.parametrize(
    ("stream", "detail"),
    [
        (b"[" * 100_000, "nested deeper than 64"),
        (b'{"a":' * 100_000, "nested deeper than 64"),
        (b'{"id":1,"method":"m","params":' + b"[" * 64, "nested deeper than 64"),
        (b'{"method":"\xff"}', "utf-8"),
        (b'{"method":"\xed\xa0\x80"}', "utf-8"),
        (b'{"method":"\xc0\xae"}', "utf-8"),
        (b'{"method":"\\ud800"}', "surrogate"),
        (b'{"method":"\\udc00\\ud800"}', "surrogate"),
        (b'{"method":"\x00"}', "control character"),
        (b"\xff\xfe{\x00}\x00", "begins no JSON value"),
        (b"GET / HTTP/1.1\r\n\r\n", "begins no JSON value"),
        (b"[" + b"1," * MAX_REQUEST_VALUES + b"1]", f"more than {MAX_REQUEST_VALUES} values"),
        (b'{"method":"' + b"x" * MAX_REQUEST_BYTES + b'"}', "longer than"),
        (b"{" + b" " * (32 * MIB), "longer than"),
        (b"1" * MIB, "longer than"),
    ],
    ids=lambda value: f"{value[:12]!r}{len(value)}" if isinstance(value, bytes) else "",
)
def test_what_is_no_json(daemon, connect, grown, still_serves, stream, detail):
    descriptors = daemon.fd_count()
    for _ in range(3):
        client = connect()
        client.send_what_goes(stream)
        parse_error(client, detail)
        client.close()
        still_serves()
    assert grown() < NOISE_KIB
    assert daemon.fd_count() <= descriptors + 1  # its end may still be on its way
    daemon.stop()


@pytest.mark.parametrize(
    "number", ["1e400", "-1e400", "1e999999999", "9" * 5000, "0." + "3" * 5000, "-" + "9" * 200_000]
)
def test_a_huge_number(connect, still_serves, number):
    """To JSON it is a number as any other: no method has a use for it, an id it can be.

    As SPDK does, which keeps an id's text and writes that.
    """
    client = connect()
    call = '{"id":1,"method":"bdev_null_resize","params":{"name":"Malloc0","new_size":%s}}'
    client.send(call.replace("%s", number).encode())
    error = client.line()["error"]
    assert (error["code"], error["message"]) == (-32603, "spdk_json_decode_object failed")
    assert error["data"].startswith("new_size: expected int")
    request_id = number.encode()
    for method, kind in [(b"spdk_get_version", b"result"), (b"nope", b"error")]:
        call = b'{"id":%s,"method":"%s"}' % (request_id, method)
        client.send(call)
        answer = client.text()
        assert answer.startswith(b'{"jsonrpc":"2.0","id":%s,"%s":{' % (request_id, kind))
        client.send(b"[" + call + b"]")
        assert client.text() == b"[" + answer + b"]"
    assert client.call("spdk_get_version")["result"]
    still_serves()


def test_white_space_without_end(connect, grown, still_serves):
    client = connect()
    spaces = b" \t\r\n" * (MIB // 4)
    for _ in range(32):
        client.send(spaces)
        assert grown() < NOISE_KIB
    still_serves()
    assert client.call("spdk_get_version")["result"]


def test_half_a_request_that_stays(daemon, connect, grown, still_serves):
    halves = [connect() for _ in range(MAX_CONNECTIONS - 4)]
    half = b'{"id":1,"method":"bdev_get_bdevs","params":{"name":"'
    for client in halves:
        client.send(half)
    still_serves()
    ticks = daemon.cpu_ticks()
    time.sleep(0.3)
    assert daemon.cpu_ticks() - ticks <= 3, "it does not sleep"
    assert grown() < NOISE_KIB
    halves[0].send(b'Malloc0"}}')
    assert halves[0].line()["result"][0]["name"] == "Malloc0"
    daemon.stop()  # with all the others still there
    assert halves[1].rest() == []


def test_the_largest_half_request_of_each(connect, grown, still_serves):
    """What can be sent and never ended, by all clients there can be: 16 MiB."""
    halves = [connect() for _ in range(MAX_CONNECTIONS - 4)]
    half = b'{"method":"' + b"x" * (MAX_REQUEST_BYTES - 100)
    for client in halves:
        client.send(half)
    still_serves()
    assert grown() < len(halves) * 2 * MAX_REQUEST_BYTES // 1024 + NOISE_KIB


def test_a_request_byte_by_byte(connect, still_serves):
    client = connect()
    for byte in b'{"id":1,"method":"bdev_get_bdevs"}':
        client.send(bytes([byte]))
    still_serves()
    assert client.line()["result"]


# Clients that never read


def flood(client, call):
    """Send many calls until nothing more is taken for a while; return how many bytes went."""
    return flood_with(client, call * 1000)


def flood_with(client, piece):
    """The same, in pieces of one's own."""
    client.socket.settimeout(0.3)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < 64 * MIB:
            sent += client.socket.send(piece[sent % len(piece) :])
    return sent


def test_64_clients_of_which_one_never_reads(daemon, connect, grown, still_serves):
    readers = [connect() for _ in range(MAX_CONNECTIONS - 2)]
    deaf = connect()
    assert flood(deaf, b'{"id":1,"method":"bdev_get_bdevs"}') < 2 * MIB
    for client in readers:
        assert client.call("bdev_get_bdevs")["result"]
    still_serves()
    ticks = daemon.cpu_ticks()
    time.sleep(0.3)
    assert daemon.cpu_ticks() - ticks <= 3, "it does not sleep"
    assert grown() < NOISE_KIB + 3 * PAUSE_UNSENT_BYTES // 1024
    daemon.stop()


def test_all_never_read(daemon, connect, grown):
    clients = [connect() for _ in range(MAX_CONNECTIONS)]
    threads = [
        threading.Thread(target=flood, args=(client, b'{"id":1,"method":"bdev_get_bdevs"}'))
        for client in clients
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert grown() < NOISE_KIB + len(clients) * 3 * PAUSE_UNSENT_BYTES // 1024
    daemon.stop()


def test_one_that_asks_for_more_than_it_can_hold(daemon, connect, still_serves):
    """A batch whose answers are longer than 32 MiB together: those beyond are errors.

    They are held once, and what is sent is put together out of them, which leaves them behind.
    """
    client = connect()
    for n in range(300):
        params = {"name": f"N{n}", "num_blocks": 8, "block_size": 512}
        client.call("bdev_null_create", **params)
    one = len(json.dumps(client.call("bdev_get_bdevs")))
    count = 40 * MIB // one
    before = daemon.rss_kib()
    client.send(b"[" + b",".join([b'{"id":1,"method":"bdev_get_bdevs"}'] * count) + b"]")
    answers = client.line()
    assert len(answers) == count
    refused = [answer for answer in answers if "error" in answer]
    assert 0 < len(refused) < count // 2
    assert all(answer["error"]["code"] == -32603 for answer in refused)
    assert "longer than 33554432 bytes" in refused[0]["error"]["data"]
    assert daemon.status("VmHWM") - before < 3 * 32 << 10
    still_serves()
    daemon.stop()


def test_many_long_requests_that_wait(daemon, connect, grown, still_serves):
    """Each keeps its parameters until it ends; what may be in flight is bounded in bytes too."""
    call = {"method": "bdev_get_bdevs", "params": {"name": "x" * 250_000, "timeout": 3_600_000}}
    clients = [connect() for _ in range(8)]
    for client in clients:
        assert flood_with(client, json.dumps({"id": 1, **call}).encode()) < 3 * MIB
    still_serves()
    assert grown() < NOISE_KIB + len(clients) * 8 * MAX_IN_FLIGHT_BYTES // 1024
    for client in clients:
        client.close()
    daemon.check_log = lambda: None
    daemon.stop()


# Too many


@pytest.mark.parametrize("sent", [b"", b'{"jsonrpc":', b'{"id":1,"method":"spdk_get_version"}'])
def test_the_65th(daemon, connect, sent):
    """Whoever is idle makes room, whatever it has sent before."""
    clients = [connect() for _ in range(MAX_CONNECTIONS)]
    for client in clients:
        client.send(sent)
    time.sleep(0.3)
    for _ in range(20):
        with RawRpc(daemon.rpc_socket) as late:
            assert late.call("spdk_get_version")["result"]
    assert daemon.fd_count() < MAX_CONNECTIONS + 40
    daemon.stop()


def test_the_65th_where_all_wait_for_something(daemon, connect):
    clients = [connect() for _ in range(MAX_CONNECTIONS + 20)]
    wait = {"method": "bdev_get_bdevs", "params": {"name": "Nobody", "timeout": 3000}, "id": 1}
    for client in clients:
        client.send(wait)
    for client in clients:  # each makes room for the next
        assert client.line()["error"]["code"] == -110
        client.close()
    daemon.stop()


def test_clients_that_come_and_go(daemon, grown, still_serves):
    descriptors = daemon.fd_count()
    for n in range(2000):
        with RawRpc(daemon.rpc_socket) as client:
            if n % 4:
                client.send_what_goes(b'{"id":1,"method":"bdev_get_bdevs"}' * (n % 4))
            if n % 4 == 3:
                client.line()
    still_serves()
    deadline = time.monotonic() + 5
    while daemon.fd_count() > descriptors:
        assert time.monotonic() < deadline, "descriptors are left"
        time.sleep(0.01)
    assert grown() < NOISE_KIB
    daemon.stop()


# Stopping


def test_requests_in_flight_while_it_stops(daemon, connect):
    """What ends by itself is answered; what would wait longer than the stop is given up."""
    patient, hasty, deaf, half = connect(), connect(), connect(), connect()
    patient.send({"id": 1, "method": "bdev_get_bdevs", "params": {"name": "x", "timeout": 700}})
    hasty.send({"id": 2, "method": "bdev_get_bdevs", "params": {"name": "x", "timeout": 10**9}})
    assert flood(deaf, b'{"id":1,"method":"bdev_get_bdevs"}')
    half.send(b'{"id":3,"method":')
    assert patient.is_quiet()
    start = time.monotonic()
    daemon.check_log = lambda: None  # it says whom it gives up
    daemon._hang_up()
    os.kill(daemon.pid, signal.SIGTERM)
    assert patient.line()["error"]["code"] == -110
    assert patient.rest() == []
    assert half.rest() == []
    assert hasty.rest() == []
    assert daemon.wait(20) == 0
    assert time.monotonic() - start < DRAIN_TIMEOUT_S + 5
    assert "stops with requests in flight" in daemon.stderr
    assert "Traceback" not in daemon.stderr


def test_a_flood_while_it_stops(daemon):
    stop, refused = threading.Event(), []

    def hammer():
        calls = b'{"id":1,"method":"bdev_get_bdevs"}{"id":2,"method":"nope"}' * 20
        while not stop.is_set():
            try:
                with RawRpc(daemon.rpc_socket) as client:
                    client.send_what_goes(calls)
                    client.line()
            except (OSError, AssertionError, json.JSONDecodeError):  # cut off in the middle
                refused.append(1)
                time.sleep(0.01)

    threads = [threading.Thread(target=hammer) for _ in range(6)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    start = time.monotonic()
    try:
        daemon.stop()
        assert time.monotonic() - start < DRAIN_TIMEOUT_S + 5
    finally:
        stop.set()
        for thread in threads:
            thread.join()
