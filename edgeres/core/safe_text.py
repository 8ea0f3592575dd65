"""Text that may be somebody else's, made harmless: names and messages come from files, folders and boards.

A control character is written as its code, `\u001b` as JSON has it; so are marks that turn the direction of writing,
and bytes of a name that is not UTF-8. What is one line of ours stays one: a newline in it is a control character too.
"""

from __future__ import annotations

import csv
import io
import re
import shlex
from collections.abc import Mapping, Sequence

ODD = r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"  # a newline is not among them
_SHORT = 12  # hex digits
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = re.compile(r"[+-]?[\d.]+(e[+-]?\d+)?", re.IGNORECASE)


def one_line(text: str) -> str:
    """`text` without a character that a terminal obeys, and without a newline."""
    return re.sub(rf"{ODD}|\n", code_of, text)


def typed(what: object) -> str:
    """A name or a path as it is typed in a command: in quotes where it has a blank."""
    return shlex.quote(str(what))


def with_ascii_minus(text: str) -> str:
    """A minus before a figure as it is typed: text in a terminal is copied, and has one kind of it."""
    return re.sub(r"\u2212(?=\d)", "-", text)


def short(sha256: str) -> str:
    """What tells two files apart by eye."""
    return sha256[:_SHORT]


def code_of(found: re.Match[str]) -> str:
    """What was found, its first character as a code."""
    return f"\\u{ord(found[0][0]):04x}{found[0][1:]}"


def csv_text(records: Sequence[Mapping[str, object]], columns: Sequence[str] = ()) -> str:
    """The records as CSV with a header; `columns` in order of appearance where none are named.

    Text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    text = io.StringIO()
    names = columns or list(dict.fromkeys(name for record in records for name in record)) or ["name"]
    writer = csv.DictWriter(text, fieldnames=names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in record.items()} for record in records)
    return text.getvalue()


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    is_formula = value.startswith(_FORMULA) and not _NUMBER.fullmatch(value)
    return one_line(f"'{value}" if is_formula else value)
