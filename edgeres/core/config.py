"""The base of every stage's options (`Config`) and of every file edgeres writes (`Record`).

A `Config` is strict: an unknown key is a typing error of the user. A `Record` is tolerant, and so is a `Config` inside
a file: what a later version wrote with one more field still reads.

A field may be added under the same `schema_version`: who reads must pass over what it does not know. What a field
means changes with a new version only, and a file of a later version than known is refused; the version is its default.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from edgeres.core.errors import InputError, did_you_mean
from edgeres.core.files import reading
from edgeres.core.names import canonical_data_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

C = TypeVar("C", bound="Config")
R = TypeVar("R", bound=BaseModel)
NOT_SET: tuple[Any, ...] = (None, [], "")
_MOST_INT, _MOST_FLOAT, _LEAST_FLOAT = 2**32 - 1, 10**9, 1e-12
_MOST_OF = {
    "threads": 1024,
    "batch": 2**16,
    "width": 2**16,
    "image_size": 2**16,
    "size": 2**16,
    "resize": 2**16,
    "workspace_mib": 2**24,
}
_FROM_FILE = "from a file"
_LATER = "later_schema"  # pydantic's type of the refusal
_VERSION_FIELD = "schema_version"
_DRAFT = "https://json-schema.org/draft/2020-12/schema"


class Config(BaseModel):
    """Frozen options of one stage; defaults live here and nowhere else.

    Lists may be given as "a,b"; the name of a data set is kept as it is called in every report.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    incidental: ClassVar[frozenset[str]] = frozenset({"download"})  # options that change nothing in the result
    unsaid: ClassVar[frozenset[str]] = frozenset()  # options that stand in no key and no report where they are None
    gone: ClassVar[dict[str, Any]] = {}  # options that earlier versions recorded -> what is done now without asking

    def __init__(self, **options: Any) -> None:
        """Raises InputError with one line for an option that does not exist, or cannot have that value."""
        try:
            super().__init__(**options)
        except ValidationError as err:
            raise InputError(f"{type(self).__name__}: {first_problem(err, type(self))}") from err

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]  # what is read from files does not come here

    def check(self) -> None:
        """Raises InputError for what can be seen to be wrong before anything runs, beyond single values."""

    def needless(self) -> dict[str, str]:
        """Options that change nothing as the others are -> what they would need; the user's own are refused."""
        return {}

    def needless_of(self, source: object) -> Iterable[str]:
        """The same for this source: options that stand in no report, so that its command can be typed again."""
        return self.needless()

    def counted(self) -> dict[str, Any]:
        """The options that count: all but those of `unsaid` that were not given."""
        return {name: value for name, value in self if value is not None or name not in self.unsaid}

    @model_validator(mode="before")
    @classmethod
    def _prepared(cls, values: Any, info: ValidationInfo) -> Any:
        if not isinstance(values, dict):
            return values
        _refuse_later(cls, values)
        is_file = info.context == _FROM_FILE
        return {
            name: [part.strip() for part in value.split(",") if part.strip()]
            if isinstance(value, str) and name in cls.model_fields and _is_list(cls.model_fields[name].annotation)
            else canonical_data_name(value)
            if name == "data" and isinstance(value, str) and not is_file
            else value
            for name, value in values.items()
            if name in cls.model_fields or not is_file
        }


