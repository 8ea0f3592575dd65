"""ONNX files of other tools through the command line: what torch's exporters and others write, and what is missing."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import nn
from torchvision import models
from torchvision.models.resnet import BasicBlock

from edgeres.core.artifacts import OnnxModel

SIDE, CLASSES = 16, 4
QUICKLY = ("--images", 32, "--methods", "mse")
STATED = ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225", "--resize", 20)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> str:
    root, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 4)):
        for label in range(CLASSES):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).resize((40, 38)).save(folder / f"{number}.png")
    return f"folder:{root}"


class Small(nn.Module):
    """Two of torchvision's residual modules between a stem and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        down = nn.Sequential(nn.Conv2d(8, 16, 1, 2, bias=False), nn.BatchNorm2d(16))
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.layer1 = nn.Sequential(BasicBlock(8, 8), BasicBlock(8, 16, 2, down))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(16, CLASSES)

    def forward(self, images):
        return self.fc(self.avgpool(self.layer1(self.stem(images))).flatten(1))


def network_named(name: str) -> nn.Module:
    torch.manual_seed(0)
    return (Small() if name == "small" else getattr(models, name)(num_classes=CLASSES)).eval()


class Wrapped(nn.Module):
    """Channels last in front, or a softmax at the end."""

    def __init__(self, network: nn.Module, *, last: bool = False, softmax: bool = False) -> None:
        super().__init__()
        self.network, self.last, self.softmax = network, last, softmax

    def forward(self, images):
        logits = self.network(images.permute(0, 3, 1, 2) if self.last else images)
        return logits.softmax(1) if self.softmax else logits


def exported(network: nn.Module, path: Path, *, shape=(1, 3, SIDE, SIDE), **options) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (torch.zeros(shape),), str(path), **{"dynamo": False, **options})
    return path


OPEN = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": {"x": {0: "n"}, "y": {0: "n"}}}
UNFOLDED = {"opset_version": 11, "do_constant_folding": False, "training": torch.onnx.TrainingMode.PRESERVE}
LAST = {"shape": (1, SIDE, SIDE, 3)}


@pytest.fixture(scope="module")
def net_of(tmp_path_factory):
    """`net_of("softmax")`: a small network, or one of torchvision's, as another tool's ONNX file."""
    folder, made = tmp_path_factory.mktemp("nets"), dict[str, Path]()

    def make(kind: str) -> Path:
        if kind not in made:
            made[kind] = _net(kind, folder / f"{kind}.onnx", make)
        return made[kind]

    return make


def _net(kind: str, path: Path, net_of) -> Path:
    if kind == "beside":
        model = onnx.load(net_of("plain"))
        onnx.save(model, path, save_as_external_data=True, location="beside.weights")
        return path
    if kind.startswith("resnet"):
        return exported(network_named(kind), path, dynamo=kind.endswith("18"), verbose=False)
    network = network_named("small")
    options = {"open": OPEN, "unfolded": UNFOLDED, "last": LAST, "dynamo": {"dynamo": True, "verbose": False}}
    if kind in {"last", "softmax"}:
        network = Wrapped(network, last=kind == "last", softmax=kind == "softmax")
    return exported(network, path, **options.get(kind, {}))


FEW = ("plain", "last", "softmax")
ALL = ("plain", "unfolded", "last", "softmax", "beside", "open", "dynamo", "resnet18", "resnet50")
RARELY = (pytest.mark.exhaustive, pytest.mark.slow)
KINDS = [pytest.param(kind, marks=() if kind in FEW else RARELY) for kind in ALL]


