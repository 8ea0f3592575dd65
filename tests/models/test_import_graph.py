from __future__ import annotations

import copy
import functools
import importlib
import shutil
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import pytest
import torch
import torchvision
from onnx import helper, numpy_helper
from torch import nn

from edgeres.core.artifacts import CARD_KEY, Checkpoint, OnnxModel
from edgeres.core.errors import InputError
from edgeres.core.onnx_file import derived_card
from edgeres.core.spec import Preprocess
from edgeres.export.stage import ExportConfig, export
from edgeres.models import modules_of, network_from
from edgeres.models.importing import ImportConfig, import_checkpoint
from edgeres.models.weights import checkpoint_without, load_network

SAID = {"mean": (0.5,), "std": (0.25,)}
MODULES = ["layer1.0", "layer1.1", "layer2.0", "layer2.1"]
NARROW = """
from torchvision.models.resnet import BasicBlock, ResNet

class Narrow(ResNet):  # two stages of ResNet-18 with an eighth of the channels
    def __init__(self, classes=10):
        super().__init__(BasicBlock, (2, 2, 1, 1))
        self.layer3 = self.layer4 = torch.nn.Identity()
        self.fc = torch.nn.Linear(16, classes)

    def _make_layer(self, block, planes, *more, **how):
        return super()._make_layer(block, planes // 8, *more, **how)
"""


def narrow(classes: int = 10) -> nn.Module:
    exec(NARROW, names := {"torch": torch, "__name__": __name__})
    module: nn.Module = names["Narrow"](classes)
    return module.eval()


@pytest.fixture(scope="session")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    return narrow()


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The narrow network is what torchvision calls resnet18."""

    @functools.wraps(torchvision.models.resnet18)
    def builder(*, num_classes: int = 10, **_: object) -> nn.Module:
        return narrow(num_classes)

    monkeypatch.setitem(torchvision.models._api.BUILTIN_MODELS, "resnet18", builder)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def imported(tmp_path: Path):
    def make(file, **options):
        config = ImportConfig(file=file, **{**SAID, **options})
        config.check()
        return import_checkpoint(None, config, tmp_path)

    return make


@pytest.fixture
def exported(resnet, tmp_path: Path):
    def make(module=resnet, **options) -> Path:
        path = tmp_path / "net.onnx"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module, (torch.zeros(1, 3, 32, 32),), path, **{"dynamo": False, "opset_version": 17, **options}
            )
        return path

    return make


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes the user's own file and stands in its folder."""
    monkeypatch.chdir(tmp_path)

    def make(text: str, name: str) -> None:
        (tmp_path / f"{name}.py").write_text(f"import torch, torchvision\n{NARROW}\n{text}\n")

    return make


@torch.no_grad()
def agrees(checkpoint: Checkpoint, module: nn.Module, images: torch.Tensor) -> bool:
    return torch.allclose(load_network(checkpoint)(images), module(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"opset_version": 11},
        {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False},
        {"dynamic_axes": {"x": {0: "n"}}, "input_names": ["x"]},
        {"opset_version": 9},
        {"opset_version": 20},
        {"dynamo": True, "opset_version": 18, "external_data": True},
    ],
    ids=["folded", "opset 11", "norms kept", "dynamic", "opset 9", "opset 20", "dynamo, weights beside"],
)
def test_an_onnx_file_of_any_exporter_is_a_network(options, resnet, exported, imported, images):
    done = imported(exported(**options))
    spec = done.output.spec
    assert [info.name for info in modules_of(spec)] == MODULES
    assert (spec.variant, spec.num_classes, spec.input_shape) == ("net", 10, (3, 32, 32))
    assert agrees(done.output, resnet, images)
    assert any("4 residual modules found" in note for note in done.report.notes)


@pytest.mark.parametrize("is_passed_on", [False, True])
def test_a_softmax_at_the_end_is_left_out(is_passed_on, resnet, exported, imported, images):
    path = exported(nn.Sequential(resnet, nn.Softmax(1)).eval())
    if is_passed_on:
        graph = (model := onnx.load(path)).graph
        graph.node.append(helper.make_node("Identity", [graph.output[0].name], ["passed"]))
        graph.output[0].name = "passed"
        onnx.save(model, path)
    assert agrees(imported(path).output, resnet, images)


