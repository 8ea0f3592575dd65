"""Names in tables, and what data sets are called."""

from __future__ import annotations

import sys

import pytest

from edgeres.core.config import Config, config_from, record_from_text
from edgeres.core.errors import MissingDependency
from edgeres.core.names import canonical_data_name, resolve


@pytest.mark.parametrize(
    ("given", "called"),
    [
        ("folder:photos/", "folder:{here}/photos"),
        ("folder:./photos", "folder:{here}/photos"),
        ("folder:linked/../photos", "folder:{here}/photos"),
        ("folder:linked", "folder:{here}/photos"),
        ("folder:~/photos", "folder:{here}/photos"),
        ("folder:~nobody-of-this-name/photos", "folder:{here}/~nobody-of-this-name/photos"),
        ("folder:/data//photos/", "folder:/data/photos"),
        ("folder:a\0b", "folder:a\0b"),
        ("folder:", "folder:"),
        ("digits", "digits"),
        ("my.package:function", "my.package:function"),
    ],
)
def test_a_folder_is_called_the_same_however_it_is_typed(given, called, tmp_path, monkeypatch):
    here = tmp_path.resolve()
    monkeypatch.setenv("HOME", str(here))
    (here / "photos").mkdir()
    (here / "linked").symlink_to("photos")
    assert canonical_data_name(given) == called.format(here=here)


def test_options_keep_a_folder_by_the_name_that_leads_to_it_from_anywhere(tmp_path):
    class Options(Config):
        data: str | None = None

    whole = f"folder:{tmp_path.resolve()}/photos"
    assert Options(data="folder:photos").data == whole
    assert config_from(Options, {"data": "folder:./photos/"}, "eval").data == whole
    assert record_from_text(Options, '{"data": "folder:photos"}', "a file made elsewhere").data == "folder:photos"


@pytest.mark.parametrize(("missing", "extra"), [("torch", "train"), ("onnx", "onnx")])
def test_a_module_that_needs_what_is_not_installed_names_the_extra(missing, extra, tmp_path, monkeypatch):
    (tmp_path / "needs_more.py").write_text(f"import {missing}\n\nfound = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingDependency, match=rf"{missing} is not installed.*edgeres\[{extra}\]"):
        resolve("needs_more:found")
