"""An engine by torch-tensorrt: the ONNX graph as a torch module, exported and converted whole.

Needs an NVIDIA GPU already to be imported. Float graphs only: its INT8 goes through operators of NVIDIA ModelOpt, and
graphs with Q/DQ pairs are TensorRT's own (`--runtime tensorrt`). The plan is TensorRT's, of the version that
torch-tensorrt brings. Never run on hardware.

Source: pytorch/TensorRT 2.14, dynamo/_compiler.py, convert_exported_program_to_serialized_trt_engine.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

from edgeres.compile.config import BuildError, BuildJob, Built, tensors_of
from edgeres.core.artifacts import OnnxModel
from edgeres.core.errors import EdgeresError
from edgeres.graph.execute import GraphNetwork

_MIB = 1 << 20


def build_with_torch(torch_tensorrt: Any, job: BuildJob) -> tuple[bytes, Built]:
    """The serialized engine and its description; raises BuildError where torch-tensorrt refuses the graph."""
    model = OnnxModel(Path(job.onnx_path))
    try:
        plan = _plan(torch_tensorrt, model, job)
    except (EdgeresError, RuntimeError, ValueError, AssertionError, TypeError) as err:
        raise BuildError(" ".join(str(err).split()) or type(err).__name__) from err
    version = str(importlib.import_module("tensorrt").__version__)
    graph = model.proto.graph
    return plan, Built(version=version, inputs=tensors_of(graph.input), outputs=tensors_of(graph.output))


def _plan(torch_tensorrt: Any, model: OnnxModel, job: BuildJob) -> bytes:
    program, images = exported_program(model, job.batch)
    smallest, usual, largest = ((size, *images.shape[1:]) for size in job.batch)
    shapes = (
        images
        if model.batch is not None
        else torch_tensorrt.Input(min_shape=smallest, opt_shape=usual, max_shape=largest, dtype=images.dtype)
    )
    return bytes(
        torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine(
            program, arg_inputs=[shapes], disable_tf32=True, **_options(job)
        )
    )


def exported_program(model: OnnxModel, batch: tuple[int, int, int]) -> tuple[torch.export.ExportedProgram, Tensor]:
    """(the graph as torch.export has it, images of the usual batch), on the GPU where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = TraceableNetwork(model.proto).to(device).eval()
    smallest, usual, largest = batch
    images = torch.zeros(usual, *model.spec.input_shape, device=device)
    varying = None
    if model.batch is None and smallest < largest:
        varying = {"images": {0: torch.export.Dim("batch", min=smallest, max=largest)}}
    with torch.no_grad():
        return torch.export.export(network, (images,), dynamic_shapes=varying), images


def _options(job: BuildJob) -> dict[str, Any]:
    options: dict[str, Any] = {"version_compatible": job.version_compatible}
    if job.optimization_level is not None:
        options["optimization_level"] = job.optimization_level
    if job.workspace_mib is not None:
        options["workspace_size"] = job.workspace_mib * _MIB
    return options


class Numbers(list[int]):
    """Starts, ends, paddings: constants of the graph, which as tensors would look like data to torch.export."""

    def tolist(self) -> list[int]:
        """The numbers."""
        return list(self)


class TraceableNetwork(GraphNetwork):
    """A GraphNetwork whose integer constants are Python numbers, and which gives several outputs as they are."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__(model)
        kinds = {onnx.TensorProto.INT64, onnx.TensorProto.INT32}
        stored = [one for one in model.graph.initializer if one.data_type in kinds and len(one.dims) == 1]
        self._ends = [value.name for value in model.graph.output]
        self._numbers = {one.name: Numbers(onnx.numpy_helper.to_array(one).tolist()) for one in stored}

    def forward(self, images: Tensor) -> Any:
        """The output, or a tuple of all."""
        found = tuple(self.values(images, self._ends).values())
        return found[0] if len(found) == 1 else found

    def _read(self, node: onnx.NodeProto, index: int, values: Mapping[str, Tensor], seen: dict[str, Tensor]) -> Any:
        name = node.input[index]
        return self._numbers[name] if name in self._numbers else super()._read(node, index, values, seen)