def done(edgeres, *arguments) -> str:
    code, out, err = edgeres(*arguments)
    assert code == 0, err
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_calibrated_quantized_compared_judged_and_shown(kind, edgeres, net_of, photos, tmp_path):
    net, scales, int8 = net_of(kind), tmp_path / "scales.json", tmp_path / "int8.onnx"
    done(edgeres, "calibrate", net, "--data", photos, *QUICKLY, *STATED, "-o", scales)
    done(edgeres, "quantize", net, "--scales", scales, "-o", int8)
    agreement = json.loads(done(edgeres, "agree", net, int8, "--data", photos, "--json"))
    assert agreement["logits"]["sqnr_db"] > 15
    assert len(agreement["modules"]) == {"resnet18": 8, "resnet50": 16}.get(kind, 2)
    assert min(module["sqnr_db"] for module in agreement["modules"]) > 12
    judged = [json.loads(done(edgeres, "eval", int8, "--data", photos, "--json"))]
    judged.append(json.loads(done(edgeres, "eval", net, "--data", photos, *STATED, "--json")))
    assert [one["accuracy"][0]["n"] for one in judged] == [4 * CLASSES] * 2
    shown = json.loads(done(edgeres, "show", int8, "--json"))
    assert (shown["family"], shown["input_shape"], shown["num_classes"]) == ("onnx", [3, SIDE, SIDE], CLASSES)
    assert shown["preprocess"]["resize"] == 20
    assert shown["lineage"][1].startswith(f"{net.name} (") or net.name in shown["lineage"][1]
    assert set(shown["precision_of_modules"].values()) == {"int8"}


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=RARELY) for kind in ALL[2:]] + ["plain"])
def test_built_by_tensorrt_rtx(kind, edgeres, net_of, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    net, plan = net_of(kind), tmp_path / "net.plan"
    done(edgeres, "compile", net, "-o", plan, "--targets", "sm89")
    manifest = json.loads(Path(f"{plan}.json").read_text())
    assert manifest["onnx_sha256"] == OnnxModel(net).sha256
    assert manifest["card"]["spec"]["preprocess"]["mean"] == []
    assert "preprocess:" not in done(edgeres, "show", plan)


def test_timed_as_they_are_and_not_from_their_images(edgeres, net_of, photos):
    quick = ("--seconds", 0.1, "--rounds", 2, "--samples", 2, "--threads", 1)
    report = json.loads(done(edgeres, "bench", net_of("last"), net_of("beside"), *quick, "--data", photos, "--json"))
    assert len(report["latency"]) == 2
    assert sum("not timed end to end" in note for note in report["notes"]) == 2


def test_a_run_holds_its_stages_and_its_page_is_made(edgeres, net_of, photos, runs_folder):
    net = net_of("plain")
    (runs_folder / "mine").mkdir(parents=True)
    done(edgeres, "calibrate", net, "--data", photos, *QUICKLY, *STATED, "--run", "mine")
    done(edgeres, "quantize", net, "--run", "mine")
    done(edgeres, "eval", "--run", "mine")
    done(edgeres, "report", "mine")
    assert "01-quantize" in (runs_folder / "mine" / "report.html").read_text()
    row = json.loads((runs_folder / "mine" / "report.json").read_text())["rows"][0]
    assert (row["accuracy"]["n"], row["macs"]) == (4 * CLASSES, OnnxModel(net).card.cost.macs)
    assert "01-quantize" in done(edgeres, "show", runs_folder / "mine")


def test_preprocessing_is_taken_over_from_a_model_of_ours(edgeres, net_of, photos, tmp_path):
    ours = tmp_path / "ours.int8.onnx"
    done(edgeres, "calibrate", net_of("plain"), "--data", photos, *QUICKLY, *STATED, "-o", tmp_path / "s.json")
    done(edgeres, "quantize", net_of("plain"), "--scales", tmp_path / "s.json", "-o", ours)
    plain = done(edgeres, "eval", net_of("plain"), "--data", photos, *STATED, "--json")
    alike = done(edgeres, "eval", net_of("plain"), "--data", photos, "--like", ours, "--json")
    assert json.loads(plain)["accuracy"] == json.loads(alike)["accuracy"]
    assert "in the order of the data set's" in json.loads(plain)["warnings"][0]
    code, _, err = edgeres("eval", ours, "--data", photos, *STATED)
    assert code == 2
    assert "says itself how images become its input; leave out --mean" in err
    code, _, err = edgeres("eval", net_of("plain"), "--data", photos, "--like", net_of("open"))
    assert (code, "does not say how images become its input either" in err) == (2, True)


def test_softmax_stands_at_the_end_of_the_quantized_file_too(edgeres, net_of, photos, tmp_path):
    scales, int8 = tmp_path / "s.json", tmp_path / "int8.onnx"
    done(edgeres, "calibrate", net_of("softmax"), "--data", photos, *QUICKLY, *STATED, "-o", scales)
    done(edgeres, "quantize", net_of("softmax"), "--scales", scales, "-o", int8)
    model = OnnxModel(int8).proto
    assert model.graph.node[-1].op_type == "Softmax"
    onnx.checker.check_model(model, full_check=True)
    fused = tmp_path / "fused.onnx"
    done(edgeres, "quantize", net_of("softmax"), "--scales", scales, "--profile", "ort-cpu", "-o", fused)
    for more in ((int8,), (net_of("softmax"), int8), (net_of("softmax"), fused, "--runtimes", "torch,fused")):
        likeness = json.loads(done(edgeres, "agree", *more, "--data", photos, "--json"))["logits"]
        assert likeness["cosine"] > 0.999
        assert likeness["sqnr_db"] is None or likeness["sqnr_db"] > 30


def small(path: Path, *, shape=("n", 3, 8, 8), kind=TensorProto.FLOAT, weight=np.float32, inputs=1, rank=2) -> Path:
    """One convolution, pooling and a fully connected layer, with something in the way."""
    random = np.random.default_rng(0)
    stored = {"w": random.standard_normal((4, 3, 3, 3)), "f": random.standard_normal((5, 4))}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["r"]),
        helper.make_node("Gemm", ["r", "f"], ["y"], transB=1),
    ]
    values = [helper.make_tensor_value_info(name, kind, shape) for name in ("x", "x2", "x3")[:inputs]]
    output = helper.make_tensor_value_info("y" if rank == 2 else "p", TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(value.astype(weight), name) for name, value in stored.items()]
    graph = helper.make_graph(nodes if rank == 2 else nodes[:2], "g", values, [output], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": 2}, r"takes 2 inputs \(x, x2\); edgeres feeds one, images"),
        ({"shape": ("n", 3, "h", "w")}, r"takes N x 3 x \? x \?: export it for one size"),
        ({"shape": ("n", 48)}, "takes N x 48, not images"),
        ({"kind": TensorProto.UINT8}, "takes uint8 input; edgeres feeds float32"),
        ({"kind": TensorProto.FLOAT16, "weight": np.float16}, "takes float16 input; edgeres feeds float32|is in FP16"),
    ],
)
@pytest.mark.parametrize("command", ["calibrate", "compile", "bench", "eval"])
def test_what_takes_no_images_says_so_in_one_line(command, options, message, edgeres, tmp_path):
    path = small(tmp_path / "odd.onnx", **options)
    more = {
        "calibrate": ["--data", "digits", "-o", "s.json"],
        "compile": ["-o", "p.plan"],
        "eval": ["--data", "digits"],
    }
    code, _, err = edgeres(command, path, *more.get(command, []))
    (line,) = err.strip().splitlines()
    assert code == 2
    assert re.search(message, line), line


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("float16", "in FP16; use the float32 model"),
        ("bfloat16", "weights of 'w' are bfloat16; export the model in float32"),
        ("double", "weights of 'w' are double; export the model in float32"),
        ("quantized", "needs a float32 .onnx file"),
    ],
)
def test_only_float32_is_calibrated(kind, message, edgeres, tmp_path):
    path = small(tmp_path / "net.onnx")
    model = onnx.load(path)
    if kind == "quantized":
        stored = numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.int8(0), "z")
        model.graph.initializer.extend(stored)
        model.graph.node.insert(0, helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]))
        model.graph.node.insert(1, helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]))
        model.graph.node[2].input[0] = "d"
    else:
        weight = model.graph.initializer[0]
        sizes = list(weight.dims)
        data_type = getattr(TensorProto, kind.upper())
        model.graph.initializer[0].CopyFrom(helper.make_tensor("w", data_type, sizes, np.zeros(sizes).ravel()))
    onnx.save(model, path)
    code, _, err = edgeres("calibrate", path, "--data", "digits", "-o", "s.json")
    assert code == 2
    assert message in err


