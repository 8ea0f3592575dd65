"""What a network's outputs are, told by the end of its graph."""

from __future__ import annotations

import pytest
from onnx import TensorProto, helper

from edgeres.core.config import config_from
from edgeres.core.errors import InputError
from edgeres.core.onnx_file import told_task
from edgeres.core.spec import ModelSpec, Preprocess


def graph_of(*ops: str):
    """A chain of operators from `x`; what Add and Div read besides is made of `x` too."""
    nodes, last = [], "x"
    for number, op in enumerate(ops):
        name = f"t{number}"
        more = {"Add": ["x"], "Div": ["norm"], "Gemm": ["w"], "Conv": ["w"]}.get(op, [])
        nodes.append(helper.make_node(op, [last, *more], [name]))
        last = name
    if "Div" in ops:
        nodes.insert(-1, helper.make_node("ReduceL2", [nodes[-1].input[0]], ["norm"]))
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    output = helper.make_tensor_value_info(last, TensorProto.FLOAT, None)
    return helper.make_graph(nodes, "g", [], [output], [weight])


@pytest.mark.parametrize(
    ("ops", "task"),
    [
        (("Add", "Relu", "GlobalAveragePool", "Flatten"), "embedding"),
        (("Conv", "BatchNormalization", "Clip", "ReduceMean"), "embedding"),
        (("Add", "GlobalAveragePool", "Reshape", "Div"), "embedding"),
        (("Flatten", "Gemm", "BatchNormalization"), "embedding"),  # ArcFace's end
        (("Flatten", "Gemm", "LpNormalization"), "embedding"),
        (("Add", "Relu", "GlobalAveragePool", "Flatten", "Gemm"), "classes"),
        (("GlobalAveragePool", "Flatten", "Gemm", "Softmax"), "classes"),
        (("Conv", "Relu", "GlobalAveragePool", "Flatten"), "classes"),  # SqueezeNet's end
        (("GlobalAveragePool", "Conv", "Flatten"), "classes"),  # MobileNetV3's in some files
    ],
)
def test_a_row_of_numbers_is_told_by_what_makes_it(ops: tuple[str, ...], task: str) -> None:
    assert told_task(graph_of(*ops), (64,)) == task


@pytest.mark.parametrize("shape", [(1,), (64, 7, 7), (10, 4)])
def test_what_is_no_row_of_two_is_plain_numbers(shape: tuple[int, ...]) -> None:
    assert told_task(graph_of("Flatten", "Gemm"), shape) == "tensors"


def spec_with(**values: object) -> ModelSpec:
    base = {"family": "graph", "variant": "mine", "num_classes": 64, "input_shape": (3, 8, 8)}
    return config_from(ModelSpec, {**base, "preprocess": Preprocess(mean=(0.5,), std=(0.5,)), **values}, "spec")


def test_a_card_of_classes_says_nothing_of_its_task() -> None:
    assert "task" not in spec_with().model_dump()
    assert spec_with(task="embedding").model_dump()["task"] == "embedding"


def test_what_needs_classes_is_refused_by_the_networks_own_words() -> None:
    spec_with().check_classes("--max-loss")
    with pytest.raises(InputError, match=r"--max-loss is for networks that give scores of classes; mine gives an embe"):
        spec_with(task="embedding").check_classes("--max-loss")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_classes": 1}, "1 class: a network that classifies has two or more"),
        (
            {"task": "embedding", "classes": tuple(map(str, range(64)))},
            "class names of a network that gives no classes",
        ),
    ],
)
def test_a_contradictory_card_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        spec_with(**values)
