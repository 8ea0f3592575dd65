"""Calibration: training images through the float graph, one clipping bound per tensor and method.

scales.json names the model, the data set and the very images (a hash of their ids) its numbers come from.
Only the train split is read: the split that is reported must not choose anything.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgeres.core.artifacts import OnnxModel, ScaleTableFile
from edgeres.core.config import Config, Record
from edgeres.core.errors import InputError, require
from edgeres.core.files import write_text
from edgeres.core.names import lookup
from edgeres.core.progress import track
from edgeres.core.stage import Recorder, StageResult, timed
from edgeres.quantize.calibrators import CALIBRATORS, amax_from
from edgeres.quantize.histogram import Histogram

if TYPE_CHECKING:
    from edgeres.data import Split

Images = NDArray[np.float32]
FILE_NAME = "scales.json"
FEWEST_IMAGES = 32
_USUAL_IMAGES = 500  # TensorRT's documentation asks for about as many

log = logging.getLogger(__name__)


class CalibrateConfig(Config):
    """Which images are looked at; every method is decided from the same statistics."""

    data: str = Field(description="digits, cifar10, folder:PATH, package.module:function")
    images: int = Field(512, ge=FEWEST_IMAGES, description="of train, stratified by class")
    seed: int = Field(0, ge=0, description="of the choice of images")
    methods: tuple[str, ...] = Field(tuple(CALIBRATORS), min_length=1, description="calibrators to decide by")
    batch: int = Field(32, ge=1, description="images at a time")
    download: bool = Field(False, description="fetch the data set if it is not here")


class TensorScale(Record):
    """One tensor: its range on the calibration images, the fraction of exact zeros, and amax by method."""

    minimum: float
    maximum: float
    zeros: float
    amax: dict[str, float]


class ScaleTable(Record):
    """Content of scales.json; `model_sha256` is of the float ONNX file."""

    kind: Literal["scales"] = "scales"
    schema_version: int = 1
    model_sha256: str
    dataset: str
    split: str
    n: int
    seed: int
    ids_sha256: str
    methods: tuple[str, ...]
    tensors: dict[str, TensorScale]


def calibrate(source: OnnxModel, config: CalibrateConfig, out_dir: Path) -> StageResult[ScaleTableFile]:
    """Writes `out_dir`/scales.json.

    Raises:
        InputError: the model is quantized already, a method is unknown, there are too few training images,
        or a
            tensor has NaN or infinite values.
    """
    from edgeres.data import dataset_for
    from edgeres.quantize.placement import placement_of

    recorder = Recorder("calibrate", config, source)
    for method in config.methods:
        lookup(CALIBRATORS, method, "calibrator")
    check_float(source)
    tensors = placement_of(source.proto).observed
    dataset = dataset_for(source.spec, config.data, download=config.download)
    if len(dataset.train) < FEWEST_IMAGES:
        raise InputError(f"{config.data} has {len(dataset.train)} training images, calibration needs {FEWEST_IMAGES}")
    split = dataset.train.sample(min(config.images, len(dataset.train)), config.seed)
    if len(split) < _USUAL_IMAGES:
        recorder.warnings.append(f"{len(split)} calibration images; {_USUAL_IMAGES} or more are usual")
    with timed(recorder.results, "statistics_s"):
        steps = -(-len(split) // config.batch)
        batches = track(split.batches(source.spec, config.batch), "calibrate", steps)
        histograms = histograms_of(source.proto, tensors, (images for images, _ in batches))
    with timed(recorder.results, "calibrators_s"):
        scales = {name: _tensor_scale(histogram, config.methods) for name, histogram in histograms.items()}
    table = ScaleTable(
        model_sha256=source.sha256,
        dataset=dataset.name,
        split=split.name,
        n=len(split),
        seed=config.seed,
        ids_sha256=_ids_sha256(split),
        methods=config.methods,
        tensors=scales,
    )
    return _written(table, recorder, out_dir)


def check_float(model: OnnxModel) -> None:
    """Raises InputError if `model` holds Q/DQ nodes."""
    if "int8" in model.precision:
        raise InputError(f"{model.path} is quantized already; use the float model it was made from")


def histograms_of(model: Any, tensors: Iterable[str], batches: Iterable[Images]) -> dict[str, Histogram]:
    """Statistics of `tensors` while the graph runs over `batches`; memory does not grow with their number."""
    histograms = {name: Histogram(name) for name in tensors}
    for values in _observations(model, list(histograms), batches):
        for name, histogram in histograms.items():
            histogram.add(values[name])
    return histograms


def _observations(model: Any, tensors: list[str], batches: Iterable[Images]) -> Iterator[dict[str, NDArray[Any]]]:
    """The tensors' values, batch by batch."""
    ort = require("onnxruntime", "onnx")
    source = model.graph.input[0].name
    computed = [name for name in tensors if name != source] or [model.graph.output[0].name]
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    graph = _observable(model, computed).SerializeToString()
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    for images in batches:
        yield dict(zip(computed, session.run(computed, {source: images}), strict=True)) | {source: images}


def _observable(model: Any, tensors: list[str]) -> Any:
    """A copy with any batch size and `tensors` as additional outputs."""
    onnx = require("onnx", "onnx")
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in (*copy.graph.input, *copy.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    present = {value.name for value in copy.graph.output}
    for name in (name for name in tensors if name not in present):
        copy.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return copy


def _tensor_scale(histogram: Histogram, methods: tuple[str, ...]) -> TensorScale:
    return TensorScale(
        minimum=histogram.minimum,
        maximum=histogram.maximum,
        zeros=histogram.zeros / histogram.n,
        amax={method: amax_from(histogram, method) for method in methods},
    )


def _ids_sha256(split: Split) -> str:
    return hashlib.sha256("\n".join(split.ids).encode()).hexdigest()


def _written(table: ScaleTable, recorder: Recorder, out_dir: Path) -> StageResult[ScaleTableFile]:
    path = out_dir / FILE_NAME
    write_text(path, table.model_dump_json(indent=1) + "\n")
    dead = [name for name, scale in table.tensors.items() if scale.minimum == scale.maximum == 0]
    if dead:
        recorder.warnings.append(f"always zero on the calibration images: {', '.join(dead)}")
    recorder.results |= {"images": table.n, "tensors": len(table.tensors), "methods": list(table.methods)}
    recorder.notes.append(f"calibrated on {table.n} images of {table.dataset} {table.split}, seed {table.seed}")
    log.info("%d tensors observed on %d images of %s", len(table.tensors), table.n, table.dataset)
    output = ScaleTableFile(path)
    return StageResult(output, recorder.finish(output))
