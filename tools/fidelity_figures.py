"""How close the best INT8 file comes to float over several calibration sets, and which rounding keeps it from closer.

    python tools/fidelity_figures.py --data folder:cifar10-jpeg --work FOLDER --seed 0 ResNet-56=r56.onnx

steps      mse, then `channels`, `rounding` and `bias` one after the other; after those either first and last layer left
           float, or the cheapest skips that keep 33 dB on the other train images
limits     of the file after `bias`, some pairs taken out: what is left says what the others cost

A seed draws the calibration images. Each step is judged on val and, for choosing, on train images that nothing was
calibrated on. Literal Q/DQ. Adds to tools/results/fidelity.json, to a row at a time where some are known.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from quantize_figures import Bench, bench_of, figures_of, literal_logits, parser_of, sqnr_db

from edgeres.core.artifacts import OnnxModel
from edgeres.core.errors import StageError
from edgeres.core.files import write_text
from edgeres.quantize.bias import bias_corrected
from edgeres.quantize.decision import Decision
from edgeres.quantize.insert import with_pairs
from edgeres.quantize.kept_float import skips_left_float
from edgeres.quantize.placement import placement_of
from edgeres.quantize.profiles import Options
from edgeres.quantize.rounding import rounded
from edgeres.quantize.scaling import channels_scaled
from edgeres.quantize.simulate import QuantizedNetwork

RESULTS = Path(__file__).parent / "results" / "fidelity.json"
START = "mse"
FLOAT_ENDS = "+ first and last layer float"
MIN_SQNR = 33.0
FLOAT_SKIPS = f"+ skips float for {MIN_SQNR:g} dB"
_CHOOSING = 1000  # of the other train images


def main() -> None:
    """Measures the models that have no row of this seed and writes."""
    options = parser_of(__doc__, RESULTS).parse_args()
    for text in options.models:
        name, _, path = text.partition("=")
        found = json.loads(options.results.read_text(encoding="utf-8")) if options.results.is_file() else {}
        cells = found.setdefault(name, {"images": options.images, "seeds": {}})
        known = cells["seeds"].setdefault(str(options.seed), {"steps": {}})
        if FLOAT_SKIPS not in known["steps"]:
            bench = bench_of(OnnxModel(Path(path)), options)
            cells |= {"n": len(bench.logits), "held_out": len(bench.others)}
            measure(bench, name, known)
            write_text(options.results, json.dumps(found, indent=1) + "\n")


def measure(bench: Bench, name: str, known: dict[str, Any]) -> None:
    """Adds to `known` the figures of every step that it lacks, and what limits the last but two."""
    rows, decision, begun_s = known["steps"], Decision(bench.bounds[START]), time.perf_counter()
    for row, step in steps_of(bench).items():
        decision = step(decision)
        seconds = round(time.perf_counter() - begun_s, 1)
        if row not in rows:
            rows[row] = figures_of(bench, with_pairs(bench.model, bench.placement, decision)) | {"seconds": seconds}
            print(name, row, rows[row], flush=True)
    if FLOAT_ENDS not in rows:
        inner = placement_of(bench.model, stem=False, head=False)
        rows[FLOAT_ENDS] = figures_of(bench, with_pairs(bench.model, inner, within(decision, inner, bench.model)))
        print(name, FLOAT_ENDS, rows[FLOAT_ENDS], flush=True)
    rows[FLOAT_SKIPS] = with_float_skips(bench, decision)
    print(name, FLOAT_SKIPS, rows[FLOAT_SKIPS], flush=True)
    if "limits" not in known:
        known["limits"] = limits_of(bench, decision)


def with_float_skips(bench: Bench, decision: Decision) -> dict[str, Any]:
    """Figures with the cheapest skips float that keep MIN_SQNR, all where that is not enough.

    They are chosen on as many images as edgeres quantize takes.
    """
    skips, begun_s = QuantizedNetwork(bench.model, Options(), decision).skips, time.perf_counter()
    images = bench.others[:_CHOOSING]
    try:
        keep = skips_left_float(bench.model, decision, Options(), images=images, min_sqnr=MIN_SQNR).keep
    except StageError as err:
        print(err, flush=True)
        keep = skips
    counts = {
        "float_skips": len(keep),
        "skips": len(skips),
        "chosen_s": round(time.perf_counter() - begun_s, 1),
    }
    kept = placement_of(bench.model, keep=keep)
    return figures_of(bench, with_pairs(bench.model, kept, decision)) | counts


def steps_of(bench: Bench) -> dict[str, Callable[[Decision], Decision]]:
    """Row -> what it does to the decision before it."""
    model, placement, images = bench.model, bench.placement, bench.images
    return {
        START: lambda before: before,
        "+ channels": lambda before: channels_scaled(model, placement, before, images=images),
        "+ rounding": lambda before: rounded(model, placement, before, images=images),
        "+ bias": lambda before: bias_corrected(model, placement, before, images=images),
    }


def within(decision: Decision, placement: Any, model: onnx.ModelProto) -> Decision:
    """`decision` without the integers of layers that stay float."""
    weights = {node.input[1] for node in model.graph.node if node.name in placement.layers}
    kept = {name: value for name, value in decision.weights.items() if name in weights}
    return Decision(decision.amax, kept, decision.tensors)


def limits_of(bench: Bench, decision: Decision) -> dict[str, float]:
    """SQNR in dB on val when only these are quantized (the weights always are)."""
    model = with_pairs(bench.model, bench.placement, decision)
    skips = {
        name for node in bench.model.graph.node if node.name in bench.placement.additions for name in node.input
    } & set(bench.placement.observed)
    carried = skips | {point.tensor for point in bench.placement.points if point.scale_of in skips}
    chosen: dict[str, Callable[[str], bool]] = {
        "weights": lambda _: False,
        "weights, and activations inside modules": lambda name: name not in carried,
        "weights, and what skips carry": lambda name: name in carried,
    }
    return {
        row: round(sqnr_db(bench.logits, literal_logits(only(model, keep), bench.val[0])), 2)
        for row, keep in chosen.items()
    }


def only(model: onnx.ModelProto, keep: Callable[[str], bool]) -> onnx.ModelProto:
    """A copy in which pairs of activations that `keep` does not want are passed by."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    passed = {}
    for node in copy.graph.node:
        if node.op_type == "QuantizeLinear" and not keep(node.input[0]):
            passed[f"{node.input[0]}.dequantized"] = node.input[0]
    for node in copy.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = passed.get(name, name)
    return copy


