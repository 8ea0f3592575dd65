"""A feature pyramid and images without labels, through every stage, as a user types it."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

NETS = """
import torch
from torch import nn


def conv(a, b, size=3, stride=1):
    return nn.Sequential(nn.Conv2d(a, b, size, stride, size // 2, bias=False), nn.BatchNorm2d(b))


class Block(nn.Module):
    def __init__(self, a, b, stride=1):
        super().__init__()
        self.one, self.two = conv(a, b, 3, stride), conv(b, b)
        self.down = conv(a, b, 1, stride) if a != b else nn.Identity()

    def forward(self, x):
        return torch.relu(self.down(x) + self.two(torch.relu(self.one(x))))


class Pyramid(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = conv(3, 8)
        widths = ((8, 8, 1), (8, 16, 2), (16, 32, 2))
        self.stages = nn.ModuleList(nn.Sequential(Block(a, b, s), Block(b, b)) for a, b, s in widths)
        self.side = nn.ModuleList(nn.Conv2d(b, 4, 1) for _, b, _ in widths)
        self.out = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in widths)

    def forward(self, x):
        x, sides = torch.relu(self.stem(x)), []
        for stage, side in zip(self.stages, self.side):
            x = stage(x)
            sides.append(side(x))
        found, inner = {}, None
        for at in (2, 1, 0):
            inner = sides[at] if inner is None else sides[at] + nn.functional.interpolate(inner, scale_factor=2.0)
            found[f"p{at + 3}"] = self.out[at](inner)
        return {**found, "p4": found["p4"] * 1e-3}  # of small numbers, as the scores of a detector are beside its boxes


def pyramid():
    torch.manual_seed(0)
    return Pyramid()


if __name__ == "__main__":
    names = {"input_names": ["x"], "output_names": ["p5", "p4", "p3"], "dynamo": False}
    torch.onnx.export(pyramid().eval(), (torch.zeros(1, 3, 16, 16),), "net.onnx", **names)
"""
FEED = ("--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25", "--fit", "none")
PARTS = ("p5", "p4", "p3")


@pytest.fixture
def photos(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(160):
        base = random.integers(0, 256, (3, 3, 3), np.uint8)
        Image.fromarray(base).resize((16, 16)).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "pyramids.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    return f"images:{tmp_path / 'photos'}"


def images_of(split):
    """Read by hand: pixels in [0, 1], less 0.5, over 0.25."""
    pixels = np.stack([np.asarray(Image.open(path)) for path in split]).astype(np.float32) / 255
    return np.ascontiguousarray(((pixels - 0.5) / 0.25).transpose(0, 3, 1, 2))


def outputs_of(path, images):
    """By ONNX Runtime itself: output -> (N, ...)."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names, feed = [one.name for one in session.get_outputs()], session.get_inputs()[0].name
    found = [session.run(None, {feed: image[None]}) for image in images]
    return {name: np.concatenate([one[at] for one in found]).astype(np.float64) for at, name in enumerate(names)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["function", pytest.param("file", marks=pytest.mark.exhaustive)])
@pytest.mark.filterwarnings("ignore")  # of the exporter that is to go
def test_a_network_of_several_outputs_walks_from_import_to_the_report(
    edgeres, photos, timed_within, kind, tmp_path, runs_folder
):
    from edgeres.data import dataset_from

    def done(*command, said=""):
        code, out, err = edgeres(*command)
        assert code == 0, err
        assert said in out
        return out

    if kind == "file":
        exec(compile(NETS, "nets", "exec"), {"__name__": "__main__"})
        done("import", "net.onnx", *FEED, said="gives 3 outputs, p5 4 x 4 x 4, p4 4 x 8 x 8, p3 4 x 16 x 16 for")
    else:
        done(
            "import",
            "pyramids:pyramid",
            *FEED,
            "--size",
            16,
            said="gives 3 outputs, p5 4 x 4 x 4, p4 4 x 8 x 8, p3 4 x",
        )
    done("study", "lesion", "--data", photos, said="in % of relative error lost")
    out = done("prune", "--drop", 2, "--recover", "solve", "--data", photos, said="dropped ")
    assert "relative error" in out
    done("export")
    done("calibrate", "--data", photos, "--images", 64)
    done("quantize")
    done("qat", "--data", photos, "--epochs", 1, "-o", "qat.onnx", said="relative error from float on")
    walk = runs_folder / "latest"
    whole, pruned = walk / "00-import" / "model.safetensors", next(walk.glob("*-prune/model.safetensors"))
    exported, int8 = (next(walk.glob(f"*-{stage}/model*.onnx")) for stage in ("export", "quantize"))
    for path in (exported, int8):
        assert [one.name for one in onnx.load(path).graph.output] == list(PARTS)
    done("lint", int8, said="clean")
    done("show", int8, said="3 outputs: p5 64, p4 256, p3 1024")
    for path in (whole, pruned, exported):
        done("eval", path, "--data", photos)
    near = json.loads(done("eval", int8, "--data", photos, "--reference", exported, "--json"))["closeness"][0]
    images = images_of(tmp_path / "photos" / one.rpartition("/")[2] for one in dataset_from(photos).val.ids)
    a, b = outputs_of(exported, images), outputs_of(int8, images)
    errors = {
        name: np.square(a[name] - b[name]).sum((1, 2, 3)) / np.square(a[name]).sum((1, 2, 3)).mean() for name in PARTS
    }
    assert near["parts"] == pytest.approx({name: one.mean() for name, one in errors.items()})
    each = np.mean([errors[name] for name in PARTS], 0)
    assert (near["mean"], near["worst"]) == pytest.approx((each.mean(), np.percentile(each, 99)))
    said = (
        f"B to A: rel. error {each.mean():.5f}, 1 in 100 > {np.percentile(each, 99):.5f} (p5 {errors['p5'].mean():.5f}"
    )
    done("agree", exported, int8, "--data", photos, said=said)
    done("eval", int8, "--data", photos, "--replace", said="to the network it comes from (p5 0.")
    done("gate", "--min-closeness", 0.5, walk, said="pass  --min-closeness 0.5")
    done("bench", "--rounds", 2, "--seconds", 0.2, "--samples", 4)
    assert "not evaluated" not in done("report", said="Closeness")


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["tensorrt-fp16", "ort-cpu"])
def test_every_profile_keeps_the_outputs(edgeres, photos, profile):
    assert edgeres("import", "pyramids:pyramid", *FEED, "--size", 16)[0] == 0
    for command in (("export",), ("calibrate", "--data", photos, "--images", 64)):
        assert edgeres(*command)[0] == 0
    code, _, err = edgeres("quantize", "--profile", profile, "--effort", "quick", "-o", "net.int8.onnx")
    assert code == 0, err
    assert [one.name for one in onnx.load("net.int8.onnx").graph.output] == list(PARTS)
    code, out, err = edgeres(
        "eval", "net.int8.onnx", "--data", photos, "--reference", "runs/latest/00-import/model.safetensors"
    )
    assert code == 0, err
    assert float(out.split()[2].rstrip(",")) < 0.05


@pytest.mark.slow
def test_gradients_bring_every_output_back(edgeres, photos):
    assert edgeres("import", "pyramids:pyramid", *FEED, "--size", 16)[0] == 0
    how = ("--recover", "bn,mimic,distill", "--epochs", 2, "--data", photos)
    code, out, err = edgeres("prune", "--drop", 1, *how)
    assert code == 0, err
    assert "trained back by bn, mimic, distill: 130 train images" in out


def test_two_files_whose_outputs_have_other_names_are_not_compared(edgeres, photos):
    assert edgeres("import", "pyramids:pyramid", *FEED, "--size", 16, "-o", "net.safetensors")[0] == 0
    assert edgeres("export", "net.safetensors", "-o", "net.onnx")[0] == 0
    model = onnx.load("net.onnx")
    del model.metadata_props[:]
    model.graph.output.append(model.graph.output[0])
    del model.graph.output[0]
    onnx.save(model, "turned.onnx")
    code, _, err = edgeres("agree", "net.onnx", "turned.onnx", "--data", photos)
    assert code == 2
    assert "cannot be compared: parts is (('p5', 64), ('p4', 256), ('p3', 1024)) and (('p4', 256)," in err


@pytest.mark.parametrize("option", ["classes", "embedding"])
def test_several_outputs_are_no_classes_whatever_is_asked(edgeres, photos, option):
    code, _, err = edgeres("import", "pyramids:pyramid", *FEED, "--size", 16, "--task", option)
    assert code == 2
    assert (
        f"--task {option}: pyramids:pyramid gives p5 4 x 4 x 4, p4 4 x 8 x 8, p3 4 x 16 x 16 for an image, no row"
        in err
    )
