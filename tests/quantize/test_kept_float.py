"""Units left float for a loss, and skips for a signal-to-noise ratio."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from edgeres.core.artifacts import FLOAT_SKIPS_KEY
from edgeres.core.errors import InputError, StageError
from edgeres.graph.blocks import skips_in
from edgeres.graph.execute import GraphNetwork
from edgeres.graph.view import GraphView
from edgeres.quantize.decision import Decision
from edgeres.quantize.insert import with_pairs
from edgeres.quantize.kept_float import skips_left_float, units_left_float
from edgeres.quantize.lint import lint, problems
from edgeres.quantize.placement import Options, observed_of, placement_of
from edgeres.quantize.profiles import set_metadata
from edgeres.quantize.repair import repair
from edgeres.quantize.simulate import QuantizedNetwork

IMAGES = np.random.default_rng(0).standard_normal((96, 1, 8, 8), np.float32)
JUDGE = IMAGES[24:]
EVERY = ("layer1.0.skip", "layer2.0.skip", "layer3.0.skip")
ADDITION = "layer2.0.add"


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


def choose(model, *, max_loss=1.0, costs=None, decision=None):
    decision = decision or decision_from(model)
    return units_left_float(model, decision, Options(), images=IMAGES, max_loss=max_loss, latency=costs)


def loss_with(model, keep) -> float:
    network = QuantizedNetwork(model, Options(), decision_from(model))
    return network.fidelity(frozenset(keep), network.batches(JUDGE)).loss


@pytest.mark.parametrize("damaged", ["layer1.0", "layer2.0", "layer3.0"])
def test_the_damaged_module_is_found_and_left_out_of_int8(model, damaged):
    model = with_outlier(model, damaged)
    choice = choose(model, max_loss=1.0)
    assert damaged in choice.keep
    assert loss_with(model, choice.keep) <= 1.0
    assert damaged in choice.reason
    assert {row.unit for row in choice.rows if row.is_kept} == set(choice.keep)


def test_no_kept_unit_can_go_back_to_int8(model):
    model = with_outlier(with_outlier(model, "layer1.0"), "layer3.0")
    choice = choose(model, max_loss=1.0)
    assert len(choice.keep) >= 1
    for unit in choice.keep:
        assert loss_with(model, {*choice.keep} - {unit}) > 1.0


def test_nothing_is_kept_where_the_loss_is_allowed(model):
    choice = choose(with_outlier(model, "layer2.0"), max_loss=100.0)
    assert choice.keep == ()
    assert "nothing is left float" in choice.reason


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


def test_a_loss_that_does_not_come_from_int8_is_said_so(model):
    bias = np.zeros(10, np.float32)
    bias[0] = 1000
    decision = Decision(decision_from(model).amax, tensors={"fc.bias": bias})
    with pytest.raises(StageError, match="comes from replaced weights or biases"):
        choose(model, max_loss=0.5, decision=decision)


def decision_for(model: onnx.ModelProto, images: np.ndarray, **factors: float) -> Decision:
    """The largest values; `factors` are of the skip tensors that end a module, "layer2.0" written layer2_0."""
    with torch.inference_mode():
        values = GraphNetwork(model).values(torch.from_numpy(images), observed_of(model))
    amax = {name: float(value.abs().max()) for name, value in values.items()}
    view = GraphView(model)
    nodes = {node.name: node for node in view.nodes}
    for module, factor in factors.items():
        addition = nodes[skips_in(view)[f"{module.replace('_', '.')}.skip"]]
        (point,) = [p for p in placement_of(model).points if any(reader[0] == addition.name for reader in p.readers)]
        amax[point.scale_of] *= factor
    return Decision(amax)


@pytest.fixture
def projected(onnx_of) -> onnx.ModelProto:
    """A network whose second and third module have a projection, so that their skip has a pair of its own."""
    return onnx_of(shortcut="B").proto


def choose_skips(model, images_of, decision, min_sqnr, **more):
    images = np.concatenate([images_of(16, seed=1), images_of(48, seed=2)])
    return skips_left_float(model, decision, Options(), images=images, min_sqnr=min_sqnr, **more)


def sqnr_with(model, images_of, decision, keep) -> float:
    network = QuantizedNetwork(model, Options(), decision)
    return network.fidelity(frozenset(keep), network.batches(images_of(48, seed=2))).sqnr_db


def test_a_module_whose_skip_is_kept_has_quantized_layers_and_a_float_addition(projected):
    placement = placement_of(projected, Options(keep=("layer2.0.skip",)))
    assert placement.layers == placement_of(projected).layers
    assert ADDITION not in placement.additions
    assert len(placement.additions) == 2
    assert not any(reader[0] == ADDITION for point in placement.points for reader in point.readers)


def test_the_shared_pair_of_an_identity_module_serves_its_first_layer_alone(projected):
    readers = [point.readers for point in placement_of(projected, Options(keep=("layer1.0.skip",))).points]
    assert (("layer1.0.conv1", 0),) in readers


@pytest.mark.parametrize("damaged", ["layer2_0", "layer3_0"])
def test_the_skip_that_disturbs_most_is_left_float(damaged, projected, images_of):
    decision = decision_for(projected, images_of(64), **{damaged: 12.0})
    name = f"{damaged.replace('_', '.')}.skip"
    before, without = (sqnr_with(projected, images_of, decision, keep) for keep in ([], [name]))
    assert without > before + 3
    choice = choose_skips(projected, images_of, decision, (before + without) / 2)
    assert choice.keep == (name,)
    assert f"left float: {name} (1 of 3 skips" in choice.reason


def test_no_skip_that_is_kept_can_go_back_to_int8(projected, images_of):
    decision = decision_for(projected, images_of(64), layer1_0=1.0, layer2_0=8.0, layer3_0=8.0)
    goal = sqnr_with(projected, images_of, decision, EVERY) - 0.5
    choice = choose_skips(projected, images_of, decision, goal)
    assert choice.keep
    for skip in choice.keep:
        assert sqnr_with(projected, images_of, decision, {*choice.keep} - {skip}) < goal


def test_nothing_is_left_float_where_the_noise_is_small_enough(projected, images_of):
    choice = choose_skips(projected, images_of, decision_for(projected, images_of(64)), 1.0)
    assert choice.keep == ()
    assert "no skip is left float (48 train images)" in choice.reason
    assert [row.unit for row in choice.rows] == list(EVERY)


def test_what_float_skips_cannot_reach_is_refused_with_what_they_do(projected, images_of):
    with pytest.raises(StageError, match=r"keep \d+\.\d dB with every skip float, less than 90; ask for less, or"):
        choose_skips(projected, images_of, decision_for(projected, images_of(64)), 90.0)


def test_where_skips_cannot_reach_it_those_that_gain_next_to_nothing_stay_in_int8(projected, images_of):
    decision = decision_for(projected, images_of(64), layer2_0=16.0)
    every, one = (sqnr_with(projected, images_of, decision, keep) for keep in (EVERY, ["layer2.0.skip"]))
    assert every - 0.2 < one < 90
    choice = choose_skips(projected, images_of, decision, 90.0, or_near=True)
    assert choice.keep == ("layer2.0.skip",)
    assert "90 asked for; left float: layer2.0.skip (1 of 3 skips" in choice.reason
    assert choice.reason.endswith(f"; {every:.1f} dB with every skip float")


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_what_is_measured_is_what_is_written(shortcut, onnx_of, images_of):
    model = onnx_of(shortcut=shortcut).proto
    decision, x = decision_for(model, images_of(64)), torch.from_numpy(images_of(8, seed=3))
    keep = frozenset({"layer1.0.skip", "layer3.0.skip"})
    network = QuantizedNetwork(model, Options(), decision)
    written = with_pairs(model, placement_of(model, Options(keep=tuple(keep))), decision)
    assert torch.allclose(network.logits(x, keep), GraphNetwork(written)(x), atol=1e-4)
    reached = network.reached(x, keep)
    assert torch.allclose(network.logits_from(reached, "layer3.0.skip", keep), network.logits(x, keep), atol=1e-5)


def test_a_float_skip_is_a_finding_unless_it_is_meant_and_then_survives_a_repair(projected, images_of):
    decision = decision_for(projected, images_of(64))
    model = with_pairs(projected, placement_of(projected, Options(keep=("layer2.0.skip",))), decision)
    (finding,) = lint(model)
    assert (finding.rule, finding.severity, finding.node) == ("skip", "speed", ADDITION)
    set_metadata(model, FLOAT_SKIPS_KEY, skips_in(GraphView(projected))["layer2.0.skip"])
    (finding,) = lint(model)
    assert finding.severity == "note"
    assert "on purpose" in finding.reason
    repaired = repair(model).model
    assert not problems(lint(repaired))
    assert [one.node for one in lint(repaired)] == [ADDITION]
