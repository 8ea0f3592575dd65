"""A float ONNX file of another exporter, rewritten into the few operators that the placement rule reads.

    Constant, Identity, Dropout      gone: constants become initializers, readers read what was passed on
    constant sub-graphs              computed (transposed weights, folded shapes)
    Conv -> BatchNormalization       folded where nothing else reads the convolution
    MatMul (-> Add)                  Gemm with transB = 1, where a matrix meets constant weights
    Gemm with transB = 0, alpha ...  Gemm with transB = 1 and factors of 1
    ReduceMean over height, width    GlobalAveragePool (and Flatten without keepdims)
    Reshape to a row an image        Flatten, which takes any batch
    Resize to sizes that are known   Resize by scales, which takes any batch
    nameless nodes, initializers that are inputs too, opset below 13    named, removed, raised to 17

What it computes stays the same up to float rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, shape_inference

from edgeres.core.errors import InputError
from edgeres.core.onnx_file import is_on_integers
from edgeres.graph.draft import Draft, computed
from edgeres.graph.opset import at_opset
from edgeres.graph.view import QDQ, attribute

_PASSED_ON = frozenset({"Identity", "Dropout"})
_IMAGE_RANK, _MATRIX_RANK = 4, 2
_EPSILON = 1e-5
_PADDED, _SAME = frozenset({"Conv", "MaxPool", "AveragePool"}), (b"SAME_UPPER", b"SAME_LOWER")
_SAME_IN_BATCH = {"Reshape": 0, "Expand": 1}  # the size that leaves the number of images as it is
_TAKES = frozenset({"Gather", "Slice"})
_SIZES_AT = 3  # the place of a Resize's sizes, behind that of its scales
_OTHER_FLOATS = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})


def normalised(model: onnx.ModelProto, *, keeps_norms: bool = False) -> onnx.ModelProto:
    """A copy of the float `model` in the operators above; `keeps_norms`: for training, batch norms stay.

    Raises:
        InputError: it is quantized already, its weights are not float32, it has branches or loops, or it computes as
            in training.
    """
    _check(model)
    current = at_opset(model)
    shapes, draft = shapes_in(current), Draft(current)
    ranks = {name: len(shape) for name, shape in shapes.items()}
    draft.inputs = [value for value in draft.inputs if value.name not in draft.constants]
    draft.fold_constants()
    _refuse_other_floats(draft)
    _fold_shapes(draft)
    _refuse_training(draft)
    _pass_on(draft)
    if not keeps_norms:
        fold_batch_norms(draft)
    _unify_gemms(draft)
    _matmuls_to_gemms(draft, ranks)
    _means_to_pooling(draft, ranks)
    _rows_to_flatten(draft, shapes)
    _free_batch(draft, shapes)
    _resizes_by_scales(draft)
    _explicit_pads(draft, shapes)
    return draft.finish()


def _refuse_training(draft: Draft) -> None:
    """What is folded or passed on must be an inference: normalised by stored statistics, nothing dropped."""
    for node in draft.nodes:
        is_norm = node.op_type == "BatchNormalization" and (attribute(node, "training_mode", 0) or any(node.output[1:]))
        switch = node.input[2] if node.op_type == "Dropout" and len(node.input) > 2 else ""
        if is_norm or (switch and (draft.value(switch) is None or bool(draft.value(switch)))):
            what = f"{node.op_type} node {node.name!r}"
            raise InputError(f"{what} computes as in training; export the network in eval mode")


def _check(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type in QDQ or is_on_integers(node):
            raise InputError("the model is quantized already; use the float model it was made from")
    try:
        for tensor in model.graph.initializer:
            numpy_helper.to_array(tensor)
    except (ValueError, KeyError) as err:
        raise InputError(f"weights of {tensor.name!r} are damaged: {err}") from err


def _refuse_other_floats(draft: Draft) -> None:
    """What is cast from a constant of another kind is float32 by now: an exporter's epsilon is written in double."""
    for name in [name for node in draft.nodes for name in node.input if name in draft.constants]:
        if (number := draft.constants[name].data_type) in _OTHER_FLOATS:
            kind = TensorProto.DataType.Name(number).lower()
            raise InputError(f"weights of {name!r} are {kind}; export the model in float32")


