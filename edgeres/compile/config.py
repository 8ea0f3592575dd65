"""Options of a build; what the process that builds is told, and what it answers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

import edgeres
from edgeres.core.artifacts import OnnxModel
from edgeres.core.config import Config, Record
from edgeres.core.errors import InputError, did_you_mean
from edgeres.core.lineage import advised, source_of
from edgeres.runtime.manifest import JETSON_TARGETS, RTX_TARGETS

BATCHES = ("batch_min", "batch_opt", "batch_max")
FOR_BOARDS = frozenset({"optimization_level", "workspace_mib", *BATCHES})  # what a board's own trtexec is asked
HARDWARE = {"ampere+": "AMPERE_PLUS", "same-target": "SAME_COMPUTE_CAPABILITY"}  # -> HardwareCompatibilityLevel
_NAMES = {1: "FLOAT", 10: "HALF"}  # onnx.TensorProto.DataType -> TensorRT's


class CompileConfig(Config):
    """For which GPU and how hard to try; the batch sizes matter for a dynamic graph only."""

    runtime: Literal["tensorrt-rtx", "tensorrt", "torch-tensorrt"] = Field(
        "tensorrt-rtx", description="who builds; torch-tensorrt takes float graphs and writes TensorRT's plans"
    )
    targets: tuple[str, ...] = Field(
        ("sm86", "sm89", "sm120"), description="GPU architectures; tensorrt always builds for this machine's"
    )
    optimization_level: int | None = Field(None, ge=0, le=5, description="0 quick build to 5 long search")
    workspace_mib: int | None = Field(None, gt=0, description="scratch memory; default: the whole device")
    batch_min: int = Field(1, ge=1, description="smallest batch of a dynamic graph")
    batch_opt: int = Field(8, ge=1, description="batch a dynamic graph is tuned for")
    batch_max: int = Field(32, ge=1, description="largest batch of a dynamic graph")
    timing_cache: bool = Field(True, description="keep kernel times between builds with tensorrt, in ~/.cache/edgeres")
    version_compatible: bool = Field(False, description="let later versions of tensorrt run it; slower")
    hardware_compatible: Literal["ampere+", "same-target"] | None = Field(
        None, description="let other GPUs run it, tensorrt on a PC only: from Ampere on, or of one architecture; slower"
    )
    dla_core: int | None = Field(None, ge=0, description="build for this DLA of a Jetson, FP16; experimental")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.batch_min <= self.batch_opt <= self.batch_max:
            raise ValueError(
                "batch_min <= batch_opt <= batch_max does not hold for"
                f" {self.batch_min}, {self.batch_opt}, {self.batch_max}"
            )
        return self

    def check(self) -> None:
        """TensorRT-RTX knows the targets, and what only TensorRT can do is asked of TensorRT."""
        if self.runtime == "tensorrt-rtx":
            check_rtx_targets(self.targets)
        for option in ("hardware_compatible", "dla_core"):
            if getattr(self, option) is not None and self.runtime != "tensorrt":
                raise InputError(f"--{option.replace('_', '-')} is for --runtime tensorrt, not for {self.runtime}")
        if self.version_compatible and self.runtime == "tensorrt-rtx":
            raise InputError("--version-compatible is not for tensorrt-rtx: its plans run on the version they are of")

    def needless_of(self, source: object) -> set[str]:
        """A range of batches is for a graph that takes more than one size."""
        is_fixed = isinstance(source, OnnxModel) and source.batch is not None
        return {*self.needless(), *(BATCHES if is_fixed else ())}

    def check_batch(self, source: OnnxModel) -> None:
        """Raises InputError if a range of batches is asked for of a graph that takes one alone."""
        if given := self.needless_of(source) & self.model_fields_set:
            raise InputError(
                f"{source.path} takes {source.batch} image{'s' * (source.batch != 1)} a call, so"
                f" --{min(given).replace('_', '-')} changes nothing; for a range:"
                f" {advised('edgeres export', source_of(source.path) or 'CHECKPOINT')} --dynamic"
            )


def check_rtx_targets(targets: tuple[str, ...]) -> None:
    """Raises InputError for an architecture TensorRT-RTX does not build for."""
    if not targets:
        raise InputError(f"no target given; known: {', '.join(RTX_TARGETS)}")
    for target in targets:
        if target in JETSON_TARGETS:
            raise InputError(
                f"target {target} is {JETSON_TARGETS[target]}, which TensorRT-RTX does not know; its engines are built"
                " on the board: edgeres compile MODEL.onnx --on NAME (edgeres board add NAME HOST)"
            )
        if target not in RTX_TARGETS:
            guess = did_you_mean(target, RTX_TARGETS)
            raise InputError(f"unknown target {target!r}{guess} (known: {', '.join(RTX_TARGETS)})")


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
