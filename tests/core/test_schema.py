"""One more field still reads, a later schema_version is refused, and the published schema says so too."""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator

from edgeres.core.config import (
    Config,
    Record,
    config_from,
    json_schema_of,
    record_from_json,
    record_from_text,
    version_of,
)
from edgeres.core.errors import InputError


class Options(Config):
    schema_version: int = 1
    count: int = 0


class Inner(Record):
    value: float


class File(Record):
    schema_version: int = 2
    inner: Inner
    options: Options = Options()


def content(**changes) -> str:
    return json.dumps({"schema_version": 2, "inner": {"value": 1.5}, **changes})


@pytest.mark.parametrize(
    "text",
    [
        content(later=1),
        content(inner={"value": 1.5, "later": 1}),
        content(options={"count": 0, "later": 1}),
        content(schema_version=1),
        '{"inner": {"value": 1.5}}',
    ],
)
def test_a_file_with_more_fields_or_of_an_earlier_version_reads(text):
    assert record_from_text(File, text, "here").inner.value == 1.5


@pytest.mark.parametrize(
    ("text", "where"),
    [(content(schema_version=99), "here"), (content(options={"schema_version": 99}), r"here \(options\)")],
)
def test_a_later_version_is_refused_in_one_line(text, where):
    message = (
        rf"^{where} was written by a later edgeres: schema_version 99, this edgeres reads up to \d; upgrade edgeres"
    )
    with pytest.raises(InputError, match=message) as caught:
        record_from_text(File, text, "here")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", ["99", 0, -1, True, None, 1.5, [1]])
def test_a_version_that_is_none_is_refused(version):
    with pytest.raises(InputError, match=r"here is not a readable File: schema_version must be a whole number"):
        record_from_text(File, content(schema_version=version), "here")


def test_options_of_the_user_stay_strict():
    with pytest.raises(InputError, match="unknown key 'later'"):
        config_from(Options, {"later": 1}, "here")


def test_a_file_in_a_folder_that_is_not_there_says_so(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        record_from_json(File, tmp_path / "gone.json")


def test_the_schema_takes_what_the_reader_takes():
    schema = json_schema_of(File, "file")
    Draft202012Validator.check_schema(schema)
    judge = Draft202012Validator(schema)
    assert judge.is_valid(json.loads(content(later=1, options={"count": 0, "later": 1})))
    assert not judge.is_valid(json.loads(content(schema_version=99)))
    assert not judge.is_valid(json.loads(content(inner={})))
    assert (schema["$id"], version_of(Inner)) == ("edgeres:file:2", None)
