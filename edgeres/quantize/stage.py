"""Float ONNX + scale table -> ONNX with Quantize/Dequantize pairs, ready for TensorRT."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import edgeres
from edgeres.core.artifacts import CARD_KEY, FLOAT_SKIPS_KEY, SCALED_KEY, OnnxModel
from edgeres.core.distances import kept_notes
from edgeres.core.errors import InputError, StageError, did_you_mean, few_of
from edgeres.core.files import write_bytes
from edgeres.core.lineage import advised
from edgeres.core.records.latency import latency_table_from
from edgeres.core.records.scales import ScaleTable, scale_table_from
from edgeres.core.spec import FROM_ONNX
from edgeres.core.stage import Recorder, StageResult
from edgeres.graph.blocks import fusions_in, nodes_named
from edgeres.graph.plain import PlainModel, plain, put_back
from edgeres.graph.view import GraphView
from edgeres.quantize.config import AUTO, FEWEST_IMAGES, QUICK, QuantizeConfig
from edgeres.quantize.decide import CalibrationImages, Chosen, bounds_by
from edgeres.quantize.decision import Decision, quantized_weight
from edgeres.quantize.lint import lint, problems
from edgeres.quantize.placement import Options, Placement, left_float_in, with_classifier_first
from edgeres.quantize.profiles import PROFILES, placement_for, quantized, set_metadata
from edgeres.quantize.repair.check import sqnr_db

FILE_NAME = "model.int8.onnx"
_CLASSIFIER_SHARE = 0.01  # of the multiplications that a classifier in front of the average may add
DEAD_AMAX = 1.0  # a tensor that was always zero; anything rare it may hold elsewhere is kept up to 1

_NOTHING_LEFT = "nothing is left to quantize, every layer stays float; allow more --max-loss or --keep fewer"
_LEAST_SHARE = 1e-4  # of the largest value: below it everything would be clipped
_BEYOND = 2.0  # a bound may be as far above the largest value seen as a wide bin, never more

log = logging.getLogger(__name__)


def quantize(source: OnnxModel, config: QuantizeConfig, out_dir: Path) -> StageResult[OnnxModel]:
    """Writes `out_dir`/model.int8.onnx.

    Raises InputError without a scale table, for one of another model or that lacks a tensor or the method, for a model
    that is quantized already, and if the calibration images are needed again and are not there.
    """
    recorder = Recorder("quantize", config, source)
    config.check()
    options = Options(**config.model_dump(include={"stem", "head", "keep", "reduce_range"}))
    source, table = begun(source, config.scales, config.method, options if PROFILES[config.profile].literal else None)
    if config.max_loss is not None:
        source.spec.check_classes("--max-loss")
    _check_left(placement_for(source.proto, config.profile, options))
    chosen = _chosen(source, table, config, options, recorder)
    options = replace(options, keep=(*options.keep, *chosen.keep))
    extremes = {name: (one.minimum, one.maximum) for name, one in table.tensors.items()}
    placement = placement_for(source.proto, config.profile, options)
    _check_left(placement)
    model = quantized(source.proto, config.profile, replace(chosen.decision, extremes=extremes), options)
    if chosen.is_scaled:
        set_metadata(model, SCALED_KEY, "1")
    view, kinds = GraphView(source.proto), dict[str, list[str]]()
    kept = nodes_named(view, options.keep)
    if names := [block.addition.name for block in fusions_in(view) if block.addition.name in kept]:
        set_metadata(model, FLOAT_SKIPS_KEY, ",".join(names))  # lint knows by it that they are meant
    if PROFILES[config.profile].literal and (found := problems(lint(model))):
        raise StageError(f"quantize: {source.path} cannot be quantized for TensorRT: {found[0]}")
    onnx.checker.check_model(model, full_check=True)
    path = out_dir / FILE_NAME
    write_quantized(model, source, path)
    recorder.results |= {
        "profile": config.profile,
        "method": config.method,
        "calibration_images": table.n,
        "quantized_layers": len(placement.layers),
        "quantized_skips": len(placement.additions),
        "pairs": len(placement.points),
        **_weight_noise(source.proto, placement.layers, chosen.decision),
        **chosen.results,
    }
    for name, kind in left_float_in(view).items():  # whatever is asked for
        kinds.setdefault(kind, []).append(name)
    recorder.notes += [f"stay float: {len(names)} of {kind} ({few_of(names)})" for kind, names in kinds.items()]
    recorder.notes += moved_notes(source)
    recorder.notes += [f"scales: {config.method} on {table.n} images of {table.dataset} {table.split}", *chosen.notes]
    output = OnnxModel(path)
    log.info("%d layers and %d skips quantized", len(placement.layers), len(placement.additions))
    return StageResult(output, recorder.finish(output))


def _check_left(placement: Placement) -> None:
    if not placement.layers:
        raise InputError(_NOTHING_LEFT)


def _chosen(
    source: OnnxModel, table: ScaleTable, config: QuantizeConfig, options: Options, recorder: Recorder
) -> Chosen:
    """Bounds, improved weights and biases, and what stays float."""
    placement = placement_for(source.proto, config.profile, options)
    images = CalibrationImages(source, table, config.data)
    _check_bounds(table, placement.observed, config, recorder)
    recorder.warnings += _far_out(source.proto, placement.observed, config)
    if config.method == AUTO:
        from edgeres.quantize.auto import auto

        bounds = {method: bounds_by(table, method, tuple(table.tensors)) for method in table.methods}
        chosen = auto(source.proto, placement, bounds, images=images.same)
    else:
        chosen = Chosen(Decision(bounds_by(table, config.method, tuple(table.tensors))))
    amax = {name: value or DEAD_AMAX for name, value in chosen.decision.amax.items()}
    chosen.decision = replace(chosen.decision, amax=amax)
    chosen.results["effort"] = config.spent
    if config.spent != QUICK:
        from edgeres.quantize.improving import improved

        chosen = improved(source, placement, chosen, images, effort=config.spent)
        chosen.notes += kept_notes(source.spec)
    if config.kept_sqnr is not None or config.max_loss is not None:
        _leave_float(source, chosen, config, options, images)
    return chosen


def _leave_float(
    source: OnnxModel, chosen: Chosen, config: QuantizeConfig, options: Options, images: CalibrationImages
) -> None:
    from edgeres.quantize.kept_float import skips_left_float, units_left_float

    pixels = images.others
    if config.kept_sqnr is not None:
        found = skips_left_float(
            source.proto,
            chosen.decision,
            options,
            images=pixels,
            min_sqnr=config.kept_sqnr,
            or_near=config.min_sqnr is None,
        )
        chosen.leave(found, "float_skips", "skips")
    if config.max_loss is not None:
        latency = _prices(config.latency, source) if config.latency else None
        kept = replace(options, keep=(*options.keep, *chosen.keep))
        found = units_left_float(
            source.proto, chosen.decision, kept, images=pixels, max_loss=config.max_loss, latency=latency
        )
        chosen.leave(found, "left_float", "units")


def _prices(path: Path, source: OnnxModel) -> Mapping[str, float]:
    """Module -> ms by the table in `path`; raises InputError if it is of another network than our file."""
    table = latency_table_from(path)
    if source.spec.family != FROM_ONNX and (other := table.other_than(source.spec)):
        raise InputError(f"{path} is of another network than {source.path}: {other}")
    return table.saved_ms


def begun(source: OnnxModel, path: Path | None, method: str, options: Options | None) -> tuple[OnnxModel, ScaleTable]:
    """`source` as calibrate saw it, in its plain form and fed as the table says if edgeres did not write it; the table.

    By the `options` of a graph for TensorRT the classifier that is to be INT8 stands in front of the last average.

    Raises InputError if `source` is no float file, or the table in `path` does not fit it or lacks `method`.
    """
    source.check_float()
    calibrating = advised("edgeres calibrate", source.path)
    if path is None:
        raise InputError(f"no scale table; make one first: {calibrating}")
    table = scale_table_from(path)
    if table.model_sha256 != source.sha256:
        raise InputError(f"{path} was made for another model than {source.path}; make one for it: {calibrating}")
    if table.n < FEWEST_IMAGES:
        raise InputError(f"{path} comes from {table.n} images; use {FEWEST_IMAGES} or more")
    if method not in (*table.methods, AUTO):
        guess = did_you_mean(method, table.methods)
        raise InputError(f"{path} has no method {method!r}{guess} (it has: {', '.join(table.methods)})")
    fed = source if table.spec is None or source.has_card else replace(source, stated=table.spec)
    if options is None or not options.head:
        return plain(fed), table
    kept = nodes_named(GraphView(plain(fed).proto), options.keep)
    most = _CLASSIFIER_SHARE * fed.card.cost.macs
    return plain(fed, rewrite=lambda model: with_classifier_first(model, most, kept)), table


def moved_notes(source: OnnxModel) -> list[str]:
    """That the graph begun with has its classifier elsewhere than the file."""
    moved = source.rewritten if isinstance(source, PlainModel) else []
    return [
        f"{name} stands in front of the last average, as a 1x1 convolution: the average is not rounded"
        for name in moved
    ]


def _check_bounds(table: ScaleTable, tensors: tuple[str, ...], config: QuantizeConfig, recorder: Recorder) -> None:
    """Every tensor has a bound by every method that is used; raises InputError otherwise."""
    methods = table.methods if config.method == AUTO else (config.method,)
    for name, method in ((name, method) for name in tensors for method in methods):
        scale = table.tensors.get(name)
        value = scale.amax.get(method, math.nan) if scale else math.nan
        largest = max(abs(scale.minimum), abs(scale.maximum)) if scale else 0.0
        if not (math.isfinite(value) and largest * _LEAST_SHARE <= value <= largest * _BEYOND):
            seen = "no bound" if math.isnan(value) else f"the bound {value:g} (largest value {largest:g})"
            raise InputError(f"{config.scales} has {seen} for tensor {name!r}; calibrate again")
        if value == 0 and method == methods[0]:
            recorder.warnings.append(f"tensor {name} was zero on every calibration image; its bound is {DEAD_AMAX:g}")


def _far_out(model: Any, tensors: tuple[str, ...], config: QuantizeConfig) -> list[str]:
    """A warning about channels that one scale per tensor will not hold, unless they are taken back."""
    from edgeres.quantize.channel_classes import far_out

    found = far_out(model, tensors) if config.spent == QUICK else []
    if not found:
        return []
    (tensor, channel, factor), *more = found
    advice = "--keep its layers" if config.profile == "ort-cpu" else "--effort default takes it back"
    others = f", and {len(more)} more are out" if more else ""
    where = f"channel {channel} of {tensor} is {factor:.0f} times out of proportion to the others{others}"
    return [f"{where}: one INT8 scale cannot hold them all; {advice}"]


def _weight_noise(model: Any, layers: tuple[str, ...], decision: Decision) -> dict[str, Any]:
    """Signal to quantization noise of the weights of the worst layer, in dB, as `decision` has them."""
    view, sqnr = GraphView(model), {}
    for node in view.layers:
        if node.name in layers:
            weight = decision.tensors.get(node.input[1], view.value(node.input[1]))
            weight = np.asarray(weight, np.float64)
            sqnr[node.name] = sqnr_db(weight, quantized_weight(weight).as_float)
    worst = min(sqnr, key=lambda name: sqnr[name])
    return {"worst_weight_sqnr_db": round(sqnr[worst], 2), "worst_weight_layer": worst}


def write_quantized(model: Any, source: OnnxModel, path: Path) -> None:
    """Writes `model` made from `source`, with its card."""
    update = {"spec": source.spec, "stage": "quantize", "parent": source.sha256, "edgeres": edgeres.__version__}
    set_metadata(model, CARD_KEY, source.card.model_copy(update=update).model_dump_json())
    if isinstance(source, PlainModel) and source.softmax is not None:
        put_back(model, source.softmax)
    write_bytes(path, model.SerializeToString(deterministic=True))
