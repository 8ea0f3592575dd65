"""Networks of several outputs: a small feature pyramid, and what is a module of it."""

from __future__ import annotations

import onnx
import pytest
import torch
from torch import nn

from edgeres.core.artifacts import OnnxModel
from edgeres.core.errors import InputError
from edgeres.core.spec import TRACED, ModelSpec, Preprocess
from edgeres.costs.design import shape_classes
from edgeres.export.stage import ExportConfig, export
from edgeres.graph.blocks import blocks_in
from edgeres.graph.structure import unpacked
from edgeres.graph.view import GraphView
from edgeres.models import modules_of, network_from
from edgeres.models.graph_family import chain_of
from edgeres.models.sources import from_module, from_onnx
from edgeres.models.weights import load_network, save_checkpoint, weights_without
from edgeres.runtime import runner_for
from edgeres.runtime.runner import infer_all

SHAPE = (3, 16, 16)


def conv(a, b, size=3, stride=1):
    return nn.Sequential(nn.Conv2d(a, b, size, stride, size // 2, bias=False), nn.BatchNorm2d(b))


class Block(nn.Module):
    """With `linear` nothing follows the sum, so that it can be an output itself."""

    def __init__(self, a, b, stride=1, *, linear=False):
        super().__init__()
        self.one, self.two, self.linear = conv(a, b, 3, stride), conv(b, b), linear
        self.down = conv(a, b, 1, stride) if a != b else nn.Identity()

    def forward(self, x):
        y = self.down(x) + self.two(torch.relu(self.one(x)))
        return y if self.linear else torch.relu(y)


class Body(nn.Module):
    """The maps of three stages; with `sides` what is made of one is made before the next stage begins."""

    def __init__(self, *, linear=False, sides=False):
        super().__init__()
        self.stem, self.sides = conv(3, 8), sides
        widths = ((8, 8, 1), (8, 16, 2), (16, 32, 2))
        self.stages = nn.ModuleList(
            nn.Sequential(Block(a, b, stride, linear=linear), *(Block(b, b, linear=linear) for _ in range(2)))
            for a, b, stride in widths
        )
        self.side = nn.ModuleList(nn.Conv2d(b, 4, 1) for _, b, _ in widths)

    def forward(self, x):
        x, maps = torch.relu(self.stem(x)), []
        for stage, side in zip(self.stages, self.side, strict=True):
            x = stage(x)
            maps.append(side(x) if self.sides else x)
        return maps


class Pyramid(Body):
    """Lateral convolutions and top-down sums behind the maps, one output of small numbers."""

    def __init__(self):
        super().__init__()
        self.out = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))

    def forward(self, x):
        sides = [side(one) for side, one in zip(self.side, super().forward(x), strict=True)]
        found, inner = {}, None
        for at in (2, 1, 0):
            inner = sides[at] if inner is None else sides[at] + nn.functional.interpolate(inner, scale_factor=2.0)
            found[f"p{at + 3}"] = self.out[at](inner)
        return {**found, "p4": 1e-3 * found["p4"]}


NETS = {
    "maps": Body,
    "linear": lambda: Body(linear=True),
    "sides": lambda: Body(sides=True),
    "pyramid": Pyramid,
}


def built(kind):
    torch.manual_seed(1)
    network = NETS[kind]()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
    return network.eval()


def spec_of(found):
    return ModelSpec(
        family=TRACED,
        variant="net",
        num_classes=found.outputs,
        parts=found.parts,
        task=found.told,
        input_shape=SHAPE,
        preprocess=Preprocess(mean=(0.5,) * 3, std=(0.25,) * 3),
        structure=found.structure,
    )


def network_of(spec, weights):
    network = network_from(spec)
    network.load_state_dict(weights)
    return network.eval()