def with_batch(model: onnx.ModelProto, batch: int | None) -> onnx.ModelProto:
    """`model`, changed in place to take so many images a call, any number without one."""
    shapes = [value.type.tensor_type.shape.dim for value in (*model.graph.input, *model.graph.output)]
    for size in (dims[0] for dims in shapes if dims):
        size.Clear()
        if batch is None:
            size.dim_param = "batch"
        else:
            size.dim_value = batch
    del model.graph.value_info[:]
    return model


def _pass_on(draft: Draft) -> None:
    """Removes what changes nothing; the graph's outputs keep their names."""
    for node in [node for node in draft.nodes if node.op_type in _PASSED_ON]:
        draft.remove([node])
        draft.replace_tensor(node.output[0], node.input[0])


def fold_batch_norms(
    draft: Draft, only: Callable[[onnx.NodeProto], bool] | None = None
) -> list[tuple[onnx.NodeProto, str, NDArray[np.float64]]]:
    """Folds every batch norm that alone reads a convolution, of those that `only` takes, computed in float64.

    w' = w f,  b' = (b - mean) f + beta,  f = gamma / sqrt(var + eps)

    Returns (the convolution, its weight's name before, the factor f of each row).
    """
    folded = []
    for norm in [node for node in draft.nodes if node.op_type == "BatchNormalization"]:
        layer = draft.producers.get(norm.input[0])
        if layer is None or layer.op_type != "Conv" or (only is not None and not only(layer)):
            continue
        own, parameters = _values(draft, layer.input[1:]), _values(draft, norm.input[1:5])
        if own and parameters and len(draft.readers[norm.input[0]]) == 1 and norm.input[0] not in draft.outputs:
            (weight, *biases), (gamma, beta, mean, variance) = own, (one.astype(np.float64) for one in parameters)
            factor = gamma / np.sqrt(variance + attribute(norm, "epsilon", _EPSILON))
            scaled = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
            bias = ((biases[0] if biases else 0.0) - mean) * factor + beta
            folded.append((layer, str(layer.input[1]), factor))
            _set_parameters(draft, layer, [array.astype(weight.dtype) for array in (scaled, bias)])
            layer.output[0] = norm.output[0]
            draft.remove([norm])
    return folded


def _unify_gemms(draft: Draft) -> None:
    for node in [node for node in draft.nodes if node.op_type == "Gemm"]:
        alpha, beta = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
        is_plain = attribute(node, "transB", 0) == 1 and alpha == beta == 1
        parameters = _values(draft, node.input[1:])
        if is_plain or attribute(node, "transA", 0) or not parameters:
            continue
        weight, *bias = parameters
        weight = weight if attribute(node, "transB", 0) else weight.T
        if not all(_is_row(one, len(weight)) for one in bias):
            continue
        rows = [np.broadcast_to(beta * one.reshape(-1), len(weight)) for one in bias]
        _set_parameters(draft, node, [alpha * weight, *rows])
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("transB", 1))


def _matmuls_to_gemms(draft: Draft, ranks: dict[str, int]) -> None:
    for node in [node for node in draft.nodes if node.op_type == "MatMul"]:
        weight = draft.value(node.input[1])
        if weight is None or weight.ndim != _MATRIX_RANK or ranks.get(node.input[0]) != _MATRIX_RANK:
            continue
        parameters = [weight.T]
        if (found := _bias_after(draft, node, weight.shape[1])) is not None:
            addition, bias = found
            parameters.append(bias)
            node.output[0] = addition.output[0]
            draft.remove([addition])
        node.op_type = "Gemm"
        _set_parameters(draft, node, parameters)
        node.attribute.append(helper.make_attribute("transB", 1))


