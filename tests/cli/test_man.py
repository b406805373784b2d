"""The man page knows every option of the command line, and no other."""

import argparse
import re
from pathlib import Path

from vbdev.cli import COMMANDS, build_parser

PAGE = (Path(__file__).parents[2] / "docs" / "vbdev.1").read_text()


def commands() -> dict[str, argparse.ArgumentParser]:
    return next(
        action
        for action in build_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    ).choices


def actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Those of a command, and of the commands that it has itself."""
    found = []
    for action in parser._actions:
        found.append(action)
        if isinstance(action, argparse._SubParsersAction):
            found += [one for nested in action.choices.values() for one in actions(nested)]
    return found


def options() -> set[str]:
    return {
        option
        for parser in commands().values()
        for action in actions(parser)
        for option in action.option_strings
    } - {"-h", "--help"}


def test_every_option_is_described():
    page = PAGE.replace("\\-", "-")
    missing = {option for option in options() if not re.search(rf"{option}\b", page)}
    assert missing == set()


def test_every_command_has_its_options():
    """In its own section, or above all of them where `serve` and `bench` share them."""
    page = PAGE.replace("\\-", "-")
    shared = page.split(".SH BASE AND LAYERS")[1].split(".SH COMMANDS")[0]
    for command, parser in commands().items():
        text = page.split(f".SS vbdev {command}\n")[1].split("\n.S")[0]
        text += shared if command in ("serve", "bench") else ""
        for action in actions(parser):
            longest = max(action.option_strings, key=len, default="--help")
            assert longest == "--help" or longest in text, f"vbdev {command} {longest}"


def test_no_option_is_invented():
    described = {word.replace("\\", "") for word in re.findall(r"\\-\\-[a-z\\-]+", PAGE)}
    assert described - {"--help"} <= options()


def test_every_command_has_a_section():
    for command in COMMANDS:
        assert f".SS vbdev {command}\n" in PAGE.replace("\\-", "-")