@pytest.fixture
def images():
    return torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def test_outputs_stand_side_by_side_by_name_and_size(images):
    module, found = built("pyramid"), from_module(built("pyramid"), SHAPE, "net")
    spec, given = spec_of(found), module(images)
    assert (spec.task, spec.parts) == ("tensors", (("p5", 64), ("p4", 256), ("p3", 1024)))
    assert spec.outputs_text == "3 outputs: p5 64, p4 256, p3 1024"
    expected = torch.cat([one.flatten(1) for one in given.values()], 1)
    torch.testing.assert_close(network_of(spec, found.weights)(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.exhaustive if kind in {"maps", "linear"} else ()) for kind in NETS]
)
@torch.no_grad()
def test_dropping_a_module_equals_zeroing_its_branch_bit_for_bit_in_every_output(kind, images):
    found = from_module(built(kind), SHAPE, "net")
    spec = spec_of(found)
    names = [module.name for module in modules_of(spec)]
    assert names == [f"stages.{stage}.{place}" for stage in range(3) for place in range(3)]
    whole = network_of(spec, found.weights)
    for gone in (*((name,) for name in names), ("stages.0.1", "stages.0.2", "stages.2.1", "stages.2.2"), tuple(names)):
        cut = spec.without(gone)
        dropped = network_of(cut, weights_without(found.weights, cut))
        x = whole.stem(images)
        for name, unit in whole.units():
            x = unit.bypass(x) if name in gone else unit(x)
        assert torch.equal(dropped(images), whole.classify(whole.tail(x)))
        assert not torch.equal(dropped(images), whole(images))


@pytest.mark.parametrize("kind", ["maps", "sides", "pyramid"])
def test_modules_of_a_kind_cost_the_same_whatever_passes_beside_them(kind):
    classes = shape_classes(spec_of(from_module(built(kind), SHAPE, "net")).without(("stages.2.2",)))
    assert classes == {
        "identity 8x16x16 to 8x16x16": ("stages.0.0", "stages.0.1", "stages.0.2"),
        "projection 8x16x16 to 16x8x8": ("stages.1.0",),
        "identity 16x8x8 to 16x8x8": ("stages.1.1", "stages.1.2"),
        "projection 16x8x8 to 32x4x4": ("stages.2.0",),
        "identity 32x4x4 to 32x4x4": ("stages.2.1",),
    }


def test_the_sums_of_a_pyramid_are_no_modules_whenever_its_outputs_are_made():
    spec = spec_of(from_module(built("pyramid"), SHAPE, "net"))
    others = chain_of(spec).others
    assert len(others) == 2
    assert all(why.endswith("of its branch is read elsewhere") for why in others.values())


def test_a_module_has_the_same_name_in_every_file(tmp_path):
    spec = spec_of(found := from_module(built("sides"), SHAPE, "net"))
    source = save_checkpoint(found.weights, spec, tmp_path / "net.safetensors", stage="import")
    graph = export(source, ExportConfig(), tmp_path).output.proto
    names = [block.name for block in blocks_in(GraphView(graph)) if not block.is_inside]
    assert names == [module.name for module in modules_of(spec)]


@torch.no_grad()
def test_the_exported_file_keeps_names_order_and_shapes(tmp_path, images):
    spec = spec_of(found := from_module(built("pyramid"), SHAPE, "net"))
    cut = spec.without(("stages.1.1",))
    source = save_checkpoint(weights_without(found.weights, cut), cut, tmp_path / "net.safetensors", stage="prune")
    model = export(source, ExportConfig(dynamic=True), tmp_path).output
    shapes = {
        one.name: [dim.dim_value for dim in one.type.tensor_type.shape.dim][1:] for one in model.proto.graph.output
    }
    assert list(shapes.items()) == [("p5", [4, 4, 4]), ("p4", [4, 8, 8]), ("p3", [4, 16, 16])]
    with runner_for(model) as runner:
        assert abs(runner.infer(images.numpy()) - load_network(source)(images).numpy()).max() < 1e-4
    again = from_onnx(OnnxModel(model.path))
    assert spec_of(again).parts == spec.parts


