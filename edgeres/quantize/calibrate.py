"""Calibration: training images through the float graph, one clipping bound per tensor and method.

scales.json names the model, the data set and the very images (a hash of their ids) its numbers come from.
Only the train split is read (val only to see that it shares no image): the split that is reported must not choose
anything.

What is kept does not grow with the images. Those of a run are so many that the watched tensors stay below a limit, each
tensor is counted and given back before the next, and weights go from the model to ONNX Runtime through a temporary
file, so that they are not held three times.
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeres.core.artifacts import OnnxModel, ScaleTableFile
from edgeres.core.errors import InputError, require
from edgeres.core.files import write_text
from edgeres.core.input_options import with_input
from edgeres.core.onnx_file import inferred_values
from edgeres.core.processes import shared, together
from edgeres.core.progress import track
from edgeres.core.records.scales import ScaleTable, TensorScale
from edgeres.core.stage import Recorder, StageResult, timed
from edgeres.data import Dataset, Split, dataset_for
from edgeres.data.split import shared_images
from edgeres.graph.plain import plain
from edgeres.graph.session import answering, session_from, with_outputs
from edgeres.graph.view import LAYERS, GraphView
from edgeres.quantize.calibrators import Histogram, amax_from, hardest
from edgeres.quantize.config import FEWEST_IMAGES, CalibrateConfig
from edgeres.quantize.placement import observed_of
from edgeres.quantize.trt_cache import trt_cache_from

FILE_NAME = "scales.json"
CACHE_NAME = f"{FILE_NAME}.cache"
_USUAL_IMAGES = 500  # TensorRT's documentation asks for about as many
_TOLERATED_SHARE = 0.01  # of calibration images that are in val too: public data sets hold a few doubles
_NAMES_SHOWN = 8
_BATCH = 32  # images decoded at a time; how many are run at a time is a matter of memory
MEMORY_LIMIT_BYTES = 16 << 20  # of watched tensors at a time: 5 images of ResNet-56, 1 of ResNet-50; more is no faster
_MOST_AT_A_TIME = 32
_FLOAT_BYTES = 4
_NONZERO_CHANNELS_EXPECTED = LAYERS | {"Relu", "Clip"}  # not a padded shortcut, whose zeros are meant
Images = NDArray[np.float32]

log = logging.getLogger(__name__)


def calibrate(source: OnnxModel, config: CalibrateConfig, out_dir: Path) -> StageResult[ScaleTableFile]:
    """Writes `out_dir`/scales.json, and scales.json.cache beside it if `config.trt_cache` is given.

    Raises InputError if the model is quantized already, a method is unknown, there are too few training images or they
    are val's too, or a tensor has NaN or infinite values or always the same one.
    """
    recorder = Recorder("calibrate", config, source)
    config.check()
    source.check_float()
    source, dataset_name, split, statistics = _observed(source, config, recorder)
    _check_statistics(statistics, recorder)
    with timed(recorder.results, "calibrators_s"):
        histograms = {name: one.histogram for name, one in statistics.items()}
        scales = {
            name: TensorScale(
                minimum=one.minimum,
                maximum=one.maximum,
                zeros=one.zeros / one.n,
                amax={method: amax_from(one, method) for method in config.methods},
            )
            for name, one in histograms.items()
        }
    recorder.results["histograms"] = hardest(histograms, {name: one.amax for name, one in scales.items()})
    table = ScaleTable(
        model_sha256=source.sha256,
        dataset=dataset_name,
        split=split.name,
        n=len(split),
        seed=config.seed,
        ids_sha256=split.ids_sha256,
        methods=config.methods,
        tensors=scales,
        spec=source.stated,
    )
    return _written(table, recorder, config, out_dir)


@together
def _observed(
    source: OnnxModel, config: CalibrateConfig, recorder: Recorder
) -> tuple[OnnxModel, str, Split, dict[str, Statistics]]:
    """(what is calibrated, the data set's name, the images, the statistics of them all)."""
    source = plain(with_input(source, config))
    tensors = observed_of(source.proto) if config.trt_cache is None else tuple(shapes_of(source.proto))
    dataset = dataset_for(source.spec, config.data, download=config.download)
    split = _chosen(dataset, config, recorder)
    with timed(recorder.results, "statistics_s"):
        ours = split.own(_BATCH)
        batches = track(ours.streamed(source.spec, _BATCH), "calibrate", -(-len(ours) // _BATCH))
        images = (images for images, _ in batches)
        statistics, *others = shared(lambda: statistics_of(source.proto, tensors, images))
        for name, one in statistics.items():
            for other in others:
                one.take(other[name])
    return source, dataset.name, split, statistics


def _chosen(dataset: Dataset, config: CalibrateConfig, recorder: Recorder) -> Split:
    """The calibration images; raises InputError if they are too few or in val."""
    if len(dataset.train) < FEWEST_IMAGES:
        raise InputError(f"{config.data} has {len(dataset.train)} training images, calibration needs {FEWEST_IMAGES}")
    split = dataset.train.sample(min(config.images, len(dataset.train)), config.seed)
    log.info("calibrate: %d of the %d images of %s train", len(split), len(dataset.train), dataset.name)
    if len(split) < config.images:
        recorder.notes.append(f"{config.images} images were asked for, train has {len(split)}: all were used")
    if len(split) < _USUAL_IMAGES:
        recorder.warnings.append(f"{len(split)} calibration images; {_USUAL_IMAGES} or more are usual")
    if shared := shared_images(split, dataset.val):
        (name, twin), val = next(iter(shared.items())), dataset.val.name
        found = f"{len(shared)} of {len(split)} calibration images are in {val} too (first: {name}, there {twin})"
        if len(shared) > _TOLERATED_SHARE * len(split):
            raise InputError(f"{found}; remove them from one of the two, or accuracy is not that of unseen images")
        recorder.warnings.append(found)
    return split


def _check_statistics(statistics: Mapping[str, Statistics], recorder: Recorder) -> None:
    """Raises InputError for a tensor that is always the same number; warns of dead tensors and channels."""
    for name, one in statistics.items():
        if one.histogram.minimum == one.histogram.maximum != 0:
            value = one.histogram.maximum
            raise InputError(f"tensor {name!r} is {value:g} for every image; check the images and the model's weights")
    silent = [name for name, one in statistics.items() if one.histogram.absmax == 0]
    if silent:
        recorder.warnings.append(f"always zero on the calibration images: {', '.join(silent)}")
    partly = [f"{name} {one.dead}" for name, one in statistics.items() if one.dead and name not in silent]
    if partly:
        more = f" and {len(partly) - _NAMES_SHOWN} more" if len(partly) > _NAMES_SHOWN else ""
        shown = ", ".join(partly[:_NAMES_SHOWN])
        recorder.warnings.append(f"channels that were zero on every calibration image: {shown}{more}")


def _written(
    table: ScaleTable, recorder: Recorder, config: CalibrateConfig, out_dir: Path
) -> StageResult[ScaleTableFile]:
    path = out_dir / FILE_NAME
    write_text(path, table.model_dump_json(indent=1, exclude=None if table.spec else {"spec"}) + "\n")
    if config.trt_cache is not None:
        write_text(out_dir / CACHE_NAME, trt_cache_from(table, config.trt_method, config.trt_cache))
        about = f"the calibration cache is for TensorRT {config.trt_cache}, {config.trt_method}; never run on hardware"
        recorder.notes.append(about)
        log.info(about)
    recorder.results |= {"images": table.n, "tensors": len(table.tensors), "methods": list(table.methods)}
    recorder.notes.append(f"calibrated on {table.n} images of {table.dataset} {table.split}, seed {table.seed}")
    log.info("%d tensors observed on %d images of %s", len(table.tensors), table.n, table.dataset)
    output = ScaleTableFile(path)
    return StageResult(output, recorder.finish(output))


@dataclass
class Statistics:
    """One tensor: its values, and which channels (axis 1) were ever other than zero; None where that means nothing."""

    histogram: Histogram
    alive: NDArray[np.bool_] | None = None

    @property
    def dead(self) -> int:
        """Channels that were zero on every image."""
        return 0 if self.alive is None else int((~self.alive).sum())

    def add(self, values: NDArray[Any], *, watch_channels: bool = False) -> None:
        """Counts `values` (N, C, ...); raises InputError if one is NaN or infinite."""
        self.histogram.add(values)
        if not watch_channels or values.ndim < 2:
            return
        if self.alive is None:
            self.alive = np.zeros(values.shape[1], np.bool_)
        if not self.alive.all():
            rest = tuple(axis for axis in range(values.ndim) if axis != 1)
            self.alive = self.alive | (values != 0).any(axis=rest)

    def take(self, other: Statistics) -> None:
        """Counts what `other` has counted."""
        self.histogram.take(other.histogram)
        if other.alive is not None:
            self.alive = other.alive if self.alive is None else self.alive | other.alive


def statistics_of(model: onnx.ModelProto, tensors: Iterable[str], batches: Iterable[Images]) -> dict[str, Statistics]:
    """Statistics of `tensors` while `model` runs over `batches`, float32 (N, C, H, W).

    Raises InputError if a tensor holds NaN or infinite values.
    """
    found = {name: Statistics(Histogram(name)) for name in tensors}
    view = GraphView(model)
    watched = {name for name in found if view.op_of(name) in _NONZERO_CHANNELS_EXPECTED}
    for name, values in _observations(model, list(found), batches):
        found[name].add(values, watch_channels=name in watched)
    return found


def images_at_a_time(model: onnx.ModelProto, tensors: Iterable[str], *, limit: int = MEMORY_LIMIT_BYTES) -> int:
    """How many images keep `tensors` together below `limit` bytes, 1 to 32."""
    shapes = shapes_of(model)
    size = sum(math.prod(shapes[name][1:]) * _FLOAT_BYTES for name in tensors if name in shapes)
    return max(1, min(_MOST_AT_A_TIME, limit // max(size, 1)))


def shapes_of(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shape of every float tensor that the graph reads or computes; a dimension that is not known counts as 1."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return {
        value.name: tuple(dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim)
        for value in inferred_values(model, "the model")
        if value.name not in weights and value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }


def _observations(
    model: onnx.ModelProto, tensors: list[str], batches: Iterable[Images]
) -> Iterator[tuple[str, NDArray[Any]]]:
    """(tensor, values), tensor by tensor and run by run."""
    ort = require("onnxruntime", "onnx")
    source = model.graph.input[0].name
    computed = [name for name in tensors if name != source]
    session = _session(model, computed or [model.graph.output[0].name])
    size = images_at_a_time(model, tensors)
    for batch, start in ((one, start) for one in batches for start in range(0, len(one), size)):
        images = np.ascontiguousarray(batch[start : start + size])
        if source in tensors:
            yield source, images
        if not computed:
            continue
        with answering("the model"):
            values = session.run_with_ort_values(computed, {source: ort.OrtValue.ortvalue_from_numpy(images)})
        for name in computed:
            yield name, values.pop(0).numpy()


def _session(model: onnx.ModelProto, outputs: list[str]) -> Any:
    """A session on a copy with any batch size and `outputs`, which never stands in memory as a whole.

    It is written in pieces: messages of protocol buffers merge when their bytes are joined.
    """
    old = model.graph  # its inferred shapes, which are of one batch size, stay behind
    graph = onnx.GraphProto(name=old.name, node=old.node, input=old.input, output=old.output)
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    bare = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, graph=graph)
    with tempfile.TemporaryDirectory(prefix="edgeres-") as folder:
        path = Path(folder, "observed.onnx")
        with path.open("wb") as file:
            file.write(with_outputs(bare, outputs).SerializeToString())
            for tensor in old.initializer:
                file.write(onnx.ModelProto(graph=onnx.GraphProto(initializer=[tensor])).SerializeToString())
        return session_from(path, "the model to be observed", arena=False)
