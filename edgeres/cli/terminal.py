"""What reaches the terminal: text and our own colours, nothing that a file or a board would have it do."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import click

from edgeres.core.safe_text import ODD, code_of, with_ascii_minus

_OURS = r"\x1b\[(?P<colour>(?:[0-4]|22|39|[39][1-6])(?:;(?:[0-4]|22|39|[39][1-6]))*)?m"  # tables and marks need them
_ODD = re.compile(f"{_OURS}|{ODD}")


def say(line: str, *, err: bool = False) -> None:
    """Prints one line of ours; a newline within it is somebody else's."""
    click.echo(with_ascii_minus(re.sub("\n", code_of, line)), err=err)


def say_row(head: str, text: str, width: int) -> None:
    """`head` and, `width` characters from the left, `text`: in a terminal in lines of its width, no word cut."""
    lines = [text]
    if sys.stdout.isatty():
        room = max(shutil.get_terminal_size().columns - width, width)
        lines = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]
    for place, line in enumerate(lines):
        say(f"{' ' * width if place else head}{line}".rstrip())


class PlainStream:
    """A text stream whose writes are made harmless; a terminal keeps our colours. The rest is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._keeps_colours = stream.isatty()

    def write(self, text: str) -> int:
        """Writes the text; returns its length."""
        self._stream.write(_ODD.sub(self._shown, text))
        return len(text)

    def _shown(self, found: re.Match[str]) -> str:
        if found["colour"] is not None and self._keeps_colours:
            return found[0]
        return code_of(found)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def harmless() -> Iterator[None]:
    """Both streams as PlainStream; one that was closed before we began leads nowhere."""
    with contextlib.ExitStack() as stack:
        out, err = (stream or stack.enter_context(Path(os.devnull).open("w")) for stream in (sys.stdout, sys.stderr))
        stack.enter_context(contextlib.redirect_stdout(PlainStream(out)))
        stack.enter_context(contextlib.redirect_stderr(PlainStream(err)))
        yield