def render(content: dict[str, Any]) -> str:
    """Markdown: the median seed of each step with the range of all, then what limits."""
    titles = "| | | points against float | same top-1 | logit SQNR | on other train images | seconds |"
    lines = [titles, "| --- " * 7 + "|"]
    for name, cells in content.items():
        runs = [run["steps"] for run in cells["seeds"].values()]
        for index, row in enumerate(runs[0]):
            cellsof = [run[row] for run in runs]
            lines.append(f"| {name if index == 0 else ''} | {row}{_counts(cellsof)} | {_step(cellsof)} |")
    lines += [
        "",
        "| SQNR with only these in INT8 | weights | + activations inside modules | + what skips carry | all |",
    ]
    lines.append("| --- " * 5 + "|")
    for name, cells in content.items():
        runs = list(cells["seeds"].values())
        limits = [_spread([run["limits"][row] for run in runs], " dB", 1) for row in runs[0]["limits"]]
        limits.append(_spread([run["steps"]["+ bias"]["sqnr_db"] for run in runs], " dB", 1))
        lines.append("| " + " | ".join([name, *limits]) + " |")
    one = next(iter(content.values()))
    lines.append("")
    lines.append(
        f"Median and range over {len(one['seeds'])} calibration sets of {one['images']} train images; n = {one['n']:,}"
        f" val, {one['held_out']:,} other train images, by the first {_CHOOSING:,} of which the float skips were"
        f" chosen. Where {MIN_SQNR:g} dB are not reached every skip is float. Each pair of activations is added to the"
        " weights alone."
    )
    return "\n".join(lines)


def _counts(rows: list[dict[str, Any]]) -> str:
    if "float_skips" not in rows[0]:
        return ""
    return f": {_spread([row['float_skips'] for row in rows], '', 0)} of {rows[0]['skips']}"


def _step(rows: list[dict[str, Any]]) -> str:
    return " | ".join(
        (
            _spread([row["change_points"] for row in rows], "", 2, "+"),
            _spread([100 * row["agreement"] for row in rows], " %", 2),
            _spread([row["sqnr_db"] for row in rows], " dB", 1),
            _spread([row["held_out_db"] for row in rows], " dB", 1),
            f"{statistics.median(row['seconds'] for row in rows):.0f}" if "seconds" in rows[0] else "",
        )
    )


def _spread(values: list[float], unit: str, digits: int, sign: str = "") -> str:
    middle, low, high = (f"{value:{sign}.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{middle}{unit} ({low} to {high})".replace("-", "−")


if __name__ == "__main__":
    main()
