"""Calibration: training images through the float graph, one clipping bound per tensor and method.

scales.json names the model, the data set and the very images (a hash of their ids) its numbers come from.
Only the train split is read (val only to see that it shares no image): the split that is reported must not choose
anything.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from edgeres.core.artifacts import OnnxModel, ScaleTableFile
from edgeres.core.errors import InputError
from edgeres.core.files import write_text
from edgeres.core.progress import track
from edgeres.core.records.scales import ScaleTable, TensorScale
from edgeres.core.stage import Recorder, StageResult, timed
from edgeres.core.stated import with_input
from edgeres.data import Dataset, Split, dataset_for
from edgeres.data.split import shared_images
from edgeres.graph.plain import plain
from edgeres.quantize.calibrators import amax_from, hardest
from edgeres.quantize.config import FEWEST_IMAGES, CalibrateConfig
from edgeres.quantize.observe import Statistics, shapes_of, statistics_of
from edgeres.quantize.placement import observed_of
from edgeres.quantize.trt_cache import trt_cache_from

FILE_NAME = "scales.json"
CACHE_NAME = f"{FILE_NAME}.cache"
_USUAL_IMAGES = 500  # TensorRT's documentation asks for about as many
_TOLERATED_SHARE = 0.01  # of calibration images that are in val too: public data sets hold a few doubles
_NAMES_SHOWN = 8
_BATCH = 32  # images decoded at a time; how many are run at a time is a matter of memory (observe.py)

log = logging.getLogger(__name__)


def calibrate(source: OnnxModel, config: CalibrateConfig, out_dir: Path) -> StageResult[ScaleTableFile]:
    """Writes `out_dir`/scales.json, and scales.json.cache beside it if `config.trt_cache` is given.

    Raises InputError if the model is quantized already, a method is unknown, there are too few training images or they
    are val's too, or a tensor has NaN or infinite values or always the same one.
    """
    recorder = Recorder("calibrate", config, source)
    config.check()
    source.check_float()
    source = plain(with_input(source, config))
    tensors = observed_of(source.proto) if config.trt_cache is None else tuple(shapes_of(source.proto))
    dataset = dataset_for(source.spec, config.data, download=config.download)
    split = _chosen(dataset, config, recorder)
    with timed(recorder.results, "statistics_s"):
        steps = -(-len(split) // _BATCH)
        batches = track(split.streamed(source.spec, _BATCH), "calibrate", steps)
        statistics = statistics_of(source.proto, tensors, (images for images, _ in batches))
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
        dataset=dataset.name,
        split=split.name,
        n=len(split),
        seed=config.seed,
        ids_sha256=split.ids_sha256,
        methods=config.methods,
        tensors=scales,
        spec=source.stated,
    )
    return _written(table, recorder, config, out_dir)


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
        found = f"{len(shared)} of {len(split)} calibration images are in {dataset.val.name} too (first: {shared[0]})"
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