class Rows(nn.Module):
    """Computes with the sizes of what it is given, as detectors and readers of text do."""

    def __init__(self, end: nn.Module) -> None:
        super().__init__()
        self.stem, self.branch = nn.Conv2d(3, 8, 3, 4, 1), nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.head, self.end = nn.Linear(8, 5), end

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.branch(x)
        count, _, height, width = x.shape
        x = torch.cat([x[:, :2].reshape(count, 2, -1), x[:, 2:].reshape(count, 2, 3, -1).flatten(1, 2)], 1)
        grid = torch.arange(width).float().repeat(height)
        return self.end(self.head((x + grid).flatten(2).permute(0, 2, 1)))


@pytest.mark.parametrize("axes", [{}, {0: "n"}, {0: "n", 3: "w"}, {0: "n", 2: "h", 3: "w"}])
@pytest.mark.parametrize("opset", [11, 13, 17])
def test_a_graph_that_asks_for_sizes_is_a_network_whichever_are_open(opset, axes, exported, imported, images):
    module = Rows(nn.Softmax(-1)).eval()
    path = exported(module, opset_version=opset, input_names=["x"], dynamic_axes={"x": axes})
    module.end = nn.Identity()
    size = {"size": 32} if 3 in axes else {}
    done = imported(path, fit="none", **size)
    spec = done.output.spec
    assert (spec.input_shape, spec.task, spec.num_classes) == ((3, 32, 32), "tensors", 64 * 5)
    assert [info.name for info in modules_of(spec)] == ["branch"]
    assert agrees(done.output, module, images)


@pytest.mark.parametrize("last", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize(
    ("fixed", "size", "shape"),
    [((), "16x24", (16, 24)), ((), "16x16", (16, 16)), ((16,), "16x24", (16, 24)), ((16,), 24, (16, 24))],
)
def test_open_sides_become_the_height_and_width_that_are_given(fixed, size, shape, last, resnet, exported, imported):
    path = exported(resnet, input_names=["x"], dynamic_axes={"x": {0: "n", 2: "h", 3: "w"}})
    graph = (model := onnx.load(path)).graph
    sides = [*fixed, *("h", "w")[len(fixed) :]]
    order = ["n", *sides, 3] if last else ["n", 3, *sides]
    if last:
        graph.node.insert(0, helper.make_node("Transpose", ["given"], [graph.input[0].name], perm=[0, 3, 1, 2]))
    graph.input[0].CopyFrom(helper.make_tensor_value_info("given" if last else "x", 1, order))
    onnx.save(model, path)
    done = imported(path, fit="squash", size=size)
    assert done.output.spec.input_shape == (3, *shape)
    assert agrees(done.output, resnet, torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(2)))


@pytest.mark.parametrize("sides", [(32, 32), (72, 80)], ids=["small", "large"])
def test_the_size_that_a_file_has_anyway_may_be_named(sides, exported, imported, tmp_path):
    pooled = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)).eval()
    model, size = onnx.load(path := exported(pooled)), f"{sides[0]}x{sides[1]}"
    for side, pixels in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], sides, strict=True):
        side.dim_value = pixels
    onnx.save(model, path)
    alone = imported(path).output
    assert alone.spec.preprocess.resize == (None if sides == (32, 32) else 82)  # 72 * 256 / 224
    ours = Path(shutil.copyfile(alone.path, tmp_path / "ours.safetensors"))
    assert [imported(one, size=size).output.spec for one in (path, ours)] == [alone.spec] * 2


def test_a_side_that_a_graph_fixes_is_no_other(resnet, exported, imported):
    path = exported(resnet, input_names=["x"], dynamic_axes={"x": {3: "w"}})
    with pytest.raises(InputError, match=r"--size 16x24: .*net.onnx has 32 where that says 16"):
        imported(path, fit="squash", size="16x24")