def test_without_preprocessing_the_line_says_what_to_type(edgeres, net_of, photos):
    for command in (["calibrate", "-o", "s.json"], ["eval"]):
        code, _, err = edgeres(command[0], net_of("plain"), "--data", photos, *command[1:])
        assert code == 2
        assert re.search(
            r"plain does not say how an image becomes its input; add .*--mean .* --std .* --like FILE", err
        )
    code, _, err = edgeres("eval", net_of("plain"), "--data", photos, "--mean", "0.5,0.5,0.5")
    assert (code, "--mean and --std belong together" in err) == (2, True)
    code, _, err = edgeres("eval", net_of("plain"), "--data", photos, *STATED[:-1], 10)
    assert (code, "--resize 10 is smaller than the input, the 16 pixels" in err) == (2, True)
    code, _, err = edgeres("eval", net_of("plain"), "--data", "digits", *STATED)
    assert (code, bool(re.search("digits has 10 classes .* and the model has 4", err))) == (2, True)


def test_weights_beside_the_file_count_and_are_looked_for_nowhere_else(edgeres, net_of, photos, tmp_path):
    path, weights = tmp_path / "net.onnx", tmp_path / "beside.weights"
    path.write_bytes(net_of("beside").read_bytes())
    weights.write_bytes(net_of("beside").with_name("beside.weights").read_bytes())
    model = OnnxModel(path)
    assert model.size_bytes == path.stat().st_size + weights.stat().st_size
    before, changed = model.sha256, bytearray(weights.read_bytes())
    changed[0] ^= 1
    weights.write_bytes(changed)
    assert OnnxModel(path).sha256 != before
    weights.unlink()
    code, _, err = edgeres("show", path)
    assert (code, "keeps weights in 'beside.weights' beside it, which is not there" in err) == (2, True)
    weights.symlink_to(net_of("beside").with_name("beside.weights"))
    code, _, err = edgeres("compile", path, "-o", tmp_path / "p.plan")
    assert (code, "which is not in its folder" in err) == (2, True)


