"""Engines described layer by layer, made up from the graph they would be built from."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
import pytest
from onnx import TensorProto, helper

from edgeres.compile.layer_report import layer_report
from edgeres.compile.layers import layers_in

TYPES = {"INT8": "Int8", "FP16": "Half", "FP32": "Float"}
PHRASES = {"INT8": "Thirty-two wide channel vectorized row major Int8 format", "FP16": "FP16 format", "FP32": "FP32"}


def port(name: str, precision: str, dialect: int) -> dict[str, object]:
    kind = {"Format/Datatype": PHRASES[precision]} if dialect < 11 else {"DataType": TYPES[precision]}
    return {"Name": name, "Dimensions": [1, 8, 8, 8], **kind}


def layer(
    nodes: Iterable[str],
    reads: dict[str, str],
    writes: dict[str, str],
    *,
    kind: str = "CaskConvolution",
    weights: str | None = None,
    dialect: int = 10,
) -> dict[str, object]:
    """One layer made from `nodes`; `reads` and `writes`: tensor -> precision."""
    found = {
        "Name": " + ".join(nodes),
        "LayerType": kind,
        "Inputs": [port(name, precision, dialect) for name, precision in reads.items()],
        "Outputs": [port(name, precision, dialect) for name, precision in writes.items()],
        "Metadata": "\x1e".join(f"[ONNX Layer: {name}]" for name in nodes),
    }
    return found | ({"Weights": {"Type": TYPES[weights], "Count": 1}} if weights else {})


def fused_engine(model: onnx.ModelProto, *, dialect: int = 10, precision: str = "INT8") -> list[dict[str, object]]:
    """Every convolution one kernel with what follows it, additions inside the second of a module."""
    layers = []
    readers = {tensor: node for node in model.graph.node for tensor in node.input}
    skips = {
        node.name: tensor
        for node in model.graph.node
        if node.op_type == "Add"
        for tensor in node.input
        if not tensor.endswith("conv2")
    }
    for node in model.graph.node:
        if node.op_type == "Conv":
            nodes, reads = [node], {node.input[0]: precision}
            while (following := readers.get(nodes[-1].output[0])) is not None and following.op_type in {"Add", "Relu"}:
                nodes.append(following)
                if following.op_type == "Add":
                    reads[skips[following.name]] = precision
            writes = {nodes[-1].output[0]: precision}
            layers.append(layer([one.name for one in nodes], reads, writes, weights=precision, dialect=dialect))
    return layers


def report_of(layers: list[dict[str, object]], model: onnx.ModelProto):
    return layer_report(layers_in({"Layers": layers}, "FILE"), model)


@pytest.mark.parametrize("dialect", [10, 11])
def test_an_engine_with_all_additions_inside_int8_kernels(dialect, int8_model):
    model = int8_model.proto
    report = report_of(fused_engine(model, dialect=dialect), model)
    assert report.headline == "3/3 residual adds fused in INT8"
    assert [module.module for module in report.modules] == ["layer1.0", "layer2.0", "layer3.0"]
    assert all(module.reason is None and len(module.kernels) == 2 for module in report.modules)
    assert report.kernels == {"INT8": 8}  # the classifier is one


def test_an_addition_by_itself_has_a_kernel_and_a_reason(int8_model):
    model = int8_model.proto
    layers = fused_engine(model)
    index = next(i for i, one in enumerate(layers) if "layer2.0.add" in one["Name"])
    layers[index] = layer(["layer2.0.conv2"], {"x": "INT8"}, {"layer2.0.conv2": "FP32"}, weights="INT8")
    own = layer(["PWN(layer2.0.add", "layer2.0.relu_1)"], {"layer2.0.conv2": "FP32"}, {"y": "INT8"}, kind="PointWise")
    layers.insert(index + 1, own)
    report = report_of(layers, model)
    module = report.modules[1]
    assert (module.addition, module.precision) == ("standalone", "FP32")
    assert module.reason == "the graph allows it, TensorRT chose otherwise"
    assert [kernel.precision for kernel in module.kernels] == ["INT8", "INT8", "FP32"]
    assert report.headline == "2/3 residual adds fused in INT8, 1 standalone in FP32"


def test_a_skip_read_in_float_is_not_int8_and_the_graph_says_why(int8_model):
    model = onnx.ModelProto()
    model.CopyFrom(int8_model.proto)
    addition = next(node for node in model.graph.node if node.name == "layer1.0.add")
    skip = next(i for i, tensor in enumerate(addition.input) if tensor.endswith("dequantized"))
    addition.input[skip] = "relu"
    layers = fused_engine(model)
    for one in layers:
        if "layer1.0.add" in one["Name"]:
            one["Inputs"][1] = port("relu", "FP32", 10)
    module = report_of(layers, model).modules[0]
    assert (module.addition, module.precision, module.is_int8) == ("fused", "INT8 and FP32", False)
    assert module.reason == "its skip has no Q/DQ pair"


def test_a_float_engine_fuses_in_its_own_precision(float_model):
    report = report_of(fused_engine(float_model.proto, precision="FP16"), float_model.proto)
    assert report.headline == "0/3 residual adds fused in INT8, 3 fused in FP16"
    assert report.modules[0].reason == "its convolution is float in the graph"


def test_a_branch_quantized_before_the_addition_is_told(int8_model):
    model = onnx.ModelProto()
    model.CopyFrom(int8_model.proto)
    nodes = list(model.graph.node)
    index = next(i for i, node in enumerate(nodes) if node.name == "layer1.0.add")
    branch = next(i for i, tensor in enumerate(nodes[index].input) if tensor.endswith("conv2"))
    pair = [
        helper.make_node("QuantizeLinear", ["layer1.0.conv2", "relu.scale", "relu.zero_point"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "relu.scale", "relu.zero_point"], ["dq"], name="dq"),
    ]
    nodes[index].input[branch] = "dq"
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:index], *pair, *nodes[index:]])
    layers = [layer(["layer1.0.add"], {"dq": "INT8", "s": "INT8"}, {"y": "INT8"}, kind="ElementWise")]
    module = report_of(layers, model).modules[0]
    assert module.addition == "standalone"
    assert module.reason == "no convolution's output is added directly: each is quantized first"


def test_reformats_belong_to_the_module_that_reads_them(int8_model):
    model = int8_model.proto
    copies = [
        layer(
            ["Reformatting CopyNode for Input Tensor 0 to conv1"], {"images": "FP32"}, {"c": "INT8"}, kind="Reformat"
        ),
        layer(
            ["Reformatting CopyNode for Input Tensor 1"], {"r": "FP32"}, {"relu.dequantized": "INT8"}, kind="Reformat"
        ),
    ]
    report = report_of([*copies, *fused_engine(model)], model)
    assert report.reformats == 2
    assert [module.reformats for module in report.modules] == [1, 0, 0]
    assert report.kernels == {"INT8": 8}  # the classifier is one


def test_a_region_that_is_not_described_is_no_claim(int8_model):
    model = int8_model.proto
    region = layer(["{ForeignNode[layer1.0.conv1...layer2.0.relu_1]}"], {"x": "INT8"}, {"y": "INT8"}, kind="Myelin")
    report = report_of([region], model)
    assert [module.addition for module in report.modules] == ["inside a region", "inside a region", "not found"]
    assert report.headline.startswith("0/3 residual adds fused in INT8, 2 inside a region in INT8")
    assert "was the engine built from this graph?" in report.modules[2].reason


def test_pairs_that_became_kernels_are_counted(int8_model):
    quantizer = layer(["images.quantized"], {"images": "FP32"}, {"images.quantized": "INT8"}, kind="Scale")
    report = report_of([quantizer, *fused_engine(int8_model.proto)], int8_model.proto)
    assert report.quantizers == 1


def test_a_pair_named_after_the_module_before_does_not_move_its_reader(int8_model):
    model = int8_model.proto
    layers = fused_engine(model)
    for one in layers:
        if one["Name"].startswith("layer2.0.conv1"):
            one["Name"] = "layer1.0.relu_1.dequantized + " + one["Name"]
    assert [len(module.kernels) for module in report_of(layers, model).modules] == [2, 2, 2]


def test_graphs_of_other_tools_are_told_by_their_additions():
    float32 = TensorProto.FLOAT
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="Conv_0"),
        helper.make_node("Add", ["x", "c"], ["s"]),
        helper.make_node("Add", ["s", "b"], ["y"], name="bias"),
    ]
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("x", float32, [1, 1, 4, 4])],
        [helper.make_tensor_value_info("y", float32, [1, 1, 4, 4])],
        [helper.make_tensor("w", float32, [1, 1, 1, 1], [1.0]), helper.make_tensor("b", float32, [1], [1.0])],
    )
    fused = layer(["Conv_0", "node_of_s"], {"x": "FP32"}, {"s": "FP32"}, weights="FP32")
    report = report_of([fused], helper.make_model(graph))
    assert [module.module for module in report.modules] == ["s"]
    assert report.headline == "0/1 residual adds fused in INT8, 1 fused in FP32"


def test_a_network_without_additions_says_so(int8_model):
    model = onnx.ModelProto()
    model.CopyFrom(int8_model.proto)
    kept = [node for node in model.graph.node if node.op_type != "Add"]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    assert report_of(fused_engine(model), model).headline == "no residual adds"