def test_a_network_of_a_function_takes_images_of_height_and_width(own, imported, images):
    own("def net():\n    torch.manual_seed(0)\n    return Narrow()", "nets_of_height")
    done = imported("nets_of_height:net", fit="none", size="16x32")
    assert done.output.spec.input_shape == (3, 16, 32)


def test_a_map_that_is_nearly_0_everywhere_is_taken_with_the_rounding_of_its_sigmoid(exported, imported, tmp_path):
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 1, 1), nn.Sigmoid()).eval()
    nn.init.constant_(module[2].bias, -15.0)
    done = imported(exported(module))
    assert done.output.spec.task == "tensors"
    assert export(done.output, ExportConfig(), tmp_path).output.path.is_file()


def test_an_input_larger_than_the_usual_resize_asks_how_images_come_to_it(exported, imported):
    large = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)).eval()
    model = onnx.load(path := exported(large))
    for side in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        side.dim_value = 300
    onnx.save(model, path)
    with pytest.raises(InputError, match=r"^an input of 300 x 300 does not say how .*: add --resize PIXELS"):
        imported(path)
    with pytest.raises(InputError, match=r"^--resize 290 is smaller than the input, the 300 pixels"):
        imported(path, resize=290)
    assert imported(path, fit="squash").output.spec.input_shape == (3, 300, 300)


SCORES = {"task": "classes", "classes": tuple("abcdefghij")}
CARD = {"preprocess": Preprocess(mean=(0.3,), std=(0.2,), fit="letterbox", border=7, exif=True)}
REST = [{}, {"mean": (0.1,), "std": (0.9,)}, {"fit": "squash"}]


@pytest.mark.parametrize("given", REST, ids=["as it says", "mean", "fit"])
@pytest.mark.parametrize("card", [SCORES, {"task": "embedding"}], ids=["scores", "embedding"])
def test_a_file_with_a_card_says_all_of_itself_and_options_say_otherwise(card, given, exported, imported):
    model = onnx.load(path := exported())
    derived = derived_card(model, path)
    spec = derived.spec.model_copy(update=CARD | card)
    model.metadata_props.add(key=CARD_KEY, value=derived.model_copy(update={"spec": spec}).model_dump_json())
    onnx.save(model, path)
    done = imported(path, **({"mean": None, "std": None} | given))
    found, border = done.output.spec, 0 if "fit" in given else 7
    assert found.preprocess == CARD["preprocess"].model_copy(update={**given, "border": border})
    assert (found.task, found.classes) == (card["task"], card.get("classes", ()))
    assert done.output.card.parent == OnnxModel(path).sha256
    assert not done.report.warnings
    assert imported(path, task="embedding").output.spec.task == "embedding"


def test_a_network_from_a_file_of_ours_has_one_card_in_the_next(exported, imported, tmp_path):
    model = onnx.load(path := exported())
    card = derived_card(model, path)
    model.metadata_props.add(key=CARD_KEY, value=card.model_dump_json())
    model.metadata_props.add(key="edgeres.profile", value="ort-cpu")
    onnx.save(model, path)
    whole = imported(path).output
    short = checkpoint_without(whole, (modules_of(whole.spec)[1].name,), tmp_path / "short.safetensors")
    made = export(short, ExportConfig(), tmp_path).output
    assert [entry.key for entry in made.proto.metadata_props] == [CARD_KEY]
    assert made.spec.dropped == short.spec.dropped


def test_a_card_that_calls_a_map_scores_is_not_believed(imported, tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, padding=1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net.eval(), (torch.zeros(1, 3, 8, 8),), tmp_path / "map.onnx", dynamo=False)
    model = onnx.load(tmp_path / "map.onnx")
    card = derived_card(model, tmp_path / "map.onnx")
    spec = card.spec.model_copy(update={"task": "classes"})
    model.metadata_props.add(key=CARD_KEY, value=card.model_copy(update={"spec": spec}).model_dump_json())
    onnx.save(model, tmp_path / "map.onnx")
    assert imported(tmp_path / "map.onnx").output.spec.task == "tensors"


