"""Float ONNX + scale table -> ONNX with Quantize/Dequantize pairs, ready for TensorRT."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

import edgeres
from edgeres.core.artifacts import CARD_KEY, OnnxModel
from edgeres.core.config import Config, record_from_json
from edgeres.core.errors import InputError, StageError, did_you_mean, require
from edgeres.core.files import written
from edgeres.core.names import lookup
from edgeres.core.stage import Recorder, StageResult
from edgeres.quantize.calibrators import CALIBRATORS
from edgeres.quantize.decision import Decision
from edgeres.quantize.scales import FEWEST_IMAGES, ScaleTable, check_float

FILE_NAME = "model.int8.onnx"
_DEAD_AMAX = 1.0  # a tensor that was always zero; anything rare it may hold elsewhere is kept up to 1

log = logging.getLogger(__name__)


class QuantizeConfig(Config):
    """Which clipping bounds are used, and where nothing is quantized."""

    scales: Path | None = Field(None, description="scale table of this model, made by edgeres calibrate")
    method: str = Field("mse", description="calibrator to use: mse, entropy, percentile, minmax")
    stem: bool = Field(True, description="quantize the first layer")
    head: bool = Field(True, description="quantize the last layer")

    def check(self) -> None:
        """The method exists."""
        lookup(CALIBRATORS, self.method, "calibrator")


def quantize(source: OnnxModel, config: QuantizeConfig, out_dir: Path) -> StageResult[OnnxModel]:
    """Writes `out_dir`/model.int8.onnx.

    Raises:
        InputError: no scale table, one of another model, or one that lacks a tensor or the method; a model
        that
            is quantized already.
    """
    from edgeres.quantize.insert import with_pairs
    from edgeres.quantize.lint import lint
    from edgeres.quantize.placement import placement_of

    recorder = Recorder("quantize", config, source)
    check_float(source)
    table = _table_for(source, config)
    placement = placement_of(source.proto, stem=config.stem, head=config.head)
    amax = _amax(table, placement.observed, config, recorder)
    model = with_pairs(source.proto, placement, Decision(amax))
    if problems := lint(model):
        raise StageError(f"quantize: {source.path} cannot be quantized for TensorRT: {problems[0]}")
    _check(model)
    path = out_dir / FILE_NAME
    _write(model, source, path)
    recorder.results |= {
        "method": config.method,
        "calibration_images": table.n,
        "quantized_layers": len(placement.layers),
        "quantized_skips": len(placement.additions),
        "pairs": len(placement.points),
        **_weight_noise(source.proto, placement.layers),
    }
    recorder.notes.append(f"scales: {config.method} on {table.n} images of {table.dataset} {table.split}")
    output = OnnxModel(path)
    log.info("%d layers and %d skips quantized", len(placement.layers), len(placement.additions))
    return StageResult(output, recorder.finish(output))


def scale_table_from(path: Path) -> ScaleTable:
    """The table in scales.json; raises InputError if it is damaged or something else."""
    return record_from_json(ScaleTable, path)


def _table_for(source: OnnxModel, config: QuantizeConfig) -> ScaleTable:
    if config.scales is None:
        raise InputError(f"no scale table; make one first: edgeres calibrate {source.path}")
    table = scale_table_from(config.scales)
    if table.model_sha256 != source.sha256:
        raise InputError(
            f"{config.scales} was made for another model than {source.path}; make one for it: edgeres"
            f" calibrate {source.path}"
        )
    if table.n < FEWEST_IMAGES:
        raise InputError(f"{config.scales} comes from {table.n} images; use {FEWEST_IMAGES} or more")
    if config.method not in table.methods:
        guess = did_you_mean(config.method, table.methods)
        raise InputError(f"{config.scales} has no method {config.method!r}{guess} (it has: {', '.join(table.methods)})")
    return table


def _amax(table: ScaleTable, tensors: tuple[str, ...], config: QuantizeConfig, recorder: Recorder) -> dict[str, float]:
    """Clipping bound of every tensor, checked."""
    amax: dict[str, float] = {}
    for name in tensors:
        scale = table.tensors.get(name)
        value = scale.amax.get(config.method, math.nan) if scale else math.nan
        if not (math.isfinite(value) and value >= 0):
            seen = "no bound" if math.isnan(value) else f"the bound {value}"
            raise InputError(f"{config.scales} has {seen} for tensor {name!r}; calibrate again")
        if value == 0:
            recorder.warnings.append(f"tensor {name} was zero on every calibration image; its bound is {_DEAD_AMAX}")
        amax[name] = value or _DEAD_AMAX
    return amax


def _weight_noise(model: Any, layers: tuple[str, ...]) -> dict[str, Any]:
    """Signal to quantization noise of the worst layer's weights, in dB."""
    from edgeres.quantize.graph import GraphView
    from edgeres.quantize.insert import quantized_weight

    numpy_helper = require("onnx", "onnx").numpy_helper
    view, sqnr = GraphView(model), {}
    for node in view.layers:
        if node.name in layers:
            weight = numpy_helper.to_array(view.initializers[node.input[1]]).astype(np.float64)
            sqnr[node.name] = sqnr_db(weight, weight - quantized_weight(weight).as_float)
    worst = min(sqnr, key=lambda name: sqnr[name])
    return {"worst_weight_sqnr_db": round(sqnr[worst], 2), "worst_weight_layer": worst}


def sqnr_db(signal: np.ndarray[Any, Any], noise: np.ndarray[Any, Any]) -> float:
    """10 log10 of the power of `signal` over that of `noise`; infinite without noise."""
    power = float(np.square(noise, dtype=np.float64).sum())
    return 10 * math.log10(float(np.square(signal, dtype=np.float64).sum()) / power) if power else math.inf


def _check(model: Any) -> None:
    require("onnx", "onnx").checker.check_model(model, full_check=True)


def _write(model: Any, source: OnnxModel, path: Path) -> None:
    update = {"stage": "quantize", "parent": source.sha256, "edgeres": edgeres.__version__}
    card = source.card.model_copy(update=update).model_dump_json()
    for entry in model.metadata_props:
        if entry.key == CARD_KEY:
            entry.value = card
    with written(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
