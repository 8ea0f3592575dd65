"""Options are strict, files are tolerant, and mistakes are one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from edgeres.core.config import (
    Config,
    Record,
    config_from,
    record_from_json,
    refuse_needless,
    toml_from,
)
from edgeres.core.errors import InputError


class Options(Config):
    count: int = Field(description="how many")
    names: tuple[str, ...] = ()
    mean: tuple[float, ...] | None = None


class Needy(Config):
    names: tuple[str, ...] = Field(("a",), min_length=1)
    cache: bool = False
    cache_size: int = 3

    def needless(self):
        return {} if self.cache else {"cache_size": "it is the size of --cache"}


class Lists(Config):
    sizes: tuple[int, ...] = Field((), description="of batches")
    names: tuple[str, ...] = Field((), description="of modules")
    mean: tuple[float, ...] = Field((), description="per channel")
    classes: tuple[str, ...] = ()  # no option: it is not described


class Numbers(Config):
    count: int
    threads: int | None = None
    rates: tuple[float, ...] = ()


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


def test_an_empty_list_is_refused_in_plain_words():
    with pytest.raises(InputError, match=r"^here: --names is empty; give at least 1$"):
        config_from(Needy, {"names": ""}, "here", as_options=True)


@pytest.mark.parametrize("as_options", [True, False])
def test_what_a_list_of_options_has_twice_is_refused_and_equal_fractions_are_not(as_options):
    where = r"here: --sizes" if as_options else "here: sizes"
    with pytest.raises(InputError, match=f"^{where}: names 8 twice; once is enough$"):
        config_from(Lists, {"sizes": "8,1,8"}, "here", as_options=as_options)
    with pytest.raises(InputError, match="names a twice"):
        config_from(Lists, {"names": "a, b,a"}, "here", as_options=as_options)
    config_from(Lists, {"mean": "0.5,0.5", "classes": ("crane", "crane")}, "here", as_options=as_options)


def test_an_option_that_changes_nothing_is_refused_only_if_the_user_gave_it():
    refuse_needless(Needy(), ["names"], "here")
    refuse_needless(Needy(cache=True), ["cache_size"], "here")
    with pytest.raises(InputError, match="here: --cache-size changes nothing here, it is the size of --cache"):
        refuse_needless(Needy(), ["cache_size"], "here")


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


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 10**20}, "--count: at most 4,294,967,295, got 100000000000000000000"),
        ({"count": 1, "threads": 10**9}, "--threads: at most 1,024, got 1000000000"),
        ({"count": 1, "rates": "0.5,1e308"}, "--rates: at most 1,000,000,000, got 1e\\+308"),
        ({"count": 1, "rates": "1e-308"}, "--rates: at least 1e-12, or 0, got 1e-308"),
    ],
)
def test_numbers_that_break_libraries_are_out_of_range(values, message):
    with pytest.raises(InputError, match=message):
        config_from(Numbers, values, "here", as_options=True)
    assert config_from(Numbers, {"count": 2**32 - 1, "rates": "0,-1"}, "here").rates == (0, -1)


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "a = " + "1" * 5000, "a ="], ids=["deep", "long", "cut"])
def test_toml_that_cannot_be_read_is_one_line(tmp_path, text):
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(InputError, match=r"x\.toml is not valid TOML: "):
        toml_from(tmp_path / "x.toml")
