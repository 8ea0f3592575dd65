r"""What reaches the terminal: text and our own colours, nothing that a file or a board would have it do.

Names and messages come from files, folders and boards of somebody else. A control character in them is written as its
code, `\u001b` as JSON has it; so are marks that turn the direction of writing, and bytes of a name that is not UTF-8.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

_ODD = re.compile(
    r"\x1b\[(?P<colour>(?:[0-4]|22|39|[39][1-6])(?:;(?:[0-4]|22|39|[39][1-6]))*)?m"  # what our tables and marks need
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


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
        return f"\\u{ord(found[0][0]):04x}{found[0][1:]}"

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
