"""A run of which any file is gone, cut short or overwritten is still reported: what is missing is said."""

import contextlib
import csv
import io
import itertools
import json
import os
import shutil

import numpy as np
import pytest

from edgeres.core.errors import InputError
from edgeres.core.runs import STARTED_NAME, started_text
from edgeres.report.rows import rows_from
from edgeres.report.table import boards_csv_from, boards_table, csv_from, markdown_from, table_from

TOLD_NOWHERE = {"recipe.toml": "no recipe: the run is then told command by command"}


@pytest.fixture
def copy(full_path, tmp_path):
    return shutil.copytree(full_path, tmp_path / "copy")


def files_of(run):
    return sorted(path for path in run.rglob("*") if path.is_file())


def told(run):
    """Everything but the page, and the problems."""
    summary = rows_from(run)
    texts = (markdown_from(summary), csv_from(summary), boards_csv_from(summary))
    table_from(summary)
    boards_table(summary.boards)
    assert all(texts)
    return summary


def halved(content):
    return content[: len(content) // 2]


DAMAGES = {
    "gone": None,
    "cut": halved,
    "noise": lambda content: np.random.default_rng(0).bytes(len(content)),
    "another type": lambda content: b"[1, 2, 3]",
}


def exhaustively(*values):
    return [pytest.param(value, marks=pytest.mark.exhaustive) for value in values]


@pytest.mark.parametrize("damages", [list(DAMAGES), *exhaustively(*([one] for one in DAMAGES))], ids=" by turns ".join)
def test_each_file_damaged_in_turn_is_told_and_the_rest_shown(copy, damages):
    whole = told(copy)
    for path, damage in zip(files_of(copy), itertools.cycle(damages), strict=False):
        content = path.read_bytes()
        if DAMAGES[damage] is None:
            path.unlink()
        else:
            path.write_bytes(DAMAGES[damage](content))
        found = told(copy)
        name = f"{path.parent.name}/{path.name}"
        if damage == "gone" and path.name == "eval.json":
            measured = {row.path for row in found.rows if row.accuracy_missing == "judged on orin"}
            absent = {one.name for one in found.absent if one.what == "accuracy"}
            assert any(path.parent.name in one for one in measured | absent), name
            assert not measured & absent, name
        elif path.name not in TOLD_NOWHERE:
            assert any(path.parent.name in problem for problem in found.problems), name
        assert len(found.rows) >= len(whole.rows) - 1, name
        path.write_bytes(content)
    assert told(copy) == whole


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"n": 5000', '"n": 0'),
        ('"n": 5000', '"n": 12'),
        ('"correct_top1"', '"correct_top0"'),
        ('"size_bytes": ', '"size_bytes": -'),
        ('"macs": ', '"macs": -'),
        ('"params": ', '"params": "'),
        ('"samples_ms": [', '"samples_ms": [-1.0, '),
        ('"samples_ms": [', '"samples_ms": [NaN, '),
        ('"samples_ms": [', '"samples_ms": [1e999, '),
        ('"rounds": [', '"rounds": [99, '),
        ('"dropped": [', '"dropped": ["nothing.7", '),
        ('"path": "', '"path": "../../../'),
        ('"duration_s": ', '"duration_s": -'),
        ('"results": {', '"results": {"skipped": 3, "chosen": 7, "method_of": [], "epochs": "many", '),
        ('"config": {', '"config": {"threads": {}, "recover": 3, "improve": 5, "data": [1], '),
    ],
)
def test_values_that_cannot_be_end_in_no_traceback(copy, old, new):
    changed = 0
    for path in files_of(copy):
        if path.suffix == ".json":
            text = path.read_text()
            path.write_text(text.replace(old, new))
            changed += old in text
    assert changed
    with contextlib.suppress(InputError):  # one line, where nothing is left that can be shown
        told(copy)


def test_an_impossible_accuracy_is_left_out_and_told(copy):
    path = copy / "02-prune/eval.json"
    path.write_text(path.read_text().replace('"n": 5000', '"n": 12'))
    summary = told(copy)
    assert next(row for row in summary.rows if row.name == "02-prune").accuracy is None
    assert "02-prune: its eval report holds an impossible accuracy, left out" in summary.problems


def test_a_latency_without_calls_is_left_out_and_told(copy):
    path = copy / "07-bench/report.json"
    report = json.loads(path.read_text())
    report["latency"][0]["samples_ms"] = []
    path.write_text(json.dumps(report))
    summary = told(copy)
    assert all(row.latency is None for row in summary.rows[:2])
    assert any("07-bench" in problem and "samples_ms" in problem for problem in summary.problems)


def test_an_interrupted_stage_is_told_with_how_it_goes_on(copy):
    folder = copy / "12-prune"
    folder.mkdir()
    (folder / STARTED_NAME).write_text(started_text("prune", "key"))
    problem = told(copy).problems[0]
    assert problem == "12-prune: unfinished (no report.json); it was begun, the same command finishes it there"


def test_every_report_damaged_is_one_line(copy):
    for path in copy.glob("*/report.json"):
        path.write_text("{")
    with pytest.raises(InputError, match="holds no finished stage"):
        rows_from(copy)


def test_files_that_are_folders_are_told(copy):
    for name in ("02-prune/eval.json", "02-prune/model.safetensors", "recipe.toml"):
        (copy / name).unlink()
        (copy / name).mkdir()
    summary = told(copy)
    assert any("02-prune/model.safetensors: the file is gone" in problem for problem in summary.problems)
    assert summary.recipe is None


def test_a_damaged_run_still_makes_a_page(copy):
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    from edgeres.report.stage import page_from

    (copy / "11-board/report.json").write_text("{")
    (copy / "02-prune/model.safetensors").write_bytes(b"")
    (copy / "03-recover/report.json").unlink()
    page = page_from(rows_from(copy))
    for said in ("11-board: report.json is not a readable", "02-prune/model.safetensors", "03-recover: unfinished"):
        assert said in page


def huge(path):
    header = b"{'descr': '<u2', 'fortran_order': False, 'shape': (1000000000000, 2), }"
    path.write_bytes(b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + header.ljust(117) + b"\n")


def archive(path):
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(3))


@pytest.mark.parametrize("damage", [huge, archive, lambda path: path.write_bytes(b""), os.mkfifo])
def test_predictions_of_another_kind_are_damaged_ones(copy, damage):
    path = next(copy.glob("*/eval.npy"))
    path.unlink()
    damage(path)
    assert any("eval.npy is missing or damaged" in problem for problem in told(copy).problems)


def test_the_table_is_text_for_spreadsheets_and_browsers(copy):
    evil = '=HYPERLINK("http://x")<script>alert(1)</script>[a](javascript:x)'
    for path in copy.glob("*/report.json"):
        content = json.loads(path.read_text())
        for latency in content["latency"]:
            latency |= {"machine": evil, "runtime": evil}
        path.write_text(json.dumps(content | {"warnings": [evil]}))
    summary = rows_from(copy)
    assert '=HYPERLINK("' in csv_from(summary).replace('""', '"')
    for row in csv.reader(io.StringIO(csv_from(summary))):
        assert not any(cell.startswith(("=", "+", "@")) for cell in row)
    text = markdown_from(summary)
    assert "&lt;script>" in text
    assert "<script" not in text
    assert "](" not in text
