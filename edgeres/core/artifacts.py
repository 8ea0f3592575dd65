"""The files that flow between stages, each with its spec inside.

    Checkpoint  .safetensors  Card in the header's metadata under "edgeres"
    OnnxModel   .onnx         Card in metadata_props under "edgeres"; precision is read from the graph
    Engine      .plan         Card and target in the manifest beside it, NAME.plan.json
    ScaleTable, LesionTable, LatencyTable, Study  .json  written by their stages, `kind` inside

A safetensors file starts with a little-endian u64 length and that many bytes of JSON, so a spec can be read without
torch or safetensors.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from edgeres.core.config import Record, record_from_json, record_from_text
from edgeres.core.errors import InputError, reason_of, require
from edgeres.core.files import reading, sha256_of
from edgeres.core.names import is_function_name
from edgeres.core.onnx_file import check_compared, derived_card, external_files, image_input, integer_operators
from edgeres.core.safe_text import typed
from edgeres.core.spec import Card, ModelSpec

CARD_KEY = "edgeres"
PROFILE_KEY = "edgeres.profile"
SCALED_KEY = "edgeres.scaled_channels"  # tensors hold other multiples of the channels than the parent's
FLOAT_SKIPS_KEY = "edgeres.float_skips"  # names of the additions whose skip was left float on purpose, with commas
FUSED_PROFILE = "ort-cpu"  # made to be run fused by ONNX Runtime, never by TensorRT
FOR_A_CPU = "quantized for ONNX Runtime on a CPU; make one for TensorRT: {} --profile tensorrt"
_LFS_MARK = b"version https://git-lfs"
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format


@dataclass(frozen=True)
class Artifact:
    """A file on disk, named by a path or its text; `sha256` is computed when first asked for."""

    suffix: ClassVar[str] = ""
    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))

    @cached_property
    def sha256(self) -> str:
        """Hex sha256 of the file."""
        return sha256_of(self.path)

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return self.path.stat().st_size


@dataclass(frozen=True)
class Model(Artifact):
    """An artifact that computes logits: it has a Card. `stated` is a spec its user completed (`core.stated`)."""

    stated: ModelSpec | None = None

    @cached_property
    def card(self) -> Card:
        """The Card stored in the file; raises InputError if there is none or it is damaged."""
        raise NotImplementedError

    @property
    def spec(self) -> ModelSpec:
        """The network this file holds."""
        return self.stated or self.card.spec

    @property
    def precision(self) -> str:
        """Numeric format of the weights: fp32, fp16, int8 or int8+fp16."""
        return "fp32"


@dataclass(frozen=True)
class Checkpoint(Model):
    """Weights as safetensors."""

    suffix: ClassVar[str] = ".safetensors"

    @cached_property
    def card(self) -> Card:
        """The Card in the header's metadata."""
        metadata = safetensors_header(self.path).get("__metadata__")
        return _card_from(metadata.get(CARD_KEY) if isinstance(metadata, dict) else None, self.path)


@dataclass(frozen=True)
class OnnxModel(Model):
    """A float or Q/DQ graph; weights that lie beside the file belong to it."""

    suffix: ClassVar[str] = ".onnx"

    @cached_property
    def beside(self) -> tuple[Path, ...]:
        """Files of its folder that hold weights of it; raises InputError for one outside or missing."""
        return external_files(self.path)

    @cached_property
    def sha256(self) -> str:
        """Hex sha256 of the file, or of its hash and those of the files beside it."""
        hashes = [sha256_of(path) for path in (self.path, *self.beside)]
        return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()

    @property
    def size_bytes(self) -> int:
        """Size of the file and of those beside it."""
        return sum(path.stat().st_size for path in (self.path, *self.beside))

    @cached_property
    def proto(self) -> Any:
        """The parsed onnx.ModelProto (do not change it)."""
        onnx = require("onnx", "onnx")
        _refuse_no_graph(self.path)
        _ = self.beside  # refused before anything of it is read
        try:
            return onnx.load(str(self.path))
        except FileNotFoundError as err:
            raise InputError(f"{self.path} does not exist") from err
        except Exception as err:
            raise InputError(f"{self.path} is not a readable ONNX file: {reason_of(err)}") from err

    @property
    def has_card(self) -> bool:
        """Whether edgeres wrote the file."""
        return CARD_KEY in properties_of(self.proto)

    @cached_property
    def card(self) -> Card:
        """The Card in metadata_props; of another tool's file what the graph tells, InputError if that is too little."""
        text = properties_of(self.proto).get(CARD_KEY)
        return derived_card(self.proto, self.path) if text is None else _card_from(text, self.path)

    @property
    def precision(self) -> str:
        """int8 if the graph has Q or DQ nodes or works on integers, fp16 if it has half-precision weights."""
        onnx = require("onnx", "onnx")
        graph = self.proto.graph
        pairs = {"QuantizeLinear", "DequantizeLinear"}
        quantized = bool(self.integer_operators) or any(node.op_type in pairs for node in graph.node)
        half = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in graph.initializer)
        return "+".join(name for name, found in (("int8", quantized), ("fp16", half)) if found) or "fp32"

    @cached_property
    def integer_operators(self) -> tuple[str, ...]:
        """QLinearConv, ConvInteger and the like, each once; none where Q/DQ pairs say what is INT8."""
        return integer_operators(self.proto.graph)

    @property
    def has_scales_of_its_batch(self) -> bool:
        """Whether what it answers of an image depends on those beside it."""
        return any(name.startswith("DynamicQuantize") for name in self.integer_operators)

    def check_compared(self) -> None:
        """Raises InputError for a file of another tool with an output that cannot be held against another's."""
        if not self.has_card:
            check_compared(self.proto, self.path)

    def check_float(self) -> None:
        """Raises InputError for a file with Q/DQ nodes or in half precision, and as `check_compared`."""
        if self.precision == "fp16":
            raise InputError(f"{self.path} is in FP16; use the float32 model: edgeres export CHECKPOINT")
        if "int8" in self.precision:
            raise InputError(f"{self.path} is quantized already; use the float model it was made from")
        self.check_compared()

    @property
    def profile(self) -> str | None:
        """Who the Q/DQ pairs were placed for; None for a float file and for one of another tool."""
        return properties_of(self.proto).get(PROFILE_KEY)

    @property
    def has_scaled_channels(self) -> bool:
        """Whether quantize scaled channels: tensors are the float network's up to a factor for each channel."""
        return SCALED_KEY in properties_of(self.proto)

    @property
    def float_skips(self) -> tuple[str, ...]:
        """Names of the additions whose skip quantize left float on purpose."""
        return float_skips_of(self.proto)

    @property
    def batch(self) -> int | None:
        """Images per call the graph is fixed to, or None if dynamic."""
        return image_input(self.proto, self.path)[1][0] or None


