"""Fuzz the whole control plane: a stream of requests to any methods, on an application of its own.

    PYTHONPATH=src python fuzz/rpc_server.py [corpus] [-max_total_time=60]

An input is the stream itself, so that a find can be read and replayed as it is. The mutator knows
JSON-RPC: it adds, drops, repeats and groups calls, and changes a parameter to something of its
declared type, or of none; now and then it changes bytes. What has to hold is said in
tests/support/rpc_target.py. Without a corpus it begins with the finds of earlier runs
(tests/rpc/fuzz_corpus.jsonl), which tests replay. What crashes is written to a file: shorten it,
add it to the top of these as a line of JSON, and mend it.
"""

from __future__ import annotations

import copy
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import atheris

TESTS = Path(__file__).resolve().parent.parent / "tests"
CORPUS = TESTS / "rpc" / "fuzz_corpus.jsonl"
sys.path.insert(0, str(TESTS))

with atheris.instrument_imports(include=["vbdev"]):
    import msgspec

    from support.rpc_target import check, make_app

NAMES = ("Disk", "Top", "Big", "New", "EE_Disk", "Bigp0", "Bigs0", "bdev", "")
NUMBERS = (0, 1, 2, 3, 8, 64, 100, 512, 4096, 65536, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1)
ODD = (
    *(None, True, False, -1, 2**64, 1.5, 1e300, "x" * 300, "\0", "é", "\U0001f600", [], {}, [[]]),
    *([None], {"a": 1}, "1e400", "all", "read", "failure", "00000000-0000-0000-0000-000000000000"),
)
SLOW = frozenset({"rpc_get_schema"})
"""Cost as much as a hundred others, and look at no parameter."""
MAX_CALLS = 8


class Calls:
    """The methods that there are, and calls made up for them."""

    def __init__(self) -> None:
        app = make_app()
        self.methods = {name: app.dispatcher.get(name) for name in app.dispatcher.names()}
        app.reactor.run_until_complete(app.stop())
        app.close()

    def value(self, rng: random.Random, kind: Any) -> Any:
        """Return something that a parameter of that type could be, or that none is."""
        if rng.random() < 0.12:
            return copy.deepcopy(rng.choice(ODD))
        match kind:
            case msgspec.inspect.IntType():
                return rng.choice(NUMBERS)
            case msgspec.inspect.BoolType():
                return rng.random() < 0.5
            case msgspec.inspect.LiteralType() | msgspec.inspect.EnumType():
                return rng.choice([*getattr(kind, "values", ()), *NAMES[:1]])
            case msgspec.inspect.ListType():
                return [self.value(rng, kind.item_type) for _ in range(rng.randrange(4))]
            case msgspec.inspect.UnionType():
                return self.value(rng, rng.choice(kind.types))
            case msgspec.inspect.StructType():
                return self.params(rng, kind.cls)
            case msgspec.inspect.FloatType():
                return rng.choice((0.5, *NUMBERS))
            case _:
                return rng.choice(NAMES)

    def params(self, rng: random.Random, declared: Any) -> Any:
        """Return parameters; the required ones nearly always."""
        info = msgspec.inspect.type_info(declared)
        assert isinstance(info, msgspec.inspect.StructType)
        params = {
            field.encode_name: self.value(rng, field.type)
            for field in info.fields
            if rng.random() < (0.97 if field.required else 0.3)
        }
        if rng.random() < 0.03:
            params[rng.choice(("extra", "name"))] = copy.deepcopy(rng.choice(ODD))
        return params

    def call(self, rng: random.Random) -> dict[str, Any]:
        """Return a call."""
        name = rng.choice(list(self.methods))
        if name in SLOW and rng.random() < 0.9:
            name = "bdev_get_bdevs"
        method = self.methods[name]
        made: dict[str, Any] = {"id": rng.randrange(100), "method": name}
        if method is not None and method.params is not None and rng.random() < 0.97:
            made["params"] = self.params(rng, method.params)
        if rng.random() < 0.05:
            made[rng.choice(("id", "jsonrpc", "params", "method", "extra"))] = copy.deepcopy(
                rng.choice(ODD)
            )
        if rng.random() < 0.05:
            del made[rng.choice(list(made))]
        return made

    def mutate(self, rng: random.Random, calls: list[Any]) -> None:
        """Change a stream of calls in one place."""
        what = rng.randrange(8)
        place = rng.randrange(len(calls) + 1)
        if what < 3 or not calls:
            calls.insert(place, self.call(rng))
        elif what == 3:
            calls.pop(place - 1)
        elif what == 4:
            calls.insert(place, copy.deepcopy(rng.choice(calls)))
        elif what == 5:
            calls[:] = [calls[:place], *calls[place:]]
        else:
            self.change(rng, calls[place - 1])

    def change(self, rng: random.Random, call: Any) -> None:
        """Give one parameter another value."""
        if not isinstance(call, dict) or not isinstance(call.get("params"), dict):
            return
        method = self.methods.get(str(call.get("method")))
        if method is None or method.params is None:
            return
        fields = msgspec.inspect.type_info(method.params).fields  # type: ignore[attr-defined]
        if fields:
            field = rng.choice(fields)
            call["params"][field.encode_name] = self.value(rng, field.type)


def read_calls(stream: bytes) -> list[Any] | None:
    """Return the values of a stream; None where it is no JSON."""
    text, calls, at = stream.decode(errors="replace"), [], 0
    try:
        while at < len(text):
            value, at = json.JSONDecoder().raw_decode(text, at)
            calls.append(value)
            while at < len(text) and text[at] in " \n":
                at += 1
    except (ValueError, RecursionError):
        return None
    return calls


def main() -> None:
    """Fuzz."""
    made = Calls()

    def mutator(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        calls = read_calls(data)
        if calls is None or rng.random() < 0.1:
            return atheris.Mutate(data, max_size)
        for _ in range(rng.randrange(1, 4)):
            made.mutate(rng, calls)
        stream = b"".join(json.dumps(call).encode() for call in calls[:MAX_CALLS])
        return stream[:max_size]

    arguments = sys.argv
    if all(word.startswith("-") for word in sys.argv[1:]):
        seeds = Path(tempfile.mkdtemp(prefix="vbdev-rpc-corpus-"))
        for number, line in enumerate(CORPUS.read_text().splitlines() if CORPUS.exists() else ()):
            (seeds / str(number)).write_bytes(json.loads(line).encode("latin-1"))
        arguments = [*sys.argv, str(seeds)]
    atheris.Setup([*arguments, "-max_len=1500", "-timeout=20"], check, custom_mutator=mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