@pytest.mark.parametrize("command", ["prune", "lesion", "recover"])
def test_what_needs_the_network_by_name_takes_a_checkpoint(command, edgeres, net_of):
    code, _, err = edgeres(command, net_of("plain"), "--data", "digits")
    assert (code, "needs a .safetensors file" in err) == (2, True)


def test_a_name_in_capitals_and_a_pointer_of_git_lfs(edgeres, net_of, tmp_path):
    loud = tmp_path / "NET.ONNX"
    loud.write_bytes(net_of("plain").read_bytes())
    assert "ONNX of another tool" in done(edgeres, "show", loud)
    (tmp_path / "lfs.onnx").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "git lfs pull" in edgeres("show", tmp_path / "lfs.onnx")[2]


@pytest.mark.slow
def test_improved_left_float_and_trained_like_our_own(edgeres, net_of, photos, tmp_path):
    net, scales = net_of("softmax"), tmp_path / "s.json"
    done(edgeres, "calibrate", net, "--data", photos, "--images", 32, *STATED, "-o", scales)
    done(edgeres, "quantize", net, "--scales", scales, "--method", "auto", "-o", tmp_path / "a.onnx")
    (skip, *_) = [
        f"{name}.skip"
        for name in json.loads(done(edgeres, "show", tmp_path / "a.onnx", "--json"))["precision_of_modules"]
    ]
    done(edgeres, "quantize", net, "--scales", scales, "--keep", skip, "-o", tmp_path / "k.onnx")
    assert json.loads(done(edgeres, "show", tmp_path / "k.onnx", "--json"))["float_skips"] == [skip]
    learn = ("--data", photos, "--images", 64, "--epochs", 1, "--threads", 1)
    done(edgeres, "qat", net, "--scales", scales, *learn, "-o", tmp_path / "t.onnx")
    trained = json.loads(done(edgeres, "agree", net, tmp_path / "t.onnx", "--data", photos, "--json"))
    assert trained["logits"]["sqnr_db"] > 30


def without_output(graph):
    del graph.node[0].output[:]


def of_no_known_domain(graph):
    graph.node[0].domain = "some.where"


def with_other_sizes(graph):
    graph.initializer[0].dims[:] = [5]


def without_outputs(graph):
    del graph.output[:]


@pytest.mark.parametrize("damage", [without_output, of_no_known_domain, with_other_sizes, without_outputs])
def test_a_broken_graph_is_shown_and_calibrated_no_further_than_it_goes(damage, edgeres, tmp_path):
    path = small(tmp_path / "net.onnx")
    model = onnx.load(path)
    damage(model.graph)
    path.write_bytes(model.SerializeToString())
    assert "not taken:" in done(edgeres, "show", path)
    code, _, err = edgeres("calibrate", path, "--data", "digits", *STATED, "-o", tmp_path / "s.json")
    (line,) = err.strip().splitlines()
    assert (code, "bug in edgeres" in line, str(path) in line) == (2, False, True)


def in_no_groups(graph):
    convolution = next(node for node in graph.node if node.op_type == "Conv")
    kept = [entry for entry in convolution.attribute if entry.name != "group"]
    del convolution.attribute[:]
    convolution.attribute.extend([*kept, onnx.helper.make_attribute("group", 0)])


def of_no_known_type(graph):
    graph.initializer[0].data_type = 99


@pytest.mark.parametrize("damage", [in_no_groups, of_no_known_type])
@pytest.mark.parametrize("command", ["eval", "agree", "calibrate"])
def test_a_graph_that_can_be_read_and_not_run_is_one_line(damage, command, edgeres, net_of, photos, tmp_path):
    path = tmp_path / "net.onnx"
    model = onnx.load(net_of("plain"))
    damage(model.graph)
    path.write_bytes(model.SerializeToString())
    files = [path, net_of("plain")] if command == "agree" else [path]
    written = ("-o", tmp_path / "s.json", *QUICKLY) if command == "calibrate" else ()
    code, _, err = edgeres(command, *files, "--data", photos, *STATED, *written)
    assert (code, "bug in edgeres" in err) == (2, False), err