class Manifest(Record):
    """What NAME.plan.json says about an engine, since a plan cannot be read without its GPU."""

    schema_version: int = 1
    card: Card
    runtime: str
    runtime_version: str
    targets: tuple[str, ...]
    precision: str
    onnx_sha256: str
    plan_sha256: str
    batch: tuple[int, int, int]
    inputs: dict[str, tuple[int, ...]]
    outputs: dict[str, tuple[int, ...]]
    build_s: float
    options: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class Engine(Model):
    """A compiled plan and its manifest."""

    suffix: ClassVar[str] = ".plan"

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest beside the plan; raises InputError if it belongs to another plan."""
        if not self.manifest_path.is_file():
            raise InputError(
                f"{self.path} has no manifest beside it ({self.manifest_path.name}); build one: edgeres compile"
                " MODEL.onnx"
            )
        manifest = record_from_json(Manifest, self.manifest_path)
        if manifest.plan_sha256 != self.sha256:
            raise InputError(f"{self.manifest_path} describes another plan than {self.path}; compile it again")
        return manifest

    @property
    def manifest_path(self) -> Path:
        """NAME.plan.json."""
        return self.path.with_name(self.path.name + ".json")

    @cached_property
    def card(self) -> Card:
        """The Card of the ONNX file the engine was built from."""
        return self.manifest.card

    @property
    def precision(self) -> str:
        """As read from the ONNX graph when the engine was built."""
        return self.manifest.precision


@dataclass(frozen=True)
class _Json(Artifact):
    suffix: ClassVar[str] = ".json"


class ScaleTableFile(_Json):
    """Calibration result; its content is `edgeres.core.records.scales.ScaleTable`."""


class LesionTableFile(_Json):
    """Lesion result; its content is `edgeres.study.lesion_table.LesionTable`."""


class LatencyTableFile(_Json):
    """What each module costs on one runtime; its content is `edgeres.core.records.latency.LatencyTable`."""


class StudyFile(_Json):
    """What a study found; its content is `edgeres.study.result.Study`, a table and a figure lie beside it."""


class FrontierFile(_Json):
    """What optimize tried and hands over; its content is `edgeres.core.records.frontier.Frontier`."""


class SweepFile(_Json):
    """Accuracy and latency for each number of modules; its content is `edgeres.core.records.sweep.Sweep`."""


MODEL_KINDS: tuple[type[Model], ...] = (Checkpoint, OnnxModel, Engine)


def properties_of(model: Any) -> dict[str, str]:
    """What an onnx.ModelProto says about itself in metadata_props."""
    return {entry.key: entry.value for entry in model.metadata_props}


def float_skips_of(model: Any) -> tuple[str, ...]:
    """Names of the additions of an onnx.ModelProto whose skip edgeres quantize left float on purpose."""
    return tuple(filter(None, properties_of(model).get(FLOAT_SKIPS_KEY, "").split(",")))


def model_from(path: Path) -> Model:
    """The artifact in `path`, its kind told by the suffix; raises InputError if absent or of no known kind."""
    for kind in MODEL_KINDS:
        if path.suffix.lower() == kind.suffix:
            if not path.is_file():
                raise InputError(f"{path} does not exist")
            return kind(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder, no model; if it is a run, name it as such: --run {typed(path)}")
    if path.suffix in {".pt", ".pth", ".th", ".bin", ".ckpt", ".pt2", ".py"} or is_function_name(str(path)):
        raise InputError(f"{path} is no file of edgeres; bring the network in first: edgeres import {typed(path)}")
    known = ", ".join(kind.suffix for kind in MODEL_KINDS)
    raise InputError(f"{path}: cannot tell what this is by its name (known: {known})")


def safetensors_header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file: tensor name -> dtype, shape, data_offsets; plus `__metadata__`."""
    try:
        with reading(path), path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if 2 <= length <= _MAX_HEADER_BYTES else None
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise InputError(f"{path} is not a safetensors file")
    return header


def _card_from(text: str | None, path: Path) -> Card:
    if text is None:
        raise InputError(
            f"{path} was not written by edgeres (it holds no spec); bring weights in with: edgeres import {typed(path)}"
        )
    return record_from_text(Card, text, f"{path}: its spec")


def _refuse_no_graph(path: Path) -> None:
    """Raises InputError for an empty file and for what Git LFS leaves in place of one."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        head = file.read(len(_LFS_MARK))
    if not head:
        raise InputError(f"{path} is empty: it holds no graph; make it again")
    if head == _LFS_MARK:
        raise InputError(f"{path} is a pointer of Git LFS, not the file; fetch it: git lfs pull")
