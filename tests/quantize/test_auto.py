from __future__ import annotations

import pytest

from edgeres.quantize.auto import auto, tensor_errors
from edgeres.quantize.placement import placement_of


def test_each_tensor_gets_the_bound_that_disturbs_the_logits_least(onnx_of, images_of, bounds_of):
    model = onnx_of().proto
    placement, good = placement_of(model), bounds_of(model)
    first, *others = placement.observed
    bounds = {"a": good | {first: 0.05 * good[first]}, "b": good | {name: 0.05 * good[name] for name in others}}
    found = auto(model, placement, bounds, images=images_of(64))
    decibels = found.results["held_out_sqnr_db"]
    assert found.results["auto"] == "auto"
    assert found.results["method_of"] == {first: "b"} | dict.fromkeys(others, "a")
    assert {name: found.decision.amax[name] for name in placement.observed} == {
        name: good[name] for name in placement.observed
    }
    assert decibels["auto"] > max(decibels["a"], decibels["b"])
    assert "auto: the best method of each tensor" in found.notes[0]


@pytest.mark.parametrize("seed", range(4))
def test_it_is_never_worse_than_the_best_fixed_method_on_held_out_images(onnx_of, images_of, bounds_of, seed):
    model = onnx_of(seed=seed).proto
    placement = placement_of(model)
    bounds = {str(share): bounds_of(model, share=share) for share in (1.0, 0.8, 0.6)}
    found = auto(model, placement, bounds, images=images_of(48, seed=seed))
    chosen, decibels = found.results["auto"], found.results["held_out_sqnr_db"]
    assert decibels[chosen] == max(decibels.values())
    if chosen != "auto":
        assert dict(found.decision.amax) == bounds[chosen]
        assert f"auto: {chosen} for all tensors" in found.notes[0]


def test_errors_are_those_of_one_tensor_alone(onnx_of, images_of, bounds_of):
    model = onnx_of().proto
    placement, good = placement_of(model), bounds_of(model)
    worse = good | {"relu": 0.1 * good["relu"]}
    errors = tensor_errors(model, placement, {"good": good, "worse": worse}, images=images_of(16))
    assert errors["relu"]["worse"] > 10 * errors["relu"]["good"]
    assert all(one["worse"] == one["good"] for name, one in errors.items() if name != "relu")