def test_class_names_and_task_of_a_card_that_is_of_another_classifier_are_left_out(exported, imported):
    model = onnx.load(path := exported())
    derived = derived_card(model, path)
    values = {**CARD, **SCORES, "num_classes": 9, "task": "tensors", "classes": ()}
    card = derived.model_copy(update={"spec": derived.spec.model_copy(update=values)})
    model.metadata_props.add(key=CARD_KEY, value=card.model_dump_json())
    onnx.save(model, path)
    assert (imported(path).output.spec.task, imported(path).output.spec.num_classes) == ("classes", 10)


@pytest.mark.parametrize("is_ours", [False, True])
@pytest.mark.parametrize("end", [nn.Identity(), nn.Softmax(1)], ids=["scores", "softmax"])
def test_a_quantized_file_is_refused(is_ours, end, resnet, exported, imported):
    model = onnx.load(exported(nn.Sequential(resnet, end).eval()))
    graph, name = model.graph, model.graph.input[0].name
    for node in graph.node:
        node.input[:] = ["rounded" if one == name else one for one in node.input]
    graph.initializer.append(numpy_helper.from_array(np.float32(0.02), "scale"))
    graph.node.insert(0, helper.make_node("DequantizeLinear", ["integers", "scale"], ["rounded"]))
    graph.node.insert(0, helper.make_node("QuantizeLinear", [name, "scale"], ["integers"]))
    if is_ours:
        model.metadata_props.add(key=CARD_KEY, value=derived_card(model, Path("net.onnx")).model_dump_json())
    onnx.save(model, path := exported().with_name("int8.onnx"))
    with pytest.raises(InputError, match=r"int8\.onnx.* is quantized already; use the float model it was made from$"):
        imported(path)


def test_a_file_of_export_half_is_refused(exported, imported, tmp_path):
    half = export(imported(exported()).output, ExportConfig(half=True), tmp_path).output
    with pytest.raises(InputError, match="is in FP16; use the float32 model"):
        imported(half.path)


def test_channels_last_behind_a_transpose_are_taken(resnet, exported, imported, images):
    model = onnx.load(exported())
    graph = model.graph
    name = graph.input[0].name
    for node in graph.node:
        node.input[:] = ["first" if one == name else one for one in node.input]
    graph.node.insert(0, helper.make_node("Transpose", [name], ["first"], "turn", perm=[0, 3, 1, 2]))
    graph.input[0].CopyFrom(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 32, 32, 3]))
    del graph.value_info[:]
    path = exported().with_name("last.onnx")
    onnx.save(model, path)
    assert agrees(imported(path).output, resnet, images)


def test_a_function_gives_the_network_with_its_batch_norms(own, imported, images):
    own("def net():\n    torch.manual_seed(3)\n    return Narrow(7)", "nets_a")
    done = imported("nets_a:net", size=32)
    torch.manual_seed(3)
    module = narrow(7)
    assert agrees(done.output, module, images)
    assert load_network(done.output).state_dict().keys() == module.state_dict().keys()
    assert done.output.spec.variant == "net"


@pytest.mark.parametrize("prefix", ["", "module.", "model.backbone."])
def test_a_function_is_filled_with_weights_of_a_file(prefix, resnet, own, imported, images, tmp_path):
    own("def net():\n    return Narrow()", "nets_b")
    torch.save({"state_dict": {prefix + key: value for key, value in resnet.state_dict().items()}}, tmp_path / "w.pt")
    done = imported("nets_b:net", size=32, weights=tmp_path / "w.pt")
    assert agrees(done.output, resnet, images)
    assert done.report.results["weights"] == str(tmp_path / "w.pt")


def test_mean_and_std_of_the_weights_of_a_function_or_a_library_are_named(library, resnet, own, imported, tmp_path):
    own("def net():\n    return Narrow()", "nets_f")
    feed = {"mean": [0.48, 0.47, 0.43], "std": [0.2, 0.2, 0.2]}
    torch.save({"state_dict": resnet.state_dict(), **feed}, tmp_path / "w.pth")
    for named, said in (
        ({"file": "nets_f:net", "size": 32, "weights": tmp_path / "w.pth"}, "CIFAR-10's, by the input's 32 x 32"),
        ({"file": tmp_path / "w.pth", "arch": "torchvision/resnet18"}, "as torchvision/resnet18 has them"),
    ):
        (warning,) = (one for one in imported(**named, mean=None, std=None).report.warnings if "mean and std" in one)
        assert warning.endswith(f"{said}; the file holds others, to take them: --mean 0.48,0.47,0.43 --std 0.2,0.2,0.2")


