"""The run: every method of SPDK's, asked in every way, and what came of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from spdk_client import cases_bdev, cases_framework, cases_modules, cases_nothing, requests
from spdk_client.case import AFTER_INIT, BEFORE_INIT, Case, Refused
from spdk_client.facts import METHODS
from spdk_client.shapes import lacking, mismatch
from spdk_client.talk import Problem, Refusal, SpdkRpc, Target

CASES = {
    case.method: case
    for case in (
        *cases_framework.CASES,
        *cases_bdev.CASES,
        *cases_modules.CASES,
        *cases_nothing.CASES,
    )
}
NOT_FOUND = (-32601, "Method not found")
KINDS = ("valid", "undecodable", "refused", "state", "class", "spdk-rpc", "absent")
"""What is checked: valid calls and their answers; parameters that do not decode; calls that are
refused; the wrong state; SPDK's Python class; spdk-rpc; that what is not served is refused."""


@dataclass(frozen=True)
class Check:
    """One question and whether the answer was as it has to be. why: where it differs on purpose."""

    method: str
    kind: str
    what: str
    problem: str = ""
    why: str = ""

    def __str__(self) -> str:
        return f"{self.method}: {self.kind}: {self.what}: {self.problem or 'as it has to be'}"


@dataclass
class Report:
    """All that was checked.

    served: methods of SPDK's. own: methods that are not SPDK's. takes: each method's parameters.
    more: those that are not SPDK's, of methods that are.
    """

    served: list[str]
    own: list[str] = field(default_factory=list)
    takes: dict[str, set[str]] = field(default_factory=dict)
    more: dict[str, list[str]] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)

    def of(self, method: str) -> list[Check]:
        """Return one method's checks."""
        return [check for check in self.checks if check.method == method]

    @property
    def failures(self) -> list[Check]:
        """Return what is not as it has to be."""
        return [check for check in self.checks if check.problem]

    def table(self) -> list[list[str]]:
        """Return the run method by method: a head, and a line for each method that is served."""
        lines = [["method", *KINDS[:-1], "passed", "failed", "differs on purpose"]]
        for method in METHODS:
            if method not in self.served:
                continue
            checks = self.of(method)
            counts = Counter(check.kind for check in checks)
            failed = sum(bool(check.problem) for check in checks)
            lines.append(
                [
                    method,
                    *(str(counts[kind]) for kind in KINDS[:-1]),
                    str(len(checks) - failed),
                    str(failed),
                    str(sum(bool(check.why) for check in checks)),
                ]
            )
        return lines

    def text(self) -> str:
        """Return the table for a terminal."""
        lines = self.table()
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            + "\n"
            for line in lines
        )


