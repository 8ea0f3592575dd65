from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from edgeres.core.errors import InputError
from edgeres.quantize.calibrate import images_at_a_time, shapes_of, statistics_of


def images_of(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 1, 8, 8), dtype=np.float32)


def test_ranges_equal_those_of_the_reference_evaluator(onnx_of):
    model = onnx_of("resnet8").proto
    images = images_of(3)
    tensor = "layer1.0.relu"
    histogram = statistics_of(model, [tensor], [images])[tensor].histogram
    model.graph.output.add(name=tensor)
    values = np.concatenate([ReferenceEvaluator(model).run([tensor], {"images": x[None]})[0] for x in images])
    assert histogram.n == values.size
    assert histogram.zeros == np.count_nonzero(values == 0)
    assert histogram.maximum == pytest.approx(values.max(), rel=1e-5)


def test_statistics_do_not_depend_on_how_images_are_batched(onnx_of):
    model, images = onnx_of("resnet8").proto, images_of(12)
    one = statistics_of(model, ["images"], [images])["images"].histogram
    many = statistics_of(model, ["images"], np.split(images, 4))["images"].histogram
    assert np.array_equal(one.counts, many.counts)


def test_memory_does_not_grow_with_the_number_of_images(onnx_of):
    model = onnx_of("resnet8").proto
    tensors = ["images", "relu", "layer1.0.relu_1"]

    def peak(batches: int) -> int:
        tracemalloc.start()
        statistics_of(model, tensors, (images_of(16, seed) for seed in range(batches)))
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(2)
    assert min(peak(60) for _ in range(3)) < 1.2 * peak(6)  # what other threads allocate is in it too


def test_an_image_that_is_no_number_is_refused(onnx_of):
    bad = images_of(2)
    bad[1, 0, 3, 3] = np.nan
    with pytest.raises(InputError, match="NaN values"):
        statistics_of(onnx_of("resnet8").proto, ["images"], [bad])


def test_shapes_are_those_the_graph_computes(onnx_of):
    model = onnx_of("resnet8").proto
    shapes = shapes_of(model)
    model.graph.output.add(name="layer2.0.relu")
    values = ReferenceEvaluator(model).run(["layer2.0.relu"], {"images": images_of(1)})[0]
    assert shapes["layer2.0.relu"] == values.shape
    assert not set(shapes) & {tensor.name for tensor in model.graph.initializer}


def test_the_images_of_a_run_follow_from_the_memory_they_need(onnx_of):
    model = onnx_of("resnet8").proto
    size = 4 * np.prod(shapes_of(model)["relu"])
    assert images_at_a_time(model, ["relu"], limit=5 * size) == 5
    assert images_at_a_time(model, ["relu"], limit=1) == 1
    assert images_at_a_time(model, ["relu"]) == 32


def test_the_model_is_left_alone(onnx_of):
    model = onnx_of("resnet8").proto
    before = model.SerializeToString(deterministic=True)
    statistics_of(model, ["relu"], [images_of(2)])
    assert model.SerializeToString(deterministic=True) == before


def test_a_channel_counts_as_dead_only_if_no_image_wakes_it(onnx_of):
    model = onnx_of("resnet8").proto
    whole = statistics_of(model, ["relu"], [images_of(8)])["relu"]
    parts = statistics_of(model, ["relu"], np.split(images_of(8), 4))["relu"]
    assert np.array_equal(whole.alive, parts.alive)
    assert statistics_of(model, ["images"], [images_of(8)])["images"].alive is None
