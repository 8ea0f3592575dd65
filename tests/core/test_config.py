"""Options are strict, files are tolerant, and mistakes are one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from edgeres.core.config import Config, Record, config_from, record_from_json, toml_from
from edgeres.core.errors import InputError


class Options(Config):
    count: int = Field(description="how many")
    names: tuple[str, ...] = ()
    mean: tuple[float, ...] | None = None


class Content(Record):
    value: int


def test_lists_may_be_given_as_text():
    options = config_from(Options, {"count": "3", "names": "a, b", "mean": "0.5,0.25"}, "here")
    assert options == Options(count=3, names=("a", "b"), mean=(0.5, 0.25))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"here: count is needed \(how many\)"),
        ({"count": "many"}, "here: count: .*got 'many'"),
        ({"count": 1, "name": "a"}, "unknown key 'name'; did you mean names"),
        ({"count": 1, "mean": "0.5,inf"}, "mean"),
    ],
)
def test_mistakes_name_the_place_the_key_and_the_value(values, message):
    with pytest.raises(InputError, match=message) as caught:
        config_from(Options, values, "here")
    assert "\n" not in str(caught.value)


def test_a_file_of_a_later_version_with_one_more_field_still_reads(tmp_path: Path):
    path = tmp_path / "content.json"
    path.write_text('{"value": 1, "added_later": true}')
    assert record_from_json(Content, path).value == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"value": "x"}'])
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, text):
    path = tmp_path / "content.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"content\.json is not a readable Content") as caught:
        record_from_json(Content, path)
    assert "\n" not in str(caught.value)


def test_bad_toml_names_the_line(tmp_path: Path):
    path = tmp_path / "recipe.toml"
    path.write_text("a = 1\nb = \n")
    with pytest.raises(InputError, match="line 2"):
        toml_from(path)