class Record(BaseModel):
    """Frozen content of one JSON file."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _of_known_version(cls, values: Any) -> Any:
        _refuse_later(cls, values)
        return values


def read_by(reader: Callable[[str], object], name: str) -> Any:
    """A validator of the field `name`, None or text that `reader` can read: it raises InputError for any other."""

    def read(text: str | None) -> str | None:
        if text is not None:
            reader(text)
        return text

    return field_validator(name)(read)


def unless_usual(*names: str) -> Any:
    """A serializer that leaves out those of the fields `names` that are as by default: earlier files had none."""

    def written(self: BaseModel, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        usual = [name for name in names if getattr(self, name) == fields[name].get_default(call_default_factory=True)]
        return {name: value for name, value in write(self).items() if name not in usual}

    return model_serializer(mode="wrap")(written)


def version_of(kind: type[BaseModel]) -> int | None:
    """The schema_version that files of `kind` are written with; None if it is no file of its own."""
    field = kind.model_fields.get(_VERSION_FIELD)
    return None if field is None else int(field.default)


def _refuse_later(kind: type[BaseModel], values: Any) -> None:
    """Raises PydanticCustomError for content of a later schema_version than `kind` has, or of one that is none."""
    known = version_of(kind)
    if known is None or not isinstance(values, dict) or _VERSION_FIELD not in values:
        return
    seen = values[_VERSION_FIELD]
    if isinstance(seen, bool) or not isinstance(seen, int) or seen < 1:
        raise PydanticCustomError(
            "no_schema", "schema_version must be a whole number from 1, got {seen}", {"seen": seen}
        )
    if seen > known:
        context = {"seen": seen, "known": known}
        raise PydanticCustomError(_LATER, "schema_version {seen}, this edgeres reads up to {known}", context)


def config_from(kind: type[C], values: dict[str, Any], where: str, *, as_options: bool = False) -> C:
    """`kind` built from `values`; raises InputError with one line that names `where`, the key and the value.

    With `as_options` a key is shown as the user typed it: `target_latency` as --target-latency.
    """
    try:
        config = kind.model_validate(values)
    except ValidationError as err:
        raise InputError(f"{where}: {first_problem(err, kind, as_options=as_options)}") from err
    except InputError as err:  # of `read_by`
        raise InputError(f"{where}: {err}") from err
    for name, value in config:
        if problem := _problem_of(kind, name, value):
            shown = f"--{name.replace('_', '-')}" if as_options else name
            raise InputError(f"{where}: {shown}: {problem}")
    return config


def _problem_of(kind: type[BaseModel], name: str, value: Any) -> str:
    """What no type of a field says: a number that is too large, or what a list of options has twice.

    Options are the fields that are described. Numbers with fractions may be equal, as the mean of each channel.
    """
    values = value if isinstance(value, tuple) else (value,)
    for one in values:
        if isinstance(one, (int, float)) and (bounds := _outside(name, one)):
            return f"{bounds}, got {one}"
        if not isinstance(one, float) and values.count(one) > 1 and kind.model_fields[name].description:
            return f"names {one} twice; once is enough"
    return ""


def _outside(name: str, number: float) -> str:
    """What a number of this name may be, if it is not: beyond it libraries abort, or overflow."""
    most = _MOST_OF.get(name, _MOST_FLOAT if isinstance(number, float) else _MOST_INT)
    if abs(number) > most:
        return f"at most {most:,}"
    return f"at least {_LEAST_FLOAT:g}, or 0" if 0 < abs(number) < _LEAST_FLOAT else ""


def record_from_json(kind: type[R], path: Path) -> R:
    """The `kind` stored in the JSON file `path`; raises InputError if it is absent, damaged or something else."""
    return record_from_text(kind, bytes_in(path), str(path))


def bytes_in(path: Path) -> bytes:
    """What the file holds; raises InputError if it is absent or cannot be read."""
    with reading(path):
        return path.read_bytes()


def record_from_text(kind: type[R], text: bytes | str, where: str) -> R:
    """The `kind` in the JSON `text`, `where` it stands; raises InputError if it is damaged or of a later version."""
    try:
        return kind.model_validate_json(text, context=_FROM_FILE)
    except ValidationError as err:
        first = err.errors(include_url=False)[0]
        if first["type"] == _LATER:
            part = f" ({'.'.join(map(str, first['loc']))})" if first["loc"] else ""
            advice = "upgrade edgeres, or make the file again with this one"
            raise InputError(f"{where}{part} was written by a later edgeres: {first['msg']}; {advice}") from err
        raise InputError(f"{where} is not a readable {kind.__name__}: {first_problem(err, kind)}") from err


def refuse_needless(config: Config, given: Iterable[str], where: str) -> None:
    """Raises InputError for the first of the options the user gave that changes nothing as the others are."""
    for name, reason in config.needless().items():
        if name in given:
            raise InputError(f"{where}: --{name.replace('_', '-')} changes nothing here, {reason}; leave it out")


def refuse(options: Iterable[str], why: str) -> None:
    """Raises InputError for the first of `options`, fields that the user gave as --options, if there is one."""
    for name in sorted(options):
        raise InputError(f"--{name.replace('_', '-')} {why}")


def command_with(command: str, config: Config, **changes: Any) -> str:
    """`command` with the options of `config` that are not the defaults, some of them changed, as they are typed."""
    options = {**config.model_dump(mode="json", exclude_defaults=True), **changes}
    return " ".join([command, *words_of(options)])


def words_of(options: Mapping[str, Any]) -> Iterator[str]:
    """`--option value`, as it is typed; what is not set is left out."""
    for name, value in options.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{option}" if value else f"--no-{option}"
        elif isinstance(value, list) and value:
            yield f"--{option} {shlex.quote(','.join(map(str, value)))}"
        elif value not in NOT_SET:
            yield f"--{option} {shlex.quote(str(value))}"


def toml_from(path: Path) -> dict[str, Any]:
    """The parsed TOML file; raises InputError with the line of the mistake."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as err:
        raise InputError(f"{path} is not valid TOML: {err}") from err
    except OSError as err:
        raise InputError(f"cannot read {path}: {err.strerror}") from err


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) is tuple or any(get_origin(part) is tuple for part in get_args(annotation))


