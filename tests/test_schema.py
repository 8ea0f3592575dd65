"""The published JSON Schemas against what edgeres really writes, and against files kept from their first version.

tests/stored holds one file of each schema as it was first written: they must read for as long as the version is theirs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from edgeres.core.artifacts import Checkpoint, OnnxModel
from edgeres.core.config import record_from_json, record_from_text, version_of
from edgeres.core.errors import InputError
from edgeres.core.spec import Preprocess
from edgeres.pipeline.show import SCHEMAS, schema_in, schema_named

STORED = Path(__file__).parent / "stored"
GREY = Preprocess(mean=(0.3,), std=(0.4,))


def problems(name: str, content: Any) -> list[str]:
    return [error.message for error in Draft202012Validator(schema_named(name)).iter_errors(content)]


def with_more_fields(record: BaseModel) -> Any:
    """`record` as JSON has it, with one unknown field in every part that has fields of its own."""

    def grown(value: Any, plain: Any) -> Any:
        if isinstance(value, BaseModel):
            return {"added_later": [1], **{name: grown(getattr(value, name), plain[name]) for name in plain}}
        if isinstance(value, tuple):
            return [grown(*pair) for pair in zip(value, plain, strict=True)]
        if isinstance(value, dict):
            return {name: grown(one, plain[name]) for name, one in value.items()}
        return plain

    return grown(record, record.model_dump(mode="json"))


@pytest.fixture(scope="module")
def run(run_of, tmp_path_factory) -> Path:
    return run_of(tmp_path_factory.mktemp("schema"), {"use": "eval"}, {"use": "report"})


def test_what_a_run_writes_is_as_published(run):
    seen = set()
    for path in run.rglob("*.json"):
        content = json.loads(path.read_text())
        name = schema_in(content)
        assert name is not None, path
        assert problems(name, content) == []
        assert content["schema_version"] == version_of(SCHEMAS[name].kind())
        seen.add(name)
    assert seen >= {"stage-report", "run-report", "lesions", "scales"}


def test_the_cards_in_the_files_of_a_run_are_as_published(run):
    models = [*map(Checkpoint, run.rglob("*.safetensors")), *map(OnnxModel, run.rglob("*.onnx"))]
    assert len(models) == 4
    for model in models:
        assert problems("card", model.card.model_dump(mode="json")) == []


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_file_kept_from_the_first_version_reads_and_is_as_published(name):
    path = STORED / f"{name}.json"
    assert problems(name, json.loads(path.read_text())) == []
    record_from_json(SCHEMAS[name].kind(), path)


@pytest.mark.parametrize("name", SCHEMAS)
def test_fields_added_later_anywhere_change_nothing_that_is_read(name):
    kind = SCHEMAS[name].kind()
    now = record_from_json(kind, STORED / f"{name}.json")
    later = with_more_fields(now)
    assert "added_later" in later
    assert record_from_text(kind, json.dumps(later), "later.json") == now
    assert problems(name, later) == []


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_file_of_a_later_version_is_refused_in_one_line(name):
    content = json.loads((STORED / f"{name}.json").read_text()) | {"schema_version": 99}
    with pytest.raises(InputError, match=r"later\.json was written by a later edgeres: schema_version 99") as caught:
        record_from_text(SCHEMAS[name].kind(), json.dumps(content), "later.json")
    assert "\n" not in str(caught.value)
    assert problems(name, content) != []


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_published_schema_is_a_schema_with_a_version(name):
    Draft202012Validator.check_schema(schema_named(name))
    assert version_of(SCHEMAS[name].kind()) is not None


def test_an_unknown_schema_lists_those_there_are():
    with pytest.raises(InputError, match="unknown schema 'scale'; did you mean scales"):
        schema_named("scale")
