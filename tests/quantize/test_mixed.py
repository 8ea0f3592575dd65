from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from edgeres.core.errors import InputError, StageError
from edgeres.graph.execute import GraphNetwork
from edgeres.quantize.decision import Decision
from edgeres.quantize.mixed import Budget, choose_kept
from edgeres.quantize.partial import PlacementArgs, QuantizedNetwork
from edgeres.quantize.placement import observed_of
from edgeres.quantize.search import HeldOut
from edgeres.quantize.sensitivity import sensitivities

IMAGES = np.random.default_rng(0).standard_normal((96, 1, 8, 8), np.float32)
ARGS = PlacementArgs()


def with_outlier(model: onnx.ModelProto, unit: str, factor: float = 3000.0) -> onnx.ModelProto:
    """The same function: one channel inside `unit` is `factor` times as large, and the next layer takes it back."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    stored = {tensor.name: tensor for tensor in result.graph.initializer}
    for name, index in ((f"{unit}.conv1.weight", 0), (f"{unit}.conv1.bias", 0), (f"{unit}.conv2.weight", (..., 0))):
        array = numpy_helper.to_array(stored[name]).copy()
        view = array if array.ndim < 2 or not isinstance(index, tuple) else np.moveaxis(array, 1, -1)
        view[index] *= np.float32(1 / factor if isinstance(index, tuple) else factor)
        stored[name].CopyFrom(numpy_helper.from_array(array, name))
    return result


@pytest.fixture
def model(onnx_of) -> onnx.ModelProto:
    """A network that is as sure of its guesses as a trained one."""
    result = onnx.ModelProto()
    result.CopyFrom(onnx_of().proto)
    for tensor in result.graph.initializer:
        if tensor.name in ("fc.weight", "fc.bias"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(300), tensor.name))
    return result


def decision_from(model: onnx.ModelProto) -> Decision:
    with torch.inference_mode():
        values = GraphNetwork(model).values(torch.from_numpy(IMAGES), observed_of(model))
    return Decision({name: float(value.abs().max()) for name, value in values.items()})


def choose(model, *, max_loss=1.0, costs=None, labels=None, decision=None):
    decision = decision or decision_from(model)
    found = sensitivities(model, ARGS, decision, IMAGES, labels)
    return choose_kept(
        model, ARGS, decision, found=found, held_out=HeldOut(IMAGES, labels), budget=Budget(max_loss, costs)
    )


@pytest.mark.parametrize("damaged", ["layer1.0", "layer2.0", "layer3.0"])
def test_the_damaged_module_is_found_and_left_out_of_int8(model, damaged):
    model = with_outlier(model, damaged)
    choice = choose(model, max_loss=1.0)
    assert damaged in choice.keep
    assert choice.fidelity.loss <= 1.0
    assert damaged in choice.reason
    assert {row.unit for row in choice.rows if row.is_kept} == set(choice.keep)


def test_no_kept_unit_can_go_back_to_int8(model):
    model = with_outlier(with_outlier(model, "layer1.0"), "layer3.0")
    choice = choose(model, max_loss=1.0)
    network = QuantizedNetwork(model, ARGS, decision_from(model))
    assert len(choice.keep) >= 1
    for unit in choice.keep:
        assert network.fidelity(frozenset(choice.keep) - {unit}, IMAGES, None).loss > 1.0


def test_nothing_is_kept_where_the_loss_is_allowed(model):
    choice = choose(with_outlier(model, "layer2.0"), max_loss=100.0)
    assert choice.keep == ()
    assert "nothing is left float" in choice.reason


def test_labels_decide_where_they_are_given(model):
    model = with_outlier(model, "layer2.0")
    with torch.inference_mode():
        labels = GraphNetwork(model)(torch.from_numpy(IMAGES)).argmax(1).numpy()
    choice = choose(model, max_loss=3.0, labels=labels)
    assert choice.reason.startswith("measured loss")
    assert choice.fidelity.measured_loss <= 3.0


def test_costs_come_from_the_table_and_say_what_was_estimated(model):
    model = with_outlier(model, "layer2.0")
    choice = choose(model, costs={"layer1.0": 2.0, "layer2.0": 1.0, "layer3.0": 0.5, "elsewhere": 9.0})
    costs = {row.unit: row.cost for row in choice.rows}
    assert costs["layer1.0"] == 2.0
    assert costs["fc"] > 0
    assert "estimated from multiply-accumulates for conv1, fc" in choice.reason


def test_without_a_table_cost_is_counted_in_multiply_accumulates(model):
    choice = choose(model)
    costs = {row.unit: row.cost for row in choice.rows}
    assert costs["conv1"] == 16 * 1 * 9 * 64
    assert costs["fc"] == 64 * 10


def test_a_table_without_any_time_is_refused(model):
    with pytest.raises(InputError, match="no unit of this network that takes any time"):
        choose(model, costs={"layer1.0": -0.1})


def test_a_negative_maximum_is_refused(model):
    with pytest.raises(InputError, match="cannot be kept; give 0 or more"):
        choose(model, max_loss=-1.0)


def test_a_loss_that_does_not_come_from_int8_is_said_so(model):
    bias = np.zeros(10, np.float32)
    bias[0] = 1000
    decision = Decision(decision_from(model).amax, tensors={"fc.bias": bias})
    with pytest.raises(StageError, match="comes from replaced weights or biases"):
        choose(model, max_loss=0.5, decision=decision)


def test_a_loss_that_so_few_labels_cannot_measure_is_refused(model):
    with pytest.raises(InputError, match=r"96 images cannot measure a loss of 0\.1 points, one image is 1\.04"):
        choose(model, max_loss=0.1, labels=np.zeros(96, np.int64))
