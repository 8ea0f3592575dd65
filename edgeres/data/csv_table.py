"""Images that a table lists: a CSV file of path, label and split.

    path,label,split
    cats/1.jpg,cat,train        paths relative to the table's folder
    dogs/7.jpg,dog,val

The first row may be missing where there are one or two columns, label and split may be missing too: images without
labels, and a fifth drawn apart by their names. Labels that are numbers are places among the network's outputs, all
others names of classes.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from edgeres.core.errors import InputError, did_you_mean, reason_of
from edgeres.core.names import plain_name
from edgeres.data.dataset import Dataset, Request
from edgeres.data.folder import dataset_of
from edgeres.data.split import UNLABELLED, drawn_apart, split_from_files
from edgeres.data.tree import check_is_utf8

_PATH, _LABEL, _SPLIT = "path", "label", "split"
_COLUMNS = (_PATH, _LABEL, _SPLIT)
_SPLITS = {"train": "train", "training": "train", **dict.fromkeys(("val", "valid", "validation", "test"), "val")}


class Listed(NamedTuple):
    """One image of the table: `line` is where it stands, `label` and `split` empty where nothing is said."""

    line: int
    path: str
    label: str = ""
    split: str = ""


def listed(request: Request) -> Dataset:
    """The images that the table names; raises InputError with the line of what is wrong."""
    table = Path(request.argument).expanduser()
    rows = _rows_in(table)
    paths = [_checked(table, row) for row in rows]
    numbered = bool(rows[0].label) and all(row.label.isdecimal() for row in rows)
    if numbered:
        classes = tuple(map(str, range(1 + max(int(row.label) for row in rows))))
    else:
        classes = tuple(sorted({plain_name(row.label) for row in rows if row.label}))
    places = {label: number for number, label in enumerate(classes)}
    labels = [places[plain_name(row.label)] if row.label else UNLABELLED for row in rows]
    whole = split_from_files("train", paths, labels, [f"{table.name}/{row.path}" for row in rows])
    if rows[0].split:
        train, val = (whole.subset([at for at, row in enumerate(rows) if row.split == one]) for one in ("train", "val"))
    else:
        train, val = drawn_apart(whole, classes, request.seed, str(table))
    return dataset_of(f"csv:{request.argument}", train, val.named("val"), classes, numbered=numbered)


def _rows_in(table: Path) -> list[Listed]:
    """The images of the table; raises InputError with the line for one that cannot be read, or says half of it."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = list(_rows(table, csv.reader(file, strict=True)))
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        raise InputError(f"{table} is not a readable table ({reason_of(err)}); save it as CSV in UTF-8") from err
    if not rows:
        raise InputError(f"{table} lists no image; it should hold rows such as cats/1.jpg,cat")
    for what in (_LABEL, _SPLIT):
        missing = [row for row in rows if not getattr(row, what)]
        if missing and len(missing) < len(rows):
            raise InputError(f"{table}, line {missing[0].line}: {missing[0].path} has no {what}, others have")
    return rows


def _rows(table: Path, lines: Iterator[list[str]]) -> Iterator[Listed]:
    columns, seen = [_PATH, _LABEL], dict[str, int]()
    for number, cells in enumerate(([cell.strip() for cell in line] for line in lines), start=1):
        if number == 1 and _PATH in (names := [cell.lower() for cell in cells]):
            columns = _known(table, names)
            continue
        if not any(cells):
            continue
        if len(cells) > len(columns):
            raise InputError(
                f"{table}, line {number} has {len(cells)} columns, {len(columns)} are known"
                f" ({','.join(columns)}); the first row may name them: path,label,split"
            )
        said = dict(zip(columns, cells, strict=False))
        path, split = said[_PATH], said.get(_SPLIT, "").lower()
        if not path or split not in {"", *_SPLITS}:
            wrong = f"split {split!r} is none of train, val" if path else "has no path"
            raise InputError(f"{table}, line {number}: {wrong}")
        if path in seen:
            raise InputError(f"{table}, line {number}: {path} stands in line {seen[path]} too; keep one of them")
        seen[path] = number
        yield Listed(number, path, said.get(_LABEL, ""), _SPLITS.get(split, ""))


def _known(table: Path, names: list[str]) -> list[str]:
    """The columns; raises InputError for one that is close to a known name, or there twice: others are passed over."""
    for name in names:
        if name not in _COLUMNS and (hint := did_you_mean(name, _COLUMNS)):
            raise InputError(f"{table}, line 1: unknown column {name!r}{hint}")
        if names.count(name) > 1:
            raise InputError(f"{table}, line 1: column {name!r} stands there twice; keep one of them")
    return names


def _checked(table: Path, row: Listed) -> Path:
    check_is_utf8(row.path)
    path = table.parent / Path(row.path).expanduser()
    if not path.is_file():
        if row.line == 1 and (mark := next((mark for mark in ";\t|" if mark in row.path), None)):
            raise InputError(f"{table} separates its columns by {mark!r}; save it with commas: path,label")
        raise InputError(f"{table}, line {row.line}: {path} {'is no file' if path.exists() else 'does not exist'}")
    return path
