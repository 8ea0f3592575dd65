"""The contract suite: every runner of RUNTIMES on the files it executes; engines on a fake TensorRT and driver."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from edgeres.core.artifacts import Checkpoint, OnnxModel
from edgeres.core.errors import InputError
from edgeres.quantize.decision import Decision
from edgeres.quantize.insert import with_pairs
from edgeres.quantize.placement import placement_of
from edgeres.runtime import RUNTIMES, runner_for
from edgeres.runtime.runner import fed, infer_all


@pytest.fixture
def files(spec_of, checkpoint_of, exported, tmp_path):
    """Name -> artifact: a checkpoint, its float graphs for one image and for any, an INT8 graph."""
    checkpoint = checkpoint_of(spec_of("resnet8"))
    static, dynamic = exported(checkpoint, "static"), exported(checkpoint, "dynamic", dynamic=True)
    placement = placement_of(static.proto)
    path = tmp_path / "int8.onnx"
    onnx.save(with_pairs(static.proto, placement, Decision(dict.fromkeys(placement.observed, 3.0))), path)
    return {"checkpoint": checkpoint, "static": static, "dynamic": dynamic, "int8": OnnxModel(path)}


@pytest.fixture
def model_for(files, gpu_machine, engine_from):
    """The file as the runtime executes it: an engine made from the graph for TensorRT, and the fakes to run it."""

    def make(runtime, file):
        if not runtime.startswith("tensorrt"):
            return files[file]
        gpu_machine(runtime)
        return engine_from(files[file], runtime)

    return make


CASES = [
    (runtime, file)
    for runtime, kind, _, _ in RUNTIMES
    for file in (("checkpoint",) if kind is Checkpoint else ("static", "dynamic", "int8"))
]
IMAGES = np.random.default_rng(0).standard_normal((5, 1, 8, 8), np.float32)


@pytest.mark.parametrize(("runtime", "file"), CASES)
def test_any_number_of_images_gives_finite_float32_logits_that_do_not_depend_on_their_neighbours(
    model_for, runtime, file
):
    with runner_for(model_for(runtime, file), runtime=runtime) as runner:
        logits, single = infer_all(runner, IMAGES), infer_all(runner, IMAGES[3:4])
    assert logits.dtype == np.float32
    assert logits.shape == (5, 10)
    assert np.isfinite(logits).all()
    assert np.allclose(logits[3:4], single, atol=0.05)


@pytest.mark.parametrize(("runtime", "file"), CASES)
def test_steps_run_on_the_loaded_input(model_for, runtime, file):
    with runner_for(model_for(runtime, file), runtime=runtime) as runner:
        runner.load(IMAGES[:1])
        runner.step()
        runner.step()
        runner.synchronize()
        assert runner.name.startswith(runtime)


@pytest.mark.parametrize(("runtime", "file"), CASES)
def test_float_files_give_the_logits_of_the_checkpoint(files, model_for, runtime, file):
    model = model_for(runtime, file)
    with runner_for(files["checkpoint"]) as reference, runner_for(model, runtime=runtime) as runner:
        expected, logits = reference.infer(IMAGES), infer_all(runner, IMAGES)
    assert np.allclose(expected, logits, atol=1e-4) == (file != "int8")


def test_an_onnx_file_is_executed_by_onnx_runtime_unless_torch_is_asked_for(files):
    with runner_for(files["int8"]) as runner:
        assert runner.name.startswith("onnxruntime")
    with runner_for(files["int8"], runtime="torch") as runner:
        assert "fake quantization" in runner.name


def test_a_runtime_that_does_not_execute_the_file_is_refused(files):
    with pytest.raises(InputError, match=r"onnxruntime does not execute .*what does: torch"):
        runner_for(files["checkpoint"], runtime="onnxruntime")


@pytest.mark.parametrize(
    ("shape", "moved"),
    [(("n", 8, 6, 3), True), (("n", 3, 8, 6), False), ((1, 8, 8, 3), False), (("n", "h", "w", 3), False)],
)
def test_channels_go_last_where_the_input_takes_them_there(shape, moved):
    images = np.random.default_rng(0).standard_normal((2, 3, 8, 6), dtype=np.float32)
    given = fed(images, shape)
    assert given.shape == ((2, 8, 6, 3) if moved else images.shape)
    np.testing.assert_array_equal(given.transpose(0, 3, 1, 2) if moved else given, images)
