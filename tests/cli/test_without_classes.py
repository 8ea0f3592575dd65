"""A network without classes and images without labels, through every stage, as a user types it."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import onnx
import pytest
from PIL import Image

NETS = """
import torch
from torch import nn


class Module(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)

    def forward(self, x):
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


class Net(nn.Module):
    def __init__(self, pools):
        super().__init__()
        self.stem, self.pools = nn.Conv2d(1, 8, 3, padding=1), pools
        self.blocks = nn.Sequential(*(Module() for _ in range(4)))

    def forward(self, x):
        x = self.blocks(torch.relu(self.stem(x)))
        return x.mean((2, 3)) if self.pools else x


def embedding():
    torch.manual_seed(0)
    return Net(True)


def maps():
    torch.manual_seed(0)
    return Net(False)
"""
SAID = {
    "embedding": ("gives an embedding of 8 numbers", "1 - cosine", "hundredths of cosine", "cosine"),
    "maps": ("gives tensors, 8 x 8 x 8", "relative error", "% of relative error", "rel. error"),
}


KINDS = ["maps", pytest.param("embedding", marks=pytest.mark.exhaustive)]


@pytest.fixture
def photos(tmp_path):
    random = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(160):
        base = random.integers(0, 256, (2, 2), np.uint8)
        Image.fromarray(base).resize((8, 8)).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "nets.py").write_text(NETS)
    return f"images:{tmp_path / 'photos'}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["embedding", pytest.param("maps", marks=pytest.mark.exhaustive)])
def test_a_network_without_classes_walks_from_import_to_the_report(edgeres, photos, timed_within, kind, runs_folder):
    told, distance, lost, measure = SAID[kind]

    def done(*command, said=""):
        code, out, err = edgeres(*command)
        assert code == 0, err
        assert said in out
        assert not re.search(r"top-1 \d|\b0\.00 %", out)
        return out

    feed = ("--mean", "0.5", "--std", "0.25", "--fit", "none", "--size", 8)
    done("import", f"nets:{kind}", *feed, said=told)
    done("study", "lesion", "--data", photos, said=f"in {lost} lost")
    done("prune", "--drop", 1, "--data", photos, said=f"chosen together: {distance}")
    done(
        "recover",
        "--method",
        "solve,mimic,distill",
        "--epochs",
        1,
        "--data",
        photos,
        said=f"{distance} + relative",
    )
    done("export")
    done("calibrate", "--data", photos, "--images", 100)
    done("quantize")
    done("qat", "--data", photos, "--epochs", 1, "--lr", 1e-3, said=f"{distance} from float on")
    walk = runs_folder / "latest"
    for path in sorted(walk.glob("*/model*")):
        done("eval", path, "--data", photos, said="what later networks" if "00-import" in str(path) else measure)
    files = [next(walk.glob(f"*-{stage}/model*.onnx")) for stage in ("export", "quantize")]
    done("agree", *files, "--data", photos, said=f"B to A: {measure}")
    done("bench", "--rounds", 2, "--seconds", 0.2, "--samples", 4)
    table = done("report", said="Closeness")
    assert "not evaluated" not in table
    page = (walk / "report.html").read_text()
    assert "to the network it comes from" in page
    assert "Top-1 %" not in page
    code, out, _ = edgeres("gate", "--max-loss", 1, "--max-size", "2MB", walk)
    assert code == 1
    assert "gives no classes or was given no labels, so no answer is right" in out
    assert "--min-closeness" in out
    assert "pass  --max-size 2MB" in out
    done("compare", walk, walk, said="to the network each comes from")
    rows = list(csv.DictReader((walk / "report.csv").read_text().splitlines()))
    assert float(rows[0]["closeness_mean"]) == (1 if kind == "embedding" else 0)
    assert all(row["top1"] == "" for row in rows)
    found = json.loads((walk / "report.json").read_text())
    assert [row["closeness"]["n"] for row in found["rows"]] == [found["rows"][0]["closeness"]["n"]] * len(rows)


def test_outside_a_run_eval_asks_for_the_network_it_comes_from(edgeres, photos, tmp_path):
    feed = ("--mean", "0.5", "--std", "0.25", "--fit", "none", "--size", 8)
    assert edgeres("import", "nets:embedding", *feed, "-o", "whole.safetensors")[0] == 0
    code, _, err = edgeres("eval", "whole.safetensors", "--data", photos)
    assert code == 2
    assert "whole.safetensors is judged by another network, it gives an embedding of 8 numbers: --reference FILE" in err
    assert edgeres("prune", "whole.safetensors", "--modules", "blocks.1", "-o", "short.safetensors")[0] == 0
    code, out, _ = edgeres("eval", "short.safetensors", "--reference", "whole.safetensors", "--data", photos)
    assert code == 0
    assert out.startswith("cosine 0.9")
    for file in ("whole", "short"):  # as files of another tool, which say nothing of themselves
        assert edgeres("export", f"{file}.safetensors", "-o", f"{file}.onnx")[0] == 0
        model = onnx.load(f"{file}.onnx")
        del model.metadata_props[:]
        onnx.save(model, f"{file}.onnx")
    code, out, err = edgeres("eval", "short.onnx", "--reference", "whole.onnx", "--data", photos, *feed[:-2])
    assert code == 0, err
    assert out.startswith("cosine 0.9")
    assert "its file names no classes" not in err
    code, _, err = edgeres("prune", "whole.safetensors", "--drop", 1, "--recover", "finetune", "--data", photos)
    assert code == 2
    assert "--recover finetune is for networks that give scores of classes; embedding gives an embedding of 8" in err


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_go_as_cost_no_more_than_asked_in_the_networks_own_unit(
    edgeres, photos, kind, monkeypatch, runs_folder
):
    monkeypatch.setattr("edgeres.prune.max_loss._FEWEST_IMAGES", 50)
    feed = ("--mean", "0.5", "--std", "0.25", "--fit", "none", "--size", 8)
    assert edgeres("import", f"nets:{kind}", *feed)[0] == 0
    lost = SAID[kind][2]
    data = ("--data", photos, "--images", 60)
    code, out, err = edgeres("prune", "--max-loss", 99, *data)
    assert code == 0, err
    report = json.loads(next((runs_folder / "latest").glob("*-prune/report.json")).read_text())
    tries = {one["count"]: one for one in report["results"]["tries"]}
    assert 0 < tries[1]["lost_points"] < tries[2]["lost_points"]
    assert 0 < tries[1]["half_width_points"] < tries[1]["lost_points"]
    assert f" ± {tries[2]['half_width_points']:.2f} {lost} on " in out or len(report["results"]["chosen"]) != 2
    assert report["results"]["lost_are"] == lost
    whole = next((runs_folder / "latest").glob("*-import/model.safetensors"))
    code, _, err = edgeres("prune", whole, "--max-loss", 0.001, *data)
    assert code == 2
    assert f"{lost} (" in err


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_sweep_tells_what_is_lost_in_the_networks_own_unit(edgeres, photos, timed_within, kind, runs_folder):
    feed = ("--mean", "0.5", "--std", "0.25", "--fit", "none", "--size", 8)
    assert edgeres("import", f"nets:{kind}", *feed)[0] == 0
    how = ("--recover", "mimic", "--epochs", 1, "--images", 60)
    code, out, err = edgeres("prune", "--sweep", "1..2", *how, "--data", photos)
    assert code == 0, err
    assert f"lost, {SAID[kind][2]}" in out
    folder = next((runs_folder / "latest").glob("*-sweep"))
    rows = json.loads((folder / "sweep.json").read_text())["rows"]
    assert [row["bare"]["accuracy"] for row in rows] == [None] * 3
    assert rows[0]["bare"]["change_points"] == 0 > rows[1]["bare"]["change_points"] > rows[2]["bare"]["change_points"]
    near = rows[1]["bare"]["closeness"]
    assert -rows[1]["bare"]["change_points"] == pytest.approx(
        100 * (near["mean"] if kind == "maps" else 1 - near["mean"])
    )
    table = list(csv.DictReader((folder / "sweep.csv").read_text().splitlines()))
    assert float(table[0]["closeness"]) == pytest.approx(1)
    assert edgeres("report")[0] == 0
    page = (runs_folder / "latest" / "report.html").read_text()
    assert f"Lost, {SAID[kind][2]}" in page
    assert edgeres("show", folder / "sweep.json")[0] == 0