def _bias_after(draft: Draft, node: onnx.NodeProto, outputs: int) -> tuple[onnx.NodeProto, NDArray[Any]] | None:
    """The addition of a constant row that alone reads `node`, and the row."""
    readers = [reader for reader, _ in draft.readers[node.output[0]]]
    if len(readers) != 1 or readers[0].op_type != "Add" or node.output[0] in draft.outputs:
        return None
    rows = [row for name in readers[0].input if (row := draft.value(name)) is not None]
    fits = len(rows) == 1 and _is_row(rows[0], outputs)
    return (readers[0], np.broadcast_to(rows[0].reshape(-1), outputs)) if fits else None


def _is_row(array: NDArray[Any], outputs: int) -> bool:
    """Whether it adds the same to every image: a number, or one for each output."""
    return array.ndim <= _MATRIX_RANK and (array.size == 1 or array.shape[-1] == array.size == outputs)


def _means_to_pooling(draft: Draft, ranks: dict[str, int]) -> None:
    nodes = []
    for node in draft.nodes:
        nodes.append(node)
        if node.op_type != "ReduceMean" or ranks.get(node.input[0]) != _IMAGE_RANK:
            continue
        axes = draft.value(node.input[1]) if len(node.input) > 1 else attribute(node, "axes", [0])
        if axes is None or {int(axis) % _IMAGE_RANK for axis in axes} != {2, 3}:
            continue
        keeps, output = attribute(node, "keepdims", 1), node.output[0]
        pooled = output if keeps else f"{node.name}.pooled"
        nodes[-1] = helper.make_node("GlobalAveragePool", [node.input[0]], [pooled], name=node.name)
        if not keeps:
            nodes.append(helper.make_node("Flatten", [pooled], [output], name=f"{node.name}.flatten", axis=1))
    draft.nodes = nodes


def _fold_shapes(draft: Draft) -> None:
    """Sizes that the graph asks for and that are known become constants, as long as that makes others known."""
    while asking := [node for node in draft.nodes if node.op_type == "Shape"]:
        shapes, readers = shapes_in(draft.written()), draft.readers
        told = [
            (one, value)
            for node in asking
            for one, value in _told_by(draft, node, shapes.get(node.input[0], ()), readers.get(node.output[0], []))
        ]
        if not told:
            return
        for node, value in told:
            draft.store(node.output[0], value)
        draft.remove([node for node, _ in told])
        draft.fold_constants()


def _told_by(
    draft: Draft, node: onnx.NodeProto, shape: tuple[int, ...], readers: Sequence[tuple[onnx.NodeProto, int]]
) -> Iterator[tuple[onnx.NodeProto, NDArray[Any]]]:
    """(the Shape or what takes known sizes of it, its value): the number of images may be open."""
    sizes = np.array(shape[attribute(node, "start", 0) : attribute(node, "end", len(shape))], np.int64)
    if shape and all(shape):
        yield node, sizes
        return
    for reader, place in readers if shape else ():
        if reader.op_type in _TAKES and place == 0:
            taken = computed(reader, lambda name: sizes if name == node.output[0] else draft.value(name))
            if taken is not None and taken.all():
                yield reader, taken


