"""The contract of every JSON file: `schema_version`, and the JSON Schema it stands for.

A field may be added under the same version: who reads must pass over what it does not know. What a field means changes
with a new version only, and a file of a later version than known is refused. `schema_version` is the field's default.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticCustomError

LATER = "later_schema"  # pydantic's type of the refusal
VERSION_FIELD = "schema_version"
_DRAFT = "https://json-schema.org/draft/2020-12/schema"


def version_of(kind: type[BaseModel]) -> int | None:
    """The schema_version that files of `kind` are written with; None if it is no file of its own."""
    field = kind.model_fields.get(VERSION_FIELD)
    return None if field is None else int(field.default)


def refuse_later(kind: type[BaseModel], values: Any) -> None:
    """Refuses content of a later schema_version than `kind` has, or of one that is none.

    Raises PydanticCustomError, for a later one of type LATER.
    """
    known = version_of(kind)
    if known is None or not isinstance(values, dict) or VERSION_FIELD not in values:
        return
    seen = values[VERSION_FIELD]
    if isinstance(seen, bool) or not isinstance(seen, int) or seen < 1:
        raise PydanticCustomError(
            "no_schema", "schema_version must be a whole number from 1, got {seen}", {"seen": seen}
        )
    if seen > known:
        context = {"seen": seen, "known": known}
        raise PydanticCustomError(LATER, "schema_version {seen}, this edgeres reads up to {known}", context)


def json_schema_of(kind: type[BaseModel], name: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of files of `kind`, open to fields that come later."""
    schema = kind.model_json_schema()
    _open(schema)
    version = version_of(kind)
    if version is not None:
        schema["properties"][VERSION_FIELD] = {"const": version}
        schema["required"] = [VERSION_FIELD, *schema.get("required", [])]
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
