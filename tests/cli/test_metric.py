"""`edgeres eval --metric`: a figure of the user's own."""

from __future__ import annotations

import json

import pytest

METRICS = """
import numpy as np


def right(outputs, labels):
    assert outputs.dtype == np.float32
    return outputs.argmax(1) == labels


def share(outputs, labels):
    return right(outputs, labels).mean()


def half(outputs, labels):
    return outputs[: len(outputs) // 2].max(1)


def broken(outputs, labels):
    return outputs @ labels[:3]
"""


@pytest.fixture
def run(edgeres, checkpoint_of, spec_of, tmp_path):
    """A run that begins with a checkpoint for digits, and the functions beside it."""
    (tmp_path / "own_metrics.py").write_text(METRICS)
    code, _, err = edgeres("import", checkpoint_of(spec_of()).path)
    assert code == 0, err


@pytest.mark.slow
@pytest.mark.parametrize("function", ["right", "share"])
def test_it_is_shown_and_stands_in_the_table(edgeres, run, function):
    code, out, err = edgeres("eval", "--data", "digits", "--metric", f"own_metrics:{function}", "--json")
    assert code == 0, err
    report = json.loads(out)
    accuracy, metric = report["accuracy"][0], report["metric"]
    assert metric["value"] == pytest.approx(accuracy["correct_top1"] / accuracy["n"])
    assert metric["n"] == accuracy["n"]
    assert (metric["half_width"] is None) == (function == "share")
    code, out, err = edgeres("report")
    assert code == 0, err
    assert f"{function} {metric['value']:.5f}" in " ".join(out.split())


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("half", "returned array(["),
        ("broken", "own_metrics:broken': ValueError:"),
        ("rihgt", "has no function 'rihgt'; did you mean right?"),
    ],
)
def test_what_gives_no_figure_is_refused_in_a_line(edgeres, run, function, said):
    code, _, err = edgeres("eval", "--data", "digits", "--metric", f"own_metrics:{function}")
    assert code == 2
    assert said in err.replace("\n", " ")


def test_no_file_names_it(edgeres, run, tmp_path):
    assert edgeres("eval", "--data", "digits", "--metric", "own_metrics:share")[0] == 0
    code, _, err = edgeres("rerun", "--name", "again")
    assert code in {0, 1}, err
    (again,) = (tmp_path / "runs" / "again").glob("*/eval.json")
    assert "metric" not in json.loads(again.read_text())
    text = 'name = "mine"\n[[stage]]\nuse = "train"\narch = "resnet8"\ndata = "digits"\n[[stage]]\nuse = "eval"\n'
    (tmp_path / "mine.toml").write_text(text + 'data = "digits"\nmetric = "own_metrics:share"\n')
    code, _, err = edgeres("run", "mine.toml", "--dry-run")
    assert (code, "if you trust it, name it yourself: --set eval.metric=own_metrics:share" in err) == (2, True)
    assert edgeres("run", "mine.toml", "--dry-run", "--set", "eval.metric=own_metrics:share")[0] == 0