@pytest.mark.filterwarnings("ignore")  # of the exporter that is to go
def test_a_file_of_another_tool_says_what_each_output_is(tmp_path):
    torch.onnx.export(
        built("maps"),
        (torch.zeros(1, *SHAPE),),
        tmp_path / "maps.onnx",
        dynamo=False,
        input_names=["x"],
        output_names=["c3", "c4", "c5"],
        dynamic_axes={"x": {0: "n"}},
    )
    model = OnnxModel(tmp_path / "maps.onnx")
    assert (model.spec.task, model.spec.num_classes) == ("tensors", 8 * 256 + 16 * 64 + 32 * 16)
    assert model.spec.parts == from_onnx(model).parts == (("c3", 2048), ("c4", 1024), ("c5", 512))
    proto = onnx.load(tmp_path / "maps.onnx")
    proto.graph.node.append(onnx.helper.make_node("Transpose", ["c5"], ["turned"], name="turn", perm=[1, 0, 2, 3]))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("turned", 1, None))
    onnx.save(proto, tmp_path / "turned.onnx")
    turned = OnnxModel(tmp_path / "turned.onnx")
    assert turned.spec.parts == model.spec.parts  # it can be built and timed
    with pytest.raises(InputError, match=r"gives 32 x 1 x 4 x 4 as 'turned', not so many numbers for each image"):
        turned.check_float()
    proto.graph.node.append(onnx.helper.make_node("ArgMax", ["c5"], ["best"], name="best", axis=1))
    proto.graph.output[-1].CopyFrom(onnx.helper.make_tensor_value_info("best", onnx.TensorProto.INT64, None))
    onnx.save(proto, tmp_path / "best.onnx")
    best = OnnxModel(tmp_path / "best.onnx")
    with runner_for(best) as runner:
        runner.load(torch.zeros(1, *SHAPE).numpy())
        runner.step()
        with pytest.raises(InputError, match=r"gives 'best' in int64, .*: end the network before ArgMax"):
            runner.infer(torch.zeros(1, *SHAPE).numpy())


def test_parts_that_are_no_outputs_of_the_network_are_refused():
    spec = spec_of(from_module(built("maps"), SHAPE, "net"))
    for parts in ((("c3", 10),), (("c3", 10), ("c4", 20))):
        with pytest.raises(InputError, match="are no outputs of"):
            ModelSpec(**{**dict(spec), "parts": parts})


def test_a_packed_structure_is_one_graph_with_all_outputs():
    structure = unpacked(from_module(built("maps"), SHAPE, "net").structure)
    assert [one.name for one in structure.graph.output] == ["output_0", "output_1", "output_2"]


@torch.no_grad()
def test_outputs_may_be_called_as_modules_are_or_by_numbers_and_one_may_be_there_twice(images):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.p3, self.p4 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

        def forward(self, x):
            x = self.p3(x)
            y = self.p4(torch.relu(x))
            return {"p4": torch.relu(x), "p3": torch.tanh(y), "0": y, "1": (y, y, None), "images.1": x}

    found = from_module(module := Named(), SHAPE, "net")
    assert [name for name, _ in found.parts] == ["p4", "p3", "0", "1.output_0", "1.output_1", "images.1"]
    given = module(images)
    expected = [given["p4"], given["p3"], given["0"], *given["1"][:2], given["images.1"]]
    outputs = network_of(spec_of(found), found.weights)(images)
    torch.testing.assert_close(outputs, torch.cat([one.flatten(1) for one in expected], 1), rtol=1e-4, atol=1e-5)


class Sized(nn.Module):
    """A pyramid's step to the very size of the map below, as torchvision's has it: 16 x 13 pixels from 8 x 7."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, 2, 1)

    def forward(self, x):
        low = self.one(x)
        high = self.two(low)
        return {"0": low + nn.functional.interpolate(high, size=low.shape[-2:], mode="nearest"), "1": high}


@torch.no_grad()
def test_a_map_that_is_brought_to_the_size_of_another_takes_any_number_of_images(tmp_path, images):
    found = from_module(module := Sized(), (3, 16, 13), "net")
    spec = spec_of(found).model_copy(update={"input_shape": (3, 16, 13)})
    source = save_checkpoint(found.weights, spec, tmp_path / "net.safetensors", stage="import")
    expected = torch.cat([one.flatten(1) for one in module(images[..., :13]).values()], 1)
    for config in (ExportConfig(), ExportConfig(dynamic=True), ExportConfig(half=True)):
        with runner_for(export(source, config, tmp_path / f"{config.half}{config.dynamic}").output) as runner:
            actual = infer_all(runner, images[..., :13].contiguous().numpy())
        assert abs(actual - expected.numpy()).max() < (1e-2 if config.half else 1e-5)
