"""Regular expressions without what an interpreter that is still in use has wrong.

CPython 3.11.0 to 3.11.4 match `(?:ab?c)*+` with "a": possessive quantifiers and atomic groups (3.11
is the first that has them) do not go back to where a repetition began that fails half-way.
"""

import ast
import importlib
import json
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import vbdev
from vbdev.wire import jsontext

SOURCES = sorted(Path(vbdev.__file__).parent.rglob("*.py"))
WRONG = {"POSSESSIVE_REPEAT", "ATOMIC_GROUP"}


def opcodes(parsed):
    """Return the names of all operations of a parsed pattern."""
    found = set()
    for item in parsed:
        if isinstance(item, list | tuple) or hasattr(item, "data"):
            found |= opcodes(getattr(item, "data", item))
        elif hasattr(item, "name"):
            found.add(item.name)
    return found


def wrong(pattern):
    return opcodes(re._parser.parse(pattern)) & WRONG


def test_what_is_looked_for_is_found():
    assert wrong("(?:a++|b)*") == {"POSSESSIVE_REPEAT"}
    assert wrong(b"x(?:(?>a)|b)") == {"ATOMIC_GROUP"}
    assert wrong(r"[*+]\++") == set()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_literals(path):
    for call in ast.walk(ast.parse(path.read_text())):
        if not isinstance(call, ast.Call) or not ast.unparse(call.func).startswith("re."):
            continue
        for word in call.args[:1]:
            if isinstance(word, ast.Constant):
                assert not wrong(word.value), f"{path}:{word.lineno}"


def test_patterns_that_are_put_together():
    count = 0
    for module in pkgutil.walk_packages(vbdev.__path__, "vbdev."):
        if module.name.endswith(("__main__", "pytest_plugin")):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, re.Pattern):
                assert not wrong(value.pattern), f"{module.name}.{name}"
                count += 1
    assert count > 5


@pytest.mark.parametrize("step", [2, 3, 7, 64])
def test_steps_of_any_length(monkeypatch, step):
    """What ends in the middle of anything is gone on with."""
    monkeypatch.setattr(jsontext, "_STEP_BYTES", step)
    value = [{'a\\"': ["x" * 20, -1.5e3, {"b": {"c": [{}, [], {"d": [1, [2, [3]]]}]}}]}, "\n\\"]
    text = json.dumps(value).encode()
    for limit in (1 << 20, 8192):
        splitter = jsontext.TextSplitter(1 << 20, limit)
        splitter.feed(text + text + b" 123456789012345 ")
        assert [splitter.next_text() for _ in range(2)] == [text, text]
        assert splitter.next_text() == b"123456789012345"
        assert splitter.next_text() is None


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":[' + b'{"b":"\\"\\""},' * 600,
        b'{"a":["' + b"x" * 8000,
        b"{" + b" " * 8000,
        b'{"a":' + b"[1,2,3]," * 1000,
        b"{" + b'"\\\\":{"":[]},' * 600,
    ],
)
def test_what_is_not_whole_is_no_work_without_end(text):
    """Going back is in vain at once: a few looks for each byte."""
    splitter = jsontext.TextSplitter(1 << 18, 8192)
    splitter.feed(text)
    assert splitter.next_text() is None  # the test's time limit is the bound


def test_an_interpreter_with_the_fault():
    """Where the machine has one, answers are read with it."""
    fault = "import re; raise SystemExit(not re.fullmatch('(?:ab?c)*+', 'a'))"
    for name in ("python3.11", "python3"):
        python = shutil.which(name, path="/usr/bin:/usr/local/bin")
        if python and not subprocess.run([python, "-c", fault], check=False).returncode:
            break
    else:
        pytest.skip("no Python 3.11.0 to 3.11.4 here")
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(Path(vbdev.__file__).parents[1])!r})\n"
        "from vbdev.wire.jsontext import TextSplitter\n"
        "splitter = TextSplitter(1 << 20, 1 << 20)\n"
        "splitter.feed(sys.stdin.buffer.read())\n"
        "sys.stdout.buffer.write(splitter.next_text())\n"
    )
    text = json.dumps(
        [{"a": ["b", {"c": 1}]}, {"result": [{"x": {"y": []}}] * 5}], indent=1
    ).encode()
    done = subprocess.run([python, "-c", code], input=text, stdout=subprocess.PIPE, check=True)
    assert done.stdout == text
    assert sys.version_info >= (3, 11)