def _holder(kind: type[BaseModel], place: Sequence[int | str]) -> type[BaseModel]:
    """Whose key the last of `place` is."""
    for name in place[:-1]:
        if name in kind.model_fields:
            annotation = kind.model_fields[str(name)].annotation
            inner = (one for one in (annotation, *get_args(annotation)) if isinstance(one, type))
            kind = next((one for one in inner if issubclass(one, BaseModel)), kind)
    return kind


def first_problem(err: ValidationError, kind: type[BaseModel], *, as_options: bool = False) -> str:
    """In words, with the key and the value seen; an unknown key first, it may be the one that is missing."""
    problem = min(err.errors(include_url=False), key=lambda one: one["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in problem["loc"])
    shown = f"--{str(problem['loc'][0]).replace('_', '-')}" if as_options and key else key
    if problem["type"] == "extra_forbidden":
        known = sorted(_holder(kind, problem["loc"]).model_fields)
        return f"unknown key {key!r}{did_you_mean(str(problem['loc'][-1]), known)} (known: {', '.join(known)})"
    if problem["type"] == "missing" and key in kind.model_fields:
        described = kind.model_fields[key].description
        return f"{shown} is needed" + (f" ({described})" if described else "")
    if problem["type"] == "too_short":
        return f"{shown} is empty; give at least {problem['ctx']['min_length']}"
    message = re.sub(r"^Value error, ", "", problem["msg"])
    if not key:
        return message
    seen = "" if problem["type"] in {"missing", "json_invalid"} else f", got {problem['input']!r}"
    return f"{shown}: {message}{seen}"


def json_schema_of(kind: type[BaseModel], name: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of files of `kind`, open to fields that come later."""
    schema = kind.model_json_schema()
    _open(schema)
    version = version_of(kind)
    if version is not None:
        schema["properties"][_VERSION_FIELD] = {"const": version}
        schema["required"] = [_VERSION_FIELD, *schema.get("required", [])]
    return {"$schema": _DRAFT, "$id": f"edgeres:{name}:{version}", **schema}


def _open(part: Any) -> None:
    """Lets every object have more fields; descriptions are unwrapped."""
    if isinstance(part, dict):
        if isinstance(text := part.get("description"), str):
            part["description"] = " ".join(text.split())
        if part.get("additionalProperties") is False:
            del part["additionalProperties"]
        for value in part.values():
            _open(value)
    elif isinstance(part, list):
        for value in part:
            _open(value)