def test_dropout_is_said_to_be_left_out(own, exported, imported):
    drops = "net.relu = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Dropout(0.1))"
    own(f"def net():\n    net = Narrow()\n    {drops}\n    return net", "nets_d")
    model = onnx.load(exported())
    model.graph.node.append(helper.make_node("Dropout", [model.graph.output[0].name], ["dropped"]))
    model.graph.output[0].name = "dropped"
    onnx.save(model, path := exported().with_name("dropout.onnx"))
    for file, size in (("nets_d:net", 32), (path, None)):
        assert "left out, as it acts in training only: Dropout (1)" in imported(file, size=size).report.notes
    assert not any("left out" in note for note in imported(exported()).report.notes)


def test_a_library_defines_the_network_and_its_preprocessing(library, resnet, imported, images, tmp_path):
    torch.save(resnet.state_dict(), tmp_path / "w.pth")
    done = imported(tmp_path / "w.pth", arch="torchvision/resnet18", mean=None, std=None)
    assert agrees(done.output, resnet, images)
    preprocess = done.output.spec.preprocess
    assert (preprocess.mean, preprocess.resize) == ((0.485, 0.456, 0.406), 256)
    assert not any("mean and std were not given" in warning for warning in done.report.warnings)


@pytest.mark.covering(1)
@pytest.mark.parametrize(
    ("count", "said"), [(10, "are the file's own: j, i, h, ..."), (9, "are left out: the network")]
)
@pytest.mark.parametrize("named", ["function", "definition"])
def test_class_names_beside_the_weights_are_used_if_they_fit(
    named, count, said, resnet, library, own, imported, tmp_path
):
    own("def net():\n    return Narrow()", "nets_names")
    names = "jihgfedcba"[:count]
    order = {name: row for row, name in enumerate(names)}
    torch.save({"state_dict": resnet.state_dict(), "class_to_idx": order}, tmp_path / "w.pt")
    if named == "function":
        done = imported("nets_names:net", size=32, weights=tmp_path / "w.pt")
    else:
        done = imported(tmp_path / "w.pt", arch="torchvision/resnet18")
    assert done.output.spec.classes == (tuple(names) if count == 10 else ())
    assert any(said in note for note in done.report.notes)


TRAINED = "\n    torch.nn.init.ones_(net.bn1.running_mean)"


@pytest.mark.parametrize(
    ("more", "filled", "place"), [("", False, "warnings"), (TRAINED, False, "notes"), ("", True, "")]
)
def test_weights_that_the_function_itself_gives_are_said(more, filled, place, resnet, own, imported, tmp_path):
    name = f"nets_own_{len(more)}_{filled}"
    own(f"def net():\n    net = Narrow(){more}\n    return net", name)
    torch.save(resnet.state_dict(), tmp_path / "w.pt")
    report = imported(f"{name}:net", size=32, **({"weights": tmp_path / "w.pt"} if filled else {})).report
    line = f"weights are those that {name}:net gives itself; if it loads none, add --weights FILE"
    assert [one for one in ("warnings", "notes") if line in getattr(report, one)] == ([place] if place else [])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["how images come to the input's 32 x 32 was not given: assumed all images have it; if it is otherwise"]),
        ({"resize": 40}, []),
        ({"fit": "none"}, []),
    ],
)
def test_of_a_file_that_says_its_size_only_the_resizing_is_asked_for(options, expected, exported, imported):
    small = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)).eval()
    warned = [one for one in imported(exported(small), **options).report.warnings if "input's" in one]
    assert [one.rpartition(",")[0] for one in warned] == expected


def test_what_mean_and_std_were_assumed_from_is_said(exported, imported, spec_of, tmp_path):
    small = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)).eval()
    torch.save(network_from(spec_of("resnet8")).state_dict(), tmp_path / "w.pt")
    said = []
    for file in (exported(small), tmp_path / "w.pt"):
        (one,) = (one for one in imported(file, mean=None, std=None).report.warnings if one.startswith("mean and std"))
        said.append(one.partition("; ")[0].rpartition("), ")[2])
    assert said == ["CIFAR-10's, by the input's 32 x 32", "as resnet8 has them"]


