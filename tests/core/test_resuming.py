"""What an interrupted call had made is there for the same call, and for no other."""

import json
import logging

import pytest

from edgeres.core import resuming
from edgeres.core.config import Record
from edgeres.core.resuming import Kept


class Row(Record):
    count: int
    names: tuple[str, ...] = ()


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "rows.json"
    Kept(path, "a", Row).keep("3", Row(count=3, names=("x", "y")))
    return path


def test_the_same_call_finds_what_was_kept(path):
    again = Kept(path, "a", Row)
    assert again.records == {"3": Row(count=3, names=("x", "y"))}
    assert again.reused == 1
    again.keep("4", Row(count=4))
    assert (list(Kept(path, "a", Row).records), again.reused) == (["3", "4"], 1)


def test_another_key_finds_nothing_says_so_and_replaces_the_file(path, caplog):
    with caplog.at_level(logging.INFO, "edgeres"):
        other = Kept(path, "b", Row)
    assert caplog.messages == [f"{path} is of a call that differs; made anew"]
    assert not other.records
    other.keep("1", Row(count=1))
    assert not Kept(path, "a", Row).records
    assert list(Kept(path, "b", Row).records) == ["1"]


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{}", '{"schema_version": 1, "key": "a", "records": {"3": {"count": "x"}}}', b"\xff\xfe"]
)
def test_a_damaged_file_is_made_anew_and_said(path, text, caplog):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert not Kept(path, "a", Row).records
    assert f"{path} is damaged; made anew" in caplog.text


def test_a_file_of_another_version_is_not_used(path):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"schema_version": content["schema_version"] + 1}))
    assert not Kept(path, "a", Row).records


def test_a_file_cut_short_is_made_anew(path):
    path.write_text(path.read_text()[:-20])
    assert Kept(path, "a", Row).reused == 0


def test_floats_come_back_bit_for_bit(tmp_path):
    rows = [(0.1 + 0.2, 1e-300), (1 / 3, 2.0)]
    Kept(tmp_path / "sums.json", "k", list[tuple[float, ...]]).keep("a b", rows)
    assert Kept(tmp_path / "sums.json", "k", list[tuple[float, ...]]).records["a b"] == rows


def test_it_is_on_disk_as_often_as_asked_for(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(resuming.time, "perf_counter", lambda: now[0])
    journal, path = Kept(tmp_path / "n.json", "k", int, every_s=5.0), tmp_path / "n.json"
    now[0] = 1.0
    journal.keep("a", 1)
    assert not path.exists()
    now[0] = 6.0
    journal.keep("b", 2)
    assert json.loads(path.read_text())["records"] == {"a": 1, "b": 2}
    now[0] = 10.0
    journal.keep("c", 3)
    assert "c" not in json.loads(path.read_text())["records"]
    now[0] = 11.0
    journal.keep("d", 4)
    assert list(json.loads(path.read_text())["records"]) == ["a", "b", "c", "d"]


def test_without_a_path_nothing_is_written_and_cleared_the_file_is_gone(path):
    Kept(None, "", Row).keep("1", Row(count=1))
    Kept(path, "a", Row).clear()
    assert list(path.parent.iterdir()) == []
