"""INT8 of networks with channels out of proportion: the same function in float, 2 % of its channels 8 times as large.

    python tools/outlier_figures.py --data folder:cifar10-jpeg --work FOLDER --seed 0 ResNet-20=r20.onnx

Channels of the residual stream and inside modules are drawn by the seed, and what makes and reads them is rescaled.
Then edgeres as typed, TensorRT's entropy calibration (by edgeres, `--effort quick`) and ONNX Runtime's two calibrators
on the same images. Literal Q/DQ on val. Adds to tools/results/outliers.json, a row at a time.
"""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from calibration_worker import onnxruntime
from quantize_figures import Bench, bench_of, figures_of, parser_of

from edgeres.core.artifacts import OnnxModel
from edgeres.core.files import write_text
from edgeres.graph.blocks import fusions_in
from edgeres.graph.view import GraphView
from edgeres.quantize.channel_classes import FIXED, channel_classes, scaled
from edgeres.quantize.config import QuantizeConfig
from edgeres.quantize.stage import quantize

RESULTS = Path(__file__).parent / "results" / "outliers.json"
FACTOR, SHARE = 8.0, 0.02
OURS: dict[str, dict[str, Any]] = {
    "edgeres, as typed": {},
    "edgeres, mse alone": {"effort": "quick"},
    "TensorRT's entropy alone": {"effort": "quick", "method": "entropy"},
}
PEERS = {"ONNX Runtime, percentile": "percentile", "ONNX Runtime, entropy": "entropy"}


def main() -> None:
    """Measures the rows that are missing and writes each."""
    options = parser_of(__doc__, RESULTS).parse_args()
    for text in options.models:
        name, _, path = text.partition("=")
        work = options.work / f"{name}-{options.seed}"
        work.mkdir(parents=True, exist_ok=True)
        model = with_outliers(Path(path), work / "outliers.onnx", options.seed)
        bench = bench_of(model, options)
        for row in (*OURS, *PEERS):
            found = json.loads(options.results.read_text(encoding="utf-8")) if options.results.is_file() else {}
            cells = found.setdefault(name, {"images": options.images, "seeds": {}}) | {"n": len(bench.logits)}
            known = cells["seeds"].setdefault(str(options.seed), {})
            if row not in known:
                known[row] = figures_of(bench, int8_by(row, model, bench, work, options))
                print(name, row, known[row], flush=True)
                write_text(options.results, json.dumps(found | {name: cells}, indent=1) + "\n")


def with_outliers(path: Path, out: Path, seed: int) -> OnnxModel:
    """Written to `out`: what `path` computes, with outliers."""
    model = onnx.load(path)
    classes, draws = channel_classes(model), np.random.default_rng(seed)
    stream = {int(label) for block in fusions_in(GraphView(model)) for label in classes[block.skip]} - {FIXED}
    inner = {int(label) for one in classes.values() for label in one} - stream - {FIXED}
    divisors = np.ones(1 + max(*stream, *inner), np.float32)
    for labels in (sorted(stream), sorted(inner)):
        divisors[draws.choice(labels, math.ceil(SHARE * len(labels)), replace=False)] = 1 / FACTOR
    changed = scaled(model, classes, divisors)
    for tensor in model.graph.initializer:
        if tensor.name in changed:
            tensor.CopyFrom(onnx.numpy_helper.from_array(changed[tensor.name], tensor.name))
    for value in (*model.graph.input, *model.graph.output):  # ONNX Runtime's calibration feeds several images
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]
    onnx.save(model, out)
    return OnnxModel(out)


def int8_by(row: str, model: OnnxModel, bench: Bench, work: Path, options: Any) -> onnx.ModelProto:
    """The file that the tool of `row` makes."""
    folder = work / row.replace(" ", "-")
    if row in OURS:
        scales = options.work / f"{model.path.stem}-{options.seed}" / "scales.json"
        done = quantize(model, QuantizeConfig(scales=scales, data=options.data, **OURS[row]), folder)
        return onnx.load(done.output.path)
    folder.mkdir(exist_ok=True)
    onnxruntime(PEERS[row])(model.path, options.data, options.images, folder)
    return onnx.load(folder / "model.int8.onnx")


def render(content: dict[str, Any]) -> str:
    """Markdown: median and range over the draws."""
    lines = ["| | | points against float | same top-1 | logit SQNR |", "| --- " * 5 + "|"]
    for name, cells in content.items():
        runs = list(cells["seeds"].values())
        for index, row in enumerate(runs[0]):
            rows = [run[row] for run in runs if row in run]
            figures = (
                _spread([one["change_points"] for one in rows], "+.2f", ""),
                _spread([100 * one["agreement"] for one in rows], ".2f", " %"),
                _spread([one["sqnr_db"] for one in rows], ".1f", " dB"),
            )
            lines.append("| " + " | ".join((name if index == 0 else "", row, *figures)) + " |")
    one = next(iter(content.values()))
    about = (
        f"Draws of outliers and of {one['images']} calibration images: {len(one['seeds'])} (of several the median);"
        f" n = {one['n']:,} val."
    )
    return "\n".join([*lines, "", about]) + "\n"


def _spread(values: list[float], form: str, unit: str) -> str:
    middle, low, high = (
        f"{value:{form}}".replace("-", "−") for value in (statistics.median(values), min(values), max(values))
    )
    return f"{middle}{unit}" if len(values) == 1 else f"{middle}{unit} ({low} to {high})"


if __name__ == "__main__":
    main()
