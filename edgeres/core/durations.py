"""Lengths of time as people write them: "90s", "3m", "1h30m"."""

from __future__ import annotations

import re

from edgeres.core.errors import InputError

_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}
_PART = r"(?:(\d+(?:\.\d+)?){unit})?"
_WHOLE = re.compile("".join(_PART.format(unit=unit) for unit in _SECONDS))


def seconds_from(text: str) -> float:
    """The seconds `text` stands for; raises InputError unless it is a positive length like "90s", "3m" or "1h30m"."""
    match = _WHOLE.fullmatch("".join(text.lower().split()))
    amounts = match.groups() if match else ()
    seconds = sum(float(amount or 0) * unit for amount, unit in zip(amounts, _SECONDS.values(), strict=False))
    if seconds <= 0:
        raise InputError(f"{text!r} is no length of time; write it as 90s, 3m or 1h30m")
    return seconds


def text_from(seconds: float) -> str:
    """The shortest of the forms `seconds_from` reads, rounded to whole seconds up to an hour and to minutes above."""
    whole = max(1, round(seconds))
    if whole < _SECONDS["m"]:
        return f"{whole}s"
    if whole < _SECONDS["h"]:
        minutes, rest = divmod(whole, 60)
        return f"{minutes}m{rest}s" if rest else f"{minutes}m"
    hours, minutes = divmod(round(whole / 60), 60)
    return f"{hours}h{minutes}m" if minutes else f"{hours}h"
