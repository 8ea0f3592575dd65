"""The command line, called in this process."""

from __future__ import annotations

import logging
import shlex
import sys
from functools import partial

import click
import pytest

from edgeres.cli.main import _run, cli


def command_of(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that `words` name, and what follows; raises KeyError if there is none."""
    command: click.Command = cli
    while isinstance(command, click.Group) and words and not words[0].startswith("-") and not words[0].isupper():
        found = command.get_command(click.Context(command), words[0])
        if found is None:
            raise KeyError(words[0])
        command, words = found, words[1:]
    return command, words


def understood(line: str) -> dict[str, object]:
    """The arguments and options of the command `edgeres ...`; raises click's error for what is none."""
    command, rest = command_of(shlex.split(line)[1:])
    return command.make_context(command.name, rest).params


@pytest.fixture
def aloud(monkeypatch, capfd):
    """`edgeres(...)` in this process: (exit code, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["edgeres", *map(str, arguments)])
        code = _run()
        out, err = capfd.readouterr()
        assert "\\u000a " not in out + err, "a newline and an indent of ours, taken for somebody else's"
        return code, out, err

    logger = logging.getLogger("edgeres")
    before = logger.handlers, logger.level, logger.propagate
    yield run
    logger.handlers, logger.level, logger.propagate = before  # the stream of its own ends with the test


@pytest.fixture
def edgeres(aloud):
    """The same with -q."""
    return partial(aloud, "-q")