@pytest.mark.covering(1)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("named", ["function", "own weights", "definition", "onnx"])
def test_the_weight_that_holds_no_number_is_named(named, value, resnet, library, own, exported, imported, tmp_path):
    broken = copy.deepcopy(resnet)
    with torch.no_grad():
        broken.layer1[0].conv1.weight[0, 0, 0, 0] = value
    torch.save(broken.state_dict(), tmp_path / "w.pt")
    body = "    net = Narrow()"
    own(f"def net():\n{body}\n    return net", "nets_nan_a")
    own(f"def net():\n{body}\n    net.load_state_dict(torch.load('w.pt'))\n    return net", "nets_nan_b")
    file, options, where = {
        "function": ("nets_nan_a:net", {"size": 32, "weights": tmp_path / "w.pt"}, r"nets_nan_a:net with .*w\.pt"),
        "own weights": ("nets_nan_b:net", {"size": 32}, "nets_nan_b:net"),
        "definition": (tmp_path / "w.pt", {"arch": "torchvision/resnet18"}, r"w\.pt"),
        "onnx": (exported(broken) if named == "onnx" else "", {}, r"net\.onnx"),
    }[named]
    key = r"layer1\.0\.conv1\.weight|.*Conv.*" if named == "onnx" else r"layer1\.0\.conv1\.weight"
    with pytest.raises(InputError, match=rf"{where}: NaN or infinite values in ({key}) \(1 of \d+ keys\)$"):
        imported(file, **options)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("nets_file.py:net", "nets_file:net"),
        ("nets_file.net", "nets_file:net"),
        ("./nets_file.py:net", "nets_file:net"),
        ("a/b.py:net", "a.b:net"),
    ],
)
def test_a_file_and_a_function_in_it_are_told_how_to_be_named(typed, meant, own, imported):
    own("def net():\n    return None", "nets_file")
    with pytest.raises(InputError, match=rf"; did you mean {meant}\?$"):
        imported(typed)


REFUSED = [
    ("return 3", {}, "must return a torch.nn.Module, got int"),
    (
        "return torch.nn.Sequential(Narrow().conv1, torch.nn.Flatten(0))",
        {},
        "cannot be run on two images at once",
    ),
    ("raise RuntimeError('no such file')", {}, "RuntimeError: no such file (.*, line 15)"),
    ("return torch.nn.Sequential(torch.nn.Conv1d(3, 4, 3))", {}, "cannot be traced"),
]


@pytest.mark.parametrize(("body", "options", "said"), REFUSED)
def test_a_function_that_gives_no_network_is_one_line(body, options, said, own, imported, request):
    name = f"nets_{abs(hash(body))}"
    own(f"def net():\n    {body}", name)
    with pytest.raises(InputError, match=said):
        imported(f"{name}:net", size=32, **options)


def test_weights_that_do_not_fit_are_listed(resnet, own, imported, tmp_path):
    own("def net():\n    return Narrow()", "nets_c")
    state = dict(resnet.state_dict())
    del state["layer1.0.conv1.weight"]
    state["odd.weight"] = torch.zeros(3, 3)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"1 missing \(layer1.0.conv1.weight\); 1 unexpected \(odd.weight\)"):
        imported("nets_c:net", size=32, weights=tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": 64}, "--size 64: .*net.onnx has 32 where that says 64"),
        ({"shortcut": "B"}, "brings its structure along; leave out --shortcut"),
        ({"arch": "resnet18"}, "leave out --arch"),
        ({"weights": "w.pt"}, "--weights fills the network of a package.module:function"),
        ({"classes": 7}, "--classes 7, but .* has 10 outputs"),
    ],
)
def test_an_option_that_says_nothing_of_an_onnx_file_is_refused(options, said, exported, imported):
    with pytest.raises(InputError, match=said):
        imported(exported(), **options)


