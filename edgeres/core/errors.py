"""Everything edgeres raises on purpose, with the exit code the command line gives it.

EdgeresError            1
├── InputError          2   what the user gave: an option, a file, a data set, a recipe
├── MissingDependency   3   an optional package is not installed; names the extra
├── DeviceError         4   this machine cannot do it: no GPU, wrong architecture, no TensorRT
└── StageError          1   a stage failed although its input was right
"""

from __future__ import annotations

import difflib
import errno
import importlib
from collections.abc import Iterable, Iterator
from typing import Any

_NO_SPACE = ("no space left on device",)
_NO_MEMORY = ("can't allocate memory", "cannot allocate memory", "out of memory", "bad allocation", "bad_alloc")


class EdgeresError(Exception):
    """The root: one line that says what was wrong, the value seen and what to do."""

    exit_code = 1


class InputError(EdgeresError):
    """What the user gave cannot be used."""

    exit_code = 2


class AlwaysRefused(InputError):
    """The same call would be refused again, whatever it has begun."""


class MissingDependency(EdgeresError):
    """An optional package is needed and not installed."""

    exit_code = 3

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(module, extra)

    def __str__(self) -> str:
        return "{} is not installed; install it with: pip install 'edgeres[{}]'".format(*self.args)


class DeviceError(EdgeresError):
    """This machine cannot do what was asked."""

    exit_code = 4


class StageError(EdgeresError):
    """A stage failed on valid input: names the stage, the artifact and the cause."""

    exit_code = 1


def chain_of(err: BaseException) -> Iterator[BaseException]:
    """The error and what it came from, the last first; an error raised again may have come from itself."""
    seen: list[BaseException] = []
    found: BaseException | None = err
    while found is not None and found not in seen:
        seen.append(found)
        yield found
        found = found.__cause__ or found.__context__


def is_out_of_memory(err: BaseException) -> bool:
    """Whether memory ran out, said by Python, the system, torch or ONNX Runtime."""
    return isinstance(err, MemoryError) or _says(err, errno.ENOMEM, _NO_MEMORY)


def is_disk_full(err: BaseException) -> bool:
    """Whether a disk is full, said by Python, safetensors or a process of ours."""
    return _says(err, errno.ENOSPC, _NO_SPACE) or _says(err, errno.EDQUOT, ())


def _says(err: BaseException, number: int, words: Iterable[str]) -> bool:
    text = str(err).lower()
    return (isinstance(err, OSError) and err.errno == number) or any(word in text for word in words)


def reason_of(err: BaseException, most: int = 200) -> str:
    """What a library said, on one line of `most` characters."""
    return " ".join(str(err).split())[:most] or type(err).__name__


def require(module: str, extra: str) -> Any:
    """The imported optional `module`; raises MissingDependency naming the `extra` that brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as err:
        missing = (err.name or module).partition(".")[0]
        raise MissingDependency(missing, extra) from err


def few_of(names: Iterable[str], most: int = 4) -> str:
    """The first of `names`, for a message."""
    known = list(names)
    return ", ".join(known[:most]) + (", ..." if len(known) > most else "")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?` if one of `known` is close to `word`, otherwise an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""
