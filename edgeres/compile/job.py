"""What the process that builds is told, and what it answers."""

from __future__ import annotations

from typing import Any

import edgeres
from edgeres.core.artifacts import OnnxModel
from edgeres.core.config import Record

_NAMES = {1: "FLOAT", 10: "HALF"}  # onnx.TensorProto.DataType -> TensorRT's


class BuildError(Exception):
    """The binding refused the graph or the options; one line."""


class BuildJob(Record):
    """What to build; paths are absolute. `batch` is (min, opt, max) where the first dimension varies.

    `quantized` and `half` say what the graph holds. `hardware_compatible` is a name of HardwareCompatibilityLevel.
    `timing_folder` and `gpu` (its name): where measured kernel times are kept; without them none are.
    """

    module: str
    onnx_path: str
    plan_path: str
    quantized: bool
    half: bool = False
    targets: tuple[str, ...] = ()
    batch: tuple[int, int, int]
    optimization_level: int | None = None
    workspace_mib: int | None = None
    version_compatible: bool = False
    hardware_compatible: str | None = None
    timing_folder: str | None = None
    gpu: str | None = None
    dla_core: int | None = None


class Tensor(Record):
    """An input or output: -1 where the shape varies; `dtype` by TensorRT's name, such as FLOAT."""

    shape: tuple[int, ...]
    dtype: str


def tensors_of(values: Any) -> dict[str, Tensor]:
    """Inputs or outputs of an ONNX graph, for builders that leave them as they are."""
    types = {value.name: value.type.tensor_type for value in values}
    return {
        name: Tensor(
            shape=tuple(size.dim_value if size.HasField("dim_value") else -1 for size in kind.shape.dim),
            dtype=_NAMES.get(kind.elem_type, "UNKNOWN"),
        )
        for name, kind in types.items()
    }


def graph_fields(source: OnnxModel, inputs: dict[str, Tensor], outputs: dict[str, Tensor]) -> dict[str, Any]:
    """What a manifest says of the graph that was built, and of its inputs and outputs."""
    made = {"stage": "compile", "parent": source.sha256, "edgeres": edgeres.__version__}
    return {
        "card": source.card.model_copy(update=made),
        "onnx_sha256": source.sha256,
        "onnx_name": source.path.name,
        "inputs": {name: tensor.shape for name, tensor in inputs.items()},
        "outputs": {name: tensor.shape for name, tensor in outputs.items()},
        "dtypes": {name: tensor.dtype for name, tensor in (inputs | outputs).items()},
    }


class Built(Record):
    """What came out besides the plan; `flags` are the names of the BuilderFlags that were set."""

    version: str
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    strongly_typed: bool = True
    flags: tuple[str, ...] = ()
    timing_cache: str | None = None
    notes: tuple[str, ...] = ()
