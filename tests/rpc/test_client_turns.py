"""All RPC clients share the time of a reactor's turn, and long answers leave time to others."""

from __future__ import annotations

from vbdev.reactor.clock import VirtualClock
from vbdev.reactor.reactor import Reactor
from vbdev.rpc.serving.turns import ClientTurns, long_answer

CLIENTS = 200


class Client:
    """Starts requests as a connection does: until the reactor is late."""

    def __init__(self, reactor, turns, started, requests):
        self.reactor, self.turns, self.started = reactor, turns, started
        self.left = requests

    def pump(self):
        while self.left:
            self.left -= 1
            self.started.append(self)
            if self.reactor.late:
                break
        if self.left:
            self.turns.ask(self)


def test_clients_share_a_turn_and_follow_each_other():
    reactor, started = Reactor(clock=VirtualClock()), []
    turns = ClientTurns(reactor)
    try:
        greedy = [Client(reactor, turns, started, 1000) for _ in range(CLIENTS)]
        modest = Client(reactor, turns, started, 1)
        assert turns.start(greedy[0])  # nobody else: at once, in this turn
        assert reactor.late
        for client in [*greedy[1:], modest]:
            assert not turns.start(client)
        while modest not in started:
            before = len(started)
            reactor.poll()
            assert 0 < len(started) - before < 200, "more than a slice for all of them together"
        counts = [started.count(client) for client in greedy[1:]]
        assert min(counts) > 0
        assert max(counts) < 200, "one client before others had their first turn"
    finally:
        reactor.close()


class Slow:
    """Its one request takes all the time there is."""

    def __init__(self, reactor):
        self.reactor, self.runs = reactor, 0

    def pump(self):
        self.runs += 1
        while not self.reactor.late:
            pass


def start_in_a_turn(reactor, turns, *clients):
    """Return which of them were started at once, in one turn of the reactor."""
    told = []
    reactor.send_msg(lambda: told.extend(turns.start(client) for client in clients))
    reactor.poll()
    return told


def test_who_asks_for_little_is_served_at_once_turn_by_turn():
    reactor, started = Reactor(clock=VirtualClock()), []
    turns = ClientTurns(reactor)
    clients = [Client(reactor, turns, started, 0) for _ in range(3)]
    try:
        for _ in range(5):
            assert start_in_a_turn(reactor, turns, *clients) == [True] * 3
    finally:
        reactor.close()


def test_whose_call_takes_a_slice_leaves_the_next_turn_to_others():
    reactor = Reactor(clock=VirtualClock())
    turns, slow = ClientTurns(reactor), Slow(reactor)
    try:
        for n in (0, 2, 4):
            assert start_in_a_turn(reactor, turns, slow) == [True]
            assert start_in_a_turn(reactor, turns, slow) == [False]
            assert slow.runs == n + 1
            reactor.poll()
            assert slow.runs == n + 2
            reactor.poll()
    finally:
        reactor.close()


def test_long_answers_are_built_one_at_a_time_and_breathe():
    reactor, building, order = Reactor(clock=VirtualClock()), [], []

    async def build(n):
        async with long_answer(reactor):
            building.append(n)
            for _ in range(300):
                await reactor.breathe()
            assert building == [n]
            building.pop()
            order.append(n)

    try:
        tasks = [reactor.spawn(build(n)) for n in range(5)]
        turns = 0
        while not all(task.done for task in tasks):
            reactor.poll()
            turns += 1
        assert turns > 10
        assert order == list(range(5))
    finally:
        reactor.close()
