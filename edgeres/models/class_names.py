"""Names of the classes, in the order of the outputs: from a list of the user's, or from what a checkpoint holds.

A list is text, one name a line, or JSON: ["ant", "bee"], {"ant": 0, "bee": 1} (class_to_idx), {"0": "ant", "1": "bee"}.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeres.core.errors import InputError, few_of, reason_of
from edgeres.core.names import plain_name

_NUMBERED = re.compile(r"\d+\s*[,;:\t]\s*\S")  # `0,airplane`, a table and not a name
_KEYS = ("class_to_idx", "idx_to_class", "classes", "class_names")
_MAX_DEPTH = 3


def names_in_list(file: Path, rows: int) -> tuple[str, ...]:
    """The `rows` names in `file`; raises InputError for another number of them, a table, or a name given twice."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as err:
        raise InputError(f"cannot read the class names in {file}: {err}") from err
    if text.lstrip().startswith(("[", "{")):
        names = _names_in_json(text, file)
    else:
        names = tuple(plain_name(line).strip() for line in text.splitlines() if plain_name(line).strip())
        if names and all(map(_NUMBERED.match, names)):
            raise InputError(
                f"{file} is a table ({names[0]!r}, ...); give one name a line, in the order of the outputs"
            )
    if len(names) != rows:
        raise InputError(f"{file} names {len(names)} classes, the classifier has {rows}")
    double, times = Counter(names).most_common(1)[0]
    if times > 1:
        places = [str(place) for place, name in enumerate(names, 1) if name == double]
        raise InputError(
            f"{file} gives the name {double!r} to the classes {few_of(places, 3)};"
            f" data is told apart by these names, so give each its own"
        )
    return names


def names_in_checkpoint(data: Any, depth: int = 0) -> tuple[str, ...]:
    """What a checkpoint says under class_to_idx or a like name, none if it says nothing that numbers them all."""
    if not isinstance(data, Mapping) or depth > _MAX_DEPTH:
        return ()
    for key in _KEYS:
        if names := _numbered(data.get(key)):
            return names
    found = (names_in_checkpoint(value, depth + 1) for key, value in data.items() if isinstance(key, str))
    return next((names for names in found if names), ())


def _names_in_json(text: str, file: Path) -> tuple[str, ...]:
    try:
        names = _numbered(json.loads(text))
    except (ValueError, RecursionError) as err:
        raise InputError(f"{file} is not valid JSON: {reason_of(err, 80)}") from err
    if not names:
        raise InputError(f'{file} names no classes; it should read ["ant", "bee"], {{"ant": 0}} or {{"0": "ant"}}')
    return names


def _numbered(value: Any) -> tuple[str, ...]:
    """Names in order from a list of them, from name -> number or number -> name; none from anything else."""
    pairs: dict[Any, Any]
    if isinstance(value, list | tuple) and all(isinstance(name, str) for name in value):
        pairs = dict(enumerate(value))
    elif isinstance(value, Mapping):
        pairs = {_number(a): b for a, b in value.items()} | {_number(b): a for a, b in value.items()}
        pairs.pop(None, None)
    else:
        return ()
    if sorted(pairs) != list(range(len(pairs))) or not all(isinstance(name, str) for name in pairs.values()):
        return ()
    return tuple(plain_name(pairs[number]).strip() for number in range(len(pairs)))


def _number(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return int(value) if isinstance(value, str) and re.fullmatch(r"\d{1,9}", value) else None
