"""The tensors that INT8 suits least, their values on the calibration images and where they are clipped."""

from __future__ import annotations

from typing import Any

from edgeres.core.stage import StageReport
from edgeres.report.folder import Figure, RunFolder, figure_from

_QUANTIZERS = {"quantize", "qat"}
_SCALING = {"channels", "equalize"}  # after which tensors hold other multiples than calibrated; once there was equalize


class TensorHistogram(Figure):
    """|x| of one tensor in equal bins from 0 to `top`; exact zeros are apart.

    `amax` and `sqnr_db` by calibrator: the clipping bound and the signal over the noise of rounding and clipping.
    `chosen` is the calibrator whose bound was taken, empty where that is not known.
    """

    tensor: str
    top: float
    counts: tuple[int, ...]
    zeros: int
    n: int
    amax: dict[str, float]
    sqnr_db: dict[str, float | None]
    chosen: str = ""


class HistogramFigure(Figure):
    """The worst tensors, the one with the least SQNR first."""

    stage: str
    images: int
    dataset: str
    tensors: int
    shown: tuple[TensorHistogram, ...]
    note: str = ""


def histograms_in(folder: RunFolder) -> tuple[HistogramFigure | None, tuple[str, ...]]:
    """Of the last calibration, with the bounds the last quantization took; and what could not be read."""
    stage = folder.newest("calibrate")
    if stage is None or "histograms" not in stage.report.results:
        return None, ()
    results = stage.report.results
    values = {
        **results,
        "stage": stage.name,
        "dataset": str(stage.report.config.get("data", "")),
        "shown": results["histograms"],
    }
    found = figure_from(HistogramFigure, values)
    if found is None or not all(_is_whole(one) for one in found.shown):
        return None, (f"{stage.name}: its histograms cannot be read; calibrate again: edgeres calibrate",)
    taken = next((one.report for one in reversed(folder.stages) if one.report.stage in _QUANTIZERS), None)
    note = _why_unknown(taken)
    shown = found.shown if note or not taken else tuple(_with_choice(one, taken) for one in found.shown)
    return found.model_copy(update={"shown": shown, "note": note}), ()


def _is_whole(one: TensorHistogram) -> bool:
    return one.top > 0 and bool(one.counts) and min(one.counts) >= 0 and sum(one.counts) > 0


def _why_unknown(taken: StageReport | None) -> str:
    """Why none of the calibrators' bounds is the one in the file, or empty."""
    if taken is None:
        return "Nothing was quantized with these bounds in this run."
    if taken.stage == "qat":
        return "The bounds were trained further, from those drawn here."
    improve = taken.config.get("improve")
    scaled = _SCALING.intersection(map(str, improve if isinstance(improve, list) else ()))
    if scaled:
        return (
            f"Channels were scaled ({', '.join(sorted(scaled))}): the file's bounds belong to other values than these."
        )
    if not str(taken.config.get("profile", "tensorrt")).startswith("tensorrt"):
        return "The file's ranges are not symmetric, so none of these bounds is its own."
    return ""


def _with_choice(one: TensorHistogram, taken: StageReport) -> TensorHistogram:
    by_tensor: Any = taken.results.get("method_of")
    method = by_tensor.get(one.tensor) if isinstance(by_tensor, dict) else None
    method = str(method or taken.config.get("method", ""))
    return one.model_copy(update={"chosen": method if method in one.amax else ""})