class Run:
    """One run, in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._targets: dict[str, Target] = {}
        self._started = 0
        self._spdk_rpc = SpdkRpc()
        self.report = Report([])

    def __call__(self) -> Report:
        """Ask everything."""
        try:
            self._ask_what_is_there()
            for method in METHODS:
                if method not in self.report.served:
                    self._check(method, "absent", "a call", self._absent, method)
                elif method not in CASES:
                    self._note(method, "valid", "a case", "it is served and has no case")
                else:
                    self.ask(CASES[method])
        finally:
            self.close()
        return self.report

    def close(self) -> None:
        """End all that was started."""
        self._spdk_rpc.close()
        for target in self._targets.values():
            target.close()

    def _ask_what_is_there(self) -> None:
        target = self._target("runtime")
        names = target.ask("rpc_get_methods", None)
        self.report.served = [name for name in names if name in METHODS]
        self.report.own = [name for name in names if name not in METHODS]
        for method in target.ask("rpc_get_schema", None)["methods"]:
            self.report.takes[method["name"]] = {one["name"] for one in method["params"]}
            if fact := METHODS.get(method["name"]):
                known = {param.name for param in fact.params}
                more = [one["name"] for one in method["params"] if one["name"] not in known]
                if more:
                    self.report.more[fact.name] = more

    # Who is asked

    def _target(self, how: str) -> Target:
        if how not in self._targets:
            self._targets[how] = self._new(how)
        return self._targets[how]

    def _new(self, how: str) -> Target:
        self._started += 1
        return Target(self._directory / f"{self._started}", how)

    def _home(self, case: Case) -> str:
        return case.daemon or ("startup" if case.fact.states == "S" else "runtime")

    # What is noted

    def _note(self, method: str, kind: str, what: str, problem: str = "", why: str = "") -> None:
        self.report.checks.append(Check(method, kind, what, problem, why))

    def _check(self, method: str, kind: str, what: str, ask: Callable[..., str], *args) -> None:
        try:
            problem = ask(*args)
        except Problem as error:
            problem = str(error)
        self._note(method, kind, what, problem)

    # What is asked

    def _absent(self, method: str) -> str:
        return _expect(NOT_FOUND, self._target("runtime").ask, method, None)

    def ask(self, case: Case) -> None:
        """Ask all about one method."""
        method = case.method
        target = self._target(self._home(case))
        if unused := case.unused():
            self._note(method, "valid", "parameters", f"no valid call names {unused}")
        if not (case.untried or case.once):
            for what, params in _valid(case):
                self._taken(case, target, what, params)
            if case.shows:
                self._check(method, "valid", "what it has done", self._shown, case, target)
        for what, params in _undecodable(case):
            self._undecodable(case, target, what, params)
        for one in case.refused:
            self._refused(case, target, one)
        self._states(case)
        if case.once:
            self._once(case)
            return
        self._class(case, target)
        if case.words is not None:
            self._check(method, "spdk-rpc", "a valid call", self._printed, case, target)
        for one in case.refused:
            if one.words:
                self._check(method, "spdk-rpc", one.what, self._printed_refusal, case, target, one)

    def _taken(self, case: Case, target: Target, what: str, params: str | None) -> None:
        instead = case.instead.get(what)
        if instead is not None:
            case = replace(case, result=instead.result, also=None)
        try:
            problem = self._valid(case, target, params)
        except Problem as error:
            problem = str(error)
        self._note(case.method, "valid", what, problem, instead.why if instead else "")

    def _valid(self, case: Case, target: Target, params: str | None) -> str:
        return self._around(case, target, lambda: target.ask(case.method, params), params)

    def _around(
        self, case: Case, target: Target, ask: Callable[[], Any], params: str | None
    ) -> str:
        for call in case.before:
            target.must(call)
        result = None
        try:
            result = ask()
            return _judge(case, result, json.loads(params) if params else None)
        except Refusal as error:
            return f"refused: {error.answer}"
        finally:
            for call in case.after:
                target.must(call, result)

    def _shown(self, case: Case, target: Target) -> str:
        """Look at the bdev that a call with every parameter has made or changed."""
        name, fields = case.shows
        for call in case.before:
            target.must(call)
        result = None
        try:
            result = target.ask(case.method, requests.text(case.params))
            (bdev,) = target.ask("bdev_get_bdevs", requests.text({"name": name}))
            return lacking(bdev, target.fill(fields), name)
        except Refusal as error:
            return f"refused: {error.answer}"
        finally:
            for call in case.after:
                target.must(call, result)

    def _undecodable(self, case: Case, target: Target, what: str, params: str | None) -> None:
        instead = case.instead.get(what)
        expected = instead.answer if instead else case.undecodable
        why = instead.why if instead else ""
        try:
            if expected is None:
                problem = self._around(
                    case, target, lambda: target.ask(case.method, params), params
                )
            else:
                problem = _expect(expected, target.ask, case.method, params)
                if "not refused" in problem:  # it made something
                    for call in case.after:
                        with suppress(Problem):
                            target.must(call)
        except Problem as error:
            problem = str(error)
        if problem:
            problem = f"{problem} (params: {(params or '')[:200]})"
        self._note(case.method, "undecodable", what, problem, why)

    def _refused(self, case: Case, target: Target, one: Refused) -> None:
        instead = case.instead.get(one.what)
        answer = instead.answer if instead else one.answer
        why = instead.why if instead else ""
        params = json.dumps(target.fill(one.params))
        try:
            problem = _around_refusal(
                one, target, lambda: _expect(answer, target.ask, case.method, params)
            )
        except Problem as error:
            problem = str(error)
        self._note(case.method, "refused", one.what, problem, why)

    def _states(self, case: Case) -> None:
        states = case.fact.states
        params = json.dumps(case.minimal) if case.minimal else None
        if states == "R":
            self._check(
                case.method, "state", "before the framework is initialized", _expect, AFTER_INIT,
                self._target("startup").ask, case.method, params,
            )  # fmt: skip
        elif states == "S":
            self._check(
                case.method, "state", "after the framework is initialized", _expect, BEFORE_INIT,
                self._target("runtime").ask, case.method, params,
            )  # fmt: skip
        elif case.method != "framework_wait_init" and not case.before:
            self._check(
                case.method, "state", "before the framework is initialized",
                self._valid, case, self._target("startup"), params,
            )  # fmt: skip

    def _class(self, case: Case, target: Target) -> None:
        if not case.untried:
            for what, params, by_name in (
                ("call", case.minimal if case.bare else case.params, False),
                ("a method of its name", {**case.params}, True),
            ):
                filled = target.fill(params)
                self._check(
                    case.method, "class", what, self._around, case, target,
                    lambda filled=filled, by_name=by_name: target.call(
                        case.method, filled, by_name=by_name
                    ),
                    json.dumps(filled) if filled else None,
                )  # fmt: skip
        wrong = {**target.fill(case.params), requests.UNKNOWN: 1}
        expected = case.undecodable
        if expected is not None and "an unknown parameter besides" not in case.instead:
            self._check(
                case.method, "class", "an unknown parameter",
                _expect, expected, target.call, case.method, wrong,
            )  # fmt: skip

    def _printed(self, case: Case, target: Target) -> str:
        return self._around(
            case,
            target,
            lambda: _parsed(case, self._spdk_rpc.run(target, case.method, *case.words)),
            None,
        )

    def _printed_refusal(self, case: Case, target: Target, one: Refused) -> str:
        return _around_refusal(
            one,
            target,
            lambda: _expect(one.answer, self._spdk_rpc.tell, target, case.method, *one.words),
        )

    def _once(self, case: Case) -> None:
        """Each way to ask needs a daemon of its own."""
        params = case.params
        ways: dict[str, tuple[str, Callable[[Target], Any]]] = {
            "a valid call": (
                "valid",
                lambda target: target.ask(case.method, json.dumps(params) if params else None),
            ),
            "call": ("class", lambda target: target.call(case.method, params)),
            "spdk-rpc": (
                "spdk-rpc",
                lambda target: _parsed(
                    case, self._spdk_rpc.run(target, case.method, *(case.words or ()))
                ),
            ),
        }
        for what, (kind, ask) in ways.items():
            target = self._new(self._home(case))
            try:
                self._check(
                    case.method, kind, what, self._around, case, target,
                    lambda ask=ask, target=target: ask(target), None,
                )  # fmt: skip
            finally:
                target.close(ended=case.method == "spdk_kill_instance")


def _valid(case: Case) -> Iterator[tuple[str, str | None]]:
    """Yield valid calls."""
    fact = case.fact
    if case.bare and not fact.required and case.least is None:
        yield "no parameters", None
        yield "null for parameters", "null"
    if fact.params:
        yield "only what is required", requests.text(case.minimal)
        yield "every parameter", requests.text(case.params)
        for one in case.more:
            yield f"{requests.text(one)}", requests.text(one)
        yield from requests.integral(fact, case.params)


def _undecodable(case: Case) -> Iterator[tuple[str, str | None]]:
    """Yield calls with parameters that do not decode."""
    fact = case.fact
    if fact.params:
        yield from requests.undecodable(fact, case.params)
        if fact.required or not case.bare:
            yield "no parameters", None
        return
    yield "an object", "{}"
    yield "an unknown parameter besides", requests.text({requests.UNKNOWN: 1})
    yield "an array", "[]"


def _expect(answer: tuple[int, str], ask: Callable[..., Any], *args: Any) -> str:
    """Return how far what `ask` says is from this refusal."""
    try:
        result = ask(*args)
    except Refusal as refusal:
        same = refusal.answer == answer
        return "" if same else f"{refusal.answer}, not {answer}"
    return f"not refused: {str(result)[:200]!r}, not {answer}"


def _around_refusal(one: Refused, target: Target, ask: Callable[[], str]) -> str:
    for call in one.before:
        target.must(call)
    try:
        return ask()
    finally:
        for call in one.after:
            target.must(call)


def _judge(case: Case, result: Any, params: dict[str, Any] | None) -> str:
    if problem := mismatch(result, case.result):
        return problem
    if case.also is not None and (problem := case.also(result)):
        return problem
    given = (params or {}).get(case.echoes, result) if case.echoes else result
    return "" if given == result else f"result: {result!r}, not {given!r}"


def _parsed(case: Case, printed: str) -> Any:
    """Return the result that spdk-rpc printed."""
    text = printed.strip()
    if case.printed == "nothing":
        if text:
            raise Problem(f"it printed {text!r}")
        return True
    if case.printed == "words":
        return text.split()
    try:
        return json.loads(text)
    except ValueError:
        return text  # it prints a string without its quotes
