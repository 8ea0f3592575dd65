"""Skips left float for a signal-to-noise ratio."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from edgeres.core.artifacts import FLOAT_SKIPS_KEY
from edgeres.core.errors import StageError
from edgeres.graph.blocks import skips_in
from edgeres.graph.execute import GraphNetwork
from edgeres.graph.view import GraphView
from edgeres.quantize.decision import Decision
from edgeres.quantize.insert import with_pairs
from edgeres.quantize.lint import lint, problems
from edgeres.quantize.partial import PlacementArgs, QuantizedNetwork
from edgeres.quantize.placement import observed_of, placement_of
from edgeres.quantize.profiles import set_metadata
from edgeres.quantize.repair import repair
from edgeres.quantize.skips import choose_float_skips

ARGS = PlacementArgs()
EVERY = ("layer1.0.skip", "layer2.0.skip", "layer3.0.skip")
ADDITION = "layer2.0.add"


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


def choose(model, images_of, decision, min_sqnr):
    rank, judge = images_of(24, seed=1), images_of(40, seed=2)
    return choose_float_skips(model, ARGS, decision, rank=rank, judge=judge, min_sqnr=min_sqnr)


def test_a_module_whose_skip_is_kept_has_quantized_layers_and_a_float_addition(projected):
    placement = placement_of(projected, keep=["layer2.0.skip"])
    assert placement.layers == placement_of(projected).layers
    assert ADDITION not in placement.additions
    assert len(placement.additions) == 2
    assert not any(reader[0] == ADDITION for point in placement.points for reader in point.readers)


def test_the_shared_pair_of_an_identity_module_serves_its_first_layer_alone(projected):
    readers = [point.readers for point in placement_of(projected, keep=["layer1.0.skip"]).points]
    assert (("layer1.0.conv1", 0),) in readers


@pytest.mark.parametrize("damaged", ["layer2_0", "layer3_0"])
def test_the_skip_that_disturbs_most_is_left_float(damaged, projected, images_of):
    decision = decision_for(projected, images_of(64), **{damaged: 12.0})
    network = QuantizedNetwork(projected, ARGS, decision)
    name, judge = f"{damaged.replace('_', '.')}.skip", images_of(40, seed=2)
    before, without = (network.fidelity(frozenset(keep), judge, None).sqnr_db for keep in ([], [name]))
    assert without > before + 3
    choice = choose(projected, images_of, decision, (before + without) / 2)
    assert choice.keep == (name,)
    assert choice.fidelity.sqnr_db == pytest.approx(without)
    assert f"left float: {name} (1 of 3 skips" in choice.reason


def test_no_skip_that_is_kept_can_go_back_to_int8(projected, images_of):
    decision = decision_for(projected, images_of(64), layer1_0=1.0, layer2_0=8.0, layer3_0=8.0)
    network, judge = QuantizedNetwork(projected, ARGS, decision), images_of(40, seed=2)
    goal = network.fidelity(frozenset(EVERY), judge, None).sqnr_db - 0.5
    choice = choose(projected, images_of, decision, goal)
    assert choice.keep
    for skip in choice.keep:
        assert network.fidelity(frozenset(choice.keep) - {skip}, judge, None).sqnr_db < goal


def test_nothing_is_left_float_where_the_noise_is_small_enough(projected, images_of):
    choice = choose(projected, images_of, decision_for(projected, images_of(64)), 1.0)
    assert choice.keep == ()
    assert "no skip is left float (40 train images)" in choice.reason
    assert [row.unit for row in choice.rows] == list(EVERY)


def test_what_float_skips_cannot_reach_is_refused_with_what_they_do(projected, images_of):
    with pytest.raises(StageError, match=r"keep \d+\.\d dB with every skip float, less than 90; ask for less, or"):
        choose(projected, images_of, decision_for(projected, images_of(64)), 90.0)


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_what_is_measured_is_what_is_written(shortcut, onnx_of, images_of):
    model = onnx_of(shortcut=shortcut).proto
    decision, x = decision_for(model, images_of(64)), torch.from_numpy(images_of(8, seed=3))
    keep = frozenset({"layer1.0.skip", "layer3.0.skip"})
    network = QuantizedNetwork(model, ARGS, decision)
    written = with_pairs(model, placement_of(model, keep=keep), decision)
    assert torch.allclose(network.logits(x, keep), GraphNetwork(written)(x), atol=1e-4)
    reached = network.reached(x, keep)
    assert torch.allclose(network.logits_from(reached, "layer3.0.skip", keep), network.logits(x, keep), atol=1e-5)


def test_a_float_skip_is_a_finding_unless_it_is_meant_and_then_survives_a_repair(projected, images_of):
    decision = decision_for(projected, images_of(64))
    model = with_pairs(projected, placement_of(projected, keep=["layer2.0.skip"]), decision)
    (finding,) = lint(model)
    assert (finding.rule, finding.severity, finding.node) == ("skip", "speed", ADDITION)
    set_metadata(model, FLOAT_SKIPS_KEY, skips_in(GraphView(projected))["layer2.0.skip"])
    (finding,) = lint(model)
    assert finding.severity == "note"
    assert "on purpose" in finding.reason
    repaired = repair(model).model
    assert not problems(lint(repaired))
    assert [one.node for one in lint(repaired)] == [ADDITION]