@pytest.mark.parametrize(
    ("arch", "said"),
    [
        ("torchvision/resnet19", "torchvision has no classifier 'resnet19'"),
        ("torchvision/fcn_resnet50", r"no classifier 'fcn.*edgeres import package.module:function --weights"),
        ("keras/resnet", "definitions come from timm, torchvision, hf, as in timm/resnet50d"),
    ],
)
def test_a_definition_that_does_not_exist_is_refused(arch, said, resnet, imported, tmp_path):
    torch.save(resnet.state_dict(), tmp_path / "w.pth")
    with pytest.raises(InputError, match=said):
        imported(tmp_path / "w.pth", arch=arch)


def test_a_network_without_a_residual_module_says_that_nothing_can_be_pruned(exported, imported):
    done = imported(
        exported(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 30 * 30, 10)).eval())
    )
    assert any("nothing of it can be pruned" in warning for warning in done.report.warnings)


def test_weights_outside_the_folder_are_refused(exported, imported, tmp_path):
    model = onnx.load(exported())
    for tensor in model.graph.initializer[:1]:
        array = numpy_helper.to_array(tensor)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../w.bin")
        (tmp_path.parent / "w.bin").write_bytes(array.tobytes())
    onnx.save(model, tmp_path / "out.onnx")
    with pytest.raises(InputError, match="is not in its folder"):
        imported(tmp_path / "out.onnx")


def test_a_file_that_torch_would_compute_otherwise_is_refused(exported, imported, monkeypatch):
    from edgeres.graph.operators import OPERATORS

    monkeypatch.setitem(OPERATORS, "Relu", lambda _: lambda x: x.clamp(min=0, max=0.5))
    with pytest.raises(InputError, match=r"net.onnx computes something else than what was made of it: outputs differ"):
        imported(exported())


def test_what_two_programs_round_otherwise_is_measured_by_the_network_itself(exported, imported, monkeypatch):
    """A network may amplify the rounding of float32: here anything beyond it is too much."""
    from edgeres.graph.operators import OPERATORS

    monkeypatch.setattr("edgeres.models.sources._MOST_DIFFERENCE", -1.0)
    monkeypatch.setattr("edgeres.export.stage._MAX_DIFFERENCE", -1.0)
    done = imported(exported())
    with TemporaryDirectory() as folder:
        export(done.output, ExportConfig(), Path(folder))
    monkeypatch.setitem(OPERATORS, "Relu", lambda _: lambda x: x.clamp(min=1e-5))
    with pytest.raises(InputError, match="computes something else"):
        imported(exported())


LINEAR = """
class Unit(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.three, self.one = torch.nn.Conv2d(3, 3, 3, padding=1), torch.nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return torch.relu(self.three(x) + self.one(x))

def net():
    return torch.nn.Sequential(Unit(), Unit(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 5))
"""


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{'scores': x, 'classes': 5}", "gives a int as 'classes', edgeres takes tensors: write a function that"),
        ("(x, x.argmax(1))", "gives 'output_1' in int64, edgeres compares float32: end the network before ArgMax"),
        ("{'a': {'b': x}, 'a.b': x + 1}", "gives 'a.b' twice: give every output a name of its own"),
        ("(x, x.mean())", "gives a single number as 'output_1' for two images, no numbers for each"),
        ("(x, x[0])", "gives 5 as 'output_1' for two images, no numbers for each"),
        ("(x, x.T)", "gives 5 x 2 as 'output_1' for two images, no numbers for each"),
        ("x.reshape(2, 5)", "was traced with 2 images and fails on 3: it depends on their number"),
    ],
)
def test_what_gives_no_numbers_for_each_image_is_refused_with_what_to_do(own, imported, given, said):
    own(
        "class Net(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.conv, self.head = torch.nn.Conv2d(3, 3, 1), torch.nn.Linear(3, 5)\n"
        f"    def forward(self, x):\n        x = self.head(self.conv(x).mean((2, 3)))\n        return {given}\n",
        name := f"nets_{abs(hash(given))}",
    )
    with pytest.raises(InputError, match=said):
        imported(f"{name}:Net", size=32)


