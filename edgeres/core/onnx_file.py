"""What an ONNX file that edgeres did not write says of itself: where its weights lie, and the card it would have.

    input     one, float32 images (N, C, H, W) or, where only the last axis can be channels, (N, H, W, C)
    output    float32 (N, K) of K classes, (N, D) of an embedding, anything else an image, or several of that
    params    stored numbers that nodes compute with, statistics of batch norms, scales and zero points excluded
    MACs      of an image: convolutions and matrix products, 0 (unknown) if a shape of one cannot be inferred

How an image becomes the input is nowhere in the graph: the preprocessing is unknown until somebody states it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgeres.core.config import config_from
from edgeres.core.errors import InputError, reason_of, require
from edgeres.core.safe_text import typed
from edgeres.core.spec import FROM_ONNX, UNKNOWN_PREPROCESS, Card, Cost, ModelSpec, Task

INPUT_NAME, OUTPUT_NAME = "images", "logits"  # of every graph that edgeres writes
_IMAGE_RANK, _LOGITS_RANK, _FEWEST_CLASSES = 4, 2, 2
_USUAL = 224  # pixels a side
_CHANNELS = (1, 3)  # grey or colour
_SMALL = 1024  # numbers of a constant that may be a shape; larger ones are weights, whose values decide no shape
_WEIGHT_AT = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
_PRODUCTS = frozenset(
    {"Gemm", "MatMul", "MatMulInteger", "QLinearMatMul", "QGemm", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"}
)
_INTEGERS = ("QLinear", "ConvInteger", "MatMulInteger", "DynamicQuantize", "QAttention", "QGemm")
_FIRST_ONLY = frozenset({"QuantizeLinear", "DequantizeLinear", "Clip", "Pad", "Resize"})  # the rest are settings
_PARAMETERS_AT = {  # weight and bias of operators whose inputs are scales and zero points too
    "QLinearConv": (3, 8),
    "QGemm": (3, 6),
    "QLinearMatMul": (3,),
    "ConvInteger": (1,),
    "MatMulInteger": (1,),
    "MatMulIntegerToFloat": (1, 6),
    "DynamicQuantizeMatMul": (1, 4),
}
_TELLS_SHAPES = 15  # opset
_NORM_PARAMETERS = 3  # input, scale and shift; mean and variance follow
_RESHAPES = frozenset({"Flatten", "Reshape", "Squeeze", "Identity", "Dropout"})
_POOLS = frozenset({"GlobalAveragePool", "GlobalMaxPool", "AveragePool", "MaxPool", "ReduceMean"})
_NORMS = frozenset({"BatchNormalization", "LayerNormalization", "LpNormalization"})
_ACTIVATIONS = frozenset({"Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "HardSwish", "Gelu", "Mul"})
_MARK = b"location"  # the key of every weight that lies elsewhere

Shape = tuple[int, ...]  # 0 where a size is open


def external_files(path: Path) -> tuple[Path, ...]:
    """The files beside `path` that hold weights of it, each once; none for most.

    Raises InputError if one is named outside the file's own folder, or is not there.
    """
    if not path.is_file() or _MARK not in path.read_bytes():
        return ()
    onnx = require("onnx", "onnx")
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception:  # whoever reads the graph says what is wrong with it
        return ()
    named = {
        entry.value
        for tensor in tensors_in(graph)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return tuple(_beside(path, name) for name in sorted(named))


def tensors_in(graph: Any) -> Iterator[Any]:
    """Every tensor that is stored in the graph: its own, of its nodes, and of the graphs inside them."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for entry in (entry for node in graph.node for entry in node.attribute):
        yield from (entry.t, *entry.tensors)
        for sparse in (entry.sparse_tensor, *entry.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        for inner in (entry.g, *entry.graphs):
            yield from tensors_in(inner)


def _beside(path: Path, name: str) -> Path:
    beside = path.parent / name
    folder = path.parent.resolve()
    if folder not in beside.resolve().parents:
        raise InputError(f"{path} keeps weights in {name!r}, which is not in its folder; export it again")
    if not beside.is_file():
        raise InputError(f"{path} keeps weights in {name!r} beside it, which is not there; copy both")
    return beside


def image_input(model: Any, path: Path) -> tuple[str, Shape]:
    """(name, shape) of the one input; raises InputError in one line for a graph that takes no images."""
    onnx = require("onnx", "onnx")
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    if not inputs:
        raise InputError(f"{path} is not a network: the graph has no input")
    if len(inputs) > 1:
        names = ", ".join(value.name for value in inputs)
        raise InputError(f"{path} takes {len(inputs)} inputs ({names}); edgeres feeds one, images")
    tensor, shape = inputs[0].type.tensor_type, _shape_of(inputs[0])
    if tensor.elem_type != onnx.TensorProto.FLOAT:
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
        raise InputError(f"{path} takes {kind} input; edgeres feeds float32: export it with a float32 input")
    if len(shape) != _IMAGE_RANK:
        raise InputError(f"{path} takes {_worded(shape)}, not images: N x channels x height x width")
    if not all(shape[1:]):
        one = _worded([shape[0], *(size or _USUAL for size in shape[1:])])
        raise InputError(
            f"{path} takes {_worded(shape)}: export it for one size, such as {one}, or bring it in for one:"
            f" edgeres import {typed(path)} --size {_USUAL}"
        )
    return inputs[0].name, shape


def is_channels_last(image: Sequence[int]) -> bool:
    """Whether an input of (a, b, c) for an image can only be height, width and channels."""
    return image[-1] in _CHANNELS and image[0] not in _CHANNELS


def derived_card(model: Any, path: Path) -> Card:
    """The card of the onnx.ModelProto `model` of another tool; raises InputError if it takes no images."""
    _, (batch, *image) = image_input(model, path)
    if not model.graph.output:
        raise InputError(f"{path} is not a network: the graph has no output")
    shapes, gives = _inferred(model, path), dict[str, Shape]()
    for one in model.graph.output:
        with contextlib.suppress(InputError):  # what cannot be compared can be built and timed all the same
            gives[one.name] = _given(one, shapes, batch, model.graph, path)
    if not gives:
        check_compared(model, path)
    sizes = {name: math.prod(given) for name, given in gives.items()}
    spec = {
        "family": FROM_ONNX,
        "variant": path.stem,
        "num_classes": sum(sizes.values()),
        "task": told_task(model.graph, next(iter(gives.values()))),
        "parts": tuple(sizes.items()) if len(sizes) > 1 else (),
        "input_shape": (image[2], image[0], image[1]) if is_channels_last(image) else tuple(image),
        "preprocess": UNKNOWN_PREPROCESS,
    }
    cost = Cost(params=_params(model), macs=_macs(model, shapes) // (batch or 1))
    return Card(spec=config_from(ModelSpec, spec, str(path)), cost=cost, stage=FROM_ONNX)


def check_compared(model: Any, path: Path) -> None:
    """Raises InputError for an output of the onnx.ModelProto that cannot be held against another network's."""
    _, (batch, *_) = image_input(model, path)
    check_once([value.name for value in model.graph.output], str(path))
    shapes = _inferred(model, path)
    for one in model.graph.output:
        _given(one, shapes, batch, model.graph, path)


def _given(output: Any, shapes: Mapping[str, Shape], batch: int, graph: Any, path: Path) -> Shape:
    """The shape of an output for an image; raises InputError if it has no numbers for each, or others than float32."""
    if len(graph.output) > 1:
        _check_float(output, graph, str(path))
    declared, inferred = _shape_of(output), shapes.get(output.name, ())
    given = declared if declared and all(declared[1:]) else inferred or declared
    which = f" as {output.name!r}" if len(graph.output) > 1 else ""
    is_by_image = not which or (inferred or given)[:1] in ((0,), (batch or 1,))
    if len(given) < _LOGITS_RANK or not all(given[1:]) or not is_by_image:
        raise InputError(
            f"{path} gives {_worded(given)}{which}, not so many numbers for each image: N x classes, or N x others"
        )
    return given[1:]


def check_once(names: Sequence[str], where: str) -> None:
    """Raises InputError for an output that is there twice."""
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"{where} gives {twice!r} twice: give every output a name of its own")


def check_floats(graph: Any, where: str) -> None:
    """Raises InputError for an output that is not float32, or is there twice."""
    check_once([value.name for value in graph.output], where)
    for value in graph.output:
        _check_float(value, graph, where)


def _check_float(output: Any, graph: Any, where: str) -> None:
    types = require("onnx", "onnx").TensorProto
    kind = output.type.tensor_type.elem_type
    if kind not in {types.UNDEFINED, types.FLOAT}:
        maker = next((node.op_type for node in graph.node if output.name in node.output), "what makes it")
        raise InputError(
            f"{where} gives {output.name!r} in {types.DataType.Name(kind).lower()}, edgeres compares float32: end the"
            f" network before {maker}"
        )


def sizes_in(model: Any) -> tuple[int, ...]:
    """Of each of several outputs, how many numbers it has for an image."""
    if len(model.graph.output) < 2:
        return ()
    declared = [_shape_of(value) for value in model.graph.output]
    if not all(shape and all(shape[1:]) for shape in declared):
        shapes = _inferred(model, Path("the graph"))
        declared = [shapes[value.name] for value in model.graph.output]
    return tuple(math.prod(shape[1:]) for shape in declared)


def told_task(graph: Any, shape: Sequence[int]) -> Task:
    """What the graph is for, which has `shape` for an image if it has one output, by how it ends.

    A row of numbers is an embedding if it is normalised, or pooled from what a residual sum or a batch norm made;
    behind a linear layer, a convolution or a softmax it is scores of classes.
    """
    if len(graph.output) > 1 or len(shape) != 1 or shape[0] < _FEWEST_CLASSES:
        return "tensors"
    makers = {name: node for node in graph.node for name in node.output}
    weights = {tensor.name for tensor in graph.initializer}
    node = _before(makers.get(graph.output[0].name), makers, _RESHAPES)
    if node is None or node.op_type in _NORMS or (node.op_type == "Div" and node.input[1] not in weights):
        return "classes" if node is None else "embedding"
    if node.op_type not in _POOLS:
        return "classes"
    node = _before(node, makers, _POOLS | _RESHAPES)
    node = _before(node, makers, _ACTIVATIONS)
    return "embedding" if node is not None and node.op_type in {"Add", *_NORMS} else "classes"


def _before(node: Any, makers: Mapping[str, Any], kinds: Collection[str]) -> Any:
    """The first node that is none of `kinds`, from `node` back along first inputs."""
    while node is not None and node.op_type in kinds:
        node = makers.get(node.input[0])
    return node


def _shape_of(value: Any) -> Shape:
    return tuple(max(dim.dim_value, 0) for dim in value.type.tensor_type.shape.dim)


def _worded(shape: Sequence[int]) -> str:
    return " x ".join(str(size or ("N" if at == 0 else "?")) for at, size in enumerate(shape)) or "a single number"


def _inferred(model: Any, path: Path) -> dict[str, Shape]:
    """Tensor -> shape where it can be inferred, for one image if the batch is open; InputError for a broken graph."""
    values = [value for value in inferred_values(model, str(path)) if value.type.tensor_type.HasField("shape")]
    stored = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    return stored | {value.name: _shape_of(value) for value in values}


def inferred_values(model: Any, name: str) -> list[Any]:
    """What is known of the tensors, weights among them, as onnx.ValueInfoProto: types, and shapes of one image.

    Raises InputError, which calls the graph `name`, if it is broken.
    """
    onnx = require("onnx", "onnx")
    make, graph = onnx.helper.make_tensor_value_info, onnx.GraphProto(name="shapes")
    graph.node.extend(model.graph.node)
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= _SMALL:
            graph.initializer.append(tensor)
    kept = {tensor.name for tensor in graph.initializer}
    large = [tensor for tensor in model.graph.initializer if tensor.name not in kept]
    graph.input.extend(make(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in large)
    stored = {tensor.name for tensor in model.graph.initializer}
    for value in (value for value in model.graph.input if value.name not in stored):
        sizes = [size or 1 for size in _shape_of(value)]
        graph.input.append(make(value.name, value.type.tensor_type.elem_type, sizes))
    graph.output.extend(make(value.name, value.type.tensor_type.elem_type, None) for value in model.graph.output)
    whole = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, graph=graph)
    if any(node.op_type == "Shape" for node in graph.node):
        whole = _telling_shapes(whole)
    try:
        inferred = onnx.shape_inference.infer_shapes(whole, data_prop=True).graph
    except (RuntimeError, onnx.shape_inference.InferenceError) as err:
        raise InputError(f"{name} is no sound graph: {reason_of(err)}") from err
    return [*inferred.input, *inferred.value_info, *inferred.output]


def is_on_integers(node: Any) -> bool:
    """Whether its operator takes the place of Q/DQ pairs, which TensorRT does not know."""
    return bool(node.op_type.startswith(_INTEGERS))


def integer_operators(graph: Any) -> tuple[str, ...]:
    """Those of `is_on_integers`, each once."""
    return tuple(sorted({node.op_type for node in graph.node if is_on_integers(node)}))


def _telling_shapes(model: Any) -> Any:
    """`model` at the first opset whose Shape tells inference its value; as it is where it is newer or cannot be."""
    onnx = require("onnx", "onnx")
    versions = [one.version for one in model.opset_import if one.domain in ("", "ai.onnx")]
    with suppress(RuntimeError, onnx.shape_inference.InferenceError):
        if versions and max(versions) < _TELLS_SHAPES:
            return onnx.version_converter.convert_version(model, _TELLS_SHAPES)
    return model


def _params(model: Any) -> int:
    types = require("onnx", "onnx").TensorProto
    kinds = {types.FLOAT, types.FLOAT16, types.BFLOAT16, types.DOUBLE, types.INT8, types.UINT8}
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    counted = dict[str, int]()
    for node in model.graph.node:
        if node.op_type == "Constant":
            tensors.update((node.output[0], entry.t) for entry in node.attribute if entry.name == "value")
        is_quantized = node.op_type == "DequantizeLinear" or node.op_type in _PARAMETERS_AT  # whose biases are INT32
        for name, one in ((name, tensors[name]) for name in _operands(node) if name in tensors):
            if one.dims and (one.data_type in kinds or (is_quantized and one.data_type == types.INT32)):
                counted[name] = math.prod(one.dims)
    return sum(counted.values())


def _operands(node: Any) -> Sequence[str]:
    """The inputs a node computes with, its settings left out."""
    if node.op_type == "BatchNormalization":
        return list(node.input[:_NORM_PARAMETERS])
    if node.op_type in _PARAMETERS_AT:
        return [node.input[place] for place in _PARAMETERS_AT[node.op_type] if place < len(node.input)]
    return list(node.input[:1] if node.op_type in _FIRST_ONLY else node.input)


def _macs(model: Any, shapes: dict[str, Shape]) -> int:
    """0 if a shape is unknown that it takes to say so."""
    found = []
    for node in model.graph.node:
        if node.op_type in _WEIGHT_AT:
            weight = "".join(node.input[_WEIGHT_AT[node.op_type] :][:1])
            reduced = shapes.get(weight, (0, 0))[1:]
        elif node.op_type in _PRODUCTS:
            reduced = shapes.get("".join(node.input[:1]), (0,))[-1:]
        else:
            continue
        found.append(math.prod(shapes.get("".join(node.output[:1]), (0,))) * math.prod(reduced))
    return sum(found) if all(found) else 0
