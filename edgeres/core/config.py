"""The base of every stage's options (`Config`) and of every file edgeres writes (`Record`).

A `Config` is strict: an unknown key is a typing error of the user. A `Record` is tolerant: a file written by a later
version with one more field still reads.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from edgeres.core.errors import InputError, did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

C = TypeVar("C", bound="Config")
R = TypeVar("R", bound="Record")


class Config(BaseModel):
    """Frozen options of one stage; defaults live here and nowhere else. Lists may be given as "a,b"."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    incidental: ClassVar[frozenset[str]] = frozenset({"download"})  # options that change nothing in the result

    def check(self) -> None:
        """Raises InputError for what can be seen to be wrong before anything runs, beyond single values."""

    @model_validator(mode="before")
    @classmethod
    def _split_lists(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {
            name: [part.strip() for part in value.split(",") if part.strip()]
            if isinstance(value, str) and name in cls.model_fields and _is_list(cls.model_fields[name].annotation)
            else value
            for name, value in values.items()
        }


class Record(BaseModel):
    """Frozen content of one JSON file."""

    model_config = ConfigDict(frozen=True, extra="ignore")


def config_from(kind: type[C], values: dict[str, Any], where: str, *, as_options: bool = False) -> C:
    """`kind` built from `values`; raises InputError with one line that names `where`, the key and the value.

    With `as_options` a key is shown as the user typed it: `target_latency` as --target-latency.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as err:
        raise InputError(f"{where}: {_first_problem(err, kind, as_options=as_options)}") from err


def record_from_json(kind: type[R], path: Path) -> R:
    """The `kind` stored in the JSON file `path`; raises InputError if it is absent, damaged or something else."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError as err:
        raise InputError(f"{path} does not exist") from err
    except OSError as err:
        raise InputError(f"cannot read {path}: {err.strerror}") from err
    except ValidationError as err:
        raise InputError(f"{path} is not a readable {kind.__name__}: {_first_problem(err, kind)}") from err


def toml_from(path: Path) -> dict[str, Any]:
    """The parsed TOML file; raises InputError with the line of the mistake."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise InputError(f"{path} is not valid TOML: {err}") from err
    except OSError as err:
        raise InputError(f"cannot read {path}: {err.strerror}") from err


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) is tuple or any(get_origin(part) is tuple for part in get_args(annotation))


def _first_problem(err: ValidationError, kind: type[BaseModel], *, as_options: bool = False) -> str:
    problem = err.errors(include_url=False)[0]
    key = ".".join(str(part) for part in problem["loc"])
    shown = f"--{str(problem['loc'][0]).replace('_', '-')}" if as_options and key else key
    if problem["type"] == "extra_forbidden":
        known = sorted(kind.model_fields)
        return f"unknown key {key!r}{did_you_mean(key, known)} (known: {', '.join(known)})"
    if problem["type"] == "missing" and key in kind.model_fields:
        described = kind.model_fields[key].description
        return f"{shown} is needed" + (f" ({described})" if described else "")
    message = re.sub(r"^Value error, ", "", problem["msg"])
    if not key:
        return message
    seen = "" if problem["type"] in {"missing", "json_invalid"} else f", got {problem['input']!r}"
    return f"{shown}: {message}{seen}"
