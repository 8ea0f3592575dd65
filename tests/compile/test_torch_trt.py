"""torch-tensorrt, of which only the part before it can run without a GPU."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch

from edgeres.compile.config import BuildError, BuildJob
from edgeres.compile.torch_trt import build_with_torch, exported_program
from edgeres.core.artifacts import OnnxModel


@pytest.mark.parametrize(("dynamic", "sizes"), [(False, [1]), (True, [1, 3, 4])])
def test_the_exported_program_computes_what_the_graph_does(dynamic, sizes, onnx_of):
    model = onnx_of(dynamic=dynamic)
    program, _ = exported_program(model, (1, 2, 4) if dynamic else (1, 1, 1))
    session = onnxruntime.InferenceSession(model.path)
    for size in sizes:
        images = np.random.default_rng(0).standard_normal((size, 1, 8, 8), dtype=np.float32)
        logits = program.module()(torch.from_numpy(images)).detach().numpy()
        np.testing.assert_allclose(logits, session.run(None, {"images": images})[0], rtol=1e-4, atol=1e-4)


class TorchTensorrt:
    """A fake that keeps what it was asked."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.asked = error, {}
        self.dynamo = SimpleNamespace(convert_exported_program_to_serialized_trt_engine=self._convert)
        self.Input = SimpleNamespace

    def _convert(self, program: object, **options: object) -> bytes:
        self.asked = options
        if self.error:
            raise self.error
        return b"plan"


def job_for(model: OnnxModel, **values: object) -> BuildJob:
    batch = (1, 2, 4) if model.batch is None else (1, 1, 1)
    fields = {"module": "torch_tensorrt", "onnx_path": str(model.path), "plan_path": "", "quantized": False}
    return BuildJob(**fields | {"batch": batch} | values)


def test_options_and_shapes_reach_torch_tensorrt(onnx_of, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="11.1.0"))
    fake, model = TorchTensorrt(), onnx_of(dynamic=True)
    plan, built = build_with_torch(fake, job_for(model, workspace_mib=2, optimization_level=4))
    assert (plan, built.version) == (b"plan", "11.1.0")
    assert (fake.asked["workspace_size"], fake.asked["optimization_level"]) == (2 << 20, 4)
    shapes = fake.asked["arg_inputs"][0]
    assert (shapes.min_shape, shapes.opt_shape, shapes.max_shape) == ((1, 1, 8, 8), (2, 1, 8, 8), (4, 1, 8, 8))
    assert built.inputs["images"].shape == (-1, 1, 8, 8)


def test_what_torch_tensorrt_refuses_is_one_line(onnx_of):
    fake = TorchTensorrt(RuntimeError("not\nsupported"))
    with pytest.raises(BuildError, match=r"^not supported$"):
        build_with_torch(fake, job_for(onnx_of(dynamic=False)))