def _explicit_pads(draft: Draft, shapes: dict[str, tuple[int, ...]]) -> None:
    """auto_pad, which keeps the size over the stride, becomes the numbers it stands for where sizes are known."""
    for node in [node for node in draft.nodes if node.op_type in _PADDED]:
        kind, sizes = attribute(node, "auto_pad", b"NOTSET"), shapes.get(node.input[0], ())[2:]
        if kind not in _SAME or not sizes or not all(sizes):
            continue
        weight = draft.value(node.input[1]) if node.op_type == "Conv" else None
        kernel = attribute(node, "kernel_shape", [] if weight is None else list(weight.shape[2:]))
        ones = [1] * len(kernel)
        steps, gaps = attribute(node, "strides", ones), attribute(node, "dilations", ones)
        spans = zip(sizes, kernel, steps, gaps, strict=True)
        missing = [max(0, (-(-size // step) - 1) * step + (k - 1) * gap + 1 - size) for size, k, step, gap in spans]
        less, more = [one // 2 for one in missing], [one - one // 2 for one in missing]
        kept = [entry for entry in node.attribute if entry.name not in {"auto_pad", "pads"}]
        del node.attribute[:]
        pads = [*less, *more] if kind == _SAME[0] else [*more, *less]
        node.attribute.extend([*kept, helper.make_attribute("pads", pads)])


def _free_batch(draft: Draft, shapes: dict[str, tuple[int, ...]]) -> None:
    """A Reshape or an Expand that names the number of images it was exported with takes any."""
    batch = shapes.get(draft.inputs[0].name, (0,))[0] if draft.inputs else 0
    for node in [node for node in draft.nodes if node.op_type in _SAME_IN_BATCH and batch]:
        asked, before = draft.value(node.input[1]), shapes.get(node.input[0], (0,))
        if asked is None or not len(asked) or attribute(node, "allowzero", 0):
            continue
        if asked[0] == batch == before[0]:
            sizes = [_SAME_IN_BATCH[node.op_type], *asked[1:]]
        elif node.op_type == "Reshape" and batch > 1 and asked[0] % batch == 0 and min(asked) > 0:
            sizes = [-1, *asked[1:]]
        else:
            continue
        node.input[1] = draft.store(draft.free(f"{node.name}.shape"), np.array(sizes, np.int64))


def _resizes_by_scales(draft: Draft) -> None:
    """A Resize to sizes names the number of images it was exported with; by scales it takes any."""
    nodes = [node for node in draft.nodes if node.op_type == "Resize" and len(node.input) == _SIZES_AT + 1]
    shapes = shapes_in(draft.written()) if nodes else {}
    for node in nodes:
        asked, before = draft.value(node.input[_SIZES_AT]), shapes.get(node.input[0], ())
        if asked is None or len(asked) != len(before) or not all(before) or asked[0] != before[0]:
            continue
        sizes = np.array(before, np.float64)
        scales = (asked / sizes).astype(np.float32)
        while (is_short := np.floor(sizes * scales) < asked).any():  # what is rounded off must not be a pixel
            scales = np.where(is_short, np.nextafter(scales, np.float32(math.inf)), scales)
        del node.input[_SIZES_AT - 1 :]
        node.input.append(draft.store(draft.free(f"{node.name}.scales"), scales))


def _rows_to_flatten(draft: Draft, shapes: dict[str, tuple[int, ...]]) -> None:
    """Reshape of feature maps to one row an image, which may name the batch of the export, takes any batch."""
    for node in [node for node in draft.nodes if node.op_type == "Reshape"]:
        before, after = shapes.get(node.input[0], ()), shapes.get(node.output[0], ())
        asked = draft.value(node.input[1])
        if asked is not None and _is_row_an_image(before, after, asked):
            node.op_type = "Flatten"
            del node.input[1:], node.attribute[:]
            node.attribute.append(helper.make_attribute("axis", 1))


def _is_row_an_image(before: tuple[int, ...], after: tuple[int, ...], asked: NDArray[Any]) -> bool:
    if len(before) != _IMAGE_RANK or len(after) != _MATRIX_RANK:
        return False
    size = math.prod(before[1:])
    return bool(before[0] and before[0] == after[0]) or (size > 0 and asked[1] == size) or list(asked) == [0, -1]


def shapes_in(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Of every tensor whose number of dimensions is known; a size that is open is 0."""
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    types = {value.name: value.type.tensor_type for value in values}
    known = {name: kind.shape.dim for name, kind in types.items() if kind.HasField("shape")}
    return {name: tuple(max(size.dim_value, 0) for size in dims) for name, dims in known.items()}


def _values(draft: Draft, names: Sequence[str]) -> list[NDArray[Any]]:
    """The constants of those `names` that are given; nothing if one of them is computed."""
    found = [array for name in names if (array := draft.value(name)) is not None]
    return found if len(found) == len(list(filter(None, names))) else []


def _set_parameters(draft: Draft, node: onnx.NodeProto, arrays: Sequence[NDArray[Any]]) -> None:
    """The node reads its first input and `arrays`, stored under names of its own."""
    del node.input[1:]
    for suffix, array in zip(("weight", "bias"), arrays, strict=False):
        node.input.append(draft.store(draft.free(f"{node.name}.{suffix}.normalised"), array))