def test_a_tuple_or_a_dict_of_one_tensor_is_that_tensor(own, imported):
    own(
        "class Net(torch.nn.Conv2d):\n    def forward(self, x):\n        return {'map': [super().forward(x)]}",
        "nets_one",
    )
    own("def net():\n    from nets_one import Net\n    return Net(3, 4, 1)\n", "nets_of_one")
    spec = imported("nets_of_one:net", size=8).output.spec
    assert (spec.task, spec.num_classes, spec.parts) == ("tensors", 4 * 8 * 8, ())


def test_sums_that_are_no_modules_are_named_with_the_reason_they_share(own, imported):
    own(LINEAR, "nets_linear")
    done = imported("nets_linear:net", size=32)
    (said,) = [note for note in done.report.notes if "no module" in note]
    assert said == (
        "no module that can be dropped: 0, 1 (2 in all), its branch is linear, and so a part of one convolution"
    )


BODY = "Narrow()"
HEADLESS = f"net = {BODY}\n    net.fc = torch.nn.Identity()\n    return net"
MAPS = f"net = {BODY}\n    return torch.nn.Sequential(net.conv1, net.bn1, net.relu, net.layer1)"


@pytest.mark.parametrize(
    ("body", "options", "task", "count", "said"),
    [
        (HEADLESS, {}, "embedding", 16, "gives an embedding of 16 numbers for an image, told by what makes it"),
        (HEADLESS, {"task": "classes"}, "classes", 16, ""),
        (MAPS, {}, "tensors", 8 * 16 * 16, "gives tensors, 8 x 16 x 16 for an image"),
        (
            f"return {BODY}",
            {"task": "embedding"},
            "embedding",
            10,
            "an embedding of 10 numbers for an image, as --task",
        ),
        (f"return {BODY}", {}, "classes", 10, ""),
    ],
    ids=["headless", "headless, said to be classes", "maps", "classifier, said to be none", "classifier"],
)
def test_what_a_network_gives_is_told_by_its_end_or_said(body, options, task, count, said, own, imported):
    name = f"nets_{abs(hash((body, task)))}"
    own(f"def net():\n    {body}", name)
    done = imported(f"{name}:net", size=32, **options)
    assert (done.output.spec.task, done.output.spec.num_classes) == (task, count)
    assert any(said in note for note in done.report.notes)
    assert any("class names were not given" in one for one in done.report.warnings) == (task == "classes")


NORMALISED = """
class Unit(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())

    def forward(self, x):
        x = self.net(x)
        return EXPRESSION

def net():
    torch.manual_seed(0)
    return Unit()
"""


@pytest.mark.parametrize(
    "expression",
    [
        "torch.nn.functional.normalize(x, dim=1)",
        "x / x.norm(dim=1, keepdim=True).clamp(min=1e-6)",
        "x / x.norm(dim=1, keepdim=True).clamp(1e-6, 1e6)",
    ],
)
def test_a_small_number_that_the_exporter_writes_in_double_is_float32(expression, own, imported, images):
    name = f"nets_{abs(hash(expression))}"
    own(NORMALISED.replace("EXPRESSION", expression), name)
    done = imported(f"{name}:net", size=32)
    assert done.output.spec.task == "embedding"
    assert agrees(done.output, importlib.import_module(name).net().eval(), images)


def test_what_computes_in_double_is_refused(own, imported):
    own(NORMALISED.replace("EXPRESSION", "(x.double() * 1.5).float()"), "nets_double")
    with pytest.raises(InputError, match="are double; export the model in float32"):
        imported("nets_double:net", size=32)


@pytest.mark.parametrize(
    ("body", "options", "said"),
    [
        (MAPS, {"task": "embedding"}, "--task embedding: .* gives 8 x 16 x 16 for an image, no row of two numbers"),
        (HEADLESS, {"classes": 16}, "--classes is for scores of classes, .* gives an embedding of 16 numbers"),
    ],
)
def test_what_it_cannot_give_is_refused(body, options, said, own, imported):
    name = f"nets_{abs(hash((body, said)))}"
    own(f"def net():\n    {body}", name)
    with pytest.raises(InputError, match=said):
        imported(f"{name}:net", size=32, **options)
